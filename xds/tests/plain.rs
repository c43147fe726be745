//! The plain API over gRPC: what a client is told, when, and what it costs those who watch
//! something else.

#[path = "plain/kit.rs"]
mod kit;

use std::collections::BTreeMap;
use std::sync::Arc;

use kit::{Server, World, drive, entry, in_time, next, resolve, watch};
use portolan_model::{Generation, Place, ServiceKey};
use portolan_proto::v1::absent::Reason;
use portolan_proto::v1::watch_response::Kind;
use portolan_proto::v1::{Address, Client, Endpoint, ResolveRequest, WatchRequest, WatchResponse};
use portolan_xds::plain::PlainLimits;
use portolan_xds::plain::ask::{Ask, PortChoice};
use portolan_xds::plain::hub::{Hub, State};
use portolan_xds::plain::view::{ENDPOINTS_PER_RESPONSE, View};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// A response in few words: kind, generation, addresses that came and that went.
fn said(response: &WatchResponse) -> String {
    let octets = |ips: Vec<&str>| {
        let last = ips.into_iter().map(|ip| ip.rsplit('.').next().unwrap_or_default().to_owned());
        last.collect::<Vec<_>>().join(",")
    };
    let came = |endpoints: &[Endpoint]| {
        octets(endpoints.iter().flat_map(|e| &e.address).map(|a| a.ip.as_str()).collect())
    };
    let generation = response.generation;
    match response.kind.as_ref().expect("a kind") {
        Kind::Full(full) => format!("{generation} full {}", came(&full.endpoints)),
        Kind::Delta(delta) => {
            let gone = octets(delta.removed.iter().map(|a| a.ip.as_str()).collect());
            format!("{generation} delta +{} -{gone}", came(&delta.upserted))
        }
        Kind::Heartbeat(_) => format!("{generation} heartbeat"),
        Kind::Absent(absent) => format!("{generation} absent: {}", absent.message),
    }
}

