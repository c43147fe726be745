//! HTTP/1.1 clients that say what can be read in two ways, or nothing, or too slowly.
//!
//! What is refused is refused with a status and the connection closes; the endpoint sees nothing
//! of it, and nothing after it is taken for a request.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::kit::*;
use super::raw::*;

/// Follows every refused case: must never be served.
const NEXT: &str = "GET /smuggled HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n";

/// What must come of the bytes.
#[derive(Clone, Copy, Debug)]
enum Is {
    /// Refused with one of these; nothing reaches the endpoint.
    Refused(&'static [u16]),
    /// Refused with 400; where its message ends is clear, so the next one is served.
    Asked,
    /// The head was fine and went on; the body is not, and the endpoint never gets the whole of it.
    Cut,
    /// One request, and the one after it is served too.
    Clean,
}

use Is::{Asked, Clean, Cut, Refused};

const BAD: Is = Refused(&[400]);

fn get_with(line: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nhost: web.shop\r\n{line}\r\n\r\n").into()
}

fn post_with(lines: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nhost: web.shop\r\n{lines}\r\n\r\n{body}").into()
}

fn chunked(body: &str) -> Vec<u8> {
    post_with("transfer-encoding: chunked", body)
}

fn start_line(line: &str) -> Vec<u8> {
    format!("{line}\r\nhost: web.shop\r\n\r\n").into()
}

async fn check(cases: impl IntoIterator<Item = (String, Vec<u8>, Is)>) {
    let mut wrong = Vec::new();
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    for (name, bytes, expected) in cases {
        tap.clear();
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send(&bytes).await;
        wire.send(NEXT).await;
        let first = wire.answer("GET").await;
        let (rest, _) = wire.rest().await;
        let seen = tap.seen();
        let smuggled = seen.iter().any(|m| m.start().contains("smuggled"));
        let fine = match expected {
            Refused(statuses) => {
                statuses.contains(&first.status()) && rest.is_empty() && seen.is_empty()
            }
            Asked => {
                first.status() == 400
                    && rest.starts_with("HTTP/1.1 200 ")
                    && seen.len() == 1
                    && smuggled
            }
            Cut => {
                matches!(first.status(), 0 | 400 | 502)
                    && tap.whole().is_empty()
                    && !smuggled
                    && !rest.contains("HTTP/1.1 200")
            }
            Clean => {
                first.status() == 200
                    && rest.starts_with("HTTP/1.1 200 ")
                    && seen.len() == 2
                    && seen.iter().all(|m| m.whole)
                    && smuggled
            }
        };
        if !fine {
            let heads: Vec<_> = seen.iter().map(|m| (m.start().to_owned(), m.whole)).collect();
            wrong.push(format!(
                "{name}: wanted {expected:?}, got {} {:?} then {rest:?}; endpoint saw {heads:?}",
                first.status(),
                first.text(),
            ));
        }
    }
    proxy.finish().await;
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn named(cases: Vec<(&str, Vec<u8>, Is)>) -> Vec<(String, Vec<u8>, Is)> {
    cases.into_iter().map(|(name, bytes, is)| (name.to_owned(), bytes, is)).collect()
}

#[tokio::test]
async fn what_frames_a_body_is_read_in_one_way_or_not_at_all() {
    let coding = Refused(&[400, 501]);
    check(named(vec![
        ("length and chunked", post_with("content-length: 4\r\ntransfer-encoding: chunked", "0\r\n\r\n"), BAD),
        ("chunked and length", post_with("transfer-encoding: chunked\r\ncontent-length: 4", "0\r\n\r\n"), BAD),
        ("a space before the colon", post_with("transfer-encoding : chunked", "0\r\n\r\n"), BAD),
        ("a tab before the colon", post_with("transfer-encoding\t: chunked", "0\r\n\r\n"), BAD),
        ("xchunked", post_with("transfer-encoding: xchunked", "0\r\n\r\n"), coding),
        ("identity", post_with("transfer-encoding: identity", "0\r\n\r\n"), coding),
        ("identity and a length", post_with("transfer-encoding: identity\r\ncontent-length: 5", "hello"), coding),
        ("chunked, identity", post_with("transfer-encoding: chunked, identity", "0\r\n\r\n"), coding),
        ("identity, chunked", post_with("transfer-encoding: identity, chunked", "0\r\n\r\n"), coding),
        ("chunked twice in lines", post_with("transfer-encoding: chunked\r\ntransfer-encoding: chunked", "0\r\n\r\n"), coding),
        ("chunked twice in one", post_with("transfer-encoding: chunked, chunked", "0\r\n\r\n"), coding),
        ("chunked then cow", post_with("transfer-encoding: chunked\r\ntransfer-encoding: cow", "0\r\n\r\n"), coding),
        ("a vertical tab", post_with("transfer-encoding: \x0bchunked", "0\r\n\r\n"), BAD),
        ("quoted", post_with("transfer-encoding: \"chunked\"", "0\r\n\r\n"), coding),
        ("with a parameter", post_with("transfer-encoding: chunked;q=1", "0\r\n\r\n"), coding),
        ("empty", post_with("transfer-encoding:", "0\r\n\r\n"), coding),
        ("a comma first", post_with("transfer-encoding: ,chunked", "0\r\n\r\n"), Refused(&[400, 501])),
        ("folded", post_with("transfer-encoding:\r\n chunked", "0\r\n\r\n"), BAD),
        ("in capitals", post_with("Transfer-Encoding: CHUNKED", "0\r\n\r\n"), Clean),
        ("in a 1.0 request", b"POST / HTTP/1.0\r\nhost: web.shop\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(), coding),
        ("two lengths", post_with("content-length: 5\r\ncontent-length: 6", "hello"), BAD),
        ("two lengths in a list", post_with("content-length: 5, 6", "hello"), BAD),
        ("a length with plus", post_with("content-length: +5", "hello"), BAD),
        ("a negative length", post_with("content-length: -5", "hello"), BAD),
        ("a length in hex", post_with("content-length: 0x5", "hello"), BAD),
        ("a length and a letter", post_with("content-length: 5a", "hello"), BAD),
        ("a length in two words", post_with("content-length: 5 5", "hello"), BAD),
        ("no length", post_with("content-length:", "hello"), BAD),
        ("a length with a comma", post_with("content-length: 5,", "hello"), BAD),
        ("a length past 64 bits", post_with("content-length: 99999999999999999999", "hello"), BAD),
        ("2^64 and 5", post_with("content-length: 18446744073709551621", "hello"), BAD),
        ("a length with a point", post_with("content-length: 5.0", "hello"), BAD),
        ("a length in quotes", post_with("content-length: \"5\"", "hello"), BAD),
        ("a length with zeros", post_with("content-length: 0005", "hello"), Clean),
        ("a length on GET", b"GET / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 5\r\n\r\nhello".to_vec(), Clean),
        ("chunks on GET", b"GET / HTTP/1.1\r\nhost: web.shop\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec(), Clean),
        ("length 0 on GET", b"GET / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 0\r\n\r\n".to_vec(), Clean),
        ("what connection names must not unframe", post_with("connection: content-length\r\ncontent-length: 5", "hello"), Clean),
        ("what connection names must not unchunk", post_with("connection: transfer-encoding\r\ntransfer-encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"), Clean),
    ]))
    .await;
}

#[tokio::test]
async fn a_chunk_is_what_its_grammar_says() {
    check(named(vec![
        ("plain", chunked("5\r\nhello\r\n0\r\n\r\n"), Clean),
        ("upper case hex", chunked("A\r\n0123456789\r\n0\r\n\r\n"), Clean),
        ("zeros first", chunked("0005\r\nhello\r\n000\r\n\r\n"), Clean),
        ("an extension", chunked("5;name=value\r\nhello\r\n0;last\r\n\r\n"), Clean),
        ("a quoted extension", chunked("5;name=\"a;b\"\r\nhello\r\n0\r\n\r\n"), Clean),
        ("trailers", chunked("5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"), Clean),
        ("0x", chunked("0x5\r\nhello\r\n0\r\n\r\n"), Cut),
        ("plus", chunked("+5\r\nhello\r\n0\r\n\r\n"), Cut),
        ("minus", chunked("-5\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a space first", chunked(" 5\r\nhello\r\n0\r\n\r\n"), Cut),
        ("no size", chunked("\r\nhello\r\n0\r\n\r\n"), Cut),
        ("an extension without a size", chunked(";x\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a letter", chunked("5g\r\nhello\r\n0\r\n\r\n"), Cut),
        ("an underscore", chunked("5_0\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a line feed after the size", chunked("5\nhello\r\n0\r\n\r\n"), Cut),
        ("a line feed in an extension", chunked("5;a\nb\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a carriage return in an extension", chunked("5;a\rb\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a NUL in an extension", chunked("5;a\0b\r\nhello\r\n0\r\n\r\n"), Cut),
        ("a carriage return alone after the size", chunked("5\rhello\r\n0\r\n\r\n"), Cut),
        ("more data than the size", chunked("5\r\nhelloX\r\n0\r\n\r\n"), Cut),
        ("nothing after the data", chunked("5\r\nhello0\r\n\r\n"), Cut),
        ("a line feed after the data", chunked("5\r\nhello\n0\r\n\r\n"), Cut),
        ("past 64 bits", chunked("10000000000000005\r\nhello\r\n0\r\n\r\n"), Cut),
        ("all bits", chunked("ffffffffffffffff\r\nhello\r\n0\r\n\r\n"), Cut),
        ("many zeros", chunked(&format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(5000))), Cut),
        (
            "a long extension",
            chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(100_000))),
            Cut,
        ),
        ("a folded trailer", chunked("0\r\nx: 1\r\n y\r\n\r\n"), Cut),
        ("a trailer without a colon", chunked("0\r\nx\r\n\r\n"), Cut),
        ("a space before a trailer's colon", chunked("0\r\nx : 1\r\n\r\n"), Cut),
        ("a line feed ends a trailer", chunked("0\r\nx: 1\n\r\n\r\n"), Cut),
        ("a NUL in a trailer", chunked("0\r\nx: \0\r\n\r\n"), Cut),
        ("trailers without end", chunked(&format!("0\r\n{}\r\n", "x: 1\r\n".repeat(20_000))), Cut),
        ("a large trailer", chunked(&format!("0\r\nx: {}\r\n\r\n", "1".repeat(200_000))), Cut),
    ]))
    .await;
}

#[tokio::test]
async fn lines_and_fields_are_what_their_grammar_says() {
    let many = "x: 1\r\n".repeat(100_000);
    let long = "x".repeat(100_000);
    check(named(vec![
        ("line feeds alone", b"GET / HTTP/1.1\nhost: web.shop\n\n".to_vec(), BAD),
        ("a line feed alone after a field", get_with("a: 1\nb: 2"), BAD),
        ("a carriage return in a value", get_with("a: 1\rb: 2"), BAD),
        ("a carriage return at the end of a value", get_with("a: 1\r"), BAD),
        (
            "carriage returns alone",
            b"GET / HTTP/1.1\rhost: web.shop\r\r\n\r\n".to_vec(),
            Refused(&[400, 505]),
        ),
        ("a fold", get_with("a: 1\r\n 2"), BAD),
        ("a fold with a tab", get_with("a: 1\r\n\t2"), BAD),
        (
            "a space before the first field",
            b"GET / HTTP/1.1\r\n host: web.shop\r\n\r\n".to_vec(),
            BAD,
        ),
        ("a space before the colon", get_with("a : 1"), BAD),
        ("no colon", get_with("a"), BAD),
        ("no name", get_with(": 1"), BAD),
        ("a space in the name", get_with("a b: 1"), BAD),
        ("a NUL in the name", get_with("a\0: 1"), BAD),
        ("a NUL in the value", get_with("a: \0"), BAD),
        ("a control in the value", get_with("a: \x01"), BAD),
        ("a delete in the value", get_with("a: \x7f"), BAD),
        ("a tab in the value", get_with("a: 1\t2"), Clean),
        ("a slash in the name", get_with("a/b: 1"), BAD),
        ("an umlaut in the name", get_with("ä: 1"), BAD),
        ("an umlaut in the value", get_with("a: ä"), Clean),
        ("an empty value", get_with("a:"), Clean),
        ("an empty line first", b"\r\nGET / HTTP/1.1\r\nhost: web.shop\r\n\r\n".to_vec(), Clean),
        ("a name with all its marks", get_with("!#$%&'*+-.^_`|~9: 1"), Clean),
        ("two hosts", get_with("host: web.shop"), BAD),
        ("two hosts that differ", get_with("Host: other.shop"), BAD),
        ("no host", b"GET / HTTP/1.1\r\na: 1\r\n\r\n".to_vec(), BAD),
        ("a host with a space", b"GET / HTTP/1.1\r\nhost: web.shop x\r\n\r\n".to_vec(), Asked),
        ("a host with a user", b"GET / HTTP/1.1\r\nhost: a@web.shop\r\n\r\n".to_vec(), Asked),
        ("a host with a path", b"GET / HTTP/1.1\r\nhost: web.shop/x\r\n\r\n".to_vec(), Asked),
        ("a host in a list", b"GET / HTTP/1.1\r\nhost: web.shop, web.shop\r\n\r\n".to_vec(), Asked),
        ("many fields", get_with(&many), Refused(&[431])),
        ("a long field", get_with(&format!("x: {long}")), Refused(&[431])),
        ("a long name", get_with(&format!("{long}: 1")), Refused(&[431])),
        ("a long target", start_line(&format!("GET /{long} HTTP/1.1")), Refused(&[414, 431])),
        ("a long method", start_line(&format!("{long} / HTTP/1.1")), Refused(&[400, 431, 501])),
    ]))
    .await;
}

#[tokio::test]
async fn a_start_line_is_what_its_grammar_says() {
    let version = Refused(&[400, 505]);
    check(named(vec![
        ("no version", b"GET /\r\n\r\n".to_vec(), BAD),
        ("HTTP/2.0", start_line("GET / HTTP/2.0"), version),
        ("HTTP/0.9", start_line("GET / HTTP/0.9"), version),
        ("HTTP/3.0", start_line("GET / HTTP/3.0"), version),
        ("HTTP/1.10", start_line("GET / HTTP/1.10"), version),
        ("HTTP/11", start_line("GET / HTTP/11"), version),
        ("HTTP/1,1", start_line("GET / HTTP/1,1"), version),
        ("http/1.1", start_line("GET / http/1.1"), version),
        ("HTTQ/1.1", start_line("GET / HTTQ/1.1"), version),
        ("a space after the version", start_line("GET / HTTP/1.1 "), version),
        ("two spaces", start_line("GET  / HTTP/1.1"), BAD),
        ("two spaces before the version", start_line("GET /  HTTP/1.1"), version),
        ("a tab", start_line("GET\t/ HTTP/1.1"), BAD),
        ("a space first", start_line(" GET / HTTP/1.1"), BAD),
        ("a space in the target", start_line("GET /a b HTTP/1.1"), version),
        ("no target", start_line("GET HTTP/1.1"), BAD),
        ("an at in the method", start_line("G@T / HTTP/1.1"), BAD),
        ("a NUL in the method", start_line("G\0T / HTTP/1.1"), BAD),
        ("an umlaut in the method", start_line("GÄT / HTTP/1.1"), BAD),
        ("a method of one's own", start_line("BREW / HTTP/1.1"), Clean),
        ("a method in small letters", start_line("get / HTTP/1.1"), Clean),
        ("a NUL in the target", start_line("GET /\0 HTTP/1.1"), BAD),
        ("a control in the target", start_line("GET /\x01 HTTP/1.1"), BAD),
        ("a delete in the target", start_line("GET /\x7f HTTP/1.1"), BAD),
        ("a target without a slash", start_line("GET index HTTP/1.1"), BAD),
        ("a star for GET", start_line("GET * HTTP/1.1"), BAD),
        ("a fragment", start_line("GET /#a HTTP/1.1"), BAD),
        ("a carriage return in the target", start_line("GET /\r HTTP/1.1"), BAD),
        ("a whole URI", start_line("GET http://web.shop/ HTTP/1.1"), Clean),
        ("a whole URI without a path", start_line("GET http://web.shop HTTP/1.1"), Clean),
        (
            "a whole URI without a path and a query",
            start_line("GET http://web.shop?q HTTP/1.1"),
            Clean,
        ),
        ("a whole URI in capitals", start_line("GET HTTP://WEB.SHOP/ HTTP/1.1"), Clean),
        ("a URI with a user", start_line("GET http://a@web.shop/ HTTP/1.1"), Asked),
        ("a URI without an authority", start_line("GET http:///x HTTP/1.1"), BAD),
        ("a URI of another scheme", start_line("GET ftp://web.shop/ HTTP/1.1"), BAD),
        ("an authority for GET", start_line("GET web.shop:80 HTTP/1.1"), BAD),
        ("CONNECT to a path", start_line("CONNECT / HTTP/1.1"), Asked),
        (
            "TLS",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(),
            Refused(&[400, 0]),
        ),
        ("binary", (0..=255).collect(), Refused(&[400, 0])),
        ("empty lines without end", "\r\n".repeat(100_000).into(), Refused(&[400, 431, 0])),
    ]))
    .await;
}

#[tokio::test]
async fn a_refused_connect_closes_the_connection() {
    check(named(vec![(
        "CONNECT",
        b"CONNECT web.shop:80 HTTP/1.1\r\nhost: web.shop:80\r\n\r\n".to_vec(),
        Refused(&[405]),
    )]))
    .await;
}

#[tokio::test]
async fn rubbish_after_a_request_is_refused_and_the_request_is_served() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let good = "GET /good HTTP/1.1\r\nhost: web.shop\r\n\r\n";
    for rubbish in ["GARBAGE\r\n\r\n", "\0\0\0\0", "hello world and more\r\n\r\n", "{}\r\n\r\n"] {
        tap.clear();
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send(format!("{good}{rubbish}\r\n\r\n")).await;
        assert_eq!(wire.answer("GET").await.status(), 200, "{rubbish:?}");
        assert_eq!(wire.answer("GET").await.status(), 400, "{rubbish:?}");
        assert_eq!(wire.rest().await.0, "", "{rubbish:?}");
        assert_eq!(tap.whole().len(), 1, "{rubbish:?}");
    }
    proxy.finish().await;
}

#[tokio::test]
async fn the_authority_of_the_target_is_the_one_that_is_passed_on() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    for (target, path) in [
        ("http://web.shop/a?b=c", "/a?b=c"),
        ("http://web.shop", "/"),
        ("http://web.shop?q", "/?q"),
    ] {
        tap.clear();
        wire.send(format!("GET {target} HTTP/1.1\r\nhost: evil.shop\r\n\r\n")).await;
        assert_eq!(wire.answer("GET").await.status(), 200, "{target}");
        let seen = tap.whole();
        assert_eq!(seen[0].start(), format!("GET {path} HTTP/1.1"));
        assert_eq!(seen[0].all("host"), ["web.shop"], "{target}");
    }
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn trailers_cannot_frame_route_or_authenticate() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    for name in ["content-length", "transfer-encoding", "host", "connection", "authorization"] {
        tap.clear();
        let mut wire = Wire::connect(proxy.web()).await;
        let trailers = format!("{name}: 7\r\nx-kept: 1\r\n");
        wire.send(chunked(&format!("5\r\nhello\r\n0\r\n{trailers}\r\n"))).await;
        let status = wire.answer("POST").await.status();
        assert!(matches!(status, 200 | 400), "{name}: {status}");
        for seen in tap.seen() {
            assert!(!seen.trailers.contains(name), "{name}: {}", seen.trailers);
        }
    }
    proxy.finish().await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_served() {
    let tap = Tap::ok().await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.stream.set_nodelay(true).expect("a socket");
    for _ in 0..2 {
        let request = "POST /a HTTP/1.1\r\nhost: web.shop\r\ntransfer-encoding: chunked\r\n\r\n\
                       5;x\r\nhello\r\n0\r\na: b\r\n\r\n";
        for byte in request.as_bytes() {
            wire.send([*byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(wire.answer("POST").await.text(), "ok");
    }
    assert!(tap.whole().iter().all(|m| m.text() == "hello" && m.trailers == "a: b\r\n"));
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn a_head_past_its_time_is_answered_408_however_its_bytes_come() {
    let tap = Tap::ok().await;
    let limit = Duration::from_millis(300);
    let plan = Plan::http(&[tap.address]).tune_http(|http| http.header_timeout = Some(limit));
    let proxy = start_with(plan, |c| c.header_timeout = limit).await;
    for (name, first) in [
        ("one byte", "G"),
        ("half a head", "GET / HTTP/1.1\r\nhost: we"),
        ("after a request", "GET / HTTP/1.1\r\nhost: web.shop\r\n\r\nGET / HT"),
    ] {
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send(first).await;
        if name == "after a request" {
            assert_eq!(wire.answer("GET").await.status(), 200);
        }
        // Something comes all the time, and never the end.
        let dripping = async {
            loop {
                tokio::time::sleep(limit / 10).await;
                if wire.stream.try_write(b"x").is_err() {
                    return;
                }
            }
        };
        let started = tokio::time::Instant::now();
        let _ended = tokio::time::timeout(limit * 20, dripping).await;
        assert!(started.elapsed() < limit * 18, "{name}: it went on for {:?}", started.elapsed());
        let (text, _) = wire.rest().await;
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 "), "{name}: {text}");
    }
    proxy.finish().await;
}

#[tokio::test]
async fn a_quiet_half_of_a_head_is_answered_408() {
    let tap = Tap::ok().await;
    let limit = Duration::from_millis(200);
    let plan = Plan::http(&[tap.address]).tune_http(|http| http.header_timeout = Some(limit));
    let proxy = start(plan).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send("GET / HTTP/1.1\r\nhost: we").await;
    let answer = wire.answer("GET").await;
    assert_eq!((answer.status(), answer.field("x-portolan-reason")), (408, "header_timeout"));
    assert_eq!(answer.field("connection"), "close");
    assert_eq!(wire.rest().await.0, "");
    assert!(tap.seen().is_empty());
    proxy.finish().await;
}

#[tokio::test]
async fn a_connection_without_a_request_closes_without_a_word() {
    let tap = Tap::ok().await;
    let limit = Duration::from_millis(200);
    let plan = Plan::http(&[tap.address]).tune_http(|http| http.idle_timeout = Some(limit));
    let proxy = start_with(plan, |c| c.header_timeout = limit).await;
    for requests in [0, 1, 3] {
        let mut wire = Wire::connect(proxy.web()).await;
        for _ in 0..requests {
            wire.send("GET / HTTP/1.1\r\nhost: web.shop\r\n\r\n").await;
            assert_eq!(wire.answer("GET").await.status(), 200);
        }
        let (text, end) = wire.rest().await;
        assert_eq!((&*text, end), ("", End::Closed), "after {requests}");
    }
    proxy.finish().await;
}

#[tokio::test]
async fn a_body_that_stalls_ends_with_the_stream_idle_timeout() {
    let tap = Tap::ok().await;
    let limit = Duration::from_millis(200);
    let plan = Plan::http(&[tap.address]).tune_http(|http| http.stream_idle_timeout = Some(limit));
    let proxy = start(plan).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send(post_with("content-length: 100", "hello")).await;
    let answer = wire.answer("POST").await;
    assert_eq!(answer.field("x-portolan-reason"), "stream_idle", "{}", answer.head);
    assert!(matches!(answer.status(), 408 | 504), "{}", answer.head);
    wire.rest().await;
    assert!(tap.whole().is_empty());
    proxy.finish().await;
}

#[tokio::test]
async fn a_body_whose_request_failed_is_not_taken_for_the_next_request() {
    let body = "GET /smuggled HTTP/1.1\r\nhost: web.shop\r\n\r\n";
    let silence = Duration::from_secs(60);
    for (name, quiet, status) in
        [("says nothing", silence, 504), ("closes", Duration::from_millis(50), 502)]
    {
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let record = Arc::clone(&seen);
        let backend = RawBackend::start(move |mut wire, _| {
            let record = Arc::clone(&record);
            async move {
                let Some(request) = wire.request().await else { return };
                record.lock().expect("no panic").push(request.start().to_owned());
                tokio::time::sleep(quiet).await;
            }
        })
        .await;
        let limit = Duration::from_millis(200);
        let plan = Plan::http(&[backend.address]).tune_route(|route| route.timeout = Some(limit));
        let proxy = start(plan).await;
        let mut wire = Wire::connect(proxy.web()).await;
        let length = format!("content-length: {}", body.len());
        wire.send(post_with(&length, body)).await;
        let first = wire.answer("POST").await;
        assert_eq!(first.status(), status, "{name}");
        wire.send("GET /next HTTP/1.1\r\nhost: web.shop\r\nconnection: close\r\n\r\n").await;
        let (_, _) = wire.rest().await;
        let seen = seen.lock().expect("no panic").clone();
        assert!(!seen.iter().any(|start| start.contains("smuggled")), "{name}: {seen:?}");
        proxy.finish().await;
    }
}
