//! Balancing as seen from outside: who keeps its endpoint, who is left out, and who comes back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use portolan_model::Balancer;
use portolan_model::policy::{CircuitBreaker, HashOn, HealthCheck, Probe};
use portolan_model::traffic::{HashPolicy, Outlier, UpstreamProtocol};

use super::kit::*;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

async fn backends() -> (Vec<Backend>, Vec<SocketAddr>) {
    let mut backends = Vec::new();
    for name in NAMES {
        backends.push(Backend::named(H1, name).await);
    }
    let addresses = backends.iter().map(|b| b.address).collect();
    (backends, addresses)
}

fn hashed(balancer: Balancer, on: HashOn, endpoints: &[SocketAddr]) -> Plan {
    Plan::http(&[])
        .cluster("web", balancer, UpstreamProtocol::Auto, endpoints)
        .tune_route(|route| route.hash = vec![HashPolicy { on, terminal: false }])
}

/// Which endpoint serves each of a hundred users.
async fn placed(proxy: &Running, how: fn(usize) -> http::Request<Body>) -> BTreeMap<usize, String> {
    let mut client = Client::connect(H1, proxy.web()).await;
    let mut placed = BTreeMap::new();
    for user in 0..100 {
        for _ in 0..2 {
            let answer = collect(client.send(how(user)).await).await;
            assert_eq!(answer.status, 200);
            let name = answer.text().to_owned();
            let before = placed.insert(user, name.clone());
            assert!(before.is_none_or(|before| before == name), "user {user} was moved");
        }
    }
    placed
}

fn with_header(user: usize) -> http::Request<Body> {
    let mut request = get(H1, "/");
    request.headers_mut().insert("x-user", format!("user-{user}").parse().expect("a value"));
    request
}

fn with_cookie(user: usize) -> http::Request<Body> {
    let mut request = get(H1, "/");
    let cookie = format!("other=1; session=user-{user}; more=2");
    request.headers_mut().insert("cookie", cookie.parse().expect("a value"));
    request
}

fn with_path(user: usize) -> http::Request<Body> {
    // The query does not count.
    static N: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    get(H1, &format!("/user-{user}?{}", N.fetch_add(1, Ordering::SeqCst)))
}

#[tokio::test]
async fn who_has_an_endpoint_keeps_it_while_others_come_and_go() {
    type How = fn(usize) -> http::Request<Body>;
    let cookie = || HashOn::Cookie { name: "session".into(), ttl: None };
    let cases: [(HashOn, How); 3] = [
        (HashOn::Header("x-user".into()), with_header),
        (cookie(), with_cookie),
        (HashOn::Path, with_path),
    ];
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        for (on, how) in cases.clone() {
            let (_backends, addresses) = backends().await;
            let context = format!("{balancer:?} {on:?}");
            let plan = hashed(balancer, on, &addresses[..5]);
            let proxy = start(plan.clone()).await;
            let five = placed(&proxy, how).await;
            let names = tally(five.values().cloned());
            assert_eq!(names.len(), 5, "{context}: {names:?}");
            assert!(names.values().all(|n| *n >= 5), "{context}: {names:?}");

            // One goes: only its users move.
            let four: Vec<_> = addresses[1..5].to_vec();
            proxy.apply(plan.clone().endpoints("web", &four)).await;
            let without = placed(&proxy, how).await;
            let moved = five.iter().filter(|(u, n)| **n != "a" && without[u] != **n).count();
            // Maglev moves a few others (Eisenbud §5.3); so does a ring whose points are shared anew.
            let most = if balancer == Balancer::RingHash { 25 } else { 10 };
            assert!(moved <= most, "{context}: {moved} moved without need");

            // It comes back: all are where they were.
            proxy.apply(plan.clone()).await;
            assert_eq!(placed(&proxy, how).await, five, "{context}");

            // A sixth comes: about a sixth moves, and only to it.
            proxy.apply(plan.clone().endpoints("web", &addresses)).await;
            let six = placed(&proxy, how).await;
            let to_others = five.iter().filter(|(u, n)| six[u] != **n && six[u] != "f").count();
            assert!(to_others <= most, "{context}: {to_others} moved without need");
            let to_new = six.values().filter(|n| *n == "f").count();
            assert!((4..=40).contains(&to_new), "{context}: {to_new} of 100 moved to it");
            proxy.finish().await;
        }
    }
}