#[tokio::test]
async fn a_watch_begins_with_everything_and_goes_on_with_what_differs() {
    let server = Server::start(PlainLimits::default()).await;
    let mut watching = watch(
        &server,
        WatchRequest { service: "web.shop:80".to_owned(), ..WatchRequest::default() },
    )
    .await
    .expect("a watch");
    // Each step is published once the one before was seen.
    type Step = (fn(&mut World), &'static str);
    let steps: [Step; 9] = [
        (
            |w| w.apply(entry("other", 80, &[(9, true)])),
            "1 absent: no service shop/web in generation 1",
        ),
        (|w| w.apply(entry("web", 80, &[(1, true), (2, true)])), "2 full 1,2"),
        (|w| w.apply(entry("web", 80, &[(1, true), (2, true), (3, true)])), "3 delta +3 -"),
        (|w| w.apply(entry("web", 80, &[(1, false), (2, true), (3, true)])), "4 delta + -1"),
        (|w| w.apply(entry("web", 80, &[(7, true), (8, true)])), "5 full 7,8"),
        (|w| w.apply(entry("web", 80, &[])), "6 full "),
        (
            |w| w.apply(entry("web", 81, &[(1, true)])),
            "7 absent: shop/web has no port 80; it has 81 (main)",
        ),
        (|w| w.delete("web"), "8 absent: no service shop/web in generation 8"),
        (|w| w.apply(entry("web", 80, &[(1, true)])), "9 full 1"),
    ];
    for (change, expected) in steps {
        server.publish(change);
        let response = next(&mut watching).await.expect("a response");
        assert_eq!(said(&response), expected);
    }
}

#[tokio::test]
async fn resolve_answers_once_and_says_what_is_missing_in_words() {
    let server = Server::start(PlainLimits::default()).await;
    let ask = |service: &str| ResolveRequest { service: service.to_owned(), ..Default::default() };
    let early = resolve(&server, ask("web.shop")).await.expect_err("too early");
    assert_eq!((early.code(), early.message()), (Code::Unavailable, "there is no snapshot yet"));

    server.publish(|w| {
        w.apply(entry("web", 80, &[(1, true), (2, true)]));
        w.apply(kit::leaving("old"));
        w.apply(kit::external("out", "db.example.com"));
        w.apply(kit::with_ports("many"));
    });
    let response = resolve(&server, ask("web.shop")).await.expect("endpoints");
    let port = response.port.clone().expect("a port");
    let port = (port.namespace, port.service, port.number, port.name, port.protocol);
    let text = str::to_owned;
    assert_eq!(port, (text("shop"), text("web"), 80, text("main"), text("TCP")));
    assert_eq!(response.generation, 1);
    let first = &response.endpoints[0];
    let address = first.address.as_ref().expect("an address");
    assert_eq!((address.ip.as_str(), address.port), ("10.0.0.1", 8080));
    let about = (first.weight, &*first.zone, &*first.node, &*first.pod, &*first.hostname);
    assert_eq!(about, (1, "zone-1", "node-1", "pod-1", "host-1"));
    let readiness = |response: &portolan_proto::v1::ResolveResponse| {
        response.endpoints.iter().map(|e| e.readiness().as_str_name()).collect::<Vec<_>>()
    };
    assert_eq!(readiness(&response), ["READY", "READY"]);
    let old = resolve(&server, ask("old.shop")).await.expect("endpoints");
    assert_eq!(readiness(&old), ["TERMINATING"], "better than nobody");
    let near = Client { zone: text("zone-0"), ..Client::default() };
    let near = ResolveRequest { client: Some(near), ..ask("many.shop:near") };
    let near = resolve(&server, near).await.expect("endpoints");
    let zones: Vec<&str> = near.endpoints.iter().map(|e| e.zone.as_str()).collect();
    assert_eq!(zones, ["zone-0"], "traffic distribution applies");

    for (service, code, expected) in [
        ("foo.shop", Code::NotFound, "no service shop/foo in generation 1"),
        ("web.shop:81", Code::NotFound, "shop/web has no port 81; it has 80 (main)"),
        (
            "many.shop:x",
            Code::NotFound,
            "shop/many has no port \"x\"; it has 53 (dns, UDP), 53 (dns-tcp), 8080 (near)",
        ),
        ("out.shop", Code::NotFound, "shop/out has no endpoints: it is a name for db.example.com"),
        (
            "web",
            Code::InvalidArgument,
            "service: \"web\" is not NAME.NAMESPACE, NAME.NAMESPACE.svc or NAME.NAMESPACE.svc.cluster.local",
        ),
    ] {
        let status = resolve(&server, ask(service)).await.expect_err(service);
        assert_eq!((status.code(), status.message()), (code, expected), "{service}");
    }
    let dns = resolve(&server, ask("many.shop:53")).await.expect("endpoints");
    assert_eq!(dns.port.expect("a port").protocol, "TCP", "of two ports of a number, TCP");
    let first = resolve(&server, ask("many.shop")).await.expect("endpoints");
    assert_eq!(first.port.expect("a port").name, "dns", "without port 80, the first");
}

#[tokio::test]
async fn a_heartbeat_says_up_to_which_generation_nothing_differs() {
    let server = Server::start(PlainLimits::default()).await;
    let request = WatchRequest {
        service: "web.shop".to_owned(),
        heartbeat_secs: 1,
        ..WatchRequest::default()
    };
    let mut watching = watch(&server, request).await.expect("a watch");
    assert_eq!(said(&next(&mut watching).await.expect("a response")), "0 heartbeat");
    server.publish(|w| w.apply(entry("web", 80, &[(1, true)])));
    assert_eq!(said(&next(&mut watching).await.expect("a response")), "1 full 1");
    server.publish(|w| w.apply(entry("other", 80, &[])));
    assert_eq!(said(&next(&mut watching).await.expect("a response")), "2 heartbeat");

    let request = WatchRequest {
        service: "web.shop".to_owned(),
        heartbeat_secs: 3601,
        ..WatchRequest::default()
    };
    let status = watch(&server, request).await.expect_err("out of bounds");
    let refused = (Code::InvalidArgument, "heartbeat_secs: 3601 is not in 1..=3600");
    assert_eq!((status.code(), status.message()), refused);
}

#[tokio::test]
async fn watches_over_the_limit_are_refused_until_one_ends() {
    let server = Server::start(PlainLimits { watches: 1, ..PlainLimits::default() }).await;
    server.publish(|w| w.apply(entry("web", 80, &[(1, true)])));
    let request = || WatchRequest { service: "web.shop".to_owned(), ..WatchRequest::default() };
    let mut first = watch(&server, request()).await.expect("a watch");
    let _full = next(&mut first).await.expect("a response");
    let status = watch(&server, request()).await.expect_err("one too many");
    let refused = (Code::ResourceExhausted, "too many watches: the limit is 1");
    assert_eq!((status.code(), status.message()), refused);
    assert!(server.metric("portolan_plain_watches_refused_total 1"));
    assert!(server.metric("portolan_plain_services 1"));

    drop(first);
    in_time("the watch has ended", || server.metric("portolan_plain_watches 0")).await;
    assert!(server.metric("portolan_plain_services 0"), "nothing is kept of it");
    let mut second = watch(&server, request()).await.expect("there is room again");
    assert_eq!(said(&next(&mut second).await.expect("a response")), "1 full 1");
}

#[tokio::test]
async fn a_slow_reader_is_sent_the_newest_state_and_no_queue() {
    const PUBLISHES: u64 = 200;
    let server = Server::start(PlainLimits::default()).await;
    // A window that holds about one set.
    let mut slow = server.client_with_window(16 * 1024).await;
    let request = WatchRequest { service: "web.shop".to_owned(), ..WatchRequest::default() };
    server.publish(|w| w.apply(kit::large("web", 1, 250)));
    let mut watching = slow.watch(request).await.expect("a watch").into_inner();
    for round in 2..=PUBLISHES {
        server.publish(|w| w.apply(kit::large("web", round, 250)));
        server.settled(round).await;
    }
    let mut responses = 1;
    let mut last = next(&mut watching).await.expect("a response");
    while last.generation < PUBLISHES {
        last = next(&mut watching).await.expect("a response");
        responses += 1;
    }
    assert!(responses < 20, "{responses} responses to {PUBLISHES} changes");
}

#[tokio::test]
async fn a_drain_ends_every_stream_and_health_says_so_first() {
    let server = Server::start(PlainLimits::default()).await;
    let mut health = HealthClient::new(server.channel.clone());
    let names =
        ["", "portolan.v1.Endpoints", "envoy.service.discovery.v3.AggregatedDiscoveryService"];
    let mut streams = Vec::new();
    for name in names {
        let request = HealthCheckRequest { service: name.to_owned() };
        let mut stream = health.watch(request).await.expect("a stream").into_inner();
        assert_eq!(status(stream.message().await), Ok(ServingStatus::NotServing), "{name:?}");
        streams.push(stream);
    }
    server.publish(|w| w.apply(entry("web", 80, &[(1, true)])));
    for stream in &mut streams {
        assert_eq!(status(stream.message().await), Ok(ServingStatus::Serving));
    }
    let request = WatchRequest { service: "web.shop".to_owned(), ..WatchRequest::default() };
    let mut watching = watch(&server, request).await.expect("a watch");
    let _full = next(&mut watching).await.expect("a response");
    // A reflection stream that its client leaves open.
    let reflection = server.open_reflection().await;

    server.lifecycle.drain();
    for mut stream in streams {
        assert_eq!(status(stream.message().await), Ok(ServingStatus::NotServing));
        assert_eq!(status(stream.message().await), Err(Code::Unavailable));
    }
    let ended = next(&mut watching).await.expect_err("the end");
    let words = (ended.code(), ended.message());
    assert_eq!(words, (Code::Unavailable, "the control plane is shutting down"));
    server.ended().await;
    drop(reflection);
}

fn status(message: Result<Option<HealthCheckResponse>, Status>) -> Result<ServingStatus, Code> {
    message.map(|m| m.expect("a message").status()).map_err(|status| status.code())
}

#[tokio::test]
async fn who_may_not_know_a_namespace_is_refused_by_the_hook() {
    let server = Server::with_authorization(Arc::new(|caller, namespace| {
        let answer = match caller.metadata.get("token").and_then(|t| t.to_str().ok()) {
            Some(token) if token == namespace => Ok(()),
            _ => Err(Status::permission_denied(format!("not for you: namespace {namespace}"))),
        };
        Box::pin(async { answer })
    }))
    .await;
    server.publish(|w| w.apply(entry("web", 80, &[(1, true)])));
    let with_token = |token: &'static str| {
        let ask = ResolveRequest { service: "web.shop".to_owned(), ..ResolveRequest::default() };
        let mut request = tonic::Request::new(ask);
        request.metadata_mut().insert("token", token.parse().expect("ASCII"));
        request
    };
    let mut client = server.client();
    client.resolve(with_token("shop")).await.expect("allowed");
    let refused = client.resolve(with_token("other")).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "not for you: namespace shop");
    let request = WatchRequest { service: "web.shop".to_owned(), ..WatchRequest::default() };
    let refused = watch(&server, request).await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        server.metric("portolan_plain_requests_total{method=\"resolve\",outcome=\"denied\"} 1")
    );
}

