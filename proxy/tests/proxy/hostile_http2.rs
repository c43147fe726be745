//! HTTP/2 clients that break the rules of frames, streams and fields (RFC 9113), or flood.
//!
//! A malformed request costs its stream, a broken rule of the connection the connection; neither
//! reaches an endpoint, least of all one that speaks HTTP/1.1.

use std::time::Duration;

use super::frames::Outcome::{Closed, Goaway, Reset, Status};
use super::frames::*;
use super::kit::*;
use super::raw::*;

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Whether a malformed request ended as RFC 9113 §8.1.1 has it.
fn refused(outcome: Outcome) -> bool {
    matches!(outcome, Reset(PROTOCOL_ERROR) | Status(400))
}

/// Fields that make a request malformed.
fn malformed() -> Vec<(&'static str, Vec<(&'static str, &'static str)>)> {
    let pseudo = |method, scheme, authority, path| {
        let all =
            [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)];
        all.into_iter().filter(|(_, value)| *value != "-").collect::<Vec<_>>()
    };
    vec![
        ("a name in capitals", get_with(&[("X-Upper", "1")])),
        ("a name with a space", get_with(&[("x y", "1")])),
        ("a name with a colon", get_with(&[("x:y", "1")])),
        ("a name with a line", get_with(&[("x: 1\r\ny", "1")])),
        ("a name with a NUL", get_with(&[("x\0", "1")])),
        ("a name with an umlaut", get_with(&[("ä", "1")])),
        ("an empty name", get_with(&[("", "1")])),
        ("a value with CR LF", get_with(&[("x", "1\r\nevil: 1")])),
        ("a value with CR", get_with(&[("x", "1\rx")])),
        ("a value with LF", get_with(&[("x", "1\nevil: 1")])),
        ("a value with NUL", get_with(&[("x", "1\0")])),
        ("a value that ends in CR", get_with(&[("x", "1\r")])),
        ("a space before a value", get_with(&[("x", " 1")])),
        ("a space after a value", get_with(&[("x", "1 ")])),
        ("a tab before a value", get_with(&[("x", "\t1")])),
        ("a cookie with CR LF", get_with(&[("cookie", "a=1\r\nevil: 1")])),
        ("a host with CR LF", get_with(&[("host", "web.shop\r\nevil: 1")])),
        ("connection", get_with(&[("connection", "keep-alive")])),
        ("connection: close", get_with(&[("connection", "close")])),
        ("keep-alive", get_with(&[("keep-alive", "5")])),
        ("proxy-connection", get_with(&[("proxy-connection", "keep-alive")])),
        ("transfer-encoding", get_with(&[("transfer-encoding", "chunked")])),
        ("upgrade", get_with(&[("upgrade", "websocket")])),
        ("te: gzip", get_with(&[("te", "gzip")])),
        ("te: trailers, gzip", get_with(&[("te", "trailers, gzip")])),
        ("a host that differs", get_with(&[("host", "other.shop")])),
        ("two hosts", get_with(&[("host", "web.shop"), ("host", "web.shop")])),
        ("a pseudo field after others", get_with(&[("x", "1"), (":path", "/evil")])),
        ("an unknown pseudo field", get_with(&[(":x", "1")])),
        (":status in a request", get_with(&[(":status", "200")])),
        (":protocol without CONNECT", get_with(&[(":protocol", "websocket")])),
        ("two methods", get_with(&[(":method", "GET")])),
        ("two paths", get_with(&[(":path", "/")])),
        ("two schemes", get_with(&[(":scheme", "http")])),
        ("two authorities", get_with(&[(":authority", "web.shop")])),
        ("two lengths", get_with(&[("content-length", "0"), ("content-length", "1")])),
        ("a length that is none", get_with(&[("content-length", "x")])),
        ("a length without a body", get_with(&[("content-length", "5")])),
        ("no method", pseudo("-", "http", "web.shop", "/")),
        ("no scheme", pseudo("GET", "-", "web.shop", "/")),
        ("no path", pseudo("GET", "http", "web.shop", "-")),
        ("an empty method", pseudo("", "http", "web.shop", "/")),
        ("an empty path", pseudo("GET", "http", "web.shop", "")),
        ("a path without a slash", pseudo("GET", "http", "web.shop", "x")),
        ("a star for GET", pseudo("GET", "http", "web.shop", "*")),
        ("a whole URI as path", pseudo("GET", "http", "web.shop", "http://other.shop/")),
        (
            "a request in the method",
            pseudo("GET / HTTP/1.1\r\nhost: web.shop\r\n\r\nGET", "http", "web.shop", "/"),
        ),
        ("a space in the method", pseudo("GET /", "http", "web.shop", "/")),
        (
            "a request in the path",
            pseudo("GET", "http", "web.shop", "/ HTTP/1.1\r\nevil: 1\r\n\r\n"),
        ),
        ("a space in the path", pseudo("GET", "http", "web.shop", "/a b")),
        ("a version in the path", pseudo("GET", "http", "web.shop", "/ HTTP/1.0")),
        ("a tab in the path", pseudo("GET", "http", "web.shop", "/a\tb")),
        ("a NUL in the path", pseudo("GET", "http", "web.shop", "/\0")),
        ("a line in the scheme", pseudo("GET", "http\r\nx: y", "web.shop", "/")),
        ("a line in the authority", pseudo("GET", "http", "web.shop\r\nevil: 1", "/")),
        ("a space in the authority", pseudo("GET", "http", "web.shop x", "/")),
        ("a user in the authority", pseudo("GET", "http", "a@web.shop", "/")),
        ("a path in the authority", pseudo("GET", "http", "web.shop/x", "/")),
        ("an empty authority", pseudo("GET", "http", "", "/")),
    ]
}

