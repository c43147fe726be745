//! Endpoints that fail: probes, outlier detection, retries, and what is said when nothing helps.

use std::time::{Duration, Instant};

use portolan_proto::envoy::cluster::{Cluster, OutlierDetection};
use portolan_proto::envoy::core::health_check::{HealthChecker, HttpHealthCheck, TcpHealthCheck};
use portolan_proto::envoy::core::{HealthCheck, HealthStatus};
use portolan_proto::envoy::route::{RetryPolicy, RouteAction};

use crate::backend::{Backend, HEALTH, addresses};
use crate::control_plane::resources::{
    action, all, assignment, duration, eds_cluster, endpoint, locality, manager, millis, number,
    places, route, table,
};
use crate::control_plane::{CDS, EDS};
use crate::kit::{ROUTES, WEB, World, all_to_web, counts, until};
use crate::support::free_address;

async fn world(cluster: &Cluster, backends: &[Backend], action: RouteAction) -> World {
    let mut world = World::single().await;
    let routes = table(ROUTES, vec![route("/", action)]);
    let endpoints = assignment(WEB, &addresses(backends));
    world.serve(cluster, &endpoints, &routes, &manager(ROUTES)).await;
    world
}

fn probed(checker: HealthChecker) -> Cluster {
    let check = HealthCheck {
        timeout: millis(500),
        interval: millis(100),
        unhealthy_threshold: number(2),
        healthy_threshold: number(2),
        health_checker: Some(checker),
        ..HealthCheck::default()
    };
    Cluster { health_checks: vec![check], ..eds_cluster(WEB) }
}

