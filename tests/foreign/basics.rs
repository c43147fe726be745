//! What every control plane does first: clusters with their endpoints in them or by EDS, routes, HTTP
//! and TCP listeners, one after the other.

use portolan_proto::envoy::discovery::Resource as Wrapped;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use portolan_proto::envoy::http_inspector::HttpInspector;
use portolan_proto::envoy::listener::FilterChainMatch;

use crate::backend::{Backend, Lines, addresses};
use crate::control_plane::resources::{
    Resource, action, all, any, assignment, eds_cluster, http_listener, listener_filter, managed,
    manager, route, static_cluster, table, tcp_listener, tcp_proxy,
};
use crate::control_plane::{CDS, EDS, LDS, RDS};
use crate::kit::{Line, ROUTES, WEB, World, all_to_web, counts, fetch, until};
use crate::support::free_address;

#[tokio::test(flavor = "multi_thread")]
async fn everything_inline_serves_http_in_both_versions_and_tcp() {
    let (backend, lines) = (Backend::start("a").await, Lines::start("t").await);
    let world = World::start().await;
    let (http, tcp) = (world.http, free_address());
    let inline = managed(RouteSpecifier::RouteConfig(all_to_web()));
    let listeners =
        [http_listener("main", http, &inline), tcp_listener("db", tcp, &tcp_proxy("db"))];
    let version = world.plane.set(LDS, all(&listeners));
    let clusters =
        [static_cluster(WEB, &[backend.address]), static_cluster("db", &[lines.address])];
    let clusters_version = world.plane.set(CDS, all(&clusters));
    world.plane.acked(LDS, &version).await;
    world.plane.acked(CDS, &clusters_version).await;
    let answer = world.until("HTTP/1.1", |answer| answer.status == 200).await;
    assert_eq!((&*answer.endpoint, &*answer.version), ("a", "HTTP/1.1"));
    let answer = world.get_http2("/x").await;
    assert_eq!((answer.status, &*answer.endpoint), (200, "a"), "{answer:?}");
    let mut line =
        until("TCP", async || Line::open(tcp, b"").await.map_err(|e| e.to_string())).await;
    assert_eq!(line.endpoint, "t");
    assert_eq!(line.echo("hello").await.expect("echoed"), "hello");
    // Nothing is asked for that nothing refers to.
    let kinds: Vec<String> = world.plane.said().into_iter().map(|said| said.kind).collect();
    assert!(!kinds.iter().any(|kind| kind == EDS || kind == RDS), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_says_who_asks_and_each_answer_is_answered_once() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let said = world.plane.said();
    assert_eq!(said[0].node.as_deref(), Some("tested"), "{said:#?}");
    for kind in [CDS, EDS, LDS, RDS] {
        let of: Vec<_> = said.iter().filter(|said| said.kind == kind).collect();
        // The subscription, and the ACK.
        assert_eq!(of.len(), 2, "{kind}: {of:#?}");
        assert_eq!((&*of[0].nonce, &*of[0].version), ("", ""), "{kind}");
        assert!(of[1].nonce.starts_with(&of[1].version), "{kind}: {of:#?}");
        let names: Vec<&str> = of[1].names.iter().map(String::as_str).collect();
        let expected: &[&str] = match kind {
            EDS => &[WEB],
            RDS => &[ROUTES],
            _ => &[],
        };
        assert_eq!(names, expected, "{kind}");
    }
}

/// Which endpoints there are, and how twelve requests go.
type Step = (&'static [usize], &'static [(&'static str, usize)]);

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_followed() {
    let backends = Backend::several(3).await;
    let mut world = World::single().await;
    world.web(&backends[..1]).await;
    assert_eq!(world.count(4, &[]).await, counts(&[("a", 4)]));
    let steps: [Step; 4] = [
        (&[0, 1], &[("a", 6), ("b", 6)]),
        (&[1, 2], &[("b", 6), ("c", 6)]),
        (&[2], &[("c", 12)]),
        (&[0, 1, 2], &[("a", 4), ("b", 4), ("c", 4)]),
    ];
    for (members, expected) in steps {
        let at: Vec<_> = members.iter().map(|i| backends[*i].address).collect();
        let version = world.plane.set(EDS, all([&assignment(WEB, &at)]));
        world.plane.acked(EDS, &version).await;
        let expected = counts(expected);
        until("the endpoints are those", async || {
            let seen = world.count(12, &[]).await;
            if seen == expected { Ok(()) } else { Err(format!("{seen:?} is not {expected:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_endpoints_are_503_with_the_reason_until_there_are_some() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    for _ in 0..2 {
        world.plane.set(EDS, all([&assignment(WEB, &[])]));
        let answer = world.until("none is there", |answer| answer.status != 200).await;
        assert_eq!((answer.status, &*answer.reason), (503, "no_endpoints"));
        assert!(answer.body.contains(&world.http.to_string()), "names what was asked: {answer:?}");
        world.plane.set(EDS, all([&assignment(WEB, &addresses(&backends))]));
        world.until("it is back", |answer| answer.status == 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_followed() {
    let backends = Backend::several(2).await;
    let mut world = World::start().await;
    world.web(&backends[..1]).await;
    let other = static_cluster("other", &addresses(&backends[1..]));
    world.plane.set(CDS, all([&eds_cluster(WEB), &other]));
    let routes = vec![route("/other", action("other")), route("/", action(WEB))];
    world.plane.set(RDS, all([&table(ROUTES, routes)]));
    until("the route is there", async || {
        let answer = world.get("/other/1").await;
        if answer.endpoint == "b" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    assert_eq!(world.get("/").await.endpoint, "a");
    world.plane.set(RDS, all([&table(ROUTES, vec![route("/other", action("other"))])]));
    let answer = world.until("the other is gone", |answer| answer.status != 200).await;
    assert_eq!((answer.status, &*answer.reason), (404, "no_route"));
    assert_eq!(world.get("/other").await.endpoint, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_listeners_each_have_their_own_table() {
    let backends = Backend::several(2).await;
    let world = World::start().await;
    let second = free_address();
    let listeners = [
        http_listener("one", world.http, &manager("first")),
        http_listener("two", second, &manager("second")),
    ];
    let clusters: Vec<_> = ["a", "b"]
        .iter()
        .zip(&backends)
        .map(|(name, backend)| static_cluster(name, &[backend.address]))
        .collect();
    let tables = [
        table("first", vec![route("/", action("a"))]),
        table("second", vec![route("/", action("b"))]),
    ];
    world.plane.set(CDS, all(&clusters));
    world.plane.set(LDS, all(&listeners));
    world.plane.set(RDS, all(&tables));
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    for (at, endpoint) in [(world.http, "a"), (second, "b")] {
        until("each serves", async || {
            let answer = fetch(&client, at, "/", &[]).await;
            if answer.endpoint == endpoint { Ok(()) } else { Err(format!("{at}: {answer:?}")) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_listener_may_take_http_and_everything_else() {
    let (backend, lines) = (Backend::start("a").await, Lines::start("t").await);
    let world = World::start().await;
    let inline = managed(RouteSpecifier::RouteConfig(all_to_web()));
    let mut both = http_listener("both", world.http, &inline);
    let inspector =
        listener_filter("envoy.filters.listener.http_inspector", &HttpInspector::default());
    both.listener_filters = vec![inspector];
    both.filter_chains[0].filter_chain_match = Some(FilterChainMatch {
        application_protocols: ["http/1.0", "http/1.1", "h2c"].map(str::to_owned).into(),
        ..FilterChainMatch::default()
    });
    let mut rest = tcp_listener("rest", world.http, &tcp_proxy("db"));
    both.default_filter_chain = rest.filter_chains.pop();
    let clusters =
        [static_cluster(WEB, &[backend.address]), static_cluster("db", &[lines.address])];
    world.plane.set(CDS, all(&clusters));
    let version = world.plane.set(LDS, all([&both]));
    world.plane.acked(LDS, &version).await;
    world.until("HTTP/1.1", |answer| answer.endpoint == "a").await;
    assert_eq!(world.get_http2("/").await.endpoint, "a");
    let mut line = Line::open(world.http, b"hello\n").await.expect("TCP");
    assert_eq!(line.endpoint, "t");
    assert_eq!(line.echo("again").await.expect("echoed"), "hello");
}

/// A resource of the state of the world may come in a wrapper (xDS, "Resource TTL").
#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_resource_is_taken() {
    let backends = Backend::several(1).await;
    let world = World::start().await;
    let wrap = |mut resource: Resource| {
        let wrapped = Wrapped {
            name: resource.name.clone(),
            resource: Some(resource.any),
            ..Wrapped::default()
        };
        resource.any = any(&wrapped);
        resource
    };
    let listener = http_listener("main", world.http, &manager(ROUTES));
    let parts = [
        (CDS, Resource::from(&eds_cluster(WEB))),
        (EDS, Resource::from(&assignment(WEB, &addresses(&backends)))),
        (LDS, Resource::from(&listener)),
        (RDS, Resource::from(&all_to_web())),
    ];
    for (kind, resource) in parts {
        world.plane.set(kind, vec![wrap(resource)]);
    }
    let said = world.plane.until("an answer", |said| !said.nonce.is_empty()).await;
    assert_eq!(said.error, None);
    world.until("it serves", |answer| answer.status == 200).await;
}
