//! The endpoints of a cluster: localities with a share each, at priorities.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use super::ResourceName;

/// Envoy's default for `overprovisioning_factor`, in percent.
const OVERPROVISIONING: u32 = 140;

/// Endpoints of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSet {
    /// Name of the set.
    pub name: ResourceName,
    /// The localities, in order of priority.
    pub localities: Vec<Locality>,
    /// Endpoints in order of priority, locality and address, each once.
    pub endpoints: Vec<Target>,
    /// How much more than its share the healthy part of a priority is trusted with, in percent:
    /// at 140, load spills to the next priority once less than 100/140 of it is healthy.
    pub overprovisioning: u32,
}

/// Endpoints in one place at one priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Locality {
    /// Its region, if said.
    pub region: Arc<str>,
    /// Its zone, if said.
    pub zone: Arc<str>,
    /// Its part of the zone, if said.
    pub sub_zone: Arc<str>,
    /// 0 is used first; others as far as lower ones are not healthy.
    pub priority: u32,
    /// Its share among the localities of its priority; `None`: what its endpoints weigh together.
    pub weight: Option<u32>,
}

/// One endpoint of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share relative to the others of its locality, at least 1.
    pub weight: u32,
    /// Its place in [`EndpointSet::localities`].
    pub locality: u32,
    /// What the control plane says of it.
    pub health: Health,
    /// What subsets and hashing tell it by (Envoy's `envoy.lb` metadata; strings only). The key
    /// `hash_key` stands for the address in ring hash and Maglev.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Arc<BTreeMap<String, String>>>,
}

/// What a control plane says of an endpoint (Envoy `HealthStatus`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// It may be sent traffic.
    #[default]
    Healthy,
    /// Only when there is no better one.
    Degraded,
    /// Known, and not to be used: it counts when a priority's health is reckoned.
    Unhealthy,
    /// It ends: what it has goes on, nothing new comes. Counts as unhealthy.
    Draining,
}

impl EndpointSet {
    /// A set in one locality without a name, at priority 0.
    #[must_use]
    pub fn flat(name: ResourceName, targets: impl IntoIterator<Item = (SocketAddr, u32)>) -> Self {
        let endpoints = targets.into_iter().map(|(address, weight)| Target {
            address,
            weight: weight.max(1),
            locality: 0,
            health: Health::Healthy,
            labels: None,
        });
        Self::new(name, vec![Locality::default()], endpoints.collect())
    }

    /// A set with Envoy's default of overprovisioning.
    #[must_use]
    pub fn new(name: ResourceName, localities: Vec<Locality>, endpoints: Vec<Target>) -> Self {
        Self { name, localities, endpoints, overprovisioning: OVERPROVISIONING }
    }

    /// The locality of an endpoint of this set.
    #[must_use]
    pub fn locality(&self, target: &Target) -> Option<&Locality> {
        self.localities.get(usize::try_from(target.locality).ok()?)
    }

    /// The priority of an endpoint of this set.
    #[must_use]
    pub fn priority(&self, target: &Target) -> u32 {
        self.locality(target).map_or(0, |locality| locality.priority)
    }
}

impl Default for Locality {
    fn default() -> Self {
        Self { region: "".into(), zone: "".into(), sub_zone: "".into(), priority: 0, weight: None }
    }
}
