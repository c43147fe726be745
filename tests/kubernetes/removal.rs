//! Mass removal by an API server: lists that come back nearly empty are held back, whatever is
//! said besides them is not.

use std::time::Duration;

use portolan_control::holds::{ReleaseError, Which};
use portolan_control::{Holds, Severity, holds};
use portolan_model::ServiceKey;

use crate::support::apiserver::ApiServer;
use crate::world::{PATIENCE, World, populate, service, slice, truth};

const SERVICES: u8 = 30;

fn name(n: u8) -> String {
    format!("s{n}")
}

fn fill(server: &ApiServer) {
    let objects = (0..SERVICES).flat_map(|n| {
        [service(&name(n), n + 10, &[80]), slice(&name(n), n + 10, &[(1, true), (2, true)])]
    });
    server.load(objects.collect());
}

/// Empties the server while nobody watches, so that its kinds are listed anew.
fn wipe(server: &ApiServer, kinds: &[&str]) {
    server.close_watches();
    for n in 0..SERVICES {
        for kind in kinds {
            let object = if *kind == "Service" { name(n) } else { format!("s{n}-{}", n + 10) };
            assert!(server.delete(kind, "shop", &object));
        }
    }
    server.compact();
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("shop", name).expect("valid")
}

/// Waits until so many services are held.
async fn held(world: &World, holds: &Holds, count: usize) {
    // What is held without anything being published is in a report all the same.
    let mut reports = world.reports.subscribe();
    let waiting = async {
        while holds.list().len() != count {
            reports.changed().await.expect("the loop runs");
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("not {count} are held: {:?}", holds.list()));
}

/// Waits until all that is held is listed as gone, or as there without endpoints.
async fn gone(world: &World, holds: &Holds, is_gone: bool) {
    let mut reports = world.reports.subscribe();
    let waiting = async {
        while holds.list().iter().any(|row| row.gone != is_gone) {
            reports.changed().await.expect("the loop runs");
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_| panic!("gone is not {is_gone} for all: {:?}", holds.list()));
}

/// Waits until this is published.
async fn published(world: &mut World, name: &str) {
    let waiting = async {
        while world.newest().lookup(&key(name)).is_none() {
            world.snapshots.next().await.expect("the loop runs");
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("no {name}"));
}

fn reasons(world: &World) -> Vec<String> {
    let rejections = &world.report().rejections;
    let held = rejections.iter().filter(|rejection| rejection.severity == Severity::Held);
    held.map(|rejection| rejection.reason.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn lists_that_come_back_nearly_empty_take_nothing_out_until_they_are_full_again() {
    for kinds in [&["Service"][..], &["EndpointSlice"], &["EndpointSlice", "Service"]] {
        let server = ApiServer::new();
        populate(&server);
        fill(&server);
        let (holds, end) = holds::channel();
        let mut world = World::guarded(&server, end);
        world.settle("the lists").await;
        world.watched("at first").await;
        let before = world.newest();

        wipe(&server, kinds);
        // It is said after the lists.
        server.apply(service("late", 200, &[80]));
        published(&mut world, "late").await;
        held(&world, &holds, SERVICES.into()).await;
        gone(&world, &holds, kinds.contains(&"Service")).await;
        let now = world.newest();
        for n in 0..SERVICES {
            assert_eq!(now.lookup(&key(&name(n))), before.lookup(&key(&name(n))), "{kinds:?}");
        }
        let said = reasons(&world);
        assert!(said.len() == 1 && said[0].contains(" at once; held back until "), "{said:?}");
        let page = serde_json::to_value(&*world.report()).expect("JSON");
        let row = &page["rejections"][0];
        assert_eq!((row["severity"].as_str(), row["object"].as_str()), (Some("held"), None));

        fill(&server);
        held(&world, &holds, 0).await;
        world.settle("once all are back").await;
        assert_eq!(reasons(&world), [""; 0], "{kinds:?}");
        world.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_held_goes_when_it_is_released_or_its_time_is_over() {
    let server = ApiServer::new();
    fill(&server);
    let (holds, end) = holds::channel();
    let mut world = World::guarded(&server, end);
    world.settle("the lists").await;
    world.watched("at first").await;
    assert_eq!(holds.release(Which::All).await, Err(ReleaseError::Nothing));

    wipe(&server, &["Service"]);
    held(&world, &holds, SERVICES.into()).await;
    let released = holds.release(Which::One(key("s3"))).await.expect("released");
    assert_eq!(released.released, ["shop/s3"]);
    assert_eq!(Some(released.generation), world.generation());
    let refused = holds.release(Which::One(key("s3"))).await;
    assert_eq!(refused, Err(ReleaseError::NotHeld(key("s3"))));
    assert_eq!(world.newest().service_count(), usize::from(SERVICES) - 1);
    tokio::time::sleep(Duration::from_secs(590)).await;
    assert_eq!(holds.list().len(), usize::from(SERVICES) - 1, "{:?}", holds.list());
    assert_eq!(holds.list()[0].held_secs + holds.list()[0].left_secs.expect("a time"), 600);
    world.settle("once the time is over").await;
    assert_eq!((holds.list(), reasons(&world)), (Vec::new(), Vec::new()));

    fill(&server);
    world.settle("once all are back").await;
    world.watched("again").await;
    wipe(&server, &["Service"]);
    held(&world, &holds, SERVICES.into()).await;
    let released = holds.release(Which::All).await.expect("released");
    assert_eq!(released.released.len(), usize::from(SERVICES));
    assert!(truth(&server).differences(&world.newest()).is_empty());
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_saved_is_held_against_a_server_that_comes_up_empty() {
    let full = ApiServer::new();
    fill(&full);
    let server = ApiServer::new();
    server.apply(service("late", 200, &[80]));
    let mut world = World::start_from(&server, truth(&full));
    published(&mut world, "late").await;
    assert_eq!(world.newest().service_count(), usize::from(SERVICES) + 1);
    world.settle("once the time is over").await;
    assert_eq!(world.newest().service_count(), 1);
    world.finish().await;
}
