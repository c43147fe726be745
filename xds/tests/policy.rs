//! What a service says of its traffic and policy, in the resources that clients get.

mod support;

use std::sync::Arc;
use std::time::Duration;

use portolan_model::policy::{HealthCheck, OutlierDetection, Policy, Probe, Retries, RetryOn};
use portolan_model::service::TrafficPolicy;
use portolan_model::{AppProtocol, Place, Scope, Service};
use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::core::address::Address;
use portolan_proto::envoy::core::health_check::HealthChecker;
use portolan_proto::envoy::endpoint::lb_endpoint::HostIdentifier;
use portolan_proto::envoy::endpoint::{ClusterLoadAssignment, LbEndpoint};
use portolan_proto::envoy::protobuf::{Any, Duration as Span};
use portolan_proto::envoy::route::{RouteAction, RouteConfiguration, route::Action};
use portolan_xds::catalog::Catalog;
use portolan_xds::resource::ResourceType;
use portolan_xds::server::session::{Names, Request, Session, Variant};
use portolan_xds::viewer::Viewer;
use prost::Message;
use support::{Told, World, entry, resources};

/// The catalog of `shop/web` after a change to it.
fn catalog(change: impl FnOnce(&mut Service)) -> Catalog {
    let mut entry = (*entry("web", 80, &[(1, true)])).clone();
    change(Arc::make_mut(&mut entry.service));
    let mut world = World::default();
    world.apply(Arc::new(entry)).publish();
    world.catalog
}

fn message<M: Message + Default>(catalog: &Catalog, kind: ResourceType, name: &str) -> M {
    let encoded = catalog.lookup(kind, name).unwrap_or_else(|| panic!("no {name}"));
    let any = Any::decode(&encoded.any[..]).expect("an Any");
    M::decode(&any.value[..]).expect("the message")
}

fn action(catalog: &Catalog, table: &str) -> RouteAction {
    let table: RouteConfiguration = message(catalog, ResourceType::Route, table);
    match table.virtual_hosts[0].routes[0].action.clone() {
        Some(Action::Route(action)) => action,
        other => panic!("{other:?}"),
    }
}

fn secs(seconds: i64) -> Option<Span> {
    Some(Span { seconds, nanos: 0 })
}

#[test]
fn a_policy_is_said_in_cluster_and_routes_alike_for_envoy_and_grpc() {
    let secs_of = Duration::from_secs;
    let catalog = catalog(|service| {
        let policy = &mut service.policy;
        policy.timeouts.connect = Some(Duration::from_millis(250));
        policy.timeouts.request = Some(secs_of(3));
        policy.timeouts.idle = Some(secs_of(60));
        policy.retries = Some(Retries {
            attempts: 2,
            on: vec![RetryOn::ConnectFailure, RetryOn::ServerError, RetryOn::Unavailable],
            per_try_timeout: Some(secs_of(1)),
        });
        policy.health_check = Some(HealthCheck {
            probe: Probe::Http("/healthz".into()),
            interval: secs_of(5),
            timeout: secs_of(1),
            healthy_threshold: 1,
            unhealthy_threshold: 4,
        });
        policy.outlier_detection = Some(OutlierDetection {
            consecutive_errors: 7,
            interval: secs_of(10),
            ejection_time: secs_of(30),
            max_percent: 40,
        });
        policy.circuit_breaker.connections = Some(100);
        policy.circuit_breaker.requests = Some(200);
    });
    let cluster: Cluster = message(&catalog, ResourceType::Cluster, "shop/web:80");
    assert_eq!(cluster.connect_timeout, Some(Span { seconds: 0, nanos: 250_000_000 }));
    let check = &cluster.health_checks[0];
    assert_eq!((check.interval, check.timeout), (secs(5), secs(1)));
    let asked = match &check.health_checker {
        Some(HealthChecker::HttpHealthCheck(http)) => (http.host.as_str(), http.path.as_str()),
        other => panic!("{other:?}"),
    };
    assert_eq!(asked, ("web.shop.svc.cluster.local", "/healthz"));
    assert!(cluster.ignore_health_on_host_removal, "an endpoint that leaves is left alone");
    let outlier = cluster.outlier_detection.expect("outlier detection");
    assert_eq!(outlier.consecutive_5xx.map(|v| v.value), Some(7));
    assert_eq!(outlier.max_ejection_percent.map(|v| v.value), Some(40));
    let thresholds = &cluster.circuit_breakers.expect("circuit breakers").thresholds[0];
    assert_eq!(thresholds.max_connections.map(|v| v.value), Some(100));
    assert_eq!(thresholds.max_requests.map(|v| v.value), Some(200));
    assert_eq!(thresholds.max_retries, None, "what is not set is left to the client");

    // The table of a gRPC target, and that of the HTTP listeners.
    for table in ["web.shop.svc.cluster.local:80", "portolan/http"] {
        let action = action(&catalog, table);
        assert_eq!((action.timeout, action.idle_timeout), (secs(3), secs(60)), "{table}");
        let grpc = action.max_stream_duration.and_then(|d| d.max_stream_duration);
        assert_eq!(grpc, if table == "portolan/http" { None } else { secs(3) }, "{table}");
        let retries = action.retry_policy.expect("retries");
        assert_eq!(retries.retry_on, "connect-failure,5xx,unavailable");
        assert_eq!(retries.num_retries.map(|v| v.value), Some(2));
        assert_eq!(retries.per_try_timeout, secs(1));
    }
}

