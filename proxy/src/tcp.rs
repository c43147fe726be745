//! TCP: an endpoint for each connection, and bytes both ways until both ends are done.
//!
//! Half-close passes through. A failure on one side resets the other, and so does a limit of time,
//! so that nobody takes a cut stream for a whole one. Owns how a stream begins (PROXY protocol,
//! detection, an endpoint) and what its end is called; the moving of bytes is `splice`'s.

pub(crate) mod classify;
pub(crate) mod connect;
pub(crate) mod detect;
pub(crate) mod metrics;
mod record;
mod relay;

#[cfg(test)]
pub(crate) mod mutation;

use std::borrow::Cow;
use std::cell::Cell;
use std::net::SocketAddr;

use portolan_model::policy::HashOn;
use portolan_model::traffic::{AcceptProxy, Asked, ResourceName, TcpOptions};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::admit::{self, Proof};
use crate::balance::hash;
use crate::proxy_protocol::{self, Addresses, Expect};
use crate::splice::{self, Counters, Limits, bidirectional};
use crate::stream::Stream;
use crate::worker::accept::{Origin, reset};
use crate::worker::cluster::Choice;
use classify::Verdict;
use connect::{Held, NotConnected, connect};
use detect::{Carries, Detected, GRACE, Patience, Undetected};
use metrics::End;
use record::Ended;
use relay::relay;

/// A client's connection that is about to be served.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) client: Stream,
    /// Who connected: by a PROXY header, if there was one.
    pub(crate) peer: SocketAddr,
    /// Bytes read from the client and not passed on.
    pub(crate) first: Vec<u8>,
    /// What a PROXY header told.
    pub(crate) addresses: Option<Addresses>,
    /// When the client came.
    pub(crate) at: Instant,
    /// What it has shown by TLS; `None` in the clear.
    pub(crate) proof: Option<Box<Proof>>,
}

impl Start {
    /// A connection of which nothing was read.
    pub(crate) fn new(client: TcpStream, peer: SocketAddr) -> Self {
        let client = Stream::Plain(client);
        Self { client, peer, first: Vec::new(), addresses: None, at: Instant::now(), proof: None }
    }

    /// The ends of the connection, by a PROXY header if there was one; `None` of a client that is gone.
    fn addresses(&self) -> Option<Addresses> {
        self.addresses.or_else(|| {
            self.client.look(|socket| {
                let (source, destination) = (socket.peer_addr().ok()?, socket.local_addr().ok()?);
                Some(Addresses { source, destination })
            })
        })
    }

    /// Whether it may have a stream of bytes; else why not.
    fn admitted(&self, origin: &Origin, options: &TcpOptions) -> Result<(), NotConnected> {
        if options.access.is_empty() {
            return Ok(());
        }
        let connected = self.client.look(|socket| socket.peer_addr());
        let connected = connected.map_or(self.peer, |connected| connected).ip();
        let port = origin.listener.address.port();
        let caller = Proof::caller(self.proof.as_deref(), self.peer.ip(), connected, port);
        admit::judge(&options.access, &caller, None::<&Nothing>, &origin.metrics)
            .map_err(|denied| NotConnected { end: End::Denied, detail: denied.why })
    }

    /// Ends the connection so that the client sees an error.
    pub(crate) fn reset(self) {
        reset(self.client.into_socket());
    }
}

/// What a connection asks for beside bytes.
struct Nothing;

impl Asked for Nothing {
    fn path(&self) -> &[u8] {
        b""
    }

    fn query(&self) -> Option<&[u8]> {
        None
    }

    fn field(&self, _name: &str) -> Option<Cow<'_, [u8]>> {
        None
    }

    fn is_grpc(&self) -> bool {
        false
    }

    fn random(&self) -> u64 {
        0
    }
}

/// Reads the PROXY header where the listener has one come first. `None` when the connection is not
/// to be served: then it is reset, counted and logged.
pub(crate) async fn begin(origin: &Origin, client: TcpStream, peer: SocketAddr) -> Option<Start> {
    let at = Instant::now();
    let expect = match origin.listener.accept_proxy {
        AcceptProxy::No => return Some(Start::new(client, peer)),
        AcceptProxy::Optional => Expect::Optional,
        AcceptProxy::Required => Expect::Required,
    };
    let deadline = origin.shared.config.header_timeout;
    match proxy_protocol::read(&client, expect, deadline).await {
        Ok(read) => {
            let (first, addresses) = (read.rest, read.addresses);
            let peer = addresses.map_or(peer, |addresses| addresses.source);
            let client = Stream::Plain(client);
            Some(Start { client, peer, first, addresses, at, proof: None })
        }
        Err(error) => {
            let not = NotConnected { end: End::ProxyProtocol, detail: error.to_string() };
            refuse(origin, None, Start { at, ..Start::new(client, peer) }, not);
            None
        }
    }
}

