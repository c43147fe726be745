//! The Kubernetes API as the source of a control loop.
//!
//! A task per kind lists and watches; this loop alone writes the index and publishes, at the pace
//! of [`crate::coalesce`]. Nothing is published before every list is complete.

pub mod announce;
mod apply;
pub mod connect;
pub mod guard;
mod item;
mod lease;
mod statuses;
pub mod store;
mod tokens;
mod trouble;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kube::Client;
use portolan_model::Snapshot;
use portolan_runtime::{Gate, Lifecycle, Publisher, Staleness};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::coalesce::{Coalescer, Pace};
use crate::holds::HoldsEnd;
use crate::index::Index;
use crate::loads::LoadsEnd;
use crate::object::Kind;
use crate::outlet::{GuardParts, Outlet};
use crate::rejection::Origin;
use crate::removal::GuardLimits;
use crate::report::{ControlMetrics, Reports};
use apply::Loop;
use statuses::Writer;
use store::Store;

pub use announce::Announcer;
pub use connect::{Connect, ConnectError};
pub use item::Read;
pub use tokens::TokenReviewer;
pub use watch::WatchLimits;

/// Events that may wait for the loop, over all kinds; at the bound the watches wait.
const MESSAGES: usize = 4096;

/// A Kubernetes API as the source of a control loop.
pub struct Kubernetes {
    client: Client,
    limits: WatchLimits,
    pace: Pace,
    reports: Reports,
    metrics: ControlMetrics,
    saved: Option<Snapshot>,
    staleness: Option<Staleness>,
    events_as: Option<String>,
    statuses_as: Option<String>,
    pods: bool,
    gateway_api: bool,
    guard: GuardParts,
    loads: LoadsEnd,
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("pace", &self.pace).finish_non_exhaustive()
    }
}

/// Why the loop ended although nothing had asked it to.
#[derive(Debug, thiserror::Error)]
#[error("a watch of the Kubernetes API broke off: {reason}")]
pub struct WatchBroken {
    reason: String,
}

impl Kubernetes {
    /// Over this client; nothing is asked yet.
    #[must_use]
    pub fn new(client: Client, pace: Pace, reports: Reports, metrics: ControlMetrics) -> Self {
        let limits = WatchLimits::default();
        let (saved, staleness, events_as) = (None, None, None);
        Self {
            client,
            limits,
            pace,
            reports,
            metrics,
            saved,
            staleness,
            events_as,
            statuses_as: None,
            pods: false,
            gateway_api: true,
            guard: GuardParts::default(),
            loads: LoadsEnd::default(),
        }
    }

    /// With loads, by which backends of routes are compared.
    #[must_use]
    pub fn with_loads(mut self, loads: LoadsEnd) -> Self {
        self.loads = loads;
        self
    }

    /// With these limits of what may be gone at once, and commands for what is held back.
    #[must_use]
    pub fn with_guard(mut self, limits: GuardLimits, holds: HoldsEnd) -> Self {
        self.guard = GuardParts { limits, holds };
        self
    }

    /// Writes Events on objects that are refused, by this name among the replicas.
    #[must_use]
    pub fn with_events(mut self, identity: String) -> Self {
        self.events_as = Some(identity);
        self
    }

    /// Writes the statuses of objects of the Gateway API, by this name among the replicas.
    #[must_use]
    pub fn with_statuses(mut self, identity: String) -> Self {
        self.statuses_as = Some(identity);
        self
    }

    /// Whether pods are watched as well. By default none is asked for: they are many and change
    /// often, and only names of pods' addresses need them.
    #[must_use]
    pub fn with_pods(mut self, pods: bool) -> Self {
        self.pods = pods;
        self
    }

    /// Whether objects of the Gateway API are watched as well; by default they are.
    #[must_use]
    pub fn with_gateway_api(mut self, gateway_api: bool) -> Self {
        self.gateway_api = gateway_api;
        self
    }

    /// Publishes this copy of an earlier snapshot first, marked stale until the API server has
    /// told everything.
    #[must_use]
    pub fn with_saved(mut self, saved: Snapshot, staleness: Staleness) -> Self {
        self.saved = Some(saved);
        self.staleness = Some(staleness);
        self
    }