#[tokio::test]
async fn a_change_wakes_the_watches_of_its_service_alone() {
    let hub = Hub::default();
    let (mut world, publisher, mut snapshots) = kit::world();
    let key = |name| ServiceKey::new("shop", name).expect("valid");
    let (_, mut web) = hub.follow(&key("web"), &Place::default());
    let (_, mut other) = hub.follow(&key("other"), &Place::default());
    world.apply(entry("web", 80, &[(1, true)]));
    drive(&mut world, &publisher, &mut snapshots, &hub).await;
    assert!(web.has_changed() && other.has_changed(), "the first snapshot tells both");
    let _seen = (web.newest(), other.newest());
    for _ in 0..3 {
        world.apply(entry("web", 80, &[(2, true)]));
        drive(&mut world, &publisher, &mut snapshots, &hub).await;
        assert!(!other.has_changed(), "woken for another service");
    }
    assert_eq!(web.newest().generation, Generation(4), "three changes, one state");
    assert_eq!(other.generation(), Generation(4));
    // More than the history holds: everything is looked at again, and what is the same is left.
    for _ in 0..100 {
        world.apply(entry("web", 80, &[(3, true)]));
        world.publish(&publisher);
    }
    hub.apply(snapshots.next().await.expect("published"));
    assert!(web.has_changed() && !other.has_changed());
}

