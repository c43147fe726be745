//! One connection of HTTP/1.1 or HTTP/2: hyper's server, with the drain of the process tied in.
//! Does not upgrade, detect or encrypt.

use std::error::Error as StdError;
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use portolan_runtime::Lifecycle;
use tokio::net::TcpStream;

/// How long a connection may idle, or take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// Most streams of one HTTP/2 connection at a time; further ones wait at the client.
const MAX_STREAMS: u32 = 256;
/// How often an HTTP/2 peer is asked whether it is still there, and how long it has to answer.
const PING: Duration = Duration::from_secs(30);

/// Serves HTTP/1.1 until the peer closes; once draining has begun, to the end of the request in
/// flight.
pub(crate) async fn serve_http1<S, B>(stream: TcpStream, service: S, lifecycle: Lifecycle)
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = lifecycle.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    log(ended);
}

/// Serves HTTP/2 with prior knowledge until the peer closes; once draining has begun, to the end
/// of the streams in flight.
pub(crate) async fn serve_http2<S, B>(stream: TcpStream, service: S, lifecycle: Lifecycle)
where
    S: HttpService<Incoming, ResBody = B>,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = lifecycle.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    log(ended);
}

fn log(ended: Result<(), hyper::Error>) {
    if let Err(error) = ended {
        // Peers come and go in the middle of things; of interest to whoever debugs a client.
        tracing::debug!(%error, "a backend's connection ended early");
    }
}
