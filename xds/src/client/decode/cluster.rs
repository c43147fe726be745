//! `Cluster` -> [`Cluster`]: EDS and static clusters, and what connections to their endpoints
//! are like.

use std::num::NonZeroU32;
use std::sync::Arc;

use portolan_model::traffic::{
    self, ClientTls, EndpointSet, ProxyHeader, ResourceName, Upstream, UpstreamProtocol,
};
use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType};
use portolan_proto::envoy::core::config_source::ConfigSourceSpecifier;
use portolan_proto::envoy::core::proxy_protocol_config::Version;
use portolan_proto::envoy::core::{
    HttpProtocolOptions as CommonOptions, TransportSocket, transport_socket,
};
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::protobuf::value::Kind;
use portolan_proto::envoy::raw_buffer::RawBuffer;
use portolan_proto::envoy::tls::UpstreamTlsContext;
use portolan_proto::envoy::upstream_http::HttpProtocolOptions;
use portolan_proto::envoy::upstream_http::http_protocol_options::UpstreamProtocolOptions;
use portolan_proto::envoy::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use portolan_proto::envoy::upstream_proxy_protocol::ProxyProtocolUpstreamTransport;
use prost::Name;

use super::{
    DecodeError, balancing, endpoints, health, limits, message, named, positive, refuse, resource,
    time, tls,
};
use crate::resource::cluster::{ANY_PROTOCOL, HTTP_OPTIONS, OWN_METADATA, PROTOCOL};

/// A cluster, and the endpoints it carries in itself if it is static.
pub type DecodedCluster = (traffic::Cluster, Option<EndpointSet>);

/// Decodes and checks a cluster.
///
/// # Errors
/// The first field that is malformed or not supported.
pub fn decode(any: &Any) -> Result<(ResourceName, DecodedCluster), DecodeError> {
    let cluster: Cluster = resource(any)?;
    let name: ResourceName = cluster.name.as_str().into();
    let decoded = convert(&cluster, &name).map_err(named(&cluster.name))?;
    Ok((name, decoded))
}

fn convert(cluster: &Cluster, name: &ResourceName) -> Result<DecodedCluster, String> {
    if name.is_empty() {
        return Err("name: missing".to_owned());
    }
    refuse("filters", !cluster.filters.is_empty())?;
    refuse("upstream_config", cluster.upstream_config.is_some())?;
    refuse("upstream_bind_config", cluster.upstream_bind_config.is_some())?;
    let (endpoints, inline) = discovery(cluster, name)?;
    let decoded = traffic::Cluster {
        name: name.clone(),
        endpoints,
        balancing: balancing::convert(cluster)?,
        upstream: upstream(cluster)?,
        health_host: health::host(&cluster.health_checks),
        health_check: health::check(&cluster.health_checks)?,
        outlier: health::outlier(cluster.outlier_detection.as_ref())?,
        limits: limits::breakers(cluster.circuit_breakers.as_ref())?,
        adaptive_concurrency: limits::adaptive(cluster.metadata.as_ref())?,
        // Of another server nothing is known here; gRPC takes no other, either (gRFC A27).
        reports_load: matches!(
            cluster.lrs_server.as_ref().and_then(|server| server.config_source_specifier.as_ref()),
            Some(ConfigSourceSpecifier::Self_(_))
        ),
    };
    Ok((decoded, inline))
}

fn discovery(
    cluster: &Cluster,
    name: &ResourceName,
) -> Result<(ResourceName, Option<EndpointSet>), String> {
    let kind = match &cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind)
            .map_err(|_| format!("type: {kind} is not a discovery type"))?,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return Err(format!("cluster_type: {:?} is not supported", custom.name));
        }
        None => DiscoveryType::Static,
    };
    match kind {
        DiscoveryType::Eds => {
            let service = cluster.eds_cluster_config.as_ref().map(|c| c.service_name.as_str());
            Ok((service.filter(|s| !s.is_empty()).unwrap_or(name).into(), None))
        }
        DiscoveryType::Static => {
            let assignment = cluster.load_assignment.clone().unwrap_or_default();
            let set_name: ResourceName = format!("static:{name}").into();
            let set = endpoints::convert(&assignment, set_name.clone())
                .map_err(|reason| format!("load_assignment: {reason}"))?;
            Ok((set_name, Some(set)))
        }
        other => Err(format!("type: {} is not supported", other.as_str_name())),
    }
}

