//! A service whose endpoints are all replaced, as Kubernetes replaces them, under load of every
//! kind: not one request fails.
//!
//! An endpoint that ends is first taken out of the set, goes on serving for a while, then shuts
//! down gracefully (HTTP/1.1 `connection: close`, HTTP/2 GOAWAY), then is gone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::kit::*;
use super::raw::*;

const ROUNDS: usize = 10;
const ENDPOINTS: usize = 3;
/// How long an endpoint that was taken out goes on serving.
const GRACE: Duration = Duration::from_millis(60);

/// Answers with what it was sent; `/stream` in parts over a while.
async fn serve(request: Request<Incoming>, _n: usize) -> Response<Body> {
    let grpc = request.headers().contains_key("grpc-timeout") || request.uri().path() == "/stream";
    if request.uri().path() == "/stream" {
        let body = paced("part".into(), 10, Duration::from_millis(5), || {});
        let frames = body.into_data_stream().map(|part| Ok(http_body::Frame::data(part?)));
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let end = futures_util::stream::iter([Ok(http_body::Frame::trailers(trailers))]);
        return respond(200, http_body_util::StreamBody::new(frames.chain(end)).boxed_unsync());
    }
    let body = request.into_body().collect().await.expect("a whole body").to_bytes();
    let trailers: &[_] = if grpc { &[("grpc-status", "0")] } else { &[] };
    respond(200, chunks([body], trailers))
}

/// One kind of client: keeps asking until told to stop; returns how often it asked.
async fn ask(kind: &'static str, to: SocketAddr, stop: CancellationToken, count: Arc<AtomicUsize>) {
    let version = if kind == "http1" { H1 } else { H2 };
    let mut client = Client::connect(version, to).await;
    while !stop.is_cancelled() {
        let n = count.load(Ordering::SeqCst);
        let path = if kind == "stream" { "/stream" } else { "/" };
        // Every fourth is a POST: nothing may hide behind the retries of safe methods.
        let method = if n.is_multiple_of(4) || kind != "http1" { "POST" } else { "GET" };
        let body = if method == "POST" { full("hello") } else { empty() };
        let mut asked = request(version, method, path, body);
        if matches!(kind, "unary" | "stream") {
            let headers = asked.headers_mut();
            headers.insert("content-type", "application/grpc".parse().expect("a value"));
            headers.insert("te", "trailers".parse().expect("a value"));
            headers.insert("grpc-timeout", "30S".parse().expect("a value"));
        }
        let answer = client.try_send(asked).await;
        let answer = collect(answer.unwrap_or_else(|e| panic!("{kind} after {n}: {e:?}"))).await;
        let text = answer.text();
        assert_eq!(answer.status, 200, "{kind} after {n}: {text} {:?}", answer.headers);
        match kind {
            "stream" => assert_eq!(text, "part".repeat(10), "{kind} after {n}"),
            _ if method == "POST" => assert_eq!(text, "hello", "{kind} after {n}"),
            _ => assert_eq!(text, "", "{kind} after {n}"),
        }
        if matches!(kind, "unary" | "stream") {
            let status = answer.trailers.as_ref().and_then(|t| t.get("grpc-status"));
            let head = answer.headers.get("grpc-message");
            assert_eq!(status.map(|v| v.as_bytes()), Some(&b"0"[..]), "{kind} after {n}: {head:?}");
        }
        count.fetch_add(1, Ordering::SeqCst);
    }
}

async fn replace_all(upstream: Version, kinds: &[&'static str]) {
    let base = Plan::http(&[]).speaking(upstream);
    let plan = |backends: &[Backend]| {
        let addresses: Vec<_> = backends.iter().map(|b| b.address).collect();
        base.clone().endpoints("web", &addresses)
    };
    let mut current = Vec::new();
    for _ in 0..ENDPOINTS {
        current.push(Backend::start(upstream, serve).await);
    }
    let proxy = start(plan(&current)).await;
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    let mut counts = Vec::new();
    for kind in kinds {
        for _ in 0..4 {
            let count = Arc::<AtomicUsize>::default();
            clients.spawn(ask(kind, proxy.web(), stop.clone(), Arc::clone(&count)));
            counts.push(count);
        }
    }
    let mut gone = Vec::new();
    for _ in 0..ROUNDS {
        let mut next = Vec::new();
        for _ in 0..ENDPOINTS {
            next.push(Backend::start(upstream, serve).await);
        }
        let old = std::mem::replace(&mut current, next);
        proxy.apply(plan(&current)).await;
        tokio::time::sleep(GRACE).await;
        // They finish what they have, close what is idle, and take nothing new.
        old.iter().for_each(Backend::stop);
        gone.push(old);
        let seen: Vec<_> = counts.iter().map(|c| c.load(Ordering::SeqCst)).collect();
        soon("requests of every client", async {
            while counts.iter().zip(&seen).any(|(c, seen)| c.load(Ordering::SeqCst) <= *seen) {
                assert!(clients.try_join_next().is_none(), "a client ended");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
    stop.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.expect("not one request failed");
    }
    drop(gone);
    proxy.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_rollouts_fail_no_request_to_http1_endpoints() {
    replace_all(H1, &["http1", "http2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_rollouts_fail_no_request_and_no_call_to_http2_endpoints() {
    replace_all(H2, &["http1", "http2", "unary", "stream"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_outlives_the_removal_of_its_endpoint_until_that_ends_it() {
    async fn chat(mut wire: Wire, stop: CancellationToken) {
        if wire.request().await.is_none() {
            return;
        }
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await;
        loop {
            tokio::select! {
                biased;
                byte = wire.take(1) => {
                    if byte.is_empty() || !wire.send(byte).await {
                        return;
                    }
                }
                () = stop.cancelled() => {
                    wire.send("!").await;
                    return;
                }
            }
        }
    }
    async fn endpoint() -> (RawBackend, CancellationToken) {
        let stop = CancellationToken::new();
        let told = stop.clone();
        (RawBackend::start(move |wire, _| chat(wire, told.clone())).await, stop)
    }
    let mut current = endpoint().await;
    let base = Plan::http(&[]);
    let proxy = start(base.clone().endpoints("web", &[current.0.address])).await;
    let mut sockets: Vec<Wire> = Vec::new();
    for _ in 0..ROUNDS {
        // New ones go to the endpoint there is; all go on.
        for _ in 0..2 {
            let mut wire = Wire::connect(proxy.web()).await;
            wire.send("GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
            assert_eq!(wire.answer("GET").await.status(), 101);
            sockets.push(wire);
        }
        let next = endpoint().await;
        proxy.apply(base.clone().endpoints("web", &[next.0.address])).await;
        for wire in &mut sockets {
            wire.send("x").await;
            assert_eq!(soon("the echo", wire.take(1)).await, b"x", "it was cut");
        }
        let old = std::mem::replace(&mut current, next);
        old.1.cancel();
        for mut wire in sockets.drain(..) {
            assert_eq!(wire.rest().await, ("!".to_owned(), End::Closed), "the endpoint's own end");
        }
    }
    proxy.finish().await;
}
