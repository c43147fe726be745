//! The HTTP/1.1 backend: says who answered, slowly or with any status when asked to. Every
//! response carries `x-endpoint`. Bodies are streamed, never gathered.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper_util::service::TowerToHyperService;
use portolan_runtime::Lifecycle;
use serde::Serialize;

use crate::accept::{MAX_CONNECTIONS, accept};
use crate::connection::serve_http1;
use crate::{Identity, MAX_DELAY};

/// The header that names the endpoint.
pub const ENDPOINT_HEADER: &str = "x-endpoint";

/// What every path but the special ones is answered with, as JSON.
#[derive(Clone, Debug, Serialize)]
struct About {
    service: String,
    endpoint: String,
    /// Where the backend listens.
    address: SocketAddr,
    method: String,
    path: String,
    /// The `host` the request came with.
    host: String,
}

#[derive(Debug)]
struct Backend {
    identity: Identity,
    address: SocketAddr,
    header: HeaderValue,
}

/// Serves on a bound socket until the process drains. Paths: `/slow?ms=N` answers after N
/// milliseconds (at most 10,000), `POST /echo` streams the body back, `/status/{code}` answers
/// with that status (200 to 999), anything else with JSON that says who answered.
///
/// # Errors
/// When the socket cannot be used, or the endpoint's name cannot stand in a header.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    lifecycle: Lifecycle,
) -> Result<(), io::Error> {
    let address = listener.local_addr()?;
    let header = HeaderValue::from_str(&identity.endpoint)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let router = router(Arc::new(Backend { identity, address, header }));
    accept(listener, &lifecycle, MAX_CONNECTIONS, |stream| {
        serve_http1(stream, TowerToHyperService::new(router.clone()), lifecycle.clone())
    })
    .await
}

fn router(backend: Arc<Backend>) -> Router {
    Router::new()
        .route("/slow", get(slow))
        .route("/echo", post(echo))
        .route("/status/{code}", get(status).post(status))
        .fallback(about)
        .layer(middleware::map_response_with_state(Arc::clone(&backend), name_endpoint))
        .with_state(backend)
}

async fn name_endpoint(State(backend): State<Arc<Backend>>, mut response: Response) -> Response {
    response.headers_mut().insert(ENDPOINT_HEADER, backend.header.clone());
    response
}

async fn about(State(backend): State<Arc<Backend>>, request: Request) -> Json<About> {
    let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    Json(About {
        service: backend.identity.service.clone(),
        endpoint: backend.identity.endpoint.clone(),
        address: backend.address,
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        host: String::from_utf8_lossy(host).into_owned(),
    })
}

async fn slow(state: State<Arc<Backend>>, request: Request) -> Response {
    let Some(delay) = delay(request.uri()) else {
        let limit = MAX_DELAY.as_millis();
        let text = format!("/slow takes ?ms=N with N at most {limit}\n");
        return (StatusCode::BAD_REQUEST, text).into_response();
    };
    tokio::time::sleep(delay).await;
    about(state, request).await.into_response()
}

fn delay(uri: &Uri) -> Option<Duration> {
    let millis = uri.query()?.split('&').find_map(|pair| pair.strip_prefix("ms="))?;
    let delay = Duration::from_millis(millis.parse().ok()?);
    (delay <= MAX_DELAY).then_some(delay)
}

async fn echo(request: Request) -> Response {
    let content_type = request.headers().get(header::CONTENT_TYPE).cloned();
    let mut response = Response::new(request.into_body());
    if let Some(content_type) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    response
}

async fn status(Path(code): Path<String>) -> Response {
    // 1xx are no answers: a client would go on waiting for one.
    let code = code.parse().ok().filter(|code| *code >= 200);
    match code.and_then(|code| StatusCode::from_u16(code).ok()) {
        Some(code) => (code, Body::empty()).into_response(),
        None => (StatusCode::BAD_REQUEST, "/status/{code} takes a code from 200 to 999\n")
            .into_response(),
    }
}
