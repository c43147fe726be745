//! Listeners come, go, move and fail, each by itself.

use std::num::NonZeroUsize;

use tokio::net::TcpStream;

use super::kit::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_are_added_and_removed_and_the_others_keep_their_sockets() {
    let backend = Backend::named(H1, "a").await;
    let plan = Plan::http(&[backend.address]);
    let workers = NonZeroUsize::new(2).expect("not zero");
    let proxy = start_with(plan.clone(), |c| c.workers = workers).await;
    let web = proxy.web();
    let mut kept = Client::connect(H1, web).await;
    assert_eq!(collect(kept.send(get(H1, "/")).await).await.text(), "a");

    proxy.apply(plan.clone().listener("more", loopback(0), None)).await;
    let more = proxy.address("more");
    assert_eq!(proxy.web(), web, "an unchanged listener keeps its socket");
    for _ in 0..8 {
        assert_eq!(fetch(H2, more, get(H2, "/")).await.text(), "a");
    }

    proxy.apply(plan).await;
    assert!(TcpStream::connect(more).await.is_err(), "a removed listener is closed");
    assert_eq!(collect(kept.send(get(H1, "/")).await).await.text(), "a");
    drop(kept);
    proxy.finish().await;
}

#[tokio::test]
async fn a_listener_that_changes_is_bound_anew() {
    let backend = Backend::named(H1, "a").await;
    let plan = Plan::http(&[backend.address]);
    let proxy = start(plan.clone()).await;
    let old = proxy.web();
    // The same port, another kind: the new sockets are open before the old ones close.
    proxy.apply(plan.clone().listener("web", old, Some("web"))).await;
    assert_eq!(proxy.web(), old);
    assert_eq!(fetch(H1, old, get(H1, "/")).await.text(), "a");
    assert_eq!(proxy.metric("portolan_proxy_requests_total{listener=\"web\",class=\"2xx\"}"), 0);

    proxy.apply(plan.listener("web", loopback(0), None)).await;
    assert_ne!(proxy.web(), old);
    assert!(TcpStream::connect(old).await.is_err(), "the old address is closed");
    assert_eq!(fetch(H1, proxy.web(), get(H1, "/")).await.text(), "a");
    proxy.finish().await;
}

#[tokio::test]
async fn a_listener_that_cannot_change_goes_on_as_it_was_and_changes_once_it_can() {
    let backend = Backend::named(H1, "a").await;
    let taken = std::net::TcpListener::bind(loopback(0)).expect("a free port");
    let wanted = taken.local_addr().expect("bound");
    let plan = Plan::http(&[backend.address]);
    let proxy = start(plan.clone()).await;
    let old = proxy.web();
    proxy.apply(plan.clone().listener("web", wanted, None)).await;
    let web = proxy.state.view().listeners["web"].clone();
    assert_eq!((web.asked, web.bound), (wanted, Some(old)));
    assert!(web.error.is_some_and(|e| e.contains("web") && e.contains(&wanted.to_string())));
    assert_eq!(fetch(H1, old, get(H1, "/")).await.text(), "a", "what was good stays");
    drop(taken);
    until("another try", || proxy.web() == wanted).await;
    assert_eq!(proxy.state.view().listeners["web"].error, None);
    until_refused(old).await;
    assert_eq!(fetch(H1, wanted, get(H1, "/")).await.text(), "a");
    proxy.finish().await;
}

#[tokio::test]
async fn two_listeners_may_swap_their_addresses() {
    let backend = Backend::named(H1, "a").await;
    let plan = Plan::http(&[backend.address]).listener("tcp", loopback(0), Some("web"));
    let proxy = start(plan.clone()).await;
    let (web, tcp) = (proxy.web(), proxy.address("tcp"));
    proxy.apply(plan.listener("web", tcp, None).listener("tcp", web, Some("web"))).await;
    assert_eq!((proxy.web(), proxy.address("tcp")), (tcp, web));
    assert_eq!(proxy.metric("portolan_proxy_bind_failures_total"), 0);
    assert_eq!(fetch(H1, tcp, get(H1, "/")).await.text(), "a");
    // Counted when its response has ended, which the client may see first.
    let counter = "portolan_proxy_requests_total{listener=\"web\",class=\"2xx\"}";
    until("the request is counted", || proxy.metric(counter) == 1).await;
    proxy.finish().await;
}

