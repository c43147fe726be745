//! A client that keeps to no rule: HTTP/2 streams and whatever bytes on them.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::Request;
use portolan_proto::envoy::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use portolan_proto::envoy::rpc::Status as RpcStatus;
use portolan_xds::resource::ResourceType;
use prost::Message;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::server::PATIENCE;

pub(crate) const SOTW: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
pub(crate) const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// A connection.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Bytes>,
    address: SocketAddr,
    /// Reads and writes, until told to stop.
    driver: JoinHandle<()>,
    freeze: Option<oneshot::Sender<()>>,
}

/// A stream on it.
pub(crate) struct Stream {
    pub(crate) requests: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    responses: Option<RecvStream>,
    read: BytesMut,
}

impl Connection {
    /// Reads as others do.
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let tcp = TcpStream::connect(address).await.expect("let in");
        Self::over(tcp, address, 1 << 20).await
    }

    /// Lets the server write more than the system takes, so that not reading stops it in TCP.
    pub(crate) async fn open_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("settable");
        let tcp = socket.connect(address).await.expect("let in");
        Self::over(tcp, address, (1 << 31) - 1).await
    }

    async fn over(tcp: TcpStream, address: SocketAddr, window: u32) -> Self {
        tcp.set_nodelay(true).expect("settable");
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window);
        let (sender, mut connection) = builder.handshake(tcp).await.expect("HTTP/2");
        let (freeze, frozen) = oneshot::channel::<()>();
        let driver = tokio::spawn(async move {
            tokio::select! {
                _ended = &mut connection => {}
                Ok(()) = frozen => std::future::pending().await,
            }
        });
        Self { sender, address, driver, freeze: Some(freeze) }
    }

    /// Reads and writes no more, and keeps the socket open.
    pub(crate) fn freeze(&mut self) {
        let freeze = self.freeze.take().expect("once");
        freeze.send(()).expect("it runs");
    }

    /// Opens a stream. Where the server lets no more be open, what is sent on it waits.
    pub(crate) async fn stream(&mut self, path: &str) -> Result<Stream, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let (response, requests) = sender.send_request(request, false)?;
        Ok(Stream { requests, response: Some(response), responses: None, read: BytesMut::new() })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Stream {
    /// Sends a message as gRPC frames it; an error when the server has ended the stream.
    pub(crate) async fn send(&mut self, message: &[u8]) -> Result<(), h2::Error> {
        let bytes = framed(message);
        self.send_bytes(bytes).await
    }

    /// Sends bytes, as the server takes them.
    pub(crate) async fn send_bytes(&mut self, mut bytes: Bytes) -> Result<(), h2::Error> {
        while !bytes.is_empty() {
            self.requests.reserve_capacity(bytes.len());
            let granting = std::future::poll_fn(|cx| self.requests.poll_capacity(cx));
            let granted = within(granting).await;
            let Some(granted) = granted else { return Err(h2::Reason::CANCEL.into()) };
            let piece = bytes.split_to(granted?.min(bytes.len()));
            self.requests.send_data(piece, false)?;
        }
        Ok(())
    }

    /// The next message; `Err` with the gRPC code at the end, 2 (`UNKNOWN`) where there is none.
    pub(crate) async fn next(&mut self) -> Result<Bytes, i32> {
        let unknown = |error: h2::Error| {
            println!("{error}");
            2
        };
        if let Some(response) = self.response.take() {
            let response = within(response).await.map_err(unknown)?;
            if let Some(code) = code(response.headers()) {
                return Err(code);
            }
            self.responses = Some(response.into_body());
        }
        let responses = self.responses.as_mut().ok_or(2)?;
        loop {
            if let Some(head) = self.read.get(1..5) {
                let length = u32::from_be_bytes(head.try_into().expect("four octets"));
                let length = usize::try_from(length).expect("fits");
                if self.read.len() >= 5 + length {
                    return Ok(self.read.split_to(5 + length).freeze().slice(5..));
                }
            }
            match within(responses.data()).await {
                Some(data) => {
                    let data = data.map_err(unknown)?;
                    self.read.extend_from_slice(&data);
                    responses.flow_control().release_capacity(data.len()).map_err(unknown)?;
                }
                None => {
                    let trailers = within(responses.trailers()).await.map_err(unknown)?;
                    return Err(trailers.as_ref().and_then(code).unwrap_or(2));
                }
            }
        }
    }

    /// Waits for the answer without reading any of it.
    pub(crate) async fn answered(&mut self) {
        let response = self.response.take().expect("waited for once");
        let response = within(response).await.expect("an answer");
        assert_eq!(code(response.headers()), None);
        self.responses = Some(response.into_body());
    }

    /// The gRPC code it ends with; messages before are passed over.
    pub(crate) async fn ends(&mut self) -> i32 {
        loop {
            if let Err(code) = self.next().await {
                return code;
            }
        }
    }

    pub(crate) async fn next_sotw(&mut self) -> DiscoveryResponse {
        let message = self.next().await.expect("a response");
        DiscoveryResponse::decode(message).expect("a response")
    }

    pub(crate) async fn next_delta(&mut self) -> DeltaDiscoveryResponse {
        let message = self.next().await.expect("a response");
        DeltaDiscoveryResponse::decode(message).expect("a response")
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.expect("in time")
}

fn code(headers: &http::HeaderMap) -> Option<i32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Five octets and the message.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("small"));
    bytes.put_slice(message);
    bytes.freeze()
}

/// A first request of a type, or an answer that takes what was sent.
pub(crate) fn sotw(kind: ResourceType, names: &[&str], nonce: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        response_nonce: nonce.to_owned(),
        ..DiscoveryRequest::default()
    }
}

/// The same of the incremental variant.
pub(crate) fn delta(kind: ResourceType, names: &[&str], nonce: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind.type_url().to_owned(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        response_nonce: nonce.to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

/// Why a response is refused.
pub(crate) fn refusal(words: &str) -> Option<RpcStatus> {
    Some(RpcStatus { code: 3, message: words.to_owned(), ..RpcStatus::default() })
}

/// A moment in which others run.
pub(crate) async fn moment() {
    tokio::time::sleep(Duration::from_millis(2)).await;
}
