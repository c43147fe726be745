//! HTTP connections from clients: which version they speak, and how long they live.
//!
//! Owns the connection; a request is `service`'s, and what goes upstream is `forward`'s.

pub(crate) mod body;
pub(crate) mod local;

mod activity;
mod authority;
mod detect;
mod forward;
mod headers;
mod service;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpStream;

use crate::upstream::h2::LocalExecutor;
use crate::worker::accept::Origin;
use activity::Activity;
use detect::{Detected, Version};

/// Bytes a client may send ahead on an HTTP/2 stream, and on the connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// A client's connection, as its requests see it.
pub(crate) struct Client {
    pub(crate) origin: Rc<Origin>,
    pub(crate) peer: SocketAddr,
    pub(crate) activity: Rc<Activity>,
}

/// Serves one connection to its end.
pub(crate) async fn serve(origin: Rc<Origin>, stream: TcpStream, peer: SocketAddr) {
    let timeout = origin.shared.config.header_timeout;
    let detecting = tokio::time::timeout(timeout, detect::detect(stream, &origin.closing));
    // Silence, an end, or an error before the first request: there is nothing to answer.
    let Ok(Some(detected)) = detecting.await else { return };
    let activity = Activity::new(origin.shared.config.idle_timeout);
    let client = Rc::new(Client { origin, peer, activity });
    match detected.version {
        Version::Http1 => serve_http1(client, detected).await,
        Version::Http2 => serve_http2(client, detected).await,
    }
}

async fn serve_http1(client: Rc<Client>, detected: Detected) {
    let config = &client.origin.shared.config;
    // A request that came with the connection while the listener closes is still served.
    let closing = client.origin.closing.is_cancelled();
    let requests = Rc::clone(&client);
    let service = service_fn(move |request| {
        let client = Rc::clone(&requests);
        async move { Ok::<_, Infallible>(service::answer(&client, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_header_size(usize::try_from(config.max_header_bytes).unwrap_or(usize::MAX))
        .keep_alive(!closing)
        .serve_connection(detected.io, service);
    drive(&client, closing, pin!(connection), http1::Connection::graceful_shutdown).await;
}

async fn serve_http2(client: Rc<Client>, detected: Detected) {
    let shared = &client.origin.shared;
    let requests = Rc::clone(&client);
    let service = service_fn(move |request| {
        let client = Rc::clone(&requests);
        async move { Ok::<_, Infallible>(service::answer(&client, request).await) }
    });
    let connection = http2::Builder::new(LocalExecutor(shared.tasks.clone()))
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(shared.config.max_concurrent_streams)
        .max_header_list_size(shared.config.max_header_bytes)
        .serve_connection(detected.io, service);
    drive(&client, false, pin!(connection), http2::Connection::graceful_shutdown).await;
}

/// Polls a connection to its end; asks it to finish when its listener closes or it has been idle
/// for too long.
async fn drive<C>(
    client: &Client,
    mut asked: bool,
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
) where
    C: Future<Output = hyper::Result<()>>,
{
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(peer = %client.peer, %error, "a client's connection failed");
                }
                return;
            }
            () = client.origin.closing.cancelled(), if !asked => {}
            () = client.activity.idle(), if !asked => {}
        }
        asked = true;
        finish(connection.as_mut());
    }
}