#[tokio::test]
async fn a_malformed_request_costs_its_stream_and_reaches_nobody() {
    let tap = Tap::ok().await;
    let behind_h2 = Backend::named(H2, "ok").await;
    let mut wrong = Vec::new();
    for plan in [Plan::http(&[tap.address]), Plan::http2(&[behind_h2.address])] {
        let proxy = start(plan).await;
        for (name, list) in malformed() {
            let mut peer = Peer::client(proxy.web(), &[]).await;
            peer.send(headers(1, true, &list)).await;
            let outcome = peer.outcome(1).await;
            if !refused(outcome) {
                wrong.push(format!("{name}: {outcome:?}"));
            }
            // The connection is still good.
            peer.send(headers(3, true, &get_with(&[]))).await;
            let outcome = peer.outcome(3).await;
            if outcome != Status(200) {
                wrong.push(format!("{name}: after it {outcome:?}"));
            }
            let seen = tap.seen();
            if seen.iter().any(|m| m.head.contains("evil") || m.start() != "GET / HTTP/1.1") {
                wrong.push(format!("{name}: the endpoint saw {seen:?}"));
            }
            tap.clear();
        }
        proxy.finish().await;
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(behind_h2.requests(), malformed().len(), "only the good ones");
}

#[tokio::test]
async fn a_path_with_a_fragment_is_refused_in_both_versions() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut peer = Peer::client(proxy.web(), &[]).await;
    let mut list = get_with(&[]);
    list[3].1 = "/#a";
    peer.send(headers(1, true, &list)).await;
    let outcome = peer.outcome(1).await;
    assert!(refused(outcome), "{outcome:?}");
    assert!(tap.seen().is_empty());
    drop(peer);
    proxy.finish().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_hold_a_drain() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut peer = Peer::client(proxy.web(), &[]).await;
    peer.send(headers(1, true, &get_with(&[]))).await;
    assert_eq!(peer.outcome(1).await, Status(200));
    proxy.finish().await;
    drop(peer);
}

