//! A scripted backend, a client of either version, and a proxy around them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1 as client1, http2 as client2};
use hyper::server::conn::{http1 as server1, http2 as server2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_model::traffic::{
    AcceptProxy, Cluster, EndpointSet, HttpOptions, Listener, ListenerKind, Locality, PathMatch,
    Route, RouteTable, Share, TcpOptions, TrafficConfig, UpstreamProtocol, VirtualHost,
};
use portolan_model::{Balancer, Generation};
use portolan_proxy::{Proxy, ProxyConfig, ProxyError, StateHandle};
use portolan_runtime::{Gate, Lifecycle, Metrics, Readiness};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// Longest any one thing in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    H1,
    H2,
}

pub(crate) use Version::{H1, H2};

/// A loopback address nobody else in this process has, with this port. Tests that run side by side
/// on one address would now and then be given a port that another has just let go of.
pub(crate) fn loopback(port: u16) -> SocketAddr {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    let n = u32::try_from(NEXT.fetch_add(1, Ordering::SeqCst)).expect("few");
    // 127.0.0.0/8 is all loopback on Linux; 127.0.x.x stays free for what is not ours.
    (std::net::Ipv4Addr::from_bits(0x7f01_0000 + n), port).into()
}

/// An address at which nobody listens.
pub(crate) fn down() -> SocketAddr {
    loopback(9)
}

/// Fails instead of hanging.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Yields to the other tasks until the condition holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Connects until nobody listens any more.
pub(crate) async fn until_refused(address: SocketAddr) {
    soon("a refused connection", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub(crate) fn empty() -> Body {
    full(Bytes::new())
}

/// A body of unknown length, in these chunks, then trailers.
pub(crate) fn chunks(
    chunks: impl IntoIterator<Item = Bytes, IntoIter: Send + 'static>,
    trailers: &[(&'static str, &'static str)],
) -> Body {
    let trailers: HeaderMap = (trailers.iter())
        .map(|(n, v)| (http::HeaderName::from_static(n), http::HeaderValue::from_static(v)))
        .collect();
    let end = (!trailers.is_empty()).then(|| Frame::trailers(trailers));
    let frames = chunks.into_iter().map(Frame::data).chain(end).map(Ok);
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

/// A body fed by the test.
pub(crate) fn fed() -> (tokio::sync::mpsc::Sender<Bytes>, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
    let stream = futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|bytes| (bytes, receiver))
    });
    let frames = stream.map(|bytes| Ok(Frame::data(bytes)));
    (sender, StreamBody::new(frames).boxed_unsync())
}

/// A body of so many equal parts, a pause before each but the first; `on_part` hears of each that
/// was taken.
pub(crate) fn paced(
    part: Bytes,
    times: usize,
    pause: Duration,
    on_part: impl Fn() + Send + 'static,
) -> Body {
    let state = (part, on_part, 0);
    let stream = futures_util::stream::unfold(state, move |(part, on_part, n)| async move {
        if n == times {
            return None;
        }
        if n > 0 && !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        on_part();
        Some((Ok(Frame::data(part.clone())), (part, on_part, n + 1)))
    });
    StreamBody::new(stream).boxed_unsync()
}

/// A body that never comes.
pub(crate) fn never() -> Body {
    StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, _>>()).boxed_unsync()
}

pub(crate) fn respond(status: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
}

type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Script = Arc<dyn Fn(Request<Incoming>, usize) -> Answer + Send + Sync>;

/// A server whose answers a test scripts.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    shared: Arc<BackendShared>,
    stop: CancellationToken,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct BackendShared {
    requests: AtomicUsize,
    connections: AtomicUsize,
    /// Cancelled to close the connections open now.
    closer: Mutex<CancellationToken>,
}

