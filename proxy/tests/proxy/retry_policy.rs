//! What a route's retry policy asks for: on which answers and failures, how often, with which
//! bodies, within which time; and the clock of a gRPC call.

use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use portolan_model::policy::{BackOff, Retries, RetryOn};

use super::frames::*;
use super::kit::*;
use super::raw::*;

fn policy(on: &[RetryOn], attempts: u32) -> Retries {
    Retries { attempts, on: on.to_vec(), ..Retries::default() }
}

fn with(plan: Plan, retries: Retries) -> Plan {
    plan.tune_route(|route| route.retries = Some(retries))
        .tune(|cluster| cluster.limits.min_retries = 100)
}

/// Fails so many times in a row with this status, then echoes the body.
async fn failing(upstream: Version, times: usize, status: u16) -> Backend {
    Backend::start(upstream, move |request: Request<Incoming>, n| async move {
        let body = request.into_body().collect().await.expect("a whole body").to_bytes();
        if n < times {
            return respond(status, full(format!("failure {n}")));
        }
        respond(200, full(body))
    })
    .await
}

#[tokio::test]
async fn an_answer_is_a_reason_to_try_again_only_if_the_policy_says_so() {
    use RetryOn::{ConnectFailure, GatewayError, Reset, ServerError};
    for upstream in [H1, H2] {
        for (on, status, retried) in [
            (&[ServerError][..], 500, true),
            (&[ServerError], 503, true),
            (&[ServerError], 404, false),
            (&[ServerError], 429, false),
            (&[GatewayError], 500, false),
            (&[GatewayError], 501, false),
            (&[GatewayError], 502, true),
            (&[GatewayError], 503, true),
            (&[GatewayError], 504, true),
            (&[GatewayError], 505, false),
            (&[Reset, ConnectFailure], 503, false),
            (&[], 503, false),
        ] {
            for client in [H1, H2] {
                let backend = failing(upstream, 2, status).await;
                let plan = Plan::http(&[backend.address]).speaking(upstream);
                let proxy = start(with(plan, policy(on, 2))).await;
                let asked = request(client, "POST", "/", full("hello"));
                let answer = fetch(client, proxy.web(), asked).await;
                let context = format!("{client:?} -> {upstream:?} {on:?} {status}");
                let (expected, text, tries) =
                    if retried { (200, "hello", 3) } else { (status, "failure 0", 1) };
                assert_eq!((answer.status, answer.text()), (expected, text), "{context}");
                assert_eq!(backend.requests(), tries, "{context}");
                proxy.finish().await;
            }
        }
    }
}

#[tokio::test]
async fn the_last_answer_is_passed_on_when_all_tries_are_used() {
    for (client, upstream) in [(H1, H1), (H2, H2)] {
        for attempts in [1, 2, 5] {
            let backend = failing(upstream, 100, 503).await;
            let plan = Plan::http(&[backend.address]).speaking(upstream);
            let proxy = start(with(plan, policy(&[RetryOn::ServerError], attempts))).await;
            let answer = fetch(client, proxy.web(), get(client, "/")).await;
            let text = format!("failure {attempts}");
            assert_eq!((answer.status, answer.text()), (503, &*text), "{attempts}");
            assert_eq!(answer.header("x-portolan-reason"), "", "the endpoint's own answer");
            assert_eq!(backend.requests(), usize::try_from(attempts).expect("small") + 1);
            proxy.finish().await;
        }
    }
}

