//! Our client against control planes of every kind: what of a response it takes, when what it has
//! is in force, and what it does with one that sends and does not read.

use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::TrafficConfig;
use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::cluster::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use portolan_proto::envoy::core::address::Address as AddressKind;
use portolan_proto::envoy::core::socket_address::PortSpecifier;
use portolan_proto::envoy::core::{Address, SocketAddress};
use portolan_proto::envoy::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use portolan_proto::envoy::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use portolan_proto::envoy::endpoint::ClusterLoadAssignment;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use portolan_proto::envoy::http_connection_manager::{HttpConnectionManager, Rds};
use portolan_proto::envoy::listener::{Filter, FilterChain, Listener, filter::ConfigType};
use portolan_proto::envoy::protobuf::{Any, Duration as Span};
use portolan_proto::envoy::route::RouteConfiguration;
use portolan_runtime::{Lifecycle, Metrics};
use portolan_xds::client::session::{Session, Step};
use portolan_xds::{ClientConfig, ClientTls, XdsClient};
use prost::{Message, Name};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

fn cluster(name: &str, set: &str) -> Any {
    any(&Cluster {
        name: name.into(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            service_name: set.into(),
            ..EdsClusterConfig::default()
        }),
        ..Cluster::default()
    })
}

fn static_cluster(name: &str) -> Any {
    any(&Cluster { name: name.into(), ..Cluster::default() })
}

fn endpoints(name: &str) -> Any {
    any(&ClusterLoadAssignment { cluster_name: name.into(), ..ClusterLoadAssignment::default() })
}

fn listener(name: &str, routes: &str) -> Any {
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            route_config_name: routes.into(),
            ..Rds::default()
        })),
        ..HttpConnectionManager::default()
    };
    let filter =
        Filter { name: "http".into(), config_type: Some(ConfigType::TypedConfig(any(&manager))) };
    let socket = SocketAddress {
        address: "127.0.0.1".into(),
        port_specifier: Some(PortSpecifier::PortValue(8080)),
        ..SocketAddress::default()
    };
    any(&Listener {
        name: name.into(),
        address: Some(Address { address: Some(AddressKind::SocketAddress(socket)) }),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    })
}

fn routes(name: &str) -> Any {
    any(&RouteConfiguration { name: name.into(), ..RouteConfiguration::default() })
}

/// A resource as control planes wrap it that give it a time to live.
fn wrapped(name: &str, resource: Option<Any>) -> Any {
    any(&Resource {
        name: name.into(),
        resource,
        ttl: Some(Span { seconds: 1, nanos: 0 }),
        ..Resource::default()
    })
}

fn response(version: u32, type_url: String, resources: Vec<Any>) -> DiscoveryResponse {
    let version = version.to_string();
    DiscoveryResponse {
        version_info: version.clone(),
        nonce: version,
        type_url,
        resources,
        ..DiscoveryResponse::default()
    }
}

/// The session with responses of one type after another.
#[derive(Default)]
struct Told {
    session: Session,
    version: u32,
}

impl Told {
    fn tell<M: Message + Name>(&mut self, resources: Vec<Any>) -> Step {
        self.version += 1;
        self.session.on_response(response(self.version, M::type_url(), resources))
    }

    fn clusters(&mut self, resources: Vec<Any>) -> Vec<String> {
        self.tell::<Cluster>(resources).errors
    }

    fn listeners(&mut self, resources: Vec<Any>) -> Vec<String> {
        self.tell::<Listener>(resources).errors
    }

    fn routes(&mut self, resources: Vec<Any>) -> Vec<String> {
        self.tell::<RouteConfiguration>(resources).errors
    }

    fn endpoints(&mut self, resources: Vec<Any>) -> Vec<String> {
        self.tell::<ClusterLoadAssignment>(resources).errors
    }
}

/// A listener and a cluster with all that they refer to.
fn whole() -> Told {
    let mut told = Told::default();
    assert_eq!(told.clusters(vec![cluster("web", "web-set")]), [""; 0]);
    assert_eq!(told.endpoints(vec![endpoints("web-set")]), [""; 0]);
    assert_eq!(told.listeners(vec![listener("main", "table")]), [""; 0]);
    assert_eq!(told.routes(vec![routes("table")]), [""; 0]);
    assert!(told.session.is_complete());
    told
}

