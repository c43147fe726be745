//! The plain API on a loopback socket, over a cluster that the test writes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portolan_model::service::Distribution;
use portolan_model::{
    Conditions, DnsName, Endpoint, Key, Node, Protocol, Service, ServiceEntry, ServiceKey,
    ServiceKind, ServicePort, Slice, SlicePort, Snapshot,
};
use portolan_proto::v1::endpoints_client::EndpointsClient;
use portolan_proto::v1::{ResolveRequest, ResolveResponse, WatchRequest, WatchResponse};
use portolan_runtime::{Lifecycle, Metrics, Publisher, Subscriber, publish};
use portolan_xds::plain::ask::Zones;
use portolan_xds::plain::hub::Hub;
use portolan_xds::plain::metrics::PlainMetrics;
use portolan_xds::plain::{Authorize, PlainApi, PlainLimits};
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint as Target};
use tonic::{Status, Streaming};
use tonic_reflection::pb::v1::ServerReflectionResponse;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

/// Longer than anything a test waits for.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster that is written to and published step by step.
#[derive(Default)]
pub(crate) struct World {
    snapshot: Snapshot,
    touched: BTreeSet<Key>,
}

/// A running server.
pub(crate) struct Server {
    pub(crate) lifecycle: Lifecycle,
    pub(crate) channel: Channel,
    uri: String,
    snapshots: Subscriber,
    metrics: Metrics,
    world: Mutex<(World, Publisher)>,
    tasks: JoinSet<()>,
}

impl World {
    pub(crate) fn apply(&mut self, entry: Arc<ServiceEntry>) {
        self.touched.insert(Key::Service(entry.service.key.clone()));
        self.snapshot.apply(entry);
    }

    pub(crate) fn delete(&mut self, name: &str) {
        let key = ServiceKey::new("shop", name).expect("valid");
        self.snapshot.delete(&key);
        self.touched.insert(Key::Service(key));
    }

    pub(crate) fn node(&mut self, name: &str, zone: &str) {
        let (name, zone) = (Arc::<str>::from(name), Some(zone.into()));
        self.touched.insert(Key::Node(Arc::clone(&name)));
        let (region, addresses, pod_ranges) = (None, Vec::new(), Vec::new());
        self.snapshot.apply_node(Arc::new(Node { name, zone, region, addresses, pod_ranges }));
    }

    pub(crate) fn publish(&mut self, publisher: &Publisher) {
        publisher.publish(&self.snapshot, std::mem::take(&mut self.touched));
    }
}

pub(crate) fn world() -> (World, Publisher, Subscriber) {
    let (publisher, snapshots) = publish::channel();
    (World::default(), publisher, snapshots)
}

/// Publishes what was written and hands it to the hub.
pub(crate) async fn drive(
    world: &mut World,
    publisher: &Publisher,
    snapshots: &mut Subscriber,
    hub: &Hub,
) {
    world.publish(publisher);
    hub.apply(snapshots.next().await.expect("published"));
}

impl Server {
    pub(crate) async fn start(limits: PlainLimits) -> Self {
        Self::serve(limits, Arc::new(|_, _| Box::pin(async { Ok(()) }))).await
    }

    pub(crate) async fn with_authorization(authorize: Arc<Authorize>) -> Self {
        Self::serve(PlainLimits::default(), authorize).await
    }

