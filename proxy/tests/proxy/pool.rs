//! Upstream connections are kept, and a kept one that closed fails nobody.

use super::kit::*;

#[tokio::test]
async fn a_connection_is_used_again_by_every_client() {
    for version in [H1, H2] {
        let backend = Backend::named(version, "a").await;
        let plan = match version {
            H1 => Plan::http(&[backend.address]),
            H2 => Plan::http2(&[backend.address]),
        };
        let proxy = start(plan).await;
        for _ in 0..20 {
            assert_eq!(fetch(H1, proxy.web(), get(H1, "/")).await.status, 200);
        }
        assert_eq!((backend.connections(), backend.requests()), (1, 20), "{version:?}");
        assert_eq!(proxy.metric("portolan_proxy_upstream_connects_total"), 1);
        proxy.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_close_kept_connections_at_any_moment_fail_no_get() {
    for version in [H1, H2] {
        let a = Backend::named(version, "a").await;
        let b = Backend::named(version, "b").await;
        let addresses = [a.address, b.address];
        let plan = match version {
            H1 => Plan::http(&addresses),
            H2 => Plan::http2(&addresses),
        };
        let proxy = start(plan).await;
        let to = proxy.web();
        let closing = tokio_util::sync::CancellationToken::new();
        let closer = async {
            while !closing.is_cancelled() {
                a.close_connections();
                tokio::task::yield_now().await;
                b.close_connections();
                tokio::task::yield_now().await;
            }
        };
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..8 {
            clients.spawn(async move {
                let mut client = Client::connect(H1, to).await;
                for i in 0..200 {
                    let response = collect(client.send(get(H1, "/")).await).await;
                    assert_eq!(response.status, 200, "request {i}: {}", response.text());
                }
            });
        }
        let done = async {
            while let Some(client) = clients.join_next().await {
                client.expect("no request failed");
            }
            closing.cancel();
        };
        tokio::join!(closer, done);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn no_more_than_the_bound_is_kept() {
    let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(4));
    let backend = {
        let barrier = std::sync::Arc::clone(&barrier);
        Backend::start(H1, move |_, _| {
            let barrier = std::sync::Arc::clone(&barrier);
            async move {
                barrier.wait().await;
                respond(200, full("a"))
            }
        })
        .await
    };
    let plan = Plan::http(&[backend.address]);
    let proxy = start_with(plan, |c| c.pool_idle_per_endpoint = 1).await;
    let to = proxy.web();
    let four = std::iter::repeat_with(|| fetch(H1, to, get(H1, "/"))).take(4);
    for response in futures_util::future::join_all(four).await {
        assert_eq!(response.status, 200);
    }
    assert_eq!(backend.connections(), 4);
    // A client has its response a moment before the connection is put back.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while proxy.metric("portolan_proxy_pool_dropped_total") < 3 {
        assert!(tokio::time::Instant::now() < deadline, "three are closed");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(proxy.metric("portolan_proxy_pool_dropped_total"), 3);
    proxy.finish().await;
}
