//! Which endpoints a client gets by where it is: traffic policy, hints and preferences, as
//! Kubernetes defines them for its own proxy (KEP-2086, KEP-2433, KEP-4444, KEP-3015).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::endpoint::Endpoint;
use crate::entry::ServiceEntry;
use crate::service::{Distribution, ServicePort, TrafficPolicy};

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
        self.tiers_at(port, place).into_iter().next().unwrap_or_default()
    }

    /// The same with where it goes once nothing of that can be used: the nearest endpoints, then
    /// those of each wider ring (same node, same zone, all), every endpoint once and no tier
    /// empty. Traffic that is to stay on its node (`internalTrafficPolicy: Local`) goes nowhere
    /// else.
    #[must_use]
    pub fn tiers_at(&self, port: &ServicePort, place: &Place) -> Vec<Targets<'_>> {
        let traffic = &self.service.traffic;
        if let (TrafficPolicy::Local, Some(node)) = (traffic.internal, &place.node) {
            // Those on the node, ready or at least answering, or none at all (KEP-2086, KEP-1669).
            let ready = is_on(&self.ready_targets(port), node);
            let leaving = || is_on(&self.leaving_targets(port), node);
            return non_empty(vec![if ready.is_empty() { leaving() } else { ready }]);
        }
        let ready = self.ready_targets(port);
        if ready.is_empty() {
            return non_empty(vec![self.targets(port)]);
        }
        let mut rings = rings(&ready, place, traffic.distribution);
        rings.push(ready);
        let mut nearer = BTreeSet::new();
        for ring in &mut rings {
            ring.retain(|(address, _)| nearer.insert(*address));
        }
        non_empty(rings)
    }

    /// The place without what makes no difference to this service: clients whose places come down
    /// to the same get the same endpoints, on every port. There are no more of them than nodes,
    /// zones and their pairs that the service names, or nodes for traffic that stays on its own.
    #[must_use]
    pub fn place_key(&self, place: &Place) -> Place {
        let traffic = &self.service.traffic;
        if traffic.internal == TrafficPolicy::Local && place.node.is_some() {
            return Place { node: place.node.clone(), zone: None };
        }
        let any = |matters: &dyn Fn(&Endpoint) -> bool| {
            self.slices.iter().flat_map(|slice| &slice.endpoints).any(matters)
        };
        let by_node = traffic.distribution == Some(Distribution::PreferSameNode);
        let by_zone = traffic.distribution.is_some();
        let node = place.node.clone().filter(|node| {
            any(&|e| node_hints(e).contains(node) || (by_node && e.node.as_ref() == Some(node)))
        });
        let zone = place.zone.clone().filter(|zone| {
            any(&|e| zone_hints(e).contains(zone) || (by_zone && e.zone.as_ref() == Some(zone)))
        });
        Place { node, zone }
    }
}

fn non_empty(mut tiers: Vec<Targets<'_>>) -> Vec<Targets<'_>> {
    tiers.retain(|tier| !tier.is_empty());
    tiers
}

fn is_on<'a>(targets: &[(SocketAddr, &'a Endpoint)], node: &Arc<str>) -> Targets<'a> {
    targets.iter().filter(|(_, e)| e.node.as_ref() == Some(node)).copied().collect()
}

fn node_hints(endpoint: &Endpoint) -> &[Arc<str>] {
    endpoint.hints.as_ref().map_or(&[], |hints| &hints.nodes)
}

fn zone_hints(endpoint: &Endpoint) -> &[Arc<str>] {
    endpoint.hints.as_ref().map_or(&[], |hints| &hints.zones)
}

/// The endpoints near to a place, the nearest ring first; wider ones hold the nearer.
fn rings<'a>(
    ready: &[(SocketAddr, &'a Endpoint)],
    place: &Place,
    distribution: Option<Distribution>,
) -> Vec<Targets<'a>> {
    if ready.iter().any(|(_, e)| e.hints.is_some()) {
        by_hints(ready, place)
    } else {
        by_preference(ready, place, distribution)
    }
}

/// Hints count when every ready endpoint has some and one of them names the client's place; hints
/// for nodes come before those for zones.
fn by_hints<'a>(ready: &[(SocketAddr, &'a Endpoint)], place: &Place) -> Vec<Targets<'a>> {
    let matching = |of: fn(&Endpoint) -> &[Arc<str>], own: Option<&Arc<str>>| {
        let own = own.filter(|_| ready.iter().all(|(_, e)| !of(e).is_empty()))?;
        Some(ready.iter().filter(|(_, e)| of(e).contains(own)).copied().collect())
    };
    let nodes = matching(node_hints, place.node.as_ref());
    let zones = matching(zone_hints, place.zone.as_ref());
    non_empty([nodes, zones].into_iter().flatten().collect())
}

