//! The snapshot: everything known at one generation, immutable, shared by all roles.
//!
//! A snapshot is a handle on persistent maps. Cloning it costs a few reference counts, and
//! writing one service copies the path to that service, never the cluster
//! (`benches/snapshot.rs` shows the curve).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use imbl::OrdMap;
use serde::{Serialize, Serializer};

use crate::endpoint::{Endpoint, Slice};
use crate::name::ServiceKey;
use crate::service::{Service, ServicePort};

/// Number of a snapshot. Starts at 1 with the first publish and grows by one per publish.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Generation(pub u64);

/// All services and their endpoints at one generation.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    generation: Generation,
    services: OrdMap<ServiceKey, Arc<ServiceEntry>>,
    /// Services per namespace; a namespace exists while it has one.
    namespaces: OrdMap<Arc<str>, usize>,
}

/// A service with the slices that name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceEntry {
    /// The service.
    pub service: Arc<Service>,
    /// Its slices, sorted by name.
    pub slices: Vec<Arc<Slice>>,
}

impl Generation {
    /// The generation that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Snapshot {
    /// Its number; 0 only before the first publish.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The entry of one service.
    #[must_use]
    pub fn lookup(&self, key: &ServiceKey) -> Option<&Arc<ServiceEntry>> {
        self.services.get(key)
    }

    /// Every service in order of its key.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceKey, &Arc<ServiceEntry>)> {
        self.services.iter()
    }

    /// How many services there are.
    #[must_use]
    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    /// Whether a namespace has any service.
    #[must_use]
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// Every namespace that has a service, in order.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.namespaces.keys()
    }

    /// How many endpoint addresses all slices list together. Linear in the number of slices.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.services.values().flat_map(|e| &e.slices).map(|s| s.endpoints.len()).sum()
    }

    /// Puts a service in place of what stood under its key.
    /// Costs O(log services), whatever the size of the cluster.
    pub fn apply(&mut self, entry: Arc<ServiceEntry>) {
        let key = entry.service.key.clone();
        let namespace = key.namespace().clone();
        if self.services.insert(key, entry).is_none() {
            let count = self.namespaces.get(&namespace).copied().unwrap_or(0);
            self.namespaces.insert(namespace, count + 1);
        }
    }

    /// Takes a service out; returns whether it was there. Costs O(log services).
    pub fn delete(&mut self, key: &ServiceKey) -> bool {
        if self.services.remove(key).is_none() {
            return false;
        }
        match self.namespaces.get(key.namespace()).copied() {
            Some(count) if count > 1 => {
                self.namespaces.insert(key.namespace().clone(), count - 1);
            }
            _ => {
                self.namespaces.remove(key.namespace());
            }
        }
        true
    }

    /// The same content under another generation.
    #[must_use]
    pub fn at(&self, generation: Generation) -> Self {
        Self { generation, ..self.clone() }
    }
}

impl Serialize for Snapshot {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        struct Entries<'a>(&'a Snapshot);
        impl Serialize for Entries<'_> {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.0.services.values().map(|e| &**e))
            }
        }
        let mut s = serializer.serialize_struct("Snapshot", 2)?;
        s.serialize_field("generation", &self.generation)?;
        s.serialize_field("services", &Entries(self))?;
        s.end()
    }
}

impl ServiceEntry {
    /// Whether this endpoint counts as ready for this service: its own condition, or
    /// `publishNotReadyAddresses` (Kubernetes sets the slice's condition for it as well).
    #[must_use]
    pub fn is_ready(&self, endpoint: &Endpoint) -> bool {
        endpoint.conditions.ready || self.service.publish_not_ready
    }

    /// Where traffic for one port of the service goes: address and port of every ready endpoint,
    /// sorted, each once however many slices list it.
    #[must_use]
    pub fn ready_targets(&self, port: &ServicePort) -> Vec<(SocketAddr, &Endpoint)> {
        let mut seen = BTreeSet::new();
        let mut targets: Vec<(SocketAddr, &Endpoint)> = self
            .slices
            .iter()
            .flat_map(|slice| {
                let number = slice
                    .ports
                    .iter()
                    .find(|p| *p.name == *port.endpoint_port_name() && p.protocol == port.protocol)
                    .map(|p| p.port);
                number.into_iter().flat_map(|n| {
                    slice
                        .endpoints
                        .iter()
                        .filter(|e| self.is_ready(e))
                        .map(move |e| (SocketAddr::new(e.address, n), e))
                })
            })
            .filter(|(address, _)| seen.insert(*address))
            .collect();
        targets.sort_by_key(|(address, _)| *address);
        targets
    }

