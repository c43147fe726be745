//! What a proxy acts on: listeners, routes, clusters and endpoints, decoded from xDS and checked.
//!
//! The xDS client makes these values, the proxy consumes them; neither knows the other. Names are
//! those of the xDS resources. The maps are persistent: one resource that changes costs itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use serde::Serialize;

use crate::policy::Balancer;
use crate::snapshot::Generation;

/// Name of an xDS resource.
pub type ResourceName = Arc<str>;

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
}

/// A socket to accept on and what to do with what arrives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Resource name.
    pub name: ResourceName,
    /// Address to bind; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What is spoken.
    pub kind: ListenerKind,
}

/// What a listener does with a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ListenerKind {
    /// HTTP/1.1 and HTTP/2 with prior knowledge, routed by this route table.
    Http {
        /// Name of the route table.
        routes: ResourceName,
    },
    /// Bytes, to this cluster.
    Tcp {
        /// Name of the cluster.
        cluster: ResourceName,
    },
}

/// Virtual hosts, and the index that finds one by its domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteTable {
    /// Resource name.
    pub name: ResourceNameOrEmpty,
    /// The virtual hosts.
    pub hosts: Vec<Arc<VirtualHost>>,
    /// Exact domains (lower case, with the port where the domain carries one) to `hosts`.
    #[serde(skip)]
    exact: std::collections::HashMap<Box<str>, usize>,
    /// `*.suffix` domains, longest suffix first, to `hosts`.
    #[serde(skip)]
    suffixes: Vec<(Box<str>, usize)>,
    /// The `*` domain.
    #[serde(skip)]
    fallback: Option<usize>,
}

/// A resource name that is empty in a default value.
pub type ResourceNameOrEmpty = Arc<str>;

/// Routes for a set of domains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Domains: exact, `*.suffix`, or `*`.
    pub domains: Vec<Arc<str>>,
    /// Routes, first match wins.
    pub routes: Vec<Route>,
}

/// Where requests under a path go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Route {
    /// How the path must look.
    pub path: PathMatch,
    /// Name of the cluster.
    pub cluster: ResourceName,
    /// From the end of the request to the whole of the response; `None` for no limit.
    pub timeout: Option<Duration>,
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// Starts with these characters.
    Prefix(Arc<str>),
    /// Is exactly this.
    Exact(Arc<str>),
}

/// A group of endpoints that serve the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cluster {
    /// Resource name.
    pub name: ResourceName,
    /// Name of its endpoint set (EDS `service_name`, else the cluster's name).
    pub endpoints: ResourceName,
    /// How to pick.
    pub balancer: Balancer,
    /// What to speak upstream.
    pub upstream: UpstreamProtocol,
    /// Limit on establishing a connection.
    pub connect_timeout: Duration,
}

/// What is spoken to a cluster's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1, except for gRPC requests, which need HTTP/2 (and bytes as they are on TCP).
    Auto,
    /// HTTP/2 with prior knowledge, always.
    Http2,
}

/// Endpoints of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointSet {
    /// Name of the set.
    pub name: ResourceName,
    /// Endpoints that may be sent traffic, in order of priority and address, each once.
    pub endpoints: Vec<Target>,
}

/// One endpoint of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share relative to the others, at least 1.
    pub weight: u32,
    /// 0 is used first; higher ones only when no lower one has an endpoint.
    pub priority: u32,
    /// The zone it is in, if known.
    pub zone: Option<Arc<str>>,
}

/// Why virtual hosts do not make a route table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoutes {
    /// Two virtual hosts claim a domain.
    #[error("domain {domain:?} stands in virtual host {first:?} and again in {second:?}")]
    DuplicateDomain {
        /// The domain.
        domain: String,
        /// Who had it first.
        first: String,
        /// Who claims it too.
        second: String,
    },
    /// A form that is not supported.
    #[error("domain {domain:?} of virtual host {host:?} is not an exact name, *.suffix or *")]
    Domain {
        /// The domain.
        domain: String,
        /// The virtual host.
        host: String,
    },
}

