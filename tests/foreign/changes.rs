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
use crate::kit::{Line, ROUTES, WEB, World, all_to_web, fetch, free_address, until};

/// Updates of the flood.
const UPDATES: usize = 1000;
/// Descriptors that may come and go with connections of the moment.
const SLACK: usize = 24;

/// How clients of the hammer keep their connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
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
                Kept::No => builder.http1_only().pool_max_idle_per_host(0),
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
    let hammers: Vec<_> = (0..4).map(hammer).collect();
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
async fn a_listener_is_replaced_and_no_new_connection_is_reset() {
    replaced_under(Kept::No).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "bug: kept connections are closed at once, under a request that is on its way"]
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
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let at = taken.local_addr().expect("bound");
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
    let builder = reqwest::Client::builder().no_proxy().http1_only().pool_max_idle_per_host(0);
    let client = builder.build().expect("a client");
    let mut last = String::new();
    for update in 0..UPDATES {
        let mut manager = manager(ROUTES);
        manager.stream_idle_timeout = millis(30_000 + u64::try_from(update).expect("small"));
        last = world.plane.set(LDS, all([&http_listener("main", world.http, &manager)]));
        if update % 50 == 0 {
            let answer = fetch(&client, world.http, "/", &[]).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
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
