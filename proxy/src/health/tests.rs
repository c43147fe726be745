//! The board as a whole: configurations, what workers report, intervals.

use std::time::Duration;

use portolan_model::policy::{Balancer, FailurePercentage, Probe};
use portolan_model::traffic::{Outlier, SuccessRate};
use tokio::net::TcpListener;

use super::ejection::Cause;
use super::host::HostHealth;
use super::outcome::Outcome::{self, GatewayError, LocalError, ServerError, Success};
use super::threshold::Answer;
use super::*;

/// Outlier detection with every way of detecting off.
pub(super) fn outlier() -> Outlier {
    Outlier {
        consecutive_errors: None,
        consecutive_gateway_errors: None,
        consecutive_local_errors: None,
        success_rate: None,
        failure_percentage: None,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        ejection_jitter: Duration::ZERO,
        max_percent: 10,
    }
}

fn in_a_row(consecutive_errors: u32, max_percent: u32) -> Outlier {
    Outlier { consecutive_errors: Some(consecutive_errors), max_percent, ..outlier() }
}

fn rule() -> HealthCheck {
    HealthCheck {
        probe: Probe::Tcp,
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(5),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    }
}

fn address(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 80).into()
}

/// A configuration of one cluster, `web`.
fn config(
    outlier: Option<Outlier>,
    health_check: Option<HealthCheck>,
    hosts: impl IntoIterator<Item = SocketAddr>,
) -> TrafficConfig {
    let mut config = TrafficConfig::default();
    let new = Cluster::new("web".into(), Balancer::RoundRobin);
    config.clusters.insert("web".into(), Arc::new(Cluster { outlier, health_check, ..new }));
    let set = EndpointSet::flat("web".into(), hosts.into_iter().map(|address| (address, 1)));
    config.endpoints.insert("web".into(), Arc::new(set));
    config
}

/// Outcomes and how often each is reported.
type Reports = &'static [(Outcome, usize)];

struct Fixture {
    board: Board,
    cluster: Arc<ClusterHealth>,
}

impl Fixture {
    /// Two workers, hosts `10.0.0.1` and on.
    fn new(outlier: Outlier, hosts: u8) -> Self {
        let board = Board::new(2);
        board.apply(&config(Some(outlier), None, (1..=hosts).map(address)));
        let cluster = board.cluster("web").expect("watched");
        Self { board, cluster }
    }

    fn host(&self, n: u8) -> Arc<HostHealth> {
        self.cluster.host(address(n)).expect("in the cluster")
    }

    /// The workers report by turns.
    fn report(&self, n: u8, outcome: Outcome, times: usize) {
        (0..times).for_each(|i| self.host(n).report(i % 2, outcome));
    }

    fn out(&self) -> Vec<u8> {
        let hosts = self.cluster.hosts();
        let out = hosts.iter().filter(|host| !host.is_available());
        out.map(|host| address_number(host.address)).collect()
    }

    fn count(&self, cause: Cause) -> (u64, u64, u64) {
        let metrics = self.board.metrics();
        let read = |counters: &[crate::metrics::Counter]| counters[cause.index()].get();
        (read(&metrics.ejections), read(&metrics.ejections_overflowed), metrics.ejected.get())
    }
}