#[test]
fn a_health_check_by_grpc_is_for_ports_that_speak_http2() {
    for (protocol, checks) in [(AppProtocol::Http1, 0), (AppProtocol::Http2, 1)] {
        let catalog = catalog(|service| {
            service.ports[0].app_protocol = Some(protocol);
            service.policy.health_check = Some(HealthCheck {
                probe: Probe::Grpc,
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(1),
                healthy_threshold: 1,
                unhealthy_threshold: 1,
            });
        });
        let cluster: Cluster = message(&catalog, ResourceType::Cluster, "shop/web:80");
        assert_eq!(cluster.health_checks.len(), checks);
    }
}

#[test]
fn without_a_policy_nothing_is_set_but_what_has_to_be() {
    let catalog = catalog(|service| service.policy = Policy::default());
    let cluster: Cluster = message(&catalog, ResourceType::Cluster, "shop/web:80");
    assert!(cluster.health_checks.is_empty());
    assert_eq!((cluster.outlier_detection, cluster.circuit_breakers), (None, None));
    let action = action(&catalog, "portolan/http");
    assert_eq!((action.timeout, action.retry_policy), (secs(0), None), "streams may last");
}

/// What a client in a place gets of `shop/web`: the session's EDS responses, by last octet.
struct Placed {
    told: Told,
    seen: Vec<Vec<String>>,
}

impl Placed {
    fn at(node: &str, world: &World) -> Self {
        let mut session = Session::new(Variant::Sotw, None, 10);
        let place = Place { node: Some(node.into()), zone: None };
        session.on_viewer(Viewer { place, ..Viewer::default() });
        let request = Request {
            type_url: ResourceType::Endpoints.type_url().to_owned(),
            names: Names::Exactly(vec!["shop/web:80".to_owned()]),
            ..Request::default()
        };
        session.on_request(request, 1).expect("within the limits");
        let mut placed = Self { told: Told::new(session), seen: Vec::new() };
        placed.take(world);
        placed
    }

    fn take(&mut self, world: &World) {
        while let Some(response) = self.told.next_response(world) {
            let answer = Request {
                type_url: ResourceType::Endpoints.type_url().to_owned(),
                names: Names::Exactly(vec!["shop/web:80".to_owned()]),
                nonce: response.nonce.clone(),
                ..Request::default()
            };
            self.told.session.on_request(answer, 1).expect("within the limits");
            let any = Any::decode(&resources(&response)[0].1.any[..]).expect("an Any");
            let set = ClusterLoadAssignment::decode(&any.value[..]).expect("endpoints");
            let members = set.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
            let address = |member: &LbEndpoint| match &member.host_identifier {
                Some(HostIdentifier::Endpoint(endpoint)) => {
                    match &endpoint.address.as_ref().expect("an address").address {
                        Some(Address::SocketAddress(socket)) => socket.address.clone(),
                        other => panic!("{other:?}"),
                    }
                }
                other => panic!("{other:?}"),
            };
            let mut addresses: Vec<String> = members.map(address).collect();
            addresses.sort();
            self.seen.push(addresses);
        }
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

#[test]
fn a_service_of_another_proxy_has_no_cluster_and_no_route() {
    let catalog = catalog(|service| service.traffic.proxy_name = Some("other".into()));
    assert!(catalog.wildcard(ResourceType::Cluster).is_empty());
    let table: RouteConfiguration = message(&catalog, ResourceType::Route, "portolan/http");
    assert!(table.virtual_hosts.is_empty());
}

#[test]
fn a_service_of_a_cluster_set_is_reached_by_its_full_name_alone() {
    let catalog = catalog(|service| service.key = service.key.clone().within(Scope::ClusterSet));
    let target = "web.shop.svc.clusterset.local:80";
    assert!(catalog.lookup(ResourceType::Listener, target).is_some());
    let name = "clusterset/shop/web:80";
    assert!(catalog.lookup(ResourceType::Endpoints, name).is_some());
    let table: RouteConfiguration = message(&catalog, ResourceType::Route, "portolan/http");
    let domains = &table.virtual_hosts[0].domains;
    assert_eq!(*domains, [target, "web.shop.svc.clusterset.local"]);
}
