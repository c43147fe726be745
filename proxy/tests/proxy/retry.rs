//! What is tried again, and what must not be.

use std::net::SocketAddr;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::kit::*;

/// A server that does to each connection what `script` does.
async fn raw<R: Future<Output = ()> + Send + 'static>(
    script: impl Fn(TcpStream) -> R + Send + 'static,
) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(loopback(0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(script(stream));
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn an_endpoint_that_is_down_costs_no_request() {
    for version in [H1, H2] {
        let backend = Backend::named(version, "up").await;
        let addresses = [down(), backend.address];
        let plan = match version {
            H1 => Plan::http(&addresses),
            H2 => Plan::http2(&addresses),
        };
        let proxy = start(plan).await;
        for _ in 0..10 {
            let request = request(H1, "POST", "/", full("body"));
            assert_eq!(fetch(H1, proxy.web(), request).await.text(), "up");
        }
        assert!(proxy.metric("portolan_proxy_retries_total") >= 1);
        // It is passed over after the first refusal, so there are far fewer retries than turns.
        assert!(proxy.metric("portolan_proxy_retries_total") <= 2);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn all_down_is_a_503_that_says_so() {
    let plan = Plan::http(&[down(), down(), down(), down()]);
    let proxy = start(plan).await;
    let response = fetch(H1, proxy.web(), get(H1, "/")).await;
    assert_eq!((response.status, response.header("x-portolan-reason")), (503, "connect_failed"));
    assert_eq!(proxy.metric("portolan_proxy_upstream_connects_total"), 3, "three tries");
    proxy.finish().await;
}

/// Reads a request's head, then closes without an answer.
async fn read_and_close(mut stream: TcpStream) {
    let mut buffer = [0; 4096];
    let _read = stream.read(&mut buffer).await;
}

#[tokio::test]
async fn a_get_whose_connection_closed_is_tried_elsewhere_and_a_post_is_not() {
    let (closing, _tasks) = raw(read_and_close).await;
    let backend = Backend::named(H1, "up").await;
    let proxy = start(Plan::http(&[closing, backend.address])).await;
    for _ in 0..6 {
        assert_eq!(fetch(H1, proxy.web(), get(H1, "/")).await.text(), "up");
    }
    let before = backend.requests();
    let mut reset = 0;
    for _ in 0..6 {
        let response = fetch(H1, proxy.web(), request(H1, "POST", "/", full("x"))).await;
        if response.status == 502 {
            assert_eq!(response.header("x-portolan-reason"), "upstream_reset");
            reset += 1;
        }
    }
    assert_eq!((reset, backend.requests() - before), (3, 3), "a POST may have been processed");
    proxy.finish().await;
}

#[tokio::test]
async fn a_get_whose_http2_connection_failed_is_tried_elsewhere() {
    let (closing, _tasks) = raw(read_and_close).await;
    let backend = Backend::named(H2, "up").await;
    let proxy = start(Plan::http2(&[closing, backend.address])).await;
    for _ in 0..10 {
        assert_eq!(fetch(H1, proxy.web(), get(H1, "/")).await.text(), "up");
    }
    proxy.finish().await;
}

/// Frames of an HTTP/2 server that takes no stream (RFC 9113 §4.1): SETTINGS first, and `last`
/// after the first HEADERS.
async fn refuse(mut stream: TcpStream, last: fn(u32) -> Vec<u8>) {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut preface = [0; 24];
    if stream.read_exact(&mut preface).await.is_err() || stream.write_all(&settings).await.is_err()
    {
        return;
    }
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; usize::try_from(length).expect("small")];
        if stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        if head[3] == 1 && stream.write_all(&last(id)).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_stream_that_was_not_processed_is_tried_elsewhere() {
    // RST_STREAM with REFUSED_STREAM, and GOAWAY with last stream 0.
    let reset = |id: u32| {
        let mut frame = vec![0, 0, 4, 3, 0];
        frame.extend(id.to_be_bytes());
        frame.extend(7_u32.to_be_bytes());
        frame
    };
    let goaway = |_| vec![0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for last in [reset as fn(u32) -> Vec<u8>, goaway] {
        let (refusing, _tasks) = raw(move |stream| refuse(stream, last)).await;
        let backend = Backend::named(H2, "up").await;
        let proxy = start(Plan::http2(&[refusing, backend.address])).await;
        for _ in 0..6 {
            let response = fetch(H1, proxy.web(), request(H1, "POST", "/", empty())).await;
            assert_eq!(response.text(), "up");
        }
        // A body the endpoint has not asked for by then may have begun: never sent twice.
        proxy.finish().await;
    }
}

#[tokio::test]
async fn retries_over_the_budget_are_not_made() {
    // More requests at once than the budget of three retries, all refused by every endpoint.
    let reset = |id: u32| {
        let mut frame = vec![0, 0, 4, 3, 0];
        frame.extend(id.to_be_bytes());
        frame.extend(7_u32.to_be_bytes());
        frame
    };
    let (one, _one) = raw(move |stream| refuse(stream, reset)).await;
    let (two, _two) = raw(move |stream| refuse(stream, reset)).await;
    let proxy = start(Plan::http2(&[one, two])).await;
    let to = proxy.web();
    let client = Client::connect(H2, to).await;
    let sent = (0..12).map(|_| {
        let mut sender = client.h2();
        async move { sender.send_request(get(H2, "/")).await.expect("a response") }
    });
    for response in soon("answers", futures_util::future::join_all(sent)).await {
        assert_eq!(response.status(), 502);
    }
    assert!(proxy.metric("portolan_proxy_retries_over_budget_total") > 0);
    drop(client);
    proxy.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_replaced_under_load_fail_no_request() {
    for version in [H1, H2] {
        // One listener throughout: only the endpoints change.
        let base = match version {
            H1 => Plan::http(&[]),
            H2 => Plan::http2(&[]),
        };
        let plan = |addresses: &[SocketAddr]| base.clone().endpoints("web", addresses);
        let mut current = vec![
            Backend::named(version, "x").await,
            Backend::named(version, "x").await,
            Backend::named(version, "x").await,
        ];
        let addresses =
            |backends: &[Backend]| -> Vec<_> { backends.iter().map(|b| b.address).collect() };
        let proxy = start(plan(&addresses(&current))).await;
        let to = proxy.web();
        let done = tokio_util::sync::CancellationToken::new();
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let done = done.clone();
            clients.spawn(async move {
                let mut client = Client::connect(H1, to).await;
                let mut sent = 0;
                while !done.is_cancelled() {
                    let response = collect(client.send(get(H1, "/")).await).await;
                    assert_eq!(response.status, 200, "after {sent}: {}", response.text());
                    sent += 1;
                }
            });
        }
        // The new one comes before the old one goes, as a rolling update has it; but the proxy
        // hears that it went only after it has.
        for _ in 0..12 {
            let old = current.remove(0);
            current.push(Backend::named(version, "x").await);
            let mut with_old = addresses(&current);
            with_old.push(old.address);
            proxy.apply(plan(&with_old)).await;
            until("requests at the new one", || current[2].requests() > 5).await;
            old.stop();
            let seen = current[2].requests();
            until("requests while it is down", || current[2].requests() > seen + 20).await;
            proxy.apply(plan(&addresses(&current))).await;
        }
        done.cancel();
        while let Some(client) = clients.join_next().await {
            client.expect("no request failed");
        }
        proxy.finish().await;
    }
}

#[tokio::test]
async fn a_body_that_has_begun_is_not_sent_twice() {
    let (closing, _tasks) = raw(async |mut stream: TcpStream| {
        // Past the head and into the body, then gone.
        let mut buffer = [0; 4096];
        let mut seen = 0;
        while seen < 2000 {
            match stream.read(&mut buffer).await {
                Ok(n) if n > 0 => seen += n,
                _ => return,
            }
        }
    })
    .await;
    let proxy = start(Plan::http(&[closing])).await;
    let body = chunks(vec![Bytes::from(vec![7; 1500]); 3], &[]);
    let response = fetch(H1, proxy.web(), request(H1, "PUT", "/", body)).await;
    assert_eq!((response.status, response.header("x-portolan-reason")), (502, "upstream_reset"));
    assert_eq!(proxy.metric("portolan_proxy_retries_total"), 0);
    proxy.finish().await;
}
