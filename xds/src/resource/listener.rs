//! LDS: sockets for proxies, and API listeners by which gRPC clients resolve `xds:///` targets.

use portolan_model::{DnsName, ServiceKey};
use portolan_proto::envoy::http_connection_manager::http_connection_manager::{
    CodecType, RouteSpecifier,
};
use portolan_proto::envoy::http_connection_manager::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use portolan_proto::envoy::http_router::Router;
use portolan_proto::envoy::listener::{
    ApiListener, Filter, FilterChain, Listener, filter::ConfigType,
};
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};

use super::cluster::ads;
use super::endpoints::socket_address;
use super::route::HTTP_ROUTES;
use super::{Encoded, cluster_name, pack, target_name};
use crate::config::{ListenerSpec, ListenerTarget};

const HTTP_FILTER: &str = "envoy.filters.network.http_connection_manager";
const TCP_FILTER: &str = "envoy.filters.network.tcp_proxy";
const ROUTER_FILTER: &str = "envoy.filters.http.router";

/// Encodes a socket listener.
#[must_use]
pub fn encode_socket(spec: &ListenerSpec) -> Encoded {
    let (name, config) = match &spec.target {
        ListenerTarget::Http => (HTTP_FILTER, pack(&connection_manager(&spec.name, HTTP_ROUTES))),
        ListenerTarget::Tcp { service, port } => {
            let cluster = ClusterSpecifier::Cluster(cluster_name(service, *port).to_string());
            let proxy = TcpProxy {
                stat_prefix: spec.name.to_string(),
                cluster_specifier: Some(cluster),
                ..TcpProxy::default()
            };
            (TCP_FILTER, pack(&proxy))
        }
    };
    let listener = Listener {
        name: spec.name.to_string(),
        address: Some(socket_address(spec.address)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: name.to_owned(),
                config_type: Some(ConfigType::TypedConfig(config)),
            }],
            ..FilterChain::default()
        }],
        ..Listener::default()
    };
    Encoded::new(&spec.name, &listener)
}

/// Encodes the API listener of a port: its name is the target path, port included.
#[must_use]
pub fn encode_api(key: &ServiceKey, port: u16, zone: &DnsName) -> Encoded {
    let name = target_name(key, port, zone);
    let listener = Listener {
        name: name.to_string(),
        api_listener: Some(ApiListener {
            api_listener: Some(pack(&connection_manager(&name, &name))),
        }),
        ..Listener::default()
    };
    Encoded::new(&name, &listener)
}

fn connection_manager(stat_prefix: &str, routes: &str) -> HttpConnectionManager {
    HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        codec_type: CodecType::Auto.into(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: routes.to_owned(),
        })),
        // A connection manager without the router filter is refused by gRPC (gRFC A39).
        http_filters: vec![HttpFilter {
            name: ROUTER_FILTER.to_owned(),
            config_type: Some(http_filter::ConfigType::TypedConfig(router())),
            ..HttpFilter::default()
        }],
        ..HttpConnectionManager::default()
    }
}

fn router() -> Any {
    pack(&Router::default())
}
