//! The same requests over every pair of versions.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::kit::*;

const PAIRS: [(Version, Version); 4] = [(H1, H1), (H2, H1), (H1, H2), (H2, H2)];
const CHUNK: usize = 64 * 1024;
const BIG: usize = 5 * 1024 * 1024 + 13;

/// One request and what must come of it.
struct Case {
    name: &'static str,
    request: fn(Version) -> Request<Body>,
    status: u16,
    body: fn(&[u8]) -> bool,
    headers: &'static [(&'static str, &'static str)],
    trailers: &'static [(&'static str, &'static str)],
}

fn pattern(len: usize) -> Bytes {
    (0..len).map(|i| u8::try_from(i % 251).expect("below 251")).collect::<Vec<u8>>().into()
}

/// The pattern in pieces, as a body of unknown length.
fn pieces(trailers: &[(&'static str, &'static str)]) -> Body {
    let all = pattern(BIG);
    let ends = (0..BIG).step_by(CHUNK).map(|at| (at, (at + CHUNK).min(BIG)));
    let parts: Vec<Bytes> = ends.map(|(from, to)| all.slice(from..to)).collect();
    chunks(parts, trailers)
}

fn with(mut request: Request<Body>, headers: &[(&'static str, &'static str)]) -> Request<Body> {
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().expect("a value"));
    }
    request
}

const CASES: &[Case] = &[
    Case {
        name: "a GET and what the endpoint sees of it",
        request: |v| with(get(v, "/seen?q=1"), &[("x-kept", "yes"), ("cookie", "a=1")]),
        status: 200,
        body: |b| {
            let text = String::from_utf8_lossy(b);
            text.starts_with("GET /seen?q=1 web.shop\n")
                && text.contains("x-kept: yes\n")
                && text.contains("cookie: a=1\n")
                && text.contains("x-forwarded-for: 127.0.0.1\n")
                && text.contains("x-forwarded-proto: http\n")
                && !text.contains("transfer-encoding")
                && !text.contains("content-length")
        },
        headers: &[("x-answer", "42")],
        trailers: &[],
    },
    Case {
        name: "a body with a length, both ways",
        request: |v| request(v, "POST", "/echo", full(pattern(BIG))),
        status: 200,
        body: |b| b == pattern(BIG),
        headers: &[],
        trailers: &[],
    },
    Case {
        name: "a body in chunks, both ways",
        request: |v| request(v, "POST", "/echo", pieces(&[])),
        status: 200,
        body: |b| b == pattern(BIG),
        headers: &[],
        trailers: &[],
    },
    Case {
        name: "an empty POST",
        request: |v| request(v, "POST", "/echo", empty()),
        status: 200,
        body: <[u8]>::is_empty,
        headers: &[],
        trailers: &[],
    },
    Case {
        name: "a request's trailers",
        request: |v| {
            let request = request(v, "POST", "/trailers-seen", pieces(&[("x-sum", "9")]));
            with(request, &[("trailer", "x-sum")])
        },
        status: 200,
        body: |b| b == b"9",
        headers: &[],
        trailers: &[],
    },
    Case {
        name: "a response's trailers",
        request: |v| with(get(v, "/trailers"), &[("te", "trailers")]),
        status: 200,
        body: |b| b == b"ab",
        headers: &[],
        trailers: &[("x-end", "ok")],
    },
    Case {
        name: "HEAD keeps the length and has no body",
        request: |v| request(v, "HEAD", "/length", empty()),
        status: 200,
        body: <[u8]>::is_empty,
        headers: &[("content-length", "10")],
        trailers: &[],
    },
    Case {
        name: "204",
        request: |v| get(v, "/status/204"),
        status: 204,
        body: <[u8]>::is_empty,
        headers: &[],
        trailers: &[],
    },
    Case {
        name: "304",
        request: |v| get(v, "/status/304"),
        status: 304,
        body: <[u8]>::is_empty,
        headers: &[],
        trailers: &[],
    },
    Case {
        name: "a status of the endpoint's own",
        request: |v| get(v, "/status/503"),
        status: 503,
        body: <[u8]>::is_empty,
        headers: &[("x-portolan-reason", "")],
        trailers: &[],
    },
    Case {
        name: "Expect: 100-continue",
        request: |v| {
            with(request(v, "POST", "/echo", full(pattern(99))), &[("expect", "100-continue")])
        },
        status: 200,
        body: |b| b == pattern(99),
        headers: &[],
        trailers: &[],
    },
];

async fn script(request: Request<Incoming>, _n: usize) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if let Some(status) = path.strip_prefix("/status/") {
        return respond(status.parse().expect("a status"), empty());
    }
    match &*path {
        "/echo" => Response::new(request.into_body().boxed_unsync()),
        "/trailers" => {
            let mut response =
                Response::new(chunks([Bytes::from("a"), Bytes::from("b")], &[("x-end", "ok")]));
            response.headers_mut().insert("trailer", "x-end".parse().expect("a value"));
            response
        }
        "/trailers-seen" => {
            let body = request.into_body().collect().await.expect("a whole body");
            let sum = body.trailers().and_then(|t| t.get("x-sum")).cloned();
            respond(200, full(sum.map_or_else(Bytes::new, |v| v.as_bytes().to_vec().into())))
        }
        "/length" => {
            // hyper's HTTP/2 server leaves it to the service that HEAD has no body.
            let mut response = respond(200, empty());
            response.headers_mut().insert("content-length", "10".parse().expect("a value"));
            response
        }
        _ => seen(&request),
    }
}