/// Finds out whether a connection carries HTTP. `Some` if it does; what else it carries is served,
/// and a client that went away or cannot be served is reset.
pub(crate) async fn unless_http(
    origin: &Origin,
    cluster: &ResourceName,
    options: &TcpOptions,
    mut start: Start,
) -> Option<Start> {
    let patience = Patience { grace: GRACE, deadline: origin.shared.config.header_timeout };
    let first = std::mem::take(&mut start.first);
    // What comes within TLS is told by the protocol that was agreed on.
    let Stream::Plain(client) = &start.client else { return Some(start) };
    let dial = connect(origin, cluster, choice(options, start.peer), || start.addresses());
    match detect::detect(client, patience, first, dial).await {
        Ok(Detected { carries, first, upstream }) => {
            start.first = first;
            if matches!(carries, Carries::Client(Verdict::Http1 | Verdict::Http2)) {
                return Some(start);
            }
            serve_with(origin, cluster, options, start, upstream).await;
        }
        Err(Undetected::Dial(not)) => refuse(origin, Some(cluster), start, not),
        Err(Undetected::Client(_gone)) => origin.shared.metrics.tcp.on_end(End::Client),
    }
    None
}

/// Carries one connection to its end.
pub(crate) async fn serve(
    origin: &Origin,
    cluster: &ResourceName,
    options: &TcpOptions,
    start: Start,
) {
    serve_with(origin, cluster, options, start, None).await;
}

/// The same; `upstream` when it was dialled already.
async fn serve_with(
    origin: &Origin,
    cluster: &ResourceName,
    options: &TcpOptions,
    start: Start,
    upstream: Option<(Stream, Held)>,
) {
    if let Err(not) = start.admitted(origin, options) {
        return refuse(origin, Some(cluster), start, not);
    }
    let upstream = match upstream {
        Some(upstream) => Ok(upstream),
        None => {
            let choice = choice(options, start.peer);
            connect(origin, cluster, choice, || start.addresses()).await
        }
    };
    match upstream {
        Ok(upstream) => carry(origin, options, start, upstream).await,
        Err(not) => refuse(origin, Some(cluster), start, not),
    }
}

/// What a stream is picked an endpoint by.
fn choice(options: &TcpOptions, peer: SocketAddr) -> Choice<'static> {
    let hash = match options.hash_on {
        Some(HashOn::SourceIp) => {
            Some(hash::of(&[peer.ip().to_canonical().to_string().as_bytes()]))
        }
        _ => None,
    };
    Choice { hash, ..Choice::default() }
}

/// Passes bytes until the end, which is counted; resets both unless it was whole.
async fn carry(
    origin: &Origin,
    options: &TcpOptions,
    start: Start,
    (mut server, held): (Stream, Held),
) {
    let Start { mut client, peer, first, at, proof, .. } = start;
    let shared = &origin.shared;
    let metrics = &shared.metrics.tcp;
    // What the client sent already counts as sent by it.
    let own = (Cell::new(u64::try_from(first.len()).unwrap_or(u64::MAX)), Cell::new(0));
    origin.metrics.bytes_in.add(own.0.get());
    let max_age = options.max_age.or(shared.config.tcp_max_age);
    let limits = Limits {
        idle: options.idle_timeout.unwrap_or(shared.config.tcp_idle_timeout),
        until: max_age.and_then(|age| at.checked_add(age)),
    };
    let counters = Counters {
        own: &own,
        bytes_in: &origin.metrics.bytes_in,
        bytes_out: &origin.metrics.bytes_out,
        spliced: &metrics.spliced,
        denied: &metrics.denied,
    };
    let ended = match (&client, &server) {
        (Stream::Plain(client), Stream::Plain(server)) => {
            bidirectional(client, server, first, limits, counters).await
        }
        _ => Box::pin(relay(&mut client, &mut server, first, limits, counters)).await,
    };
    let (end, error) = match ended {
        splice::End::Done => (End::Done, None),
        splice::End::Near(error) => (End::Client, Some(error)),
        splice::End::Far(error) => (End::Upstream, Some(error)),
        splice::End::Idle => (End::Idle, None),
        splice::End::Age => (End::Age, None),
    };
    let error = error.as_ref().map(tracing::field::display);
    tracing::debug!(listener = %origin.listener.name, end = end.as_str(), error, "a stream ended");
    let ended = Ended { peer, proof, at, end, bytes: (own.0.get(), own.1.get()) };
    ended.count(origin, Some(&held.state), Some(&held), &held.state.config.name);
    if end != End::Done {
        reset(client.into_socket());
        reset(server.into_socket());
    }
}

/// Resets a client there is nothing for.
fn refuse(origin: &Origin, cluster: Option<&ResourceName>, mut start: Start, not: NotConnected) {
    let NotConnected { end, detail } = not;
    let Start { peer, at, .. } = start;
    let proof = start.proof.take();
    let state = cluster.and_then(|cluster| origin.shared.cluster(cluster));
    let ended = Ended { peer, proof, at, end, bytes: (0, 0) };
    ended.count(origin, state.as_ref(), None, cluster.map_or("", |cluster| cluster));
    let reason = end.as_str();
    tracing::debug!(listener = %origin.listener.name, reason, detail, "connection reset");
    start.reset();
}
