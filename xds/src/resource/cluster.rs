//! CDS: one cluster per TCP port of a service; endpoints by EDS over the same stream.

use std::collections::HashMap;
use std::time::Duration;

use portolan_model::{AppProtocol, Service, ServicePort};
use portolan_proto::envoy::cluster::{Cluster, cluster as cds};
use portolan_proto::envoy::core::{
    AggregatedConfigSource, ApiVersion, ConfigSource, Http2ProtocolOptions, SelfConfigSource,
    config_source::ConfigSourceSpecifier,
};
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::upstream_http::HttpProtocolOptions;
use portolan_proto::envoy::upstream_http::http_protocol_options as http;

use super::{Encoded, balancing, cluster_name, duration, host_name, pack, policy};
use crate::capability::Dialect;
use crate::config::ResourceConfig;

/// Key of the HTTP options in `typed_extension_protocol_options`.
pub const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Key of adaptive concurrency in the typed metadata: the name of Envoy's filter, whose message stands
/// there. Envoy itself takes it from a listener alone and passes over the metadata.
pub const ADAPTIVE_CONCURRENCY: &str = "envoy.filters.http.adaptive_concurrency";
/// Limit on establishing a connection to an endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Encodes the cluster of a port, for clients of a dialect.
#[must_use]
pub fn encode(
    service: &Service,
    port: &ServicePort,
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
        load_balancing_policy: Some(balancing::policies(service, config.balancer, dialect)),
        health_checks: (wanted.health_check.iter())
            .filter_map(|check| policy::health_check(check, port, &host_name(&service.key, zone)))
            .collect(),
        // Otherwise Envoy goes on using an endpoint that left for as long as it answers probes.
        ignore_health_on_host_removal: wanted.health_check.is_some(),
        outlier_detection: wanted.outlier_detection.as_ref().map(policy::outlier_detection),
        circuit_breakers: policy::circuit_breakers(&wanted.circuit_breaker),
        typed_extension_protocol_options: http_options(port),
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

fn http_options(port: &ServicePort) -> HashMap<String, Any> {
    if port.app_protocol != Some(AppProtocol::Http2) {
        return HashMap::new();
    }
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(http::UpstreamProtocolOptions::ExplicitHttpConfig(
            http::ExplicitHttpConfig {
                protocol_config: Some(
                    http::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
                        Http2ProtocolOptions::default(),
                    ),
                ),
            },
        )),
        ..HttpProtocolOptions::default()
    };
    HashMap::from([(HTTP_OPTIONS.to_owned(), pack(&options))])
}
