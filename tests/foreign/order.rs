//! Whatever comes first: the types may be answered in any order, and what refers to something that is
//! not there yet waits for it or serves without.

use std::time::{Duration, Instant};

use crate::backend::{Backend, addresses};
use crate::control_plane::resources::{
    Resource, action, all, assignment, eds_cluster, http_listener, manager, route, table,
};
use crate::control_plane::{CDS, ControlPlane, EDS, LDS, RDS};
use crate::kit::{ROUTES, WEB, World, all_to_web, until};

/// The four types, each with what it takes to serve.
fn parts(world: &World, backends: &[Backend]) -> [(&'static str, Vec<Resource>); 4] {
    let listener = http_listener("main", world.http, &manager(ROUTES));
    [
        (CDS, all([&eds_cluster(WEB)])),
        (EDS, all([&assignment(WEB, &addresses(backends))])),
        (LDS, all([&listener])),
        (RDS, all([&all_to_web()])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_types_may_come_in_any_order() {
    let backends = Backend::several(1).await;
    let orders: [[usize; 4]; 6] =
        [[0, 1, 2, 3], [2, 3, 0, 1], [3, 2, 1, 0], [1, 0, 3, 2], [2, 0, 3, 1], [0, 2, 1, 3]];
    for order in orders {
        let world = World::start().await;
        let parts = parts(&world, &backends);
        for at in order {
            let (kind, resources) = &parts[at];
            let version = world.plane.set(kind, resources.clone());
            // What is not asked for yet is not sent yet; both are served as soon as they may be.
            let asked = kind == &CDS
                || kind == &LDS
                || world.plane.said().iter().any(|said| said.kind == *kind);
            if asked {
                world.plane.acked(kind, &version).await;
            }
        }
        let answer = world.until("it serves", |answer| answer.status == 200).await;
        assert_eq!(answer.endpoint, "a", "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_unasked_does_no_harm() {
    let backends = Backend::several(1).await;
    let world = World::start().await;
    world.plane.until("the first request", |said| said.kind == LDS).await;
    let parts = parts(&world, &backends);
    for at in [3, 1] {
        let (kind, resources) = &parts[at];
        let resources = resources.iter().map(|resource| resource.any.clone()).collect();
        world.plane.push(kind, "early", resources);
    }
    // A type that nobody knows.
    world.plane.push("type.googleapis.com/example.Other", "1", Vec::new());
    for (kind, resources) in parts {
        world.plane.set(kind, resources);
    }
    world.until("it serves", |answer| answer.status == 200).await;
    assert_eq!(world.plane.streams(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_listener_whose_table_has_not_come_serves_once_it_has() {
    let backends = Backend::several(1).await;
    let world = World::start().await;
    let parts = parts(&world, &backends);
    for (kind, resources) in &parts[..3] {
        world.plane.set(kind, resources.clone());
    }
    world.plane.until("the table is asked for", |said| said.names.contains(ROUTES)).await;
    // It may not listen yet, or say that it knows no route; nothing else.
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let answer = world.get("/").await;
        let fine = matches!((answer.status, &*answer.reason), (0, _) | (404, "no_route"));
        assert!(fine, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.plane.set(RDS, parts[3].1.clone());
    world.until("it serves", |answer| answer.status == 200).await;
}

/// Envoy keeps the old listener until the new one is warm.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_changes_to_a_table_that_has_not_come_goes_on_with_the_old_one() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    world.web(&backends).await;
    world.plane.set(LDS, all([&http_listener("main", world.http, &manager("later"))]));
    world.plane.until("the new table is asked for", |said| said.names.contains("later")).await;
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        let answer = world.get("/").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.plane.set(RDS, all([&table("later", vec![route("/new", action(WEB))])]));
    until("the new table is in force", async || {
        let (new, old) = (world.get("/new").await, world.get("/").await);
        let fine = new.status == 200 && old.reason == "no_route";
        if fine { Ok(()) } else { Err(format!("{new:?} {old:?}")) }
    })
    .await;
}

/// Envoy keeps the old cluster until the new one has its endpoints.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_changes_to_endpoints_that_have_not_come_goes_on_with_the_old_ones() {
    let backends = Backend::several(2).await;
    let mut world = World::start().await;
    world.web(&backends[..1]).await;
    let mut moved = eds_cluster(WEB);
    moved.eds_cluster_config.as_mut().expect("by EDS").service_name = "elsewhere".to_owned();
    world.plane.set(CDS, all([&moved]));
    world.plane.until("the new set is asked for", |said| said.names.contains("elsewhere")).await;
    let deadline = Instant::now() + Duration::from_secs(3);
    while Instant::now() < deadline {
        let answer = world.get("/").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.plane.set(EDS, all([&assignment("elsewhere", &addresses(&backends[1..]))]));
    world.until("the new endpoints are in force", |answer| answer.endpoint == "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_endpoints_never_come_holds_nothing_else_back() {
    let backends = Backend::several(2).await;
    let mut world = World::start().await;
    world.web(&backends[..1]).await;
    world.plane.set(CDS, all([&eds_cluster(WEB), &eds_cluster("never")]));
    world.plane.until("its endpoints are asked for", |said| said.names.contains("never")).await;
    let both = vec![route("/never", action("never")), route("/", action(WEB))];
    world.plane.set(RDS, all([&table(ROUTES, both)]));
    until("the route is in force", async || {
        let answer = world.get("/never").await;
        if answer.reason == "no_endpoints" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
    world.plane.set(EDS, all([&assignment(WEB, &addresses(&backends[1..]))]));
    world.until("endpoints are followed", |answer| answer.endpoint == "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_ready_once_it_listens_and_not_before() {
    let backends = Backend::several(1).await;
    let mut world = World::start().await;
    let parts = parts(&world, &backends);
    let version = world.plane.set(CDS, parts[0].1.clone());
    world.plane.acked(CDS, &version).await;
    let version = world.plane.set(EDS, parts[1].1.clone());
    world.plane.acked(EDS, &version).await;
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let (status, text) = world.process.admin("/readyz").await;
        assert_eq!(status, 503, "no listener came yet: {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    world.plane.set(LDS, parts[2].1.clone());
    world.plane.set(RDS, parts[3].1.clone());
    world.process.reach(1).await;
    assert_eq!(world.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_the_control_plane_died_is_in_force() {
    let backends = Backend::several(1).await;
    let mut plane = ControlPlane::start().await;
    let at = plane.address;
    // The table of a second listener never comes, and the control plane dies at once.
    let mut world = World::under(ControlPlane::start().await, at, &[]);
    let parts = parts(&world, &backends);
    let second = crate::support::free_address();
    let listeners = [
        http_listener("main", world.http, &manager(ROUTES)),
        http_listener("second", second, &manager("never")),
    ];
    plane.set(CDS, parts[0].1.clone());
    plane.set(EDS, parts[1].1.clone());
    plane.set(LDS, all(&listeners));
    let version = plane.set(RDS, parts[3].1.clone());
    plane.acked(RDS, &version).await;
    plane.acked(EDS, "v2").await;
    plane.stop();
    world.until("it serves", |answer| answer.status == 200).await;
    world.process.reach(1).await;
}
