//! Answers the proxy makes itself: their reasons, and their form for gRPC and for others.

use std::net::SocketAddr;
use std::time::Duration;

use http::Request;

use super::kit::*;

fn as_grpc(mut request: Request<Body>) -> Request<Body> {
    let kind = "application/grpc".parse().expect("a value");
    request.headers_mut().insert("content-type", kind);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_local_answer_says_why_and_is_counted() {
    let slow = async |_: Request<_>, _| std::future::pending().await;
    let slow_h1 = Backend::start(H1, slow).await;
    let slow_h2 = Backend::start(H2, slow).await;
    let timed = |address| Plan::http(&[address]).route("/", Some(Duration::from_millis(50)));
    let down = down();
    let no_cluster = {
        let mut plan = Plan::http(&[]);
        plan.0.clusters.remove("web");
        plan
    };
    let at = |address: SocketAddr| Plan::http(&[address]);
    for (plan, grpc_plan, reason, status, grpc_status) in [
        (at(down).route("/other", None), None, "no_route", 404, "12"),
        (no_cluster, None, "no_cluster", 503, "14"),
        (Plan::http(&[]), None, "no_endpoints", 503, "14"),
        (at(down), None, "connect_failed", 503, "14"),
        (timed(slow_h1.address), Some(timed(slow_h2.address)), "timeout", 504, "4"),
    ] {
        let grpc_plan = grpc_plan.unwrap_or_else(|| plan.clone());
        let counter = format!("portolan_proxy_local_answers_total{{reason=\"{reason}\"}}");

        let proxy = start(plan).await;
        let response = fetch(H1, proxy.web(), get(H1, "/x")).await;
        assert_eq!(response.status, status, "{reason}");
        assert_eq!(response.header("x-portolan-reason"), reason);
        assert!(response.text().starts_with("web.shop"), "{}", response.text());
        assert_eq!(proxy.metric(&counter), 1, "{reason}");
        let response = fetch(H2, proxy.web(), request(H2, "HEAD", "/x", empty())).await;
        assert_eq!((response.status, response.text()), (status, ""), "{reason}");
        proxy.finish().await;

        let proxy = start(grpc_plan).await;
        let call = as_grpc(request(H2, "POST", "/x", empty()));
        let response = fetch(H2, proxy.web(), call).await;
        assert_eq!(response.status, 200, "{reason}");
        assert_eq!(response.header("content-type"), "application/grpc");
        assert_eq!(response.header("grpc-status"), grpc_status, "{reason}");
        assert!(response.header("grpc-message").starts_with("web.shop"));
        assert_eq!(response.header("x-portolan-reason"), reason);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn grpc_goes_over_http2_whatever_the_cluster_says_and_keeps_its_trailers() {
    let backend = Backend::start(H2, async |request: Request<_>, _| {
        let te = request.headers().get("te").map(|v| v.as_bytes().to_vec());
        assert_eq!(te.as_deref(), Some(&b"trailers"[..]));
        chunked_with_status()
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut call = as_grpc(request(H2, "POST", "/pkg.Service/Call", full("hi")));
    call.headers_mut().insert("te", "trailers".parse().expect("a value"));
    let response = fetch(H2, proxy.web(), call).await;
    let trailers = response.trailers.expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(&response.body[..], b"hello");
    proxy.finish().await;
}

fn chunked_with_status() -> http::Response<Body> {
    respond(200, chunks([bytes::Bytes::from("hello")], &[("grpc-status", "0")]))
}

#[tokio::test]
async fn a_grpc_stream_past_its_time_ends_with_a_status() {
    let (feed, backend) = fed_backend(H2).await;
    let plan = Plan::http(&[backend.address]).route("/", Some(Duration::from_millis(100)));
    let proxy = start(plan).await;
    feed.send("part".into()).await.expect("room");
    let response = fetch(H2, proxy.web(), as_grpc(request(H2, "POST", "/x", empty()))).await;
    assert_eq!(&response.body[..], b"part");
    assert_eq!(response.trailers.expect("trailers")["grpc-status"], "4");
    proxy.finish().await;
}

#[tokio::test]
async fn requests_that_cannot_be_forwarded_are_refused_by_name() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let backend = Backend::named(H1, "a").await;
    let proxy = start(Plan::http(&[backend.address])).await;
    for (head, status, reason) in [
        ("GET / HTTP/1.1\r\n", "400", "bad_request"),
        ("GET / HTTP/1.1\r\nhost: web.shop\r\nhost: web.shop\r\n", "400", "bad_request"),
        (
            "POST / HTTP/1.1\r\nhost: web.shop\r\ntransfer-encoding: gzip, chunked\r\n",
            "501",
            "transfer_coding",
        ),
        ("CONNECT web.shop:80 HTTP/1.1\r\nhost: web.shop\r\n", "405", "method"),
        (
            "GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade: other\r\n",
            "501",
            "upgrade",
        ),
    ] {
        let mut stream = tokio::net::TcpStream::connect(proxy.web()).await.expect("accepted");
        // A byte at a time: detection must neither stall nor lose one.
        for byte in head.as_bytes().iter().chain(b"connection: close\r\n\r\n") {
            stream.write_all(&[*byte]).await.expect("written");
        }
        let mut text = String::new();
        soon(head, stream.read_to_string(&mut text)).await.expect("read");
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {text}");
        assert!(text.contains(&format!("x-portolan-reason: {reason}\r\n")), "{head}: {text}");
    }
    assert_eq!(backend.requests(), 0);
    proxy.finish().await;
}

#[tokio::test]
async fn a_worker_with_as_many_requests_as_it_takes_says_so() {
    let (gate, backend) = gated_backend(H1).await;
    let proxy = start_with(Plan::http(&[backend.address]), |c| c.max_requests = 1).await;
    let mut first = Client::connect(H1, proxy.web()).await;
    let held = async {
        let response = collect(first.send(get(H1, "/")).await).await;
        assert_eq!(response.text(), "done");
    };
    let other = async {
        until("the first request", || backend.requests() == 1).await;
        let response = fetch(H1, proxy.web(), get(H1, "/")).await;
        assert_eq!((response.status, response.header("x-portolan-reason")), (503, "overloaded"));
        gate.send_replace(true);
    };
    tokio::join!(held, other);
    proxy.finish().await;
}