    async fn serve(limits: PlainLimits, authorize: Arc<Authorize>) -> Self {
        let (world, publisher, snapshots) = world();
        let (lifecycle, metrics) = (Lifecycle::new(), Metrics::new());
        let zone = |text| DnsName::parse(text).expect("valid");
        let zones = Zones { cluster: zone("cluster.local"), cluster_set: zone("clusterset.local") };
        let counted = PlainMetrics::new(&metrics);
        let api = PlainApi::new(snapshots.clone(), zones, limits, counted, lifecycle.clone())
            .with_authorization(authorize);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let uri = format!("http://{}", listener.local_addr().expect("bound"));
        let router = tonic::transport::Server::builder().add_routes(Routes::default());
        let served = api
            .add_to(router)
            .await
            .serve_with_incoming_shutdown(TcpIncoming::from(listener), lifecycle.draining());
        let mut tasks = JoinSet::new();
        tasks.spawn(async { served.await.expect("it serves") });
        tasks.spawn(api.run());
        let channel = Target::from_shared(uri.clone()).expect("a URI").connect_lazy();
        let world = Mutex::new((world, publisher));
        Self { lifecycle, channel, uri, snapshots, metrics, world, tasks }
    }

    /// Writes to the cluster and publishes it.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut World)) {
        let mut world = self.world.lock().expect("no panic before");
        let (world, publisher) = &mut *world;
        change(world);
        world.publish(publisher);
    }

    pub(crate) fn client(&self) -> EndpointsClient<Channel> {
        EndpointsClient::new(self.channel.clone())
    }

    /// A client that leaves this many bytes unread at most.
    pub(crate) async fn client_with_window(&self, bytes: u32) -> EndpointsClient<Channel> {
        let target = Target::from_shared(self.uri.clone()).expect("a URI");
        let target = target.initial_stream_window_size(bytes);
        EndpointsClient::new(target.connect().await.expect("a server"))
    }

    /// Whether this line stands among the metrics.
    pub(crate) fn metric(&self, line: &str) -> bool {
        self.metrics.encode().expect("it encodes").lines().any(|l| l == line)
    }

    /// Waits until a client that asks anew is told of this generation: the hub had its turn.
    pub(crate) async fn settled(&self, generation: u64) {
        let request = WatchRequest { service: "web.shop".to_owned(), ..WatchRequest::default() };
        loop {
            let mut watching = watch(self, request.clone()).await.expect("a watch");
            if next(&mut watching).await.expect("a response").generation >= generation {
                assert!(self.snapshots.newest().generation().0 >= generation);
                return;
            }
        }
    }

    /// A reflection stream on which nothing more is asked; the sender keeps it open.
    pub(crate) async fn open_reflection(
        &self,
    ) -> (
        tokio::sync::mpsc::Sender<tonic_reflection::pb::v1::ServerReflectionRequest>,
        Streaming<ServerReflectionResponse>,
    ) {
        let (sender, asked) = tokio::sync::mpsc::channel(1);
        let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
        let mut client = ServerReflectionClient::new(self.channel.clone());
        let answers = client.server_reflection_info(asked).await.expect("a stream");
        (sender, answers.into_inner())
    }

    /// Waits until the server has ended.
    pub(crate) async fn ended(mut self) {
        drop(self.channel);
        while let Some(ended) =
            tokio::time::timeout(PATIENCE, self.tasks.join_next()).await.expect("in time")
        {
            ended.expect("no panic");
        }
    }
}

pub(crate) async fn watch(
    server: &Server,
    request: WatchRequest,
) -> Result<Streaming<WatchResponse>, Status> {
    server.client().watch(request).await.map(tonic::Response::into_inner)
}

pub(crate) async fn resolve(
    server: &Server,
    request: ResolveRequest,
) -> Result<ResolveResponse, Status> {
    server.client().resolve(request).await.map(tonic::Response::into_inner)
}

/// The next response of a watch, which does not end.
pub(crate) async fn next(watching: &mut Streaming<WatchResponse>) -> Result<WatchResponse, Status> {
    let message = tokio::time::timeout(PATIENCE, watching.message()).await.expect("in time")?;
    Ok(message.expect("a stream that ends says why"))
}

/// Waits until something holds.
pub(crate) async fn in_time(what: &str, holds: impl Fn() -> bool) {
    let looked = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, looked).await.expect(what);
}

