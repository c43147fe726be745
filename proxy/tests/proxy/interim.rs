//! HTTP/1.1 as a conversation: interim answers, `Expect`, pipelining, HTTP/1.0, and who closes.

use std::time::Duration;

use super::frames::*;
use super::kit::*;
use super::raw::*;

const POST: &str =
    "POST / HTTP/1.1\r\nhost: web.shop\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: web.shop\r\n\r\n";

#[tokio::test]
async fn the_endpoint_decides_whether_a_body_is_wanted() {
    // (what the endpoint says before the body, whether it then reads it)
    for (first, continues) in [
        ("HTTP/1.1 100 Continue\r\n\r\n", true),
        ("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n", false),
        ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno", false),
    ] {
        let backend = RawBackend::start(move |mut wire, _| async move {
            loop {
                let Some(head) = wire.through(b"\r\n\r\n").await else { return };
                let head = String::from_utf8_lossy(&head).to_lowercase();
                assert!(head.contains("expect: 100-continue"), "{head}");
                wire.send(first).await;
                if !continues {
                    return;
                }
                assert_eq!(wire.take(5).await, b"hello");
                wire.send(OK).await;
            }
        })
        .await;
        let proxy = start(Plan::http(&[backend.address])).await;
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send(POST).await;
        if continues {
            let interim = soon("100", wire.through(b"\r\n\r\n")).await.expect("a head");
            assert!(interim.starts_with(b"HTTP/1.1 100 "), "{interim:?}");
            wire.send("hello").await;
            assert_eq!(wire.answer("POST").await.text(), "ok");
        } else {
            let answer = wire.answer("POST").await;
            assert_eq!(answer.head[..12], first[..12]);
            assert!(answer.interim.is_empty(), "no 100 before a refusal");
            // The body was not sent: either it is told to close or the next request follows.
            if answer.field("connection") == "close" {
                assert_eq!(wire.rest().await.0, "");
            }
        }
        drop(wire);
        proxy.lifecycle.abort();
    }
}

