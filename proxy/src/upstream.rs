//! Connections to endpoints: opening them, keeping them, and naming how a try failed.
//!
//! Owns what decides whether a request may be tried again; the decision is `http::forward`'s.

pub(crate) mod h1;
pub(crate) mod h2;

use std::io;

use tokio::net::TcpStream;

use crate::limit::breaker::Permit;
use crate::worker::cluster::ClusterState;
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

/// Opens a TCP connection to an endpoint of the cluster, and counts it while the permit lives.
pub(crate) async fn connect(
    state: &ClusterState,
    endpoint: &Endpoint,
    shared: &Shared,
) -> Result<(TcpStream, Permit), Failure> {
    let Some(permit) = state.connection() else {
        let detail = format!("{}: as many connections as its limit allows", state.config.name);
        return Err(Failure { cause: Cause::Limit, detail });
    };
    let (timeout, metrics) = (state.config.upstream.connect_timeout, &shared.metrics);
    metrics.upstream_connects.add(1);
    state.metrics.connects.add(1);
    let result = match tokio::time::timeout(timeout, TcpStream::connect(endpoint.address)).await {
        Ok(result) => result.and_then(|stream| stream.set_nodelay(true).map(|()| stream)),
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