fn address_number(address: SocketAddr) -> u8 {
    match address {
        SocketAddr::V4(v4) => v4.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    }
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_put_an_endpoint_out_at_once() {
    let local = Outlier { consecutive_local_errors: Some(2), ..in_a_row(5, 100) };
    let gateway = Outlier { consecutive_gateway_errors: Some(3), ..in_a_row(5, 100) };
    let errors = Cause::ConsecutiveErrors;
    #[rustfmt::skip]
    let cases: [(&str, Outlier, Reports, Option<Cause>); 8] = [
        ("one short", in_a_row(5, 100), &[(ServerError, 4)], None),
        ("five", in_a_row(5, 100), &[(ServerError, 5)], Some(errors)),
        ("a success between", in_a_row(5, 100), &[(ServerError, 4), (Success, 1), (ServerError, 4)], None),
        ("all sorts together", in_a_row(5, 100), &[(ServerError, 2), (LocalError, 2), (GatewayError, 1)], Some(errors)),
        ("gateway errors", gateway, &[(GatewayError, 3)], Some(Cause::ConsecutiveGatewayErrors)),
        ("local errors count as gateway errors", gateway, &[(LocalError, 3)], Some(Cause::ConsecutiveGatewayErrors)),
        ("apart: local errors", local, &[(LocalError, 2)], Some(Cause::ConsecutiveLocalErrors)),
        ("apart: they do not add up with others", local, &[(ServerError, 4), (LocalError, 1)], None),
    ];
    for (about, outlier, outcomes, cause) in cases {
        let fixture = Fixture::new(outlier, 3);
        let before = fixture.cluster.version();
        outcomes.iter().for_each(|(outcome, times)| fixture.report(2, *outcome, *times));
        assert_eq!(fixture.out(), cause.map_or(vec![], |_| vec![2]), "{about}");
        assert_eq!(fixture.cluster.version() > before, cause.is_some(), "{about}: the version");
        for each in Cause::ALL {
            let expected = u64::from(cause == Some(each));
            assert_eq!(fixture.count(each), (expected, 0, u64::from(cause.is_some())), "{about}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_are_put_out_than_the_share_allows() {
    let fixture = Fixture::new(in_a_row(3, 40), 5);
    for n in 1..=5 {
        fixture.report(n, ServerError, 3);
    }
    assert_eq!(fixture.out(), [1, 2]);
    assert_eq!(fixture.count(Cause::ConsecutiveErrors), (2, 3, 2));
    fixture.report(5, ServerError, 2);
    assert_eq!(fixture.count(Cause::ConsecutiveErrors).1, 3, "a whole streak is needed again");
    fixture.report(5, ServerError, 1);
    assert_eq!(fixture.count(Cause::ConsecutiveErrors).1, 4);
    fixture.report(1, ServerError, 30);
    assert_eq!(fixture.count(Cause::ConsecutiveErrors), (2, 4, 2), "it is out already");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_comes_back_at_an_interval_and_stays_out_longer_the_next_time() {
    let fixture = Fixture::new(in_a_row(3, 100), 2);
    let start = Instant::now();
    for (round, expected) in [(1, 30), (2, 60), (3, 90)] {
        let out = Instant::now();
        fixture.report(1, ServerError, 3);
        assert_eq!(fixture.out(), [1], "round {round}");
        let version = fixture.cluster.version();
        let back = async {
            while !fixture.out().is_empty() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(400), back).await.expect("it comes back");
        let seconds = out.elapsed().as_secs_f64();
        let expected = f64::from(expected);
        assert!((expected..expected + 10.2).contains(&seconds), "round {round}: {seconds}");
        assert!(fixture.cluster.version() > version, "round {round}");
        assert_eq!(fixture.host(1).streak(), Default::default(), "round {round}");
    }
    assert!(start.elapsed() < Duration::from_secs(220));
    let view = fixture.board.view("web");
    assert_eq!((view[0].ejections, view[0].multiplier), (3, 3));
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert_eq!(fixture.board.view("web")[0].multiplier, 0, "it was well for four intervals");
}

#[tokio::test(start_paused = true)]
async fn rates_are_judged_over_all_workers_at_the_end_of_an_interval() {
    let success_rate =
        SuccessRate { stdev_factor_milli: 1900, minimum_hosts: 5, request_volume: 100 };
    let share = FailurePercentage { threshold: 50, minimum_hosts: 5, request_volume: 50 };
    let cases = [
        (Outlier { success_rate: Some(success_rate), ..outlier() }, Cause::SuccessRate),
        (Outlier { failure_percentage: Some(share), ..outlier() }, Cause::FailurePercentage),
    ];
    for (outlier, cause) in cases {
        let fixture = Fixture::new(outlier, 6);
        for n in 1..=6 {
            fixture.report(n, Success, if n == 3 { 40 } else { 100 });
        }
        fixture.report(3, ServerError, 60);
        assert_eq!(fixture.out(), [] as [u8; 0], "{cause:?}: not before the interval ends");
        tokio::time::sleep(outlier.interval + Duration::from_millis(50)).await;
        assert_eq!(fixture.out(), [3], "{cause:?}");
        assert_eq!(fixture.count(cause), (1, 0, 1));
        let view = &fixture.board.view("web")[2];
        assert_eq!((view.succeeded, view.failed), (40, 60));
        // What has been judged once is not judged again: it comes back, and nobody follows.
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!(fixture.out(), [] as [u8; 0], "{cause:?}");
        assert_eq!(fixture.count(cause), (1, 0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn success_changes_nothing_that_others_see() {
    let fixture = Fixture::new(in_a_row(3, 100), 1);
    let version = fixture.cluster.version();
    fixture.report(1, Success, 1000);
    fixture.host(1).report(99, Success);
    assert_eq!(fixture.cluster.version(), version);
    assert_eq!(fixture.host(1).counted(), Default::default(), "nobody judges by rates");
}

#[tokio::test(start_paused = true)]
async fn an_active_check_that_passes_takes_an_endpoint_back() {
    let board = Board::new(1);
    board.apply(&config(Some(in_a_row(3, 100)), Some(rule()), [address(1)]));
    let cluster = board.cluster("web").expect("watched");
    let host = cluster.host(address(1)).expect("in the cluster");
    let passed = || host.on_check(&Answer::Passed, &rule());
    assert!(!host.is_available() && host.is_pending(), "unhealthy until its first check");
    passed();
    assert!(host.is_available() && !host.is_pending());
    (0..3).for_each(|_| host.report(0, ServerError));
    assert!(!host.is_available());
    passed();
    assert!(host.is_available() && board.metrics().ejected.get() == 0);
    (0..3).for_each(|_| host.report(0, ServerError));
    host.on_check(&Answer::Unhealthy("answered 503".to_owned()), &rule());
    passed();
    assert!(!host.is_available(), "unhealthy by its checks, it takes two");
    board.apply(&config(Some(in_a_row(3, 100)), None, [address(1)]));
    assert!(!host.has(super::host::Flags::UNHEALTHY), "there are no checks any more");
    host.on_check(&Answer::Unreachable("a late result".to_owned()), &rule());
    assert!(!host.has(super::host::Flags::UNHEALTHY) && !host.is_pending());
}

#[tokio::test(start_paused = true)]
async fn what_stays_keeps_its_state_and_what_leaves_is_let_go_at_once() {
    let fixture = Fixture::new(in_a_row(3, 50), 4);
    fixture.report(1, ServerError, 3);
    fixture.report(2, ServerError, 3);
    fixture.report(3, ServerError, 2);
    let (gone, kept) = (fixture.host(1), fixture.host(3));
    assert_eq!(fixture.count(Cause::ConsecutiveErrors), (2, 0, 2));

    fixture.board.apply(&config(Some(in_a_row(3, 50)), None, [2, 3, 5].map(address)));
    assert!(fixture.cluster.host(address(1)).is_none());
    assert!(Arc::ptr_eq(&fixture.host(3), &kept), "the same endpoint");
    assert_eq!(fixture.out(), [2], "one that is out stays out");
    assert_eq!(fixture.board.metrics().ejected.get(), 1);
    let version = fixture.cluster.version();
    (0..9).for_each(|_| gone.report(0, ServerError));
    assert_eq!(fixture.cluster.version(), version, "one that left changes nothing");
    fixture.report(3, ServerError, 1);
    assert_eq!(fixture.out(), [2], "its streak went on, but half of three is one");
    assert_eq!(fixture.count(Cause::ConsecutiveErrors), (2, 1, 1));

    fixture.board.apply(&config(Some(in_a_row(3, 50)), None, [3, 4, 5].map(address)));
    fixture.report(3, ServerError, 3);
    assert_eq!(fixture.out(), [3], "the one that left makes room");

    fixture.board.apply(&config(Some(in_a_row(3, 50)), None, (1..=3).map(address)));
    assert!(fixture.host(1).is_available(), "who comes back has no past");
    fixture.board.apply(&config(None, Some(rule()), (1..=3).map(address)));
    assert_eq!(fixture.out(), [] as [u8; 0], "nobody is out once outlier detection is off");
    assert!(fixture.host(1).is_pending(), "checks begin, and meanwhile it is in use");
    fixture.board.apply(&config(None, None, (1..=3).map(address)));
    assert!(fixture.board.cluster("web").is_none() && fixture.board.view("web").is_empty());
    assert_eq!(fixture.board.metrics().ejected.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn endpoints_in_use_stay_so_when_checks_are_first_asked_for() {
    let board = Board::new(1);
    board.apply(&config(None, None, [1, 2].map(address)));
    assert!(board.cluster("web").is_none(), "nobody watches");
    board.apply(&config(None, Some(rule()), [1, 3].map(address)));
    let cluster = board.cluster("web").expect("watched");
    let standing = |n| cluster.host(address(n)).map(|h| (h.is_available(), h.is_pending()));
    assert_eq!(
        standing(1),
        Some((true, true)),
        "in use before, and until its check says otherwise"
    );
    assert_eq!(standing(2), None);
    assert_eq!(standing(3), Some((false, true)), "new");
    let host = cluster.host(address(1)).expect("there");
    host.on_check(&Answer::Unreachable("refused".to_owned()), &rule());
    assert_eq!(standing(1), Some((false, false)), "the first check decides at once");
}

#[tokio::test]
async fn endpoints_are_asked_for_as_long_as_they_are_there() {
    const LIMIT: Duration = Duration::from_secs(20);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let well = listener.local_addr().expect("bound");
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let ill = closed.local_addr().expect("bound");
    drop(closed);
    let board = Board::new(1);
    let quick = HealthCheck { interval: Duration::from_millis(50), ..rule() };
    board.apply(&config(None, Some(quick.clone()), [well, ill]));
    let cluster = board.cluster("web").expect("watched");
    let (healthy, unhealthy) = (cluster.host(well), cluster.host(ill));
    let (healthy, unhealthy) = (healthy.expect("there"), unhealthy.expect("there"));
    let decided = async {
        while healthy.is_pending() || unhealthy.is_pending() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, decided).await.expect("both are asked");
    assert!(healthy.is_available() && !unhealthy.is_available());
    let views = board.view("web");
    let reason = |address| views.iter().find(|v| v.address == address).map(|v| v.reason.clone());
    assert!(reason(well) == Some(None) && reason(ill) != Some(None), "{views:?}");

    let tasks = || board.state.lock().expect("not poisoned").tasks.len();
    assert_eq!(tasks(), 2);
    // The listener takes connections, and says nothing on them.
    let probe = Probe::Http("/".to_owned());
    let timeout = quick.interval;
    let http = HealthCheck { probe, timeout, unhealthy_threshold: 1, ..quick };
    board.apply(&config(None, Some(http), [well]));
    assert!(healthy.is_available(), "another rule, the same endpoint");
    let changed = async {
        while healthy.is_available() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, changed).await.expect("the new rule is asked by");
    let reaped = async {
        loop {
            tokio::task::yield_now().await;
            board.apply(&config(None, None, [well]));
            if tasks() == 0 {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, reaped).await.expect("tasks end with their endpoints");
    assert_eq!(board.metrics().checks_lost.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_view_says_what_is_wrong_and_for_how_long() {
    let fixture = Fixture::new(in_a_row(2, 100), 1);
    fixture.report(1, GatewayError, 2);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let json = serde_json::to_value(fixture.board.view("web")).expect("plain values");
    let expected = serde_json::json!([{
        "address": "10.0.0.1:80", "available": false, "pending": false, "failedCheck": false,
        "ejected": { "cause": "consecutiveErrors", "leftMs": 25_000 },
        "ejections": 1, "multiplier": 1,
        "consecutiveErrors": 0, "consecutiveGatewayErrors": 2, "consecutiveLocalErrors": 0,
        "succeeded": 0, "failed": 0,
    }]);
    assert_eq!(json, expected);
}

#[tokio::test]
async fn workers_that_report_at_once_put_an_endpoint_out_once() {
    for _ in 0..50 {
        let fixture = Fixture::new(in_a_row(5, 100), 2);
        let host = fixture.host(1);
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let host = &host;
                scope.spawn(move || (0..50).for_each(|_| host.report(worker, ServerError)));
            }
        });
        assert_eq!(fixture.out(), [1]);
        assert_eq!(fixture.count(Cause::ConsecutiveErrors), (1, 0, 1));
    }
}
