//! The first moments: nothing before everything is known, and a saved snapshot in the meantime.

use std::time::Duration;

use portolan_model::{Scope, ServiceKey};

use crate::support::apiserver::{ApiServer, Fault};
use crate::world::{KINDS_WITH_PODS, World, pod, populate, service, truth};

#[tokio::test(start_paused = true)]
async fn nothing_is_published_until_every_kind_is_listed_in_full() {
    for kind in KINDS_WITH_PODS {
        for streaming in [true, false] {
            let server = ApiServer::new().streaming_lists(streaming);
            populate(&server);
            server.fail_when(move |call| (call.kind == *kind).then_some(Fault::Stall));
            let mut world = World::with_pods(&server);
            tokio::time::sleep(Duration::from_secs(300)).await;
            assert_eq!(world.generation(), None, "{kind} is not listed, streaming {streaming}");
            assert!(world.readiness.check().is_err());
            server.clear_faults();
            world.settle(kind).await;
            assert_eq!(world.generation().map(|g| g.0), Some(1), "all of it at once");
            world.finish().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn pods_are_asked_for_only_where_they_are_wanted() {
    let server = ApiServer::new();
    populate(&server);
    server.fail_when(|call| (call.kind == "Pod").then(Fault::forbidden));
    let mut world = World::start(&server);
    world.settle("without the right to read pods").await;
    assert_eq!(world.newest().pods().count(), 0);
    assert!(server.calls().iter().all(|call| call.kind != "Pod"));
    let metrics = world.metrics.encode().expect("metrics");
    assert!(!metrics.contains("portolan_control_synced{kind=\"Pod\"}"), "{metrics}");
    world.finish().await;

    let mut world = World::with_pods(&server);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.generation(), None, "they are waited for");
    let trouble = world.report().sources.values().find_map(|source| source.trouble.clone());
    assert!(trouble.is_some_and(|text| text.contains("pods")));
    server.clear_faults();
    world.settle("with that right").await;
    let has = |world: &World, octet| {
        world.newest().has_pod_address("shop", std::net::IpAddr::from([10, 0, 9, octet]))
    };
    let shown = |world: &World| [1, 2, 3].map(|octet| has(world, octet));
    assert_eq!(shown(&world), [true, false, false], "a job that has ended has no name");
    let steps = [
        (pod("web-0", 3, "Running"), [false, false, true]),
        (pod("web-1", 3, "Pending"), [false, false, true]),
        (pod("web-0", 3, "Failed"), [false, false, true]),
        (pod("web-1", 3, "Failed"), [false, false, false]),
    ];
    for (object, expected) in steps {
        let about = format!("{} {}", object["metadata"]["name"], object["status"]);
        server.apply(object);
        world.settle(&about).await;
        assert_eq!(shown(&world), expected, "{about}");
    }
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_saved_snapshot_is_served_and_marked_stale_until_the_server_has_told_everything() {
    let server = ApiServer::new();
    populate(&server);
    server.apply(service("old", 99, &[80]));
    let saved = truth(&server);
    server.delete("Service", "shop", "old");
    server.delete("Namespace", "", "empty");
    server.fail_when(|_| Some(Fault::Reset));

    let mut world = World::start_from(&server, saved);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let old = ServiceKey::new("shop", "old").expect("valid");
    assert!(world.newest().lookup(&old).is_some(), "the copy is served");
    let text = world.readiness.check().expect("ready, though stale");
    assert!(text.starts_with("stale: "), "{text}");
    assert!(world.metrics.encode().expect("metrics").contains("portolan_snapshot_stale 1"));

    server.clear_faults();
    world.settle("once the server answers").await;
    assert!(world.newest().lookup(&old).is_none(), "what is gone from the server goes");
    assert!(!world.newest().has_namespace(Scope::Cluster, "empty"));
    assert!(!world.readiness.check().expect("ready").contains("stale"));
    assert!(world.metrics.encode().expect("metrics").contains("portolan_snapshot_stale 0"));
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_lone_change_is_published_at_once_and_a_storm_in_few_generations() {
    let server = ApiServer::new();
    populate(&server);
    let mut world = World::start(&server);
    world.settle("the lists").await;
    tokio::time::sleep(Duration::from_secs(10)).await;

    let start = tokio::time::Instant::now();
    server.apply(service("lone", 50, &[80]));
    world.settle("a lone change").await;
    assert!(start.elapsed() < Duration::from_millis(2), "{:?}", start.elapsed());

    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = world.generation().expect("published").0;
    for n in 0..1000_u32 {
        let ports = [80, u16::try_from(n + 1000).expect("small")];
        server.apply(service("lone", 50, &ports));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    world.settle("a storm").await;
    let publishes = world.generation().expect("published").0 - before;
    assert!((8..=20).contains(&publishes), "{publishes} generations in a second");
    let metrics = world.metrics.encode().expect("metrics");
    assert!(metrics.contains("portolan_control_publish_delay_seconds_bucket"), "{metrics}");
    world.finish().await;
}
