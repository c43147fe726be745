//! Endpoint sets by the place of the client: near endpoints first, then those farther off.

use std::net::SocketAddr;
use std::sync::Arc;

use portolan_model::service::{Distribution, TrafficPolicy};
use portolan_model::traffic::EndpointSet;
use portolan_model::{Place, ServiceEntry};
use portolan_proto::envoy::core::HealthStatus;
use portolan_proto::envoy::core::address::Address;
use portolan_proto::envoy::endpoint::lb_endpoint::HostIdentifier;
use portolan_proto::envoy::endpoint::{ClusterLoadAssignment, LbEndpoint};
use portolan_xds::client::decode;
use portolan_xds::resource::{Encoded, ResourceType, endpoints};
use portolan_xds::server::session::{Names, Request, Session, Variant};
use portolan_xds::viewer::Viewer;
use prost::Message;

use crate::support::{Told, World, any, entry, resources};

/// What a client in a place gets of `shop/web`: the session's EDS responses, by last octet.
struct Placed {
    told: Told,
    seen: Vec<Vec<String>>,
}

/// A request for the endpoints of `shop/web`, in answer to a nonce.
fn request(nonce: &str) -> Request {
    Request {
        type_url: ResourceType::Endpoints.type_url().to_owned(),
        names: Names::Exactly(vec!["shop/web:80".to_owned()]),
        nonce: nonce.to_owned(),
        ..Request::default()
    }
}

impl Placed {
    fn at(node: &str, world: &World) -> Self {
        let mut session = Session::new(Variant::Sotw, None, 10);
        let place = Place { node: Some(node.into()), zone: None };
        session.on_viewer(Viewer { place, ..Viewer::default() });
        session.on_request(request(""), 1).expect("within the limits");
        let mut placed = Self { told: Told::new(session), seen: Vec::new() };
        placed.take(world);
        placed
    }

    fn take(&mut self, world: &World) {
        while let Some(response) = self.told.next_response(world) {
            self.told.session.on_request(request(&response.nonce), 1).expect("within the limits");
            let any = any(&resources(&response)[0].1);
            let set = ClusterLoadAssignment::decode(&any.value[..]).expect("endpoints");
            let members = set.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
            let mut addresses: Vec<String> = members.map(address).collect();
            addresses.sort();
            self.seen.push(addresses);
        }
    }
}