#[tokio::test]
async fn what_is_allowed_though_odd_is_served() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let many: Vec<_> = (0..50).map(|_| ("x", "1")).collect();
    for (name, list) in [
        ("te: trailers", get_with(&[("te", "trailers")])),
        ("a host that agrees", get_with(&[("host", "web.shop")])),
        ("an empty value", get_with(&[("x", "")])),
        ("a length of nothing", get_with(&[("content-length", "0")])),
        ("many of one name", get_with(&many)),
        (
            "pseudo fields in another order",
            vec![
                (":path", "/"),
                (":authority", "web.shop"),
                (":scheme", "http"),
                (":method", "GET"),
            ],
        ),
        (
            "host and no authority",
            vec![(":method", "GET"), (":scheme", "http"), (":path", "/"), ("host", "web.shop")],
        ),
        (
            "https",
            vec![
                (":method", "GET"),
                (":scheme", "https"),
                (":path", "/"),
                (":authority", "web.shop"),
            ],
        ),
        ("a method of one's own", method_with("BREW", &[])),
        ("no authority", vec![(":method", "GET"), (":scheme", "http"), (":path", "/")]),
        (
            "a port",
            vec![
                (":method", "GET"),
                (":scheme", "http"),
                (":path", "/"),
                (":authority", "web.shop:80"),
            ],
        ),
    ] {
        let mut peer = Peer::client(proxy.web(), &[]).await;
        peer.send(headers(1, true, &list)).await;
        let expected =
            if matches!(name, "a port" | "no authority") { Status(404) } else { Status(200) };
        assert_eq!(peer.outcome(1).await, expected, "{name}");
    }
    proxy.finish().await;
}

#[tokio::test]
async fn trailers_that_come_right_after_the_head_are_passed_on() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    for length in [None, Some(("content-length", "0"))] {
        tap.clear();
        let list = method_with("POST", length.as_slice());
        // In one piece, so that all of it is there when the request begins.
        let whole = [headers(1, false, &list), headers(1, true, &[("x-sum", "9")])].concat();
        let mut peer = Peer::client(proxy.web(), &[]).await;
        peer.send(whole).await;
        assert_eq!(peer.outcome(1).await, Status(200), "{length:?}");
        let seen = tap.whole();
        assert_eq!((seen.len(), &*seen[0].trailers), (1, "x-sum: 9\r\n"), "{length:?}");
    }
    proxy.finish().await;
}

