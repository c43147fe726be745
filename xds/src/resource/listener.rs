//! LDS: sockets for proxies, and API listeners by which gRPC clients resolve `xds:///` targets.

use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::{AcceptProxy, NameKind};
use portolan_model::{DnsName, ServiceKey};
use portolan_proto::envoy::core::{HttpProtocolOptions, TransportSocket};
use portolan_proto::envoy::grpc_web::GrpcWeb;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::{
    CodecType, RouteSpecifier, UpgradeConfig,
};
use portolan_proto::envoy::http_connection_manager::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use portolan_proto::envoy::http_cors::Cors;
use portolan_proto::envoy::http_fault::HttpFault;
use portolan_proto::envoy::http_inspector::HttpInspector;
use portolan_proto::envoy::http_router::Router;
use portolan_proto::envoy::listener::{
    ApiListener, Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter,
    filter::ConfigType, listener_filter,
};
use portolan_proto::envoy::listener_proxy_protocol::ProxyProtocol;
use portolan_proto::envoy::local_ratelimit::LocalRateLimit;
use portolan_proto::envoy::protobuf::{Any, BoolValue};
use portolan_proto::envoy::stateful_session::StatefulSession;
use portolan_proto::envoy::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};
use portolan_proto::envoy::tls::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use portolan_proto::envoy::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
};
use portolan_proto::envoy::tls_inspector::TlsInspector;
use portolan_proto::envoy::{ConnectionHashPolicy, connection_hash_policy};

use super::cluster::ads;
use super::endpoints::socket_address;
use super::policy::number;
use super::route::HTTP_ROUTES;
use super::route::filters::{CORS, FAULT, LIMITS, RATE_LIMIT, SESSION};
use super::{Encoded, cluster_name, duration, pack, secret, target_name};
use crate::config::{ListenerSpec, ListenerTarget, ListenerTls};

pub(super) const HTTP_FILTER: &str = "envoy.filters.network.http_connection_manager";
pub(super) const TCP_FILTER: &str = "envoy.filters.network.tcp_proxy";
const ROUTER_FILTER: &str = "envoy.filters.http.router";
const GRPC_WEB_FILTER: &str = "envoy.filters.http.grpc_web";

/// What the HTTP inspector finds in bytes that are not encrypted.
pub const HTTP_PROTOCOLS: [&str; 3] = ["http/1.0", "http/1.1", "h2c"];
/// How long a client may say nothing until it counts as one that does not speak HTTP.
const DETECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Encodes a socket listener.
#[must_use]
pub fn encode_socket(spec: &ListenerSpec) -> Encoded {
    let http = || (HTTP_FILTER, pack(&http_manager(spec)));
    let tcp = |service, port| (TCP_FILTER, pack(&tcp_proxy(spec, service, port)));
    let chain = |(name, config)| FilterChain {
        transport_socket: spec.tls.as_ref().map(|tls| transport_socket(tls, &spec.target)),
        ..chain(name, config)
    };
    let accept = spec.options.accept_proxy;
    let mut filters: Vec<ListenerFilter> = proxy_protocol(accept).into_iter().collect();
    let chains = match &spec.target {
        ListenerTarget::Http => vec![chain(http())],
        ListenerTarget::Tcp { service, port } => vec![chain(tcp(service, *port))],
        ListenerTarget::Detect { service, port } => {
            filters.push(listener_filter("http_inspector", pack(&HttpInspector {})));
            let found = FilterChainMatch {
                application_protocols: HTTP_PROTOCOLS.map(str::to_owned).to_vec(),
                ..FilterChainMatch::default()
            };
            let http = FilterChain { filter_chain_match: Some(found), ..chain(http()) };
            vec![http, chain(tcp(service, *port))]
        }
    };
    let listener = Listener {
        name: spec.name.to_string(),
        address: Some(socket_address(spec.address)),
        listener_filters: filters,
        // What a server that speaks first waits for: past this, the bytes are none of HTTP.
        listener_filters_timeout: detects(spec).then(|| duration(DETECT_TIMEOUT)),
        // A header that must come is waited for all the same.
        continue_on_listener_filters_timeout: detects(spec) && accept != AcceptProxy::Required,
        filter_chains: chains,
        ..Listener::default()
    };
    Encoded::new(&spec.name, &listener)
}

fn detects(spec: &ListenerSpec) -> bool {
    matches!(spec.target, ListenerTarget::Detect { .. })
}

/// A PROXY header before all else, of either version.
fn proxy_protocol(accept: AcceptProxy) -> Option<ListenerFilter> {
    let optional = match accept {
        AcceptProxy::No => return None,
        AcceptProxy::Optional => true,
        AcceptProxy::Required => false,
    };
    let config = ProxyProtocol {
        allow_requests_without_proxy_protocol: optional,
        ..ProxyProtocol::default()
    };
    Some(listener_filter("proxy_protocol", pack(&config)))
}

fn listener_filter(name: &str, config: Any) -> ListenerFilter {
    ListenerFilter {
        name: format!("envoy.filters.listener.{name}"),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        ..ListenerFilter::default()
    }
}

fn http_manager(spec: &ListenerSpec) -> HttpConnectionManager {
    let options = &spec.options;
    let common = HttpProtocolOptions {
        idle_timeout: options.idle_timeout.map(duration),
        max_connection_duration: options.max_age.map(duration),
        max_requests_per_connection: options.max_requests.and_then(number),
        ..HttpProtocolOptions::default()
    };
    let upgrades = options
        .upgrades
        .iter()
        .map(|kind| UpgradeConfig { upgrade_type: kind.clone(), ..UpgradeConfig::default() });
    HttpConnectionManager {
        common_http_protocol_options: (common != HttpProtocolOptions::default()).then_some(common),
        stream_idle_timeout: options.stream_idle_timeout.map(duration),
        request_headers_timeout: options.header_timeout.map(duration),
        // Which Envoy takes as the default, and our own proxy only where it is said.
        use_remote_address: options.trust_forwarded.then_some(BoolValue { value: false }),
        upgrade_configs: upgrades.collect(),
        ..proxy_manager(&spec.name, rds(HTTP_ROUTES))
    }
}

