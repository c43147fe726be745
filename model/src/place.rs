//! Which endpoints a client gets by where it is: traffic policy, hints and preferences, as
//! Kubernetes defines them for its own proxy (KEP-2086, KEP-2433, KEP-4444, KEP-3015).

use std::net::SocketAddr;
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::service::{Distribution, ServicePort, TrafficPolicy};
use crate::snapshot::ServiceEntry;

/// Where a client is, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// The zone it is in.
    pub zone: Option<Arc<str>>,
}

/// Endpoints of a port with their sockets.
type Targets<'a> = Vec<(SocketAddr, &'a Endpoint)>;

impl ServiceEntry {
    /// Whether clients in different places may get different endpoints.
    #[must_use]
    pub fn depends_on_place(&self) -> bool {
        let traffic = &self.service.traffic;
        traffic.internal == TrafficPolicy::Local
            || traffic.distribution.is_some()
            || self.slices.iter().flat_map(|s| &s.endpoints).any(|e| e.hints.is_some())
    }

    /// Where the traffic of a client in this place goes for one port. What is not known of the
    /// place restricts nothing.
    #[must_use]
    pub fn targets_at(&self, port: &ServicePort, place: &Place) -> Targets<'_> {
        let traffic = &self.service.traffic;
        if let (TrafficPolicy::Local, Some(node)) = (traffic.internal, &place.node) {
            // Those on the node, ready or at least answering, or none at all (KEP-2086, KEP-1669).
            let ready = is_on(&self.ready_targets(port), node);
            let leaving = || is_on(&self.leaving_targets(port), node);
            return if ready.is_empty() { leaving() } else { ready };
        }
        let ready = self.ready_targets(port);
        if ready.is_empty() {
            return self.targets(port);
        }
        by_hints(&ready, place)
            .or_else(|| by_preference(&ready, place, traffic.distribution))
            .unwrap_or(ready)
    }
}

fn is_on<'a>(targets: &[(SocketAddr, &'a Endpoint)], node: &Arc<str>) -> Targets<'a> {
    targets.iter().filter(|(_, e)| e.node.as_ref() == Some(node)).copied().collect()
}

/// Hints count when every ready endpoint has some and one of them names the client's place; hints
/// for nodes come before those for zones.
fn by_hints<'a>(ready: &[(SocketAddr, &'a Endpoint)], place: &Place) -> Option<Targets<'a>> {
    let matching = |of: fn(&Endpoint) -> &[Arc<str>], own: Option<&Arc<str>>| {
        let own = own.filter(|_| ready.iter().all(|(_, e)| !of(e).is_empty()))?;
        let meant: Targets<'a> =
            ready.iter().filter(|(_, e)| of(e).contains(own)).copied().collect();
        (!meant.is_empty()).then_some(meant)
    };
    let nodes: fn(&Endpoint) -> &[Arc<str>] = |e| e.hints.as_ref().map_or(&[], |h| &h.nodes);
    let zones: fn(&Endpoint) -> &[Arc<str>] = |e| e.hints.as_ref().map_or(&[], |h| &h.zones);
    matching(nodes, place.node.as_ref()).or_else(|| matching(zones, place.zone.as_ref()))
}

