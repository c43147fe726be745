//! One request: who it is for, which cluster serves that, and what is answered when none does.

use std::rc::Rc;

use http::{HeaderValue, Method, Request, Response, Version};
use hyper::body::Incoming;
use portolan_model::traffic::{ListenerKind, ResourceName};
use tokio::time::Instant;

use super::Client;
use super::authority::{self, Asked};
use super::body::{self, ResponseBody, Source};
use super::forward::{Forward, Head};
use super::headers;
use super::local::{Local, Reason};

/// Answers a request, from an endpoint or by itself, and counts it.
pub(super) async fn answer(
    client: &Rc<Client>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let shared = &client.origin.shared;
    let busy = client.activity.begin();
    let overloaded = shared.requests.get() >= shared.config.max_requests;
    let counted = body::Request::new(shared);
    let grpc = headers::is_grpc(request.headers());
    let no_body = request.method() == Method::HEAD;
    let answered = if overloaded {
        Err(Local::new(Reason::Overloaded, "this proxy has as many requests as it takes"))
    } else {
        proxy(client, request, grpc).await
    };
    let mut response = answered.unwrap_or_else(|local| {
        shared.metrics.count_local(local.reason);
        tracing::debug!(listener = %client.origin.listener.name, reason = local.reason.as_str(),
            detail = local.detail, "answered locally");
        local.into_response(grpc, no_body)
    });
    client.origin.metrics.count_response(response.status());
    response.body_mut().hold_client(busy, counted);
    response
}

async fn proxy(
    client: &Rc<Client>,
    request: Request<Incoming>,
    grpc: bool,
) -> Result<Response<ResponseBody>, Local> {
    let started = Instant::now();
    let shared = &client.origin.shared;
    let (mut parts, incoming) = request.into_parts();
    let asked = check(&parts)?;
    let (cluster, timeout) = route(client, &asked, parts.uri.path())?;
    let trailers = headers::takes_trailers(&parts.headers);
    headers::strip(&mut parts.headers);
    headers::add_forwarded(&mut parts.headers, client.peer.ip());
    let head = Head {
        method: parts.method,
        target: parts.uri.into_parts().path_and_query,
        host: asked.host,
        headers: parts.headers,
        trailers,
        split_cookies: parts.version == Version::HTTP_2,
    };
    let body = Source::new(incoming);
    let forward = Forward::new(shared, &cluster, &head, &body, grpc, &asked.lower);
    let Some(timeout) = timeout.or(shared.config.request_timeout) else {
        return forward.run().await;
    };
    let deadline = started + timeout;
    let mut response = tokio::time::timeout_at(deadline, forward.run())
        .await
        .unwrap_or_else(|_elapsed| Err(timed_out(&asked.lower, timeout)))?;
    response.body_mut().limit(deadline, grpc);
    Ok(response)
}

fn timed_out(asked: &str, timeout: std::time::Duration) -> Local {
    Local::new(Reason::Timeout, format!("{asked}: no response within {timeout:?}"))
}

/// Refuses what this proxy does not forward.
fn check(parts: &http::request::Parts) -> Result<Asked, Local> {
    if parts.method == Method::CONNECT {
        return Err(Local::new(Reason::Method, "CONNECT is not served"));
    }
    let asked = authority::parse(parts)
        .and_then(|asked| headers::check_framing(&parts.headers).map(|()| asked))
        .map_err(|reason| Local::new(Reason::BadRequest, reason))?;
    if headers::is_upgrade(&parts.headers) {
        let to = parts.headers.get(http::header::UPGRADE).map(HeaderValue::as_bytes);
        let to = String::from_utf8_lossy(to.unwrap_or_default()).into_owned();
        let detail = format!("{}: upgrade to {to} is not served", asked.lower);
        return Err(Local::new(Reason::Upgrade, detail));
    }
    Ok(asked)
}

/// The cluster for a request, and the time its route allows.
fn route(
    client: &Client,
    asked: &Asked,
    path: &str,
) -> Result<(ResourceName, Option<std::time::Duration>), Local> {
    let no_route = || Local::new(Reason::NoRoute, format!("{}{path}: no route", asked.lower));
    let (ListenerKind::Http { routes, .. } | ListenerKind::Detect { routes, .. }) =
        &client.origin.listener.kind
    else {
        return Err(no_route());
    };
    let table = client.origin.shared.routes(routes).ok_or_else(no_route)?;
    let host = table.lookup(&asked.lower).ok_or_else(no_route)?;
    let route = host.route(path).ok_or_else(no_route)?;
    Ok((ResourceName::clone(&route.cluster), route.timeout))
}