#[tokio::test]
async fn a_body_must_be_as_long_as_it_says_and_trailers_must_be_trailers() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut wrong = Vec::new();
    let head = |length| headers(1, false, &method_with("POST", &[("content-length", length)]));
    let unknown = || headers(1, false, &method_with("POST", &[]));
    let data = |end: u8, bytes: &str| frame(DATA, end, 1, bytes);
    for (name, frames) in [
        ("more than it says", vec![head("3"), data(END_STREAM, "hello")]),
        ("more than it says, later", vec![head("5"), data(0, "hello"), data(END_STREAM, "x")]),
        ("less than it says", vec![head("9"), data(END_STREAM, "hello")]),
        ("less and trailers", vec![head("9"), data(0, "hello"), headers(1, true, &[("x", "1")])]),
        ("something for nothing", vec![head("0"), data(END_STREAM, "hello")]),
        (
            "pseudo fields as trailers",
            vec![unknown(), data(0, "a"), headers(1, true, &[(":path", "/")])],
        ),
        (
            "trailers with CR LF",
            vec![unknown(), data(0, "a"), headers(1, true, &[("x", "1\r\ny: 1")])],
        ),
        ("trailers in capitals", vec![unknown(), data(0, "a"), headers(1, true, &[("X", "1")])]),
        (
            "trailers that do not end",
            vec![unknown(), data(0, "a"), headers(1, false, &[("x", "1")])],
        ),
    ] {
        tap.clear();
        let mut peer = Peer::client(proxy.web(), &[]).await;
        for frame in frames {
            peer.send(frame).await;
        }
        let outcome = peer.outcome(1).await;
        if !(refused(outcome) || matches!(outcome, Goaway(PROTOCOL_ERROR))) {
            wrong.push(format!("{name}: {outcome:?}"));
        }
        if !tap.whole().is_empty() {
            wrong.push(format!("{name}: the endpoint had a whole request: {:?}", tap.seen()));
        }
    }
    proxy.finish().await;
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn a_broken_rule_of_the_connection_ends_it_with_its_code() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let ask = |id| headers(id, true, &get_with(&[]));
    let post = |id| headers(id, false, &method_with("POST", &[]));
    let setting = |name: u16, value: u32| {
        let mut payload = name.to_be_bytes().to_vec();
        payload.extend(value.to_be_bytes());
        frame(SETTINGS, 0, 0, payload)
    };
    let window = |id, by: u32| frame(WINDOW_UPDATE, 0, id, by.to_be_bytes());
    let block = fields(&get_with(&[]));
    const P: &[u32] = &[PROTOCOL_ERROR];
    const SIZE: &[u32] = &[FRAME_SIZE_ERROR];
    const FLOW: &[u32] = &[FLOW_CONTROL_ERROR];
    let cases: Vec<(&str, Vec<u8>, &[u32])> = vec![
        ("DATA on stream 0", frame(DATA, 0, 0, "x"), P),
        ("DATA on an idle stream", frame(DATA, 0, 1, "x"), P),
        ("HEADERS on stream 0", ask(0), P),
        ("HEADERS on an even stream", ask(2), P),
        ("a stream below the last", [ask(5), ask(3)].concat(), &[PROTOCOL_ERROR, STREAM_CLOSED]),
        ("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, [0; 4]), P),
        ("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, [0; 4]), P),
        ("RST_STREAM of 3 bytes", [post(1), frame(RST_STREAM, 0, 1, [0; 3])].concat(), SIZE),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, []), P),
        ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, [0; 5]), SIZE),
        ("SETTINGS acknowledged with bytes", frame(SETTINGS, 1, 0, [0; 6]), SIZE),
        ("a window past 2^31", setting(4, 1 << 31), FLOW),
        ("a frame size too small", setting(5, 16_383), P),
        ("a frame size too large", setting(5, 1 << 24), P),
        ("push that is neither", setting(2, 2), P),
        ("PING on a stream", frame(PING, 0, 1, [0; 8]), P),
        ("PING of 7 bytes", frame(PING, 0, 0, [0; 7]), SIZE),
        ("GOAWAY on a stream", frame(GOAWAY, 0, 1, [0; 8]), P),
        ("GOAWAY of 7 bytes", frame(GOAWAY, 0, 0, [0; 7]), SIZE),
        ("PUSH_PROMISE", [post(1), frame(PUSH_PROMISE, END_HEADERS, 1, [0, 0, 0, 2])].concat(), P),
        ("WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, [0; 3]), SIZE),
        ("WINDOW_UPDATE of 0", window(0, 0), P),
        ("WINDOW_UPDATE on an idle stream", window(1, 1), P),
        ("a window of the connection past 2^31", window(0, 0x7fff_ffff), FLOW),
        ("PRIORITY on stream 0", frame(PRIORITY, 0, 0, [0; 5]), P),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &block), P),
        (
            "a PING within HEADERS",
            [frame(HEADERS, 1, 1, &block), frame(PING, 0, 0, [0; 8])].concat(),
            P,
        ),
        (
            "CONTINUATION of another stream",
            [frame(HEADERS, 1, 1, &block), frame(CONTINUATION, 4, 3, [])].concat(),
            P,
        ),
        ("more padding than payload", [post(1), frame(DATA, PADDED, 1, [9, 0, 0])].concat(), P),
        (
            "padding without a length",
            [post(1), frame(DATA, PADDED, 1, [])].concat(),
            &[PROTOCOL_ERROR, FRAME_SIZE_ERROR],
        ),
        (
            "HEADERS with more padding than payload",
            frame(HEADERS, END_HEADERS | PADDED | 1, 1, [200, 0]),
            P,
        ),
        ("a frame larger than allowed", [post(1), frame(DATA, 0, 1, [0; 16_385])].concat(), SIZE),
        ("HEADERS larger than allowed", frame(HEADERS, 5, 1, [0; 16_385]), SIZE),
        ("an index beyond the table", frame(HEADERS, 5, 1, [0xff, 0x7f]), &[COMPRESSION_ERROR]),
        ("index 0", frame(HEADERS, 5, 1, [0x80]), &[COMPRESSION_ERROR]),
        ("a block cut off", frame(HEADERS, 5, 1, &block[..block.len() - 1]), &[COMPRESSION_ERROR]),
        (
            "a table larger than allowed",
            frame(HEADERS, 5, 1, [0x3f, 0xe1, 0xff, 0x03]),
            &[COMPRESSION_ERROR],
        ),
        ("a number without end", frame(HEADERS, 5, 1, [0xff; 40]), &[COMPRESSION_ERROR]),
        (
            "bad Huffman padding",
            frame(HEADERS, 5, 1, [0x00, 0x81, 0x00, 0x01, b'x']),
            &[COMPRESSION_ERROR],
        ),
        (
            "trailers that cannot be read",
            [post(1), frame(HEADERS, 5, 1, [0x80])].concat(),
            &[COMPRESSION_ERROR],
        ),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, codes) in cases {
        tap.clear();
        let mut peer = Peer::client(proxy.web(), &[]).await;
        peer.send(bytes).await;
        // Told, then closed.
        let told = soon(name, async {
            peer.drain().await;
            peer.goaway
        });
        match told.await {
            Some((_, code)) if codes.contains(&code) => {}
            other => wrong.push(format!("{name}: {other:?}, not one of {codes:?}")),
        }
        let seen = tap.whole();
        if seen.len() > 1 {
            wrong.push(format!("{name}: the endpoint saw {seen:?}"));
        }
    }
    proxy.finish().await;
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn what_is_unknown_or_harmless_is_ignored() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let ask = headers(1, true, &get_with(&[]));
    let block = fields(&get_with(&[]));
    let padded = {
        let mut payload = vec![3];
        payload.extend(&block);
        payload.extend([0; 3]);
        frame(HEADERS, END_HEADERS | PADDED | END_STREAM, 1, payload)
    };
    let priority = {
        let mut payload = vec![0, 0, 0, 0, 10];
        payload.extend(&block);
        frame(HEADERS, END_HEADERS | 0x20 | END_STREAM, 1, payload)
    };
    let split: Vec<u8> = {
        let mut frames = frame(HEADERS, END_STREAM, 1, &block[..3]);
        for byte in &block[3..20] {
            frames.extend(frame(CONTINUATION, 0, 1, [*byte]));
        }
        frames.extend(frame(CONTINUATION, END_HEADERS, 1, &block[20..]));
        frames
    };
    for (name, bytes) in [
        ("a frame of unknown type", [frame(200, 0xff, 0, "what"), ask.clone()].concat()),
        (
            "a frame of unknown type on a stream",
            [frame(200, 0xff, 1, "what"), ask.clone()].concat(),
        ),
        (
            "an unknown setting",
            [frame(SETTINGS, 0, 0, [0x77, 0x77, 0, 0, 0, 1]), ask.clone()].concat(),
        ),
        (
            "PRIORITY of an idle stream",
            [frame(PRIORITY, 0, 1, [0, 0, 0, 0, 1]), ask.clone()].concat(),
        ),
        (
            "a window on the connection",
            [frame(WINDOW_UPDATE, 0, 0, [0, 0, 1, 0]), ask.clone()].concat(),
        ),
        ("a reserved bit", {
            let mut bytes = ask.clone();
            bytes[5] |= 0x80;
            bytes
        }),
        ("padding", padded),
        ("a priority in HEADERS", priority),
        ("many CONTINUATIONs", split),
        ("unknown flags", {
            let mut bytes = ask.clone();
            bytes[4] |= 0xc0 | 0x02;
            bytes
        }),
        ("a GOAWAY of one's own", [ask.clone(), frame(GOAWAY, 0, 0, [0; 8])].concat()),
        ("a table made smaller", {
            let mut payload = vec![0x20, 0x3f, 0xe1, 0x1f];
            payload.extend(&block);
            frame(HEADERS, END_HEADERS | END_STREAM, 1, payload)
        }),
    ] {
        let mut peer = Peer::client(proxy.web(), &[]).await;
        peer.send(bytes).await;
        assert_eq!(peer.outcome(1).await, Status(200), "{name}");
    }
    proxy.finish().await;
}