fn address(member: &LbEndpoint) -> String {
    match &member.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => {
            match &endpoint.address.as_ref().expect("an address").address {
                Some(Address::SocketAddress(socket)) => socket.address.clone(),
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn endpoints_follow_the_place_of_the_client_and_what_changes_of_it() {
    let mut world = World::default();
    let mut local = (*entry("web", 80, &[(1, true), (2, true)])).clone();
    Arc::make_mut(&mut local.service).traffic.internal = TrafficPolicy::Local;
    for (n, endpoint) in Arc::make_mut(&mut local.slices[0]).endpoints.iter_mut().enumerate() {
        endpoint.node = Some(format!("node-{n}").into());
    }
    world.apply(Arc::new(local.clone())).publish();
    let mut clients = ["node-0", "node-1", "node-9"].map(|n| Placed::at(n, &world));
    let seen = |clients: &[Placed; 3]| clients.each_ref().map(|c| c.seen.last().cloned());
    let texts = |list: &[&str]| Some(list.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>());
    assert_eq!(seen(&clients), [texts(&["10.0.0.1"]), texts(&["10.0.0.2"]), texts(&[])]);

    // An endpoint moves: the set of all is the same, that of two clients is not.
    Arc::make_mut(&mut local.slices[0]).endpoints[1].node = Some("node-9".into());
    world.apply(Arc::new(local.clone())).publish();
    clients.iter_mut().for_each(|client| client.take(&world));
    assert_eq!(seen(&clients), [texts(&["10.0.0.1"]), texts(&[]), texts(&["10.0.0.2"])]);
    assert_eq!(clients[0].seen.len(), 1, "whose endpoints did not change is sent nothing");

    Arc::make_mut(&mut local.service).traffic.internal = TrafficPolicy::Cluster;
    world.apply(Arc::new(local)).publish();
    clients.iter_mut().for_each(|client| client.take(&world));
    let both = || texts(&["10.0.0.1", "10.0.0.2"]);
    assert_eq!(seen(&clients), [both(), both(), both()]);
}

/// Endpoints 1 to 4 on nodes n1 to n4; n1 and n2 are in zone a, n3 in b, n4 in c.
fn spread(change: impl FnOnce(&mut ServiceEntry)) -> ServiceEntry {
    let all = [(1, true), (2, true), (3, true), (4, true)];
    let mut entry = (*entry("web", 80, &all)).clone();
    let places = [("n1", "a"), ("n2", "a"), ("n3", "b"), ("n4", "c")];
    let endpoints = &mut Arc::make_mut(&mut entry.slices[0]).endpoints;
    for (endpoint, (node, zone)) in endpoints.iter_mut().zip(places) {
        (endpoint.node, endpoint.zone) = (Some(node.into()), Some(zone.into()));
    }
    change(&mut entry);
    entry
}

fn prefer(distribution: Distribution) -> impl FnOnce(&mut ServiceEntry) {
    move |entry| {
        Arc::make_mut(&mut entry.service).traffic.distribution = Some(distribution);
    }
}

/// Priority, zone, weight and last octets of each locality.
type Localities = Vec<(u32, String, u32, Vec<u8>)>;

fn last_octet(address: &str) -> u8 {
    address.rsplit('.').next().expect("a part").parse().expect("a number")
}

fn localities(encoded: &Encoded) -> Localities {
    let set = ClusterLoadAssignment::decode(&any(encoded).value[..]).expect("endpoints");
    let localities = set.endpoints.iter().map(|locality| {
        let members = &locality.lb_endpoints;
        for member in members {
            assert_eq!(member.health_status, i32::from(HealthStatus::Healthy));
        }
        let zone = locality.locality.as_ref().map(|l| l.zone.clone()).unwrap_or_default();
        let weight = locality.load_balancing_weight.map(|w| w.value).unwrap_or_default();
        let octets = members.iter().map(|m| last_octet(&address(m))).collect();
        (locality.priority, zone, weight, octets)
    });
    localities.collect()
}

#[test]
fn clients_fail_over_from_their_node_to_their_zone_to_the_rest() {
    let place = |node: &str, zone: &str| {
        let known = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
        Place { node: known(node), zone: known(zone) }
    };
    let (node, zone) = (Distribution::PreferSameNode, Distribution::PreferSameZone);
    let local = |entry: &mut ServiceEntry| {
        Arc::make_mut(&mut entry.service).traffic.internal = TrafficPolicy::Local;
    };
    let leaving = |entry: &mut ServiceEntry| {
        for endpoint in &mut Arc::make_mut(&mut entry.slices[0]).endpoints {
            endpoint.conditions.ready = false;
            endpoint.conditions.terminating = true;
        }
        prefer(node)(entry);
    };
    type Case = (&'static str, ServiceEntry, Place, Vec<(u32, &'static str, Vec<u8>)>);
    #[rustfmt::skip]
    let cases: Vec<Case> = vec![
        ("no preference", spread(|_| {}), place("n1", "a"),
            vec![(0, "a", vec![1, 2]), (0, "b", vec![3]), (0, "c", vec![4])]),
        ("its zone", spread(prefer(zone)), place("n1", "a"),
            vec![(0, "a", vec![1, 2]), (1, "b", vec![3]), (1, "c", vec![4])]),
        ("its node, of which the zone has more", spread(prefer(node)), place("n1", "a"),
            vec![(0, "a", vec![1]), (1, "a", vec![2]), (2, "b", vec![3]), (2, "c", vec![4])]),
        ("its node, alone in its zone", spread(prefer(node)), place("n3", "b"),
            vec![(0, "b", vec![3]), (1, "a", vec![1, 2]), (1, "c", vec![4])]),
        ("a zone without endpoints", spread(prefer(zone)), place("n9", "z"),
            vec![(0, "a", vec![1, 2]), (0, "b", vec![3]), (0, "c", vec![4])]),
        ("no place", spread(prefer(zone)), place("", ""),
            vec![(0, "a", vec![1, 2]), (0, "b", vec![3]), (0, "c", vec![4])]),
        ("strictly its node", spread(local), place("n4", "c"), vec![(0, "c", vec![4])]),
        ("strictly a node without endpoints", spread(local), place("n9", "a"), vec![]),
        ("all are leaving", spread(leaving), place("n1", "a"),
            vec![(0, "a", vec![1, 2]), (0, "b", vec![3]), (0, "c", vec![4])]),
    ];
    for (about, entry, place, expected) in cases {
        let port = &entry.service.ports[0];
        let encoded = endpoints::encode_at(&entry, port, &place);
        let got = localities(&encoded);
        // A locality weighs as many as it has.
        let weighed = |(priority, zone, octets): (u32, &str, Vec<u8>)| {
            (priority, zone.to_owned(), u32::try_from(octets.len()).expect("few"), octets)
        };
        let expected: Localities = expected.into_iter().map(weighed).collect();
        assert_eq!(got, expected, "{about}");
        // gRPC refuses a gap in the priorities and an address that stands twice (gRFC A27).
        let mut priorities: Vec<u32> = got.iter().map(|l| l.0).collect();
        priorities.dedup();
        assert!((0..).zip(&priorities).all(|(n, p)| n == *p), "{about}: {priorities:?}");
        let mut octets: Vec<u8> = got.iter().flat_map(|l| l.3.clone()).collect();
        let count = octets.len();
        octets.sort_unstable();
        octets.dedup();
        assert_eq!(octets.len(), count, "{about}: an address stands twice");
        let key = entry.place_key(&place);
        assert_eq!(endpoints::encode_at(&entry, port, &key), encoded, "{about}: by its key");
    }
}

#[test]
fn our_proxy_uses_the_nearest_and_keeps_the_rest_for_later() {
    let entry = spread(prefer(Distribution::PreferSameZone));
    let place = Place { node: None, zone: Some("a".into()) };
    let encoded = endpoints::encode_at(&entry, &entry.service.ports[0], &place);
    let (_, set): (_, EndpointSet) = decode::endpoints::decode(&any(&encoded)).expect("taken");
    let octet = |address: SocketAddr| last_octet(&address.ip().to_string());
    let got: Vec<(u32, u8)> =
        set.endpoints.iter().map(|t| (set.priority(t), octet(t.address))).collect();
    assert_eq!(got, [(0, 1), (0, 2), (1, 3), (1, 4)]);
    assert!(set.endpoints.iter().all(|t| t.weight == 1), "the same share: {set:?}");
}
