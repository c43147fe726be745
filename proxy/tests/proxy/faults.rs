//! Endpoints that fail, and exactly what a client of either version sees of it.

use std::pin::Pin;
use std::time::Duration;

use http_body_util::BodyExt;

use super::frames::*;
use super::kit::*;
use super::raw::*;

/// What a client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    /// An answer of the proxy's own.
    Local(u16, &'static str),
    /// The endpoint's answer, whole.
    Whole(&'static str),
    /// A head of 200, and then an end that cannot be taken for that of the message.
    Cut,
}

use Sees::{Cut, Local, Whole};

type Script = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Fault {
    name: &'static str,
    script: fn(Wire, usize) -> Script,
    sees: Sees,
}

const RESET: Sees = Local(502, "upstream_reset");
const INVALID: Sees = Local(502, "upstream_invalid");

fn fault(name: &'static str, sees: Sees, script: fn(Wire, usize) -> Script) -> Fault {
    Fault { name, script, sees }
}

async fn see(client: Version, proxy: &Running, method: &str) -> Sees {
    let body = if method == "GET" { empty() } else { full("hello") };
    let mut connection = Client::connect(client, proxy.web()).await;
    let response = match connection.try_send(request(client, method, "/", body)).await {
        Ok(response) => response,
        // A reset may take the head with it that came before.
        Err(error) if client == H1 => {
            drop(error);
            return Cut;
        }
        Err(error) => panic!("no answer: {error:?}"),
    };
    let (parts, body) = response.into_parts();
    let reason = parts.headers.get("x-portolan-reason").map(|r| r.to_str().expect("text"));
    if let Some(reason) = reason {
        let reason: &'static str = reason.to_owned().leak();
        return Local(parts.status.as_u16(), reason);
    }
    assert_eq!(parts.status, 200);
    match soon("the end of a body", body.collect()).await {
        Ok(body) => {
            let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            Whole(text.leak())
        }
        Err(_) => Cut,
    }
}

async fn check(plan: fn(Plan) -> Plan, upstream: Version, faults: Vec<Fault>) {
    let mut wrong = Vec::new();
    for fault in faults {
        for client in [H1, H2] {
            for method in ["GET", "POST"] {
                let backend = RawBackend::start(fault.script).await;
                let proxy = start(plan(Plan::http(&[backend.address]).speaking(upstream))).await;
                let sees = see(client, &proxy, method).await;
                // What had not reached the client when it broke may be a 502 instead.
                let early = matches!(sees, Local(502, "upstream_reset" | "upstream_invalid"));
                if sees != fault.sees && !(fault.sees == Cut && early && upstream == H2) {
                    let name = fault.name;
                    let wanted = fault.sees;
                    wrong.push(format!("{client:?} {method}: {name}: {sees:?}, not {wanted:?}"));
                }
                until("no request in flight", || {
                    proxy.metric("portolan_proxy_upstream_requests") == 0
                })
                .await;
                proxy.lifecycle.abort();
                proxy.ended().await;
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Reads a request, says this, and then does what the second says.
async fn say(mut wire: Wire, text: impl AsRef<[u8]>, then: Then) {
    if wire.request().await.is_none() {
        return;
    }
    wire.send(text).await;
    match then {
        Then::Close => {}
        Then::Reset => {
            tokio::time::sleep(Duration::from_millis(30)).await;
            wire.reset();
        }
        Then::Stay => {
            wire.rest().await;
        }
    }
}

#[derive(Clone, Copy)]
enum Then {
    Close,
    Reset,
    Stay,
}

#[tokio::test]
async fn a_connection_that_ends_before_an_answer_is_a_502() {
    check(
        |plan| plan,
        H1,
        vec![
            fault("closes at once", RESET, |wire, _| Box::pin(async { drop(wire) })),
            fault("closes after the request", RESET, |wire, _| {
                Box::pin(say(wire, "", Then::Close))
            }),
            fault("resets after the request", RESET, |wire, _| {
                Box::pin(say(wire, "", Then::Reset))
            }),
            fault("closes after an interim answer", RESET, |wire, _| {
                Box::pin(say(wire, "HTTP/1.1 103 Early Hints\r\n\r\n", Then::Close))
            }),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_head_that_breaks_off_is_a_reset() {
    check(
        |plan| plan,
        H1,
        vec![
            fault("closes in the status line", RESET, |wire, _| {
                Box::pin(say(wire, "HTTP/1.1 20", Then::Close))
            }),
            fault("closes in the head", RESET, |wire, _| {
                Box::pin(say(wire, "HTTP/1.1 200 OK\r\ncontent-le", Then::Close))
            }),
            fault("resets in the head", RESET, |wire, _| {
                Box::pin(say(wire, "HTTP/1.1 200 OK\r\ncontent-le", Then::Reset))
            }),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_is_no_answer_is_a_502_and_never_passed_on() {
    let texts = [
        "garbage\r\n\r\n",
        "\0\0\0\0\0\0\0\0\r\n\r\n",
        "200 OK\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "HTTP/1.1 \r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 abc OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 099 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 000 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 +20 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1  200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/2.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/3 200 OK\r\ncontent-length: 0\r\n\r\n",
        "http/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "ICY 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\na : 1\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\na\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: 1\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\na b: 1\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: \0\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: 1\rb: 2\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2, 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2x\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551618\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: cow\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, cow\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    ];
    let mut wrong = Vec::new();
    let large =
        format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(100_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x: 1\r\n".repeat(50_000));
    let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1_000);
    let endless = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000);
    for text in texts.map(str::to_owned).into_iter().chain([large, many, interim, endless]) {
        let said = text.clone();
        let backend = RawBackend::start(move |wire, _| say(wire, said.clone(), Then::Stay)).await;
        let proxy = start(Plan::http(&[backend.address])).await;
        for client in [H1, H2] {
            let sees = see(client, &proxy, "POST").await;
            if sees != INVALID {
                let short: String = text.chars().take(90).collect();
                wrong.push(format!("{client:?}: {short:?}: {sees:?}"));
            }
        }
        proxy.lifecycle.abort();
        proxy.ended().await;
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn answers_that_are_odd_but_clear_pass() {
    let mut wrong = Vec::new();
    for (text, body, then) in [
        ("HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", "ok", Then::Stay),
        ("HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok", "ok", Then::Stay),
        ("HTTP/1.1 200 Größe\r\ncontent-length: 2\r\n\r\nok", "ok", Then::Stay),
        ("HTTP/1.1 200 OK\r\nx: ä\r\ncontent-length: 2\r\n\r\nok", "ok", Then::Stay),
        ("HTTP/1.1 200 OK\r\ncontent-length: 002\r\n\r\nok", "ok", Then::Stay),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "ok",
            Then::Stay,
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\n\r\n",
            "ok",
            Then::Stay,
        ),
        ("HTTP/1.1 200 OK\r\n\r\nuntil it closes", "until it closes", Then::Close),
        ("HTTP/1.0 200 OK\r\n\r\nuntil it closes", "until it closes", Then::Close),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", "ok", Then::Close),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", "ok", Then::Close),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            "ok",
            Then::Stay,
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            "ok",
            Then::Stay,
        ),
        (
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            "ok",
            Then::Stay,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "", Then::Stay),
    ] {
        for client in [H1, H2] {
            let backend = RawBackend::start(move |wire, _| say(wire, text, then)).await;
            let proxy = start(Plan::http(&[backend.address])).await;
            let sees = see(client, &proxy, "POST").await;
            if sees != Whole(body) {
                wrong.push(format!("{client:?}: {text:?}: {sees:?}"));
            }
            proxy.lifecycle.abort();
            proxy.ended().await;
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_whole() {
    const LENGTH: &str = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello";
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    check(
        |plan| plan,
        H1,
        vec![
            fault("closes short of the length", Cut, |wire, _| {
                Box::pin(say(wire, LENGTH, Then::Close))
            }),
            fault("resets short of the length", Cut, |wire, _| {
                Box::pin(say(wire, LENGTH, Then::Reset))
            }),
            fault("closes after the head", Cut, |wire, _| {
                Box::pin(say(wire, &LENGTH[..LENGTH.len() - 5], Then::Close))
            }),
            fault("closes in a chunk", Cut, |wire, _| {
                Box::pin(say(wire, format!("{CHUNKED}9\r\nhello"), Then::Close))
            }),
            fault("closes after a chunk", Cut, |wire, _| {
                Box::pin(say(wire, format!("{CHUNKED}5\r\nhello\r\n"), Then::Close))
            }),
            fault("resets after a chunk", Cut, |wire, _| {
                Box::pin(say(wire, format!("{CHUNKED}5\r\nhello\r\n"), Then::Reset))
            }),
            fault("closes in a size", Cut, |wire, _| {
                Box::pin(say(wire, format!("{CHUNKED}5\r\nhello\r\n5"), Then::Close))
            }),
            fault("closes after the last chunk's size", Cut, |wire, _| {
                Box::pin(say(wire, format!("{CHUNKED}5\r\nhello\r\n0\r\n"), Then::Close))
            }),
            fault("closes in the trailers", Cut, |wire, _| {
                Box::pin(say(wire, format!("{CHUNKED}5\r\nhello\r\n0\r\nx: 1\r\n"), Then::Close))
            }),
            fault("a size that is none", Cut, |wire, _| {
                Box::pin(say(wire, format!("{CHUNKED}5\r\nhello\r\nzz\r\n"), Then::Stay))
            }),
            fault("data past its size", Cut, |wire, _| {
                Box::pin(say(wire, format!("{CHUNKED}5\r\nhelloworld\r\n0\r\n\r\n"), Then::Stay))
            }),
            fault("resets what would last until it closes", Cut, |wire, _| {
                Box::pin(say(wire, "HTTP/1.1 200 OK\r\n\r\nhello", Then::Reset))
            }),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_endpoint_that_stalls_runs_into_the_limit_that_was_set() {
    fn silent(wire: Wire, _: usize) -> Script {
        Box::pin(say(wire, "", Then::Stay))
    }
    fn stalls(wire: Wire, _: usize) -> Script {
        Box::pin(say(wire, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello", Then::Stay))
    }
    const SHORT: Duration = Duration::from_millis(150);
    check(
        |plan| plan.tune_route(|route| route.timeout = Some(SHORT)),
        H1,
        vec![
            fault("route timeout before the head", Local(504, "timeout"), silent),
            fault("route timeout in the body", Cut, stalls),
        ],
    )
    .await;
    check(
        |plan| plan.tune_route(|route| route.idle_timeout = Some(SHORT)),
        H1,
        vec![
            fault("idle timeout before the head", Local(504, "stream_idle"), silent),
            fault("idle timeout in the body", Cut, stalls),
        ],
    )
    .await;
    check(
        |plan| plan.tune_http(|http| http.stream_idle_timeout = Some(SHORT)),
        H1,
        vec![
            fault("the listener's idle timeout before the head", Local(504, "stream_idle"), silent),
            fault("the listener's idle timeout in the body", Cut, stalls),
        ],
    )
    .await;
}

/// An HTTP/2 endpoint that has read a request and sends these bytes, made of its stream's number.
async fn frames_for(wire: Wire, bytes: fn(u32) -> Vec<u8>, then: Then) {
    let Some(mut peer) = Peer::server(wire, &[]).await else { return };
    while let Some(stream) = peer.request().await {
        peer.send(bytes(stream)).await;
        match then {
            Then::Close => return,
            Then::Reset => {
                tokio::time::sleep(Duration::from_millis(30)).await;
                return peer.wire.reset();
            }
            Then::Stay => {}
        }
    }
}

fn head(id: u32) -> Vec<u8> {
    headers(id, false, &[(":status", "200")])
}

fn rst(id: u32, code: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, id, code.to_be_bytes())
}

macro_rules! h2_fault {
    ($name:literal, $sees:expr, $then:ident, $bytes:expr) => {
        fault($name, $sees, |wire, _| Box::pin(frames_for(wire, $bytes, Then::$then)))
    };
}

#[tokio::test]
async fn what_came_before_an_answer_broke_off_reaches_the_client() {
    for (head, body) in
        [("content-length: 100", "hello"), ("transfer-encoding: chunked", "5\r\nhello\r\n")]
    {
        for _ in 0..20 {
            let text = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
            let backend =
                RawBackend::start(move |wire, _| say(wire, text.clone(), Then::Close)).await;
            let proxy = start(Plan::http(&[backend.address])).await;
            let mut wire = Wire::connect(proxy.web()).await;
            wire.send("GET / HTTP/1.1\r\nhost: web.shop\r\n\r\n").await;
            // A client that takes its time to read.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let answer = wire.answer("GET").await;
            assert_eq!((answer.status(), &*answer.text(), answer.whole), (200, "hello", false));
            proxy.lifecycle.abort();
        }
    }
}

#[tokio::test]
async fn an_http2_endpoint_that_fails_before_its_answer_is_a_502() {
    check(
        |plan| plan,
        H2,
        vec![
            fault("closes at once", RESET, |wire, _| Box::pin(async { drop(wire) })),
            h2_fault!("closes", RESET, Close, |_| vec![]),
            h2_fault!("resets the connection", RESET, Reset, |_| vec![]),
            h2_fault!("closes in a frame", RESET, Close, |id| head(id)[..12].to_vec()),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_stream_that_an_endpoint_resets_is_named_so() {
    check(
        |plan| plan,
        H2,
        vec![
            h2_fault!("CANCEL", RESET, Stay, |id| rst(id, 8)),
            h2_fault!("INTERNAL_ERROR", RESET, Stay, |id| rst(id, 2)),
            h2_fault!("NO_ERROR", RESET, Stay, |id| rst(id, 0)),
            h2_fault!("a code nobody knows", RESET, Stay, |id| rst(id, 999)),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_broken_rule_of_http2_is_named_invalid() {
    check(
        |plan| plan,
        H2,
        vec![
            h2_fault!("HTTP/1.1", INVALID, Stay, |_| OK.into()),
            h2_fault!("a block that cannot be read", INVALID, Stay, |id| frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                id,
                [0x80]
            )),
            h2_fault!("a frame larger than allowed", INVALID, Stay, |id| frame(
                DATA,
                END_STREAM,
                id,
                vec![0; 1 << 20]
            )),
            h2_fault!("PUSH_PROMISE", INVALID, Stay, |id| frame(
                PUSH_PROMISE,
                END_HEADERS,
                id,
                [0, 0, 0, 2]
            )),
        ],
    )
    .await;
}

#[tokio::test]
async fn what_is_no_answer_in_http2_is_a_502_and_never_passed_on() {
    check(
        |plan| plan,
        H2,
        vec![
            h2_fault!("no status", INVALID, Stay, |id| headers(id, true, &[("x", "1")])),
            h2_fault!("a status that is none", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "abc")]
            )),
            h2_fault!("a status of two digits", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "20")]
            )),
            h2_fault!("an empty status", INVALID, Stay, |id| headers(id, true, &[(":status", "")])),
            h2_fault!("a status and a line", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200\r\nx: y")]
            )),
            h2_fault!("two of them", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200"), (":status", "200")]
            )),
            h2_fault!("101", INVALID, Stay, |id| headers(id, true, &[(":status", "101")])),
            h2_fault!("an interim answer that ends", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "103")]
            )),
            h2_fault!("a name in capitals", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200"), ("X", "1")]
            )),
            h2_fault!("a name with a line", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200"), ("x: 1\r\ny", "1")]
            )),
            h2_fault!("a value with CR LF", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200"), ("x", "1\r\nset-cookie: evil")]
            )),
            h2_fault!("a value with LF", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200"), ("x", "1\nset-cookie: evil")]
            )),
            h2_fault!("a value with NUL", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200"), ("x", "\0")]
            )),
            h2_fault!("connection", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200"), ("connection", "close")]
            )),
            h2_fault!("transfer-encoding", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200"), ("transfer-encoding", "chunked")]
            )),
            h2_fault!("a pseudo field of requests", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200"), (":path", "/")]
            )),
            h2_fault!("a pseudo field after others", INVALID, Stay, |id| headers(
                id,
                true,
                &[("x", "1"), (":status", "200")]
            )),
            h2_fault!("a length without a body", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200"), ("content-length", "5")]
            )),
            h2_fault!("two lengths", INVALID, Stay, |id| headers(
                id,
                true,
                &[(":status", "200"), ("content-length", "0"), ("content-length", "1")]
            )),
            h2_fault!("DATA first", INVALID, Stay, |id| frame(DATA, END_STREAM, id, "x")),
            h2_fault!("interim answers without end", INVALID, Stay, |id| headers(
                id,
                false,
                &[(":status", "103")]
            )
            .repeat(1000)),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_http2_body_that_breaks_off_is_never_whole() {
    fn length(id: u32) -> Vec<u8> {
        headers(id, false, &[(":status", "200"), ("content-length", "9")])
    }
    fn data(id: u32) -> Vec<u8> {
        frame(DATA, 0, id, "hello")
    }
    check(
        |plan| plan,
        H2,
        vec![
            h2_fault!("closes after the head", Cut, Close, head),
            h2_fault!("closes in the body", Cut, Close, |id| [head(id), data(id)].concat()),
            h2_fault!("resets the connection", Cut, Reset, |id| [head(id), data(id)].concat()),
            h2_fault!("closes in a frame", Cut, Close, |id| [head(id), data(id)[..11].to_vec()]
                .concat()),
            h2_fault!("INTERNAL_ERROR", Cut, Stay, |id| [head(id), data(id), rst(id, 2)].concat()),
            h2_fault!("CANCEL", Cut, Stay, |id| [head(id), data(id), rst(id, 8)].concat()),
            h2_fault!("NO_ERROR", Cut, Stay, |id| [head(id), data(id), rst(id, 0)].concat()),
            h2_fault!("REFUSED_STREAM after the head", Cut, Stay, |id| [
                head(id),
                data(id),
                rst(id, 7)
            ]
            .concat()),
            h2_fault!("ends short of its length", Cut, Stay, |id| {
                [length(id), frame(DATA, END_STREAM, id, "hello")].concat()
            }),
            h2_fault!("ends past its length", Cut, Stay, |id| {
                [length(id), frame(DATA, END_STREAM, id, "hello world")].concat()
            }),
            h2_fault!("trailers that do not end", Cut, Stay, |id| {
                [head(id), data(id), headers(id, false, &[("x", "1")])].concat()
            }),
            h2_fault!("a pseudo field as trailer", Cut, Stay, |id| {
                [head(id), data(id), headers(id, true, &[(":status", "200")])].concat()
            }),
            h2_fault!("trailers with CR LF", Cut, Stay, |id| {
                [head(id), data(id), headers(id, true, &[("x", "1\r\ny: 2")])].concat()
            }),
            h2_fault!("GOAWAY below the stream", Cut, Close, |id| {
                [head(id), data(id), frame(GOAWAY, 0, 0, [0, 0, 0, 0, 0, 0, 0, 2])].concat()
            }),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_http2_answer_that_ends_in_an_unusual_way_is_whole() {
    check(
        |plan| plan,
        H2,
        vec![
            h2_fault!("NO_ERROR after the end", Whole("hello"), Stay, |id| {
                [head(id), frame(DATA, END_STREAM, id, "hello"), rst(id, 0)].concat()
            }),
            h2_fault!("closes after the end", Whole("hello"), Close, |id| {
                [head(id), frame(DATA, END_STREAM, id, "hello")].concat()
            }),
            h2_fault!("GOAWAY and the end", Whole("hello"), Close, |id| {
                let mut last = id.to_be_bytes().to_vec();
                last.extend([0; 4]);
                [frame(GOAWAY, 0, 0, last), head(id), frame(DATA, END_STREAM, id, "hello")].concat()
            }),
            h2_fault!("GOAWAY for later and the end", Whole("hello"), Close, |id| {
                let last = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
                [frame(GOAWAY, 0, 0, last), head(id), frame(DATA, END_STREAM, id, "hello")].concat()
            }),
            h2_fault!("empty DATA", Whole("hello"), Stay, |id| {
                let empty = frame(DATA, 0, id, "");
                [head(id), empty.repeat(3), frame(DATA, 0, id, "hello"), frame(DATA, 1, id, "")]
                    .concat()
            }),
            h2_fault!("padding", Whole("hello"), Stay, |id| {
                [head(id), frame(DATA, PADDED | 1, id, "\x03hello\0\0\0")].concat()
            }),
            h2_fault!("interim answers", Whole("hello"), Stay, |id| {
                let hints = headers(id, false, &[(":status", "103"), ("link", "</a>")]);
                [hints, head(id), frame(DATA, 1, id, "hello")].concat()
            }),
            h2_fault!("frames of unknown type", Whole("hello"), Stay, |id| {
                [frame(99, 7, id, "x"), head(id), frame(99, 7, 0, "x"), frame(DATA, 1, id, "hello")]
                    .concat()
            }),
        ],
    )
    .await;
}

#[tokio::test]
async fn an_http2_endpoint_that_never_greets_runs_into_a_limit() {
    const SHORT: Duration = Duration::from_millis(150);
    check(
        |plan| plan.tune_route(|route| route.timeout = Some(SHORT)),
        H2,
        vec![
            fault("silent", Local(504, "timeout"), |mut wire, _| {
                Box::pin(async move {
                    wire.rest().await;
                })
            }),
            h2_fault!("answers SETTINGS alone", Local(504, "timeout"), Stay, |_| vec![]),
            h2_fault!("the head alone", Cut, Stay, head),
        ],
    )
    .await;
    check(
        |plan| plan.tune_http(|http| http.stream_idle_timeout = Some(SHORT)),
        H2,
        vec![
            h2_fault!("silent after SETTINGS", Local(504, "stream_idle"), Stay, |_| vec![]),
            h2_fault!("the head alone", Cut, Stay, head),
        ],
    )
    .await;
}

#[tokio::test]
async fn streams_a_goaway_leaves_unprocessed_are_sent_again_elsewhere() {
    // The first connection takes one stream and tells of the second that it will not be served.
    for client in [H1, H2] {
        let backend = RawBackend::start(|wire, n| async move {
            let Some(mut peer) = Peer::server(wire, &[]).await else { return };
            let mut streams = Vec::new();
            while let Some(stream) = peer.request().await {
                streams.push(stream);
                if n == 0 && streams.len() < 2 {
                    continue;
                }
                let last = streams[0];
                if n == 0 {
                    let mut payload = last.to_be_bytes().to_vec();
                    payload.extend([0; 4]);
                    peer.send(frame(GOAWAY, 0, 0, payload)).await;
                }
                let data = frame(DATA, END_STREAM, streams[0], format!("{n}"));
                peer.send([head(streams[0]), data].concat()).await;
                streams.clear();
            }
        })
        .await;
        let proxy = start(Plan::http2(&[backend.address])).await;
        let to = proxy.web();
        let ask = || fetch(client, to, request(client, "POST", "/", full("x")));
        let (one, two) = tokio::join!(ask(), ask());
        let mut texts = [one.text(), two.text()];
        texts.sort_unstable();
        assert_eq!(texts, ["0", "1"], "{client:?}");
        assert_eq!(ask().await.text(), "1", "the connection that said GOAWAY takes nothing more");
        assert_eq!(backend.connections(), 2);
        proxy.lifecycle.abort();
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_few_streams_serves_all_requests() {
    for bound in [1, 2, 5] {
        let backend = RawBackend::start(move |wire, _| async move {
            let Some(mut peer) = Peer::server(wire, &[(3, bound)]).await else { return };
            let mut open = Vec::new();
            while let Some(frame) = peer.read().await {
                if frame.kind == HEADERS {
                    open.push(frame.stream);
                    assert!(open.len() <= usize::try_from(bound).expect("small").max(100));
                }
                // Answered one by one, each after a turn.
                if let Some(stream) = open.pop() {
                    let data = self::frame(DATA, END_STREAM, stream, "ok");
                    peer.send([head(stream), data].concat()).await;
                }
            }
        })
        .await;
        let proxy = start(Plan::http2(&[backend.address])).await;
        let to = proxy.web();
        let all = (0..40).map(|_| fetch(H1, to, get(H1, "/")));
        for answer in futures_util::future::join_all(all).await {
            assert_eq!((answer.status, answer.text()), (200, "ok"), "bound {bound}");
        }
        proxy.lifecycle.abort();
    }
}

#[tokio::test]
async fn bytes_past_an_answer_are_for_nobody() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    for (method, first) in [
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
        ("GET", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"),
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 43\r\n\r\n"),
    ] {
        for late in [false, true] {
            for client in [H1, H2] {
                let backend = RawBackend::start(move |mut wire, n| async move {
                    while wire.request().await.is_some() {
                        if n > 0 {
                            wire.send(OK).await;
                            continue;
                        }
                        if late {
                            wire.send(first).await;
                            tokio::time::sleep(Duration::from_millis(30)).await;
                            wire.send(EVIL).await;
                        } else {
                            wire.send([first, EVIL].concat()).await;
                        }
                    }
                })
                .await;
                let proxy = start(Plan::http(&[backend.address])).await;
                let mut connection = Client::connect(client, proxy.web()).await;
                let response = connection.send(request(client, method, "/", empty())).await;
                collect(response).await;
                if late {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                for _ in 0..3 {
                    let answer = collect(connection.send(get(client, "/")).await).await;
                    let context = format!("{client:?} {method} late: {late} {first:?}");
                    assert_eq!((answer.status, answer.text()), (200, "ok"), "{context}");
                }
                assert_eq!(backend.connections(), 2, "{client:?} {method} {late} {first:?}");
                drop(connection);
                proxy.finish().await;
            }
        }
    }
}

#[tokio::test]
async fn an_answer_before_the_body_was_read_reaches_the_client() {
    let size = 20 << 20;
    let bytes = bytes::Bytes::from(vec![7; size]);
    for then in [Then::Close, Then::Stay] {
        for known in [true, false] {
            {
                let client = H2;
                let backend = RawBackend::start(move |mut wire, _| async move {
                    if wire.through(b"\r\n\r\n").await.is_none() {
                        return;
                    }
                    wire.send("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
                    if matches!(then, Then::Stay) {
                        // It keeps the connection and reads nothing.
                        std::future::pending::<()>().await;
                    }
                })
                .await;
                let proxy = start(Plan::http(&[backend.address])).await;
                let body = if known { full(bytes.clone()) } else { chunks([bytes.clone()], &[]) };
                let mut connection = Client::connect(client, proxy.web()).await;
                let answer = connection.try_send(request(client, "POST", "/", body)).await;
                let answer = answer.unwrap_or_else(|e| panic!("{client:?} {known}: {e:?}"));
                assert_eq!(answer.status(), 413, "{client:?}");
                assert_eq!(collect(answer).await.text(), "big", "{client:?} {known}");
                proxy.lifecycle.abort();
            }
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_resets_at_once_is_told_of_as_a_reset_or_a_failed_connection() {
    for upstream in [H1, H2] {
        for client in [H1, H2] {
            let backend = RawBackend::start(async |wire: Wire, _| wire.reset()).await;
            let proxy = start(Plan::http(&[backend.address]).speaking(upstream)).await;
            let sees = see(client, &proxy, "POST").await;
            let either = [RESET, Local(503, "connect_failed")];
            assert!(either.contains(&sees), "{client:?} {upstream:?}: {sees:?}");
            proxy.finish().await;
        }
    }
}

#[tokio::test]
async fn an_early_answer_reaches_an_http1_client_that_sends_on() {
    for then in [Then::Close, Then::Stay] {
        let backend = RawBackend::start(move |mut wire, _| async move {
            if wire.through(b"\r\n\r\n").await.is_none() {
                return;
            }
            wire.send("HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig").await;
            if matches!(then, Then::Stay) {
                std::future::pending::<()>().await;
            }
        })
        .await;
        let proxy = start(Plan::http(&[backend.address])).await;
        for _ in 0..5 {
            let mut wire = Wire::connect(proxy.web()).await;
            let length = 32 << 20;
            let head = "POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length";
            wire.send(format!("{head}: {length}\r\n\r\n")).await;
            // It looks for an answer only once all of it is sent.
            wire.send(vec![7; length]).await;
            let answer = wire.answer("POST").await;
            assert_eq!((answer.status(), &*answer.text()), (413, "big"));
        }
        proxy.lifecycle.abort();
    }
}

#[tokio::test]
async fn an_answer_framed_in_two_ways_never_reaches_a_client_so() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
    for lines in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 500",
        "x: 1\r\n 2\r\ntransfer-encoding: chunked",
        "x: 1\r\n\t2\r\ntransfer-encoding: chunked",
    ] {
        for client in [H1, H2] {
            let backend = RawBackend::start(move |mut wire, n| async move {
                while wire.request().await.is_some() {
                    let bad = format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
                    wire.send(if n == 0 { bad + EVIL } else { OK.to_owned() }).await;
                }
            })
            .await;
            let proxy = start(Plan::http(&[backend.address])).await;
            let mut connection = Client::connect(client, proxy.web()).await;
            let response = connection.send(request(client, "POST", "/", full("x"))).await;
            let (status, headers) = (response.status(), response.headers().clone());
            let both =
                headers.contains_key("content-length") && headers.contains_key("transfer-encoding");
            assert!(!both, "{client:?} {lines:?}: {headers:?}");
            let body = collect(response).await;
            assert!(status == 502 || body.text() == "ok", "{client:?} {lines:?}: {status}");
            for value in headers.values() {
                assert!(!value.as_bytes().contains(&b'\n'), "{client:?} {lines:?}");
            }
            for _ in 0..3 {
                let answer = fetch(client, proxy.web(), get(client, "/")).await;
                assert_eq!(answer.text(), "ok", "{client:?} {lines:?}: not what came unasked");
            }
            drop(connection);
            proxy.finish().await;
        }
    }
}