#[tokio::test]
async fn a_preface_that_is_none_closes_the_connection() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    for preface in [
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r",
        "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        "PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n",
        "PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send(preface).await;
        wire.send(headers(1, true, &get_with(&[]))).await;
        wire.half_close().await;
        let (text, _) = wire.rest().await;
        assert!(!text.contains("200"), "{preface:?}: {text}");
    }
    assert!(tap.seen().is_empty());
    // Something other than SETTINGS after a good one.
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    wire.send(headers(1, true, &get_with(&[]))).await;
    wire.rest().await;
    assert!(tap.seen().is_empty());
    proxy.finish().await;
}

/// Sends `bytes` again and again, reading what comes, until the connection ends; `None` if it took
/// it all.
async fn flood(peer: &mut Peer, times: u32, mut bytes: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
    for i in 0..times {
        if !peer.send(bytes(i)).await {
            break;
        }
        // What is answered must not block the flood.
        let reading = tokio::time::timeout(Duration::ZERO, peer.read());
        if i % 16 == 15 && matches!(reading.await, Ok(None)) {
            break;
        }
    }
    let ended = tokio::time::timeout(Duration::from_secs(2), peer.drain()).await;
    ended.ok().map(|()| peer.goaway.map_or(0, |(_, code)| code))
}

