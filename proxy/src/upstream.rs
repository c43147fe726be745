//! Connections to endpoints: opening them, keeping them, and naming how a try failed.
//!
//! Owns what decides whether a request may be tried again; the decision is `http::forward`'s.

pub(crate) mod h1;
pub(crate) mod h2;

use std::error::Error as _;
use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::metrics::WorkerMetrics;
use crate::worker::cluster::Endpoint;

/// How a try at one endpoint failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// No connection. Nothing was sent.
    Connect,
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
    /// The client's request body failed.
    Client,
}

/// A failed try.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) cause: Cause,
    pub(crate) detail: String,
}

/// Opens a TCP connection to an endpoint, and counts it.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    timeout: Duration,
    metrics: &WorkerMetrics,
) -> Result<TcpStream, Failure> {
    metrics.upstream_connects.add(1);
    let result = match tokio::time::timeout(timeout, TcpStream::connect(endpoint.address)).await {
        Ok(result) => result.and_then(|stream| stream.set_nodelay(true).map(|()| stream)),
        Err(_elapsed) => Err(io::Error::from(io::ErrorKind::TimedOut)),
    };
    match result {
        Ok(stream) => {
            endpoint.on_connected();
            Ok(stream)
        }
        Err(error) => {
            metrics.upstream_connect_failures.add(1);
            endpoint.on_connect_failed();
            Err(Failure { cause: Cause::Connect, detail: format!("{}: {error}", endpoint.address) })
        }
    }
}

impl Failure {
    /// Names what hyper reports. `recovered`: it gave the request back, so nothing was sent.
    pub(crate) fn from_hyper(error: &hyper::Error, recovered: bool, client_failed: bool) -> Self {
        let cause = if recovered {
            Cause::Unsent
        } else if client_failed {
            Cause::Client
        } else if let Some(cause) = unprocessed(error) {
            cause
        } else if error.is_incomplete_message() || error.is_closed() || is_io(error) {
            Cause::Closed
        } else {
            Cause::Invalid
        };
        let detail = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        Self { cause, detail }
    }
}

/// How the endpoint said that it did not process the stream, if it did. h2 fails with the
/// endpoint's GOAWAY only the streams whose ids are above the last one it names (RFC 9113 §6.8).
fn unprocessed(error: &hyper::Error) -> Option<Cause> {
    let error = error.source()?.downcast_ref::<::h2::Error>().filter(|e| e.is_remote())?;
    if error.is_go_away() {
        return Some(Cause::GoneAway);
    }
    let refused = error.is_reset() && error.reason() == Some(::h2::Reason::REFUSED_STREAM);
    refused.then_some(Cause::Refused)
}

/// Whether the connection failed, as opposed to what was said on it.
fn is_io(error: &hyper::Error) -> bool {
    let Some(source) = error.source() else { return false };
    source.is::<io::Error>() || source.downcast_ref::<::h2::Error>().is_some_and(::h2::Error::is_io)
}