fn slice(name: &str, ports: &[(&str, Protocol, u16)], endpoints: Vec<Endpoint>) -> Slice {
    let port = |(name, protocol, port): &(&str, Protocol, u16)| SlicePort {
        name: (*name).into(),
        protocol: *protocol,
        port: *port,
    };
    Slice { name: name.into(), cluster: None, ports: ports.iter().map(port).collect(), endpoints }
}

fn service(name: &str, kind: ServiceKind, ports: Vec<ServicePort>) -> Service {
    Service::new(ServiceKey::new("shop", name).expect("valid"), kind, ports)
}

fn endpoint(octet: u8, conditions: Conditions) -> Endpoint {
    Endpoint {
        conditions,
        zone: Some(format!("zone-{}", octet % 2).into()),
        node: Some(format!("node-{octet}").into()),
        pod: Some(format!("pod-{octet}").into()),
        hostname: Some(format!("host-{octet}").into()),
        ..Endpoint::at(IpAddr::from([10, 0, 0, octet]))
    }
}

fn made(service: Service, slice: Slice) -> Arc<ServiceEntry> {
    Arc::new(ServiceEntry { service: Arc::new(service), slices: vec![Arc::new(slice)] })
}

/// A service with one port and these endpoints (last octet, ready).
pub(crate) fn entry(name: &str, port: u16, endpoints: &[(u8, bool)]) -> Arc<ServiceEntry> {
    let ports = vec![ServicePort::new("main", Protocol::Tcp, port)];
    let endpoints = endpoints.iter().map(|(octet, ready)| {
        let conditions = Conditions { ready: *ready, serving: *ready, terminating: false };
        endpoint(*octet, conditions)
    });
    let slice = slice(name, &[("main", Protocol::Tcp, 8080)], endpoints.collect());
    made(service(name, ServiceKind::Headless, ports), slice)
}

/// A service whose one endpoint is on its way out.
pub(crate) fn leaving(name: &str) -> Arc<ServiceEntry> {
    let conditions = Conditions { ready: false, serving: true, terminating: true };
    let slice = slice(name, &[("", Protocol::Tcp, 8080)], vec![endpoint(1, conditions)]);
    let ports = vec![ServicePort::new("", Protocol::Tcp, 80)];
    made(service(name, ServiceKind::Headless, ports), slice)
}

/// A service that is a name for another.
pub(crate) fn external(name: &str, target: &str) -> Arc<ServiceEntry> {
    let target = DnsName::parse(target).expect("valid");
    made(service(name, ServiceKind::ExternalName(target), Vec::new()), slice(name, &[], Vec::new()))
}

/// A service with several ports, near endpoints preferred.
pub(crate) fn with_ports(name: &str) -> Arc<ServiceEntry> {
    let ports =
        [("dns", Protocol::Udp, 53), ("dns-tcp", Protocol::Tcp, 53), ("near", Protocol::Tcp, 8080)];
    let endpoints = (1..=2).map(|octet| endpoint(octet, Conditions::READY)).collect();
    let service_ports =
        ports.iter().map(|(name, protocol, port)| ServicePort::new(name, *protocol, *port));
    let mut service = service(name, ServiceKind::Headless, service_ports.collect());
    service.traffic.distribution = Some(Distribution::PreferSameZone);
    made(service, slice(name, &ports, endpoints))
}

/// A service of many endpoints, all of which differ from those of another `round`.
pub(crate) fn large(name: &str, round: u64, count: usize) -> Arc<ServiceEntry> {
    let third = u8::try_from(round).expect("a small number");
    let endpoints = (0..count).map(|i| {
        let bytes = u16::try_from(i).expect("fits").to_be_bytes();
        Endpoint::at(IpAddr::from([10, third, bytes[0], bytes[1]]))
    });
    let slice = slice(name, &[("main", Protocol::Tcp, 8080)], endpoints.collect());
    let ports = vec![ServicePort::new("main", Protocol::Tcp, 80)];
    made(service(name, ServiceKind::Headless, ports), slice)
}
