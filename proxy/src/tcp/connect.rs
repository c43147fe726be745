//! An endpoint for a stream: picked, dialled, and another one tried when it does not answer.

use std::net::SocketAddr;

use portolan_model::traffic::ResourceName;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::metrics::End;
use crate::upstream::{self, Failure};
use crate::worker::accept::Origin;
use crate::worker::cluster::InFlight;

/// Endpoints tried for a connection before the client is given up.
const MAX_TRIES: usize = 3;

/// Why no endpoint was had, and in words.
#[derive(Debug)]
pub(crate) struct NotConnected {
    pub(crate) end: End,
    pub(crate) detail: String,
}

/// A connection to an endpoint of the cluster, which it counts as load of. The time from the first
/// try to the connection is recorded.
pub(crate) async fn connect(
    origin: &Origin,
    cluster: &ResourceName,
) -> Result<(TcpStream, InFlight), NotConnected> {
    let shared = &origin.shared;
    let start = Instant::now();
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut last: Option<Failure> = None;
    for attempt in 0..MAX_TRIES {
        // Looked up each time: the configuration may have changed while we connected.
        let state = shared.cluster(cluster).ok_or_else(|| NotConnected {
            end: End::NoCluster,
            detail: format!("{cluster}: no such cluster"),
        })?;
        let Some(endpoint) = state.pick(&shared.rng, &tried) else { break };
        if attempt == 0 {
            state.requests.add(1);
        } else {
            shared.metrics.retries.add(1);
        }
        let load = endpoint.begin();
        match upstream::connect(&endpoint, state.config.connect_timeout, &shared.metrics).await {
            Ok(stream) => {
                shared.metrics.tcp.on_connected(start.elapsed());
                return Ok((stream, load));
            }
            Err(failure) => last = Some(failure),
        }
        tried.push(endpoint.address);
    }
    Err(match last {
        Some(failure) => NotConnected { end: End::ConnectFailed, detail: failure.detail },
        None => NotConnected {
            end: End::NoEndpoints,
            detail: format!("{cluster}: no ready endpoint"),
        },
    })
}