fn tcp_proxy(spec: &ListenerSpec, service: &ServiceKey, port: u16) -> TcpProxy {
    let cluster = ClusterSpecifier::Cluster(cluster_name(service, port).to_string());
    TcpProxy {
        stat_prefix: spec.name.to_string(),
        cluster_specifier: Some(cluster),
        idle_timeout: spec.options.idle_timeout.map(duration),
        max_downstream_connection_duration: spec.options.max_age.map(duration),
        // Of use only to a cluster that picks by hash.
        hash_policy: vec![by_source_ip()],
        ..TcpProxy::default()
    }
}

/// The protocols above TLS where that is HTTP.
pub(super) const HTTP_ALPN: &[&str] = &["h2", "http/1.1"];

fn transport_socket(tls: &ListenerTls, target: &ListenerTarget) -> TransportSocket {
    let alpn = match target {
        ListenerTarget::Http => HTTP_ALPN,
        ListenerTarget::Tcp { .. } | ListenerTarget::Detect { .. } => &[],
    };
    let clients = tls.client_ca.then(|| Clients {
        authorities: secret::authorities_name(&tls.certificate).to_string(),
        names: &tls.client_names,
    });
    tls_socket(vec![tls.certificate.to_string()], alpn, clients)
}

/// What clients must prove.
pub(super) struct Clients<'a> {
    /// Name of the secret with the authorities of their certificates.
    pub(super) authorities: String,
    /// What their certificates are for; empty: for anything.
    pub(super) names: &'a [(NameKind, Arc<str>)],
}

/// TLS with secrets that come over the same stream (SDS).
pub(super) fn tls_socket(
    certificates: Vec<String>,
    alpn: &[&str],
    clients: Option<Clients<'_>>,
) -> TransportSocket {
    let secret = |name: String| SdsSecretConfig { name, sds_config: Some(ads()) };
    let required = clients.is_some();
    let validation = |Clients { authorities, names }: Clients<'_>| match names {
        [] => ValidationContextType::ValidationContextSdsSecretConfig(secret(authorities)),
        names => {
            let own = CertificateValidationContext {
                match_typed_subject_alt_names: names.iter().map(super::tls::name).collect(),
                ..CertificateValidationContext::default()
            };
            ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
                default_validation_context: Some(own),
                validation_context_sds_secret_config: Some(secret(authorities)),
                ..CombinedCertificateValidationContext::default()
            })
        }
    };
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: certificates.into_iter().map(secret).collect(),
            alpn_protocols: alpn.iter().map(|protocol| (*protocol).to_owned()).collect(),
            validation_context_type: clients.map(validation),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: Some(BoolValue { value: required }),
        ..DownstreamTlsContext::default()
    };
    super::tls::socket(&context)
}

/// What finds the name that a client asks for.
pub(super) fn tls_inspector() -> ListenerFilter {
    listener_filter("tls_inspector", pack(&TlsInspector::default()))
}

/// Encodes the API listener of a port: its name is the target path, port included.
#[must_use]
pub fn encode_api(key: &ServiceKey, port: u16, zone: &DnsName) -> Encoded {
    let name = target_name(key, port, zone);
    let listener = Listener {
        name: name.to_string(),
        api_listener: Some(ApiListener {
            api_listener: Some(pack(&connection_manager(&name, rds(&name)))),
        }),
        ..Listener::default()
    };
    Encoded::new(&name, &listener)
}

pub(super) fn chain(filter: &str, config: Any) -> FilterChain {
    FilterChain {
        filters: vec![Filter {
            name: filter.to_owned(),
            config_type: Some(ConfigType::TypedConfig(config)),
        }],
        ..FilterChain::default()
    }
}

pub(super) fn rds(routes: &str) -> RouteSpecifier {
    RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: routes.to_owned() })
}

pub(super) fn connection_manager(
    stat_prefix: &str,
    routes: RouteSpecifier,
) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        codec_type: CodecType::Auto.into(),
        route_specifier: Some(routes),
        // A connection manager without the router filter is refused by gRPC (gRFC A39).
        http_filters: vec![http_filter(ROUTER_FILTER, pack(&Router::default()))],
        ..HttpConnectionManager::default()
    }
}

/// A connection manager of a proxy, for clients that may be browsers. gRPC clients and servers would
/// refuse what it has beside the router.
pub(super) fn proxy_manager(stat_prefix: &str, routes: RouteSpecifier) -> HttpConnectionManager {
    let mut manager = connection_manager(stat_prefix, routes);
    let limits = LocalRateLimit { stat_prefix: LIMITS.to_owned(), ..LocalRateLimit::default() };
    // All but one do nothing but what a route asks of them.
    let before = [
        http_filter(CORS, pack(&Cors {})),
        http_filter(FAULT, pack(&HttpFault::default())),
        http_filter(RATE_LIMIT, pack(&limits)),
        http_filter(GRPC_WEB_FILTER, pack(&GrpcWeb {})),
        http_filter(SESSION, pack(&StatefulSession::default())),
    ];
    manager.http_filters.splice(0..0, before);
    manager
}

fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

pub(super) fn by_source_ip() -> ConnectionHashPolicy {
    let source_ip = connection_hash_policy::SourceIp {};
    ConnectionHashPolicy {
        policy_specifier: Some(connection_hash_policy::PolicySpecifier::SourceIp(source_ip)),
    }
}
