//! The sockets behind a scripted upstream.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::upstream::{Act, Elsewhere, Shared, Step, Via};

/// What is spoken on a listener.
#[derive(Clone)]
pub(crate) enum Layer {
    Plain,
    Tls(TlsAcceptor),
    Https(TlsAcceptor),
}

/// What a server sends datagrams from: bound once, since questions come at the same time.
pub(crate) struct Datagrams {
    /// Where it is asked.
    pub(crate) own: UdpSocket,
    pub(crate) other_port: UdpSocket,
    pub(crate) other_address: UdpSocket,
}

/// Serves datagrams until the runtime ends.
pub(crate) async fn udp(sockets: Datagrams, shared: Arc<Shared>) {
    let sockets = Arc::new(sockets);
    let mut tasks = JoinSet::new();
    let mut buffer = [0; 4096];
    loop {
        // An error is an earlier answer's that nobody took.
        let Ok((length, from)) = sockets.own.recv_from(&mut buffer).await else { continue };
        let Some(steps) = shared.on_query(Via::Udp, from, &buffer[..length]) else { continue };
        let sockets = sockets.clone();
        if !steps.is_empty() {
            tasks.spawn(async move { datagrams(&sockets, from, steps).await });
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn datagrams(sockets: &Datagrams, to: SocketAddr, steps: Vec<Step>) {
    for Step { after, act } in steps {
        sleep(after).await;
        let (socket, bytes) = match act {
            Act::Send(bytes) => (&sockets.own, bytes),
            Act::SendFrom(Elsewhere::Port, bytes) => (&sockets.other_port, bytes),
            Act::SendFrom(Elsewhere::Address, bytes) => (&sockets.other_address, bytes),
            Act::Close | Act::Status(_) => panic!("datagrams know neither"),
        };
        // Whoever asked may be gone.
        let _sent = socket.send_to(&bytes, to).await;
    }
}

/// Serves connections until the runtime ends.
pub(crate) async fn accept(listener: TcpListener, layer: Layer, shared: Arc<Shared>) {
    let mut tasks = JoinSet::new();
    loop {
        let Ok((stream, from)) = listener.accept().await else { continue };
        let (layer, shared) = (layer.clone(), shared.clone());
        tasks.spawn(async move {
            // A client may leave when it likes.
            let _left = connection(stream, from, layer, &shared).await;
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    layer: Layer,
    shared: &Arc<Shared>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match layer {
        Layer::Plain => framed(stream, from, Via::Tcp, shared).await,
        Layer::Tls(tls) => framed(tls.accept(stream).await?, from, Via::Tls, shared).await,
        Layer::Https(tls) => {
            // Whatever h2 says of the end is no news.
            let _ended = https(tls.accept(stream).await?, from, shared).await;
            Ok(())
        }
    }
}

/// One question at a time, as the server under test asks on streams.
async fn framed<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    from: SocketAddr,
    via: Via,
    shared: &Shared,
) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await?;
        for Step { after, act } in shared.on_query(via, from, &query).unwrap_or_default() {
            sleep(after).await;
            match act {
                Act::Send(bytes) => {
                    let length = u16::try_from(bytes.len()).expect("an answer fits");
                    let message = [&length.to_be_bytes()[..], &bytes].concat();
                    stream.write_all(&message).await?;
                    stream.flush().await?;
                }
                Act::Close => return stream.shutdown().await,
                Act::SendFrom(..) | Act::Status(_) => panic!("streams know neither"),
            }
        }
    }
}

async fn https<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    from: SocketAddr,
    shared: &Arc<Shared>,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    let close = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(accepted) = accepted else { return Ok(()) };
                let (request, respond) = accepted?;
                let (shared, close) = (shared.clone(), close.clone());
                tasks.spawn(async move {
                    let _left = exchange(request, respond, from, &shared, &close).await;
                });
            }
            () = close.notified() => return Ok(()),
        }
    }
}

async fn exchange(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    from: SocketAddr,
    shared: &Shared,
    close: &Notify,
) -> Result<(), h2::Error> {
    assert_eq!(request.headers()["content-type"], "application/dns-message");
    let mut body = request.into_body();
    let mut query = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        query.extend_from_slice(&data);
    }
    let steps = shared.on_query(Via::Https, from, &query).unwrap_or_default();
    if steps.is_empty() {
        // Dropping the stream would reset it: the client is to wait.
        return std::future::pending().await;
    }
    for Step { after, act } in steps {
        sleep(after).await;
        let status = |code: u16| {
            let response = Response::builder().status(code);
            response.header("content-type", "application/dns-message").body(()).expect("valid")
        };
        match act {
            Act::Send(bytes) => {
                let mut body = respond.send_response(status(200), false)?;
                body.send_data(bytes.into(), true)?;
            }
            Act::Status(code) => {
                respond.send_response(status(code), true)?;
            }
            Act::Close => close.notify_one(),
            Act::SendFrom(..) => panic!("a stream has one source"),
        }
    }
    Ok(())
}
