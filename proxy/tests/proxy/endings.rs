//! How requests and connections end: streams that are cancelled, kept connections that went away,
//! limits on age and number, and clients that stall in HTTP/2.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::BodyExt;

use super::frames::*;
use super::kit::*;
use super::raw::*;

#[tokio::test]
async fn a_stream_that_its_client_cancels_is_cancelled_at_the_endpoint_and_costs_no_other() {
    // HTTP/2 to HTTP/2: RST_STREAM there too, on a connection that goes on.
    let resets = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&resets);
    let backend = RawBackend::start(move |wire, _| {
        let count = Arc::clone(&count);
        async move {
            let Some(mut peer) = Peer::server(wire, &[]).await else { return };
            while let Some(frame) = peer.read().await {
                match frame.kind {
                    RST_STREAM => {
                        count.fetch_add(1, Ordering::SeqCst);
                    }
                    // The first of each pair is never ended.
                    HEADERS if frame.stream % 4 == 1 => {
                        peer.send(headers(frame.stream, false, &[(":status", "200")])).await;
                    }
                    HEADERS => {
                        peer.send(headers(frame.stream, true, &[(":status", "204")])).await;
                    }
                    _ => {}
                }
            }
        }
    })
    .await;
    let proxy = start(Plan::http2(&[backend.address])).await;
    let mut peer = Peer::client(proxy.web(), &[]).await;
    for n in 0..50_u32 {
        let id = 4 * n + 1;
        peer.send(headers(id, true, &get_with(&[]))).await;
        assert_eq!(peer.outcome(id).await, Outcome::Status(200));
        peer.send(frame(RST_STREAM, 0, id, 8_u32.to_be_bytes())).await;
        peer.send(headers(id + 2, true, &get_with(&[]))).await;
        assert_eq!(peer.outcome(id + 2).await, Outcome::Status(204), "after {n}");
    }
    until("fifty resets", || resets.load(Ordering::SeqCst) == 50).await;
    assert_eq!(backend.connections(), 1);
    drop(peer);
    proxy.finish().await;
}

