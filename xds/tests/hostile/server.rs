//! The server of these tests with what it serves, and the well-behaved client beside the hostile
//! one.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use portolan_model::{Key, Snapshot};
use portolan_proto::envoy::discovery::DiscoveryRequest;
use portolan_proto::envoy::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use portolan_proto::envoy::endpoint::ClusterLoadAssignment;
use portolan_proto::envoy::endpoint::lb_endpoint::HostIdentifier;
use portolan_runtime::{Lifecycle, Metrics, Publisher, Readiness, publish};
use portolan_xds::resource::ResourceType;
use portolan_xds::server::clients::Clients;
use portolan_xds::{ServerConfig, ServerLimits, XdsServer};
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::support::{config, entry};

/// Services besides the one that changes.
const OTHERS: u32 = 2_000;
/// How soon the well-behaved client has a change.
const BOUND: Duration = Duration::from_secs(2);
/// How long anything else may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A server on a socket.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    view: View,
    snapshot: Snapshot,
    publisher: Publisher,
    changes: u8,
    lifecycle: Lifecycle,
}

/// What can be seen of a server while it is attacked.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) address: SocketAddr,
    clients: Clients,
    metrics: Metrics,
}

/// A client that asks for one service's endpoints, and takes all that comes.
pub(crate) struct WellBehaved {
    /// The last octet of the endpoint's address.
    newest: watch::Receiver<u8>,
    reading: JoinHandle<()>,
}

impl Server {
    pub(crate) async fn start(limits: ServerLimits) -> Self {
        let mut snapshot = Snapshot::default();
        for n in 0..OTHERS {
            snapshot.apply(entry(&format!("other-{n}"), 80, &[(1, true), (2, true)]));
        }
        snapshot.apply(entry("web", 80, &[(0, true)]));
        let (publisher, subscriber) = publish::channel();
        let (lifecycle, metrics) = (Lifecycle::new(), Metrics::new());
        let gate = Readiness::new(lifecycle.clone(), &metrics).gate("xds");
        let server_config = ServerConfig { limits, ..ServerConfig::default() };
        let server = XdsServer::new(config(), server_config, &metrics).expect("no TLS");
        let clients = server.clients();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("settable");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(server.run(listener, subscriber, gate, lifecycle.clone()));
        let generation = publisher.publish(&snapshot, BTreeSet::new());
        let view = View { address, clients, metrics };
        view.until("the first snapshot", |view| view.clients.announced() >= generation).await;
        Self { address, view, snapshot, publisher, changes: 0, lifecycle }
    }

    /// Changes the endpoints of `shop/web`; returns the last octet of the new one.
    pub(crate) fn change(&mut self) -> u8 {
        self.changes = self.changes % 200 + 1;
        self.publish(entry("web", 80, &[(self.changes, true)]));
        self.changes
    }

    /// Changes a service that is no concern of the well-behaved client.
    pub(crate) fn change_other(&mut self, number: u32, octet: u8) {
        self.publish(entry(&format!("other-{}", number % OTHERS), 80, &[(octet, true)]));
    }

    fn publish(&mut self, entry: std::sync::Arc<portolan_model::ServiceEntry>) {
        let key = Key::Service(entry.service.key.clone());
        self.snapshot.apply(entry);
        self.publisher.publish(&self.snapshot, BTreeSet::from([key]));
    }

    pub(crate) fn view(&self) -> View {
        self.view.clone()
    }

    pub(crate) fn metric(&self, name: &str) -> u64 {
        self.view.metric(name)
    }

    /// Waits until nothing is left of anybody but the well-behaved client.
    pub(crate) async fn until_alone(&mut self, client: &WellBehaved) {
        let view = self.view();
        view.until("the streams are gone", |view| view.metric("xds_streams") == 1).await;
        view.until("the clients are gone", |view| view.clients.connected().len() == 1).await;
        // The gauge of names is that of the last publish.
        let octet = self.change();
        client.has(octet).await;
        view.until("the names are gone", |view| view.metric("xds_subscribed_names") == 1).await;
    }
}

impl View {
    /// The sum of a metric over its labels; the name without `portolan_`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.metrics.encode().expect("metrics");
        let lines = text.lines().filter_map(|l| l.strip_prefix("portolan_")?.strip_prefix(name));
        let values = lines.filter(|rest| rest.starts_with([' ', '{']));
        values.filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// Waits until something holds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "not in time: {what}");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.lifecycle.abort();
    }
}

impl WellBehaved {
    /// Connects and waits for its first endpoints, before any change of them.
    pub(crate) async fn start(address: SocketAddr) -> Self {
        let client = Self::connect(address).await;
        client.has(0).await;
        client
    }

    /// Connects and waits for its first endpoints, whatever they are.
    pub(crate) async fn start_now(address: SocketAddr) -> Self {
        let client = Self::connect(address).await;
        let mut newest = client.newest.clone();
        let arrived = timeout(BOUND, newest.wait_for(|found| *found != u8::MAX)).await;
        drop(arrived.expect("in time").expect("its stream is open"));
        client
    }

    async fn connect(address: SocketAddr) -> Self {
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
        let channel = endpoint.connect().await.expect("let in");
        let mut service = AggregatedDiscoveryServiceClient::new(channel);
        let (sender, receiver) = mpsc::channel(4);
        let request = |version: String, nonce: String| DiscoveryRequest {
            version_info: version,
            response_nonce: nonce,
            type_url: ResourceType::Endpoints.type_url().to_owned(),
            resource_names: vec!["shop/web:80".to_owned()],
            ..DiscoveryRequest::default()
        };
        sender.send(request(String::new(), String::new())).await.expect("there is room");
        let call = service.stream_aggregated_resources(ReceiverStream::new(receiver));
        let mut responses = call.await.expect("let in").into_inner();
        // Greater than any: nothing has come yet.
        let (newest, watching) = watch::channel(u8::MAX);
        let reading = tokio::spawn(async move {
            while let Ok(Some(response)) = responses.message().await {
                for any in &response.resources {
                    newest.send_replace(octet(&any.value));
                }
                let ack = request(response.version_info, response.nonce);
                if sender.send(ack).await.is_err() {
                    return;
                }
            }
        });
        Self { newest: watching, reading }
    }

    /// Waits for a change, for as long as it may take at most.
    pub(crate) async fn has(&self, octet: u8) {
        let mut newest = self.newest.clone();
        let arrived = timeout(BOUND, newest.wait_for(|found| *found == octet)).await;
        let arrived = arrived.unwrap_or_else(|_| panic!("no change {octet} in {BOUND:?}"));
        drop(arrived.expect("its stream is open"));
    }
}

impl Drop for WellBehaved {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The last octet of the only endpoint.
fn octet(assignment: &[u8]) -> u8 {
    let read = ClusterLoadAssignment::decode(assignment).expect("a set of endpoints");
    let endpoint = &read.endpoints[0].lb_endpoints[0];
    let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else {
        panic!("{endpoint:?}")
    };
    let text = format!("{:?}", endpoint.address);
    let address = text.split("10.0.0.").nth(1).expect("an address");
    address.split('"').next().and_then(|octet| octet.parse().ok()).expect("an octet")
}
