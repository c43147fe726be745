//! The admin port: `/metrics`, `/livez`, `/readyz`, and what the roles add: pages below `/debug/`,
//! feeds below `/get/` that say what there is and, to whoever watches, what changes, answers below
//! `/ask/` to what is asked with parameters, and below `/do/` what changes something.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::lifecycle::Lifecycle;
use crate::readiness::Readiness;
use crate::telemetry::Metrics;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Feeds open at once; one more is refused.
const MAX_FEEDS: usize = 64;
/// Largest body of a request, in bytes.
pub const MAX_UPLOAD: usize = 5 * 1024 * 1024;

type Feed = Arc<dyn Fn(Question) -> BoxStream<'static, String> + Send + Sync>;
/// Does what is asked with parameters and, for some, the bytes that come along.
type Act =
    Arc<dyn Fn(Parameters, Bytes) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;
/// Answers what is asked with parameters: a value as JSON, or why there is none.
type Ask = Arc<dyn Fn(Parameters) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync>;
type Page = Arc<dyn Fn() -> Result<Vec<u8>, serde_json::Error> + Send + Sync>;

/// The parameters of a URL.
pub type Parameters = BTreeMap<String, String>;

/// Refuses parameters that are none of these, by name.
///
/// # Errors
/// The first of them, and those that are known.
pub fn only(parameters: &Parameters, known: &[&str]) -> Result<(), String> {
    match parameters.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(format!("{key}: unknown parameter; known: {}", known.join(", "))),
        None => Ok(()),
    }
}

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    readiness: Readiness,
    metrics: Metrics,
    pages: Arc<BTreeMap<&'static str, Page>>,
    feeds: Arc<BTreeMap<&'static str, Feed>>,
    asks: Arc<BTreeMap<&'static str, Ask>>,
    actions: Arc<BTreeMap<&'static str, Act>>,
    open_feeds: Arc<Semaphore>,
}

/// What a feed is asked, by the query of its URL.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Go on with what changes, instead of ending after what there is.
    #[serde(default)]
    pub watch: bool,
    /// Only what is in this namespace.
    pub namespace: Option<String>,
    /// Only what has this name.
    pub name: Option<String>,
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
        let open_feeds = Arc::new(Semaphore::new(MAX_FEEDS));
        Self {
            readiness,
            metrics,
            pages: Arc::default(),
            feeds: Arc::default(),
            asks: Arc::default(),
            actions: Arc::default(),
            open_feeds,
        }
    }

    /// Adds `/ask/<name>`: what `answer` makes of the URL's parameters, as JSON, or 400 with why.
    #[must_use]
    pub fn with_ask<F, T>(
        mut self,
        name: &'static str,
        answer: impl Fn(Parameters) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
        T: serde::Serialize,
    {
        Arc::make_mut(&mut self.asks).insert(name, answering(answer));
        self
    }

    /// Adds `/do/<name>`, which only POST reaches: what `act` makes of the URL's parameters, as
    /// JSON, or 400 with why it was not done.
    #[must_use]
    pub fn with_action<F, T>(
        mut self,
        name: &'static str,
        act: impl Fn(Parameters) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
        T: serde::Serialize,
    {
        let act = answering(act);
        let act: Act = Arc::new(move |parameters, _: Bytes| act(parameters));
        Arc::make_mut(&mut self.actions).insert(name, act);
        self
    }

    /// The same for what takes the body of the request as well, [`MAX_UPLOAD`] bytes at most.
    #[must_use]
    pub fn with_upload<F, T>(
        mut self,
        name: &'static str,
        act: impl Fn(Parameters, Bytes) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<T, String>> + Send + 'static,
        T: serde::Serialize,
    {
        let act: Act = Arc::new(move |parameters, body| {
            let answer = act(parameters, body);
            Box::pin(async move { as_json(answer.await) })
        });
        Arc::make_mut(&mut self.actions).insert(name, act);
        self
    }

    /// Adds `/get/<name>`: the lines that `make` answers a question with, each a JSON value.
    #[must_use]
    pub fn with_feed(
        mut self,
        name: &'static str,
        make: impl Fn(Question) -> BoxStream<'static, String> + Send + Sync + 'static,
    ) -> Self {
        Arc::make_mut(&mut self.feeds).insert(name, Arc::new(make));
        self
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
        let router = self.router();
        async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::select! {
                result = axum::serve(listener, router) => result,
                () = lifecycle.aborted() => Ok(()),
            }
        }
    }
}

impl Admin {
    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(readyz))
            .route("/debug/", get(index))
            .route("/debug/{page}", get(page))
            .route("/get/{feed}", get(feed))
            .route("/ask/{name}", get(ask))
            .route("/do/{name}", post(act).layer(DefaultBodyLimit::max(MAX_UPLOAD)))
            .with_state(self)
    }
}