#[tokio::test]
async fn a_download_that_is_cancelled_closes_the_http1_connection_it_came_on() {
    let ended = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&ended);
    let backend = RawBackend::start(move |mut wire, _| {
        let count = Arc::clone(&count);
        async move {
            wire.request().await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhello").await;
            wire.rest().await;
            count.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    for client in [H1, H2] {
        let before = ended.load(Ordering::SeqCst);
        let mut connection = Client::connect(client, proxy.web()).await;
        let response = connection.send(get(client, "/")).await;
        drop(response);
        drop(connection);
        until(&format!("{client:?}: its end"), || ended.load(Ordering::SeqCst) == before + 1).await;
    }
    proxy.finish().await;
}

#[tokio::test]
async fn a_kept_connection_that_went_away_costs_no_request_of_any_method() {
    // The endpoint closes each connection after its answer without saying so.
    for quiet in [Duration::from_millis(30), Duration::ZERO] {
        let backend = RawBackend::start(async |mut wire: Wire, _| {
            wire.request().await;
            wire.send(OK).await;
        })
        .await;
        let proxy = start(Plan::http(&[backend.address])).await;
        let mut connection = Client::connect(H1, proxy.web()).await;
        for n in 0..30 {
            let method = if quiet.is_zero() { "GET" } else { "POST" };
            let body = if quiet.is_zero() { empty() } else { full("hello") };
            let answer = collect(connection.send(request(H1, method, "/", body)).await).await;
            assert_eq!((answer.status, answer.text()), (200, "ok"), "{method} {n}");
            tokio::time::sleep(quiet).await;
        }
        drop(connection);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_says_goodbye_on_idle_http2_connections_costs_no_request() {
    let backend = RawBackend::start(async |wire: Wire, _| {
        let Some(mut peer) = Peer::server(wire, &[]).await else { return };
        let Some(id) = peer.request().await else { return };
        peer.send(headers(id, true, &[(":status", "204")])).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        let mut last = id.to_be_bytes().to_vec();
        last.extend([0; 4]);
        peer.send(frame(GOAWAY, 0, 0, last)).await;
    })
    .await;
    let proxy = start(Plan::http2(&[backend.address])).await;
    let mut connection = Client::connect(H2, proxy.web()).await;
    for n in 0..30 {
        let answer = connection.send(request(H2, "POST", "/", full("hello"))).await;
        assert_eq!(collect(answer).await.status, 204, "request {n}");
        tokio::time::sleep(Duration::from_millis(n)).await;
    }
    drop(connection);
    proxy.finish().await;
}

#[tokio::test]
async fn a_connection_to_an_endpoint_carries_as_many_requests_as_it_may() {
    for upstream in [H1, H2] {
        let backend = Backend::named(upstream, "ok").await;
        let plan = Plan::http(&[backend.address])
            .speaking(upstream)
            .tune(|cluster| cluster.upstream.max_requests = NonZeroU32::new(3));
        let proxy = start(plan).await;
        let mut connection = Client::connect(H1, proxy.web()).await;
        for _ in 0..9 {
            assert_eq!(collect(connection.send(get(H1, "/")).await).await.text(), "ok");
        }
        assert_eq!(backend.connections(), 3, "{upstream:?}");
        drop(connection);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_client_connection_carries_as_many_requests_as_it_may() {
    // The client's connection: told with the last answer, then closed.
    let backend = Backend::named(H1, "ok").await;
    let plan = Plan::http(&[backend.address]).tune_http(|http| http.max_requests = Some(2));
    let proxy = start(plan).await;
    let mut wire = Wire::connect(proxy.web()).await;
    for (n, said) in [(0, ""), (1, "close")] {
        wire.send("GET / HTTP/1.1\r\nhost: web.shop\r\n\r\n").await;
        let answer = wire.answer("GET").await;
        assert_eq!((&*answer.text(), answer.field("connection")), ("ok", said), "{n}");
    }
    assert_eq!(wire.rest().await, (String::new(), End::Closed));
    let mut peer = Peer::client(proxy.web(), &[]).await;
    for id in [1, 3] {
        peer.send(headers(id, true, &get_with(&[]))).await;
        assert_eq!(peer.outcome(id).await, Outcome::Status(200));
    }
    soon("the end", peer.drain()).await;
    assert!(matches!(peer.goaway, Some((_, 0))), "{:?}", peer.goaway);
    proxy.finish().await;
}

#[tokio::test]
async fn a_connection_to_an_endpoint_lives_as_long_as_it_may() {
    let age = Duration::from_millis(200);
    for upstream in [H1, H2] {
        let backend = Backend::named(upstream, "ok").await;
        let plan = Plan::http(&[backend.address])
            .speaking(upstream)
            .tune(|cluster| cluster.upstream.max_age = Some(age));
        let proxy = start(plan).await;
        let mut connection = Client::connect(H1, proxy.web()).await;
        for n in 1..=3 {
            assert_eq!(collect(connection.send(get(H1, "/")).await).await.text(), "ok");
            assert_eq!(backend.connections(), n, "{upstream:?}");
            tokio::time::sleep(age * 2).await;
        }
        drop(connection);
        proxy.finish().await;
    }
}

async fn ends_at_its_age(client: Version) {
    let age = Duration::from_millis(200);
    let backend = Backend::named(H1, "ok").await;
    let plan = Plan::http(&[backend.address]).tune_http(|http| http.max_age = Some(age));
    let proxy = start(plan).await;
    let mut connection = Client::connect(client, proxy.web()).await;
    assert_eq!(collect(connection.send(get(client, "/")).await).await.text(), "ok");
    connection.closed().await;
    proxy.finish().await;
}

#[tokio::test]
async fn an_http2_client_connection_lives_as_long_as_it_may() {
    ends_at_its_age(H2).await;
}

#[tokio::test]
async fn an_http1_client_connection_lives_as_long_as_it_may() {
    ends_at_its_age(H1).await;
}

#[tokio::test]
async fn an_idle_http2_connection_is_told_and_closed() {
    let backend = Backend::named(H1, "ok").await;
    let idle = Duration::from_millis(200);
    let plan = Plan::http(&[backend.address]).tune_http(|http| http.idle_timeout = Some(idle));
    let proxy = start(plan).await;
    for requests in [0_u32, 2] {
        let mut peer = Peer::client(proxy.web(), &[]).await;
        for n in 0..requests {
            peer.send(headers(2 * n + 1, true, &get_with(&[]))).await;
            assert_eq!(peer.outcome(2 * n + 1).await, Outcome::Status(200));
        }
        soon("the end", peer.drain()).await;
        assert!(matches!(peer.goaway, Some((_, 0))), "after {requests}: {:?}", peer.goaway);
    }
    proxy.finish().await;
}

#[tokio::test]
async fn a_request_keeps_a_connection_from_being_idle() {
    let backend = Backend::start(H1, async |_, _| {
        tokio::time::sleep(Duration::from_millis(500)).await;
        respond(200, full("late"))
    })
    .await;
    let idle = Duration::from_millis(150);
    let plan = Plan::http(&[backend.address]).tune_http(|http| http.idle_timeout = Some(idle));
    let proxy = start_with(plan, |c| c.header_timeout = idle).await;
    for client in [H1, H2] {
        let answer = fetch(client, proxy.web(), get(client, "/")).await;
        assert_eq!(answer.text(), "late", "{client:?}");
    }
    proxy.finish().await;
}

#[tokio::test]
async fn an_http2_head_that_never_ends_is_ended() {
    let tap = Tap::ok().await;
    let limit = Duration::from_millis(200);
    let plan = Plan::http(&[tap.address]).tune_http(|http| {
        http.header_timeout = Some(limit);
        http.idle_timeout = Some(limit);
        http.stream_idle_timeout = Some(limit);
    });
    let proxy = start_with(plan, |c| c.header_timeout = limit).await;
    for (name, bytes) in [
        ("half a preface", b"PRI * HTTP/2.0\r\n\r\nSM".to_vec()),
        (
            "half a frame",
            [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, [])[..5]].concat(),
        ),
        (
            "no CONTINUATION",
            [
                &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..],
                &frame(SETTINGS, 0, 0, []),
                &frame(HEADERS, END_STREAM, 1, fields(&get_with(&[]))),
            ]
            .concat(),
        ),
    ] {
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send(bytes).await;
        let ended = tokio::time::timeout(Duration::from_secs(3), wire.rest()).await;
        assert!(ended.is_ok(), "{name}: it goes on");
        assert!(tap.seen().is_empty(), "{name}");
    }
    proxy.finish().await;
}

#[tokio::test]
async fn an_http2_body_that_stalls_ends_with_the_stream_idle_timeout_and_the_connection_goes_on() {
    let tap = Tap::ok().await;
    let limit = Duration::from_millis(200);
    let plan = Plan::http(&[tap.address]).tune_http(|http| http.stream_idle_timeout = Some(limit));
    let proxy = start(plan).await;
    let mut peer = Peer::client(proxy.web(), &[]).await;
    peer.send(headers(1, false, &method_with("POST", &[]))).await;
    peer.send(frame(DATA, 0, 1, "hello")).await;
    let outcome = peer.outcome(1).await;
    assert!(matches!(outcome, Outcome::Status(408 | 504)), "{outcome:?}");
    peer.send(headers(3, true, &get_with(&[]))).await;
    assert_eq!(peer.outcome(3).await, Outcome::Status(200));
    assert_eq!(tap.whole().len(), 1, "the stalled one never became whole");
    drop(peer);
    proxy.finish().await;
}

#[tokio::test]
async fn head_answers_keep_their_length_between_versions() {
    let h2 = RawBackend::start(async |wire: Wire, _| {
        let Some(mut peer) = Peer::server(wire, &[]).await else { return };
        while let Some(id) = peer.request().await {
            let list = [(":status", "200"), ("content-length", "10")];
            peer.send(headers(id, true, &list)).await;
        }
    })
    .await;
    let h1 = Tap::start(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n".to_vec()).await;
    for (upstream, address) in [(H1, h1.address), (H2, h2.address)] {
        let proxy = start(Plan::http(&[address]).speaking(upstream)).await;
        for client in [H1, H2] {
            for _ in 0..2 {
                let answer =
                    fetch(client, proxy.web(), request(client, "HEAD", "/", empty())).await;
                let length = answer.header("content-length");
                assert_eq!((answer.status, length), (200, "10"), "{client:?} -> {upstream:?}");
            }
        }
        proxy.finish().await;
    }
}

#[tokio::test]
async fn an_answer_that_ends_before_the_request_leaves_the_http2_connection_whole() {
    // RFC 9113 §8.1: a whole answer, then RST_STREAM with NO_ERROR, while the body is still sent.
    let backend = RawBackend::start(async |wire: Wire, _| {
        let Some(mut peer) = Peer::server(wire, &[]).await else { return };
        while let Some(frame) = peer.read().await {
            if frame.kind == HEADERS {
                let id = frame.stream;
                peer.send(headers(id, false, &[(":status", "200")])).await;
                peer.send(self::frame(DATA, END_STREAM, id, "enough")).await;
                peer.send(self::frame(RST_STREAM, 0, id, [0; 4])).await;
            }
        }
    })
    .await;
    let proxy = start(Plan::http2(&[backend.address])).await;
    for client in [H1, H2] {
        let mut connection = Client::connect(client, proxy.web()).await;
        let (_feed, body) = fed();
        let response = connection.send(request(client, "POST", "/", body)).await;
        let body = soon("the body", response.into_body().collect()).await.expect("whole");
        assert_eq!(body.to_bytes(), "enough", "{client:?}");
        drop(connection);
    }
    for _ in 0..5 {
        let answer = fetch(H2, proxy.web(), request(H2, "POST", "/", full("x"))).await;
        assert_eq!(answer.text(), "enough");
    }
    assert_eq!(backend.connections(), 1, "the endpoint's connection was kept");
    proxy.finish().await;
}

#[tokio::test]
async fn expect_from_an_http2_client_is_honoured() {
    let backend = RawBackend::start(async |mut wire: Wire, _| {
        while let Some(head) = wire.through(b"\r\n\r\n").await {
            let head = String::from_utf8_lossy(&head).to_lowercase();
            assert!(head.contains("content-length: 5"), "{head}");
            wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            assert_eq!(wire.take(5).await, b"hello");
            wire.send(OK).await;
        }
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut peer = Peer::client(proxy.web(), &[]).await;
    let extra = [("expect", "100-continue"), ("content-length", "5")];
    peer.send(headers(1, false, &method_with("POST", &extra))).await;
    let interim = soon("100", async {
        loop {
            let frame = peer.read().await.expect("a frame");
            if frame.kind == HEADERS {
                return frame;
            }
        }
    })
    .await;
    assert!(!interim.ends());
    peer.send(frame(DATA, END_STREAM, 1, "hello")).await;
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    drop(peer);
    proxy.finish().await;
}

#[tokio::test]
async fn a_listener_that_goes_lets_its_requests_finish() {
    for client in [H1, H2] {
        let (feed, body) = fed();
        let body = std::sync::Mutex::new(Some(body));
        let backend = Backend::start(H1, move |_, _| {
            let body = body.lock().expect("not poisoned").take().expect("one request");
            async move { respond(200, body) }
        })
        .await;
        let plan = Plan::http(&[backend.address]);
        let proxy = start(plan.clone()).await;
        let mut connection = Client::connect(client, proxy.web()).await;
        feed.send("begun, ".into()).await.expect("room");
        let response = connection.send(get(client, "/")).await;
        proxy.apply(plan.without_listener("web")).await;
        feed.send("ended".into()).await.expect("room");
        drop(feed);
        assert_eq!(collect(response).await.text(), "begun, ended", "{client:?}");
        connection.closed().await;
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_cluster_that_goes_lets_its_requests_finish_and_is_a_503_from_then_on() {
    let (feed, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let backend = Backend::start(H2, move |_, _| {
        let body = body.lock().expect("not poisoned").take().expect("one request");
        async move { respond(200, body) }
    })
    .await;
    let plan = Plan::http2(&[backend.address]);
    let proxy = start(plan.clone()).await;
    let mut connection = Client::connect(H1, proxy.web()).await;
    feed.send("begun, ".into()).await.expect("room");
    let response = connection.send(get(H1, "/")).await;
    let mut without = plan;
    without.0.clusters.remove("web");
    proxy.apply(without).await;
    assert_eq!(
        fetch(H1, proxy.web(), get(H1, "/")).await.header("x-portolan-reason"),
        "no_cluster"
    );
    feed.send("ended".into()).await.expect("room");
    drop(feed);
    assert_eq!(collect(response).await.text(), "begun, ended");
    drop(connection);
    proxy.finish().await;
}

/// Answers requests of a connection that begins with a PROXY header.
async fn introduced(mut wire: Wire, _before: usize) {
    // haproxy's proxy-protocol.txt §2.1: the proxy speaks for itself.
    if wire.through(b"\r\n").await.as_deref() != Some(b"PROXY UNKNOWN\r\n") {
        return;
    }
    while wire.request().await.is_some() {
        wire.send(OK).await;
    }
}

#[tokio::test]
async fn endpoints_that_want_a_proxy_header_are_told_that_the_proxy_asks() {
    use portolan_model::traffic::ProxyHeader;
    let backend = RawBackend::start(introduced).await;
    let plan = Plan::http(&[backend.address])
        .tune(|cluster| cluster.upstream.send_proxy = Some(ProxyHeader::V1));
    let proxy = start(plan).await;
    for client in [H1, H2] {
        for _ in 0..3 {
            assert_eq!(fetch(client, proxy.web(), get(client, "/")).await.text(), "ok");
        }
    }
    assert_eq!(backend.connections(), 1, "one header for all requests of a connection");
    proxy.finish().await;
}
