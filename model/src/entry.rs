//! A service with its endpoints: which of them count, and where its traffic goes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::endpoint::{Endpoint, Slice};
use crate::name::Scope;
use crate::service::{Service, ServicePort};

/// A service with the slices that name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceEntry {
    /// The service.
    pub service: Arc<Service>,
    /// Its slices, sorted by name.
    pub slices: Vec<Arc<Slice>>,
}

impl ServiceEntry {
    /// Whether this endpoint counts as ready for this service: its own condition, or
    /// `publishNotReadyAddresses` (Kubernetes sets the slice's condition for it as well).
    #[must_use]
    pub fn is_ready(&self, endpoint: &Endpoint) -> bool {
        endpoint.conditions.ready || self.service.publish_not_ready
    }

    /// Where traffic for one port of the service goes: every ready endpoint or, when there is none,
    /// those that are on their way out and still answer (KEP-1669).
    #[must_use]
    pub fn targets(&self, port: &ServicePort) -> Vec<(SocketAddr, &Endpoint)> {
        let ready = self.ready_targets(port);
        if !ready.is_empty() {
            return ready;
        }
        self.leaving_targets(port)
    }

    /// Endpoints of a port that are on their way out and still answer.
    pub(crate) fn leaving_targets(&self, port: &ServicePort) -> Vec<(SocketAddr, &Endpoint)> {
        self.targets_that(port, |e| e.conditions.serving && e.conditions.terminating)
    }

    /// Address and port of every ready endpoint of a port, sorted, each once however many slices
    /// list it.
    #[must_use]
    pub fn ready_targets(&self, port: &ServicePort) -> Vec<(SocketAddr, &Endpoint)> {
        self.targets_that(port, |e| self.is_ready(e))
    }

    fn targets_that(
        &self,
        port: &ServicePort,
        wanted: impl Fn(&Endpoint) -> bool,
    ) -> Vec<(SocketAddr, &Endpoint)> {
        let wanted = &wanted;
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
                        .filter(|e| wanted(e))
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

    /// The cluster an endpoint of this service is in; `None` for the cluster itself.
    #[must_use]
    pub fn cluster_of(&self, endpoint: &Endpoint) -> Option<&Arc<str>> {
        if self.service.key.scope() == Scope::Cluster {
            return None;
        }
        let has = |slice: &&Arc<Slice>| {
            slice.endpoints.binary_search_by_key(&endpoint.address, |e| e.address).is_ok()
        };
        self.slices.iter().find(has)?.cluster.as_ref()
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
    use crate::name::ServiceKey;
    use crate::service::{Protocol, ServiceKind};

    fn slice(name: &str, port: u16, endpoints: &[(u8, bool)]) -> Arc<Slice> {
        let endpoints = endpoints.iter().map(|(octet, ready)| Endpoint {
            conditions: Conditions { ready: *ready, ..Conditions::READY },
            ..Endpoint::at(IpAddr::from([10, 0, 0, *octet]))
        });
        let ports = vec![SlicePort { name: "main".into(), protocol: Protocol::Tcp, port }];
        Arc::new(Slice { name: name.into(), cluster: None, ports, endpoints: endpoints.collect() })
    }

    fn entry(name: &str, slices: Vec<Arc<Slice>>) -> ServiceEntry {
        let port = ServicePort::new("main", Protocol::Tcp, 80);
        let key = ServiceKey::parse(name).expect("valid");
        let service = Service::new(key, ServiceKind::Headless, vec![port]);
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
    fn endpoints_on_their_way_out_are_used_when_nobody_else_is_left() {
        let with = |conditions: &[(u8, bool, bool)]| {
            let mut slice = (*slice("a", 8080, &[])).clone();
            slice.endpoints = (conditions.iter())
                .map(|(octet, ready, serving)| Endpoint {
                    conditions: Conditions {
                        ready: *ready,
                        serving: *serving,
                        terminating: !ready,
                    },
                    ..Endpoint::at(IpAddr::from([10, 0, 0, *octet]))
                })
                .collect();
            let entry = entry("shop/web", vec![Arc::new(slice)]);
            let targets = entry.targets(&entry.service.ports[0]);
            targets.iter().map(|(address, _)| address.to_string()).collect::<Vec<_>>()
        };
        let leaving = [(2, false, true), (3, false, false)];
        assert_eq!(with(&[&[(1, true, true)], &leaving[..]].concat()), ["10.0.0.1:8080"]);
        assert_eq!(with(&leaving), ["10.0.0.2:8080"]);
    }
}