#[test]
fn a_wrapped_resource_is_as_good_as_the_one_inside() {
    let mut told = Told::default();
    assert_eq!(told.clusters(vec![wrapped("web", Some(cluster("web", "web-set")))]), [""; 0]);
    assert_eq!(told.endpoints(vec![wrapped("web-set", Some(endpoints("web-set")))]), [""; 0]);
    assert_eq!(told.listeners(vec![wrapped("main", Some(listener("main", "table")))]), [""; 0]);
    assert_eq!(told.routes(vec![wrapped("table", Some(routes("table")))]), [""; 0]);
    assert_eq!(*told.session.config(), *whole().session.config());
    let twice = wrapped("web", Some(wrapped("web", Some(static_cluster("web")))));
    let reason = "web: expected type.googleapis.com/envoy.config.cluster.v3.Cluster, found \
                  \"type.googleapis.com/envoy.service.discovery.v3.Resource\"";
    assert_eq!(told.clusters(vec![twice]), [reason], "once and no more");
    assert_eq!(*told.session.config(), *whole().session.config());
}

#[test]
fn a_sign_of_life_without_content_leaves_a_resource_as_it_is() {
    let (mut told, before) = (whole(), whole());
    assert_eq!(told.clusters(vec![wrapped("web", None)]), [""; 0]);
    assert_eq!(told.endpoints(vec![wrapped("web-set", None)]), [""; 0]);
    assert_eq!(told.listeners(vec![wrapped("main", None)]), [""; 0]);
    assert_eq!(told.routes(vec![wrapped("table", None)]), [""; 0]);
    assert_eq!(*told.session.config(), *before.session.config());
    assert_eq!(told.clusters(vec![static_cluster("new"), wrapped("web", None)]), [""; 0]);
    let names: Vec<_> = told.session.config().clusters.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["new", "web"]);
}

#[test]
fn a_resource_whose_name_is_not_known_is_named_by_its_place() {
    let good = || static_cluster("web");
    let odd = || Any { type_url: "example.Odd".into(), value: Vec::new() };
    let torn = || Any { value: vec![0xff], ..good() };
    let of = |reason: &str| format!("resources[1]: {reason}");
    let expected = "expected type.googleapis.com/envoy.config.cluster.v3.Cluster, found";
    let broken = |name: &str| wrapped(name, Some(odd()));
    let wrapper = || Any { value: vec![0xff], ..wrapped("web", None) };
    let cases = [
        (odd(), of(&format!("{expected} \"example.Odd\""))),
        (static_cluster(""), of("name: missing")),
        (broken(""), of(&format!("{expected} \"example.Odd\""))),
        (broken("other"), format!("other: {expected} \"example.Odd\"")),
        (torn(), of("not a Cluster")),
        (wrapper(), of("not a Resource")),
    ];
    for (bad, reason) in cases {
        let mut told = whole();
        let step = told.tell::<Cluster>(vec![good(), bad]);
        assert!(step.errors[0].starts_with(&reason), "{:?} for {reason}", step.errors);
        let said = step.requests[0].error_detail.as_ref().expect("a refusal");
        assert_eq!(said.message, step.errors[0]);
        assert!(told.session.config().clusters.contains_key("web"), "{reason}");
    }
}

#[test]
fn nothing_is_complete_before_clusters_and_listeners_came() {
    let mut told = Told::default();
    let begun = |told: &Told| (told.session.is_begun(), told.session.is_complete());
    assert_eq!(begun(&told), (false, false));
    told.clusters(vec![]);
    assert_eq!(begun(&told), (false, false));
    told.listeners(vec![listener("main", "table")]);
    assert_eq!(begun(&told), (true, false));
    told.routes(vec![routes("table")]);
    assert_eq!(begun(&told), (true, true));
    told.session.start();
    assert_eq!(begun(&told), (true, true), "on a new stream as well");
}

/// A change, and what is in force after it.
type Change = (&'static str, fn(&mut Told), fn(&mut TrafficConfig, &TrafficConfig));

#[test]
fn what_refers_to_something_missing_stays_as_it_was() {
    let cases: [Change; 6] = [
        (
            "a table that has not come",
            |told| drop(told.listeners(vec![listener("main", "later")])),
            |config, old| {
                config.listeners = old.listeners.clone();
                config.routes = old.routes.clone();
            },
        ),
        (
            "and then comes",
            |told| {
                told.listeners(vec![listener("main", "later")]);
                told.routes(vec![routes("later")]);
            },
            |_, _| {},
        ),
        (
            "endpoints that have not come",
            |told| drop(told.clusters(vec![cluster("web", "later")])),
            |config, old| {
                config.clusters = old.clusters.clone();
                config.endpoints = old.endpoints.clone();
            },
        ),
        (
            "and then come",
            |told| {
                told.clusters(vec![cluster("web", "later")]);
                told.endpoints(vec![endpoints("later")]);
            },
            |_, _| {},
        ),
        (
            "what was not there before",
            |told| drop(told.clusters(vec![cluster("web", "web-set"), cluster("new", "later")])),
            |_, _| {},
        ),
        ("what is gone", |told| drop(told.listeners(vec![])), |_, _| {}),
    ];
    for (about, change, but) in cases {
        let mut told = whole();
        let last = told.session.in_force(&TrafficConfig::default());
        assert_eq!(last, *told.session.config());
        change(&mut told);
        let mut expected = told.session.config().clone();
        but(&mut expected, &last);
        assert_eq!(told.session.in_force(&last), expected, "{about}");
    }
}

/// A control plane that says what it is told to and reads nothing.
struct Deaf {
    responses: std::sync::Mutex<Option<mpsc::Receiver<Result<DiscoveryResponse, Status>>>>,
    /// Requests that nobody reads, kept so that the stream stays open.
    unread: std::sync::Mutex<Vec<Streaming<DiscoveryRequest>>>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Deaf {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.unread.lock().expect("one at a time").push(request.into_inner());
        let responses = self.responses.lock().expect("one at a time").take();
        responses
            .map(|responses| Response::new(ReceiverStream::new(responses)))
            .ok_or_else(|| Status::unavailable("one stream and no more"))
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("state of the world alone"))
    }
}

