//! A client of the discovery service, as small as can be: HTTP/2, messages, both variants.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::Request;
use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use prost::Message;
use tokio::net::TcpStream;

const ADS: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/";
/// What a client lets the server send before it has read it; Envoy's is larger, gRPC's smaller.
const WINDOW: u32 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    Sotw,
    Delta,
}

/// What a client reads of a response of either variant.
pub(crate) struct Read {
    pub(crate) type_url: String,
    pub(crate) version: String,
    pub(crate) nonce: String,
    pub(crate) resources: usize,
}

/// What a request is.
#[derive(Clone, Copy)]
enum Asking<'a> {
    /// The first of a stream: it says what software the client is.
    First(&'a str),
    /// Another subscription.
    More,
    /// The answer to a response.
    Taken(&'a Read),
}

/// An open stream.
pub(crate) struct Stream {
    variant: Variant,
    requests: SendStream<Bytes>,
    responses: RecvStream,
    read: BytesMut,
    /// Keeps the connection open.
    _sender: SendRequest<Bytes>,
}

impl Variant {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "sotw" => Some(Self::Sotw),
            "delta" => Some(Self::Delta),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sotw => "sotw",
            Self::Delta => "delta",
        }
    }

    fn read(self, message: &[u8]) -> Read {
        match self {
            Self::Sotw => {
                let it = DiscoveryResponse::decode(message).expect("a response");
                let (version, resources) = (it.version_info, it.resources.len());
                Read { type_url: it.type_url, version, nonce: it.nonce, resources }
            }
            Self::Delta => {
                let it = DeltaDiscoveryResponse::decode(message).expect("a response");
                let (version, resources) = (String::new(), it.resources.len());
                Read { type_url: it.type_url, version, nonce: it.nonce, resources }
            }
        }
    }

    /// A request: all names in state of the world, `new` of them in delta.
    fn request(self, asking: Asking<'_>, url: &str, names: &[String], new: bool) -> Vec<u8> {
        let (mut node, mut version, mut nonce) = (None, String::new(), String::new());
        match asking {
            Asking::First(agent) => {
                let user_agent_name = agent.to_owned();
                node = Some(Node { id: "bench".to_owned(), user_agent_name, ..Node::default() });
            }
            Asking::More => {}
            Asking::Taken(read) => {
                (version, nonce) = (read.version.clone(), read.nonce.clone());
            }
        }
        match self {
            Self::Sotw => DiscoveryRequest {
                node,
                version_info: version,
                response_nonce: nonce,
                type_url: url.to_owned(),
                resource_names: names.to_vec(),
                ..DiscoveryRequest::default()
            }
            .encode_to_vec(),
            Self::Delta => DeltaDiscoveryRequest {
                node,
                response_nonce: nonce,
                type_url: url.to_owned(),
                resource_names_subscribe: if new { names.to_vec() } else { Vec::new() },
                ..DeltaDiscoveryRequest::default()
            }
            .encode_to_vec(),
        }
    }
}

impl Stream {
    /// Connects, opens a stream and asks a first time, as a client of this software. The server
    /// answers the call at once.
    pub(crate) async fn open(
        address: SocketAddr,
        variant: Variant,
        agent: &str,
        url: &str,
        names: &[String],
    ) -> Self {
        let tcp = TcpStream::connect(address).await.expect("accepted");
        tcp.set_nodelay(true).expect("settable");
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
        let (sender, connection) = builder.handshake(tcp).await.expect("HTTP/2");
        tokio::spawn(async move {
            // Ends with the bench.
            let _ended = connection.await;
        });
        let mut sender = sender.ready().await.expect("an open connection");
        let method = match variant {
            Variant::Sotw => "StreamAggregatedResources",
            Variant::Delta => "DeltaAggregatedResources",
        };
        let request = Request::post(format!("http://{address}{ADS}{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .expect("a request");
        let (response, mut requests) = sender.send_request(request, false).expect("a stream");
        send(&mut requests, &variant.request(Asking::First(agent), url, names, true));
        let response = response.await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert!(!response.headers().contains_key("grpc-status"), "{:?}", response.headers());
        let responses = response.into_body();
        Self { variant, requests, responses, read: BytesMut::new(), _sender: sender }
    }

    /// Subscribes to names of a type.
    pub(crate) fn subscribe(&mut self, url: &str, names: &[String]) {
        send(&mut self.requests, &self.variant.request(Asking::More, url, names, true));
    }

    /// Takes a response.
    pub(crate) fn ack(&mut self, read: &Read, names: &[String]) {
        send(
            &mut self.requests,
            &self.variant.request(Asking::Taken(read), &read.type_url, names, false),
        );
    }

    /// The next response, and its bytes.
    pub(crate) async fn next(&mut self) -> (Read, Bytes) {
        loop {
            if let Some(head) = self.read.get(1..5) {
                let length = u32::from_be_bytes(head.try_into().expect("four octets"));
                let length = usize::try_from(length).expect("fits");
                if self.read.len() >= 5 + length {
                    let message = self.read.split_to(5 + length).freeze().slice(5..);
                    return (self.variant.read(&message), message);
                }
                self.read.reserve(5 + length - self.read.len());
            }
            let data = self.responses.data().await.expect("the stream goes on");
            let data = data.expect("the stream goes on");
            self.read.extend_from_slice(&data);
            self.responses.flow_control().release_capacity(data.len()).expect("it was taken");
        }
    }
}

fn send(requests: &mut SendStream<Bytes>, message: &[u8]) {
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).expect("small"));
    bytes.put_slice(message);
    requests.send_data(bytes.freeze(), false).expect("the stream is open");
}
