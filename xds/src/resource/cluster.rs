//! CDS: one cluster per TCP port of a service; endpoints by EDS over the same stream.

use std::collections::HashMap;
use std::time::Duration;

use portolan_model::policy::{Connections, MutualTls, Policy};
use portolan_model::traffic::ProxyHeader;
use portolan_model::{AppProtocol, PortTls, Service, ServicePort};
use portolan_proto::envoy::cluster::{Cluster, cluster as cds};
use portolan_proto::envoy::core::proxy_protocol_config::Version;
use portolan_proto::envoy::core::{
    AggregatedConfigSource, ApiVersion, ConfigSource, Http1ProtocolOptions, Http2ProtocolOptions,
    HttpProtocolOptions as CommonOptions, Metadata, ProxyProtocolConfig, SelfConfigSource,
    TransportSocket, config_source::ConfigSourceSpecifier, transport_socket,
};
use portolan_proto::envoy::protobuf::value::Kind;
use portolan_proto::envoy::protobuf::{Any, Struct, Value};
use portolan_proto::envoy::raw_buffer::RawBuffer;
use portolan_proto::envoy::upstream_http::HttpProtocolOptions;
use portolan_proto::envoy::upstream_http::http_protocol_options as http;
use portolan_proto::envoy::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use portolan_proto::envoy::upstream_proxy_protocol::ProxyProtocolUpstreamTransport;

use super::{Encoded, balancing, cluster_name, duration, host_name, pack, policy, tls};
use crate::capability::Dialect;
use crate::config::ResourceConfig;

/// Key of the HTTP options in `typed_extension_protocol_options`.
pub const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Key of adaptive concurrency in the typed metadata: the name of Envoy's filter, whose message stands
/// there. Envoy itself takes it from a listener alone and passes over the metadata.
pub const ADAPTIVE_CONCURRENCY: &str = "envoy.filters.http.adaptive_concurrency";
/// Our own namespace in the metadata of clusters.
pub(crate) const OWN_METADATA: &str = "dev.portolan";
/// The one thing that stands there.
pub(crate) const PROTOCOL: &str = "upstream_protocol";
/// That what is spoken is up to the request, whatever the HTTP options have to say for Envoy's sake.
pub(crate) const ANY_PROTOCOL: &str = "auto";
/// Limit on establishing a connection to an endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How connections to endpoints begin.
#[derive(Clone, Copy, Debug)]
pub enum Way<'a> {
    /// In the clear.
    Plain,
    /// With TLS, as a policy says.
    Tls(&'a PortTls),
    /// With TLS by which both sides prove who they are.
    Mutual(&'a MutualTls),
}

/// Encodes the cluster of a port, for clients of a dialect.
#[must_use]
pub fn encode(
    service: &Service,
    port: &ServicePort,
    way: Way<'_>,
    config: &ResourceConfig,
    dialect: Dialect,
) -> Encoded {
    let name = cluster_name(&service.key, port.port);
    let wanted = &service.policy;
    let zone = config.zone(service.key.scope());
    let cluster = Cluster {
        name: name.to_string(),
        cluster_discovery_type: Some(cds::ClusterDiscoveryType::Type(
            cds::DiscoveryType::Eds.into(),
        )),
        eds_cluster_config: Some(cds::EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: name.to_string(),
        }),
        connect_timeout: Some(duration(wanted.timeouts.connect.unwrap_or(CONNECT_TIMEOUT))),
        load_balancing_policy: Some(balancing::policies(service, port, config.balancer, dialect)),
        common_lb_config: balancing::common(&wanted.tuning),
        health_checks: (wanted.health_check.iter())
            .filter_map(|check| policy::health_check(check, port, &host_name(&service.key, zone)))
            .collect(),
        // Otherwise Envoy goes on using an endpoint that left for as long as it answers probes.
        ignore_health_on_host_removal: wanted.health_check.is_some(),
        outlier_detection: wanted.outlier_detection.as_ref().map(policy::outlier_detection),
        circuit_breakers: policy::circuit_breakers(wanted),
        typed_extension_protocol_options: http_options(port, &wanted.connections),
        transport_socket: transport_socket(service, port, way, config, dialect),
        metadata: metadata(port, wanted),
        lrs_server: config.load_reports.then(this_server),
        ..Cluster::default()
    };
    Encoded::new(&name, &cluster)
}

/// "From the same aggregated stream."
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        ..ConfigSource::default()
    }
}

