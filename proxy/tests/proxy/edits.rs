//! Changes of fields that routes ask for, however a request goes.

use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use portolan_model::policy::{Retries, RetryOn};
use portolan_model::traffic::{Action, Edits, HeaderEdit};

use super::kit::*;
use super::raw::*;

/// One field more for requests, and one for answers.
fn edited(plan: Plan) -> Plan {
    let add = |value: &str| vec![HeaderEdit::Add("x-tag".into(), value.into())];
    let edits = Edits { request: add("asked"), response: add("answered"), ..Edits::default() };
    plan.tune_route(|route| match &mut route.action {
        Action::Forward(shares) => shares[0].edits = Some(Arc::new(edits)),
        other => panic!("{other:?}"),
    })
}

#[tokio::test]
async fn each_change_is_made_once_however_often_a_request_is_tried() {
    for (client, upstream) in [(H1, H1), (H1, H2), (H2, H1), (H2, H2)] {
        let backend = Backend::start(upstream, |request: Request<Incoming>, n| async move {
            let tags: Vec<_> = request.headers().get_all("x-tag").iter().collect();
            respond(if n < 2 { 503 } else { 200 }, full(format!("{tags:?}")))
        })
        .await;
        let on = vec![RetryOn::ServerError];
        let retries = Some(Retries { attempts: 3, on, ..Retries::default() });
        let plan = edited(Plan::http(&[backend.address]).speaking(upstream))
            .tune_route(|route| route.retries = retries)
            .tune(|cluster| cluster.limits.min_retries = 100);
        let proxy = start(plan).await;
        let answer = fetch(client, proxy.web(), get(client, "/")).await;
        let context = format!("{client:?} -> {upstream:?}");
        assert_eq!((answer.status, backend.requests()), (200, 3), "{context}");
        assert_eq!(answer.text(), "[\"asked\"]", "{context}");
        let tags: Vec<_> = answer.headers.get_all("x-tag").iter().collect();
        assert_eq!(tags, ["answered"], "{context}");
        proxy.finish().await;
    }
}

#[tokio::test]
async fn an_upgrade_is_changed_like_any_other_and_a_local_answer_too() {
    let backend = RawBackend::start(async |mut wire: Wire, _| {
        let Some(request) = wire.request().await else { return };
        assert_eq!(request.all("x-tag"), ["asked"], "{}", request.head);
        wire.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await;
        wire.rest().await;
    })
    .await;
    let proxy = start(edited(Plan::http(&[backend.address]))).await;
    let mut wire = Wire::connect(proxy.web()).await;
    wire.send(
        "GET /chat HTTP/1.1\r\nhost: web.shop\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n",
    )
    .await;
    let answer = wire.answer("GET").await;
    assert_eq!((answer.status(), answer.all("x-tag")), (101, vec!["answered"]), "{}", answer.head);
    drop(wire);
    proxy.finish().await;

    let proxy = start(edited(Plan::http(&[]))).await;
    for client in [H1, H2] {
        let answer = fetch(client, proxy.web(), get(client, "/")).await;
        let tags: Vec<_> = answer.headers.get_all("x-tag").iter().collect();
        assert_eq!((answer.status, tags.len()), (503, 1), "{client:?}");
    }
    proxy.finish().await;
}