#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
fn upstream(cluster: &Cluster) -> Result<Upstream, String> {
    let mut upstream = Upstream::default();
    let connect = cluster.connect_timeout.as_ref();
    upstream.connect_timeout = positive("connect_timeout", connect, upstream.connect_timeout)?;
    let before = transport("transport_socket", cluster.transport_socket.as_ref())?;
    for (i, one) in cluster.transport_socket_matches.iter().enumerate() {
        let field = format!("transport_socket_matches[{i}].transport_socket");
        refuse(&field, transport(&field, one.transport_socket.as_ref())? != before)?;
    }
    (upstream.send_proxy, upstream.tls) = before;
    // The fields from before the options came together in one message.
    if cluster.http2_protocol_options.is_some() {
        upstream.protocol = UpstreamProtocol::Http2;
    }
    let common = cluster.common_http_protocol_options.as_ref();
    connection("common_http_protocol_options", common, &mut upstream)?;
    if let Some(most) = &cluster.max_requests_per_connection {
        upstream.max_requests = NonZeroU32::new(most.value);
    }
    if let Some(any) = cluster.typed_extension_protocol_options.get(HTTP_OPTIONS) {
        let options = message(any).map_err(|e| format!("{HTTP_OPTIONS}: {e}"))?;
        http(&options, &mut upstream)?;
    }
    if is_any_protocol(cluster) {
        upstream.protocol = UpstreamProtocol::Auto;
    }
    Ok(upstream)
}

/// Whether the protocol named is there for clients that need one.
fn is_any_protocol(cluster: &Cluster) -> bool {
    let own = cluster.metadata.as_ref().and_then(|m| m.filter_metadata.get(OWN_METADATA));
    let said = own.and_then(|own| own.fields.get(PROTOCOL)).and_then(|value| value.kind.as_ref());
    matches!(said, Some(Kind::StringValue(text)) if text == ANY_PROTOCOL)
}

fn http(options: &HttpProtocolOptions, upstream: &mut Upstream) -> Result<(), String> {
    refuse(&format!("{HTTP_OPTIONS}.hash_policy"), !options.hash_policy.is_empty())?;
    refuse(&format!("{HTTP_OPTIONS}.retry_policy"), options.retry_policy.is_some())?;
    refuse(&format!("{HTTP_OPTIONS}.outlier_detection"), options.outlier_detection.is_some())?;
    let mirrored = !options.request_mirror_policies.is_empty();
    refuse(&format!("{HTTP_OPTIONS}.request_mirror_policies"), mirrored)?;
    let filters = options.http_filters.iter().any(|f| !f.name.ends_with("upstream_codec"));
    refuse(&format!("{HTTP_OPTIONS}.http_filters"), filters)?;
    let common = options.common_http_protocol_options.as_ref();
    connection(&format!("{HTTP_OPTIONS}.common_http_protocol_options"), common, upstream)?;
    upstream.protocol = match &options.upstream_protocol_options {
        None => UpstreamProtocol::Auto,
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => {
            UpstreamProtocol::Downstream
        }
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => match config.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => UpstreamProtocol::Http2,
            Some(ProtocolConfig::HttpProtocolOptions(_)) => UpstreamProtocol::Http1,
            None => UpstreamProtocol::Auto,
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                return Err(format!("{HTTP_OPTIONS}: HTTP/3 is not supported"));
            }
        },
        // Offered is what a request needs, by the protocol that its connection will have.
        Some(UpstreamProtocolOptions::AutoConfig(config)) => {
            if upstream.tls.is_none() {
                return Err(format!("{HTTP_OPTIONS}.auto_config: needs TLS"));
            }
            let http3 = config.http3_protocol_options.is_some();
            refuse(&format!("{HTTP_OPTIONS}.auto_config.http3_protocol_options"), http3)?;
            UpstreamProtocol::Auto
        }
    };
    Ok(())
}

