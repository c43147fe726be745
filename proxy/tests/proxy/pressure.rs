//! Back-pressure: who does not read stops who sends, within bounds, and nobody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::frames::*;
use super::kit::*;
use super::raw::*;

/// The most that may lie between two ends: windows, the proxy's buffers, and what two pairs of
/// sockets on loopback hold (a few megabytes each, as the system grows them).
const BOUND: usize = 24 << 20;
/// What is offered: far more than the bound.
const OFFERED: usize = 256 << 20;
const PART: usize = 64 << 10;

/// Waits until a count no longer moves.
async fn settled(count: &AtomicUsize) -> usize {
    let mut before = usize::MAX;
    soon("an end of the flow", async {
        loop {
            let now = count.load(Ordering::SeqCst);
            if now == before {
                return now;
            }
            before = now;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    })
    .await
}

/// A backend that answers `/big` without end and counts what it could send.
async fn sender(
    upstream: Version,
) -> (std::net::SocketAddr, Arc<AtomicUsize>, Box<dyn std::any::Any>) {
    let sent = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&sent);
    let backend = Backend::start(upstream, move |request: http::Request<_>, _| {
        let count = Arc::clone(&count);
        async move {
            if request.uri().path() != "/big" {
                return respond(200, full("small"));
            }
            let part = bytes::Bytes::from(vec![7; PART]);
            let taken = move || {
                count.fetch_add(PART, Ordering::SeqCst);
            };
            let body = paced(part, OFFERED / PART, Duration::ZERO, taken);
            respond(200, body)
        }
    })
    .await;
    (backend.address, sent, Box::new(backend))
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_endpoint() {
    for upstream in [H1, H2] {
        let (address, sent, _backend) = sender(upstream).await;
        // HTTP/1.1: the socket is not read.
        let proxy = start(Plan::http(&[address]).speaking(upstream)).await;
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send("GET /big HTTP/1.1\r\nhost: web.shop\r\n\r\n").await;
        let bytes = settled(&sent).await;
        assert!(bytes > 0 && bytes < BOUND, "H1 -> {upstream:?}: {bytes} bytes taken");
        // Others are served.
        assert_eq!(fetch(H1, proxy.web(), get(H1, "/")).await.text(), "small");
        // It goes on where it stopped.
        let mut read = 0;
        while read < bytes + (4 << 20) {
            let part = soon("more", wire.take(1 << 20)).await;
            assert!(!part.is_empty(), "H1 -> {upstream:?}: it ended after {read}");
            read += part.len();
        }
        drop(wire);
        until("nothing in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
        proxy.finish().await;

        // HTTP/2: the stream's window stays shut, and the connection's is open.
        let (address, sent, _backend) = sender(upstream).await;
        let proxy = start(Plan::http(&[address]).speaking(upstream)).await;
        let mut peer = Peer::client(proxy.web(), &[]).await;
        peer.send(frame(WINDOW_UPDATE, 0, 0, (1_u32 << 30).to_be_bytes())).await;
        let mut list = get_with(&[]);
        list[3].1 = "/big";
        peer.send(headers(1, true, &list)).await;
        assert_eq!(peer.outcome(1).await, Outcome::Status(200));
        let bytes = settled(&sent).await;
        assert!(bytes > 0 && bytes < BOUND, "H2 -> {upstream:?}: {bytes} bytes taken");
        // Other streams of the connection go on.
        for id in [3, 5, 7] {
            peer.send(headers(id, true, &get_with(&[]))).await;
            assert_eq!(peer.outcome(id).await, Outcome::Status(200), "H2 -> {upstream:?}");
            assert_eq!(peer.body(id).await, (5, None), "H2 -> {upstream:?}");
        }
        // The window opens.
        let before = sent.load(Ordering::SeqCst);
        peer.send(frame(WINDOW_UPDATE, 0, 1, (64_u32 << 20).to_be_bytes())).await;
        let mut read = 0;
        soon("more", async {
            while read < 32 << 20 {
                let frame = peer.read().await.expect("a frame");
                read += if frame.kind == DATA { frame.payload.len() } else { 0 };
            }
        })
        .await;
        assert!(sent.load(Ordering::SeqCst) > before);
        drop(peer);
        until("nothing in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
        proxy.finish().await;
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_read_stops_the_client() {
    // It takes the head and nothing of the body; other requests it answers.
    let deaf_h1 = RawBackend::start(async |mut wire: Wire, _| {
        while let Some(head) = wire.through(b"\r\n\r\n").await {
            if head.starts_with(b"POST") {
                std::future::pending::<()>().await;
            }
            wire.send(OK).await;
        }
    })
    .await;
    let deaf_h2 = RawBackend::start(async |wire: Wire, _| {
        // It opens the connection's window and no stream's.
        let Some(mut peer) = Peer::server(wire, &[]).await else { return };
        peer.send(frame(WINDOW_UPDATE, 0, 0, (1_u32 << 30).to_be_bytes())).await;
        while let Some(frame) = peer.read().await {
            if frame.kind == HEADERS && frame.ends() {
                peer.send(headers(frame.stream, true, &[(":status", "204")])).await;
            }
        }
    })
    .await;
    for (upstream, address) in [(H1, deaf_h1.address), (H2, deaf_h2.address)] {
        for client in [H1, H2] {
            let proxy = start(Plan::http(&[address]).speaking(upstream)).await;
            let taken = Arc::<AtomicUsize>::default();
            let count = Arc::clone(&taken);
            let part = bytes::Bytes::from(vec![7; PART]);
            let body = paced(part, OFFERED / PART, Duration::ZERO, move || {
                count.fetch_add(PART, Ordering::SeqCst);
            });
            let mut connection = Client::connect(client, proxy.web()).await;
            let others = (client == H2).then(|| connection.h2());
            let sending = connection.try_send(request(client, "POST", "/", body));
            let watching = async {
                let bytes = settled(&taken).await;
                let context = format!("{client:?} -> {upstream:?}: {bytes} bytes taken");
                assert!(bytes > 0 && bytes < BOUND, "{context}");
                // Other streams of the connection go on, and other connections.
                if let Some(mut other) = others {
                    let answer = soon("another stream", other.send_request(get(H2, "/"))).await;
                    assert!(answer.expect("an answer").status().is_success(), "{context}");
                }
                let answer = fetch(client, proxy.web(), get(client, "/")).await;
                assert!(answer.status < 300, "{context}");
            };
            tokio::select! {
                biased;
                () = watching => {}
                sent = sending => panic!("{client:?} -> {upstream:?}: {sent:?}"),
            }
            drop(connection);
            if client == H2 {
                let what = format!("{client:?} -> {upstream:?}: nothing in flight");
                until(&what, || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
            }
            proxy.lifecycle.abort();
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_while_it_is_held_back_is_noticed() {
    let deaf = RawBackend::start(async |mut wire: Wire, _| {
        wire.through(b"\r\n\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = start(Plan::http(&[deaf.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send("POST / HTTP/1.1\r\nhost: web.shop\r\ncontent-length: 1000000000\r\n\r\n").await;
    let part = vec![7; PART];
    // Until it is held back.
    while tokio::time::timeout(Duration::from_millis(500), wire.send(&part)).await.is_ok() {}
    wire.reset();
    until("nothing in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_slow_stream_of_an_endpoint_does_not_hold_its_connection() {
    // Two clients share an HTTP/2 connection to the endpoint; one of them does not read.
    let (address, sent, _backend) = sender(H2).await;
    let proxy = start(Plan::http2(&[address])).await;
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut wire = Wire::connect(proxy.web()).await;
        wire.send("GET /big HTTP/1.1\r\nhost: web.shop\r\n\r\n").await;
        slow.push(wire);
    }
    let bytes = settled(&sent).await;
    assert!(bytes < 8 * BOUND, "{bytes} bytes taken");
    for _ in 0..20 {
        assert_eq!(fetch(H1, proxy.web(), get(H1, "/")).await.text(), "small");
    }
    drop(slow);
    until("nothing in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_tunnel_that_is_not_read_stops_its_other_side() {
    let sent = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&sent);
    let backend = RawBackend::start(move |mut wire, _| {
        let count = Arc::clone(&count);
        async move {
            wire.request().await;
            wire.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
            use tokio::io::AsyncWriteExt;
            let part = vec![7; PART];
            for _ in 0..OFFERED / PART {
                if wire.stream.write_all(&part).await.is_err() {
                    return;
                }
                count.fetch_add(PART, Ordering::SeqCst);
            }
        }
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send(
        "GET / HTTP/1.1\r\nhost: web.shop\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
    )
    .await;
    assert_eq!(wire.answer("GET").await.status(), 101);
    let bytes = settled(&sent).await;
    assert!(bytes > 0 && bytes < BOUND, "{bytes} bytes taken");
    drop(wire);
    until("nothing in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
    proxy.finish().await;
}