#[tokio::test]
async fn floods_end_the_connection_and_nobody_elses() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut other = Client::connect(H2, proxy.web()).await;
    let ask = |i: u32| headers(2 * i + 1, true, &get_with(&[]));
    let reset = |i: u32| frame(RST_STREAM, 0, 2 * i + 1, [0, 0, 0, 8]);
    type Flood = Box<dyn FnMut(u32) -> Vec<u8>>;
    let floods: Vec<(&str, u32, Flood)> = vec![
        ("rapid reset", 20_000, Box::new(move |i| [ask(i), reset(i)].concat())),
        (
            "streams that are malformed",
            20_000,
            Box::new(|i| headers(2 * i + 1, true, &[("X", "1")])),
        ),
        (
            "streams closed by a window of 0",
            20_000,
            Box::new(|i| {
                let id = 2 * i + 1;
                let ask = headers(id, false, &method_with("POST", &[]));
                [ask, frame(WINDOW_UPDATE, 0, id, [0; 4])].concat()
            }),
        ),
        (
            "CONTINUATION",
            1_000,
            Box::new(|i| match i {
                0 => frame(HEADERS, END_STREAM, 1, fields(&get_with(&[]))),
                _ => frame(CONTINUATION, 0, 1, fields(&[("x", "1")]).repeat(1000)),
            }),
        ),
        (
            "empty CONTINUATION",
            100_000,
            Box::new(|i| match i {
                0 => frame(HEADERS, END_STREAM, 1, fields(&get_with(&[]))),
                _ => frame(CONTINUATION, 0, 1, []),
            }),
        ),
        (
            "empty DATA",
            100_000,
            Box::new(|i| match i {
                0 => headers(1, false, &method_with("POST", &[])),
                _ => frame(DATA, 0, 1, []),
            }),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, times, bytes) in floods {
        let mut peer = Peer::client(proxy.web(), &[]).await;
        let code = flood(&mut peer, times, bytes).await;
        if !matches!(code, Some(0 | ENHANCE_YOUR_CALM | PROTOCOL_ERROR)) {
            wrong.push(format!("{name}: {code:?}"));
        }
        let answer = collect(other.send(get(H2, "/")).await).await;
        assert_eq!(answer.text(), "ok", "{name}");
    }
    drop(other);
    until("no request in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
    proxy.finish().await;
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn what_the_proxy_must_answer_is_bounded_when_the_client_does_not_read() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    for (name, bytes) in [
        ("SETTINGS", frame(SETTINGS, 0, 0, [0, 3, 0, 0, 0, 100])),
        ("PING", frame(PING, 0, 0, [7; 8])),
    ] {
        let mut peer = Peer::client(proxy.web(), &[]).await;
        let bytes = bytes.repeat(1000);
        // Either the proxy stops reading or it ends the connection: it does not take 100 MB.
        let mut taken = 0_usize;
        let limit = 100 << 20;
        while taken < limit {
            let writing = tokio::time::timeout(Duration::from_secs(1), peer.send(&bytes));
            match writing.await {
                Ok(true) => taken += bytes.len(),
                Ok(false) | Err(_) => break,
            }
        }
        assert!(taken < limit, "{name}: {taken} bytes taken with nothing read");
    }
    assert_eq!(fetch(H2, proxy.web(), get(H2, "/")).await.text(), "ok");
    proxy.lifecycle.abort();
}

#[tokio::test]
async fn a_list_of_fields_past_the_limit_is_refused_and_the_connection_goes_on() {
    let tap = Tap::ok().await;
    let proxy = start_with(Plan::http(&[tap.address]), |c| c.max_header_bytes = 16 * 1024).await;
    let long = "x".repeat(10_000);
    let list = get_with(&[("a", &long), ("b", &long)]);
    let block = fields(&list);
    let mut peer = Peer::client(proxy.web(), &[]).await;
    let (first, rest) = block.split_at(16_000);
    peer.send(frame(HEADERS, END_STREAM, 1, first)).await;
    peer.send(frame(CONTINUATION, END_HEADERS, 1, rest)).await;
    assert_eq!(peer.outcome(1).await, Status(431));
    peer.send(headers(3, true, &get_with(&[]))).await;
    assert_eq!(peer.outcome(3).await, Status(200));
    assert_eq!(tap.seen().len(), 1);
    drop(peer);
    proxy.finish().await;
}

#[tokio::test]
async fn a_bomb_of_indexed_fields_is_refused() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut block = fields(&get_with(&[]));
    // One field of 4,000 bytes put into the table (§6.2.1), then named a thousand times.
    let long = "x".repeat(3_900);
    let mut entry = fields(&[("a", &long)]);
    entry[0] = 0x40;
    block.extend(entry);
    block.extend([0xbe; 10_000]);
    let mut peer = Peer::client(proxy.web(), &[]).await;
    peer.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block)).await;
    let outcome = peer.outcome(1).await;
    assert!(matches!(outcome, Status(431) | Goaway(ENHANCE_YOUR_CALM) | Reset(_)), "{outcome:?}");
    assert!(tap.seen().is_empty());
    drop(peer);
    proxy.finish().await;
}

