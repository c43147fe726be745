//! Resources as control planes of the Envoy family make them: the least that is valid, for tests to
//! change. Refuses nothing: what a test breaks stays broken.

use std::net::SocketAddr;
use std::time::Duration;

use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::cluster::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use portolan_proto::envoy::core::config_source::ConfigSourceSpecifier;
use portolan_proto::envoy::core::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, HealthStatus, Locality,
    SocketAddress, address, socket_address::PortSpecifier,
};
use portolan_proto::envoy::endpoint::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use portolan_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use portolan_proto::envoy::http_connection_manager::http_filter::ConfigType as HttpConfig;
use portolan_proto::envoy::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds};
use portolan_proto::envoy::http_router::Router;
use portolan_proto::envoy::listener::filter::ConfigType;
use portolan_proto::envoy::listener::listener_filter::ConfigType as ListenerFilterConfig;
use portolan_proto::envoy::listener::{Filter, FilterChain, Listener, ListenerFilter};
use portolan_proto::envoy::protobuf::{self, Any, UInt32Value};
use portolan_proto::envoy::route::route::Action;
use portolan_proto::envoy::route::route_action::ClusterSpecifier;
use portolan_proto::envoy::route::route_match::PathSpecifier;
use portolan_proto::envoy::route::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use portolan_proto::envoy::tcp_proxy::{TcpProxy, tcp_proxy};
use portolan_proto::envoy::tls::Secret;
use prost::{Message, Name};

/// A resource on the wire, and the name it is asked for by.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) name: String,
    pub(crate) any: Any,
}

/// A message inside an `Any`.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

impl From<&Cluster> for Resource {
    fn from(message: &Cluster) -> Self {
        Self { name: message.name.clone(), any: any(message) }
    }
}

impl From<&ClusterLoadAssignment> for Resource {
    fn from(message: &ClusterLoadAssignment) -> Self {
        Self { name: message.cluster_name.clone(), any: any(message) }
    }
}

impl From<&Listener> for Resource {
    fn from(message: &Listener) -> Self {
        Self { name: message.name.clone(), any: any(message) }
    }
}

impl From<&RouteConfiguration> for Resource {
    fn from(message: &RouteConfiguration) -> Self {
        Self { name: message.name.clone(), any: any(message) }
    }
}

impl From<&Secret> for Resource {
    fn from(message: &Secret) -> Self {
        Self { name: message.name.clone(), any: any(message) }
    }
}

/// Several of one type.
pub(crate) fn all<'a, M: 'a>(messages: impl IntoIterator<Item = &'a M>) -> Vec<Resource>
where
    Resource: From<&'a M>,
{
    messages.into_iter().map(Resource::from).collect()
}

pub(crate) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(crate) fn duration(time: Duration) -> Option<protobuf::Duration> {
    let nanos = i32::try_from(time.subsec_nanos()).expect("below a thousand million");
    Some(protobuf::Duration { seconds: i64::try_from(time.as_secs()).expect("short"), nanos })
}

pub(crate) fn millis(value: u64) -> Option<protobuf::Duration> {
    duration(Duration::from_millis(value))
}

pub(crate) fn ads() -> Option<ConfigSource> {
    let specifier = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
    Some(ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(specifier),
        ..ConfigSource::default()
    })
}

pub(crate) fn socket(at: SocketAddr) -> Option<Address> {
    let socket = SocketAddress {
        address: at.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(at.port().into())),
        ..SocketAddress::default()
    };
    Some(Address { address: Some(address::Address::SocketAddress(socket)) })
}

/// A cluster whose endpoints come by EDS under its own name.
pub(crate) fn eds_cluster(name: &str) -> Cluster {
    let eds = EdsClusterConfig { eds_config: ads(), ..EdsClusterConfig::default() };
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(eds),
        connect_timeout: millis(1000),
        ..Cluster::default()
    }
}

/// A cluster that carries its endpoints in itself.
pub(crate) fn static_cluster(name: &str, at: &[SocketAddr]) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        load_assignment: Some(assignment(name, at)),
        connect_timeout: millis(1000),
        ..Cluster::default()
    }
}

