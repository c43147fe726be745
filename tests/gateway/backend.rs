//! Endpoints that answer with what they got.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// First octet of a connection that begins with TLS (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// What it is asked to do, by fields of a request: to take this long (`200`), or so long if it has this
/// name (`v1=200`).
pub(crate) const DELAY_MS: &str = "x-ask-delay-ms";
/// Fails so many times with this status (`2x503`) before it answers, for each request id.
pub(crate) const FAIL: &str = "x-ask-fail";

/// An endpoint; closed with all its connections when dropped.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    name: String,
    requests: Mutex<Vec<Value>>,
    failed: Mutex<HashMap<String, usize>>,
}

impl Backend {
    pub(crate) async fn start(name: &str) -> Self {
        Self::within(name, None).await
    }

    /// One that is spoken to within TLS, and in the clear, too.
    pub(crate) async fn within(name: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let tls = tls.map(TlsAcceptor::from);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Seen { name: name.to_owned(), ..Seen::default() });
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, tls) = (Arc::clone(&shared), tls.clone());
                connections.spawn(async move {
                    let mut first = [0];
                    let Ok(1) = stream.peek(&mut first).await else { return };
                    let Some(tls) = tls.filter(|_| first[0] == HANDSHAKE) else {
                        return serve(stream, String::new(), seen).await;
                    };
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let name = stream.get_ref().1.server_name().unwrap_or("-").to_owned();
                    serve(stream, name, seen).await;
                });
            }
        });
        Self { address, seen, task }
    }

    /// The requests so far whose path is this.
    pub(crate) fn requests(&self, path: &str) -> Vec<Value> {
        let requests = self.seen.requests.lock().expect("no panic");
        requests.iter().filter(|request| request["path"] == path).cloned().collect()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `tls`: the name that TLS asked for.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    tls: String,
    seen: Arc<Seen>,
) {
    let service = service_fn(move |request| answer(request, tls.clone(), Arc::clone(&seen)));
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // A client that goes away is none of ours.
    let _gone = builder.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    request: Request<Incoming>,
    tls: String,
    seen: Arc<Seen>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let field = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let headers: BTreeMap<&str, Vec<&str>> = (head.headers.keys())
        .map(|name| {
            let all = head.headers.get_all(name);
            (name.as_str(), all.iter().filter_map(|value| value.to_str().ok()).collect())
        })
        .collect();
    let got = json!({
        "backend": seen.name,
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map(ToString::to_string),
        "host": head.uri.authority().map(ToString::to_string).or(field("host").map(str::to_owned)),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    });
    // What is asked a hundred thousand times need not be kept.
    if head.uri.path() != "/split" {
        seen.requests.lock().expect("no panic").push(got.clone());
    }
    let mine = |text: &str| match text.split_once('=') {
        Some((name, ms)) if name == seen.name => ms.parse().ok(),
        Some(_) => None,
        None => text.parse().ok(),
    };
    if let Some(ms) = field(DELAY_MS).and_then(mine) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    let mut response = Response::builder().header("x-backend", &seen.name).header("x-tls", tls);
    for (name, value) in [("x-old", "old"), ("x-gone", "gone")] {
        response = response.header(name, value);
    }
    let mut status = 200;
    if let Some((times, code)) = field(FAIL).and_then(|text| text.split_once('x')) {
        let mut failed = seen.failed.lock().expect("no panic");
        let count = failed.entry(field("x-request-id").unwrap_or_default().to_owned()).or_default();
        *count += 1;
        if *count <= times.parse().unwrap_or(0) {
            status = code.parse().unwrap_or(500);
        }
    }
    if field("content-type").is_some_and(|kind| kind.starts_with("application/grpc")) {
        response = response.header("content-type", "application/grpc").header("grpc-status", "0");
        return Ok(response.body(Full::default()).expect("valid"));
    }
    let body = Full::new(Bytes::from(got.to_string()));
    Ok(response.status(status).body(body).expect("valid"))
}
