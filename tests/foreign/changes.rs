//! Changes under load: listeners that are replaced, clusters that go while they are in use, thousands
//! of updates.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::backend::{Backend, DELAY, Lines, addresses};
use crate::control_plane::resources::{
    action, all, any, assignment, eds_cluster, http_listener, manager, millis, route,
    static_cluster, table, tcp_listener, tcp_proxy,
};
use crate::control_plane::{CDS, EDS, LDS, RDS};
use crate::kit::{Line, ROUTES, WEB, World, all_to_web, fetch, until};
use crate::support::free_address;

/// Updates of the flood.
const UPDATES: usize = 1000;
/// Descriptors that may come and go with connections of the moment.
const SLACK: usize = 24;

/// How clients of the hammer keep their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// There is no hammer.
    None,
    /// Each request has a connection of its own, as probes have.
    No,
    Http1,
    Http2,
}

/// Replaces both kinds of listener again and again under clients that may not notice.
async fn replaced_under(kept: Kept) {
    let (backends, lines) = (Backend::several(1).await, Lines::start("t").await);
    let mut world = World::start().await;
    world.web(&backends).await;
    let tcp = free_address();
    let db = static_cluster("db", &[lines.address]);
    world.plane.set(CDS, all([&eds_cluster(WEB), &db]));
    let listeners = |round: u64| {
        let mut manager = manager(ROUTES);
        manager.stream_idle_timeout = millis(30_000 + round);
        let mut proxy = tcp_proxy("db");
        proxy.idle_timeout = millis(60_000 + round);
        all(&[http_listener("main", world.http, &manager), tcp_listener("db", tcp, &proxy)])
    };
    world.plane.set(LDS, listeners(0));
    let mut line =
        until("TCP", async || Line::open(tcp, b"").await.map_err(|e| e.to_string())).await;

    let (stop, at) = (Arc::new(AtomicBool::new(false)), world.http);
    let hammer = |_| {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let builder = reqwest::Client::builder().no_proxy();
            let client = match kept {
                Kept::None | Kept::No => builder.http1_only().pool_max_idle_per_host(0),
                Kept::Http1 => builder.http1_only(),
                Kept::Http2 => builder.http2_prior_knowledge(),
            };
            let client = client.build().expect("a client");
            let (mut all, mut bad) = (0_usize, Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let answer = fetch(&client, at, "/", &[]).await;
                all += 1;
                if answer.status != 200 {
                    bad.push(answer);
                }
            }
            (all, bad)
        })
    };
    let hammers = if kept == Kept::None { 0 } else { 4 };
    let hammers: Vec<_> = (0..hammers).map(hammer).collect();
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let slow = tokio::spawn(async move { fetch(&client, at, "/", &[(DELAY, "1500")]).await });
    for round in 1..=40 {
        let version = world.plane.set(LDS, listeners(round));
        world.plane.acked(LDS, &version).await;
        assert_eq!(line.echo("still there").await.expect("not reset"), "still there");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(slow.await.expect("no panic").status, 200, "in flight all the while");
    stop.store(true, Ordering::Relaxed);
    for hammer in hammers {
        let (all, bad) = hammer.await.expect("no panic");
        assert!(all > 20 && bad.is_empty(), "{} of {all}: {:#?}", bad.len(), bad.first());
    }
    assert_eq!(line.echo("at the end").await.expect("not reset"), "at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_replaced_and_what_is_in_flight_ends_well() {
    replaced_under(Kept::None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_replaced_and_no_new_connection_is_reset() {
    replaced_under(Kept::No).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_replaced_and_no_kept_connection_is_reset() {
    replaced_under(Kept::Http1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_replaced_and_no_http2_connection_is_reset() {
    replaced_under(Kept::Http2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_moves_changes_its_kind_and_goes() {
    let (backends, lines) = (Backend::several(1).await, Lines::start("t").await);
    let mut world = World::start().await;
    world.web(&backends).await;
    let db = static_cluster("db", &[lines.address]);
    world.plane.set(CDS, all([&eds_cluster(WEB), &db]));
    // Another kind at the same address.
    world.plane.set(LDS, all([&tcp_listener("main", world.http, &tcp_proxy("db"))]));
    let http = world.http;
    let mut line = until("TCP there", async || {
        let line = tokio::time::timeout(Duration::from_secs(1), Line::open(http, b"")).await;
        line.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    })
    .await;
    assert_eq!(line.endpoint, "t");
    // Another address.
    let next = free_address();
    world.plane.set(LDS, all([&tcp_listener("main", next, &tcp_proxy("db"))]));
    until("TCP elsewhere", async || Line::open(next, b"").await.map_err(|e| e.to_string())).await;
    until("the old address is closed", async || match TcpStream::connect(http).await {
        Err(_) => Ok(()),
        Ok(_) => Err("it is open".to_owned()),
    })
    .await;
    assert_eq!(line.echo("moved").await.expect("not reset"), "moved");
    // Two listeners swap their names for one address each: both serve in the end.
    world.plane.set(LDS, Vec::new());
    until("no listener", async || match TcpStream::connect(next).await {
        Err(_) => Ok(()),
        Ok(_) => Err("it is open".to_owned()),
    })
    .await;
    world.plane.set(LDS, all([&http_listener("main", http, &manager(ROUTES))]));
    world.until("HTTP again", |answer| answer.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_whose_address_is_taken_stands_in_nobody_elses_way() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    let at = free_address();
    let taken = std::net::TcpListener::bind(at).expect("a port");
    world.web(&backends).await;
    let listeners = [
        http_listener("main", world.http, &manager(ROUTES)),
        http_listener("taken", at, &manager(ROUTES)),
    ];
    let version = world.plane.set(LDS, all(&listeners));
    world.plane.acked(LDS, &version).await;
    assert_eq!(world.get("/").await.status, 200);
    until("it is counted", async || {
        let failures = world.metric("portolan_proxy_bind_failures_total").await;
        if failures > 0.0 { Ok(()) } else { Err(failures.to_string()) }
    })
    .await;
    drop(taken);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    until("it is tried again", async || {
        let answer = fetch(&client, at, "/", &[]).await;
        if answer.status == 200 { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_while_it_is_in_use() {
    let backends = Backend::several(2).await;
    let mut world = World::start().await;
    world.web(&backends[..1]).await;
    let (client, at) =
        (reqwest::Client::builder().no_proxy().build().expect("a client"), world.http);
    let slow = tokio::spawn(async move { fetch(&client, at, "/", &[(DELAY, "2000")]).await });
    until("it is under way", async || {
        if backends[0].requests() >= 2 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    world.plane.set(CDS, all([&static_cluster("other", &addresses(&backends[1..]))]));
    let answer = world.until("it is gone", |answer| answer.status != 200).await;
    assert_eq!((answer.status, &*answer.reason), (503, "no_cluster"), "{answer:?}");
    let slow = slow.await.expect("no panic");
    assert_eq!((slow.status, &*slow.endpoint), (200, "a"), "what is in flight ends well");
    // It comes back: its endpoints are asked for anew.
    let version = world.plane.set(CDS, all([&eds_cluster(WEB)]));
    world.plane.acked(CDS, &version).await;
    world.until("it is back", |answer| answer.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_a_thousand_updates_wins_and_nothing_leaks() {
    let backends = Backend::several(3).await;
    let mut world = World::start().await;
    world.web(&backends[..1]).await;
    let before = world.process.descriptors();
    let streams = world.plane.streams();
    for update in 0..UPDATES {
        let members = &addresses(&backends)[..1 + update % 3];
        world.plane.set(EDS, all([&assignment(WEB, members)]));
        if update % 10 == 0 {
            let mut cluster = eds_cluster(WEB);
            cluster.connect_timeout = millis(1000 + u64::try_from(update).expect("small"));
            world.plane.set(CDS, all([&cluster]));
            let other = action(if update % 20 == 0 { WEB } else { "none" });
            let routes = vec![route("/other", other), route("/", action(WEB))];
            world.plane.set(RDS, all([&table(ROUTES, routes)]));
            let answer = world.get("/").await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    world.plane.set(RDS, all([&all_to_web()]));
    let version = world.plane.set(EDS, all([&assignment(WEB, &addresses(&backends[2..]))]));
    world.plane.acked(EDS, &version).await;
    until("the last is in force", async || {
        let seen = world.count(20, &[]).await;
        if seen.keys().eq(["c"]) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    assert_eq!(world.plane.streams(), streams, "one stream carried them all");
    until("descriptors are given back", async || {
        let now = world.process.descriptors();
        if now <= before + SLACK { Ok(()) } else { Err(format!("{before} became {now}")) }
    })
    .await;
}

/// Each replaces the sockets of the listener.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_of_many_listeners_wins_and_nothing_leaks() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let before = world.process.descriptors();
    let mut last = String::new();
    for update in 0..UPDATES {
        let mut manager = manager(ROUTES);
        manager.stream_idle_timeout = millis(30_000 + u64::try_from(update).expect("small"));
        last = world.plane.set(LDS, all([&http_listener("main", world.http, &manager)]));
    }
    world.plane.acked(LDS, &last).await;
    world.until("it serves", |answer| answer.status == 200).await;
    until("descriptors are given back", async || {
        let now = world.process.descriptors();
        if now <= before + SLACK { Ok(()) } else { Err(format!("{before} became {now}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_again_changes_nothing() {
    let (backends, lines) = (Backend::several(1).await, Lines::start("t").await);
    let mut world = World::start().await;
    let tcp = free_address();
    world.web(&backends).await;
    let listeners = all(&[
        http_listener("main", world.http, &manager(ROUTES)),
        tcp_listener("db", tcp, &tcp_proxy("db")),
    ]);
    let clusters = all(&[eds_cluster(WEB), static_cluster("db", &[lines.address])]);
    world.plane.set_as(CDS, "same", clusters.clone());
    world.plane.set_as(LDS, "same", listeners.clone());
    let mut line =
        until("TCP", async || Line::open(tcp, b"").await.map_err(|e| e.to_string())).await;
    let accepted = "portolan_proxy_connections_accepted_total{listener=\"main\"}";
    world.get("/").await;
    let before = world.metric(accepted).await;
    for _ in 0..20 {
        world.plane.set_as(CDS, "same", clusters.clone());
        world.plane.set_as(LDS, "same", listeners.clone());
        world.plane.set_as(RDS, "same", all([&all_to_web()]));
        world.plane.set_as(EDS, "same", all([&assignment(WEB, &addresses(&backends))]));
    }
    let version = world.plane.set(CDS, clusters);
    world.plane.acked(CDS, &version).await;
    assert_eq!(world.get("/").await.status, 200);
    assert_eq!(world.metric(accepted).await, before, "a kept connection is kept");
    assert_eq!(line.echo("kept").await.expect("not reset"), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_set_takes_all_away_and_an_empty_answer_of_named_types_nothing() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    for kind in [EDS, RDS] {
        world.plane.push(kind, "empty", Vec::new());
        let said = world.plane.acked(kind, "empty").await;
        assert!(!said.names.is_empty(), "{said:?}");
        assert_eq!(world.get("/").await.status, 200, "nothing is taken away");
    }
    world.plane.push(CDS, "empty", Vec::new());
    let answer = world.until("no cluster", |answer| answer.status != 200).await;
    assert_eq!((answer.status, &*answer.reason), (503, "no_cluster"));
    world.plane.push(LDS, "empty", Vec::new());
    world.until("no listener", |answer| answer.status == 0).await;
    // It all comes back, the endpoints and the table because they are asked for again.
    let listener = any(&http_listener("main", world.http, &manager(ROUTES)));
    world.plane.push(LDS, "full", vec![listener]);
    world.plane.push(CDS, "full", vec![any(&eds_cluster(WEB))]);
    world.until("all is back", |answer| answer.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_named_types_may_hold_some_of_the_names_alone() {
    let backends = Backend::several(3).await;
    let mut world = World::start().await;
    world.web(&backends[..1]).await;
    let second = free_address();
    let listeners = [
        http_listener("main", world.http, &manager(ROUTES)),
        http_listener("second", second, &manager("others")),
    ];
    world.plane.set(CDS, all([&eds_cluster(WEB), &eds_cluster("other")]));
    world.plane.set(LDS, all(&listeners));
    world.plane.until("both are asked for", |said| said.names.len() == 2 && said.kind == EDS).await;
    world.plane.until("both are asked for", |said| said.names.len() == 2 && said.kind == RDS).await;
    // Each on its own, as a control plane does that sends what changed.
    let others = table("others", vec![route("/", action("other"))]);
    world.plane.push(EDS, "1", vec![any(&assignment("other", &[backends[1].address]))]);
    world.plane.push(RDS, "1", vec![any(&others)]);
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let other = async |endpoint: &str| {
        until("the other has its own", async || {
            let answer = fetch(&client, second, "/", &[]).await;
            if answer.endpoint == endpoint { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
    };
    other("b").await;
    assert_eq!(world.get("/").await.endpoint, "a");
    world.plane.push(EDS, "2", vec![any(&assignment("other", &[backends[2].address]))]);
    other("c").await;
    assert_eq!(world.get("/").await.endpoint, "a");
}

/// The protocol wants requests read; the proxy does not depend on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_reads_nothing_any_more_is_followed() {
    let backends = Backend::several(2).await;
    let mut world = World::start().await;
    world.web(&backends[..1]).await;
    world.plane.stop_reading();
    for n in 0..20_000_u32 {
        let endpoints = vec![any(&assignment(WEB, &[backends[0].address]))];
        world.plane.push(EDS, &format!("a-version-of-some-length-{n}"), endpoints);
    }
    world.plane.push(EDS, "last", vec![any(&assignment(WEB, &[backends[1].address]))]);
    world.until("the last is in force", |answer| answer.endpoint == "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clusters_come_and_go() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let names: Vec<String> = (0..1000).map(|n| format!("cluster-{n:04}")).collect();
    let mut clusters = vec![eds_cluster(WEB)];
    let mut endpoints = vec![assignment(WEB, &addresses(&backends))];
    let mut routes = Vec::new();
    for name in &names {
        clusters.push(eds_cluster(name));
        endpoints.push(assignment(name, &addresses(&backends)));
        routes.push(route(&format!("/{name}/"), action(name)));
    }
    routes.push(route("/", action(WEB)));
    for _ in 0..2 {
        world.plane.set(EDS, all(&endpoints));
        world.plane.set(CDS, all(&clusters));
        let version = world.plane.set(RDS, all([&table(ROUTES, routes.clone())]));
        world.plane.acked(RDS, &version).await;
        until("the last is in force", async || {
            let answer = world.get("/cluster-0999/").await;
            if answer.endpoint == "a" { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .await;
        world.plane.set(RDS, all([&all_to_web()]));
        world.plane.set(CDS, all([&eds_cluster(WEB)]));
        until("they are gone", async || {
            let shown = world.process.json("/debug/proxy").await;
            let count = shown["clusters"].as_object().map_or(0, serde_json::Map::len);
            if count == 1 { Ok(()) } else { Err(format!("{count} clusters")) }
        })
        .await;
        assert_eq!(world.get("/").await.status, 200);
    }
}

/// Envoy lets a listener of a new name take over the address.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_renamed_refuses_nobody() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    let (stop, at) = (Arc::new(AtomicBool::new(false)), world.http);
    let knocking = {
        let stop = Arc::clone(&stop);
        tokio::spawn(async move {
            let (mut all, mut refused) = (0_usize, 0_usize);
            while !stop.load(Ordering::Relaxed) {
                all += 1;
                match TcpStream::connect(at).await {
                    Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                        refused += 1;
                    }
                    Ok(_) | Err(_) => {}
                }
            }
            (all, refused)
        })
    };
    for round in 0..40 {
        let listener = http_listener(&format!("main-{round}"), at, &manager(ROUTES));
        let version = world.plane.set(LDS, all([&listener]));
        world.plane.acked(LDS, &version).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (all, refused) = knocking.await.expect("no panic");
    assert_eq!(refused, 0, "of {all}");
    world.until("it serves in the end", |answer| answer.status == 200).await;
}
