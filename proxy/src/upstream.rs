//! Connections to endpoints: opening them, keeping them, and naming how a try failed.
//!
//! Owns what decides whether a request may be tried again; the decision is `http::forward`'s.

pub(crate) mod h1;
pub(crate) mod h2;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::proxy_protocol::{self, Addresses};
use crate::stream::Stream;
use crate::tls::Above;
use crate::worker::cluster::{ClusterState, Slot};
use crate::worker::endpoint::Endpoint;
use crate::worker::shared::Shared;

/// How a try at one endpoint failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No connection. Nothing was sent.
    Connect,
    /// No connection, since the cluster has as many as it may.
    Limit,
    /// The connection ended before the request was written. Nothing was sent.
    Unsent,
    /// The endpoint refused this stream, `REFUSED_STREAM`: it has not processed it (RFC 9113
    /// §8.7).
    Refused,
    /// The endpoint closes the connection and says that it has not processed this stream: its id
    /// is above the last one of the GOAWAY (RFC 9113 §6.8).
    GoneAway,
    /// The connection closed without a response. The request may have been processed.
    Closed,
    /// The endpoint answered with something that is no response, or reset the stream.
    Invalid,
    /// It answered with this status, which the route's policy tries again.
    Status(u16),
    /// The same, of gRPC.
    Grpc(u32),
    /// It did not answer in the time for a try.
    TryTimeout,
}

/// A failed try.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) detail: String,
}

/// A connection for HTTP/1.1: a new one or, where the cluster has as many as it may, one that
/// becomes free within the time for connecting.
pub(crate) async fn connect_or_wait(
    state: &ClusterState,
    endpoint: &Endpoint,
    shared: &Shared,
) -> Result<h1::Kept, Failure> {
    /// Connections of other workers become free without this one being told.
    const LOOK: Duration = Duration::from_millis(50);
    let limits = &state.config.upstream;
    let until = Instant::now() + limits.connect_timeout;
    let mut pending = None;
    loop {
        let mut freed = pin!(state.freed.notified());
        freed.as_mut().enable();
        if pending.is_some()
            && let Some(kept) = endpoint.h1.take(limits)
        {
            return Ok(kept);
        }
        match connect(state, endpoint, shared, Above::Http1, None).await {
            Err(failure) if failure.cause == Cause::Limit => {
                pending = pending.or_else(|| state.pending());
                if pending.is_none() || Instant::now() >= until {
                    return Err(failure);
                }
            }
            Err(failure) => return Err(failure),
            Ok(opened) => return Ok(h1::Kept::new(opened)),
        }
        // Told or not, it is looked again.
        let _told = tokio::time::timeout(LOOK, freed).await;
    }
}

/// Opens a connection to an endpoint of the cluster, with all that comes before its bytes, and counts
/// it while the slot lives. `client`: for whom it is opened, if it is for one client alone.
pub(crate) async fn connect(
    state: &ClusterState,
    endpoint: &Endpoint,
    shared: &Shared,
    above: Above,
    client: Option<Addresses>,
) -> Result<(Stream, Slot), Failure> {
    let Some(permit) = state.connection() else {
        let detail = format!("{}: as many connections as its limit allows", state.config.name);
        return Err(Failure { cause: Cause::Limit, detail });
    };
    let (timeout, metrics) = (state.config.upstream.connect_timeout, &shared.metrics);
    metrics.upstream_connects.add(1);
    state.metrics.connects.add(1);
    let opening = open(state, endpoint.address, shared, above, client);
    let result = match tokio::time::timeout(timeout, opening).await {
        Ok(result) => result,
        Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    };
    match result {
        Ok(stream) => {
            endpoint.on_connected();
            Ok((stream, permit))
        }
        Err(error) => {
            metrics.upstream_connect_failures.add(1);
            state.metrics.connect_failures.add(1);
            endpoint.on_connect_failed();
            Err(Failure { cause: Cause::Connect, detail: format!("{}: {error}", endpoint.address) })
        }
    }
}

async fn open(
    state: &ClusterState,
    address: SocketAddr,
    shared: &Shared,
    above: Above,
    client: Option<Addresses>,
) -> io::Result<Stream> {
    let wanted = &state.config.upstream;
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    if let Some(version) = wanted.send_proxy {
        // Of a connection that many clients' requests share it says that the proxy speaks for itself.
        // Who asks stands in X-Forwarded-For.
        let mut header = Vec::new();
        proxy_protocol::write(version, client, &mut header);
        // It fits into any socket's buffer: this does not wait.
        stream.write_all(&header).await?;
    }
    let Some(tls) = &wanted.tls else { return Ok(Stream::Plain(stream)) };
    let settings = shared.with_traffic(|traffic| state.dialer.settings(tls, traffic));
    // What is rare is in a box, so that every connection is not made room for it.
    let handshake = Box::pin(settings.handshake(above, stream, address.ip()));
    handshake.await.map_err(|error| io::Error::new(error.kind(), format!("no TLS: {error}")))
}
