//! What a proxy cannot do it refuses, by the resource's name and the field; what is good beside it is
//! taken, and what was in force before stays.

use portolan_proto::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use portolan_proto::envoy::core::{HealthStatus, TransportSocket, transport_socket};
use portolan_proto::envoy::endpoint::{LbEndpoint, lb_endpoint::HostIdentifier};
use portolan_proto::envoy::http_connection_manager::http_filter::ConfigType as HttpConfig;
use portolan_proto::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter};
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::route::RouteConfiguration;

use crate::backend::{Backend, addresses};
use crate::control_plane::resources::{
    Resource, action, all, assignment, eds_cluster, endpoint, http_listener, locality, manager,
    places, route, static_cluster, table, tcp_listener, tcp_proxy, virtual_host,
};
use crate::control_plane::{CDS, EDS, LDS, RDS};
use crate::kit::{ROUTES, WEB, World, all_to_web, until};
use crate::support::free_address;

/// A resource as it comes to whoever asks for this name.
fn raw(name: &str, type_url: &str, value: &[u8]) -> Resource {
    let any = Any { type_url: type_url.to_owned(), value: value.to_vec() };
    Resource { name: name.to_owned(), any }
}

/// Sends good resources and bad ones; the refusal holds all of the texts, and traffic goes on.
async fn refused(world: &World, kind: &str, resources: Vec<Resource>, texts: &[&str]) {
    let version = world.plane.set(kind, resources);
    let said = world.plane.nacked(kind, &version).await;
    let error = said.error.expect("a refusal");
    for text in texts {
        assert!(error.contains(text), "{text:?} is not in {error:?}");
    }
    assert_ne!(said.version, version, "a refused version is not taken");
    let answer = world.get("/").await;
    assert_eq!(answer.status, 200, "after {error:?}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_cluster_is_named_with_its_field_and_good_ones_beside_it_are_taken() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let at = addresses(&backends);
    let bad = |change: &dyn Fn(&mut portolan_proto::envoy::cluster::Cluster)| {
        let mut cluster = static_cluster("bad", &at);
        change(&mut cluster);
        Resource::from(&cluster)
    };
    let dns = ClusterDiscoveryType::Type(DiscoveryType::StrictDns.into());
    let tls = TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.\
                       UpstreamTlsContext"
                .to_owned(),
            value: Vec::new(),
        })),
    };
    let twice = [at[0], at[0]];
    let cases: Vec<(Resource, &[&str])> = vec![
        (bad(&|c| c.cluster_discovery_type = Some(dns.clone())), &["bad: type: STRICT_DNS"]),
        (bad(&|c| c.lb_policy = LbPolicy::ClusterProvided.into()), &["bad: lb_policy"]),
        (bad(&|c| c.lb_policy = 77), &["bad: lb_policy: 77"]),
        (bad(&|c| c.transport_socket = Some(tls.clone())), &["bad: transport_socket"]),
        (
            bad(&|c| c.load_assignment = Some(assignment("bad", &twice))),
            &["bad: load_assignment: endpoints[0].lb_endpoints[1]", "twice"],
        ),
        (bad(&|c| c.name = String::new()), &["name: missing"]),
        (raw("bad", CDS, b"\x0a\xff\x01"), &["not a Cluster"]),
        (raw("bad", EDS, b""), &[EDS]),
        (raw("bad", "", b""), &["expected"]),
    ];
    for (i, (resource, texts)) in cases.into_iter().enumerate() {
        // The good one beside it is new each time, and a route finds it.
        let name = format!("good-{i}");
        let good = static_cluster(&name, &at);
        let mut resources = all([&eds_cluster(WEB), &good]);
        resources.insert(1, resource);
        refused(&world, CDS, resources, texts).await;
        let routes = vec![route("/good", action(&name)), route("/", action(WEB))];
        let version = world.plane.set(RDS, all([&table(ROUTES, routes)]));
        world.plane.acked(RDS, &version).await;
        until("the good one is in force", async || {
            let answer = world.get("/good").await;
            if answer.status == 200 { Ok(()) } else { Err(format!("{texts:?}: {answer:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_becomes_bad_stays_as_it_was_and_one_that_is_mended_counts() {
    let backends = Backend::several(2).await;
    let mut world = World::start().await;
    world
        .serve(
            &static_cluster(WEB, &addresses(&backends[..1])),
            &assignment("unused", &[]),
            &all_to_web(),
            &manager(ROUTES),
        )
        .await;
    let mut next = static_cluster(WEB, &addresses(&backends[1..]));
    next.lb_policy = LbPolicy::ClusterProvided.into();
    refused(&world, CDS, all([&next]), &["web: lb_policy"]).await;
    assert_eq!(world.get("/").await.endpoint, "a");
    next.lb_policy = LbPolicy::RoundRobin.into();
    let version = world.plane.set(CDS, all([&next]));
    world.plane.acked(CDS, &version).await;
    world.until("the mended one counts", |answer| answer.endpoint == "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_table_is_named_with_its_field_and_the_old_one_stays() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let to_web = || vec![route("/", action(WEB))];
    let with = |change: &dyn Fn(&mut RouteConfiguration)| {
        let mut bad = table(ROUTES, to_web());
        change(&mut bad);
        Resource::from(&bad)
    };
    let hosts = |hosts: Vec<_>| with(&move |table| table.virtual_hosts = hosts.clone());
    let cases: Vec<(Resource, &[&str])> = vec![
        (
            hosts(vec![
                virtual_host("one", &["shop.example"], to_web()),
                virtual_host("two", &["SHOP.example"], to_web()),
            ]),
            &["routes: ", "\"SHOP.example\""],
        ),
        (hosts(vec![virtual_host("one", &["*", "*"], to_web())]), &["routes: ", "\"*\""]),
        (hosts(vec![virtual_host("one", &[], to_web())]), &["routes: virtual_hosts[0].domains"]),
        (hosts(vec![virtual_host("one", &["a*b"], to_web())]), &["routes: ", "a*b"]),
        (
            with(&|table| table.virtual_hosts[0].routes[0].r#match = None),
            &["routes: virtual_hosts[0].routes[0].match"],
        ),
        (
            with(&|table| table.virtual_hosts[0].routes[0].action = None),
            &["routes: virtual_hosts[0].routes[0]"],
        ),
        (raw(ROUTES, RDS, b"\x0a\xff\x01"), &["not a RouteConfiguration"]),
        (raw(ROUTES, CDS, b""), &[CDS]),
    ];
    for (resource, texts) in cases {
        refused(&world, RDS, vec![resource], texts).await;
    }
    // It is mended.
    let version = world.plane.set(RDS, all([&table(ROUTES, vec![route("/new", action(WEB))])]));
    world.plane.acked(RDS, &version).await;
    world.until("the mended one counts", |answer| answer.reason == "no_route").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_to_a_cluster_that_is_not_there_is_taken_and_says_so() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let routes = vec![route("/none", action("none")), route("/", action(WEB))];
    let version = world.plane.set(RDS, all([&table(ROUTES, routes)]));
    world.plane.acked(RDS, &version).await;
    until("the route is in force", async || {
        let answer = world.get("/none").await;
        let fine = answer.status == 503 && answer.reason == "no_cluster";
        if fine && answer.body.contains("none") { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert_eq!(world.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_endpoints_are_named_with_their_field_and_the_old_ones_stay() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let at = backends[0].address;
    let member = |change: &dyn Fn(&mut LbEndpoint)| {
        let mut member = endpoint(at, HealthStatus::Healthy);
        change(&mut member);
        Resource::from(&places(WEB, vec![locality("a", 0, vec![member])]))
    };
    let nowhere = HostIdentifier::EndpointName("x".to_owned());
    let named = |name: &str| {
        let mut address = at.to_string();
        name.clone_into(&mut address);
        member(&move |member| {
            if let Some(HostIdentifier::Endpoint(endpoint)) = &mut member.host_identifier {
                use portolan_proto::envoy::core::address::Address::SocketAddress;
                let socket = endpoint.address.as_mut().and_then(|a| a.address.as_mut());
                if let Some(SocketAddress(socket)) = socket {
                    socket.address.clone_from(&address);
                }
            }
        })
    };
    let cases: Vec<(Resource, &[&str])> = vec![
        (member(&|m| m.health_status = 99), &["web: endpoints[0].lb_endpoints[0].health_status"]),
        (member(&|m| m.host_identifier = None), &["web: endpoints[0].lb_endpoints[0].endpoint"]),
        (
            member(&|m| m.host_identifier = Some(nowhere.clone())),
            &["web: endpoints[0].lb_endpoints[0].endpoint_name"],
        ),
        (
            named("db.example"),
            &["web: endpoints[0].lb_endpoints[0].endpoint.address", "db.example"],
        ),
        (
            Resource::from(&places(WEB, vec![locality("a", 129, vec![])])),
            &["web: endpoints[0].priority"],
        ),
        (raw(WEB, EDS, b"\x12\xff\x01"), &["not a ClusterLoadAssignment"]),
        (raw(WEB, EDS, b""), &["cluster_name: missing"]),
    ];
    for (resource, texts) in cases {
        refused(&world, EDS, vec![resource], texts).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_listener_is_named_with_its_field_and_stands_in_nobody_elses_way() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let with = |change: &dyn Fn(&mut HttpConnectionManager)| {
        let mut bad = manager(ROUTES);
        change(&mut bad);
        Resource::from(&http_listener("bad", free_address(), &bad))
    };
    let lua = HttpFilter {
        name: "envoy.filters.http.lua".to_owned(),
        config_type: Some(HttpConfig::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua".to_owned(),
            value: Vec::new(),
        })),
        ..HttpFilter::default()
    };
    let mut homeless = http_listener("bad", free_address(), &manager(ROUTES));
    homeless.address = None;
    let mut empty = homeless.clone();
    empty.address = http_listener("x", free_address(), &manager(ROUTES)).address;
    empty.filter_chains.clear();
    let nothing = tcp_listener("bad", free_address(), &tcp_proxy(""));
    let cases: Vec<(Resource, &[&str])> = vec![
        (with(&|m| m.http_filters.insert(0, lua.clone())), &["bad: http_filters[0]", "lua"]),
        (with(&|m| m.route_specifier = None), &["bad: rds"]),
        (with(&|m| m.strip_trailing_host_dot = true), &["bad: strip_trailing_host_dot"]),
        (Resource::from(&homeless), &["bad: address"]),
        (Resource::from(&empty), &["bad: filter_chains"]),
        (Resource::from(&nothing), &["bad: cluster: missing"]),
        (raw("bad", LDS, b"\x0a\xff\x01"), &["not a Listener"]),
        (raw("bad", RDS, b""), &[RDS]),
    ];
    for (resource, texts) in cases {
        let mut resources = all([&http_listener("main", world.http, &manager(ROUTES))]);
        resources.push(resource);
        refused(&world, LDS, resources, texts).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_stands_twice_is_refused() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let twice = all([&eds_cluster(WEB), &eds_cluster(WEB)]);
    refused(&world, CDS, twice, &["web: ", "twice"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_counted_and_do_not_end_the_stream() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let streams = world.plane.streams();
    for _ in 0..50 {
        let mut resources = all([&eds_cluster(WEB)]);
        resources.push(raw("bad", CDS, b"\xff"));
        let version = world.plane.set(CDS, resources);
        world.plane.nacked(CDS, &version).await;
    }
    let rejected = "portolan_xds_client_rejected_total{type=\"cds\"}";
    assert_eq!(world.metric(rejected).await, 50.0);
    assert_eq!(world.plane.streams(), streams);
    assert_eq!(world.get("/").await.status, 200);
}

/// gRPC's own default limit on a message is 4 MiB; a cluster of this size is far over it.
#[tokio::test(flavor = "multi_thread")]
async fn a_huge_resource_is_taken() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let mut huge = static_cluster("huge", &addresses(&backends));
    huge.alt_stat_name = "x".repeat(16 * 1024 * 1024);
    let version = world.plane.set(CDS, all([&eds_cluster(WEB), &huge]));
    world.plane.acked(CDS, &version).await;
    let version = world.plane.set(RDS, all([&table(ROUTES, vec![route("/", action("huge"))])]));
    world.plane.acked(RDS, &version).await;
    world.until("it is in force", |answer| answer.status == 200).await;

    // Very many endpoints, of which one is there.
    let mut members: Vec<_> = (0..50_000_u32)
        .map(|n| {
            let [_, a, b, c] = n.to_be_bytes();
            let mut far = endpoint(([10, a, b, c], 80).into(), HealthStatus::Unhealthy);
            far.load_balancing_weight = None;
            far
        })
        .collect();
    members.push(endpoint(backends[0].address, HealthStatus::Healthy));
    world.plane.set(RDS, all([&all_to_web()]));
    let version = world.plane.set(EDS, all([&places(WEB, vec![locality("a", 0, members)])]));
    world.plane.acked(EDS, &version).await;
}
