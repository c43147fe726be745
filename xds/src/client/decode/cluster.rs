//! `Cluster` -> [`Cluster`]: EDS and static clusters, round robin and least request. Of a list of
//! balancers whatever else it names is skipped.

use std::time::Duration;

use portolan_model::Balancer;
use portolan_model::traffic::{self, EndpointSet, ResourceName, UpstreamProtocol};
use portolan_proto::envoy::cluster::Cluster;
use portolan_proto::envoy::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use portolan_proto::envoy::lb::least_request::LeastRequest;
use portolan_proto::envoy::lb::round_robin::RoundRobin;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::upstream_http::HttpProtocolOptions;
use portolan_proto::envoy::upstream_http::http_protocol_options::UpstreamProtocolOptions;
use portolan_proto::envoy::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use prost::Name;

use super::{DecodeError, duration, endpoints, message, named, resource};
use crate::resource::cluster::HTTP_OPTIONS;

/// Envoy's default for `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
    if cluster.transport_socket.is_some() {
        return Err("transport_socket: TLS to endpoints is not supported yet".to_owned());
    }
    let (endpoints, inline) = discovery(cluster, name)?;
    let connect_timeout = match &cluster.connect_timeout {
        Some(value) => duration("connect_timeout", value)?,
        None => CONNECT_TIMEOUT,
    };
    let decoded = traffic::Cluster {
        name: name.clone(),
        endpoints,
        balancer: balancer(cluster)?,
        upstream: upstream(cluster)?,
        connect_timeout,
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

/// The first policy of the list that is known here (gRFC A52), else the old field.
fn balancer(cluster: &Cluster) -> Result<Balancer, String> {
    if let Some(policy) = &cluster.load_balancing_policy {
        let configs = policy.policies.iter().filter_map(|p| p.typed_extension_config.as_ref());
        let mut urls = configs.filter_map(|c| c.typed_config.as_ref()).map(|a| &*a.type_url);
        let known = urls.find_map(|url| match url {
            url if url == LeastRequest::type_url() => Some(Balancer::LeastRequest),
            url if url == RoundRobin::type_url() => Some(Balancer::RoundRobin),
            _ => None,
        });
        return known.ok_or_else(|| "load_balancing_policy: no policy is supported".to_owned());
    }
    match LbPolicy::try_from(cluster.lb_policy) {
        Ok(LbPolicy::RoundRobin) => Ok(Balancer::RoundRobin),
        Ok(LbPolicy::LeastRequest) => Ok(Balancer::LeastRequest),
        Ok(other) => Err(format!("lb_policy: {} is not supported", other.as_str_name())),
        Err(_) => Err(format!("lb_policy: {} is not a policy", cluster.lb_policy)),
    }
}

fn upstream(cluster: &Cluster) -> Result<UpstreamProtocol, String> {
    let Some(any) = cluster.typed_extension_protocol_options.get(HTTP_OPTIONS) else {
        return Ok(UpstreamProtocol::Auto);
    };
    let options: HttpProtocolOptions = message(any)?;
    match options.upstream_protocol_options {
        None | Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => {
            Ok(UpstreamProtocol::Auto)
        }
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => match config.protocol_config {
            Some(ProtocolConfig::Http2ProtocolOptions(_)) => Ok(UpstreamProtocol::Http2),
            Some(ProtocolConfig::HttpProtocolOptions(_)) | None => Ok(UpstreamProtocol::Auto),
            Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                Err(format!("{HTTP_OPTIONS}: HTTP/3 is not supported"))
            }
        },
        Some(UpstreamProtocolOptions::AutoConfig(_)) => {
            Err(format!("{HTTP_OPTIONS}: auto_config needs TLS, which is not supported yet"))
        }
    }
}