/// Waits until so many requests in a row went to these endpoints and to no other.
async fn only(world: &World, expected: &[&str]) {
    until("only those serve", async || {
        let seen = world.count(12, &[]).await;
        if seen.keys().eq(expected) { Ok(()) } else { Err(format!("{seen:?}, not {expected:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_its_probes_gets_nothing_until_it_passes_them() {
    let backends = Backend::several(2).await;
    let check = HttpHealthCheck { path: HEALTH.to_owned(), ..HttpHealthCheck::default() };
    let cluster = probed(HealthChecker::HttpHealthCheck(check));
    let world = world(&cluster, &backends, action(WEB)).await;
    only(&world, &["a", "b"]).await;
    for _ in 0..2 {
        backends[0].answer_probes(503);
        only(&world, &["b"]).await;
        backends[0].answer_probes(200);
        only(&world, &["a", "b"]).await;
    }
    // Probes end with what asks for them.
    backends[0].answer_probes(503);
    only(&world, &["b"]).await;
    world.plane.set(CDS, all([&eds_cluster(WEB)]));
    only(&world, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_takes_no_connection_fails_its_probes() {
    let backends = Backend::several(1).await;
    let cluster = probed(HealthChecker::TcpHealthCheck(TcpHealthCheck::default()));
    let world = world(&cluster, &backends, action(WEB)).await;
    let dead = free_address();
    world.plane.set(EDS, all([&assignment(WEB, &[dead, backends[0].address])]));
    until("only one is asked", async || {
        let before = backends[0].requests();
        let seen = world.count(10, &[]).await;
        let fine = seen == counts(&[("a", 10)]) && backends[0].requests() == before + 10;
        if fine { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_in_a_row_is_left_out_for_a_while() {
    let backends = Backend::several(2).await;
    let detection = OutlierDetection {
        consecutive_5xx: number(3),
        interval: millis(100),
        base_ejection_time: duration(Duration::from_secs(2)),
        max_ejection_percent: number(100),
        enforcing_success_rate: number(0),
        ..OutlierDetection::default()
    };
    let cluster = Cluster { outlier_detection: Some(detection), ..eds_cluster(WEB) };
    let world = world(&cluster, &backends, action(WEB)).await;
    only(&world, &["a", "b"]).await;
    backends[0].answer(500);
    let failed = world.count(20, &[]).await;
    assert!(failed.get("500 a").copied().unwrap_or_default() <= 5, "{failed:?}");
    assert!(failed["b"] >= 15, "{failed:?}");
    backends[0].answer(200);
    // It comes back by itself.
    only(&world, &["a", "b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_outlier_detection_nobody_is_left_out() {
    let backends = Backend::several(2).await;
    let world = world(&eds_cluster(WEB), &backends, action(WEB)).await;
    backends[0].answer(500);
    assert_eq!(world.count(20, &[]).await, counts(&[("500 a", 10), ("b", 10)]));
}

fn retry(on: &str, retries: u32) -> RetryPolicy {
    RetryPolicy { retry_on: on.to_owned(), num_retries: number(retries), ..RetryPolicy::default() }
}

/// Policies, what one of two endpoints answers, and whether clients see that.
async fn retried(cases: Vec<(RetryPolicy, u16, bool)>) {
    for (policy, status, seen) in cases {
        let backends = Backend::several(2).await;
        let on = policy.retry_on.clone();
        let action = RouteAction { retry_policy: Some(policy), ..action(WEB) };
        let world = world(&eds_cluster(WEB), &backends, action).await;
        backends[0].answer(status);
        let counted = world.count(20, &[]).await;
        let is_seen = counted.keys().any(|who| who == &format!("{status} a"));
        assert_eq!(is_seen, seen, "{on:?} and {status}: {counted:?}");
        assert!(counted.contains_key("b"), "{on:?} and {status}: {counted:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_retry_policy_names_is_tried_elsewhere() {
    retried(vec![
        (retry("5xx", 2), 503, false),
        (retry("5xx", 2), 500, false),
        (retry("gateway-error", 2), 502, false),
        (retry("gateway-error", 2), 500, true),
        (retry("connect-failure,refused-stream", 2), 503, true),
        (retry("5xx", 0), 503, true),
        (retry("", 2), 503, true),
    ])
    .await;
}

/// Words of Envoy's that are neither refused nor heeded.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_retry_policy_of_envoy_names_is_tried_elsewhere_or_refused() {
    let mut codes = retry("retriable-status-codes", 2);
    codes.retriable_status_codes = vec![418];
    retried(vec![
        (retry("retriable-4xx", 2), 409, false),
        (retry("retriable-4xx", 2), 404, true),
        (codes, 418, false),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_take_no_connection_are_passed_over_and_all_of_them_are_503() {
    let backends = Backend::several(1).await;
    let mut world = world(&eds_cluster(WEB), &backends, action(WEB)).await;
    let dead = [free_address(), free_address()];
    let version = world.plane.set(EDS, all([&assignment(WEB, &[dead[0], backends[0].address])]));
    world.plane.acked(EDS, &version).await;
    until("one of them is not there", async || {
        assert_eq!(world.count(20, &[]).await, counts(&[("a", 20)]));
        let failures = world.metric("portolan_proxy_upstream_connect_failures_total").await;
        if failures > 0.0 { Ok(()) } else { Err(failures.to_string()) }
    })
    .await;
    let version = world.plane.set(EDS, all([&assignment(WEB, &dead)]));
    world.plane.acked(EDS, &version).await;
    let answer = world.until("none is there", |answer| answer.status != 200).await;
    assert_eq!((answer.status, &*answer.reason), (503, "connect_failed"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_policy_of_the_virtual_host_holds_where_the_route_has_none() {
    let backends = Backend::several(2).await;
    let mut world = World::single().await;
    let mut routes = all_to_web();
    routes.virtual_hosts[0].retry_policy = Some(RetryPolicy {
        retry_on: "5xx".to_owned(),
        num_retries: number(1),
        ..RetryPolicy::default()
    });
    let endpoints = assignment(WEB, &addresses(&backends));
    world.serve(&eds_cluster(WEB), &endpoints, &routes, &manager(ROUTES)).await;
    backends[0].answer(503);
    assert_eq!(world.count(20, &[]).await, counts(&[("b", 20)]));
}

/// What an endpoint answers, the detection, and whether it is left out for it.
#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_detecting_counts_what_it_is_for() {
    let quick = || OutlierDetection {
        interval: millis(200),
        base_ejection_time: duration(Duration::from_secs(30)),
        max_ejection_percent: number(100),
        enforcing_consecutive_5xx: number(0),
        enforcing_success_rate: number(0),
        ..OutlierDetection::default()
    };
    let gateway = OutlierDetection {
        consecutive_gateway_failure: number(3),
        enforcing_consecutive_gateway_failure: number(100),
        ..quick()
    };
    let share = OutlierDetection {
        failure_percentage_threshold: number(50),
        enforcing_failure_percentage: number(100),
        failure_percentage_minimum_hosts: number(2),
        failure_percentage_request_volume: number(5),
        ..quick()
    };
    let in_a_row = OutlierDetection {
        consecutive_5xx: number(3),
        enforcing_consecutive_5xx: number(100),
        ..quick()
    };
    let cases = [
        ("gateway and 503", gateway.clone(), 503, true),
        ("gateway and 500", gateway, 500, false),
        ("share and 500", share.clone(), 500, true),
        ("share and 404", share, 404, false),
        ("in a row and 404", in_a_row.clone(), 404, false),
        ("in a row and 502", in_a_row, 502, true),
        ("nothing enforced", quick(), 500, false),
    ];
    for (what, detection, status, left_out) in cases {
        let backends = Backend::several(2).await;
        let cluster = Cluster { outlier_detection: Some(detection), ..eds_cluster(WEB) };
        let world = world(&cluster, &backends, action(WEB)).await;
        only(&world, &["a", "b"]).await;
        backends[0].answer(status);
        if left_out {
            until(what, async || {
                let seen = world.count(20, &[]).await;
                if seen == counts(&[("b", 20)]) { Ok(()) } else { Err(format!("{seen:?}")) }
            })
            .await;
        } else {
            // Well past an interval.
            let deadline = Instant::now() + Duration::from_millis(1200);
            while Instant::now() < deadline {
                let seen = world.count(20, &[]).await;
                assert_eq!(
                    seen.values().copied().collect::<Vec<_>>(),
                    [10, 10],
                    "{what}: {seen:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_endpoints_are_left_out_than_may_be() {
    let backends = Backend::several(4).await;
    let detection = OutlierDetection {
        consecutive_5xx: number(2),
        interval: millis(200),
        base_ejection_time: duration(Duration::from_secs(30)),
        max_ejection_percent: number(50),
        enforcing_success_rate: number(0),
        ..OutlierDetection::default()
    };
    let cluster = Cluster { outlier_detection: Some(detection), ..eds_cluster(WEB) };
    let world = world(&cluster, &backends, action(WEB)).await;
    backends[..3].iter().for_each(|backend| backend.answer(500));
    until("half of them are left out", async || {
        let seen = world.count(20, &[]).await;
        let fine = seen.len() == 2 && seen.contains_key("d");
        if fine { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let seen = world.count(40, &[]).await;
    assert_eq!((seen.len(), seen["d"]), (2, 20), "the third stays: {seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_priority_serves_while_the_first_fails_its_probes() {
    let backends = Backend::several(3).await;
    let check = HttpHealthCheck { path: HEALTH.to_owned(), ..HttpHealthCheck::default() };
    let cluster = probed(HealthChecker::HttpHealthCheck(check));
    let [a, b, c] = [0, 1, 2].map(|i| endpoint(backends[i].address, HealthStatus::Healthy));
    let endpoints = places(WEB, vec![locality("a", 0, vec![a, b]), locality("b", 1, vec![c])]);
    let mut world = World::single().await;
    world.serve(&cluster, &endpoints, &all_to_web(), &manager(ROUTES)).await;
    only(&world, &["a", "b"]).await;
    backends[..2].iter().for_each(|backend| backend.answer_probes(500));
    only(&world, &["c"]).await;
    backends[..2].iter().for_each(|backend| backend.answer_probes(200));
    only(&world, &["a", "b"]).await;
}

/// A drained endpoint gets nothing new and ends what it has.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_drains_or_goes_ends_what_it_has() {
    for goes in [false, true] {
        let backends = Backend::several(2).await;
        let world = world(&eds_cluster(WEB), &backends, action(WEB)).await;
        only(&world, &["a", "b"]).await;
        let all_of = || backends.iter().map(Backend::requests).sum::<usize>();
        let before = all_of();
        let change = async {
            until("all are under way", async || {
                let now = all_of();
                if now == before + 10 { Ok(()) } else { Err(format!("{now}")) }
            })
            .await;
            let [a, b] = [0, 1].map(|i| backends[i].address);
            let mut members = vec![endpoint(b, HealthStatus::Healthy)];
            if !goes {
                members.push(endpoint(a, HealthStatus::Draining));
            }
            world.plane.set(EDS, all([&places(WEB, vec![locality("a", 0, members)])]));
            only(&world, &["b"]).await;
        };
        let (busy, ()) = tokio::join!(world.slow(10, Duration::from_secs(2)), change);
        assert_eq!(busy, counts(&[("a", 5), ("b", 5)]), "goes: {goes}");
    }
}
