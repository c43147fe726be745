//! Who takes part: every endpoint and no other, before and after a change.

use std::net::SocketAddr;

use portolan_model::Balancer;
use portolan_model::traffic::UpstreamProtocol;

use super::kit::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

async fn backends() -> (Vec<Backend>, Vec<SocketAddr>) {
    let mut backends = Vec::new();
    for name in NAMES {
        backends.push(Backend::named(H1, name).await);
    }
    let addresses = backends.iter().map(|b| b.address).collect();
    (backends, addresses)
}

async fn ask(client: &mut Client, times: usize) -> Vec<String> {
    let mut answers = Vec::new();
    for _ in 0..times {
        answers.push(collect(client.send(get(H1, "/")).await).await.text().to_owned());
    }
    answers
}

#[tokio::test]
async fn round_robin_is_exact_and_follows_a_change() {
    let (_backends, addresses) = backends().await;
    let plan = Plan::http(&addresses[..3]);
    let proxy = start(plan.clone()).await;
    let mut client = Client::connect(H1, proxy.web()).await;
    let counts = tally(ask(&mut client, 30).await);
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), expected(&["a", "b", "c"], 10));

    proxy.apply(plan.endpoints("web", &[addresses[1], addresses[3]])).await;
    let counts = tally(ask(&mut client, 20).await);
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), expected(&["b", "d"], 10));
    let cluster = "portolan_proxy_cluster_requests_total{cluster=\"web\"}";
    assert_eq!(proxy.metric(cluster), 50);
    drop(client);
    proxy.finish().await;
}

fn expected(names: &[&str], each: usize) -> Vec<(String, usize)> {
    names.iter().map(|name| ((*name).to_owned(), each)).collect()
}

#[tokio::test]
async fn endpoints_farther_off_get_nothing_until_nothing_nearer_is_left() {
    let (_backends, addresses) = backends().await;
    for balancer in [Balancer::RoundRobin, Balancer::LeastRequest] {
        let upstream = UpstreamProtocol::Auto;
        let plan = Plan::http(&addresses).cluster("web", balancer, upstream, &addresses);
        let proxy = start(plan.clone().priorities("web", &[0, 0, 1, 2])).await;
        let mut client = Client::connect(H1, proxy.web()).await;
        for (priorities, used) in
            [(vec![0, 0, 1, 2], vec!["a", "b"]), (vec![1, 2], vec!["c"]), (vec![2], vec!["d"])]
        {
            let left = &addresses[addresses.len() - priorities.len()..];
            proxy.apply(plan.clone().endpoints("web", left).priorities("web", &priorities)).await;
            let counts = tally(ask(&mut client, 20).await);
            assert_eq!(counts.into_keys().collect::<Vec<_>>(), used, "{balancer:?}");
        }
        drop(client);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn least_request_uses_all_of_them() {
    let (_backends, addresses) = backends().await;
    let plan = Plan::http(&addresses).cluster(
        "web",
        Balancer::LeastRequest,
        UpstreamProtocol::Auto,
        &addresses,
    );
    let proxy = start(plan).await;
    let mut client = Client::connect(H1, proxy.web()).await;
    let counts = tally(ask(&mut client, 400).await);
    assert_eq!(counts.len(), 4, "{counts:?}");
    assert!(counts.values().all(|n| *n > 50), "{counts:?}");
    drop(client);
    proxy.finish().await;
}

#[tokio::test]
async fn a_request_in_flight_survives_the_removal_of_its_endpoint() {
    for version in [H1, H2] {
        let (feed, body) = fed();
        let body = std::sync::Mutex::new(Some(body));
        let leaving = Backend::start(version, move |_, _| {
            let body = body.lock().expect("not poisoned").take().expect("one request");
            async move { respond(200, body) }
        })
        .await;
        let staying = Backend::named(version, "stays").await;
        let plan = match version {
            H1 => Plan::http(&[leaving.address]),
            H2 => Plan::http2(&[leaving.address]),
        };
        let proxy = start(plan.clone()).await;
        let mut client = Client::connect(H1, proxy.web()).await;
        feed.send("begun, ".into()).await.expect("room");
        let response = client.send(get(H1, "/")).await;
        proxy.apply(plan.endpoints("web", &[staying.address])).await;
        let other = fetch(H1, proxy.web(), get(H1, "/")).await;
        assert_eq!(other.text(), "stays");
        feed.send("ended".into()).await.expect("room");
        drop(feed);
        assert_eq!(collect(response).await.text(), "begun, ended");
        drop(client);
        proxy.finish().await;
    }
}
