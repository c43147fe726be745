//! What a proxy acts on: listeners, routes, clusters and endpoints, decoded from xDS and checked.
//!
//! The xDS client makes these values, the proxy consumes them; neither knows the other. Names are
//! those of the xDS resources. The maps are persistent: one resource that changes costs itself.

mod access;
mod cluster;
mod endpoints;
mod listener;
mod route;
mod tls;

use std::sync::Arc;

use imbl::OrdMap;
use serde::Serialize;

use crate::name::ServiceKey;
use crate::snapshot::Generation;

pub use access::{Access, AccessAction, AccessRule, AccessTest, Caller, Network};
pub use cluster::{
    AdaptiveConcurrency, Balancing, Cluster, ClusterTotals, Fallback, Limits, LocalityMode,
    Outlier, ProxyHeader, SlowStart, SubsetKeys, Subsets, SuccessRate, Upstream, UpstreamProtocol,
};
pub use endpoints::{EndpointSet, Health, Locality, Target};
pub use listener::{
    AcceptProxy, ClientCertField, EscapedSlashes, HttpOptions, Listener, ListenerKind, SniChain,
    StripPort, TcpOptions, Underscores,
};
pub use route::{
    Abort, Action, Asked, Conditions, Cors, CorsVerdict, Edits, Fault, HashPolicy, HeaderEdit,
    HeaderMatch, HeaderTest, InvalidRoutes, Mirror, PathEdit, PathMatch, Pattern, PerClient,
    QueryMatch, RateLimit, Redirect, Respond, Route, RouteTable, Session, SessionBy, Share,
    Substitution, Taken, TextMatch, TextTest, VirtualHost, falls_in, pick,
};

pub use tls::{
    Beside, BesideChain, ClientCertificates, ClientTls, NameKind, NameMatch, Secret, ServerTls,
    TlsChain, TlsVersions, Trusted, covers, narrowest,
};

/// Name of an xDS resource.
pub type ResourceName = Arc<str>;

/// The cluster (and endpoint set) of one port of a service: `shop/web:80`.
#[must_use]
pub fn cluster_name(key: &ServiceKey, port: u16) -> ResourceName {
    format!("{key}:{port}").into()
}

/// The whole configuration of a proxy at one moment. Cloning costs reference counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct TrafficConfig {
    /// The control plane's generation this config holds in full; `None` when the control plane
    /// does not say (any that is not Portolan's).
    pub generation: Option<Generation>,
    /// Listeners by name.
    pub listeners: OrdMap<ResourceName, Arc<Listener>>,
    /// Route tables by name.
    pub routes: OrdMap<ResourceName, Arc<RouteTable>>,
    /// Clusters by name.
    pub clusters: OrdMap<ResourceName, Arc<Cluster>>,
    /// Endpoint sets by the name of their cluster.
    pub endpoints: OrdMap<ResourceName, Arc<EndpointSet>>,
    /// Certificates and authorities by name.
    pub secrets: OrdMap<ResourceName, Arc<Secret>>,
}

impl TrafficConfig {
    /// Names of the secrets that listeners and clusters need.
    pub fn named_secrets(&self) -> impl Iterator<Item = &ResourceName> {
        let listeners = self.listeners.values().flat_map(|listener| listener.secrets());
        listeners.chain(self.clusters.values().flat_map(|cluster| cluster.secrets()))
    }
}