/// A client of a control plane that says what is sent here.
async fn followed(
    tasks: &mut JoinSet<()>,
) -> (mpsc::Sender<Result<DiscoveryResponse, Status>>, watch::Receiver<Arc<TrafficConfig>>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let control = format!("http://{}", socket.local_addr().expect("bound"));
    let (sender, responses) = mpsc::channel(16);
    let deaf = Deaf {
        responses: std::sync::Mutex::new(Some(responses)),
        unread: std::sync::Mutex::default(),
    };
    let server = tonic::transport::Server::builder()
        .initial_stream_window_size(WINDOW)
        .add_service(AggregatedDiscoveryServiceServer::new(deaf))
        .serve_with_incoming(TcpListenerStream::new(socket));
    tasks.spawn(async { drop(server.await) });
    let config = ClientConfig {
        control,
        node_id: "proxy-1".into(),
        zone: None,
        node_name: None,
        namespace: None,
        gateways: None,
        serves: None,
        inbound_address: None,
        service_account: None,
        tls: ClientTls::default(),
        token: None,
        own: None,
    };
    let (client, traffic) = XdsClient::new(&config, &Metrics::new()).expect("an address");
    tasks.spawn(async {
        let _ended = client.run(Lifecycle::new()).await;
    });
    (sender, traffic)
}

async fn until(traffic: &mut watch::Receiver<Arc<TrafficConfig>>, name: &str) {
    let there = traffic.wait_for(|config| config.clusters.contains_key(name));
    tokio::time::timeout(PATIENCE, there).await.expect("in time").expect("the client runs");
}

/// Octets of requests that a control plane takes without reading them (RFC 9113 §6.9.2).
const WINDOW: u32 = 65_535;
/// Responses whose acknowledgements are more than that, by far.
const RESPONSES: u32 = 4_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_reads_nothing_is_followed_all_the_same() {
    let mut tasks = JoinSet::new();
    let (control, mut traffic) = followed(&mut tasks).await;
    let listeners = response(1, Listener::type_url(), vec![]);
    control.send(Ok(listeners)).await.expect("the stream is open");
    for n in 1..=RESPONSES {
        let clusters = vec![static_cluster(&format!("cluster-{n}"))];
        let sending = control.send(Ok(response(n, Cluster::type_url(), clusters)));
        let sent = tokio::time::timeout(PATIENCE, sending).await.expect("it is read on");
        sent.expect("the stream is open");
    }
    until(&mut traffic, &format!("cluster-{RESPONSES}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_back_is_in_force_when_the_control_plane_goes() {
    let mut tasks = JoinSet::new();
    let (control, mut traffic) = followed(&mut tasks).await;
    for (kind, resources) in [
        (Listener::type_url(), vec![listener("main", "never")]),
        (Cluster::type_url(), vec![static_cluster("web")]),
    ] {
        control.send(Ok(response(1, kind, resources))).await.expect("the stream is open");
    }
    drop(control);
    until(&mut traffic, "web").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_a_first_configuration_is_not_in_force() {
    let mut tasks = JoinSet::new();
    let (control, mut traffic) = followed(&mut tasks).await;
    let clusters = response(1, Cluster::type_url(), vec![static_cluster("web")]);
    control.send(Ok(clusters)).await.expect("the stream is open");
    let soon = tokio::time::timeout(Duration::from_secs(1), traffic.changed()).await;
    assert!(soon.is_err(), "clusters without listeners: {:?}", traffic.borrow());
    let listeners = response(1, Listener::type_url(), vec![]);
    control.send(Ok(listeners)).await.expect("the stream is open");
    until(&mut traffic, "web").await;
}
