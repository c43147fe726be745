//! TCP: an endpoint for each connection, and bytes both ways until both ends are done.
//!
//! Half-close passes through. A failure on one side resets the other, and so does a limit of time,
//! so that nobody takes a cut stream for a whole one. Owns how a stream begins (PROXY protocol,
//! detection, an endpoint) and what its end is called; the moving of bytes is `splice`'s.

pub(crate) mod classify;
pub(crate) mod connect;
pub(crate) mod detect;
pub(crate) mod metrics;

#[cfg(test)]
pub(crate) mod mutation;

use std::time::Duration;

use portolan_model::traffic::ResourceName;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::proxy_protocol::{self, Addresses, Expect, Version};
use crate::splice::{self, Counters, Limits, bidirectional};
use crate::worker::accept::{Origin, reset};
use crate::worker::cluster::InFlight;
use connect::{NotConnected, connect};
use detect::{Detected, GRACE, Patience, Undetected};
use metrics::End;

/// What a stream has beside its cluster.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// Expect a PROXY protocol header from the client.
    pub(crate) expect: Option<Expect>,
    /// Write one for the endpoint.
    pub(crate) announce: Option<Version>,
}

/// The client's side of a stream that is about to be carried.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) client: TcpStream,
    /// Bytes read from the client and not passed on.
    pub(crate) first: Vec<u8>,
    /// Who connected, as a PROXY protocol header told it.
    pub(crate) addresses: Option<Addresses>,
    /// When the client came.
    pub(crate) at: Instant,
}

/// Carries one connection to its end.
pub(crate) async fn serve(origin: &Origin, cluster: &ResourceName, client: TcpStream) {
    serve_with(origin, cluster, client, Options::default()).await;
}

/// The same with options.
pub(crate) async fn serve_with(
    origin: &Origin,
    cluster: &ResourceName,
    client: TcpStream,
    options: Options,
) {
    let Some(start) = begin(origin, client, options.expect).await else { return };
    match connect(origin, cluster).await {
        Ok(upstream) => carry(origin, start, upstream, options).await,
        Err(not) => refuse(origin, start.client, not),
    }
}

/// Reads the PROXY protocol header when one is expected. `None` when the connection is not to be
/// served: then it is reset, counted and logged.
pub(crate) async fn begin(
    origin: &Origin,
    client: TcpStream,
    expect: Option<Expect>,
) -> Option<Start> {
    let at = Instant::now();
    let Some(expect) = expect else {
        return Some(Start { client, first: Vec::new(), addresses: None, at });
    };
    let deadline = origin.shared.config.header_timeout;
    match proxy_protocol::read(&client, expect, deadline).await {
        Ok(read) => {
            let (first, addresses) = (read.rest, read.addresses);
            Some(Start { client, first, addresses, at })
        }
        Err(error) => {
            let not = NotConnected { end: End::ProxyProtocol, detail: error.to_string() };
            refuse(origin, client, not);
            None
        }
    }
}

/// Finds out what a connection carries, for a listener that has not been told. `None` when there
/// is nothing to serve: then the client was reset, or it went away by itself. What is no HTTP goes
/// on with [`resume`], HTTP with its engine, after the bytes in `first`.
pub(crate) async fn detected(
    origin: &Origin,
    cluster: &ResourceName,
    client: TcpStream,
) -> Option<(TcpStream, Detected<InFlight>)> {
    let patience = Patience { grace: GRACE, deadline: origin.shared.config.header_timeout };
    match detect::detect(&client, patience, connect(origin, cluster)).await {
        Ok(detected) => Some((client, detected)),
        Err(Undetected::Dial(not)) => {
            refuse(origin, client, not);
            None
        }
        Err(Undetected::Client(_gone)) => {
            origin.shared.metrics.tcp.on_end(End::Client);
            None
        }
    }
}

/// Carries a connection whose beginning was read already; `upstream` when it was dialled too.
pub(crate) async fn resume(
    origin: &Origin,
    cluster: &ResourceName,
    start: Start,
    upstream: Option<(TcpStream, InFlight)>,
    options: Options,
) {
    let upstream = match upstream {
        Some(upstream) => Ok(upstream),
        None => connect(origin, cluster).await,
    };
    match upstream {
        Ok(upstream) => carry(origin, start, upstream, options).await,
        Err(not) => refuse(origin, start.client, not),
    }
}

/// Passes bytes until the end, which is counted; resets both unless it was whole.
async fn carry(
    origin: &Origin,
    start: Start,
    (server, _load): (TcpStream, InFlight),
    options: Options,
) {
    let Start { client, first, addresses, at } = start;
    let shared = &origin.shared;
    let metrics = &shared.metrics.tcp;
    // What the client sent already counts as sent by it; a header of ours does not.
    origin.metrics.bytes_in.add(u64::try_from(first.len()).unwrap_or(u64::MAX));
    let first = match options.announce {
        Some(version) => announce(version, &client, addresses, first),
        None => first,
    };
    let limits = Limits {
        idle: shared.config.tcp_idle_timeout,
        until: shared.config.tcp_max_age.and_then(|age: Duration| at.checked_add(age)),
    };
    let counters = Counters {
        bytes_in: &origin.metrics.bytes_in,
        bytes_out: &origin.metrics.bytes_out,
        spliced: &metrics.spliced,
        denied: &metrics.denied,
    };
    let ended = bidirectional(&client, &server, first, limits, counters).await;
    tracing::debug!(listener = %origin.listener.name, ?ended, "a stream ended");
    let end = match ended {
        splice::End::Done => End::Done,
        splice::End::Near(_) => End::Client,
        splice::End::Far(_) => End::Upstream,
        splice::End::Idle => End::Idle,
        splice::End::Age => End::Age,
    };
    count(origin, end);
    if end != End::Done {
        reset(client);
        reset(server);
    }
}

/// The header for the endpoint, then what the client has sent.
fn announce(
    version: Version,
    client: &TcpStream,
    addresses: Option<Addresses>,
    first: Vec<u8>,
) -> Vec<u8> {
    // A client that is gone has no address any more; the header says then that nothing is known.
    let addresses = addresses.or_else(|| {
        let (source, destination) = (client.peer_addr().ok()?, client.local_addr().ok()?);
        Some(Addresses { source, destination })
    });
    let mut out = Vec::new();
    proxy_protocol::write(version, addresses, &mut out);
    out.extend(first);
    out
}

/// Resets a client there is nothing for.
fn refuse(origin: &Origin, client: TcpStream, not: NotConnected) {
    let NotConnected { end, detail } = not;
    count(origin, end);
    let reason = end.as_str();
    tracing::debug!(listener = %origin.listener.name, reason, detail, "connection reset");
    reset(client);
}

fn count(origin: &Origin, end: End) {
    origin.shared.metrics.tcp.on_end(end);
    if let Some(reason) = end.reason() {
        origin.shared.metrics.count_local(reason);
    }
}