#[tokio::test]
async fn a_client_that_names_its_node_alone_is_in_the_zone_of_that_node() {
    let server = Server::start(PlainLimits::default()).await;
    server.publish(|w| {
        w.apply(kit::with_ports("many"));
        w.node("here", "zone-0");
    });
    let client =
        |zone: &str| Client { node: "here".to_owned(), zone: zone.to_owned(), ..Client::default() };
    let service = || "many.shop:near".to_owned();
    for (zone, expected) in [("", "10.0.0.2"), ("zone-1", "10.0.0.1")] {
        let client = Some(client(zone));
        let ask = ResolveRequest { service: service(), client, ..ResolveRequest::default() };
        let set = resolve(&server, ask).await.expect("endpoints");
        let ips: Vec<_> = set.endpoints.iter().flat_map(|e| &e.address).map(|a| &a.ip).collect();
        assert_eq!(ips, [expected], "{zone:?}");
    }
    let client = Some(client(""));
    let request = WatchRequest { service: service(), client, ..WatchRequest::default() };
    let mut watching = watch(&server, request).await.expect("a watch");
    assert_eq!(said(&next(&mut watching).await.expect("a response")), "1 full 2");
    server.publish(|w| w.node("elsewhere", "zone-1"));
    server.publish(|w| w.node("here", "zone-1"));
    let response = next(&mut watching).await.expect("a response");
    assert_eq!(said(&response), "3 full 1", "its node is in another zone now");
}

