//! LDS and RDS of Gateways: a socket per port and address, and the route tables of each port that
//! speaks HTTP: one, or within TLS one for each name that clients ask for.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use portolan_model::gateway::NOWHERE;
use portolan_model::traffic::{Secret, Share, VirtualHost};
use portolan_model::{Gateway, GatewayChain, GatewayKey, GatewayPort, GatewaySni, GatewayTls};
use portolan_proto::envoy::core::TransportSocket;
use portolan_proto::envoy::http_connection_manager::http_connection_manager::UpgradeConfig;
use portolan_proto::envoy::listener::{FilterChain, FilterChainMatch, Listener};
use portolan_proto::envoy::protobuf::{Any, BoolValue};
use portolan_proto::envoy::route::RouteConfiguration;
use portolan_proto::envoy::tcp_proxy::TcpProxy;
use portolan_proto::envoy::tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight;
use portolan_proto::envoy::tcp_proxy::tcp_proxy::{ClusterSpecifier, WeightedCluster};

use super::endpoints::socket_address;
use super::listener::{self, Clients, HTTP_FILTER, TCP_FILTER};
use super::{Encoded, ResourceType, pack, route, secret};
use crate::catalog::Name;

/// What names of listeners and route tables of Gateways begin with.
pub const PREFIX: &str = "gateway/";

/// Name of the route table of a port, and of its listener on the first address: `gateway/shop/web:80`.
#[must_use]
pub fn name(key: &GatewayKey, port: u16) -> Name {
    format!("{PREFIX}{key}:{port}").into()
}

/// Name of the route table of those who ask for a name within TLS: `gateway/shop/web#a.test:443`.
fn chain_table(key: &GatewayKey, chain: &GatewayChain, port: u16) -> Name {
    match &chain.name {
        None => name(key, port),
        Some(host) => format!("{PREFIX}{key}#{host}:{port}").into(),
    }
}

/// The route tables of a port, and their hosts.
fn tables<'a>(
    key: &GatewayKey,
    port: u16,
    content: &'a GatewayPort,
) -> Vec<(Name, &'a [Arc<VirtualHost>])> {
    match content {
        GatewayPort::Http(hosts) => vec![(name(key, port), hosts)],
        GatewayPort::Tcp(_) => Vec::new(),
        GatewayPort::Tls(GatewayTls { chains, .. }) => {
            let table = |own: &'a GatewayChain| (chain_table(key, own, port), &*own.hosts);
            chains.iter().map(table).collect()
        }
    }
}

/// The Gateway that a listener or a route table is of, by its name.
#[must_use]
pub fn key_of(name: &str) -> Option<GatewayKey> {
    let (key, port) = name.strip_prefix(PREFIX)?.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    // Listeners on further addresses are counted, route tables within TLS have a name; certificates stand
    // below their Gateway.
    let key = key.split_once('#').map_or(key, |(key, _)| key);
    GatewayKey::parse(key.split_once("/tls/").map_or(key, |(key, _)| key))
}

/// A resource of a Gateway.
#[derive(Debug)]
pub struct Made {
    /// Its type.
    pub kind: ResourceType,
    /// Its name.
    pub name: Name,
    /// Its content.
    pub encoded: Encoded,
    /// Whether it is a listener on which TLS comes first.
    pub tls: bool,
}

/// The listeners of a port: one for each address. `default` is where a Gateway listens that asks for
/// none.
fn sockets(gateway: &Gateway, port: u16, default: IpAddr) -> Vec<(Name, SocketAddr)> {
    let any = [default];
    let addresses = if gateway.addresses.is_empty() { &any[..] } else { &gateway.addresses };
    let socket = |(i, address): (usize, &IpAddr)| {
        let name = match i {
            0 => name(&gateway.key, port),
            i => format!("{PREFIX}{}#{}:{port}", gateway.key, i + 1).into(),
        };
        (name, SocketAddr::new(*address, port))
    };
    addresses.iter().enumerate().map(socket).collect()
}

/// The names of all resources of a Gateway.
#[must_use]
pub fn names(gateway: &Gateway, default: IpAddr) -> BTreeSet<(ResourceType, Name)> {
    let of_ports = gateway.ports.iter().flat_map(|(port, content)| {
        let tables = tables(&gateway.key, *port, content).into_iter();
        let listeners = sockets(gateway, *port, default).into_iter();
        let tables = tables.map(|(name, _)| (ResourceType::Route, name));
        tables.chain(listeners.map(|(name, _)| (ResourceType::Listener, name)))
    });
    let secrets = gateway.certificates.keys();
    let secrets = secrets.map(|name| (ResourceType::Secret, secret_name(&gateway.key, name)));
    of_ports.chain(secrets).collect()
}

