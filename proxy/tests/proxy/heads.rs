//! Heads on their way through, over every pair of versions: what is kept, what is added, what stays
//! on its connection, and how large they may be.

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::kit::*;
use super::raw::*;

const PAIRS: [(Version, Version); 4] = [(H1, H1), (H2, H1), (H1, H2), (H2, H2)];

/// Answers with the head it saw, one field a line.
async fn show(request: Request<Incoming>, _n: usize) -> Response<Body> {
    let mut text =
        format!("{} {}\n", request.method(), request.uri().path_and_query().expect("a path"));
    if let Some(authority) = request.uri().authority() {
        text.push_str(&format!(":authority: {authority}\n"));
    }
    let mut text = text.into_bytes();
    for (name, value) in request.headers() {
        text.extend(name.as_str().as_bytes());
        text.extend(b": ");
        text.extend(value.as_bytes());
        text.push(b'\n');
    }
    respond(200, full(text))
}

/// What a request must look like to the endpoint.
struct Case {
    name: &'static str,
    sent: &'static [(&'static str, &'static str)],
    seen: &'static [&'static str],
    unseen: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "duplicates keep their order",
        sent: &[("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("x-a", "")],
        seen: &["x-a: 1\nx-a: 3\nx-a: \n", "x-b: 2\n"],
        unseen: &[],
    },
    Case {
        name: "bytes beyond ASCII",
        sent: &[("x-a", "größe"), ("x-b", "a\tb"), ("x-c", "日本")],
        seen: &["x-a: größe\n", "x-b: a\tb\n", "x-c: 日本\n"],
        unseen: &[],
    },
    Case {
        name: "cookies",
        sent: &[("cookie", "a=1; b=2"), ("cookie", "c=3")],
        seen: &["cookie: a=1; b=2; c=3\n"],
        unseen: &[],
    },
    Case {
        name: "who asked",
        sent: &[],
        seen: &[
            "x-forwarded-for: 127.0.0.1\n",
            "x-forwarded-proto: http\n",
            "x-forwarded-host: web.shop\n",
            "x-request-id: ",
            "via: ",
        ],
        unseen: &[],
    },
    Case {
        name: "who asked those before",
        sent: &[
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "outer"),
            ("via", "1.0 fred"),
            ("x-request-id", "mine-1"),
        ],
        seen: &[
            "x-forwarded-for: 1.1.1.1, 127.0.0.1\n",
            "x-forwarded-proto: https\n",
            "x-forwarded-host: outer\n",
            "via: 1.0 fred, ",
            "x-request-id: mine-1\n",
        ],
        unseen: &[],
    },
    Case {
        name: "an id that could not stand in a log",
        sent: &[("x-request-id", "a b")],
        seen: &["x-request-id: "],
        unseen: &["x-request-id: a b\n"],
    },
    Case {
        name: "what is the endpoint's to read",
        sent: &[
            ("authorization", "Basic eDp5"),
            ("accept-encoding", "gzip"),
            ("range", "bytes=0-1"),
            ("if-none-match", "\"a\""),
            ("forwarded", "for=1.1.1.1"),
            ("max-forwards", "3"),
            ("proxy-authorization", "Basic x"),
        ],
        seen: &[
            "authorization: Basic eDp5\n",
            "accept-encoding: gzip\n",
            "range: bytes=0-1\n",
            "if-none-match: \"a\"\n",
            "forwarded: for=1.1.1.1\n",
        ],
        unseen: &["content-length", "transfer-encoding"],
    },
];

fn plan(upstream: Version, backend: &Backend) -> Plan {
    Plan::http(&[backend.address]).speaking(upstream)
}

