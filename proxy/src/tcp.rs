//! TCP: an endpoint for each connection, and bytes both ways until both ends are done.
//!
//! Half-close passes through. A failure on one side resets the other, so that nobody takes a cut
//! stream for a whole one.

mod flow;

use std::net::SocketAddr;

use portolan_model::traffic::ResourceName;
use tokio::net::TcpStream;

use crate::http::local::Reason;
use crate::upstream::{self, Failure};
use crate::worker::accept::{Origin, reset};
use crate::worker::cluster::InFlight;
use flow::Flow;

/// Endpoints tried for a connection before the client is given up.
const MAX_TRIES: usize = 3;

/// Carries one connection to its end.
pub(crate) async fn serve(origin: &Origin, cluster: &ResourceName, client: TcpStream) {
    let (server, _load) = match connect(origin, cluster).await {
        Ok(connected) => connected,
        Err((reason, detail)) => {
            origin.shared.metrics.count_local(reason);
            tracing::debug!(listener = %origin.listener.name, %cluster, detail, "connection reset");
            return reset(client);
        }
    };
    let (mut client, mut server) = (client, server);
    let flow = Flow::new(origin.shared.config.tcp_idle_timeout);
    let copied = {
        let mut near = flow.watch(&mut client, &origin.metrics.bytes_in, &origin.metrics.bytes_out);
        tokio::select! {
            result = tokio::io::copy_bidirectional(&mut near, &mut server) => result.is_ok(),
            () = flow.idle() => {
                origin.shared.metrics.count_local(Reason::Timeout);
                false
            }
        }
    };
    if !copied {
        reset(client);
        reset(server);
    }
}

/// A connection to an endpoint of the cluster, which it counts as load of.
async fn connect(
    origin: &Origin,
    cluster: &ResourceName,
) -> Result<(TcpStream, InFlight), (Reason, String)> {
    let shared = &origin.shared;
    let mut tried: Vec<SocketAddr> = Vec::new();
    let mut last: Option<Failure> = None;
    for attempt in 0..MAX_TRIES {
        // Looked up each time: the configuration may have changed while we connected.
        let state = shared
            .cluster(cluster)
            .ok_or_else(|| (Reason::NoCluster, format!("{cluster}: no such cluster")))?;
        let Some(endpoint) = state.pick(&shared.rng, &tried) else { break };
        if attempt == 0 {
            state.requests.add(1);
        } else {
            shared.metrics.retries.add(1);
        }
        let load = endpoint.begin();
        match upstream::connect(&endpoint, state.config.upstream.connect_timeout, &shared.metrics)
            .await
        {
            Ok(stream) => return Ok((stream, load)),
            Err(failure) => last = Some(failure),
        }
        tried.push(endpoint.address);
    }
    Err(match last {
        Some(failure) => (Reason::ConnectFailed, failure.detail),
        None => (Reason::NoEndpoints, format!("{cluster}: no ready endpoint")),
    })
}