    /// The ready endpoints, sorted by address, each address once.
    #[must_use]
    pub fn ready_endpoints(&self) -> Vec<&Endpoint> {
        let mut endpoints: Vec<&Endpoint> =
            self.slices.iter().flat_map(|s| &s.endpoints).filter(|e| self.is_ready(e)).collect();
        endpoints.sort_by(|a, b| (a.address, &a.hostname).cmp(&(b.address, &b.hostname)));
        endpoints.dedup_by_key(|e| e.address);
        endpoints
    }

    /// Endpoints listed and endpoints ready, each address once: `(ready, listed)`.
    #[must_use]
    pub fn readiness(&self) -> (usize, usize) {
        let listed: BTreeSet<IpAddr> =
            self.slices.iter().flat_map(|s| &s.endpoints).map(|e| e.address).collect();
        (self.ready_endpoints().len(), listed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Conditions, SlicePort};
    use crate::service::{Protocol, ServiceKind};

    fn slice(name: &str, port: u16, endpoints: &[(u8, bool)]) -> Arc<Slice> {
        let endpoints = endpoints.iter().map(|(octet, ready)| Endpoint {
            address: IpAddr::from([10, 0, 0, *octet]),
            conditions: Conditions { ready: *ready, ..Conditions::READY },
            hostname: None,
            node: None,
            zone: None,
        });
        let ports = vec![SlicePort { name: "main".into(), protocol: Protocol::Tcp, port }];
        Arc::new(Slice { name: name.into(), ports, endpoints: endpoints.collect() })
    }

    fn entry(name: &str, slices: Vec<Arc<Slice>>) -> ServiceEntry {
        let port = ServicePort {
            name: Some("main".into()),
            protocol: Protocol::Tcp,
            port: 80,
            app_protocol: None,
        };
        let service = Service {
            key: ServiceKey::parse(name).expect("valid"),
            kind: ServiceKind::Headless,
            ports: vec![port],
            publish_not_ready: false,
            balancer: None,
        };
        ServiceEntry { service: Arc::new(service), slices }
    }

    #[test]
    fn slices_are_merged_and_each_endpoint_counts_once() {
        // 10.0.0.2 stands in both; the second slice listens on another port.
        let one = slice("a", 8080, &[(1, true), (2, true), (3, false)]);
        let two = slice("b", 8081, &[(2, true), (4, true)]);
        let again = slice("c", 8080, &[(1, true)]);
        let merged = entry("shop/web", vec![one, two, again]);
        let targets: Vec<String> = merged
            .ready_targets(&merged.service.ports[0])
            .iter()
            .map(|(address, _)| address.to_string())
            .collect();
        let expected = ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.2:8081", "10.0.0.4:8081"];
        assert_eq!(targets, expected);
        assert_eq!(merged.ready_endpoints().len(), 3);
        assert_eq!(merged.readiness(), (3, 4));

        let mut published = (*merged.service).clone();
        published.publish_not_ready = true;
        let published = ServiceEntry { service: published.into(), slices: merged.slices };
        assert_eq!(published.readiness(), (4, 4));
    }

    #[test]
    fn a_namespace_exists_while_it_has_a_service() {
        let mut snapshot = Snapshot::default();
        for name in ["a/x", "a/y", "b/z", "a/x"] {
            snapshot.apply(Arc::new(entry(name, Vec::new())));
        }
        let before = snapshot.clone();
        let key = |text| ServiceKey::parse(text).expect("valid");
        assert!(snapshot.delete(&key("a/x")) && !snapshot.delete(&key("a/x")));
        assert!(snapshot.has_namespace("a"));
        assert!(snapshot.delete(&key("a/y")));
        assert!(!snapshot.has_namespace("a") && snapshot.has_namespace("b"));
        assert_eq!((before.service_count(), snapshot.service_count()), (3, 1));
        assert!(before.has_namespace("a"), "what was published stays as it was");
    }
}