impl Backend {
    /// Serves `script`, which is given each request and the number of those before it.
    pub(crate) async fn start<F, R>(version: Version, script: F) -> Self
    where
        F: Fn(Request<Incoming>, usize) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let script: Script = Arc::new(move |request, n| Box::pin(script(request, n)));
        let listener = TcpListener::bind(loopback(0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (shared, stop) = (Arc::<BackendShared>::default(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, version, script, Arc::clone(&shared), stop.clone()));
        Self { address, shared, stop, _tasks: tasks }
    }

    /// Answers everything 200 with its name.
    pub(crate) async fn named(version: Version, name: &'static str) -> Self {
        Self::start(version, move |_, _| async move { respond(200, full(name)) }).await
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Closes its connections gracefully; it goes on accepting.
    pub(crate) fn close_connections(&self) {
        let mut closer = self.shared.closer.lock().expect("not poisoned");
        std::mem::take(&mut *closer).cancel();
    }

    /// Stops accepting and finishes what it has.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.close_connections();
    }
}

async fn accept(
    listener: TcpListener,
    version: Version,
    script: Script,
    shared: Arc<BackendShared>,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    while let Some(open) = &listener {
        tokio::select! {
            biased;
            () = stop.cancelled() => listener = None,
            Ok((stream, _)) = open.accept() => {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let closer = shared.closer.lock().expect("not poisoned").clone();
                let (script, shared) = (Arc::clone(&script), Arc::clone(&shared));
                connections.spawn(serve(stream, version, script, shared, closer));
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

async fn serve(
    stream: TcpStream,
    version: Version,
    script: Script,
    shared: Arc<BackendShared>,
    closer: CancellationToken,
) {
    let served = CancellationToken::new();
    let first = served.clone();
    // Only what is kept is closed: a connection serves one request before it may go.
    let close = async move {
        served.cancelled().await;
        closer.cancelled().await;
    };
    let service = service_fn(move |request| {
        first.cancel();
        let n = shared.requests.fetch_add(1, Ordering::SeqCst);
        let answer = script(request, n);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let io = TokioIo::new(stream);
    // How a connection ends is the test's to see from its other side.
    match version {
        H1 => {
            let connection =
                server1::Builder::new().header_read_timeout(None).serve_connection(io, service);
            tokio::pin!(connection);
            let _ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = close => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
        }
        H2 => {
            let connection =
                server2::Builder::new(TokioExecutor::new()).serve_connection(io, service);
            tokio::pin!(connection);
            let _ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = close => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
        }
    }
}

/// A client with one connection.
pub(crate) struct Client {
    sender: Sender,
    tasks: JoinSet<()>,
}

enum Sender {
    H1(client1::SendRequest<Body>),
    H2(client2::SendRequest<Body>),
}

impl Client {
    pub(crate) async fn connect(version: Version, address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the proxy accepts");
        let io = TokioIo::new(stream);
        let mut tasks = JoinSet::new();
        let sender = match version {
            H1 => {
                let (sender, connection) = client1::handshake(io).await.expect("a handshake");
                tasks.spawn(async { drop(connection.await) });
                Sender::H1(sender)
            }
            H2 => {
                let builder = client2::Builder::new(TokioExecutor::new());
                let (sender, connection) = builder.handshake(io).await.expect("a handshake");
                tasks.spawn(async { drop(connection.await) });
                Sender::H2(sender)
            }
        };
        Self { sender, tasks }
    }

    pub(crate) async fn try_send(
        &mut self,
        request: Request<Body>,
    ) -> hyper::Result<Response<Incoming>> {
        let sending: Pin<Box<dyn Future<Output = _> + Send>> = match &mut self.sender {
            Sender::H1(sender) => {
                sender.ready().await?;
                Box::pin(sender.send_request(request))
            }
            Sender::H2(sender) => {
                sender.ready().await?;
                Box::pin(sender.send_request(request))
            }
        };
        soon("a response", sending).await
    }

    pub(crate) async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        self.try_send(request).await.expect("a response")
    }

    /// Waits for the proxy to close the connection.
    pub(crate) async fn closed(mut self) {
        soon("the end of the connection", self.tasks.join_next()).await;
    }

    /// Hands out another handle on the same HTTP/2 connection.
    pub(crate) fn h2(&self) -> client2::SendRequest<Body> {
        match &self.sender {
            Sender::H2(sender) => sender.clone(),
            Sender::H1(_) => panic!("an HTTP/1.1 client"),
        }
    }
}

/// A request for `web.shop`, in the form its version wants.
pub(crate) fn request(version: Version, method: &str, path: &str, body: Body) -> Request<Body> {
    let builder = Request::builder().method(method);
    let builder = match version {
        H1 => builder.uri(path).header("host", "web.shop"),
        H2 => builder.uri(format!("http://web.shop{path}")),
    };
    builder.body(body).expect("a valid request")
}

pub(crate) fn get(version: Version, path: &str) -> Request<Body> {
    request(version, "GET", path, empty())
}

pub(crate) struct Collected {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Collected {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

pub(crate) async fn collect(response: Response<Incoming>) -> Collected {
    let (parts, body) = response.into_parts();
    let body = soon("a body", body.collect()).await.expect("a whole body");
    let trailers = body.trailers().cloned();
    let status = parts.status.as_u16();
    Collected { status, headers: parts.headers, body: body.to_bytes(), trailers }
}

/// A request on a connection of its own.
pub(crate) async fn fetch(version: Version, to: SocketAddr, request: Request<Body>) -> Collected {
    collect(Client::connect(version, to).await.send(request).await).await
}

/// A backend whose one response the test feeds.
pub(crate) async fn fed_backend(version: Version) -> (tokio::sync::mpsc::Sender<Bytes>, Backend) {
    let (feed, body) = fed();
    let body = std::sync::Mutex::new(Some(body));
    let backend = Backend::start(version, move |_, _| {
        let body = body.lock().expect("not poisoned").take().expect("one request");
        async move { respond(200, body) }
    })
    .await;
    (feed, backend)
}

/// A backend that answers "done" once the test opens its gate.
pub(crate) async fn gated_backend(version: Version) -> (watch::Sender<bool>, Backend) {
    let (gate, opened) = watch::channel(false);
    let backend = Backend::start(version, move |_, _| {
        let mut opened = opened.clone();
        async move {
            drop(opened.wait_for(|open| *open).await);
            respond(200, full("done"))
        }
    })
    .await;
    (gate, backend)
}

/// A configuration to build up.
#[derive(Clone, Default)]
pub(crate) struct Plan(pub(crate) TrafficConfig);

impl Plan {
    /// `web.shop` on an HTTP listener `web`, to a cluster `web` of these endpoints.
    pub(crate) fn http(endpoints: &[SocketAddr]) -> Self {
        Self::default().listener("web", loopback(0), None).route("/", None).cluster(
            "web",
            Balancer::RoundRobin,
            UpstreamProtocol::Auto,
            endpoints,
        )
    }

    /// The same over HTTP/2.
    pub(crate) fn http2(endpoints: &[SocketAddr]) -> Self {
        let plan = Self::http(endpoints);
        plan.cluster("web", Balancer::RoundRobin, UpstreamProtocol::Http2, endpoints)
    }

    /// A TCP listener `tcp` to a cluster `web` of these endpoints.
    pub(crate) fn tcp(endpoints: &[SocketAddr]) -> Self {
        Self::default().listener("tcp", loopback(0), Some("web")).cluster(
            "web",
            Balancer::RoundRobin,
            UpstreamProtocol::Auto,
            endpoints,
        )
    }

    pub(crate) fn listener(mut self, name: &str, address: SocketAddr, tcp: Option<&str>) -> Self {
        let kind = match tcp {
            Some(cluster) => ListenerKind::Tcp {
                clusters: vec![Share::all(cluster.into())],
                options: TcpOptions::default(),
            },
            None => ListenerKind::Http {
                routes: "routes".into(),
                options: HttpOptions { trust_forwarded: true, ..HttpOptions::default() },
            },
        };
        let accept_proxy = AcceptProxy::No;
        let listener = Listener { name: name.into(), address, kind, accept_proxy, tls: None };
        self.0.listeners.insert(name.into(), Arc::new(listener));
        self
    }

    pub(crate) fn without_listener(mut self, name: &str) -> Self {
        self.0.listeners.remove(name);
        self
    }

    pub(crate) fn route(mut self, prefix: &str, timeout: Option<Duration>) -> Self {
        let path = PathMatch::Prefix(prefix.into());
        let route = Route { timeout, ..Route::to(path, "web".into()) };
        let host = VirtualHost {
            name: "web".into(),
            domains: vec!["web.shop".into()],
            routes: vec![route],
        };
        let table = RouteTable::new("routes".into(), vec![Arc::new(host)]).expect("valid");
        self.0.routes.insert("routes".into(), Arc::new(table));
        self
    }

    pub(crate) fn cluster(
        mut self,
        name: &str,
        balancer: Balancer,
        upstream: UpstreamProtocol,
        endpoints: &[SocketAddr],
    ) -> Self {
        let mut cluster = Cluster::new(name.into(), balancer);
        cluster.upstream.protocol = upstream;
        cluster.upstream.connect_timeout = Duration::from_secs(2);
        self.0.clusters.insert(name.into(), Arc::new(cluster));
        self.endpoints(name, endpoints)
    }

    pub(crate) fn endpoints(mut self, name: &str, addresses: &[SocketAddr]) -> Self {
        let set = EndpointSet::flat(name.into(), addresses.iter().map(|a| (*a, 1)));
        self.0.endpoints.insert(name.into(), Arc::new(set));
        self
    }

    /// Changes the cluster `web`.
    pub(crate) fn tune(mut self, change: impl FnOnce(&mut Cluster)) -> Self {
        let mut cluster = (*self.0.clusters["web"]).clone();
        change(&mut cluster);
        self.0.clusters.insert("web".into(), Arc::new(cluster));
        self
    }

    /// Changes the only route.
    pub(crate) fn tune_route(self, change: impl FnOnce(&mut Route)) -> Self {
        self.tune_host(|host| change(&mut host.routes[0]))
    }

    /// Changes the only virtual host.
    pub(crate) fn tune_host(mut self, change: impl FnOnce(&mut VirtualHost)) -> Self {
        let mut host = (*self.0.routes["routes"].hosts[0]).clone();
        change(&mut host);
        let table = RouteTable::new("routes".into(), vec![Arc::new(host)]).expect("valid");
        self.0.routes.insert("routes".into(), Arc::new(table));
        self
    }

    /// Changes the options of the listener `web`.
    pub(crate) fn tune_http(mut self, change: impl FnOnce(&mut HttpOptions)) -> Self {
        let mut listener = (*self.0.listeners["web"]).clone();
        if let ListenerKind::Http { options, .. } = &mut listener.kind {
            change(options);
        }
        self.0.listeners.insert("web".into(), Arc::new(listener));
        self
    }

    /// The same, with what is spoken to the cluster `web`.
    pub(crate) fn speaking(self, upstream: Version) -> Self {
        self.tune(|cluster| {
            cluster.upstream.protocol = match upstream {
                H1 => UpstreamProtocol::Http1,
                H2 => UpstreamProtocol::Http2,
            };
        })
    }

    /// Gives the endpoints of a set their priorities, in order.
    pub(crate) fn priorities(mut self, name: &str, priorities: &[u32]) -> Self {
        let mut set = (*self.0.endpoints[name]).clone();
        let last = priorities.iter().max().copied().unwrap_or(0);
        set.localities =
            (0..=last).map(|priority| Locality { priority, ..Locality::default() }).collect();
        for (target, priority) in set.endpoints.iter_mut().zip(priorities) {
            target.locality = *priority;
        }
        self.0.endpoints.insert(name.into(), Arc::new(set));
        self
    }
}

/// A running proxy.
pub(crate) struct Running {
    pub(crate) lifecycle: Lifecycle,
    pub(crate) metrics: Metrics,
    pub(crate) state: StateHandle,
    gate: Gate,
    config: watch::Sender<Arc<TrafficConfig>>,
    task: JoinSet<Result<(), ProxyError>>,
}

pub(crate) async fn start(plan: Plan) -> Running {
    start_with(plan, |_| {}).await
}

/// One worker unless `adjust` says otherwise, so that counts are exact.
pub(crate) async fn start_with(plan: Plan, adjust: impl FnOnce(&mut ProxyConfig)) -> Running {
    let mut config = ProxyConfig { workers: NonZeroUsize::MIN, ..ProxyConfig::default() };
    adjust(&mut config);
    let (lifecycle, metrics) = (Lifecycle::new(), Metrics::new());
    let gate = Readiness::new(lifecycle.clone(), &metrics).gate("proxy");
    let (sender, receiver) = watch::channel(Arc::default());
    let proxy = Proxy::new(config, &metrics);
    let state = proxy.state();
    let mut task = JoinSet::new();
    task.spawn(proxy.run(receiver, gate.clone(), lifecycle.clone()));
    let running = Running { lifecycle, metrics, state, gate, config: sender, task };
    running.apply(plan).await;
    running
}

impl Running {
    /// Publishes a configuration and waits until it is applied.
    pub(crate) async fn apply(&self, plan: Plan) {
        let next = Generation(self.gate.generation().map_or(1, |g| g.0 + 1));
        let mut config = plan.0;
        config.generation = Some(next);
        self.config.send_replace(Arc::new(config));
        until("the generation", || self.gate.generation() == Some(next)).await;
    }

    /// Publishes what a control plane that numbers nothing would; returns the gate's generation.
    pub(crate) async fn apply_unnumbered(&self, plan: Plan) -> Generation {
        let before = self.gate.generation();
        self.config.send_replace(Arc::new(plan.0));
        until("a generation", || self.gate.generation() > before).await;
        self.gate.generation().expect("one was applied")
    }

    pub(crate) fn address(&self, listener: &str) -> SocketAddr {
        self.state.view().listeners[listener].bound.expect("the listener is bound")
    }

    pub(crate) fn web(&self) -> SocketAddr {
        self.address("web")
    }

    /// The value of a metric line that starts with `name`; 0 without one.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.encode().expect("metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0, |value| value.trim().parse().expect("a number"))
    }

    /// Waits for the proxy to end.
    pub(crate) async fn ended(mut self) {
        let ended = soon("the end of the proxy", self.task.join_next()).await;
        ended.expect("one task").expect("no panic").expect("a clean end");
    }

    /// Drains and waits.
    pub(crate) async fn finish(self) {
        self.lifecycle.drain();
        self.ended().await;
    }
}

/// How often each text comes up.
pub(crate) fn tally(texts: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_insert(0) += 1;
    }
    counts
}