/// All resources of a Gateway. `default` is where it listens if it asks for no address.
#[must_use]
pub fn encode(gateway: &Gateway, default: IpAddr) -> Vec<Made> {
    let mut made = Vec::new();
    let mut put = |kind, name, encoded, tls| made.push(Made { kind, name, encoded, tls });
    for (port, content) in &gateway.ports {
        for (table, hosts) in tables(&gateway.key, *port, content) {
            let config = RouteConfiguration {
                name: table.to_string(),
                virtual_hosts: hosts.iter().map(|host| route::host(host)).collect(),
                // The listener's port is its own; a request may say another, or none.
                ignore_port_in_host_matching: true,
                ..RouteConfiguration::default()
            };
            put(ResourceType::Route, table.clone(), Encoded::new(&table, &config), false);
        }
        let tls = content.ends_tls();
        for (name, at) in sockets(gateway, *port, default) {
            let listener = socket(&name, at, content, &gateway.key, *port);
            let encoded = Encoded::new(&name, &listener);
            put(ResourceType::Listener, name, encoded, tls);
        }
    }
    for (name, secret) in &gateway.certificates {
        let name = secret_name(&gateway.key, name);
        let encoded = match &**secret {
            Secret::Certificate { chain, key, ocsp } => {
                secret::encode_certificate(&name, chain, key, ocsp.as_deref())
            }
            Secret::Authorities(pem) => secret::encode_authorities(&name, pem),
        };
        put(ResourceType::Secret, name, encoded, false);
    }
    made
}

/// Name of a certificate of a Gateway: `gateway/shop/web/tls/shop/web-cert:0`. What follows the colon
/// is no port, and makes it a name of the same form as the others.
#[must_use]
pub fn secret_name(key: &GatewayKey, secret: &str) -> Name {
    format!("{PREFIX}{key}/tls/{secret}:0").into()
}

/// Paths are compared as they are after normalization, so that `/a/../b` is `/b` for its routes and
/// for its endpoint, too (RFC 3986 §6.2.2).
fn socket(
    name: &Name,
    address: SocketAddr,
    content: &GatewayPort,
    key: &GatewayKey,
    port: u16,
) -> Listener {
    let http = |table: &Name| {
        let mut manager = listener::proxy_manager(name, listener::rds(table));
        manager.normalize_path = Some(BoolValue { value: true });
        manager.use_remote_address = Some(BoolValue { value: true });
        manager.upgrade_configs = vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }];
        pack(&manager)
    };
    Listener {
        name: name.to_string(),
        address: Some(socket_address(address)),
        filter_chains: match content {
            GatewayPort::Http(_) => {
                vec![listener::chain(HTTP_FILTER, http(&self::name(key, port)))]
            }
            GatewayPort::Tcp(shares) => {
                vec![listener::chain(TCP_FILTER, pack(&tcp_proxy(name, shares)))]
            }
            GatewayPort::Tls(tls) => {
                let http = |chain| http(&chain_table(key, chain, port));
                let secured = tls.chains.iter().map(|chain| secured(chain, key, http(chain)));
                secured.chain(tls.names.iter().map(|own| by_name(name, own, key))).collect()
            }
        },
        // By which Envoy finds the name that the client asks for.
        listener_filters: match content {
            GatewayPort::Tls(_) => vec![listener::tls_inspector()],
            GatewayPort::Http(_) | GatewayPort::Tcp(_) => Vec::new(),
        },
        ..Listener::default()
    }
}

/// A chain for clients that ask for its name.
fn secured(chain: &GatewayChain, key: &GatewayKey, config: Any) -> FilterChain {
    let matched = chain.name.as_ref().map(|name| FilterChainMatch {
        server_names: vec![name.to_string()],
        ..FilterChainMatch::default()
    });
    FilterChain {
        filter_chain_match: matched,
        transport_socket: Some(ended(
            key,
            &chain.certificates,
            chain.clients.as_deref(),
            listener::HTTP_ALPN,
        )),
        ..listener::chain(HTTP_FILTER, config)
    }
}

/// TLS that ends here.
fn ended(
    key: &GatewayKey,
    certificates: &[Arc<str>],
    clients: Option<&str>,
    alpn: &[&str],
) -> TransportSocket {
    let names = certificates.iter().map(|name| secret_name(key, name).to_string());
    let clients =
        clients.map(|name| Clients { authorities: secret_name(key, name).to_string(), names: &[] });
    listener::tls_socket(names.collect(), alpn, clients)
}

/// A chain for clients that ask for its name; their TLS ends here if it has certificates, else at the
/// endpoint.
fn by_name(name: &Name, chain: &GatewaySni, key: &GatewayKey) -> FilterChain {
    let own = (!chain.certificates.is_empty())
        .then(|| ended(key, &chain.certificates, chain.clients.as_deref(), &[]));
    let names = chain.name.iter().map(|name| name.to_string());
    let nowhere = [Share::all(NOWHERE.into())];
    // No cluster has this name: whoever is for nobody goes no further than to a chain of his own.
    let clusters = if chain.clusters.is_empty() { &nowhere[..] } else { &chain.clusters };
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            server_names: names.collect(),
            transport_protocol: "tls".to_owned(),
            ..FilterChainMatch::default()
        }),
        transport_socket: own,
        ..listener::chain(TCP_FILTER, pack(&tcp_proxy(name, clusters)))
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
            ("gateway/shop/web#*.a.test:443", Some("shop/web")),
            ("gateway/shop/web/tls/other/cert:0", Some("shop/web")),
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
