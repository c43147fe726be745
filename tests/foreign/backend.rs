//! Endpoints that say who they are: HTTP in both versions on one port, and lines of TCP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// What an HTTP endpoint says of the request it got.
pub(crate) const ENDPOINT: &str = "x-endpoint";
pub(crate) const VERSION: &str = "x-version";
pub(crate) const FORWARDED: &str = "x-got-forwarded";
pub(crate) const GOT_TARGET: &str = "x-got-target";
pub(crate) const GOT_HOST: &str = "x-got-host";
/// What it was told of the client's certificate.
pub(crate) const GOT_CERT: &str = "x-got-cert";
/// A field of requests that routes change, and what the endpoint got of it.
pub(crate) const CHANGED: &str = "x-changed";
pub(crate) const GOT_CHANGED: &str = "x-got-changed";
/// What the endpoint knows of the TLS that it was spoken to in: name, protocol, whether the proxy proved
/// itself. Empty in the clear.
pub(crate) const SECURED: &str = "x-secured";
/// First octet of a connection that begins with TLS (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// Milliseconds that a request asks it to take.
pub(crate) const DELAY: &str = "x-delay-ms";
/// Where it is probed.
pub(crate) const HEALTH: &str = "/health";

/// An HTTP endpoint; closed with all its connections when dropped.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    behaviour: Arc<Behaviour>,
    task: JoinHandle<()>,
}

struct Behaviour {
    name: String,
    status: AtomicU16,
    health: AtomicU16,
    requests: AtomicUsize,
    delay_ms: AtomicU64,
    held: watch::Sender<bool>,
}

impl Backend {
    pub(crate) async fn start(name: &str) -> Self {
        Self::within(name, None).await
    }

    /// One that is spoken to within TLS, and in the clear, too.
    pub(crate) async fn within(name: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let tls = tls.map(TlsAcceptor::from);
        let behaviour = Arc::new(Behaviour {
            name: name.to_owned(),
            status: AtomicU16::new(200),
            health: AtomicU16::new(200),
            requests: AtomicUsize::new(0),
            delay_ms: AtomicU64::new(0),
            held: watch::Sender::new(false),
        });
        let shared = Arc::clone(&behaviour);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, tls.clone(), Arc::clone(&shared)));
            }
        });
        Self { address, behaviour, task }
    }

    /// Several, named `a`, `b` and so on.
    pub(crate) async fn several(count: usize) -> Vec<Self> {
        let mut all = Vec::with_capacity(count);
        for name in ["a", "b", "c", "d", "e"].into_iter().take(count) {
            all.push(Self::start(name).await);
        }
        all
    }

    /// Answers requests with this status from now on.
    pub(crate) fn answer(&self, status: u16) {
        self.behaviour.status.store(status, Ordering::Relaxed);
    }

    /// Answers probes with this status from now on.
    pub(crate) fn answer_probes(&self, status: u16) {
        self.behaviour.health.store(status, Ordering::Relaxed);
    }

    /// Takes this long over each request from now on.
    pub(crate) fn take(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).expect("short");
        self.behaviour.delay_ms.store(millis, Ordering::Relaxed);
    }

    /// Keeps requests without an answer from now on, until [`release`](Self::release).
    pub(crate) fn hold(&self) {
        self.behaviour.held.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.behaviour.held.send_replace(false);
    }

    /// Requests so far, probes apart.
    pub(crate) fn requests(&self) -> usize {
        self.behaviour.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where they are.
pub(crate) fn addresses(backends: &[Backend]) -> Vec<SocketAddr> {
    backends.iter().map(|backend| backend.address).collect()
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, behaviour: Arc<Behaviour>) {
    let mut start = [0; 3];
    while stream.peek(&mut start).await.is_ok_and(|read| read > 0 && read < start.len()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let Some(tls) = tls.filter(|_| start[0] == HANDSHAKE) else {
        return speak(stream, &start == b"PRI", String::new(), behaviour).await;
    };
    let Ok(stream) = tls.accept(stream).await else { return };
    let session = stream.get_ref().1;
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let secured = format!(
        "{} {}{}",
        session.server_name().unwrap_or("-"),
        String::from_utf8_lossy(session.alpn_protocol().unwrap_or(b"-")),
        if session.peer_certificates().is_some() { " proven" } else { "" },
    );
    speak(stream, is_http2, secured, behaviour).await;
}

/// `secured`: what is known of its TLS.
async fn speak(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_http2: bool,
    secured: String,
    behaviour: Arc<Behaviour>,
) {
    let service =
        service_fn(move |request| answer(Arc::clone(&behaviour), secured.clone(), request));
    let io = TokioIo::new(stream);
    // How a connection ends is the proxy's affair.
    if is_http2 {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ended = builder.serve_connection(io, service).await;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ended = builder.serve_connection(io, service).await;
    }
}

async fn answer(
    behaviour: Arc<Behaviour>,
    secured: String,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let response = Response::builder().header(ENDPOINT, &behaviour.name).header(SECURED, secured);
    if head.uri.path() == HEALTH {
        let status = behaviour.health.load(Ordering::Relaxed);
        return Ok(response.status(status).body(Full::default()).expect("a response"));
    }
    behaviour.requests.fetch_add(1, Ordering::Relaxed);
    let text = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok());
    let asked = text(DELAY).and_then(|value| value.parse().ok()).unwrap_or(0_u64);
    let delay = asked.max(behaviour.delay_ms.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_millis(delay)).await;
    let mut held = behaviour.held.subscribe();
    held.wait_for(|held| !held).await.expect("the sender is held here");
    let forwarded = text("x-forwarded-for").unwrap_or_default().to_owned();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let changed: Vec<_> =
        head.headers.get_all(CHANGED).iter().filter_map(|value| value.to_str().ok()).collect();
    let authority = head.uri.authority().map(|authority| authority.as_str());
    let host = authority.or(text("host")).unwrap_or_default().to_owned();
    let target = head.uri.path_and_query().map(|target| target.as_str()).unwrap_or_default();
    let response = response
        .status(behaviour.status.load(Ordering::Relaxed))
        .header(GOT_TARGET, target)
        .header(GOT_HOST, host)
        .header(GOT_CHANGED, changed.join(","))
        .header(GOT_CERT, text("x-forwarded-client-cert").unwrap_or_default())
        .header(VERSION, format!("{:?}", head.version))
        .header(FORWARDED, forwarded)
        .body(Full::new(body));
    Ok(response.expect("a response"))
}

/// A TCP endpoint: says its name and sends back whatever comes.
pub(crate) struct Lines {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Lines {
    pub(crate) async fn start(name: &str) -> Self {
        Self::within(name, None).await
    }

    /// One that is spoken to within TLS.
    pub(crate) async fn within(name: &str, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let greeting = format!("{name}\n");
        let tls = tls.map(TlsAcceptor::from);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (greeting, tls) = (greeting.clone(), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => echo(stream, greeting).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                echo(stream, greeting).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, task }
    }
}

/// Sends back what comes, and the end when that does.
async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin, greeting: String) {
    let mut buffer = [0; 1024];
    if stream.write_all(greeting.as_bytes()).await.is_err() || stream.flush().await.is_err() {
        return;
    }
    while let Ok(read) = stream.read(&mut buffer).await {
        if read == 0 {
            let _gone = stream.shutdown().await;
            return;
        }
        if stream.write_all(&buffer[..read]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.task.abort();
    }
}