pub(crate) fn endpoint(at: SocketAddr, health: HealthStatus) -> LbEndpoint {
    let endpoint = Endpoint { address: socket(at), ..Endpoint::default() };
    LbEndpoint {
        health_status: health.into(),
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    }
}

/// A locality of endpoints.
pub(crate) fn locality(zone: &str, priority: u32, members: Vec<LbEndpoint>) -> LocalityLbEndpoints {
    let locality = Locality { zone: zone.to_owned(), ..Locality::default() };
    LocalityLbEndpoints {
        locality: Some(locality),
        lb_endpoints: members,
        priority,
        ..LocalityLbEndpoints::default()
    }
}

/// The endpoints of a cluster, all in one locality and well.
pub(crate) fn assignment(cluster: &str, at: &[SocketAddr]) -> ClusterLoadAssignment {
    let members = at.iter().map(|at| endpoint(*at, HealthStatus::Healthy)).collect();
    places(cluster, vec![locality("a", 0, members)])
}

/// The endpoints of a cluster by locality.
pub(crate) fn places(cluster: &str, places: Vec<LocalityLbEndpoints>) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: places,
        ..ClusterLoadAssignment::default()
    }
}

pub(crate) fn action(cluster: &str) -> RouteAction {
    let specifier = ClusterSpecifier::Cluster(cluster.to_owned());
    RouteAction { cluster_specifier: Some(specifier), ..RouteAction::default() }
}

/// A route for a prefix of paths.
pub(crate) fn route(prefix: &str, action: RouteAction) -> Route {
    let path = PathSpecifier::Prefix(prefix.to_owned());
    Route {
        r#match: Some(RouteMatch { path_specifier: Some(path), ..RouteMatch::default() }),
        action: Some(Action::Route(action)),
        ..Route::default()
    }
}

/// A route table for whatever host.
pub(crate) fn table(name: &str, routes: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: vec![virtual_host("all", &["*"], routes)],
        ..RouteConfiguration::default()
    }
}

pub(crate) fn virtual_host(name: &str, domains: &[&str], routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: name.to_owned(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        routes,
        ..VirtualHost::default()
    }
}

/// A connection manager that goes by a table of RDS.
pub(crate) fn manager(table: &str) -> HttpConnectionManager {
    let rds = Rds { config_source: ads(), route_config_name: table.to_owned() };
    managed(RouteSpecifier::Rds(rds))
}

/// A connection manager with routes of its own, or of RDS.
pub(crate) fn managed(routes: RouteSpecifier) -> HttpConnectionManager {
    let router = HttpFilter {
        name: "envoy.filters.http.router".to_owned(),
        config_type: Some(HttpConfig::TypedConfig(any(&Router::default()))),
        ..HttpFilter::default()
    };
    HttpConnectionManager {
        stat_prefix: "ingress".to_owned(),
        http_filters: vec![router],
        route_specifier: Some(routes),
        ..HttpConnectionManager::default()
    }
}

pub(crate) fn http_listener(
    name: &str,
    at: SocketAddr,
    manager: &HttpConnectionManager,
) -> Listener {
    listener(name, at, "envoy.filters.network.http_connection_manager", any(manager))
}

/// A connection proxy to a cluster.
pub(crate) fn tcp_proxy(cluster: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: "tcp".to_owned(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..TcpProxy::default()
    }
}

pub(crate) fn tcp_listener(name: &str, at: SocketAddr, proxy: &TcpProxy) -> Listener {
    listener(name, at, "envoy.filters.network.tcp_proxy", any(proxy))
}

fn listener(name: &str, at: SocketAddr, filter: &str, config: Any) -> Listener {
    let filter =
        Filter { name: filter.to_owned(), config_type: Some(ConfigType::TypedConfig(config)) };
    Listener {
        name: name.to_owned(),
        address: socket(at),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        ..Listener::default()
    }
}

/// A filter in front of a listener's chains.
pub(crate) fn listener_filter<M: Message + Name>(name: &str, config: &M) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(ListenerFilterConfig::TypedConfig(any(config))),
        ..ListenerFilter::default()
    }
}
