//! Servers that speak HTTP/2 well and gRPC badly, at the path of ADS. Each sends one kind of rubbish to
//! whoever comes.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rubbish {
    /// A web page.
    Page,
    /// A gRPC status and no stream.
    Status,
    /// A message that is no protobuf.
    Garbage,
    /// A message of 4 GiB, as its length says.
    Giant,
    /// A message of the largest size that is taken, which never ends.
    Endless,
    /// A compressed message, which nobody agreed on.
    Compressed,
    /// Empty messages without an end.
    Empty,
}

impl Rubbish {
    pub(crate) const ALL: [Self; 7] = [
        Self::Page,
        Self::Status,
        Self::Garbage,
        Self::Giant,
        Self::Endless,
        Self::Compressed,
        Self::Empty,
    ];
}

/// A server of rubbish; ends when dropped.
pub(crate) struct Bogus {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Bogus {
    pub(crate) async fn start(rubbish: Rubbish) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(rubbish, request));
                    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    // Whatever the client thinks of it.
                    let _ended = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Bogus {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;

async fn answer(
    rubbish: Rubbish,
    _request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let response = Response::builder();
    let grpc = || Response::builder().header("content-type", "application/grpc");
    let whole =
        |bytes: &[u8]| http_body_util::Full::new(Bytes::copy_from_slice(bytes)).boxed_unsync();
    let frame = |flag: u8, length: u32, rest: &[u8]| {
        let mut bytes = vec![flag];
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(rest);
        Bytes::from(bytes)
    };
    let made = match rubbish {
        Rubbish::Page => response.header("content-type", "text/html").body(whole(b"<p>Hello")),
        Rubbish::Status => {
            grpc().header("grpc-status", "7").header("grpc-message", "no").body(whole(b""))
        }
        Rubbish::Garbage => grpc().body(after(frame(0, 5, b"\xff\xff\xff\xff\xff"), None)),
        Rubbish::Giant => grpc().body(after(frame(0, u32::MAX, b"\x0a"), None)),
        Rubbish::Endless => {
            let filler = Bytes::from(vec![0x0a; 1024]);
            grpc().body(after(frame(0, 200 * 1024 * 1024, b""), Some((filler, true))))
        }
        Rubbish::Compressed => grpc().body(after(frame(1, 3, b"abc"), None)),
        Rubbish::Empty => grpc().body(after(frame(0, 0, b""), Some((frame(0, 0, b""), false)))),
    };
    Ok(made.expect("a response"))
}

/// Some bytes and, over and over, others; slowly where asked for. Without others the body stays open.
fn after(first: Bytes, rest: Option<(Bytes, bool)>) -> Body {
    let next = move |sent: usize| {
        let (first, rest) = (first.clone(), rest.clone());
        async move {
            let chunk = match (sent, rest) {
                (0, _) => first,
                (_, None) => std::future::pending().await,
                (_, Some((chunk, slowly))) => {
                    let pause = std::time::Duration::from_millis(if slowly { 20 } else { 0 });
                    tokio::time::sleep(pause).await;
                    chunk
                }
            };
            Some((Ok(Frame::data(chunk)), sent + 1))
        }
    };
    StreamBody::new(futures_util::stream::unfold(0, next)).boxed_unsync()
}
