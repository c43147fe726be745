//! LDS and CDS of proxies in front of endpoints: a listener at the endpoint's port that asks clients who
//! they are and lets in those who may, and the application behind it.
//!
//! They are the same for all endpoints of a service, so that they are encoded once: the proxy listens
//! where the service says that its endpoints do, and finds the application at the loopback address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use portolan_model::policy::{Inbound, TlsMode};
use portolan_model::{
    AccessList, AppProtocol, Protocol, ServiceAccess, ServiceEntry, ServiceKey, ServicePort,
};
use portolan_proto::envoy::cluster::{Cluster, cluster as cds};
use portolan_proto::envoy::core::TransportSocket;
use portolan_proto::envoy::endpoint::{ClusterLoadAssignment, LocalityLbEndpoints};
use portolan_proto::envoy::http_connection_manager::HttpConnectionManager;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::{
    ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
    SetCurrentClientCertDetails, UpgradeConfig,
};
use portolan_proto::envoy::listener::{FilterChain, FilterChainMatch, Listener};
use portolan_proto::envoy::protobuf::{BoolValue, Duration};
use portolan_proto::envoy::route::route::Action;
use portolan_proto::envoy::route::route_action::ClusterSpecifier;
use portolan_proto::envoy::route::route_match::PathSpecifier;
use portolan_proto::envoy::route::{
    Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
};
use portolan_proto::envoy::tcp_proxy::{TcpProxy, tcp_proxy};
use portolan_proto::envoy::tls::{CommonTlsContext, DownstreamTlsContext};

use super::endpoints::{lb_endpoint, socket_address};
use super::listener::{HTTP_ALPN, HTTP_FILTER, TCP_FILTER, connection_manager, tls_inspector};
use super::{Encoded, ResourceType, cluster, cluster_name, pack, rbac, tls};
use crate::catalog::Name;
use crate::config::ResourceConfig;
use crate::issuer::OWN;

/// What names of these resources begin with.
pub const PREFIX: &str = "inbound/";

fn name(service: &ServiceKey, port: u16) -> Name {
    format!("{PREFIX}{}", cluster_name(service, port)).into()
}

/// The ports in front of which a proxy stands.
fn ports(entry: &ServiceEntry) -> impl Iterator<Item = (&ServicePort, Inbound)> {
    let service = &entry.service;
    let tcp = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    tcp.filter_map(|port| Some((port, *service.policy.inbound.get(&port.port)?)))
}

/// The names of all of them.
pub(crate) fn names(entry: &ServiceEntry) -> Vec<(ResourceType, Name)> {
    let of_port = |(port, _): (&ServicePort, Inbound)| {
        let name = name(&entry.service.key, port.port);
        [(ResourceType::Listener, name.clone()), (ResourceType::Cluster, name)]
    };
    ports(entry).flat_map(of_port).collect()
}

/// All of them: name, listener and cluster.
#[must_use]
pub fn encode(
    entry: &ServiceEntry,
    access: Option<&std::sync::Arc<ServiceAccess>>,
    config: &ResourceConfig,
) -> Vec<(Name, Encoded, Encoded)> {
    let one = |(port, inbound): (&ServicePort, Inbound)| {
        let name = name(&entry.service.key, port.port);
        let lists = access.and_then(|access| access.ports.get(&port.port));
        let lists = lists.map(Vec::as_slice).unwrap_or_default();
        let mode = entry.service.policy.mutual_tls.as_ref().map(|mutual| mutual.mode);
        let listener = listener(&name, port, inbound, mode, lists, config);
        let app = app(&name, port, inbound);
        (name.clone(), Encoded::new(&name, &listener), Encoded::new(&name, &app))
    };
    ports(entry).map(one).collect()
}

fn is_http(port: &ServicePort) -> bool {
    matches!(port.app_protocol, Some(AppProtocol::Http1 | AppProtocol::Http2))
}