/// Zero stands for no limit, where the proxy's own setting holds.
fn connection(
    field: &str,
    options: Option<&CommonOptions>,
    upstream: &mut Upstream,
) -> Result<(), String> {
    let Some(options) = options else { return Ok(()) };
    let most = time(&format!("{field}.max_stream_duration"), options.max_stream_duration.as_ref())?;
    refuse(&format!("{field}.max_stream_duration"), most.is_some())?;
    upstream.idle_timeout = time(&format!("{field}.idle_timeout"), options.idle_timeout.as_ref())?;
    upstream.max_age = time(
        &format!("{field}.max_connection_duration"),
        options.max_connection_duration.as_ref(),
    )?;
    let most = options.max_requests_per_connection.as_ref();
    upstream.max_requests = most.and_then(|most| NonZeroU32::new(most.value));
    Ok(())
}

/// Whether a transport socket is none, or says that it is.
fn is_raw(socket: Option<&TransportSocket>) -> bool {
    socket.is_none_or(|socket| match &socket.config_type {
        Some(transport_socket::ConfigType::TypedConfig(any)) => {
            any.type_url == RawBuffer::type_url()
        }
        // It may go by its name alone.
        None => socket.name.ends_with("raw_buffer"),
    })
}

/// What comes before the bytes of a connection: a PROXY header, TLS, or both in this order.
type Transport = (Option<ProxyHeader>, Option<Arc<ClientTls>>);

fn transport(field: &str, socket: Option<&TransportSocket>) -> Result<Transport, String> {
    let Some(any) = transport_config(field, socket)? else { return Ok((None, None)) };
    if any.type_url != ProxyProtocolUpstreamTransport::type_url() {
        return Ok((None, Some(secured(field, any)?)));
    }
    let transport: ProxyProtocolUpstreamTransport =
        message(any).map_err(|e| format!("{field}: {e}"))?;
    let inner = format!("{field}.transport_socket");
    let inner = match transport_config(&inner, transport.transport_socket.as_ref())? {
        None => None,
        Some(any) => Some(secured(&inner, any)?),
    };
    let config = transport.config.unwrap_or_default();
    let field = format!("{field}.config");
    refuse(&format!("{field}.pass_through_tlvs"), config.pass_through_tlvs.is_some())?;
    refuse(&format!("{field}.added_tlvs"), !config.added_tlvs.is_empty())?;
    match Version::try_from(config.version) {
        Ok(Version::V1) => Ok((Some(ProxyHeader::V1), inner)),
        Ok(Version::V2) => Ok((Some(ProxyHeader::V2), inner)),
        Err(_) => Err(format!("{field}.version: {} is not a version", config.version)),
    }
}

/// The settings of a transport socket that is one.
fn transport_config<'a>(
    field: &str,
    socket: Option<&'a TransportSocket>,
) -> Result<Option<&'a Any>, String> {
    let config = socket.filter(|_| !is_raw(socket)).map(|socket| socket.config_type.as_ref());
    match config {
        None => Ok(None),
        Some(None) => Err(format!("{field}.typed_config: missing")),
        Some(Some(transport_socket::ConfigType::TypedConfig(any))) => Ok(Some(any)),
    }
}

fn secured(field: &str, any: &Any) -> Result<Arc<ClientTls>, String> {
    if any.type_url != UpstreamTlsContext::type_url() {
        return Err(format!("{field}: {:?} is not supported", any.type_url));
    }
    tls::upstream(field, any).map(Arc::new)
}
