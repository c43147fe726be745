//! The admin port: `/metrics`, `/livez`, `/readyz`, and `/debug/…` pages the roles add.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::lifecycle::Lifecycle;
use crate::readiness::Readiness;
use crate::telemetry::Metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Page = Arc<dyn Fn() -> Result<Vec<u8>, serde_json::Error> + Send + Sync>;

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    readiness: Readiness,
    metrics: Metrics,
    pages: Arc<BTreeMap<&'static str, Page>>,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("pages", &self.pages.keys()).finish_non_exhaustive()
    }
}

impl Admin {
    /// Metrics and health, no debug pages yet.
    #[must_use]
    pub fn new(readiness: Readiness, metrics: Metrics) -> Self {
        Self { readiness, metrics, pages: Arc::default() }
    }

    /// Adds `/debug/<name>`: the value that `make` returns, as JSON.
    #[must_use]
    pub fn with_page<T: serde::Serialize>(
        mut self,
        name: &'static str,
        make: impl Fn() -> T + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.pages)
            .insert(name, Arc::new(move || serde_json::to_vec_pretty(&make())));
        self
    }

    /// Serves on a bound socket until the process aborts; it goes on answering while the process
    /// drains, so that `/readyz` can say so.
    ///
    /// # Errors
    /// When the socket cannot be used.
    pub fn serve(
        self,
        listener: std::net::TcpListener,
        lifecycle: Lifecycle,
    ) -> impl Future<Output = Result<(), std::io::Error>> {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/debug/", get(index))
            .route("/debug/{page}", get(page))
            .with_state(self);
        async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                result = axum::serve(listener, router) => result,
                () = lifecycle.aborted() => Ok(()),
            }
        }
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics: {error}\n")).into_response()
        }
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.readiness.check() {
        Ok(text) => text.into_response(),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, text).into_response(),
    }
}

async fn index(State(admin): State<Admin>) -> String {
    admin.pages.keys().map(|name| format!("/debug/{name}\n")).collect()
}

async fn page(State(admin): State<Admin>, Path(name): Path<String>) -> Response {
    let Some(page) = admin.pages.get(&*name).cloned() else {
        return (StatusCode::NOT_FOUND, format!("no page /debug/{name}; see /debug/\n"))
            .into_response();
    };
    // A snapshot of 150,000 endpoints takes a while to print: not on the async workers.
    match tokio::task::spawn_blocking(move || page()).await {
        Ok(Ok(json)) => {
            ([(header::CONTENT_TYPE, "application/json")], Body::from(json)).into_response()
        }
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(panic) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{panic}\n")).into_response(),
    }
}