    /// With other limits on its watches.
    #[must_use]
    pub fn with_limits(mut self, limits: WatchLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Publishes what the API server has, and again whenever that changes, until draining.
    ///
    /// # Errors
    /// When a watch ends by itself, which only a panic in it makes it do.
    pub async fn run(
        self,
        publisher: Publisher,
        gate: Gate,
        lifecycle: Lifecycle,
    ) -> Result<(), WatchBroken> {
        let (sender, messages) = mpsc::channel(MESSAGES);
        let mut watches = JoinSet::new();
        let (client, limits) = (&self.client, self.limits);
        if self.pods {
            watches.spawn(watch::run::<item::Pod>(client.clone(), limits, sender.clone()));
        }
        watches.spawn(watch::run::<item::Namespace>(client.clone(), limits, sender.clone()));
        watches.spawn(watch::run::<item::Node>(client.clone(), limits, sender.clone()));
        watches.spawn(watch::run::<item::Service>(client.clone(), limits, sender.clone()));
        watches.spawn(watch::run::<item::ServiceImport>(client.clone(), limits, sender.clone()));
        watches.spawn(watch::run::<item::EndpointSlice>(client.clone(), limits, sender.clone()));
        watches.spawn(watch::run::<item::AccessPolicy>(client.clone(), limits, sender.clone()));
        if self.gateway_api {
            let (client, sender) = (|| client.clone(), || sender.clone());
            watches.spawn(watch::run::<item::GatewayClass>(client(), limits, sender()));
            watches.spawn(watch::run::<item::Gateway>(client(), limits, sender()));
            watches.spawn(watch::run::<item::HttpRoute>(client(), limits, sender()));
            watches.spawn(watch::run::<item::GrpcRoute>(client(), limits, sender()));
            watches.spawn(watch::run::<item::TcpRoute>(client(), limits, sender()));
            watches.spawn(watch::run::<item::TlsRoute>(client(), limits, sender()));
            watches.spawn(watch::run::<item::ReferenceGrant>(client(), limits, sender()));
            watches.spawn(watch::run::<item::BackendTlsPolicy>(client(), limits, sender()));
            watches.spawn(watch::run::<item::Secret>(client(), limits, sender()));
            watches.spawn(watch::run::<item::ConfigMap>(client(), limits, sender()));
        }
        drop(sender);
        let announcer = self.events_as.map(|identity| {
            let (client, reports) = (client.clone(), self.reports.subscribe());
            Announcer::new(client, reports, identity, self.metrics.clone())
        });
        let writer = self.statuses_as.filter(|_| self.gateway_api).map(|identity| {
            let (client, reports) = (client.clone(), self.reports.subscribe());
            Writer::new(client, reports, identity, self.metrics.clone())
        });
        let is_watched = |kind: &Kind| match kind {
            Kind::Pod => self.pods,
            kind => self.gateway_api || !kind.is_for_gateways(),
        };
        let watched = Kind::ALL.into_iter().filter(is_watched).collect();
        let mut index = Index::of_served();
        if self.loads.is_on() {
            index.expect_loads();
        }
        let mut control = Loop {
            store: Store::of(watched),
            index,
            coalescer: Coalescer::new(self.pace),
            outlet: Outlet::new(publisher, gate, self.metrics.clone(), self.guard),
            origin: Origin::file(&Arc::from("kubernetes")),
            sources: BTreeMap::new(),
            reports: self.reports,
            metrics: self.metrics,
            unreported: false,
            complete: false,
            staleness: self.staleness,
            loads: self.loads,
            told: Arc::default(),
        };
        if let Some(saved) = self.saved {
            control.restore(&saved);
        }
        let mut announcing = JoinSet::new();
        if let Some(announcer) = announcer {
            announcing.spawn(announcer.run(lifecycle.clone()));
        }
        if let Some(writer) = writer {
            announcing.spawn(writer.run(lifecycle.clone()));
        }
        let ended = tokio::select! {
            biased;
            () = lifecycle.draining() => Ok(()),
            Some(ended) = watches.join_next() => {
                let reason = ended.map_or_else(|e| e.to_string(), |()| "it returned".to_owned());
                Err(WatchBroken { reason })
            }
            () = control.run(messages) => {
                Err(WatchBroken { reason: "all watches are gone".to_owned() })
            }
        };
        if ended.is_err() {
            announcing.abort_all();
        }
        // It gives its Lease back; should it panic, nobody is worse off than without events.
        while let Some(Err(error)) = announcing.join_next().await {
            tracing::error!(%error, "a writer of events or statuses broke off");
        }
        ended
    }
}
