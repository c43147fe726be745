//! Every fault at every call: after it, what is published is what the server has.

use std::time::Duration;

use portolan_control::kubernetes::guard::RequestLimits;
use portolan_control::object::Kind;
use serde_json::json;

use crate::support::apiserver::{ApiServer, Fault};
use crate::world::{World, namespace, node, populate, service, slice};

/// A life with everything that happens to a cluster in it.
async fn scenario(server: ApiServer, what: &str) {
    populate(&server);
    let mut world = World::start(&server);
    world.settle(&format!("{what}: the first lists")).await;
    world.watched(what).await;

    server.apply(slice("web", 1, &[(1, true), (3, true), (9, true)]));
    server.delete("EndpointSlice", "shop", "web-2");
    server.apply(service("new", 7, &[80]));
    world.settle(&format!("{what}: changes")).await;

    server.bookmark();
    server.close_watches();
    server.delete("Service", "shop", "api");
    server.apply(node(0, "c"));
    world.settle(&format!("{what}: changes while no watch was open")).await;
    world.watched(what).await;

    server.delete("ServiceImport", "shop", "web");
    server.delete("Namespace", "", "empty");
    server.compact();
    server.cut_watches();
    server.apply(namespace("late"));
    world.settle(&format!("{what}: changes of which the history is forgotten")).await;
    world.watched(what).await;
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn every_fault_at_every_call_is_survived_and_nothing_is_lost() {
    every_fault(false).await;
}

#[tokio::test(start_paused = true)]
async fn the_same_of_a_server_whose_lists_are_streamed() {
    every_fault(true).await;
}

async fn every_fault(streaming: bool) {
    let new = |gone| ApiServer::new().streaming_lists(streaming).gone_as_status(gone);
    let (mut tried, mut met, mut calls) = (0, 0, 0);
    for gone in [true, false] {
        let sound = new(gone);
        scenario(sound.clone(), "no fault").await;
        calls = calls.max(sound.call_count());
    }
    for (i, fault) in Fault::one_of_each().into_iter().enumerate() {
        for call in 0..calls {
            // How a history that is forgotten is told comes in turn.
            let gone = (i + call) % 2 == 0;
            let server = new(gone);
            server.fail(call, fault.clone());
            let what = format!("{fault:?} at call {call}, streaming {streaming}, gone {gone}");
            scenario(server.clone(), &what).await;
            tried += 1;
            // A life may be over just before its last calls.
            met += usize::from(server.call_count() > call);
        }
    }
    assert!(met > 250 && met * 100 >= tried * 95, "{met} of {tried} faults were met");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_for_long_is_asked_less_and_less_and_at_once_again_when_it_is_back() {
    let server = ApiServer::new();
    populate(&server);
    server.fail_when(|_| Some(Fault::unavailable()));
    let mut world = World::start(&server);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let (calls, generation) = (server.call_count(), world.generation());
    assert_eq!(generation, None, "nothing is published of nothing");
    // Twelve kinds, doubling from 0.2 s to 30 s, with jitter: about 30 each.
    assert!((240..720).contains(&calls), "{calls} calls");
    server.clear_faults();
    world.settle("once it is back").await;
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_every_watch_at_once_is_not_hammered() {
    let server = ApiServer::new().streaming_lists(false);
    populate(&server);
    server.fail_when(|call| (call.verb == "watch").then_some(Fault::End));
    let mut world = World::start(&server);
    world.settle("the lists").await;
    let before = server.call_count();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let calls = server.call_count() - before;
    let limits = RequestLimits::default();
    let most = usize::try_from(60 * limits.per_second + limits.burst).expect("small");
    assert!(calls <= most, "{calls} calls in a minute");
    server.clear_faults();
    server.apply(service("later", 9, &[80]));
    world.settle("a change").await;
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn watches_that_fall_silent_are_given_up() {
    let server = ApiServer::new();
    populate(&server);
    let mut world = World::start(&server);
    world.settle("the lists").await;
    server.hold_watches(true);
    server.apply(service("later", 9, &[80]));
    // Nothing more will ever come on these connections.
    server.hold_watches(false);
    world.settle("a change that the dead watches never told").await;
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_by_rbac_names_verb_and_resource_until_it_is_granted() {
    let server = ApiServer::new();
    populate(&server);
    server.fail_when(|call| (call.kind == "EndpointSlice").then(Fault::forbidden));
    let mut world = World::start(&server);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.generation(), None, "a kind that cannot be listed holds everything back");
    let report = world.report();
    let troubles: Vec<&str> =
        report.sources.values().filter_map(|source| source.trouble.as_deref()).collect();
    let text = "cannot watch endpointslices.discovery.k8s.io: endpointslices.discovery.k8s.io is \
                forbidden: User \"system:serviceaccount:portolan:portolan\" cannot watch resource \
                \"endpointslices\" in API group \"discovery.k8s.io\" at the cluster scope; \
                deploy/rbac.yaml grants what is needed";
    assert_eq!(troubles, [text]);
    server.clear_faults();
    world.settle("once it is granted").await;
    assert!(world.report().sources.values().all(|source| source.trouble.is_none()));
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_api_without_service_imports_is_complete_and_they_may_come_later() {
    let server = ApiServer::new().without("ServiceImport");
    populate(&server);
    let world = World::start(&server);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(world.generation().map(|g| g.0), Some(1));
    assert_eq!(world.report().objects.of(Kind::ServiceImport), 0);
    server.set_installed("ServiceImport", true);
    let mut world = world;
    world.settle("once the API has them").await;
    assert_eq!(world.report().objects.of(Kind::ServiceImport), 1);
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_refused_keeps_its_last_good_version_and_spoils_no_list() {
    let server = ApiServer::new();
    populate(&server);
    let mut world = World::start(&server);
    world.settle("the lists").await;
    let before = world.newest();
    let mut bad = slice("web", 1, &[(1, true)]);
    bad["endpoints"][0]["addresses"] = json!(["10.0.0.999"]);
    server.apply(bad);
    server.apply(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "api", "namespace": "shop" },
        "spec": { "clusterIP": "10.96.0.2", "ports": [{ "port": "eighty" }] },
    }));
    for relist in [false, true] {
        if relist {
            server.compact();
            server.close_watches();
        }
        tokio::time::sleep(Duration::from_secs(120)).await;
        let said: Vec<String> = world.report().rejections.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "kubernetes: Service shop/api: spec.ports[0].port: invalid type: string \
                 \"eighty\", expected i32",
                "kubernetes: EndpointSlice shop/web-1: endpoints[0].addresses[0]: \"10.0.0.999\" \
                 is not an IP address",
            ],
            "relist {relist}"
        );
        assert!(before.differences(&world.newest()).is_empty(), "relist {relist}");
    }
    server.apply(slice("web", 1, &[(1, true)]));
    server.apply(service("api", 2, &[80]));
    world.settle("once they are good again").await;
    assert!(world.report().rejections.is_empty());
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_slice_that_names_no_service_any_more_leaves_it() {
    let server = ApiServer::new();
    populate(&server);
    let mut world = World::start(&server);
    world.settle("the lists").await;
    let key = portolan_model::ServiceKey::new("shop", "web").expect("valid");
    let readiness = |world: &World| world.newest().lookup(&key).map(|entry| entry.readiness());
    assert_eq!(readiness(&world), Some((3, 4)));
    let mut orphan = slice("web", 2, &[(4, true)]);
    orphan["metadata"]["labels"] = json!({ "app": "web" });
    server.apply(orphan);
    // A service's name may have 63 characters, and its slices' names have more.
    let long = "a".repeat(63);
    server.apply(service(&long, 60, &[80]));
    server.apply(slice(&long, 60, &[(1, true)]));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(readiness(&world), Some((2, 3)));
    let key = portolan_model::ServiceKey::new("shop", &long).expect("valid");
    let long = world.newest().lookup(&key).map(|entry| entry.readiness());
    assert_eq!(long, Some((1, 1)));
    assert!(world.report().rejections.is_empty(), "{:?}", world.report().rejections);
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn trouble_that_is_over_is_shown_no_longer_though_nothing_changes() {
    let server = ApiServer::new();
    populate(&server);
    let mut world = World::start(&server);
    world.settle("the lists").await;
    for _ in 0..3 {
        server.fail_next(Fault::internal());
    }
    server.close_watches();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let troubled = |world: &World| {
        world.report().sources.values().filter(|source| source.trouble.is_some()).count()
    };
    assert!(troubled(&world) > 0);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(troubled(&world), 0);
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn one_answer_that_a_kind_is_absent_is_not_believed() {
    let server = ApiServer::new();
    populate(&server);
    let mut world = World::start(&server);
    world.settle("the lists").await;
    let imports = |world: &World| world.report().objects.of(Kind::ServiceImport);
    assert_eq!(imports(&world), 1);
    let once = std::sync::atomic::AtomicBool::new(true);
    server.fail_when(move |call| {
        let meets =
            call.kind == "ServiceImport" && once.swap(false, std::sync::atomic::Ordering::SeqCst);
        meets.then(Fault::not_found)
    });
    server.close_watches();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(imports(&world), 1, "a gateway's 404 takes nothing out");
    server.set_installed("ServiceImport", false);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(imports(&world), 0, "a definition that is gone does");
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_relist_of_what_has_not_changed_publishes_nothing() {
    let server = ApiServer::new();
    populate(&server);
    let mut world = World::start(&server);
    world.settle("the lists").await;
    let generation = world.generation();
    // History moves on by something that nobody watches.
    server.apply(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "other", "namespace": "shop" }, "spec": {},
    }));
    server.compact();
    server.cut_watches();
    tokio::time::sleep(Duration::from_secs(300)).await;
    let lists = server.calls().iter().filter(|c| !c.param("sendInitialEvents").is_empty()).count();
    assert!(lists >= 10, "every kind was listed anew: {lists}");
    assert_eq!(world.generation(), generation);
    world.finish().await;
}