#[test]
fn whoever_applies_every_step_has_what_the_newest_state_holds() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1_u64);
    let mut random = seed;
    let mut below = |n: u64| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % n
    };
    let ask = |port| Ask {
        key: ServiceKey::new("shop", "web").expect("valid"),
        port,
        place: Place::default(),
        id: String::new(),
    };
    let ask = ask(PortChoice::Number(80));
    let mut known: Option<BTreeMap<(String, u32), Endpoint>> = None;
    let mut before: Option<State> = None;
    for generation in 1..400 {
        let entry = match below(12) {
            0 => None,
            1 => Some(kit::large("web", below(2), 2 * ENDPOINTS_PER_RESPONSE)),
            2 => Some(entry("web", 81, &[])),
            _ => {
                let endpoints: Vec<(u8, bool)> =
                    (1..20).map(|octet| (octet, below(4) > 0)).collect();
                let endpoints: Vec<_> = endpoints.into_iter().filter(|_| below(3) > 0).collect();
                Some(entry("web", 80, &endpoints))
            }
        };
        let generation = Generation(generation);
        let state = State { generation, entry, zone: None };
        let old = before.as_ref().map(|old| View::of(old, &ask));
        let responses = View::of(&state, &ask).since(old.as_ref(), generation);
        for (i, response) in responses.iter().enumerate() {
            assert_eq!(response.more, i + 1 < responses.len(), "seed {seed}");
            follow(&mut known, response);
        }
        let expected = match View::of(&state, &ask) {
            View::Absent(_) => None,
            View::Present(present) => Some(by_address(&present.endpoints())),
        };
        assert_eq!(known, expected, "seed {seed}, generation {generation}");
        let again = View::of(&state, &ask);
        let same = View::of(&state, &ask).since(Some(&again), generation);
        assert_eq!(same, [], "seed {seed}: nothing differs");
        before = Some(state);
    }
}

fn by_address(endpoints: &[Endpoint]) -> BTreeMap<(String, u32), Endpoint> {
    endpoints.iter().map(|e| (at(e.address.as_ref().expect("an address")), e.clone())).collect()
}

fn at(address: &Address) -> (String, u32) {
    (address.ip.clone(), address.port)
}

/// What a client makes of a response.
fn follow(known: &mut Option<BTreeMap<(String, u32), Endpoint>>, response: &WatchResponse) {
    match response.kind.as_ref().expect("a kind") {
        Kind::Full(full) => {
            assert!(full.endpoints.len() <= ENDPOINTS_PER_RESPONSE);
            *known = Some(by_address(&full.endpoints));
        }
        Kind::Delta(delta) => {
            assert!(delta.upserted.len() + delta.removed.len() <= ENDPOINTS_PER_RESPONSE);
            let known = known.as_mut().expect("a set to begin with");
            for gone in &delta.removed {
                known.remove(&at(gone)).expect("it was there");
            }
            known.extend(by_address(&delta.upserted));
        }
        Kind::Absent(absent) => {
            assert_ne!(absent.reason(), Reason::Unspecified);
            *known = None;
        }
        Kind::Heartbeat(_) => {}
    }
}