#[tokio::test]
async fn a_listener_that_takes_the_sockets_of_one_that_is_gone_closes_its_own() {
    let backend = Backend::named(H1, "a").await;
    let plan = Plan::http(&[backend.address]);
    let both =
        plan.clone().listener("gone", loopback(0), None).listener("moves", loopback(0), None);
    let proxy = start(both.clone()).await;
    let (gone, own) = (proxy.address("gone"), proxy.address("moves"));
    proxy.apply(both.listener("gone", gone, None).listener("moves", own, None)).await;
    // A new listener wants the address too, which is why its sockets are kept for a moment.
    proxy.apply(plan.listener("moves", gone, None).listener("new", gone, None)).await;
    assert_eq!(proxy.address("moves"), gone);
    let new = proxy.state.view().listeners["new"].clone();
    assert!(new.error.is_some_and(|e| e.contains("moves")), "one address has one listener");
    assert_eq!(fetch(H1, gone, get(H1, "/")).await.text(), "a");
    assert!(TcpStream::connect(own).await.is_err(), "nobody serves its old address");
    proxy.finish().await;
}

#[tokio::test]
async fn a_listener_that_cannot_be_bound_is_reported_retried_and_in_nobodys_way() {
    let backend = Backend::named(H1, "a").await;
    let taken = std::net::TcpListener::bind(loopback(0)).expect("a free port");
    let address = taken.local_addr().expect("bound");
    let plan = Plan::http(&[backend.address]).listener("late", address, None);
    let proxy = start(plan).await;
    assert_eq!(fetch(H1, proxy.web(), get(H1, "/")).await.text(), "a");
    let late = proxy.state.view().listeners["late"].clone();
    assert_eq!(late.bound, None);
    assert!(late.error.is_some_and(|e| e.contains("late") && e.contains(&address.to_string())));
    assert_eq!(proxy.metric("portolan_proxy_bind_failures_total"), 1);
    drop(taken);
    until("another try", || proxy.state.view().listeners["late"].bound == Some(address)).await;
    assert_eq!(fetch(H1, address, get(H1, "/")).await.text(), "a");
    proxy.finish().await;
}

#[tokio::test]
async fn two_listeners_do_not_share_an_address() {
    let backend = Backend::named(H1, "a").await;
    let plan = Plan::http(&[backend.address]);
    let proxy = start(plan.clone()).await;
    let web = proxy.web();
    proxy.apply(plan.listener("twin", web, None)).await;
    let twin = proxy.state.view().listeners["twin"].clone();
    assert!(twin.error.is_some_and(|e| e.contains("listener web")), "{:?}", twin.bound);
    proxy.finish().await;
}

#[tokio::test]
async fn the_state_is_printed_as_json() {
    let backend = Backend::named(H1, "a").await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let json = serde_json::to_value(proxy.state.view()).expect("JSON");
    assert_eq!(json["generation"], 1);
    assert_eq!(json["listeners"]["web"]["bound"], proxy.web().to_string());
    assert_eq!(json["clusters"]["web"][0]["address"], backend.address.to_string());
    proxy.finish().await;
}

#[tokio::test]
async fn a_configuration_without_listeners_closes_them_all() {
    let backend = Backend::named(H1, "a").await;
    let plan = Plan::http(&[backend.address]);
    let proxy = start(plan.clone()).await;
    let web = proxy.web();
    proxy.apply(plan.without_listener("web")).await;
    assert!(TcpStream::connect(web).await.is_err());
    proxy.finish().await;
}

#[tokio::test]
async fn configurations_without_a_number_are_counted() {
    let backend = Backend::named(H1, "a").await;
    let plan = Plan::http(&[backend.address]);
    let proxy = start(plan.clone()).await;
    assert_eq!(proxy.apply_unnumbered(plan.clone()).await.0, 2);
    assert_eq!(proxy.apply_unnumbered(plan).await.0, 3);
    proxy.finish().await;
}
