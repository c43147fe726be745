//! Connections that stop being HTTP: WebSocket and others (RFC 9110 §7.8), CONNECT (§9.3.6), and
//! WebSocket over HTTP/2 (RFC 8441).

use std::time::Duration;

use portolan_model::traffic::PathMatch;

use super::frames::*;
use super::kit::*;
use super::raw::*;

const ASK: &str = "GET /chat HTTP/1.1\r\nhost: web.shop\r\nconnection: Upgrade\r\n\
                   upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                   sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const YES: &str = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                   upgrade: websocket\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Upgrades, then echoes until the other side ends, then says goodbye.
async fn echo(mut wire: Wire, _n: usize) {
    let Some(request) = wire.request().await else { return };
    assert_eq!(request.field("upgrade"), "websocket", "{}", request.head);
    assert!(request.field("connection").eq_ignore_ascii_case("upgrade"), "{}", request.head);
    wire.send(YES).await;
    loop {
        let bytes = wire.take(1).await;
        if bytes.is_empty() {
            break;
        }
        wire.send(bytes).await;
    }
    wire.send("bye").await;
}

async fn upgraded(proxy: &Running) -> Wire {
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send(ASK).await;
    let answer = wire.answer("GET").await;
    assert_eq!(answer.status(), 101, "{}", answer.head);
    assert_eq!(answer.field("upgrade"), "websocket");
    assert!(answer.field("connection").eq_ignore_ascii_case("upgrade"), "{}", answer.head);
    assert_eq!(answer.field("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert!(answer.all("content-length").is_empty(), "{}", answer.head);
    assert!(answer.all("transfer-encoding").is_empty(), "{}", answer.head);
    wire
}

#[tokio::test]
async fn a_websocket_passes_bytes_both_ways_and_each_half_ends_by_itself() {
    let backend = RawBackend::start(echo).await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut wire = upgraded(&proxy).await;
    for text in ["one", "two", "\0\r\n\r\n"] {
        wire.send(text).await;
        assert_eq!(wire.take(text.len()).await, text.as_bytes());
    }
    wire.half_close().await;
    assert_eq!(wire.rest().await, ("bye".to_owned(), End::Closed));
    proxy.finish().await;
}

#[tokio::test]
async fn the_limit_on_a_request_does_not_end_what_was_upgraded() {
    // It runs from the end of the request (`Route::timeout`), which an upgraded one has not had.
    let backend = RawBackend::start(echo).await;
    let limit = Duration::from_millis(300);
    let proxy = start(Plan::http(&[backend.address]).route("/", Some(limit))).await;
    let mut wire = upgraded(&proxy).await;
    tokio::time::sleep(limit * 2).await;
    wire.send("x").await;
    assert_eq!(wire.take(1).await, b"x");
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn early_data_of_both_sides_is_kept_in_order() {
    let backend = RawBackend::start(async |mut wire: Wire, _| {
        wire.request().await;
        // In one write with the head.
        wire.send(format!("{YES}hello")).await;
        let early = wire.take(11).await;
        wire.send(early).await;
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send(format!("{ASK}early bytes")).await;
    assert_eq!(wire.answer("GET").await.status(), 101);
    assert_eq!(wire.rest().await.0, "helloearly bytes");
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn megabytes_pass_through_an_upgraded_connection() {
    const SIZE: usize = 8 << 20;
    let backend = RawBackend::start(async |mut wire: Wire, _| {
        wire.request().await;
        wire.send(YES).await;
        let all = wire.take(SIZE).await;
        wire.send(&all).await;
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut wire = upgraded(&proxy).await;
    let bytes: Vec<u8> = (0..SIZE).map(|i| u8::try_from(i % 251).expect("small")).collect();
    wire.send(&bytes).await;
    let back = soon("the echo", wire.take(SIZE)).await;
    assert!(back == bytes, "{} bytes came back", back.len());
    assert_eq!(wire.rest().await.0, "");
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn the_end_of_either_side_ends_the_other() {
    // The endpoint goes.
    for reset in [false, true] {
        let backend = RawBackend::start(move |mut wire, _| async move {
            wire.request().await;
            wire.send(YES).await;
            wire.take(1).await;
            if reset {
                wire.reset();
            }
        })
        .await;
        let proxy = start(Plan::http(&[backend.address])).await;
        let mut wire = upgraded(&proxy).await;
        wire.send("x").await;
        wire.rest().await;
        drop(wire);
        until("no request in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0)
            .await;
        proxy.finish().await;
    }
    // The client goes.
    let (sender, mut gone) = tokio::sync::mpsc::channel(1);
    let backend = RawBackend::start(move |mut wire, _| {
        let sender = sender.clone();
        async move {
            wire.request().await;
            wire.send(YES).await;
            wire.rest().await;
            sender.send(()).await.expect("the test waits");
        }
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    for reset in [false, true] {
        let wire = upgraded(&proxy).await;
        if reset {
            wire.reset();
        } else {
            drop(wire);
        }
        soon("the endpoint to hear of it", gone.recv()).await.expect("told");
    }
    until("no request in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
    proxy.finish().await;
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_answer_like_others() {
    for (status, text) in [("200 OK", "no"), ("426 Upgrade Required", "no"), ("404 Not Found", "")]
    {
        let tap = Tap::start(move |_| {
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{text}", text.len()).into()
        })
        .await;
        let proxy = start(Plan::http(&[tap.address])).await;
        let mut wire = Wire::connect(proxy.web()).await;
        for _ in 0..3 {
            wire.send(ASK).await;
            let answer = wire.answer("GET").await;
            assert_eq!((&answer.head[9..9 + status.len()], &*answer.text()), (status, text));
            assert_eq!(answer.field("upgrade"), "");
        }
        assert_eq!(tap.connections(), 1, "both connections are kept");
        drop(wire);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn h2c_is_not_taken_up_and_the_request_is_served() {
    // What `curl --http2` sends (RFC 7540 §3.2; given up by RFC 9113 §3.1).
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send(
        "GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: Upgrade, HTTP2-Settings\r\n\
         upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
    )
    .await;
    let answer = wire.answer("GET").await;
    assert_eq!((answer.status(), &*answer.text()), (200, "ok"), "{}", answer.head);
    let seen = tap.whole();
    assert!(seen[0].all("upgrade").is_empty() && seen[0].all("http2-settings").is_empty());
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn another_upgrade_passes_where_the_listener_allows_it() {
    let backend = RawBackend::start(async |mut wire: Wire, _| {
        let Some(request) = wire.request().await else { return };
        let kind = request.field("upgrade").to_owned();
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade";
        wire.send(format!("{head}: {kind}\r\n\r\n{kind}")).await;
    })
    .await;
    let plan =
        Plan::http(&[backend.address]).tune_http(|http| http.upgrades = vec!["spdy/3.1".into()]);
    let proxy = start(plan).await;
    for (kind, status) in [("SPDY/3.1", 101), ("websocket", 101), ("other", 501)] {
        let mut wire = Wire::connect(proxy.web()).await;
        let ask = "GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade";
        wire.send(format!("{ask}: {kind}\r\n\r\n")).await;
        assert_eq!(wire.answer("GET").await.status(), status, "{kind}");
        if status == 101 {
            assert_eq!(wire.rest().await.0, kind);
        }
    }
    proxy.finish().await;
}

#[tokio::test]
async fn connect_is_a_tunnel_where_the_listener_allows_it() {
    let backend = RawBackend::start(async |mut wire: Wire, _| {
        // No HTTP: bytes from the first on.
        let hello = wire.take(5).await;
        wire.send([b"echo ", &*hello].concat()).await;
        wire.rest().await;
        wire.send("bye").await;
    })
    .await;
    // CONNECT has no path: a route that matches any takes it.
    let plan = Plan::http(&[backend.address])
        .tune_http(|http| http.upgrades = vec!["connect".into()])
        .tune_host(|host| {
            host.domains = vec!["web.shop:80".into()];
            host.routes[0].path = PathMatch::Prefix("".into());
        });
    let proxy = start(plan).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send("CONNECT web.shop:80 HTTP/1.1\r\nhost: web.shop:80\r\n\r\nhello").await;
    let head = wire.through(b"\r\n\r\n").await.expect("a head");
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let lower = head.to_lowercase();
    assert!(!lower.contains("content-length") && !lower.contains("transfer-enc"), "{head}");
    wire.half_close().await;
    assert_eq!(wire.rest().await.0, "echo hellobye");

    let mut peer = Peer::client(proxy.web(), &[]).await;
    let list = [(":method", "CONNECT"), (":authority", "web.shop:80")];
    peer.send(headers(1, false, &list)).await;
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    peer.send(frame(DATA, END_STREAM, 1, "hello")).await;
    assert_eq!(peer.body(1).await, ("echo hellobye".len(), None));
    drop(peer);
    proxy.finish().await;
}

/// The head of a WebSocket over HTTP/2 (RFC 8441 §5.1).
fn extended(stream: u32) -> Vec<u8> {
    let list = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "web.shop"),
        (":path", "/chat"),
        ("sec-websocket-version", "13"),
    ];
    headers(stream, false, &list)
}

#[tokio::test]
async fn a_websocket_over_http2_reaches_an_http1_endpoint() {
    let (sender, mut heads) = tokio::sync::mpsc::channel(4);
    let backend = RawBackend::start(move |mut wire, _| {
        let sender = sender.clone();
        async move {
            let Some(head) = wire.through(b"\r\n\r\n").await else { return };
            let head = String::from_utf8_lossy(&head).trim_end().to_owned();
            let request = Message { head, ..Message::default() };
            sender.send(request).await.expect("the test waits");
            wire.send(YES).await;
            let text = wire.take(5).await;
            wire.send(text).await;
            wire.rest().await;
            wire.send("bye").await;
        }
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut peer = Peer::client(proxy.web(), &[]).await;
    // RFC 8441 §3: only after the server has said that it may.
    let mut allowed = false;
    while !allowed {
        let frame = soon("SETTINGS", peer.read()).await.expect("a frame");
        let said = frame.payload.chunks(6).any(|s| s[..] == [0, 8, 0, 0, 0, 1]);
        assert!(frame.kind != SETTINGS || frame.flags & 1 == 0, "no SETTINGS allowed it");
        allowed = frame.kind == SETTINGS && said;
        assert!(frame.kind != SETTINGS || allowed, "ENABLE_CONNECT_PROTOCOL is not set");
    }
    peer.send(extended(1)).await;
    assert_eq!(peer.outcome(1).await, Outcome::Status(200));
    let request = soon("the request", heads.recv()).await.expect("a request");
    assert_eq!(request.start(), "GET /chat HTTP/1.1", "{}", request.head);
    assert!(request.all("transfer-encoding").is_empty(), "{}", request.head);
    assert_eq!(request.field("upgrade"), "websocket");
    assert!(request.field("connection").eq_ignore_ascii_case("upgrade"), "{}", request.head);
    assert_eq!(request.field("sec-websocket-version"), "13");
    // RFC 6455 §4.1: an HTTP/1.1 handshake has a key of 16 bytes in base64.
    assert_eq!(request.field("sec-websocket-key").len(), 24, "{}", request.head);
    assert!(request.all(":protocol").is_empty(), "{}", request.head);
    peer.send(frame(DATA, 0, 1, "hello")).await;
    peer.send(frame(DATA, END_STREAM, 1, "")).await;
    assert_eq!(peer.body(1).await, ("hellobye".len(), None));
    // The connection carries other requests beside it.
    drop(peer);
    proxy.finish().await;
}

#[tokio::test]
async fn a_websocket_over_http2_that_the_endpoint_refuses_is_an_answer() {
    let backend = RawBackend::start(async |mut wire: Wire, _| {
        while wire.through(b"\r\n\r\n").await.is_some() {
            wire.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
        }
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut peer = Peer::client(proxy.web(), &[]).await;
    peer.send(extended(1)).await;
    assert_eq!(peer.outcome(1).await, Outcome::Status(403));
    assert_eq!(peer.body(1).await.0, 2);
    peer.send(headers(3, true, &get_with(&[]))).await;
    assert_eq!(peer.outcome(3).await, Outcome::Status(403));
    drop(peer);
    proxy.finish().await;
}

#[tokio::test]
async fn an_extended_connect_of_another_protocol_is_refused() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut peer = Peer::client(proxy.web(), &[]).await;
    let list = [
        (":method", "CONNECT"),
        (":protocol", "other"),
        (":scheme", "http"),
        (":authority", "web.shop"),
        (":path", "/"),
    ];
    peer.send(headers(1, false, &list)).await;
    let outcome = peer.outcome(1).await;
    assert!(matches!(outcome, Outcome::Status(400..=599)), "{outcome:?}");
    assert!(tap.seen().is_empty());
    drop(peer);
    proxy.finish().await;
}
