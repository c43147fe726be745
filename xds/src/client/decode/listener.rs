//! `Listener` -> [`Listener`]: one filter chain that ends in the HTTP connection manager or the TCP
//! proxy. API listeners are for gRPC clients and passed over.

use portolan_model::traffic::{Listener as Socket, ListenerKind, ResourceName, RouteTable};
use portolan_proto::envoy::http_connection_manager::HttpConnectionManager;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::RouteSpecifier;
use portolan_proto::envoy::http_connection_manager::http_filter::ConfigType as FilterConfig;
use portolan_proto::envoy::http_router::Router;
use portolan_proto::envoy::listener::Listener;
use portolan_proto::envoy::listener::filter::ConfigType;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};
use prost::Name;

use super::endpoints::socket_address;
use super::{DecodeError, message, named, resource, route};

/// A listener, and the route table it carries in itself, if it does; `None` for an API listener.
pub type DecodedListener = Option<(Socket, Option<RouteTable>)>;

/// Decodes and checks a listener.
///
/// # Errors
/// The first field that is malformed or not supported.
pub fn decode(any: &Any) -> Result<(ResourceName, DecodedListener), DecodeError> {
    let listener: Listener = resource(any)?;
    let name: ResourceName = listener.name.as_str().into();
    if listener.api_listener.is_some() {
        return Ok((name, None));
    }
    let decoded = convert(&listener, &name).map_err(named(&listener.name))?;
    Ok((name, Some(decoded)))
}

fn convert(
    listener: &Listener,
    name: &ResourceName,
) -> Result<(Socket, Option<RouteTable>), String> {
    if name.is_empty() {
        return Err("name: missing".to_owned());
    }
    let address = socket_address("address", listener.address.as_ref())?;
    let chain = match (&listener.filter_chains[..], &listener.default_filter_chain) {
        ([chain], None) if chain.filter_chain_match.is_none() => chain,
        ([], Some(chain)) => chain,
        ([], None) => return Err("filter_chains: missing".to_owned()),
        _ => return Err("filter_chains: choosing among several is not supported yet".to_owned()),
    };
    if chain.transport_socket.is_some() {
        return Err("filter_chains[0].transport_socket: TLS is not supported yet".to_owned());
    }
    let [filter] = &chain.filters[..] else {
        let count = chain.filters.len();
        return Err(format!("filter_chains[0].filters: {count} filters, one is supported"));
    };
    let Some(ConfigType::TypedConfig(config)) = &filter.config_type else {
        return Err("filter_chains[0].filters[0].typed_config: missing".to_owned());
    };
    let (kind, table) = if config.type_url == HttpConnectionManager::type_url() {
        http(&message(config)?, name)?
    } else if config.type_url == TcpProxy::type_url() {
        (tcp(&message(config)?)?, None)
    } else {
        let url = &config.type_url;
        return Err(format!("filter_chains[0].filters[0]: {url:?} is not supported"));
    };
    Ok((Socket { name: name.clone(), address, kind }, table))
}

fn http(
    manager: &HttpConnectionManager,
    listener: &ResourceName,
) -> Result<(ListenerKind, Option<RouteTable>), String> {
    for (i, filter) in manager.http_filters.iter().enumerate() {
        let router = matches!(
            &filter.config_type,
            Some(FilterConfig::TypedConfig(any)) if any.type_url == Router::type_url()
        );
        if !router && !filter.is_optional {
            return Err(format!("http_filters[{i}]: {:?} is not supported", filter.name));
        }
    }
    match &manager.route_specifier {
        Some(RouteSpecifier::Rds(rds)) if !rds.route_config_name.is_empty() => {
            Ok((ListenerKind::Http { routes: rds.route_config_name.as_str().into() }, None))
        }
        Some(RouteSpecifier::RouteConfig(config)) => {
            let name: ResourceName = format!("inline:{listener}").into();
            let table = route::convert(config, name.clone())
                .map_err(|reason| format!("route_config: {reason}"))?;
            Ok((ListenerKind::Http { routes: name }, Some(table)))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => Err("scoped_routes: not supported".to_owned()),
        Some(RouteSpecifier::Rds(_)) | None => Err("rds.route_config_name: missing".to_owned()),
    }
}

fn tcp(proxy: &TcpProxy) -> Result<ListenerKind, String> {
    match &proxy.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) if !cluster.is_empty() => {
            Ok(ListenerKind::Tcp { cluster: cluster.as_str().into() })
        }
        Some(ClusterSpecifier::WeightedClusters(_)) => {
            Err("weighted_clusters: not supported yet".to_owned())
        }
        _ => Err("cluster: missing".to_owned()),
    }
}
