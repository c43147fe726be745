//! Which of several replicas writes: the holder of a Lease.
//!
//! Nothing is asked for while there is nothing to write. Reading needs none of this: without the
//! rights to write, the loop is the same.

use std::future::pending;
use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// For how many seconds a Lease holds without being renewed, and how long before that it is.
const LEASE_SECS: u64 = 15;
const LEASE_GRACE_SECS: u64 = 5;
/// Longest time for giving a Lease back; the drain waits for it.
const GIVING_BACK: Duration = Duration::from_secs(5);

/// A Lease, in the client's own namespace, once somebody wants to know who holds it.
pub(super) struct Lease {
    client: Client,
    name: &'static str,
    /// Unique among the replicas: the pod's name.
    identity: String,
    held: Option<Held>,
}

struct Held {
    leads: watch::Receiver<bool>,
    /// Ends by itself, giving the Lease back, once `leads` is dropped.
    task: JoinHandle<kube_lease_manager::Result<LeaseManager>>,
}

impl Lease {
    /// The Lease of this name, for a replica.
    pub(super) fn new(client: Client, name: &'static str, identity: String) -> Self {
        Self { client, name, identity, held: None }
    }

    /// Who asks for it.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether this replica is the one that writes.
    pub(super) async fn leads(&mut self) -> kube_lease_manager::Result<bool> {
        if self.held.as_ref().is_some_and(|held| held.task.is_finished()) {
            self.held = None;
        }
        if self.held.is_none() {
            let manager = LeaseManagerBuilder::new(self.client.clone(), self.name)
                .with_namespace(self.client.default_namespace())
                .with_identity(self.identity.clone())
                .with_duration(LEASE_SECS)
                .with_grace(LEASE_GRACE_SECS)
                .build()
                .await?;
            let (leads, task) = manager.watch().await;
            self.held = Some(Held { leads, task });
        }
        Ok(self.held.as_ref().is_some_and(|held| *held.leads.borrow()))
    }

    /// Completes when another may lead than before.
    pub(super) async fn changed(&mut self) {
        let still = match &mut self.held {
            Some(held) => held.leads.changed().await.is_ok(),
            None => pending().await,
        };
        if !still {
            // Its task is gone, and nobody leads here until there is another.
            self.held = None;
        }
    }

    /// Gives it back, so that another replica need not wait until it runs out.
    pub(super) async fn give_back(self) {
        let Some(Held { leads, task }) = self.held else { return };
        drop(leads);
        if !matches!(timeout(GIVING_BACK, task).await, Ok(Ok(Ok(_)))) {
            tracing::warn!(lease = self.name, "it was not given back; it runs out by itself");
        }
    }
}