#[tokio::test]
async fn a_small_body_is_sent_again_whole_and_a_large_one_is_not() {
    for upstream in [H1, H2] {
        for client in [H1, H2] {
            for (size, chunked, retried) in [
                (0, false, true),
                (1_000, false, true),
                (1_000, true, true),
                (60_000, false, true),
                (1 << 20, false, false),
                (1 << 20, true, false),
            ] {
                let backend = failing(upstream, 1, 503).await;
                let plan = Plan::http(&[backend.address]).speaking(upstream);
                let proxy = start(with(plan, policy(&[RetryOn::ServerError], 1))).await;
                let bytes: bytes::Bytes =
                    (0..size).map(|i| u8::try_from(i % 251).expect("small")).collect();
                let body = if chunked {
                    let parts: Vec<_> =
                        (0..size / 500).map(|i| bytes.slice(i * 500..(i + 1) * 500)).collect();
                    chunks(parts, &[])
                } else {
                    full(bytes.clone())
                };
                let answer = fetch(client, proxy.web(), request(client, "POST", "/", body)).await;
                let context = format!("{client:?} -> {upstream:?} {size} {chunked}");
                assert_eq!(answer.status, if retried { 200 } else { 503 }, "{context}");
                if retried {
                    let sent = if chunked { size / 500 * 500 } else { size };
                    assert!(answer.body == bytes[..sent], "{context}: {}", answer.body.len());
                }
                proxy.finish().await;
            }
        }
    }
}

#[tokio::test]
async fn trailers_are_sent_again_with_their_body() {
    for upstream in [H1, H2] {
        for client in [H1, H2] {
            for body in ["", "part"] {
                let backend = Backend::start(upstream, async |request: Request<Incoming>, n| {
                    let body = request.into_body().collect().await.expect("a whole body");
                    let sum = body.trailers().and_then(|t| t.get("x-sum")).cloned();
                    let text = format!("{:?} {sum:?}", body.to_bytes());
                    respond(if n == 0 { 503 } else { 200 }, full(text))
                })
                .await;
                let plan = Plan::http(&[backend.address]).speaking(upstream);
                let proxy = start(with(plan, policy(&[RetryOn::ServerError], 1))).await;
                let parts = Some(bytes::Bytes::from(body)).filter(|part| !part.is_empty());
                let mut asked = request(client, "POST", "/", chunks(parts, &[("x-sum", "9")]));
                asked.headers_mut().insert("trailer", "x-sum".parse().expect("a value"));
                let answer = fetch(client, proxy.web(), asked).await;
                let context = format!("{client:?} -> {upstream:?} {body:?}");
                assert_eq!(answer.status, 200, "{context}");
                assert_eq!(answer.text(), format!("b{body:?} Some(\"9\")"), "{context}");
                proxy.finish().await;
            }
        }
    }
}

#[tokio::test]
async fn a_reset_is_tried_again_for_any_method_if_the_policy_says_so() {
    for method in ["GET", "POST"] {
        for (on, status, tries) in [
            (&[RetryOn::Reset][..], 200, 2),
            (&[RetryOn::ServerError], 200, 2),
            (&[RetryOn::ConnectFailure], if method == "GET" { 200 } else { 502 }, 0),
        ] {
            let backend = RawBackend::start(async |mut wire: Wire, n| {
                wire.request().await;
                if n > 0 {
                    wire.send(OK).await;
                }
            })
            .await;
            let proxy = start(with(Plan::http(&[backend.address]), policy(on, 1))).await;
            let body = if method == "GET" { empty() } else { full("x") };
            let answer = fetch(H1, proxy.web(), request(H1, method, "/", body)).await;
            assert_eq!(answer.status, status, "{method} {on:?}");
            if tries > 0 {
                assert_eq!(backend.connections(), tries, "{method} {on:?}");
            }
            proxy.finish().await;
        }
    }
}

#[tokio::test]
async fn a_reset_stream_is_tried_again_if_the_policy_says_so() {
    for (code, on) in [(8, RetryOn::Reset), (2, RetryOn::Reset), (7, RetryOn::RefusedStream)] {
        let backend = RawBackend::start(move |wire, _| async move {
            let Some(mut peer) = Peer::server(wire, &[]).await else { return };
            let mut first = true;
            while let Some(id) = peer.request().await {
                let bytes = if std::mem::take(&mut first) {
                    frame(RST_STREAM, 0, id, u32::to_be_bytes(code))
                } else {
                    headers(id, true, &[(":status", "204")])
                };
                peer.send(bytes).await;
            }
        })
        .await;
        let proxy = start(with(Plan::http2(&[backend.address]), policy(&[on], 1))).await;
        let answer = fetch(H1, proxy.web(), request(H1, "POST", "/", full("x"))).await;
        assert_eq!(answer.status, 204, "code {code}: {}", answer.text());
        proxy.finish().await;
    }
}