/// "From the server that this came from": gRPC takes no other for load reports.
fn this_server() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Self_(SelfConfigSource::default())),
        ..ConfigSource::default()
    }
}

/// Whether connections last no longer than they are told to.
fn is_limited(wanted: &Connections) -> bool {
    wanted.idle_timeout.is_some() || wanted.max_age.is_some() || wanted.max_requests.is_some()
}

/// What is spoken to endpoints, and how long connections to them last.
fn http_options(port: &ServicePort, wanted: &Connections) -> HashMap<String, Any> {
    let limited = is_limited(wanted);
    let speaks = match port.app_protocol {
        Some(AppProtocol::Http2) => {
            ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default())
        }
        Some(AppProtocol::Http1) => {
            ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default())
        }
        // Envoy refuses options that do not name a protocol; this is the one it has without any.
        _ if limited => ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default()),
        _ => return HashMap::new(),
    };
    let common = CommonOptions {
        idle_timeout: wanted.idle_timeout.map(duration),
        max_connection_duration: wanted.max_age.map(duration),
        max_requests_per_connection: wanted.max_requests.and_then(|n| policy::number(n.get())),
        ..CommonOptions::default()
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: limited.then_some(common),
        upstream_protocol_options: Some(http::UpstreamProtocolOptions::ExplicitHttpConfig(
            http::ExplicitHttpConfig { protocol_config: Some(speaks) },
        )),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(HTTP_OPTIONS.to_owned(), pack(&options))])
}

/// A PROXY header before all else, then TLS. gRPC has no socket for the first, and for the second only
/// what is set up at the client: it refuses the whole cluster for any other.
fn transport_socket(
    service: &Service,
    port: &ServicePort,
    way: Way<'_>,
    config: &ResourceConfig,
    dialect: Dialect,
) -> Option<TransportSocket> {
    if dialect == Dialect::Grpc {
        let Way::Mutual(mutual) = way else { return None };
        return Some(tls::mutual_of_grpc(mutual, &service.key, &config.trust_domain));
    }
    let socket = |name: &str, config| TransportSocket {
        name: format!("envoy.transport_sockets.{name}"),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    };
    let speaks = port.app_protocol.as_ref();
    let tls = match way {
        Way::Plain => None,
        Way::Tls(tls) => Some(tls::upstream(tls, speaks)),
        Way::Mutual(mutual) => {
            let host = host_name(&service.key, config.zone(service.key.scope()));
            Some(tls::mutual(mutual, &service.key, &host, &config.trust_domain, speaks))
        }
    };
    let version = match service.policy.connections.send_proxy {
        None => return tls,
        Some(ProxyHeader::V1) => Version::V1,
        Some(ProxyHeader::V2) => Version::V2,
    };
    let transport = ProxyProtocolUpstreamTransport {
        config: Some(ProxyProtocolConfig {
            version: version.into(),
            ..ProxyProtocolConfig::default()
        }),
        transport_socket: tls.or_else(|| Some(socket("raw_buffer", pack(&RawBuffer {})))),
        ..ProxyProtocolUpstreamTransport::default()
    };
    Some(socket("upstream_proxy_protocol", pack(&transport)))
}

/// What is spoken to the application of a port, and nothing of how long.
pub(super) fn speaking(port: &ServicePort) -> HashMap<String, Any> {
    http_options(port, &Connections::default())
}

/// What our own proxy reads and Envoy and gRPC have no field for; they pass over metadata.
fn metadata(port: &ServicePort, wanted: &Policy) -> Option<Metadata> {
    let adaptive = wanted.adaptive_concurrency.as_ref().map(policy::adaptive_concurrency);
    let limited = is_limited(&wanted.connections);
    let speaks = matches!(port.app_protocol, Some(AppProtocol::Http1 | AppProtocol::Http2));
    // That the protocol in the options is there for Envoy's sake alone.
    let any_protocol = (limited && !speaks).then(|| Struct {
        fields: HashMap::from([(
            PROTOCOL.to_owned(),
            Value { kind: Some(Kind::StringValue(ANY_PROTOCOL.to_owned())) },
        )]),
    });
    (adaptive.is_some() || any_protocol.is_some()).then(|| Metadata {
        filter_metadata: any_protocol.map(|of| (OWN_METADATA.to_owned(), of)).into_iter().collect(),
        typed_filter_metadata: adaptive
            .map(|any| (ADAPTIVE_CONCURRENCY.to_owned(), any))
            .into_iter()
            .collect(),
    })
}
