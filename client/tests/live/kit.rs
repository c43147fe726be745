//! A control plane whose endpoints the test sets, backends, and steady calls.

use std::collections::{BTreeSet, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use portolan_backends::{Identity, grpc};
use portolan_client::EndpointSet;
use portolan_model::{
    Balancer, DnsName, Endpoint, Key, Protocol, Service, ServiceEntry, ServiceKey, ServiceKind,
    ServicePort, Slice, SlicePort, Snapshot,
};
use portolan_proto::demo::v1::SayRequest;
use portolan_proto::demo::v1::echo_client::EchoClient;
use portolan_runtime::bind::{self, Sharing};
use portolan_runtime::{Lifecycle, Metrics, Publisher, Readiness, publish};
use portolan_xds::{ResourceConfig, ServerConfig, XdsServer};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Longer than anything a test waits for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Calls that say who is reached now: of two picked at random one stays out once in 2^40.
const RECENT: usize = 40;

/// A control plane that knows one service, `shop/echo`.
pub(crate) struct Control {
    address: SocketAddr,
    running: Option<Running>,
}

struct Running {
    lifecycle: Lifecycle,
    publisher: Publisher,
    metrics: Metrics,
    tasks: JoinSet<()>,
}

impl Control {
    pub(crate) async fn start() -> Self {
        let mut control = Self { address: SocketAddr::from(([127, 0, 0, 1], 0)), running: None };
        control.start_again().await;
        control
    }

    /// Starts it where it was before, knowing nothing.
    pub(crate) async fn start_again(&mut self) {
        let listener = bind::tcp(self.address, "xds", Sharing::Exclusive).expect("a free port");
        self.address = listener.local_addr().expect("bound");
        let (lifecycle, metrics) = (Lifecycle::new(), Metrics::new());
        let (publisher, snapshots) = publish::channel();
        let zone = |text| DnsName::parse(text).expect("valid");
        let resources = ResourceConfig {
            zone: zone("cluster.local"),
            cluster_set_zone: zone("clusterset.local"),
            balancer: Balancer::LeastRequest,
            listeners: Vec::new(),
            endpoints_ttl_secs: 0,
            gateway_address: std::net::Ipv4Addr::LOCALHOST.into(),
            load_reports: false,
            trust_domain: "cluster.local".to_owned(),
        };
        let server = XdsServer::new(resources, ServerConfig::default(), &metrics);
        let server = server.expect("no certificate to read");
        let gate = Readiness::new(lifecycle.clone(), &metrics).gate("xds");
        let served = server.run(listener, snapshots, gate, lifecycle.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async { served.await.expect("it serves") });
        self.running = Some(Running { lifecycle, publisher, metrics, tasks });
    }

    pub(crate) async fn stop(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.lifecycle.drain();
        let ended = tokio::time::timeout(PATIENCE, running.tasks.join_next()).await;
        ended.expect("in time").expect("a task").expect("no panic");
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start_again().await;
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    /// Publishes the service with these endpoints; without any, no service.
    pub(crate) fn publish(&self, endpoints: &[SocketAddr]) {
        let key = ServiceKey::new("shop", "echo").expect("valid");
        let mut snapshot = Snapshot::default();
        if !endpoints.is_empty() {
            let ports = vec![ServicePort::new("", Protocol::Tcp, 80)];
            let service = Service::new(key.clone(), ServiceKind::Headless, ports);
            let slices = endpoints.iter().map(|address| Slice {
                name: address.to_string().into(),
                cluster: None,
                ports: vec![SlicePort {
                    name: "".into(),
                    protocol: Protocol::Tcp,
                    port: address.port(),
                }],
                endpoints: vec![Endpoint::at(address.ip())],
            });
            let slices = slices.map(Arc::new).collect();
            snapshot.apply(Arc::new(ServiceEntry { service: Arc::new(service), slices }));
        }
        self.running().publisher.publish(&snapshot, [Key::Service(key)].into());
    }

    /// Waits until somebody watches and was told of the newest state.
    pub(crate) async fn watched(&self) {
        self.metric("portolan_plain_responses_total{kind=\"full\"} 1").await;
    }

    /// Waits until nobody watches.
    pub(crate) async fn unwatched(&self) {
        self.metric("portolan_plain_watches 0").await;
    }

    async fn metric(&self, line: &str) {
        let metrics = &self.running().metrics;
        let look = || metrics.encode().expect("it encodes").lines().any(|l| l == line);
        until(line, look).await;
    }
}

/// Waits until something holds.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let looked = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

pub(crate) async fn next(
    sets: &mut BoxStream<'static, Result<EndpointSet, Status>>,
) -> EndpointSet {
    let set = tokio::time::timeout(PATIENCE, sets.next()).await.expect("in time");
    set.expect("without end").expect("no refusal")
}

/// An Echo server.
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
    lifecycle: Lifecycle,
    /// Cut off when dropped.
    _task: JoinSet<()>,
}

impl Backend {
    pub(crate) fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let lifecycle = Lifecycle::new();
        let served = grpc::serve(listener, Identity::new("echo", name), lifecycle.clone());
        let mut task = JoinSet::new();
        task.spawn(async { served.await.expect("it serves") });
        Self { address, lifecycle, _task: task }
    }

    pub(crate) async fn stop(&self) {
        self.lifecycle.drain();
        let gone = || std::net::TcpStream::connect(self.address).is_err();
        until("the backend is gone", gone).await;
    }
}

/// Calls one after the other, until stopped. None may fail.
pub(crate) struct Pump {
    seen: Arc<Mutex<Seen>>,
    stop: tokio::sync::oneshot::Sender<()>,
    task: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    recent: VecDeque<String>,
    failures: Vec<Status>,
    count: usize,
}

impl Pump {
    pub(crate) fn start(channel: Channel) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let (stop, mut stopped) = tokio::sync::oneshot::channel();
        let own = Arc::clone(&seen);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut echo = EchoClient::new(channel);
            while stopped.try_recv().is_err() {
                let mut request = Request::new(SayRequest::default());
                request.set_timeout(PATIENCE);
                let answer = echo.say(request).await;
                let mut seen = own.lock().unwrap_or_else(PoisonError::into_inner);
                seen.count += 1;
                match answer {
                    Ok(reply) => seen.recent.push_back(reply.into_inner().endpoint),
                    Err(status) => seen.failures.push(status),
                }
                if seen.recent.len() > RECENT {
                    seen.recent.pop_front();
                }
            }
        });
        Self { seen, stop, task }
    }

    /// Waits until these answer and nobody else, for calls made from now on.
    pub(crate) async fn reaches(&self, expected: &[&str]) {
        let expected: BTreeSet<String> = expected.iter().map(|e| (*e).to_owned()).collect();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).recent.clear();
        let settled = || {
            let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(seen.failures.is_empty(), "{:?}", seen.failures);
            let who: BTreeSet<String> = seen.recent.iter().cloned().collect();
            seen.recent.len() == RECENT && who == expected
        };
        until(&format!("{expected:?} answer"), settled).await;
    }

    /// Stops; how many calls were made.
    pub(crate) async fn stop(self) -> usize {
        // The task reads it, or has ended and is told of below.
        let _sent = self.stop.send(());
        self.task.join_all().await;
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(seen.failures.is_empty(), "{:?}", seen.failures);
        seen.count
    }
}