/// Where nobody worked out hints (manifests, slices of one's own), the preference itself counts:
/// the nearest endpoints, if there are any.
fn by_preference<'a>(
    ready: &[(SocketAddr, &'a Endpoint)],
    place: &Place,
    distribution: Option<Distribution>,
) -> Vec<Targets<'a>> {
    let on_node = || place.node.as_ref().map(|node| is_on(ready, node));
    let in_zone = || {
        let zone = place.zone.as_ref()?;
        Some(ready.iter().filter(|(_, e)| e.zone.as_ref() == Some(zone)).copied().collect())
    };
    let rings = match distribution {
        None => [None, None],
        Some(Distribution::PreferSameZone) => [None, in_zone()],
        Some(Distribution::PreferSameNode) => [on_node(), in_zone()],
    };
    non_empty(rings.into_iter().flatten().collect())
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
    /// endpoints it gets, tier by tier.
    type Case<'a> = (&'a str, Traffic, &'a [Row], &'a str, &'a str, &'a [&'a [u8]]);

    fn texts(list: &str) -> Vec<Arc<str>> {
        list.split(',').filter(|t| !t.is_empty()).map(Arc::from).collect()
    }

    fn entry(traffic: Traffic, rows: &[Row]) -> ServiceEntry {
        let port = ServicePort::new("", Protocol::Tcp, 80);
        let key = ServiceKey::new("ns", "it").expect("valid");
        let mut service = Service::new(key, ServiceKind::Headless, vec![port]);
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
        ServiceEntry { service: Arc::new(service), slices: vec![Arc::new(slice)] }
    }

    fn place(node: &str, zone: &str) -> Place {
        let known = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
        Place { node: known(node), zone: known(zone) }
    }

    /// Last octets of the endpoints that a client in a place gets, tier by tier.
    fn tiers(entry: &ServiceEntry, place: &Place) -> Vec<Vec<u8>> {
        let octet = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => panic!("{ip}"),
        };
        let tiers = entry.tiers_at(&entry.service.ports[0], place);
        tiers.iter().map(|tier| tier.iter().map(|(a, _)| octet(*a)).collect()).collect()
    }

    const NO_HINTS: &[Row] =
        &[(1, "n1", "a", "", "", true), (2, "n2", "a", "", "", true), (3, "n3", "b", "", "", true)];
    const ZONE_HINTS: &[Row] = &[
        (1, "n1", "a", "", "a", true),
        (2, "n2", "a", "", "a,c", true),
        (3, "n3", "b", "", "b", true),
    ];
    const NODE_HINTS: &[Row] = &[
        (1, "n1", "a", "n1", "a", true),
        (2, "n2", "a", "n2", "a", true),
        (3, "n3", "b", "n3", "b", true),
    ];
    const SOME_HINTS: &[Row] = &[(1, "n1", "a", "", "a", true), (3, "n3", "b", "", "", true)];
    const LEAVING: &[Row] = &[(1, "n1", "a", "", "a", false), (3, "n3", "b", "", "b", true)];
    const ALL_LEAVING: &[Row] = &[(1, "n1", "a", "", "", false), (3, "n3", "b", "", "", false)];

    fn local() -> Traffic {
        Traffic { internal: TrafficPolicy::Local, ..Traffic::default() }
    }

    fn prefer(distribution: Distribution) -> Traffic {
        Traffic { distribution: Some(distribution), ..Traffic::default() }
    }

    #[test]
    fn each_policy_gives_a_client_the_endpoints_kubernetes_would_then_those_farther_off() {
        let plain = Traffic::default;
        let (zone, node) = (Distribution::PreferSameZone, Distribution::PreferSameNode);
        #[rustfmt::skip]
        let cases: Vec<Case<'_>> = vec![
            ("no policy", plain(), NO_HINTS, "n1", "a", &[&[1, 2, 3]]),
            ("Local: those on the node", local(), NO_HINTS, "n1", "a", &[&[1]]),
            ("Local: nobody on the node", local(), NO_HINTS, "n9", "a", &[]),
            ("Local: the node is not known", local(), NO_HINTS, "", "a", &[&[1, 2, 3]]),
            ("Local: one that leaves is better than none", local(), LEAVING, "n1", "a", &[&[1]]),
            ("hints for the zone", plain(), ZONE_HINTS, "n1", "a", &[&[1, 2], &[3]]),
            ("hints for another zone too", plain(), ZONE_HINTS, "n9", "c", &[&[2], &[1, 3]]),
            ("hints for no such zone", plain(), ZONE_HINTS, "n9", "z", &[&[1, 2, 3]]),
            ("the zone is not known", plain(), ZONE_HINTS, "n1", "", &[&[1, 2, 3]]),
            ("hints that not all have", plain(), SOME_HINTS, "n1", "a", &[&[1, 3]]),
            ("hints for the node", plain(), NODE_HINTS, "n2", "a", &[&[2], &[1], &[3]]),
            ("hints for the node alone", plain(), NODE_HINTS, "n2", "", &[&[2], &[1, 3]]),
            ("hints for no such node, but for its zone", plain(), NODE_HINTS, "n9", "a", &[&[1, 2], &[3]]),
            ("an endpoint that leaves has no say", plain(), LEAVING, "n1", "a", &[&[3]]),
            ("all leave: there is no near and far", prefer(node), ALL_LEAVING, "n1", "a", &[&[1, 3]]),
            ("same zone preferred", prefer(zone), NO_HINTS, "n9", "a", &[&[1, 2], &[3]]),
            ("same zone preferred, whatever the node", prefer(zone), NO_HINTS, "n1", "a", &[&[1, 2], &[3]]),
            ("same zone preferred, nobody there", prefer(zone), NO_HINTS, "n9", "z", &[&[1, 2, 3]]),
            ("same node preferred", prefer(node), NO_HINTS, "n2", "a", &[&[2], &[1], &[3]]),
            ("same node preferred, then the zone", prefer(node), NO_HINTS, "n9", "b", &[&[3], &[1, 2]]),
            ("same node preferred, alone in its zone", prefer(node), NO_HINTS, "n3", "b", &[&[3], &[1, 2]]),
            ("hints go before the preference", prefer(node), ZONE_HINTS, "n1", "b", &[&[3], &[1, 2]]),
        ];
        for (about, traffic, rows, node, zone, expected) in cases {
            let (entry, place) = (entry(traffic, rows), place(node, zone));
            let tiers = tiers(&entry, &place);
            assert_eq!(tiers, expected, "{about}");
            let near = entry.targets_at(&entry.service.ports[0], &place).len();
            assert_eq!(
                near,
                tiers.first().map_or(0, Vec::len),
                "{about}: the nearest are its targets"
            );
        }
    }

    #[test]
    fn places_that_come_down_to_the_same_get_the_same_endpoints() {
        let (zone, node) = (Distribution::PreferSameZone, Distribution::PreferSameNode);
        let policies = [Traffic::default(), local(), prefer(zone), prefer(node)];
        let sets = [NO_HINTS, ZONE_HINTS, NODE_HINTS, SOME_HINTS, LEAVING, ALL_LEAVING];
        for (traffic, rows) in policies.iter().flat_map(|t| sets.map(|rows| (t, rows))) {
            let entry = entry(traffic.clone(), rows);
            for (node, zone) in ["", "n1", "n2", "n9"]
                .into_iter()
                .flat_map(|node| ["", "a", "b", "c", "z"].map(|zone| (node, zone)))
            {
                let (place, about) =
                    (place(node, zone), format!("{traffic:?} {rows:?} {node} {zone}"));
                let key = entry.place_key(&place);
                assert_eq!(tiers(&entry, &key), tiers(&entry, &place), "{about}");
                assert_eq!(entry.place_key(&key), key, "{about}: a key is its own");
            }
        }
    }

    #[test]
    fn a_place_is_told_apart_only_where_it_matters() {
        let (zone, node) = (Distribution::PreferSameZone, Distribution::PreferSameNode);
        #[rustfmt::skip]
        let cases = [
            ("no policy", Traffic::default(), NO_HINTS, place("n1", "a"), place("", "")),
            ("the zone alone", prefer(zone), NO_HINTS, place("n1", "a"), place("", "a")),
            ("a zone that nobody is in", prefer(zone), NO_HINTS, place("n1", "z"), place("", "")),
            ("both", prefer(node), NO_HINTS, place("n1", "a"), place("n1", "a")),
            ("a node that nobody is on", prefer(node), NO_HINTS, place("n9", "a"), place("", "a")),
            ("hints for zones", Traffic::default(), ZONE_HINTS, place("n1", "c"), place("", "c")),
            ("hints for nodes", Traffic::default(), NODE_HINTS, place("n1", "a"), place("n1", "a")),
            ("Local: the node alone", local(), NO_HINTS, place("n9", "a"), place("n9", "")),
        ];
        for (about, traffic, rows, place, expected) in cases {
            assert_eq!(entry(traffic, rows).place_key(&place), expected, "{about}");
        }
    }
}