impl RouteTable {
    /// Builds the table and its index.
    ///
    /// # Errors
    /// [`InvalidRoutes`] for a domain claimed twice or of an unknown form (Envoy refuses the same).
    pub fn new(name: ResourceName, hosts: Vec<Arc<VirtualHost>>) -> Result<Self, InvalidRoutes> {
        let mut table = Self { name, hosts, ..Self::default() };
        for (i, host) in table.hosts.iter().enumerate() {
            for domain in &host.domains {
                let lower = domain.to_ascii_lowercase();
                let earlier = if lower == "*" {
                    table.fallback.replace(i)
                } else if let Some(suffix) = lower.strip_prefix('*') {
                    if suffix.contains('*') {
                        return Err(unsupported(domain, host));
                    }
                    let earlier =
                        table.suffixes.iter().find(|(s, _)| **s == *suffix).map(|(_, i)| *i);
                    table.suffixes.push((suffix.into(), i));
                    earlier
                } else if lower.contains('*') {
                    return Err(unsupported(domain, host));
                } else {
                    table.exact.insert(lower.into_boxed_str(), i)
                };
                if let Some(first) = earlier {
                    return Err(InvalidRoutes::DuplicateDomain {
                        domain: domain.to_string(),
                        first: table.hosts[first].name.to_string(),
                        second: host.name.to_string(),
                    });
                }
            }
        }
        table.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        Ok(table)
    }

    /// The virtual host for an authority (`host` or `host:port`, already in lower case): exact
    /// match, then longest suffix, then `*` (Envoy's order).
    #[must_use]
    pub fn lookup(&self, authority: &str) -> Option<&VirtualHost> {
        let found = self.exact.get(authority).copied().or_else(|| {
            self.suffixes
                .iter()
                .find(|(s, _)| authority.len() > s.len() && authority.ends_with(&**s))
                .map(|(_, i)| *i)
                .or(self.fallback)
        });
        found.map(|i| &*self.hosts[i])
    }
}

fn unsupported(domain: &str, host: &VirtualHost) -> InvalidRoutes {
    InvalidRoutes::Domain { domain: domain.to_owned(), host: host.name.to_string() }
}

impl VirtualHost {
    /// The first route whose condition the path meets. `path` is without the query.
    #[must_use]
    pub fn route(&self, path: &str) -> Option<&Route> {
        self.routes.iter().find(|r| match &r.path {
            PathMatch::Prefix(prefix) => path.starts_with(&**prefix),
            PathMatch::Exact(exact) => path == &**exact,
        })
    }
}

impl EndpointSet {
    /// The endpoints of the lowest priority that has any.
    #[must_use]
    pub fn first_priority(&self) -> &[Target] {
        let Some(first) = self.endpoints.first() else { return &[] };
        let end = self.endpoints.partition_point(|t| t.priority <= first.priority);
        &self.endpoints[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str, domains: &[&str]) -> Arc<VirtualHost> {
        let domains = domains.iter().map(|d| Arc::from(*d)).collect();
        Arc::new(VirtualHost { name: name.into(), domains, routes: Vec::new() })
    }

    #[test]
    fn a_domain_is_found_exactly_then_by_longest_suffix_then_by_star() {
        let table = RouteTable::new(
            "r".into(),
            vec![
                host("exact", &["web.shop", "web.shop:80"]),
                host("short", &["*.shop"]),
                host("long", &["*.eu.shop"]),
                host("any", &["*"]),
            ],
        )
        .expect("valid");
        for (authority, expected) in [
            ("web.shop", "exact"),
            ("web.shop:80", "exact"),
            ("web.shop:81", "any"),
            ("api.shop", "short"),
            (".shop", "any"),
            ("api.eu.shop", "long"),
            ("other", "any"),
        ] {
            assert_eq!(table.lookup(authority).map(|h| &*h.name), Some(expected), "{authority}");
        }
    }

    #[test]
    fn a_domain_claimed_twice_is_refused() {
        let twice = RouteTable::new("r".into(), vec![host("a", &["x"]), host("b", &["X"])]);
        assert!(matches!(twice, Err(InvalidRoutes::DuplicateDomain { .. })), "{twice:?}");
        let form = RouteTable::new("r".into(), vec![host("a", &["x.*"])]);
        assert!(matches!(form, Err(InvalidRoutes::Domain { .. })), "{form:?}");
    }
}
