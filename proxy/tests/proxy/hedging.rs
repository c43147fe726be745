//! Requests that go to a further endpoint while the ones that have it take their time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use portolan_model::policy::{Retries, RetryOn};
use portolan_model::traffic::Outlier;
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::balance_seen::outlier;
use super::kit::*;
use super::raw::Wire;

/// The time of a try before there is another one beside it.
const DELAY: Duration = Duration::from_millis(150);
/// Longer than any test waits for an answer that does not come from there.
const NEVER: u64 = 60_000;

/// Endpoints of one cluster. What a request comes to goes by how many came before, to any of them.
struct Group {
    backends: Vec<Backend>,
    requests: Arc<AtomicUsize>,
    /// Requests of which the endpoint has learned that nobody waits for them any more.
    given_up: Arc<AtomicUsize>,
}

/// Counts a request as given up unless it is answered.
struct Waiting(Option<Arc<AtomicUsize>>);

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(given_up) = &self.0 {
            given_up.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Group {
    /// So many endpoints; each request is answered after these milliseconds, with this status: its
    /// number, its body and a trailer of it.
    async fn start(version: Version, count: usize, answers: &'static [(u64, u16)]) -> Self {
        let (requests, given_up) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut backends = Vec::new();
        for _ in 0..count {
            let (requests, given_up) = (Arc::clone(&requests), Arc::clone(&given_up));
            let script = move |request: Request<Incoming>, _| {
                let n = requests.fetch_add(1, Ordering::SeqCst);
                let mut waiting = Waiting(Some(Arc::clone(&given_up)));
                let (wait, status) = *answers.get(n).expect("as many requests");
                async move {
                    let body = request.into_body().collect().await;
                    let body = body.expect("a whole body");
                    let sum = body.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
                    let sum = sum.map(|sum| sum.to_str().expect("text").to_owned());
                    sleep(Duration::from_millis(wait)).await;
                    waiting.0.take();
                    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                    respond(status, full(format!("{n} {text} {}", sum.unwrap_or_default())))
                }
            };
            backends.push(Backend::start(version, script).await);
        }
        Self { backends, requests, given_up }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.backends.iter().map(|backend| backend.address).collect()
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn given_up(&self) -> usize {
        self.given_up.load(Ordering::SeqCst)
    }
}

fn hedged(endpoints: &[SocketAddr], upstream: Version, attempts: u32) -> Plan {
    let retries = Retries {
        attempts,
        on: vec![RetryOn::ServerError],
        per_try_timeout: Some(DELAY),
        hedge: true,
        ..Retries::default()
    };
    let plan = Plan::http(endpoints).speaking(upstream);
    plan.tune_route(|route| route.retries = Some(retries))
        .tune(|cluster| cluster.limits.min_retries = 100)
}

/// How many endpoints and tries after the first there are, what the requests are answered, which answer
/// is the client's, and how many requests are made and given up.
type Case = (&'static str, usize, u32, &'static [(u64, u16)], u16, &'static str, usize, usize);

const PAIRS: [(Version, Version); 4] = [(H1, H1), (H1, H2), (H2, H1), (H2, H2)];

#[tokio::test]
async fn the_first_good_answer_is_the_clients_and_other_tries_are_given_up() {
    #[rustfmt::skip]
    let cases: [Case; 9] = [
        ("in its time", 2, 1, &[(0, 200)], 200, "0", 1, 0),
        ("the second is first", 2, 1, &[(NEVER, 200), (0, 200)], 200, "1", 2, 1),
        ("the third is first", 3, 2, &[(NEVER, 200), (NEVER, 200), (0, 200)], 200, "2", 3, 2),
        ("the slow one is first after all", 2, 1, &[(400, 200), (NEVER, 200)], 200, "0", 2, 1),
        ("all are slow, and there are no more tries", 3, 1, &[(600, 200), (NEVER, 200)], 200, "0", 2, 1),
        ("no other endpoint", 1, 2, &[(500, 200)], 200, "0", 1, 0),
        ("an error is no reason to stop waiting", 2, 1, &[(500, 200), (0, 503)], 200, "0", 2, 0),
        ("an error is a reason for another try", 3, 2, &[(NEVER, 200), (0, 503), (0, 200)], 200, "2", 3, 1),
        ("the last error is an answer", 2, 1, &[(300, 503), (300, 500)], 500, "1", 2, 0),
    ];
    for (name, endpoints, attempts, answers, status, number, requests, given_up) in cases {
        for (client, upstream) in PAIRS {
            let group = Group::start(upstream, endpoints, answers).await;
            let proxy = start(hedged(&group.addresses(), upstream, attempts)).await;
            let context = format!("{name}, {client:?} -> {upstream:?}");
            let began = Instant::now();
            let answer = fetch(client, proxy.web(), request(client, "POST", "/", full("hi"))).await;
            let expected = (status, format!("{number} hi "));
            assert_eq!((answer.status, answer.text().to_owned()), expected, "{context}");
            assert!(began.elapsed() < Duration::from_millis(NEVER / 2), "{context}");
            assert_eq!(group.requests(), requests, "{context}");
            until(&context, || group.given_up() == given_up).await;
            let beside = proxy.metric("portolan_proxy_hedges_total ");
            assert_eq!(proxy.metric("portolan_proxy_retries_total "), requests as u64 - 1);
            assert!(beside < requests as u64 && (beside == 0) == (requests == 1), "{context}");
            proxy.finish().await;
        }
    }
}

#[tokio::test]
async fn a_body_goes_to_every_endpoint_whole_and_trailers_with_it() {
    for (client, upstream) in PAIRS {
        for size in [0, 1, 1_000, 50_000] {
            let group = Group::start(upstream, 2, &[(NEVER, 200), (0, 200)]).await;
            let proxy = start(hedged(&group.addresses(), upstream, 1)).await;
            let text = "x".repeat(size);
            let parts: Vec<Bytes> =
                text.as_bytes().chunks(999).map(Bytes::copy_from_slice).collect();
            let mut asked = request(client, "POST", "/", chunks(parts, &[("x-sum", "9")]));
            asked.headers_mut().insert("trailer", "x-sum".parse().expect("a value"));
            let answer = fetch(client, proxy.web(), asked).await;
            let context = format!("{client:?} -> {upstream:?} {size}");
            assert_eq!(answer.status, 200, "{context}");
            assert!(answer.text() == format!("1 {text} 9"), "{context}: {}", answer.text().len());
            proxy.finish().await;
        }
    }
}

#[tokio::test]
async fn while_there_is_more_of_a_body_to_come_or_too_much_of_it_there_is_one_try() {
    for (client, upstream) in PAIRS {
        // Of the slow body the beginning comes at once and the end when the time of three tries is over.
        for (size, pause) in [(10, DELAY * 3), (200_000, Duration::ZERO)] {
            let group = Group::start(upstream, 2, &[(400, 200), (0, 200)]).await;
            let proxy = start(hedged(&group.addresses(), upstream, 1)).await;
            let part = Bytes::from("y".repeat(size));
            let body = paced(part, 2, pause, || {});
            let mut asked = JoinSet::new();
            let (to, request) = (proxy.web(), request(client, "POST", "/", body));
            asked.spawn(async move { fetch(client, to, request).await });
            let context = format!("{client:?} -> {upstream:?} {size}");
            if !pause.is_zero() {
                sleep(DELAY * 2).await;
                assert_eq!(group.requests(), 1, "{context}");
            }
            let answer =
                soon("an answer", asked.join_next()).await.expect("one").expect("no panic");
            let number = usize::from(!pause.is_zero());
            let text = format!("{number} {} ", "y".repeat(2 * size));
            assert_eq!(answer.status, 200, "{context}");
            assert!(answer.text() == text, "{context}: {}", answer.text().len());
            assert_eq!(group.requests(), 1 + number, "{context}");
            proxy.finish().await;
        }
    }
}

#[tokio::test]
async fn tries_side_by_side_keep_to_the_budget_of_retries() {
    for upstream in [H1, H2] {
        let group = Group::start(upstream, 2, &[(400, 200), (0, 200)]).await;
        let plan = hedged(&group.addresses(), upstream, 1);
        let proxy = start(plan.tune(|cluster| {
            cluster.limits.min_retries = 0;
            cluster.limits.retry_budget_percent = 0;
        }))
        .await;
        let answer = fetch(H1, proxy.web(), get(H1, "/")).await;
        assert_eq!((answer.status, answer.text(), group.requests()), (200, "0  ", 1));
        assert_eq!(proxy.metric("portolan_proxy_retries_over_budget_total "), 1);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_try_beside_another_counts_for_the_budget_until_it_ends() {
    for upstream in [H1, H2] {
        let group = Group::start(upstream, 4, &[(900, 200); 8]).await;
        let plan = hedged(&group.addresses(), upstream, 1);
        let proxy = start(plan.tune(|cluster| {
            cluster.limits.min_retries = 1;
            cluster.limits.retry_budget_percent = 0;
        }))
        .await;
        let mut asked = JoinSet::new();
        for _ in 0..3 {
            let to = proxy.web();
            asked.spawn(async move { fetch(H1, to, get(H1, "/")).await.status });
        }
        assert_eq!(asked.join_all().await, [200; 3]);
        let (beside, over) =
            ("portolan_proxy_hedges_total ", "portolan_proxy_retries_over_budget_total ");
        assert_eq!((proxy.metric(beside), proxy.metric(over)), (1, 2), "{upstream:?}");
        proxy.finish().await;
    }
}

#[tokio::test]
async fn no_endpoint_gets_a_request_again_that_still_has_it() {
    for upstream in [H1, H2] {
        // The second fails while the first takes its time, and there is no third endpoint.
        let group = Group::start(upstream, 2, &[(700, 200), (0, 503), (0, 200)]).await;
        let proxy = start(hedged(&group.addresses(), upstream, 2)).await;
        let answer = fetch(H1, proxy.web(), get(H1, "/")).await;
        assert_eq!(
            (answer.status, answer.text(), group.requests()),
            (200, "0  ", 2),
            "{upstream:?}"
        );
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_for_its_body_is_asked() {
    // By whoever answers so: that is HTTP/1.1 here.
    let group = Group::start(H1, 2, &[(400, 200)]).await;
    let proxy = start(hedged(&group.addresses(), H1, 1)).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send(
        "POST / HTTP/1.1\r\nHost: web.shop\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
    )
    .await;
    let asked = soon("100", wire.through(b"\r\n\r\n")).await.expect("an answer");
    assert!(asked.starts_with(b"HTTP/1.1 100"), "{}", asked.escape_ascii());
    wire.send("hi").await;
    assert_eq!(wire.answer("POST").await.text(), "0 hi ");
    proxy.finish().await;
}

#[tokio::test]
async fn an_endpoint_that_takes_too_long_is_told_of_once() {
    for upstream in [H1, H2] {
        let group = Group::start(upstream, 2, &[(NEVER, 200), (0, 200), (0, 200), (0, 200)]).await;
        let plan = hedged(&group.addresses(), upstream, 1);
        let proxy = start(plan.tune(|cluster| {
            cluster.outlier =
                Some(Outlier { consecutive_local_errors: Some(1), max_percent: 100, ..outlier() });
        }))
        .await;
        let mut connection = Client::connect(H1, proxy.web()).await;
        // The others go to the one that answers.
        for n in 0..3 {
            let answer = collect(connection.send(get(H1, "/")).await).await;
            assert_eq!(
                (answer.status, answer.text()),
                (200, &*format!("{}  ", n + 1)),
                "{upstream:?}"
            );
        }
        assert_eq!(proxy.metric("portolan_proxy_hedges_total "), 1, "{upstream:?}");
        proxy.finish().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_no_connection_is_left_for_another_at_once() {
    for (client, upstream) in PAIRS {
        let group = Group::start(upstream, 1, &[(0, 200)]).await;
        let endpoints = [down(), group.addresses()[0]];
        let proxy = start(hedged(&endpoints, upstream, 2)).await;
        let answer = fetch(client, proxy.web(), request(client, "POST", "/", full("hi"))).await;
        assert_eq!((answer.status, answer.text()), (200, "0 hi "), "{client:?}");
        proxy.finish().await;
        let proxy = start(hedged(&[down(), down()], upstream, 2)).await;
        let answer = fetch(client, proxy.web(), get(client, "/")).await;
        assert_eq!((answer.status, answer.header("x-portolan-reason")), (503, "connect_failed"));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_lets_connections_hang_is_left_for_another_in_time() {
    for (client, upstream) in PAIRS {
        // Whoever comes when its queue is full waits.
        let hangs = TcpSocket::new_v4().expect("a socket");
        hangs.bind(loopback(0)).expect("a free port");
        let hangs = hangs.listen(1).expect("it listens");
        let at = hangs.local_addr().expect("bound");
        let mut queued = Vec::new();
        let full = Duration::from_millis(200);
        while let Ok(stream) = timeout(full, tokio::net::TcpStream::connect(at)).await {
            queued.push(stream.expect("connected"));
        }
        let group = Group::start(upstream, 1, &[(0, 200), (0, 200), (0, 200), (0, 200)]).await;
        let proxy = start(hedged(&[at, group.addresses()[0]], upstream, 1)).await;
        // Of one worker, which goes by its endpoints in turn.
        let mut connection = Client::connect(client, proxy.web()).await;
        let mut took = Vec::new();
        for size in [0, 2, 50_000, 2] {
            let text = "x".repeat(size);
            let began = Instant::now();
            let asked = request(client, "POST", "/", full_or_empty(&text));
            let answer = collect(connection.send(asked).await).await;
            assert_eq!(answer.status, 200, "{client:?} -> {upstream:?} {size}");
            assert!(answer.text().contains(&text), "{client:?} -> {upstream:?} {size}");
            assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
            took.push(began.elapsed());
        }
        let metrics = [
            "hedges_total ",
            "retries_total ",
            "upstream_connects_total ",
            "upstream_connect_failures_total ",
        ];
        let metrics = metrics.map(|name| (name, proxy.metric(&format!("portolan_proxy_{name}"))));
        assert!(metrics[0].1 > 0, "{client:?} -> {upstream:?}: {metrics:?} {took:?}");
        proxy.finish().await;
    }
}

fn full_or_empty(text: &str) -> Body {
    if text.is_empty() { empty() } else { full(text.to_owned()) }
}

#[tokio::test]
async fn a_client_that_leaves_ends_all_tries() {
    for (client, upstream) in PAIRS {
        let group = Group::start(upstream, 3, &[(NEVER, 200), (NEVER, 200), (NEVER, 200)]).await;
        let proxy = start(hedged(&group.addresses(), upstream, 2)).await;
        let to = proxy.web();
        let mut asked = JoinSet::new();
        asked.spawn(async move {
            let mut connection = Client::connect(client, to).await;
            drop(connection.try_send(request(client, "POST", "/", full("hi"))).await);
        });
        let context = format!("{client:?} -> {upstream:?}");
        until(&context, || group.requests() == 3).await;
        asked.abort_all();
        until(&format!("{context}, given up"), || group.given_up() == 3).await;
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_long_answer_of_a_later_try_comes_whole_and_the_connection_goes_on() {
    for (client, upstream) in PAIRS {
        let requests = Arc::<AtomicUsize>::default();
        let mut backends = Vec::new();
        for _ in 0..2 {
            let requests = Arc::clone(&requests);
            let script = move |request: Request<Incoming>, _| {
                let n = requests.fetch_add(1, Ordering::SeqCst);
                async move {
                    request.into_body().collect().await.expect("a whole body");
                    if n % 2 == 0 {
                        sleep(Duration::from_millis(NEVER)).await;
                    }
                    let parts = (0..64).map(|_| Bytes::from(vec![b'z'; 16 * 1024]));
                    respond(200, chunks(parts, &[]))
                }
            };
            backends.push(Backend::start(upstream, script).await);
        }
        let addresses: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
        let proxy = start(hedged(&addresses, upstream, 1)).await;
        let mut connection = Client::connect(client, proxy.web()).await;
        for _ in 0..3 {
            let answer =
                collect(connection.send(request(client, "POST", "/", full("hi"))).await).await;
            assert_eq!(
                (answer.status, answer.body.len()),
                (200, 1 << 20),
                "{client:?} {upstream:?}"
            );
        }
        proxy.finish().await;
    }
}