#[tokio::test]
async fn two_proxies_place_the_same_users_alike() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let (_backends, addresses) = backends().await;
        let on = HashOn::Header("x-user".into());
        let one = start(hashed(balancer, on.clone(), &addresses)).await;
        let two = start(hashed(balancer, on, &addresses)).await;
        assert_eq!(placed(&one, with_header).await, placed(&two, with_header).await);
        one.finish().await;
        two.finish().await;
    }
}

#[tokio::test]
async fn one_source_keeps_its_endpoint() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let (_backends, addresses) = backends().await;
        let proxy = start(hashed(balancer, HashOn::SourceIp, &addresses)).await;
        let mut names = Vec::new();
        for _ in 0..20 {
            names.push(fetch(H1, proxy.web(), get(H1, "/")).await.text().to_owned());
        }
        assert_eq!(tally(names).len(), 1);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_client_without_the_cookie_is_given_one_that_keeps_its_endpoint() {
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let (_backends, addresses) = backends().await;
        let ttl = Some(Duration::from_secs(3600));
        let on = HashOn::Cookie { name: "stick".into(), ttl };
        let proxy = start(hashed(balancer, on, &addresses)).await;
        let mut names = Vec::new();
        for _ in 0..12 {
            let first = fetch(H1, proxy.web(), get(H1, "/")).await;
            let given = first.header("set-cookie").to_owned();
            let (pair, attributes) = given.split_once(';').unwrap_or((&given, ""));
            assert!(pair.starts_with("stick=") && pair.len() > "stick=".len(), "{given:?}");
            assert!(attributes.to_lowercase().contains("max-age=3600"), "{given:?}");
            for _ in 0..3 {
                let mut asked = get(H1, "/");
                asked.headers_mut().insert("cookie", pair.parse().expect("a value"));
                let again = fetch(H1, proxy.web(), asked).await;
                assert_eq!(again.text(), first.text(), "{balancer:?} {pair}");
                assert_eq!(again.header("set-cookie"), "", "it has one");
            }
            names.push(first.text().to_owned());
        }
        assert!(tally(names).len() > 1, "each is given one of its own");
        proxy.finish().await;
    }
}

/// A backend whose status a test sets.
async fn switched(name: &'static str) -> (Backend, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(200));
    let now = Arc::clone(&status);
    let backend = Backend::start(H1, move |_, _| {
        let status = now.load(Ordering::SeqCst);
        async move { respond(status, full(name)) }
    })
    .await;
    (backend, status)
}

pub(crate) fn outlier() -> Outlier {
    Outlier {
        consecutive_errors: Some(3),
        consecutive_gateway_errors: None,
        consecutive_local_errors: None,
        success_rate: None,
        failure_percentage: None,
        interval: Duration::from_millis(100),
        base_ejection: Duration::from_millis(500),
        max_ejection: Duration::from_millis(500),
        ejection_jitter: Duration::ZERO,
        max_percent: 100,
    }
}

