//! A stream that ended, or never was one: what it is counted as, and its record in the access log.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::time::Instant;

use super::connect::Held;
use super::metrics::End;
use crate::access::Record;
use crate::admit::Proof;
use crate::http::local::Reason;
use crate::worker::accept::Origin;
use crate::worker::cluster::ClusterState;

pub(super) struct Ended {
    pub(super) peer: SocketAddr,
    /// What the client has shown by TLS.
    pub(super) proof: Option<Box<Proof>>,
    /// When the client came.
    pub(super) at: Instant,
    pub(super) end: End,
    /// From and to the client.
    pub(super) bytes: (u64, u64),
}

impl Ended {
    /// Counts it, for the cluster as well if there is one of the name, and records it.
    pub(super) fn count(
        &self,
        origin: &Origin,
        state: Option<&Rc<ClusterState>>,
        held: Option<&Held>,
        cluster: &str,
    ) {
        let reason = self.end.reason();
        let shared = &origin.shared;
        shared.metrics.tcp.on_end(self.end);
        if let Some(reason) = reason {
            origin.count_local(reason);
        }
        if let Some(state) = state {
            state.metrics.on_bytes(self.bytes.0, self.bytes.1);
            if let Some(reason) = reason {
                state.metrics.on_local(reason);
            }
        }
        let Some(pen) = &shared.pen else { return };
        if !pen.wants(self.end != End::Done, || shared.random().0) {
            return;
        }
        let client = self.peer.ip().to_canonical().to_string();
        pen.write(&Record {
            listener: &origin.listener.name,
            protocol: "TCP",
            client: &client,
            port: self.peer.port(),
            identity: Proof::identity(self.proof.as_deref()).unwrap_or_default(),
            bytes_in: self.bytes.0,
            bytes_out: self.bytes.1,
            took: self.at.elapsed(),
            head: held.map(|held| held.took),
            endpoint: held.map(Held::endpoint),
            cluster,
            tries: held.map_or(0, |held| held.tries),
            reason: match reason.map(Reason::as_str) {
                // Whose doing it was is told, if not the proxy's.
                None if self.end != End::Done => Some(self.end.as_str()),
                reason => reason,
            },
            ..Record::default()
        });
    }
}