/// The answers of a function as JSON.
fn answering<F, T>(answer: impl Fn(Parameters) -> F + Send + Sync + 'static) -> Ask
where
    F: Future<Output = Result<T, String>> + Send + 'static,
    T: serde::Serialize,
{
    Arc::new(move |parameters: Parameters| -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let answer = answer(parameters);
        Box::pin(async move { as_json(answer.await) })
    })
}

fn as_json<T: serde::Serialize>(answer: Result<T, String>) -> Result<Vec<u8>, String> {
    serde_json::to_vec_pretty(&answer?).map_err(|error| error.to_string())
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

async fn feed(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    question: Result<Query<Question>, QueryRejection>,
) -> Response {
    let refuse = |status: StatusCode, text: String| (status, text).into_response();
    let Some(feed) = admin.feeds.get(&*name) else {
        let known: Vec<&str> = admin.feeds.keys().copied().collect();
        let text = format!("no feed /get/{name}; there are: {}\n", known.join(", "));
        return refuse(StatusCode::NOT_FOUND, text);
    };
    let question = match question {
        Ok(Query(question)) => question,
        Err(error) => return refuse(StatusCode::BAD_REQUEST, format!("{}\n", error.body_text())),
    };
    let Ok(permit) = admin.open_feeds.clone().try_acquire_owned() else {
        let text = format!("{MAX_FEEDS} feeds are open already\n");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, text);
    };
    let lines = feed(question).map(move |line| {
        // The permit lives as long as the feed.
        let _open = &permit;
        Ok::<_, std::convert::Infallible>(line + "\n")
    });
    ([(header::CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response()
}

async fn ask(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Response {
    let Some(ask) = admin.asks.get(&*name).cloned() else {
        let known: Vec<&str> = admin.asks.keys().copied().collect();
        let text = format!("nothing answers /ask/{name}; there are: {}\n", known.join(", "));
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    reply(ask(parameters)).await
}

async fn act(
    State(admin): State<Admin>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Query(parameters): Query<Parameters>,
    body: Bytes,
) -> Response {
    // A browser says so when a page makes it post: no page of anybody's is to change anything here.
    if headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site") {
        return (StatusCode::FORBIDDEN, "not from a browser\n").into_response();
    }
    let Some(act) = admin.actions.get(&*name).cloned() else {
        let known: Vec<&str> = admin.actions.keys().copied().collect();
        let text = format!("nothing is done by /do/{name}; there are: {}\n", known.join(", "));
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    reply(act(parameters, body)).await
}

async fn reply(answer: impl Future<Output = Result<Vec<u8>, String>>) -> Response {
    match answer.await {
        Ok(json) => {
            ([(header::CONTENT_TYPE, "application/json")], Body::from(json)).into_response()
        }
        Err(text) => (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    /// What a request is answered with.
    async fn exchange(at: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(at).await.expect("connected");
        let request = format!("{request}\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer
    }

    #[tokio::test]
    async fn an_action_is_done_by_post_alone_and_says_what_came_of_it_or_why_not() {
        let (lifecycle, metrics) = (Lifecycle::new(), Metrics::new());
        let readiness = Readiness::new(lifecycle.clone(), &metrics);
        let done = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = done.clone();
        let admin = Admin::new(readiness, metrics).with_action("open", move |parameters| {
            let count = count.clone();
            async move {
                let door = parameters.get("door").ok_or("door: missing")?;
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Ok(format!("{door} is open"))
            }
        });
        let listener =
            crate::bind::tcp(([127, 0, 0, 1], 0).into(), "admin", crate::bind::Sharing::Exclusive);
        let listener = listener.expect("a free port");
        let at = listener.local_addr().expect("an address");
        let mut serving = tokio::task::JoinSet::new();
        serving.spawn(admin.serve(listener, lifecycle.clone()));
        let cases = [
            ("POST /do/open?door=red%20one HTTP/1.1", "200", "\"red one is open\"", 1),
            ("POST /do/open HTTP/1.1", "400", "door: missing\n", 1),
            ("POST /do/shut HTTP/1.1", "404", "nothing is done by /do/shut; there are: open\n", 1),
            ("GET /do/open?door=red HTTP/1.1", "405", "", 1),
            ("PUT /do/open?door=red HTTP/1.1", "405", "", 1),
            ("POST /ask/open?door=red HTTP/1.1", "405", "", 1),
            (
                "POST /do/open?door=red HTTP/1.1\r\norigin: http://b",
                "403",
                "not from a browser\n",
                1,
            ),
            ("POST /do/open?door=blue HTTP/1.1\r\ncontent-length: 0", "200", "blue is open\"", 2),
        ];
        for (request, status, text, times) in cases {
            let answer = exchange(at, request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
            assert!(answer.ends_with(text), "{request}: {answer}");
            assert_eq!(done.load(std::sync::atomic::Ordering::Relaxed), times, "{request}");
        }
    }
}