/// Where nobody worked out hints (manifests, slices of one's own), the preference itself counts:
/// the nearest endpoints, if there are any.
fn by_preference<'a>(
    ready: &[(SocketAddr, &'a Endpoint)],
    place: &Place,
    distribution: Option<Distribution>,
) -> Option<Targets<'a>> {
    if ready.iter().any(|(_, e)| e.hints.is_some()) {
        return None;
    }
    let some = |targets: Targets<'a>| (!targets.is_empty()).then_some(targets);
    let in_zone = || {
        let zone = place.zone.as_ref()?;
        some(ready.iter().filter(|(_, e)| e.zone.as_ref() == Some(zone)).copied().collect())
    };
    match distribution? {
        Distribution::PreferSameZone => in_zone(),
        Distribution::PreferSameNode => {
            place.node.as_ref().and_then(|node| some(is_on(ready, node))).or_else(in_zone)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::{Conditions, Hints, Slice, SlicePort};
    use crate::name::ServiceKey;
    use crate::service::{Protocol, Service, ServiceKind, Traffic};
    use std::net::IpAddr;

    /// Last octet, node, zone, hints for nodes and for zones (by commas), ready.
    type Row = (u8, &'static str, &'static str, &'static str, &'static str, bool);

    /// What it is about, the service's traffic, its endpoints, the client's node and zone, and the
    /// endpoints it gets.
    type Case<'a> = (&'a str, Traffic, &'a [Row], &'a str, &'a str, &'a [u8]);

    fn texts(list: &str) -> Vec<Arc<str>> {
        list.split(',').filter(|t| !t.is_empty()).map(Arc::from).collect()
    }

    /// Last octets of the endpoints that a client in a place gets.
    fn got(traffic: Traffic, rows: &[Row], node: &str, zone: &str) -> Vec<u8> {
        let port = ServicePort::new("", Protocol::Tcp, 80);
        let key = ServiceKey::new("ns", "it").expect("valid");
        let mut service = Service::new(key, ServiceKind::Headless, vec![port.clone()]);
        service.traffic = traffic;
        let endpoints = rows.iter().map(|(octet, node, zone, for_nodes, for_zones, ready)| {
            let hints = Hints { nodes: texts(for_nodes), zones: texts(for_zones) };
            Endpoint {
                conditions: Conditions { ready: *ready, serving: true, terminating: !ready },
                node: Some((*node).into()),
                zone: Some((*zone).into()),
                hints: (hints != Hints::default()).then(|| Arc::new(hints)),
                ..Endpoint::at(IpAddr::from([10, 0, 0, *octet]))
            }
        });
        let slice = Slice {
            name: "s".into(),
            cluster: None,
            ports: vec![SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 80 }],
            endpoints: endpoints.collect(),
        };
        let slices = vec![Arc::new(slice)];
        let entry = ServiceEntry { service: Arc::new(service), slices };
        let known = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
        let place = Place { node: known(node), zone: known(zone) };
        let octet = |a: SocketAddr| a.to_string().split(['.', ':']).nth(3).map(str::parse);
        let targets = entry.targets_at(&port, &place);
        targets.iter().map(|(a, _)| octet(*a).expect("four").expect("a number")).collect()
    }

    #[test]
    fn each_policy_gives_a_client_the_endpoints_kubernetes_would() {
        let plain = Traffic::default;
        let local = || Traffic { internal: TrafficPolicy::Local, ..plain() };
        let prefer = |d| Traffic { distribution: Some(d), ..plain() };
        let (zone, node) = (Distribution::PreferSameZone, Distribution::PreferSameNode);
        let none: &[Row] = &[
            (1, "n1", "a", "", "", true),
            (2, "n2", "a", "", "", true),
            (3, "n3", "b", "", "", true),
        ];
        let zones: &[Row] = &[
            (1, "n1", "a", "", "a", true),
            (2, "n2", "a", "", "a,c", true),
            (3, "n3", "b", "", "b", true),
        ];
        let nodes: &[Row] = &[
            (1, "n1", "a", "n1", "a", true),
            (2, "n2", "a", "n2", "a", true),
            (3, "n3", "b", "n3", "b", true),
        ];
        let partial: &[Row] = &[(1, "n1", "a", "", "a", true), (3, "n3", "b", "", "", true)];
        let leaving: &[Row] = &[(1, "n1", "a", "", "a", false), (3, "n3", "b", "", "b", true)];
        #[rustfmt::skip]
        let cases: Vec<Case<'_>> = vec![
            ("no policy", plain(), none, "n1", "a", &[1, 2, 3]),
            ("Local: those on the node", local(), none, "n1", "a", &[1]),
            ("Local: nobody on the node", local(), none, "n9", "a", &[]),
            ("Local: the node is not known", local(), none, "", "a", &[1, 2, 3]),
            ("Local: one that leaves is better than none", local(), leaving, "n1", "a", &[1]),
            ("hints for the zone", plain(), zones, "n1", "a", &[1, 2]),
            ("hints for another zone too", plain(), zones, "n9", "c", &[2]),
            ("hints for no such zone", plain(), zones, "n9", "z", &[1, 2, 3]),
            ("the zone is not known", plain(), zones, "n1", "", &[1, 2, 3]),
            ("hints that not all have", plain(), partial, "n1", "a", &[1, 3]),
            ("hints for the node", plain(), nodes, "n2", "a", &[2]),
            ("hints for no such node, but for its zone", plain(), nodes, "n9", "a", &[1, 2]),
            ("an endpoint that leaves has no say", plain(), leaving, "n1", "a", &[3]),
            ("same zone preferred", prefer(zone), none, "n9", "a", &[1, 2]),
            ("same zone preferred, nobody there", prefer(zone), none, "n9", "z", &[1, 2, 3]),
            ("same node preferred", prefer(node), none, "n2", "a", &[2]),
            ("same node preferred, then the zone", prefer(node), none, "n9", "b", &[3]),
            ("hints go before the preference", prefer(node), zones, "n1", "b", &[3]),
        ];
        for (about, traffic, rows, node, zone, expected) in cases {
            assert_eq!(got(traffic, rows, node, zone), expected, "{about}");
        }
    }
}