/// What arrived, as text.
fn seen(request: &Request<Incoming>) -> Response<Body> {
    let authority = request.uri().authority().map(ToString::to_string);
    let host = request.headers().get("host").map(|h| h.to_str().expect("text").to_owned());
    let target = request.uri().path_and_query().expect("a path");
    let who = authority.or(host).unwrap_or_default();
    let mut text = format!("{} {target} {who}\n", request.method());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\n", value.to_str().expect("text")));
    }
    let mut response = respond(200, full(text));
    response.headers_mut().insert("x-answer", "42".parse().expect("a value"));
    response.headers_mut().insert("x-hop", "1".parse().expect("a value"));
    response
}

fn plan(upstream: Version, backend: &Backend) -> Plan {
    match upstream {
        H1 => Plan::http(&[backend.address]),
        H2 => Plan::http2(&[backend.address]),
    }
}

#[tokio::test]
async fn every_case_passes_over_every_pair_of_versions() {
    for (client, upstream) in PAIRS {
        let backend = Backend::start(upstream, script).await;
        let proxy = start(plan(upstream, &backend)).await;
        // All on one connection: what a case leaves behind would spoil the next one.
        let mut connection = Client::connect(client, proxy.web()).await;
        for case in CASES {
            let context = format!("{client:?} -> {upstream:?}: {}", case.name);
            let response = connection.try_send((case.request)(client)).await;
            let response = response.unwrap_or_else(|e| panic!("{context}: {e:?}"));
            let response = collect(response).await;
            assert_eq!(response.status, case.status, "{context}: {:?}", response.headers);
            assert!((case.body)(&response.body), "{context}: {} bytes", response.body.len());
            for (name, value) in case.headers {
                assert_eq!(response.header(name), *value, "{context}: {name}");
            }
            for (name, value) in case.trailers {
                let trailers = response.trailers.as_ref().and_then(|t| t.get(*name));
                assert_eq!(trailers.map(|v| v.as_bytes()), Some(value.as_bytes()), "{context}");
            }
            assert_eq!(backend.connections(), 1, "{context}: the connection was not kept");
        }
        drop(connection);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_response_may_come_before_the_request_has_ended() {
    for (client, upstream) in PAIRS {
        let early = async |_: Request<Incoming>, _| respond(413, full("too much"));
        let backend = Backend::start(upstream, early).await;
        let proxy = start(plan(upstream, &backend)).await;
        let (feed, body) = fed();
        let mut connection = Client::connect(client, proxy.web()).await;
        let response = connection.send(request(client, "POST", "/", body)).await;
        let response = collect(response).await;
        assert_eq!((response.status, response.text()), (413, "too much"));
        drop(feed);
        drop(connection);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn both_bodies_stream_at_the_same_time() {
    for (client, upstream) in PAIRS {
        let echo = async |r: Request<Incoming>, _| Response::new(r.into_body().boxed_unsync());
        let backend = Backend::start(upstream, echo).await;
        let proxy = start(plan(upstream, &backend)).await;
        let (feed, body) = fed();
        let mut connection = Client::connect(client, proxy.web()).await;
        let response = connection.send(request(client, "POST", "/", body)).await;
        let mut answer = response.into_body();
        for word in ["one", "two", "three"] {
            feed.send(Bytes::from(word)).await.expect("the body is read");
            let frame = soon("the echo", answer.frame()).await.expect("a frame").expect("sound");
            assert_eq!(frame.into_data().expect("data"), word, "{client:?} -> {upstream:?}");
        }
        drop(feed);
        let rest = soon("the end", answer.collect()).await.expect("a whole body");
        assert!(rest.to_bytes().is_empty(), "{client:?} -> {upstream:?}");
        drop(connection);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn what_belongs_to_a_connection_stays_on_it() {
    let backend = Backend::start(H1, async |r: Request<Incoming>, _| {
        let mut response = seen(&r);
        response.headers_mut().insert("connection", "x-hop".parse().expect("a value"));
        response
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let request = with(
        get(H1, "/"),
        &[("connection", "x-mine"), ("x-mine", "1"), ("keep-alive", "9"), ("x-kept", "1")],
    );
    let response = fetch(H1, proxy.web(), request).await;
    assert!(response.text().contains("x-kept") && !response.text().contains("x-mine"));
    assert!(!response.text().contains("keep-alive"), "{}", response.text());
    assert_eq!((response.header("x-hop"), response.header("x-answer")), ("", "42"));
    proxy.finish().await;
}
