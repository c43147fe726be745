//! Who has what: waits until every connected client has a generation, and names those that do not.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use portolan_model::{Generation, ServiceKey};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::clients::{ClientStatus, Clients};
use crate::catalog::Catalog;

/// Clients that are named; of more only the number is told.
const MAX_NAMED: usize = 100;

/// A handle on how far the clients are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Progress {
    pub(super) catalog: Arc<ArcSwap<Catalog>>,
    pub(super) clients: Clients,
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This generation.
    Generation(Generation),
    /// The newest state of a service.
    Service(ServiceKey),
    /// The generation that is newest now.
    Newest,
}

/// How far the clients are.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// What was waited for.
    pub generation: Generation,
    /// Newest generation there is.
    pub newest: Generation,
    /// How many clients are connected.
    pub clients: usize,
    /// How many of them do not have it.
    pub lacking: usize,
    /// Those, up to 100.
    pub named: Vec<Lacking>,
}

/// A client that lacks a generation.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lacking {
    /// Its node id, else its address.
    pub client: String,
    /// The newest generation it has.
    pub generation: Generation,
    /// What is known of why.
    pub reason: String,
}

/// A service that never was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no service {0} in any generation since the start")]
pub struct NoService(ServiceKey);

impl Reached {
    /// Whether everybody has it.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.lacking == 0 && self.newest >= self.generation
    }
}

impl Progress {
    /// How far the clients are, at once.
    #[must_use]
    pub fn look(&self, generation: Generation) -> Reached {
        let status = self.clients.status();
        let lacking = status.iter().filter(|client| client.generation < generation);
        let named: Vec<Lacking> = lacking.clone().take(MAX_NAMED).map(why).collect();
        Reached {
            generation,
            newest: self.clients.announced(),
            clients: status.len(),
            lacking: lacking.count(),
            named,
        }
    }

    /// Waits until every connected client has it, `limit` at most.
    ///
    /// # Errors
    /// A service that never was.
    pub async fn wait(&self, target: Target, limit: Duration) -> Result<Reached, NoService> {
        let generation = match target {
            Target::Generation(generation) => generation,
            Target::Newest => self.catalog.load().generation(),
            Target::Service(service) => {
                let at = self.catalog.load().changed_at(&service);
                at.ok_or(NoService(service))?
            }
        };
        let deadline = Instant::now() + limit;
        loop {
            let moved = self.clients.moved();
            let mut moved = std::pin::pin!(moved);
            // What moves from here on is not missed.
            moved.as_mut().enable();
            let reached = self.look(generation);
            if reached.is_all() || timeout_at(deadline, moved).await.is_err() {
                return Ok(reached);
            }
        }
    }
}

fn why(client: &ClientStatus) -> Lacking {
    let refuses = client.types.iter().find_map(|(kind, status)| {
        status.nacked.as_ref().map(|words| format!("refuses {kind}: {words}"))
    });
    let waits = || {
        let unanswered =
            client.types.iter().find(|(_, status)| status.sent_at_ms > status.answered_at_ms());
        unanswered.map(|(kind, _)| format!("has not answered a response of {kind}"))
    };
    let reason = refuses.or_else(waits).unwrap_or_else(|| "is about to be sent it".to_owned());
    let name = if client.node.is_empty() { &client.peer } else { &client.node };
    Lacking { client: name.clone(), generation: client.generation, reason }
}