#[tokio::test]
async fn each_try_has_its_time_and_all_of_them_the_routes() {
    // (per try, whole, answers at the n-th try, status, reason)
    let slow = |n_good: usize| async move {
        Backend::start(H1, move |_, n| async move {
            if n < n_good {
                std::future::pending::<()>().await;
            }
            respond(200, full("ok"))
        })
        .await
    };
    let ms = Duration::from_millis;
    for (per_try, whole, good, status, reason) in [
        (ms(150), None, 1, 200, ""),
        (ms(150), None, 100, 504, "try_timeout"),
        (ms(150), Some(ms(200)), 100, 504, "timeout"),
    ] {
        let backend = slow(good).await;
        let mut retries = policy(&[RetryOn::GatewayError], 2);
        retries.per_try_timeout = Some(per_try);
        let plan =
            with(Plan::http(&[backend.address]), retries).tune_route(|route| route.timeout = whole);
        let proxy = start(plan).await;
        let answer = fetch(H1, proxy.web(), request(H1, "POST", "/", full("x"))).await;
        assert_eq!((answer.status, answer.header("x-portolan-reason")), (status, reason));
        proxy.finish().await;
    }
}

#[tokio::test]
async fn another_try_goes_to_another_endpoint() {
    let bad = failing(H1, 1000, 503).await;
    let good = failing(H1, 0, 503).await;
    let plan = Plan::http(&[bad.address, good.address]);
    let proxy = start(with(plan, policy(&[RetryOn::ServerError], 1))).await;
    let mut connection = Client::connect(H1, proxy.web()).await;
    for i in 0..20 {
        let answer = collect(connection.send(request(H1, "POST", "/", full("x"))).await).await;
        assert_eq!(answer.status, 200, "request {i}");
    }
    drop(connection);
    proxy.finish().await;
}

#[tokio::test]
async fn the_limit_on_a_request_begins_at_its_end() {
    // `Route::timeout`: from the end of the request to the whole of the response (Envoy's meaning).
    for client in [H1, H2] {
        let backend = Backend::start(H1, async |r: Request<Incoming>, _| {
            let body = r.into_body().collect().await.expect("a whole body").to_bytes();
            respond(200, full(body))
        })
        .await;
        let limit = Duration::from_millis(300);
        let plan = Plan::http(&[backend.address]).tune_route(|r| r.timeout = Some(limit));
        let proxy = start(plan).await;
        let (feed, body) = fed();
        let mut connection = Client::connect(client, proxy.web()).await;
        let feeding = async {
            for _ in 0..10 {
                let _gone = feed.send("x".into()).await;
                tokio::time::sleep(limit / 5).await;
            }
            drop(feed);
        };
        let (answer, ()) =
            tokio::join!(connection.send(request(client, "POST", "/", body)), feeding);
        assert_eq!(answer.status(), 200, "{client:?}: a slow upload is not a slow endpoint");
        proxy.lifecycle.abort();
    }
}

fn grpc(timeout: Option<&'static str>, body: Body) -> Request<Body> {
    let mut call = request(H2, "POST", "/pkg.Service/Call", body);
    let headers = call.headers_mut();
    headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    headers.insert("te", http::HeaderValue::from_static("trailers"));
    if let Some(timeout) = timeout {
        headers.insert("grpc-timeout", http::HeaderValue::from_static(timeout));
    }
    call
}

/// Milliseconds of a `grpc-timeout` (gRPC over HTTP/2, "Timeout").
fn millis(text: &str) -> u128 {
    let (digits, unit) = text.split_at(text.len() - 1);
    let n: u128 = digits.parse().expect("digits");
    match unit {
        "H" => n * 3_600_000,
        "M" => n * 60_000,
        "S" => n * 1000,
        "m" => n,
        "u" => n / 1000,
        "n" => n / 1_000_000,
        _ => panic!("no unit: {text}"),
    }
}