async fn ask(proxy: &Running, times: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(H1, proxy.web()).await;
    let mut answers = Vec::new();
    for _ in 0..times {
        let answer = collect(client.send(get(H1, "/")).await).await;
        answers.push(format!("{} {}", answer.status, answer.text()));
    }
    tally(answers)
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_and_comes_back() {
    let (one, status) = switched("one").await;
    let (two, _) = switched("two").await;
    let plan = Plan::http(&[one.address, two.address]).tune(|c| c.outlier = Some(outlier()));
    let proxy = start(plan).await;
    assert_eq!(ask(&proxy, 10).await.len(), 2);
    status.store(500, Ordering::SeqCst);
    let counts = ask(&proxy, 30).await;
    assert_eq!(counts.get("500 one"), Some(&3), "three failures in a row: {counts:?}");
    status.store(200, Ordering::SeqCst);
    soon("its return", async {
        while !ask(&proxy, 4).await.contains_key("200 one") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    proxy.finish().await;
}

#[tokio::test]
async fn priorities_fail_over_when_the_first_is_left_out_and_fall_back() {
    let (one, status) = switched("one").await;
    let (two, other) = switched("two").await;
    let (far, _) = switched("far").await;
    let plan = Plan::http(&[one.address, two.address, far.address])
        .priorities("web", &[0, 0, 1])
        .tune(|c| {
            let ejection = Duration::from_secs(2);
            c.outlier =
                Some(Outlier { base_ejection: ejection, max_ejection: ejection, ..outlier() });
        });
    let proxy = start(plan).await;
    assert!(!ask(&proxy, 20).await.contains_key("200 far"));
    status.store(503, Ordering::SeqCst);
    other.store(503, Ordering::SeqCst);
    // Some spill over as soon as the first of the two is out, so it takes a few more.
    ask(&proxy, 60).await;
    let counts = ask(&proxy, 10).await;
    assert_eq!(counts, BTreeMap::from([("200 far".to_owned(), 10)]));
    status.store(200, Ordering::SeqCst);
    other.store(200, Ordering::SeqCst);
    soon("the first's return", async {
        while ask(&proxy, 10).await.contains_key("200 far") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_health_check_takes_an_endpoint_out_and_back() {
    for probe in [Probe::Http("/healthz".into()), Probe::Http("/healthz?deep=1".into())] {
        let well = Arc::new(AtomicBool::new(true));
        let now = Arc::clone(&well);
        let one = Backend::start(H1, move |r: http::Request<_>, _| {
            let probed = r.uri().path() == "/healthz";
            let status = if probed && !now.load(Ordering::SeqCst) { 503 } else { 200 };
            async move { respond(status, full("one")) }
        })
        .await;
        let two = Backend::named(H1, "two").await;
        let plan = Plan::http(&[one.address, two.address]).tune(|cluster| {
            cluster.balancing.panic_threshold = 0;
            cluster.health_check = Some(HealthCheck {
                probe: probe.clone(),
                interval: Duration::from_millis(50),
                timeout: Duration::from_millis(500),
                healthy_threshold: 2,
                unhealthy_threshold: 2,
            });
        });
        let proxy = start(plan).await;
        let both = async |wanted: usize| {
            soon("the wanted number of endpoints", async {
                while ask(&proxy, 6).await.len() != wanted {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
        };
        both(2).await;
        well.store(false, Ordering::SeqCst);
        both(1).await;
        assert_eq!(ask(&proxy, 10).await, BTreeMap::from([("200 two".to_owned(), 10)]));
        well.store(true, Ordering::SeqCst);
        both(2).await;
        proxy.finish().await;
    }
}

#[tokio::test]
async fn below_the_panic_threshold_all_are_used() {
    // Two of three fail their checks: at 50 percent all are used, at 0 the good one alone.
    for (threshold, used) in [(50, 3), (0, 1)] {
        let mut backends = Vec::new();
        for (name, status) in [("one", 200), ("two", 503), ("three", 503)] {
            let backend = Backend::start(H1, move |r: http::Request<_>, _| {
                let status = if r.uri().path() == "/healthz" { status } else { 200 };
                async move { respond(status, full(name)) }
            });
            backends.push(backend.await);
        }
        let addresses: Vec<_> = backends.iter().map(|b| b.address).collect();
        let plan = Plan::http(&addresses).tune(|cluster| {
            cluster.balancing.panic_threshold = threshold;
            cluster.health_check = Some(HealthCheck {
                probe: Probe::Http("/healthz".into()),
                interval: Duration::from_millis(30),
                timeout: Duration::from_millis(500),
                healthy_threshold: 1,
                unhealthy_threshold: 1,
            });
        });
        let proxy = start(plan).await;
        soon("that many endpoints", async {
            // A few rounds of checks, then it must stay so.
            tokio::time::sleep(Duration::from_millis(300)).await;
            while ask(&proxy, 12).await.len() != used {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_circuit_breaker_answers_what_is_over_its_limit() {
    for upstream in [H1, H2] {
        let (gate, backend) = gated_backend(upstream).await;
        let plan = Plan::http(&[backend.address]).speaking(upstream).tune(|cluster| {
            cluster.limits.breaker =
                CircuitBreaker { requests: Some(3), ..CircuitBreaker::default() };
        });
        let proxy = start(plan).await;
        let to = proxy.web();
        let mut held = tokio::task::JoinSet::new();
        for _ in 0..3 {
            held.spawn(fetch(H1, to, get(H1, "/")));
        }
        until("three requests", || backend.requests() == 3).await;
        for version in [H1, H2] {
            let answer = fetch(version, to, request(version, "POST", "/", full("x"))).await;
            let reason = answer.header("x-portolan-reason");
            assert_eq!((answer.status, reason), (503, "circuit_open"), "{version:?}");
        }
        gate.send_replace(true);
        while let Some(answer) = held.join_next().await {
            assert_eq!(answer.expect("no panic").status, 200);
        }
        assert_eq!(fetch(H1, to, get(H1, "/")).await.status, 200, "it closes again");
        proxy.finish().await;
    }
}

#[tokio::test]
async fn connections_over_a_circuit_breakers_limit_are_not_opened() {
    let (gate, backend) = gated_backend(H1).await;
    let plan = Plan::http(&[backend.address]).tune(|cluster| {
        cluster.limits.breaker = CircuitBreaker {
            connections: Some(2),
            pending_requests: Some(1),
            ..CircuitBreaker::default()
        };
    });
    let proxy = start(plan).await;
    let to = proxy.web();
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..8 {
        held.spawn(fetch(H1, to, get(H1, "/")));
    }
    until("two requests", || backend.requests() == 2).await;
    let mut open = 0;
    for _ in 0..5 {
        let answer = soon("a refusal", held.join_next()).await.expect("one").expect("no panic");
        let reason = answer.header("x-portolan-reason");
        assert_eq!((answer.status, reason), (503, "circuit_open"));
        open += 1;
    }
    assert_eq!(open, 5, "two run and one waits");
    gate.send_replace(true);
    while let Some(answer) = held.join_next().await {
        assert_eq!(answer.expect("no panic").status, 200);
    }
    assert!(backend.connections() <= 2, "{}", backend.connections());
    proxy.finish().await;
}

#[tokio::test]
async fn weights_are_kept() {
    let (_backends, addresses) = backends().await;
    for balancer in [Balancer::RoundRobin, Balancer::Random, Balancer::LeastRequest] {
        let plan =
            Plan::http(&[]).cluster("web", balancer, UpstreamProtocol::Auto, &addresses[..2]);
        let mut set = (*plan.0.endpoints["web"]).clone();
        set.endpoints[0].weight = 1;
        set.endpoints[1].weight = 4;
        let mut plan = plan;
        plan.0.endpoints.insert("web".into(), Arc::new(set));
        let proxy = start(plan).await;
        let counts = ask(&proxy, 500).await;
        let (light, heavy) = (counts["200 a"], counts["200 b"]);
        let exact = balancer == Balancer::RoundRobin;
        let range = if exact { 98..=102 } else { 50..=160 };
        assert!(range.contains(&light), "{balancer:?}: {light} to {heavy}");
        proxy.finish().await;
    }
}

#[tokio::test]
async fn limits_and_hashes_are_those_of_all_workers_together() {
    let four = std::num::NonZeroUsize::new(4).expect("not zero");
    // A limit of three requests, asked from many connections, which the workers share.
    let (gate, backend) = gated_backend(H1).await;
    let plan = Plan::http(&[backend.address]).tune(|cluster| {
        cluster.limits.breaker = CircuitBreaker { requests: Some(3), ..CircuitBreaker::default() };
    });
    let proxy = start_with(plan, |c| c.workers = four).await;
    let to = proxy.web();
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..24 {
        held.spawn(fetch(H1, to, get(H1, "/")));
    }
    for n in 0..21 {
        let answer = soon("a refusal", held.join_next()).await.expect("one").expect("no panic");
        assert_eq!(answer.header("x-portolan-reason"), "circuit_open", "{n}");
    }
    gate.send_replace(true);
    while let Some(answer) = held.join_next().await {
        assert_eq!(answer.expect("no panic").status, 200);
    }
    proxy.finish().await;

    // Users are placed alike whichever worker has their connection.
    for balancer in [Balancer::RingHash, Balancer::Maglev] {
        let (_backends, addresses) = backends().await;
        let on = HashOn::Header("x-user".into());
        let proxy = start_with(hashed(balancer, on, &addresses), |c| c.workers = four).await;
        for user in 0..10 {
            let mut names = Vec::new();
            for _ in 0..12 {
                let answer = fetch(H1, proxy.web(), with_header(user)).await;
                names.push(answer.text().to_owned());
            }
            assert_eq!(tally(names).len(), 1, "{balancer:?} user {user}");
        }
        proxy.finish().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_one_worker_found_bad_is_left_out_by_all() {
    let four = std::num::NonZeroUsize::new(4).expect("not zero");
    let (one, status) = switched("one").await;
    let (two, _) = switched("two").await;
    let mut slow = outlier();
    slow.base_ejection = Duration::from_secs(60);
    slow.max_ejection = Duration::from_secs(60);
    let plan = Plan::http(&[one.address, two.address]).tune(|c| c.outlier = Some(slow));
    let proxy = start_with(plan, |c| c.workers = four).await;
    status.store(500, Ordering::SeqCst);
    // Each on a connection of its own, so that all workers have some.
    soon("its ejection", async {
        let mut good = 0;
        while good < 40 {
            let answer = fetch(H1, proxy.web(), get(H1, "/")).await;
            good = if answer.status == 200 { good + 1 } else { 0 };
        }
    })
    .await;
    assert!(one.requests() <= 12, "{} requests went to it", one.requests());
    proxy.finish().await;
}