#[tokio::test]
async fn a_client_that_does_not_wait_for_100_is_served_once() {
    let tap = Tap::start(|_| {
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_vec()
    })
    .await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    for _ in 0..3 {
        wire.send(format!("{POST}hello")).await;
        let answer = wire.answer("POST").await;
        assert_eq!((answer.status(), &*answer.text()), (200, "ok"));
    }
    assert_eq!(tap.whole().len(), 3);
    assert!(tap.whole().iter().all(|m| m.text() == "hello"));
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_of_expect_still_gets_the_body() {
    // RFC 9110 §10.1.1: a client does not wait forever; a server may leave 100 out.
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send(POST).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    wire.send("hello").await;
    assert_eq!(wire.answer("POST").await.text(), "ok");
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn early_hints_reach_clients_of_both_versions_from_endpoints_of_both() {
    let h1 = RawBackend::start(async |mut wire: Wire, _| {
        while wire.request().await.is_some() {
            wire.send("HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n").await;
            wire.send("HTTP/1.1 103 Early Hints\r\nlink: </b.css>\r\n\r\n").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            wire.send(OK).await;
        }
    })
    .await;
    let h2 = RawBackend::start(async |wire: Wire, _| {
        let Some(mut peer) = Peer::server(wire, &[]).await else { return };
        while let Some(id) = peer.request().await {
            for link in ["</a.css>", "</b.css>"] {
                peer.send(headers(id, false, &[(":status", "103"), ("link", link)])).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            peer.send(headers(id, false, &[(":status", "200")])).await;
            peer.send(frame(DATA, END_STREAM, id, "ok")).await;
        }
    })
    .await;
    for plan in [Plan::http(&[h1.address]), Plan::http2(&[h2.address])] {
        let proxy = start(plan).await;
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send(GET).await;
        let answer = wire.answer("GET").await;
        assert_eq!((&*answer.interim, &*answer.text()), (&[103, 103][..], "ok"));
        drop(wire);
        // HTTP/1.0 knows no interim answers (RFC 9110 §15.2).
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send("GET / HTTP/1.0\r\nhost: web.shop\r\n\r\n").await;
        let answer = wire.answer("GET").await;
        assert!(answer.interim.is_empty() && answer.text() == "ok", "{answer:?}");
        drop(wire);
        let mut peer = Peer::client(proxy.web(), &[]).await;
        peer.send(headers(1, true, &get_with(&[]))).await;
        let mut heads = 0;
        soon("three heads", async {
            while heads < 3 {
                let frame = peer.read().await.expect("a frame");
                heads += usize::from(frame.kind == HEADERS);
            }
        })
        .await;
        drop(peer);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn an_http10_client_gets_what_it_can_read() {
    let tap = Tap::start(|m| match m.start() {
        "GET /chunked HTTP/1.1" => {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec()
        }
        _ => OK.into(),
    })
    .await;
    let proxy = start(Plan::http(&[tap.address])).await;
    // (path, what it asks of the connection, whether it stays)
    for (path, line, stays) in [
        ("/", "", false),
        ("/", "connection: keep-alive\r\n", true),
        ("/", "connection: close\r\n", false),
        ("/chunked", "", false),
        ("/chunked", "connection: keep-alive\r\n", false),
    ] {
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send(format!("GET {path} HTTP/1.0\r\nhost: web.shop\r\n{line}\r\n")).await;
        let answer = wire.answer("GET").await;
        let body = if path == "/" { "ok" } else { "hello" };
        assert_eq!((answer.status(), &*answer.text()), (200, body), "{path} {line:?}");
        assert!(answer.all("transfer-encoding").is_empty(), "{}", answer.head);
        if stays {
            assert!(
                answer.field("connection").eq_ignore_ascii_case("keep-alive"),
                "{}",
                answer.head
            );
            wire.send(format!("GET {path} HTTP/1.0\r\nhost: web.shop\r\n\r\n")).await;
            assert_eq!(wire.answer("GET").await.text(), body);
        }
        assert_eq!(wire.rest().await.0, "", "{path} {line:?}: it closes");
    }
    // Without Host, HTTP/1.0 is valid; here nothing is routed by it.
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(wire.answer("GET").await.status(), 404);
    // The endpoint is asked in HTTP/1.1 whatever the client speaks.
    assert!(tap.whole().iter().all(|m| m.start().ends_with("HTTP/1.1")));
    proxy.finish().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let tap = Tap::start(|m| {
        let path = m.start().split(' ').nth(1).expect("a path").to_owned();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len()).into()
    })
    .await;
    let proxy = start(Plan::http(&[tap.address])).await;
    for split in [1_usize, 7, 50, 100_000] {
        let mut wire = Wire::connect(proxy.web()).await;
        let mut all = Vec::new();
        for i in 0..50 {
            let request = match i % 3 {
                0 => format!("GET /{i} HTTP/1.1\r\nhost: web.shop\r\n\r\n"),
                1 => format!(
                    "POST /{i} HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 5\r\n\r\nhello"
                ),
                _ => format!(
                    "PUT /{i} HTTP/1.1\r\nhost: web.shop\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                ),
            };
            all.extend(request.into_bytes());
        }
        for part in all.chunks(split) {
            wire.send(part).await;
        }
        for i in 0..50 {
            let answer = wire.answer("GET").await;
            assert_eq!((answer.status(), answer.text()), (200, format!("/{i}")), "split {split}");
        }
        drop(wire);
    }
    proxy.finish().await;
}

#[tokio::test]
async fn a_request_pipelined_behind_a_slow_one_waits() {
    let tap = Tap::start(|_| OK.into()).await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send("POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 10\r\n\r\nhello").await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    wire.send(format!("world{GET}{GET}")).await;
    for _ in 0..3 {
        assert_eq!(wire.answer("GET").await.text(), "ok");
    }
    assert_eq!(tap.whole()[0].text(), "helloworld");
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn connection_close_of_either_side_is_that_sides_alone() {
    // The endpoint closes after each answer: the client's connection stays.
    let closing = RawBackend::start(async |mut wire: Wire, _| {
        wire.request().await;
        wire.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").await;
    })
    .await;
    let proxy = start(Plan::http(&[closing.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    for _ in 0..5 {
        wire.send(GET).await;
        let answer = wire.answer("GET").await;
        assert_eq!((&*answer.text(), answer.field("connection")), ("ok", ""));
    }
    assert_eq!(closing.connections(), 5);
    drop(wire);
    proxy.finish().await;
    // The client closes after each answer: the endpoint's connection stays.
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    for _ in 0..5 {
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send("GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").await;
        let answer = wire.answer("GET").await;
        assert_eq!((&*answer.text(), answer.field("connection")), ("ok", "close"));
        assert_eq!(wire.rest().await, (String::new(), End::Closed));
    }
    assert_eq!(tap.connections(), 1);
    assert!(tap.whole().iter().all(|m| !m.field("connection").contains("close")));
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_ends_its_side_after_its_request_is_taken_for_gone() {
    // A half-close cannot be told from a client that left, and what nobody waits for is not worth an
    // endpoint's work (docs/proxy.md). What was asked is not held against the next connection.
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    for _ in 0..10 {
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send(GET).await;
        wire.half_close().await;
        let (rest, _) = wire.rest().await;
        assert!(rest.is_empty() || rest.contains("ok"), "all of the answer or none: {rest}");
    }
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send(GET).await;
    assert_eq!(wire.answer("GET").await.text(), "ok");
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_goes_takes_its_request_with_it() {
    // The endpoint hears of it, and what is in flight does not stay.
    for (client, upstream) in [(H1, H1), (H1, H2), (H2, H1), (H2, H2)] {
        for body in ["", "short", "in pieces"] {
            let backend = Backend::start(upstream, async |_, _| std::future::pending().await).await;
            let proxy = start(Plan::http(&[backend.address]).speaking(upstream)).await;
            let mut connection = Client::connect(client, proxy.web()).await;
            let asked = match body {
                "" => get(client, "/"),
                "short" => request(client, "POST", "/", full(body)),
                _ => request(client, "POST", "/", chunks([body.into(), body.into()], &[])),
            };
            let sending = connection.try_send(asked);
            let seen = until("the request", || backend.requests() == 1);
            tokio::select! {
                _ = sending => panic!("no answer was given"),
                () = seen => {}
            }
            assert_eq!(proxy.metric("portolan_proxy_upstream_requests"), 1);
            drop(connection);
            let context = format!("{client:?} -> {upstream:?} {body:?}: nothing in flight");
            until(&context, || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
            proxy.finish().await;
        }
    }
}

#[tokio::test]
async fn a_head_answer_has_the_length_of_the_body_it_leaves_out() {
    let tap = Tap::start(|m| {
        let fields = if m.start().contains("chunked") {
            "transfer-encoding: chunked"
        } else {
            "content-length: 10"
        };
        format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").into()
    })
    .await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    for path in ["/length", "/chunked", "/length"] {
        wire.send(format!("HEAD {path} HTTP/1.1\r\nhost: web.shop\r\n\r\n")).await;
        let answer = wire.answer("HEAD").await;
        assert_eq!(answer.status(), 200);
        let length = if path == "/length" { "10" } else { "" };
        assert_eq!(answer.field("content-length"), length, "{}", answer.head);
    }
    assert_eq!(tap.connections(), 1);
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn answers_without_a_body_have_none_and_keep_the_connection() {
    for text in [
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 1000\r\netag: \"a\"\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ntransfer-encoding: chunked\r\n\r\n",
    ] {
        let tap = Tap::start(move |_| text.into()).await;
        let proxy = start(Plan::http(&[tap.address])).await;
        let mut wire = Wire::connect(proxy.web()).await;
        for _ in 0..3 {
            wire.send(GET).await;
            let answer = wire.answer("GET").await;
            assert_eq!(answer.head[9..12], text[9..12], "{}", answer.head);
            if answer.status() == 204 {
                // RFC 9110 §8.6: a 204 has no Content-Length.
                assert!(answer.all("content-length").is_empty(), "{}", answer.head);
            }
        }
        for _ in 0..2 {
            let answer = fetch(H2, proxy.web(), get(H2, "/")).await;
            assert_eq!(answer.body.len(), 0);
        }
        assert_eq!(tap.connections(), 1, "{text}");
        drop(wire);
        proxy.finish().await;
    }
}
