//! LDS and RDS of Gateways: a socket per port and address, and the route table of each port that
//! speaks HTTP.

use std::net::{IpAddr, SocketAddr};

use portolan_model::traffic::Share;
use portolan_model::{Gateway, GatewayKey, GatewayPort};
use portolan_proto::envoy::http_connection_manager::http_connection_manager::UpgradeConfig;
use portolan_proto::envoy::listener::Listener;
use portolan_proto::envoy::protobuf::BoolValue;
use portolan_proto::envoy::route::RouteConfiguration;
use portolan_proto::envoy::tcp_proxy::TcpProxy;
use portolan_proto::envoy::tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight;
use portolan_proto::envoy::tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster};

use super::endpoints::socket_address;
use super::listener::{self, HTTP_FILTER, TCP_FILTER};
use super::{Encoded, ResourceType, pack, route};
use crate::catalog::Name;

/// What names of listeners and route tables of Gateways begin with.
pub const PREFIX: &str = "gateway/";

/// Name of the route table of a port, and of its listener on the first address: `gateway/shop/web:80`.
#[must_use]
pub fn name(key: &GatewayKey, port: u16) -> Name {
    format!("{PREFIX}{key}:{port}").into()
}

/// The Gateway that a listener or a route table is of, by its name.
#[must_use]
pub fn key_of(name: &str) -> Option<GatewayKey> {
    let (key, port) = name.strip_prefix(PREFIX)?.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    // Listeners on further addresses are counted.
    GatewayKey::parse(key.split_once('#').map_or(key, |(key, _)| key))
}

/// All resources of a Gateway. `default` is where it listens if it asks for no address.
#[must_use]
pub fn encode(gateway: &Gateway, default: IpAddr) -> Vec<(ResourceType, Name, Encoded)> {
    let mut encoded = Vec::new();
    let any = [default];
    let addresses = if gateway.addresses.is_empty() { &any[..] } else { &gateway.addresses };
    for (port, content) in &gateway.ports {
        let table = name(&gateway.key, *port);
        if let GatewayPort::Http(hosts) = content {
            let config = RouteConfiguration {
                name: table.to_string(),
                virtual_hosts: hosts.iter().map(|host| route::host(host)).collect(),
                // The listener's port is its own; a request may say another, or none.
                ignore_port_in_host_matching: true,
                ..RouteConfiguration::default()
            };
            encoded.push((ResourceType::Route, table.clone(), Encoded::new(&table, &config)));
        }
        for (i, address) in addresses.iter().enumerate() {
            let name = match i {
                0 => table.clone(),
                i => format!("{PREFIX}{}#{}:{port}", gateway.key, i + 1).into(),
            };
            let listener = socket(&name, SocketAddr::new(*address, *port), content, &table);
            encoded.push((ResourceType::Listener, name.clone(), Encoded::new(&name, &listener)));
        }
    }
    encoded
}

/// Paths are compared as they are after normalization, so that `/a/../b` is `/b` for its routes and
/// for its endpoint, too (RFC 3986 §6.2.2).
fn socket(name: &Name, address: SocketAddr, content: &GatewayPort, table: &Name) -> Listener {
    let (filter, config) = match content {
        GatewayPort::Http(_) => {
            let mut manager = listener::connection_manager(name, listener::rds(table));
            manager.normalize_path = Some(BoolValue { value: true });
            manager.use_remote_address = Some(BoolValue { value: true });
            manager.upgrade_configs = vec![UpgradeConfig {
                upgrade_type: "websocket".to_owned(),
                ..UpgradeConfig::default()
            }];
            (HTTP_FILTER, pack(&manager))
        }
        GatewayPort::Tcp(shares) => (TCP_FILTER, pack(&tcp_proxy(name, shares))),
    };
    Listener {
        name: name.to_string(),
        address: Some(socket_address(address)),
        filter_chains: vec![listener::chain(filter, config)],
        ..Listener::default()
    }
}

fn tcp_proxy(name: &Name, shares: &[Share]) -> TcpProxy {
    let specifier = match shares {
        [only] => ClusterSpecifier::Cluster(only.cluster.to_string()),
        shares => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: shares
                .iter()
                .map(|share| ClusterWeight {
                    name: share.cluster.to_string(),
                    weight: share.weight,
                    ..ClusterWeight::default()
                })
                .collect(),
        }),
    };
    TcpProxy {
        stat_prefix: name.to_string(),
        cluster_specifier: Some(specifier),
        // Of use only to a cluster that picks by hash.
        hash_policy: vec![listener::by_source_ip()],
        ..TcpProxy::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_gateway() {
        let key = GatewayKey::new("shop", "web");
        assert_eq!(&*name(&key, 80), "gateway/shop/web:80");
        for (name, expected) in [
            ("gateway/shop/web:80", Some("shop/web")),
            ("gateway/shop/web#2:80", Some("shop/web")),
            ("gateway/shop/web", None),
            ("gateway/web:80", None),
            ("gateway/a/b/c:80", None),
            ("shop/web:80", None),
            ("http", None),
        ] {
            assert_eq!(key_of(name).map(|key| key.to_string()).as_deref(), expected, "{name}");
        }
    }
}