#[tokio::test]
async fn an_endpoint_is_told_what_is_left_of_a_calls_time() {
    let backend = Backend::start(H2, async |r: Request<Incoming>, _| {
        let timeout = r.headers().get("grpc-timeout");
        let timeout = timeout.map_or("none", |v| v.to_str().expect("text")).to_owned();
        respond(200, chunks([bytes::Bytes::from(timeout)], &[("grpc-status", "0")]))
    })
    .await;
    let second = Duration::from_secs(1);
    for (asked, route, least, most) in [
        (None, None, None, None),
        (Some("5S"), None, Some(3000), Some(5000)),
        (Some("5000000u"), None, Some(3000), Some(5000)),
        (Some("1H"), Some(2 * second), Some(500), Some(2000)),
        (Some("2S"), Some(60 * second), Some(500), Some(2000)),
        (None, Some(2 * second), Some(500), Some(2000)),
        (Some("99999999H"), None, Some(1000), None),
    ] {
        let plan = Plan::http(&[backend.address]).tune_route(|r| r.timeout = route);
        let proxy = start(plan).await;
        let answer = fetch(H2, proxy.web(), grpc(asked, empty())).await;
        let text = answer.text();
        let context = format!("{asked:?} {route:?}: {text}");
        match (least, most) {
            (None, _) => assert_eq!(text, "none", "{context}"),
            (Some(least), most) => {
                assert!(text.len() <= 9, "{context}: at most 8 digits");
                assert!(millis(text) >= least, "{context}");
                assert!(most.is_none_or(|most| millis(text) <= most), "{context}");
            }
        }
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_call_past_its_deadline_ends_with_status_4() {
    // Before the head, after the head, and in the middle of a stream.
    for stage in 0..3 {
        let backend = Backend::start(H2, move |_: Request<Incoming>, _| async move {
            match stage {
                0 => std::future::pending().await,
                1 => respond(200, never()),
                _ => respond(200, paced("part".into(), 1000, Duration::from_millis(20), || {})),
            }
        })
        .await;
        let proxy = start(Plan::http(&[backend.address])).await;
        let started = std::time::Instant::now();
        let answer = fetch(H2, proxy.web(), grpc(Some("200m"), empty())).await;
        let head = answer.headers.get("grpc-status");
        let status = head.or(answer.trailers.as_ref().and_then(|t| t.get("grpc-status")));
        assert_eq!(status.map(|v| v.as_bytes()), Some(&b"4"[..]), "stage {stage}");
        assert!(started.elapsed() < Duration::from_secs(5));
        until("nothing in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_trailers_only_answer_stays_one() {
    let backend = RawBackend::start(async |wire: Wire, _| {
        let Some(mut peer) = Peer::server(wire, &[]).await else { return };
        while let Some(id) = peer.request().await {
            let list = [
                (":status", "200"),
                ("content-type", "application/grpc"),
                ("grpc-status", "5"),
                ("grpc-message", "not here"),
            ];
            peer.send(headers(id, true, &list)).await;
        }
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut peer = Peer::client(proxy.web(), &[]).await;
    let list = method_with("POST", &[("content-type", "application/grpc"), ("te", "trailers")]);
    peer.send(headers(1, true, &list)).await;
    let frame = soon("the answer", async {
        loop {
            let frame = peer.read().await.expect("a frame");
            if frame.kind == HEADERS {
                return frame;
            }
        }
    })
    .await;
    assert!(frame.ends(), "HEADERS ends the stream");
    let answer = fetch(H2, proxy.web(), grpc(None, empty())).await;
    assert_eq!((answer.header("grpc-status"), answer.header("grpc-message")), ("5", "not here"));
    drop(peer);
    proxy.finish().await;
}

#[tokio::test]
async fn a_grpc_status_is_a_reason_to_try_again_if_the_policy_says_so() {
    for (status, on, retried) in [
        ("14", RetryOn::Unavailable, true),
        ("1", RetryOn::Cancelled, true),
        ("4", RetryOn::DeadlineExceeded, true),
        ("8", RetryOn::ResourceExhausted, true),
        ("13", RetryOn::Internal, true),
        ("14", RetryOn::Internal, false),
        ("5", RetryOn::Unavailable, false),
    ] {
        let backend = RawBackend::start(move |wire, _| async move {
            let Some(mut peer) = Peer::server(wire, &[]).await else { return };
            let mut first = true;
            while let Some(id) = peer.request().await {
                let status = if std::mem::take(&mut first) { status } else { "0" };
                let list = [(":status", "200"), ("grpc-status", status)];
                peer.send(headers(id, true, &list)).await;
            }
        })
        .await;
        let proxy = start(with(Plan::http(&[backend.address]), policy(&[on], 1))).await;
        let answer = fetch(H2, proxy.web(), grpc(None, full("x"))).await;
        let expected = if retried { "0" } else { status };
        assert_eq!(answer.header("grpc-status"), expected, "{status} {on:?}");
        proxy.finish().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_breaks_a_call_off_is_a_status_for_the_client() {
    // Cut in the middle: what was begun ends with a status or a reset, never as if it were whole.
    let backend = RawBackend::start(async |wire: Wire, _| {
        let Some(mut peer) = Peer::server(wire, &[]).await else { return };
        if let Some(id) = peer.request().await {
            peer.send(headers(id, false, &[(":status", "200")])).await;
            peer.send(frame(DATA, 0, id, "part")).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let answer = fetch(H2, proxy.web(), grpc(None, empty())).await;
    assert_eq!(answer.text(), "part");
    let status = answer.trailers.as_ref().and_then(|t| t.get("grpc-status"));
    assert_eq!(status.map(|v| v.as_bytes()), Some(&b"14"[..]));
    proxy.finish().await;
}

fn pausing(attempts: u32, most: Duration) -> Retries {
    let back_off = Some(BackOff { base: most, max: most });
    Retries { back_off, ..policy(&[RetryOn::ServerError], attempts) }
}

#[tokio::test]
async fn tries_are_paused_as_the_policy_asks() {
    let backend = failing(H1, 9, 503).await;
    let most = Duration::from_millis(100);
    let proxy = start(with(Plan::http(&[backend.address]), pausing(9, most))).await;
    let started = std::time::Instant::now();
    let answer = fetch(H1, proxy.web(), get(H1, "/")).await;
    assert_eq!((answer.status, backend.requests()), (200, 10));
    // Nine pauses, each of up to 100 ms: less than 100 ms together once in 360,000 runs.
    assert!(started.elapsed() >= most, "{:?}", started.elapsed());
    proxy.finish().await;
}

#[tokio::test]
async fn an_answer_on_a_kept_connection_is_followed_by_a_pause_too() {
    let backend = failing(H1, usize::MAX, 503).await;
    let most = Duration::from_millis(20);
    let proxy = start(with(Plan::http(&[backend.address]), pausing(1, most))).await;
    assert_eq!(fetch(H1, proxy.web(), get(H1, "/")).await.status, 503);
    let started = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(fetch(H1, proxy.web(), get(H1, "/")).await.status, 503);
    }
    // Twenty pauses of up to 20 ms: less than 40 ms together once in 10^12 runs.
    assert!(started.elapsed() >= 2 * most, "{:?}", started.elapsed());
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_goes_during_a_pause_is_noticed() {
    let backend = failing(H1, 9, 503).await;
    let pause = Duration::from_secs(1_000_000);
    let proxy = start(with(Plan::http(&[backend.address]), pausing(9, pause))).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send("GET / HTTP/1.1\r\nhost: web.shop\r\n\r\n").await;
    until("the first try", || backend.requests() == 1).await;
    drop(wire);
    until("nothing in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
    assert_eq!(backend.requests(), 1);
    proxy.finish().await;
}
