//! What the proxy runs with, for people: the page `/debug/proxy`. Decides nothing.

pub(crate) mod live;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portolan_model::Generation;
use portolan_model::traffic::{EndpointSet, ListenerKind, ResourceName, Target, TrafficConfig};
use serde::Serialize;

/// Reads the state of a running proxy. Cheap to clone; costs the proxy nothing until asked.
#[derive(Clone, Debug, Default)]
pub struct StateHandle(Arc<ArcSwap<Applied>>);

/// What is applied, as shared values; made into a [`ProxyView`] only when somebody looks.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) generation: Option<Generation>,
    pub(crate) config: Arc<TrafficConfig>,
    pub(crate) listeners: BTreeMap<ResourceName, ListenerView>,
    /// Who knows more; `None` before the proxy runs.
    pub(crate) sources: Option<live::Sources>,
}

/// The state of a proxy.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyView<E = EndpointView> {
    /// Generation applied in full; `None` before the first.
    pub generation: Option<Generation>,
    /// Listeners by name.
    pub listeners: BTreeMap<ResourceName, ListenerView>,
    /// Endpoints by cluster, all priorities.
    pub clusters: BTreeMap<ResourceName, Vec<E>>,
}

/// A listener as it is.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerView {
    /// Where it is to listen.
    pub asked: SocketAddr,
    /// Where it listens; with an error beside it, where it did before it changed. `None` while
    /// it could not be bound at all.
    pub bound: Option<SocketAddr>,
    /// Why it is not bound as it is to be; it is tried again.
    pub error: Option<String>,
    /// What it does at present.
    pub kind: ListenerKind,
}

/// An endpoint as the balancer has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share.
    pub weight: u32,
    /// Its priority; only the lowest of a cluster is used.
    pub priority: u32,
}

impl StateHandle {
    /// The state at this moment.
    #[must_use]
    pub fn view(&self) -> ProxyView {
        self.0.load().view()
    }

    pub(crate) fn store(&self, applied: Applied) {
        self.0.store(Arc::new(applied));
    }
}

impl Applied {
    fn view(&self) -> ProxyView {
        let endpoints = |set: &ResourceName| {
            let set = self.config.endpoints.get(set);
            let view = |set: &Arc<EndpointSet>, target: &Target| EndpointView {
                address: target.address,
                weight: target.weight,
                priority: set.priority(target),
            };
            set.iter().flat_map(|set| set.endpoints.iter().map(|t| view(set, t))).collect()
        };
        ProxyView {
            generation: self.generation,
            listeners: self.listeners.clone(),
            clusters: (self.config.clusters.iter())
                .map(|(name, cluster)| (Arc::clone(name), endpoints(&cluster.endpoints)))
                .collect(),
        }
    }
}