#[tokio::test]
async fn streams_past_the_bound_are_refused_so_that_they_may_be_sent_again() {
    let backend = RawBackend::start(async |mut wire: Wire, _| {
        wire.rest().await;
    })
    .await;
    let proxy = start_with(Plan::http(&[backend.address]), |c| c.max_concurrent_streams = 4).await;
    let mut peer = Peer::client(proxy.web(), &[]).await;
    for id in [1, 3, 5, 7, 9] {
        peer.send(headers(id, true, &get_with(&[]))).await;
    }
    assert_eq!(peer.outcome(9).await, Reset(7));
    proxy.lifecycle.abort();
}

#[tokio::test]
async fn a_client_that_opens_no_window_is_ended_by_the_stream_idle_timeout() {
    let tap = Tap::start(|_| {
        let mut answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5000000\r\n\r\n".to_vec();
        answer.extend(vec![0; 5_000_000]);
        answer
    })
    .await;
    let limit = Duration::from_millis(300);
    let plan = Plan::http(&[tap.address]).tune_http(|http| http.stream_idle_timeout = Some(limit));
    let proxy = start(plan).await;
    let mut peer = Peer::client(proxy.web(), &[(4, 0)]).await;
    peer.send(headers(1, true, &get_with(&[]))).await;
    assert_eq!(peer.outcome(1).await, Status(200));
    let (bytes, ended) = peer.body(1).await;
    assert_eq!(bytes, 0);
    assert!(matches!(ended, Some(code) if code != u32::MAX), "a reset, not {ended:?}");
    drop(peer);
    until("no request in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
    proxy.finish().await;
}

#[tokio::test]
async fn data_for_a_stream_that_was_reset_counts_and_does_not_end_the_connection() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut peer = Peer::client(proxy.web(), &[]).await;
    // The windows of the connection must come back, or the last of these has nothing to be sent on.
    for id in (1..80).step_by(2) {
        peer.send(headers(id, false, &method_with("POST", &[("X-Bad", "1")]))).await;
        let outcome = peer.outcome(id).await;
        assert!(refused(outcome), "{id}: {outcome:?}");
        peer.send(frame(DATA, END_STREAM, id, vec![0; 16_000])).await;
        if id % 20 == 1 {
            peer.send(frame(PING, 0, 0, [1; 8])).await;
        }
    }
    peer.send(headers(1001, true, &get_with(&[]))).await;
    assert_eq!(peer.outcome(1001).await, Status(200));
    proxy.lifecycle.drain();
    assert_ne!(peer.outcome(9999).await, Closed, "a GOAWAY says goodbye");
    drop(peer);
    proxy.ended().await;
}