#[tokio::test]
async fn an_endpoint_sees_what_it_must_of_a_request() {
    let mut wrong = Vec::new();
    for (client, upstream) in PAIRS {
        let backend = Backend::start(upstream, show).await;
        let proxy = start(plan(upstream, &backend)).await;
        let mut connection = Client::connect(client, proxy.web()).await;
        for case in CASES {
            let mut request = get(client, "/a?b=c&d");
            for (name, value) in case.sent {
                let value = http::HeaderValue::from_bytes(value.as_bytes()).expect("a value");
                request.headers_mut().append(*name, value);
            }
            let answer = collect(connection.send(request).await).await;
            let text = answer.text();
            let context = format!("{client:?} -> {upstream:?}: {}", case.name);
            let host = match upstream {
                H1 => "host: web.shop\n",
                H2 => ":authority: web.shop\n",
            };
            if !text.starts_with("GET /a?b=c&d\n") || !text.contains(host) {
                wrong.push(format!("{context}: {text}"));
            }
            for line in case.seen {
                if !text.contains(line) {
                    wrong.push(format!("{context}: no {line:?} in\n{text}"));
                }
            }
            for line in case.unseen {
                if text.contains(line) {
                    wrong.push(format!("{context}: {line:?} in\n{text}"));
                }
            }
        }
        drop(connection);
        proxy.finish().await;
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn what_an_untrusted_client_says_of_itself_is_not_believed() {
    let backend = Backend::start(H1, show).await;
    let plan = Plan::http(&[backend.address]).tune_http(|http| http.trust_forwarded = false);
    let proxy = start(plan).await;
    let mut asked = get(H1, "/");
    for (name, value) in [("x-forwarded-proto", "https"), ("x-forwarded-host", "evil")] {
        asked.headers_mut().append(name, value.parse().expect("a value"));
    }
    let answer = fetch(H1, proxy.web(), asked).await;
    assert!(answer.text().contains("x-forwarded-proto: http\n"), "{}", answer.text());
    assert!(answer.text().contains("x-forwarded-host: web.shop\n"), "{}", answer.text());
    assert!(!answer.text().contains("evil"), "{}", answer.text());
    proxy.finish().await;
}

#[tokio::test]
async fn of_several_ids_one_is_kept() {
    let backend = Backend::start(H1, show).await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut asked = get(H1, "/");
    for id in ["one", "two"] {
        asked.headers_mut().append("x-request-id", id.parse().expect("a value"));
    }
    let answer = fetch(H1, proxy.web(), asked).await;
    assert_eq!(answer.text().matches("x-request-id").count(), 1, "{}", answer.text());
    proxy.finish().await;
}

#[tokio::test]
async fn ids_that_are_made_differ() {
    let backend = Backend::start(H1, show).await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut ids = std::collections::BTreeSet::new();
    let mut connection = Client::connect(H1, proxy.web()).await;
    for _ in 0..50 {
        let answer = collect(connection.send(get(H1, "/")).await).await;
        let id = answer.text().lines().find_map(|line| line.strip_prefix("x-request-id: "));
        let id = id.expect("an id").to_owned();
        assert_eq!(id.len(), 36, "{id}");
        assert!(ids.insert(id));
    }
    drop(connection);
    proxy.finish().await;
}

#[tokio::test]
async fn the_names_of_an_http1_head_keep_their_case_and_order() {
    let tap = Tap::start(|_| {
        b"HTTP/1.1 200 OK\r\nX-One: 1\r\nSet-Cookie: a=1\r\nx-two: 2\r\nSet-Cookie: b=2\r\n\
          Content-Length: 0\r\n\r\n"
            .to_vec()
    })
    .await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send("GET / HTTP/1.1\r\nX-B: 1\r\nHost: web.shop\r\nx-a: 2\r\nX-B: 3\r\n\r\n").await;
    let answer = wire.answer("GET").await;
    let kept = |head: &str| {
        let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let ours = |n: &str| {
            n.to_lowercase().starts_with("x-")
                && !n.contains("forwarded")
                && !n.contains("request-id")
        };
        lines
            .filter(|(n, _)| ours(n) || n.eq_ignore_ascii_case("set-cookie"))
            .map(|(n, v)| format!("{}:{v}", n.to_lowercase()))
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(&tap.whole()[0].head), ["x-b: 1", "x-a: 2", "x-b: 3"]);
    assert_eq!(kept(&answer.head), ["x-one: 1", "set-cookie: a=1", "x-two: 2", "set-cookie: b=2"]);
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn hop_by_hop_fields_stay_on_their_connection_both_ways() {
    let tap = Tap::start(|_| {
        b"HTTP/1.1 200 OK\r\nconnection: X-Hop, keep-alive\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\
          proxy-connection: keep-alive\r\nte: x\r\nupgrade: h2c\r\ntransfer-encoding: chunked\r\n\
          trailer: x-end\r\nx-kept: 1\r\nserver: them\r\ndate: then\r\n\r\n2\r\nok\r\n0\r\nx-end: 1\r\n\r\n"
            .to_vec()
    })
    .await;
    let proxy = start(Plan::http(&[tap.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send(
        "GET / HTTP/1.1\r\nhost: web.shop\r\nConnection: keep-alive, X-Mine\r\nx-mine: 1\r\n\
         keep-alive: 5\r\nproxy-connection: keep-alive\r\nte: trailers, gzip\r\nx-kept: 1\r\n\r\n",
    )
    .await;
    let answer = wire.answer("GET").await;
    let seen = &tap.whole()[0];
    for (message, names) in [
        (&answer, vec!["x-hop", "keep-alive", "proxy-connection", "te", "upgrade"]),
        (seen, vec!["x-mine", "keep-alive", "proxy-connection", "transfer-encoding"]),
    ] {
        for name in names {
            assert!(message.all(name).is_empty(), "{name}: {}", message.head);
        }
        assert_eq!(message.field("x-kept"), "1");
    }
    assert_eq!((answer.field("server"), answer.field("date")), ("them", "then"));
    assert!(!answer.field("connection").contains("X-Hop"), "{}", answer.head);
    assert_eq!(seen.field("te"), "trailers", "{}", seen.head);
    assert_eq!(answer.trailers, "x-end: 1\r\n");
    for version in [H1, H2] {
        let answer = fetch(version, proxy.web(), get(version, "/")).await;
        assert_eq!((answer.text(), answer.header("x-kept")), ("ok", "1"));
        assert_eq!(answer.header("x-hop"), "");
    }
    drop(wire);
    proxy.finish().await;
}

#[tokio::test]
async fn a_head_is_taken_to_its_limit_and_not_beyond() {
    for (client, upstream) in PAIRS {
        let backend = Backend::start(upstream, async |r: Request<Incoming>, _| {
            let size = r
                .headers()
                .get("x-answer")
                .map_or(0, |v| v.to_str().expect("text").parse().expect("a number"));
            let mut response = respond(200, full("ok"));
            let value = "x".repeat(size).parse().expect("a value");
            response.headers_mut().insert("x-large", value);
            response
        })
        .await;
        let proxy = start_with(plan(upstream, &backend), |c| c.max_header_bytes = 16 * 1024).await;
        let mut connection = Client::connect(client, proxy.web()).await;
        for (sent, answered, status, reason) in [
            (12_000, 0, 200, ""),
            (0, 12_000, 200, ""),
            (20_000, 0, 431, "head_too_large"),
            (0, 20_000, 502, "upstream_invalid"),
            (0, 0, 200, ""),
        ] {
            let mut asked = get(client, "/");
            let headers = asked.headers_mut();
            headers.insert("x-sent", "x".repeat(sent).parse().expect("a value"));
            headers.insert("x-answer", answered.to_string().parse().expect("a value"));
            if status == 431 && client == H1 {
                // It costs the connection.
                let answer = fetch(client, proxy.web(), asked).await;
                assert_eq!(answer.status, status);
                continue;
            }
            let context = format!("{client:?} -> {upstream:?}: {sent} and {answered} bytes");
            let answer = connection.try_send(asked).await;
            let answer = collect(answer.unwrap_or_else(|e| panic!("{context}: {e:?}"))).await;
            assert_eq!(answer.status, status, "{context}");
            // The HTTP/2 engine refuses by itself; see `a_head_that_is_too_large_is_counted`.
            if status != 431 {
                assert_eq!(answer.header("x-portolan-reason"), reason, "{context}");
            }
        }
        drop(connection);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_counted_in_both_versions() {
    for client in [H1, H2] {
        let backend = Backend::start(H1, show).await;
        let plan = Plan::http(&[backend.address]);
        let proxy = start_with(plan, |c| c.max_header_bytes = 16 * 1024).await;
        let mut asked = get(client, "/");
        asked.headers_mut().insert("x-sent", "x".repeat(20_000).parse().expect("a value"));
        let answer = fetch(client, proxy.web(), asked).await;
        let reason = answer.header("x-portolan-reason");
        assert_eq!((answer.status, reason), (431, "head_too_large"), "{client:?}");
        let counter = "portolan_proxy_local_answers_total{reason=\"head_too_large\"}";
        assert_eq!(proxy.metric(counter), 1, "{client:?}");
        let class = "portolan_proxy_requests_total{listener=\"web\",class=\"4xx\"}";
        assert_eq!(proxy.metric(class), 1, "{client:?}");
        proxy.finish().await;
    }
}

#[tokio::test]
async fn eighty_fields_pass_both_ways() {
    for (client, upstream) in PAIRS {
        let backend = Backend::start(upstream, async |r: Request<Incoming>, _| {
            let count = r.headers().keys().filter(|n| n.as_str().starts_with("x-n-")).count();
            let mut response = respond(200, full(count.to_string()));
            for i in 0..80 {
                let name = format!("x-n-{i}").parse::<http::HeaderName>().expect("a name");
                response.headers_mut().insert(name, i.into());
            }
            response
        })
        .await;
        let proxy = start(plan(upstream, &backend)).await;
        let mut asked = get(client, "/");
        for i in 0..80 {
            let name = format!("x-n-{i}").parse::<http::HeaderName>().expect("a name");
            asked.headers_mut().insert(name, i.into());
        }
        let answer = fetch(client, proxy.web(), asked).await;
        assert_eq!(answer.text(), "80", "{client:?} -> {upstream:?}");
        let back = answer.headers.keys().filter(|n| n.as_str().starts_with("x-n-")).count();
        assert_eq!(back, 80, "{client:?} -> {upstream:?}");
        proxy.finish().await;
    }
}

#[tokio::test]
async fn every_method_passes_with_and_without_a_body() {
    for (client, upstream) in PAIRS {
        let backend = Backend::start(upstream, async |r: Request<Incoming>, _| {
            let method = r.method().to_string();
            let length = r.headers().get("content-length").cloned();
            let coded = r.headers().contains_key("transfer-encoding");
            let body = r.into_body().collect().await.expect("a whole body").to_bytes();
            let mut response = respond(200, empty());
            if method != "HEAD" {
                *response.body_mut() = full(format!("{method} {}", body.len()));
            }
            let value = format!("{length:?} {coded}").parse().expect("a value");
            response.headers_mut().insert("x-framed", value);
            response
        })
        .await;
        let proxy = start(plan(upstream, &backend)).await;
        let mut connection = Client::connect(client, proxy.web()).await;
        for method in
            ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND"]
        {
            for size in [None, Some(0_usize), Some(1), Some(100_000)] {
                let body = size.map_or_else(empty, |n| full(vec![7; n]));
                let mut asked = request(client, method, "/", body);
                if size == Some(0) {
                    asked.headers_mut().insert("content-length", 0.into());
                }
                let answer = collect(connection.send(asked).await).await;
                let context = format!("{client:?} -> {upstream:?} {method} {size:?}");
                assert_eq!(answer.status, 200, "{context}");
                if method != "HEAD" {
                    let expected = format!("{method} {}", size.unwrap_or(0));
                    assert_eq!(answer.text(), expected, "{context}");
                }
                // A known length stays known.
                if let Some(size) = size.filter(|size| *size > 0) {
                    let framed = answer.header("x-framed");
                    assert_eq!(framed, format!("Some(\"{size}\") false"), "{context}");
                } else {
                    assert!(answer.header("x-framed").ends_with("false"), "{context}");
                }
            }
        }
        assert_eq!(backend.connections(), 1);
        drop(connection);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_over_every_pair() {
    for (client, upstream) in PAIRS {
        let backend = Backend::start(upstream, async |r: Request<Incoming>, _| {
            let te = r.headers().get("te").map(|v| v.to_str().expect("text").to_owned());
            let body = r.into_body().collect().await.expect("a whole body");
            let sum = body.trailers().and_then(|t| t.get("x-sum")).cloned();
            let text = format!("{sum:?} {te:?}");
            let chunk = bytes::Bytes::from(text);
            let mut response = respond(200, chunks([chunk], &[("x-end", "1"), ("x-more", "2")]));
            response.headers_mut().insert("trailer", "x-end, x-more".parse().expect("a value"));
            response
        })
        .await;
        let proxy = start(plan(upstream, &backend)).await;
        for wants in [true, false] {
            let body = chunks([bytes::Bytes::from("a")], &[("x-sum", "9")]);
            let mut asked = request(client, "POST", "/", body);
            asked.headers_mut().insert("trailer", "x-sum".parse().expect("a value"));
            if wants {
                asked.headers_mut().insert("te", "trailers".parse().expect("a value"));
            }
            let answer = fetch(client, proxy.web(), asked).await;
            let context = format!("{client:?} -> {upstream:?}, te: {wants}");
            let te = wants.then_some("trailers");
            if wants || upstream == H1 {
                assert_eq!(answer.text(), format!("Some(\"9\") {te:?}"), "{context}");
            }
            let end = answer.trailers.as_ref().and_then(|t| t.get("x-end"));
            if wants || (client, upstream) == (H2, H2) {
                assert_eq!(end.map(|v| v.as_bytes()), Some(&b"1"[..]), "{context}");
            }
        }
        proxy.finish().await;
    }
}
