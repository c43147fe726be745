//! Nodes: where endpoints run and what is near to what.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// A node, stripped to what is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Label `topology.kubernetes.io/zone`.
    #[serde(default)]
    pub zone: Option<Arc<str>>,
    /// Label `topology.kubernetes.io/region`.
    #[serde(default)]
    pub region: Option<Arc<str>>,
    /// Its addresses of type `InternalIP`, else of type `ExternalIP`.
    pub addresses: Vec<IpAddr>,
    /// The ranges its pods have their addresses from (`spec.podCIDRs`), without host bits.
    #[serde(default)]
    pub pod_ranges: Vec<IpNet>,
}
