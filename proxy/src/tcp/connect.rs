//! An endpoint for a stream: picked, dialled, and another one tried when it does not answer.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use portolan_model::traffic::ResourceName;
use tokio::time::Instant;

use super::metrics::End;
use crate::balance::Outcome as LoadOutcome;
use crate::health::outcome::Outcome;
use crate::metrics::cluster::Retried;
use crate::proxy_protocol::Addresses;
use crate::stream::Stream;
use crate::tls::Above;
use crate::upstream::{self, Cause, Failure};
use crate::worker::accept::Origin;
use crate::worker::cluster::{ActiveRequest, Choice, ClusterState, Slot};
use crate::worker::endpoint::InFlight;

/// Endpoints tried for a connection before the client is given up.
const MAX_TRIES: usize = 3;

/// Why no endpoint was had, and in words.
#[derive(Debug)]
pub(crate) struct NotConnected {
    pub(crate) end: End,
    pub(crate) detail: String,
}

/// What a stream is counted by while it lives.
pub(crate) struct Held {
    load: InFlight,
    pub(super) state: Rc<ClusterState>,
    /// Endpoints tried, this one included.
    pub(super) tries: u32,
    /// From the first try to the connection.
    pub(super) took: Duration,
    _active: ActiveRequest,
    _connection: Slot,
}

impl Held {
    pub(super) fn endpoint(&self) -> SocketAddr {
        self.load.endpoint().address
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("endpoint", &self.endpoint()).finish_non_exhaustive()
    }
}

/// A connection to an endpoint of the cluster, which it counts as load of. The time from the first
/// try to the connection is recorded. `client` says whose it is, to endpoints that want to know.
pub(crate) async fn connect(
    origin: &Origin,
    cluster: &ResourceName,
    choice: Choice<'_>,
    client: impl Fn() -> Option<Addresses>,
) -> Result<(Stream, Held), NotConnected> {
    let shared = &origin.shared;
    let start = Instant::now();
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut last: Option<Failure> = None;
    let mut active: Option<ActiveRequest> = None;
    for attempt in 0..MAX_TRIES {
        // Looked up each time: the configuration may have changed while we connected.
        let state = shared.cluster(cluster).ok_or_else(|| NotConnected {
            end: End::NoCluster,
            detail: format!("{cluster}: no such cluster"),
        })?;
        let Some(endpoint) = state.pick(choice, &tried) else { break };
        let counted = match active.take() {
            Some(active) => active,
            None => state.begin().map_err(|closed| NotConnected {
                end: End::CircuitOpen,
                detail: format!("{cluster}: {closed}"),
            })?,
        };
        if attempt > 0 {
            shared.metrics.retries.add(1);
        }
        let mut load = endpoint.begin();
        let client = state.config.upstream.send_proxy.and_then(|_| client());
        match upstream::connect(&state, &endpoint, shared, Above::Bytes, client).await {
            Ok((stream, connection)) => {
                let took = start.elapsed();
                shared.metrics.tcp.on_connected(took);
                if attempt > 0 {
                    state.metrics.on_retried(Retried::Success);
                }
                load.observe(LoadOutcome::Answered);
                endpoint.report(shared.number, Outcome::Success);
                let tries = u32::try_from(attempt + 1).unwrap_or(u32::MAX);
                let (_active, _connection) = (counted, connection);
                let held = Held { load, state, tries, took, _active, _connection };
                return Ok((stream, held));
            }
            Err(failure) => {
                load.observe(LoadOutcome::Failed);
                if attempt > 0 {
                    state.metrics.on_retried(Retried::Failure);
                }
                if failure.cause == Cause::Connect {
                    endpoint.report(shared.number, Outcome::LocalError);
                }
                last = Some(failure);
            }
        }
        active = Some(counted);
        tried.push(endpoint.address);
    }
    Err(match last {
        Some(failure) => NotConnected { end: End::ConnectFailed, detail: failure.detail },
        None => {
            NotConnected { end: End::NoEndpoints, detail: format!("{cluster}: no ready endpoint") }
        }
    })
}