fn app(name: &Name, port: &ServicePort, inbound: Inbound) -> Cluster {
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), inbound.app);
    Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(cds::ClusterDiscoveryType::Type(
            cds::DiscoveryType::Static.into(),
        )),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_string(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![lb_endpoint(at)],
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        typed_extension_protocol_options: cluster::speaking(port),
        ..Cluster::default()
    }
}

fn listener(
    name: &Name,
    port: &ServicePort,
    inbound: Inbound,
    mode: Option<TlsMode>,
    lists: &[AccessList],
    config: &ResourceConfig,
) -> Listener {
    let plain = if is_http(port) {
        let manager = manager(name, lists, config);
        super::listener::chain(HTTP_FILTER, pack(&manager))
    } else {
        let proxy = TcpProxy {
            stat_prefix: name.to_string(),
            cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(name.to_string())),
            ..TcpProxy::default()
        };
        let mut chain = super::listener::chain(TCP_FILTER, pack(&proxy));
        chain.filters.splice(0..0, rbac::network(lists, &config.trust_domain));
        chain
    };
    let matching = |transport: &str, chain: FilterChain| FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            transport_protocol: transport.to_owned(),
            ..FilterChainMatch::default()
        }),
        ..chain
    };
    let secured = || FilterChain { transport_socket: Some(secured(port, config)), ..plain.clone() };
    let (filter_chains, listener_filters) = match mode {
        None => (vec![plain.clone()], Vec::new()),
        Some(TlsMode::Strict) => (vec![secured()], Vec::new()),
        Some(TlsMode::Permissive) => {
            let both = vec![matching("tls", secured()), matching("raw_buffer", plain.clone())];
            (both, vec![tls_inspector()])
        }
    };
    let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    Listener {
        name: name.to_string(),
        address: Some(socket_address(SocketAddr::new(any, inbound.listens))),
        // A client that waits for its server to speak is served in the clear.
        continue_on_listener_filters_timeout: !listener_filters.is_empty(),
        listener_filters_timeout: (!listener_filters.is_empty())
            .then_some(Duration { seconds: 1, nanos: 0 }),
        listener_filters,
        filter_chains,
        ..Listener::default()
    }
}

/// Clients have to be of the trust domain; who of them may do what is not for TLS to say.
fn secured(port: &ServicePort, config: &ResourceConfig) -> TransportSocket {
    let alpn = if is_http(port) { HTTP_ALPN } else { &[] };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![tls::by_name(OWN)],
            alpn_protocols: alpn.iter().map(|protocol| (*protocol).to_owned()).collect(),
            validation_context_type: Some(tls::of_domain(&config.trust_domain)),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: Some(BoolValue { value: true }),
        ..DownstreamTlsContext::default()
    };
    tls::socket(&context)
}

/// Paths are brought into one form before anything is decided by them, and go on so. How long a request
/// may take is for the proxies of clients to say.
fn manager(name: &Name, lists: &[AccessList], config: &ResourceConfig) -> HttpConnectionManager {
    let all = Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(name.to_string())),
            timeout: Some(Duration::default()),
            ..RouteAction::default()
        })),
        ..Route::default()
    };
    let table = RouteConfiguration {
        name: name.to_string(),
        virtual_hosts: vec![VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![all],
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    };
    let mut manager = connection_manager(name, RouteSpecifier::RouteConfig(table));
    manager.http_filters.splice(0..0, rbac::http(lists, &config.trust_domain));
    HttpConnectionManager {
        normalize_path: Some(BoolValue { value: true }),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::RejectRequest.into(),
        use_remote_address: Some(BoolValue { value: true }),
        forward_client_cert_details: ForwardClientCertDetails::SanitizeSet.into(),
        set_current_client_cert_details: Some(SetCurrentClientCertDetails {
            uri: true,
            ..SetCurrentClientCertDetails::default()
        }),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        ..manager
    }
}
