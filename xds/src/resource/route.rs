//! RDS: a route table per gRPC target, and the one table of all HTTP listeners.
//!
//! The HTTP table holds a virtual host per port of every service. Virtual hosts are encoded one by
//! one and joined as bytes, so that a service that changes is encoded alone; the join is a copy of
//! some 200 bytes per service.

mod conditions;
mod encode;
pub(super) mod filters;

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use imbl::OrdMap;
use portolan_model::traffic::{self, PathMatch};
use portolan_model::{
    AppProtocol, Balancer, DnsName, Protocol, Scope, Service, ServicePort, ServiceRoutes,
};
use portolan_proto::envoy::route::{Route, RouteConfiguration, VirtualHost};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost::{Message, Name};

use super::{Encoded, cluster_name, host_name, target_name};
use crate::capability::Dialect;

pub(super) use encode::host;

/// Name of the route table of all HTTP listeners.
pub const HTTP_ROUTES: &str = "portolan/http";
/// Field number of `virtual_hosts` in `RouteConfiguration`.
const VIRTUAL_HOSTS: u32 = 2;

/// What shapes the routes of a service beside the service itself.
#[derive(Clone, Copy, Debug)]
pub struct Around<'a> {
    /// Routes that stand in the place of "all to its endpoints".
    pub routes: Option<&'a ServiceRoutes>,
    /// The namespace that requests come from, where it matters.
    pub client: Option<&'a str>,
    /// The balancer of services that choose none.
    pub default: Balancer,
    /// The DNS zone of the service's scope.
    pub zone: &'a DnsName,
}

/// Encodes the route table of a gRPC target: everything to the port's cluster, or as its routes say.
#[must_use]
pub fn encode_target(service: &Service, port: &ServicePort, around: Around<'_>) -> Encoded {
    let name = target_name(&service.key, port.port, around.zone);
    let config = RouteConfiguration {
        name: name.to_string(),
        virtual_hosts: vec![VirtualHost {
            name: name.to_string(),
            domains: vec!["*".to_owned()],
            routes: routes(service, port.port, around, Dialect::Grpc),
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    };
    Encoded::new(&name, &config)
}

/// The virtual hosts of a service, encoded, by name: one for each TCP port that may carry HTTP.
///
/// A request names the service in one of the forms a pod may use (`web.shop`, `web.shop.svc`,
/// `web.shop.svc.cluster.local`), with a port or without. Without one the port is 80 where the
/// service has it, else its first.
#[must_use]
pub fn virtual_hosts(service: &Service, around: Around<'_>) -> Vec<(Arc<str>, Bytes)> {
    let ports: Vec<&ServicePort> = http_ports(service).collect();
    let bare = ports.iter().find(|p| p.port == 80).or(ports.first()).map(|p| p.port);
    let (name, namespace) = (service.key.name(), service.key.namespace());
    let full = host_name(&service.key, around.zone);
    let forms = match service.key.scope() {
        Scope::Cluster => {
            vec![format!("{name}.{namespace}"), format!("{name}.{namespace}.svc"), full]
        }
        // The short forms mean the cluster's own service.
        Scope::ClusterSet => vec![full],
    };
    ports
        .into_iter()
        .map(|port| {
            let mut domains: Vec<String> =
                forms.iter().map(|form| format!("{form}:{}", port.port)).collect();
            if bare == Some(port.port) {
                domains.extend(forms.iter().cloned());
            }
            let host_name = cluster_name(&service.key, port.port);
            let host = VirtualHost {
                name: host_name.to_string(),
                domains,
                routes: routes(service, port.port, around, Dialect::Envoy),
                ..VirtualHost::default()
            };
            (host_name, host.encode_to_vec().into())
        })
        .collect()
}

fn http_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service
        .ports
        .iter()
        .filter(|p| p.protocol == Protocol::Tcp && p.app_protocol != Some(AppProtocol::Tcp))
}

/// Joins encoded virtual hosts to the route table of the HTTP listeners.
#[must_use]
pub fn encode_http(hosts: &OrdMap<Arc<str>, Bytes>) -> Encoded {
    let head = RouteConfiguration { name: HTTP_ROUTES.to_owned(), ..RouteConfiguration::default() };
    let size: usize = hosts.values().map(|h| h.len() + 8).sum();
    let mut message = BytesMut::with_capacity(size + head.encoded_len());
    head.encode_raw(&mut message);
    for host in hosts.values() {
        encode_key(VIRTUAL_HOSTS, WireType::LengthDelimited, &mut message);
        encode_varint(u64::try_from(host.len()).unwrap_or(u64::MAX), &mut message);
        message.put_slice(host);
    }
    Encoded::from_bytes(HTTP_ROUTES, &RouteConfiguration::type_url(), &message)
}

/// What is routed on a port, as the routes of the service say, or else all of it to the cluster.
fn routes(service: &Service, port: u16, around: Around<'_>, dialect: Dialect) -> Vec<Route> {
    match around.routes.and_then(|routes| routes.at(around.client, port)) {
        Some(routes) => routes.iter().map(|route| encode::route(route, dialect)).collect(),
        None => vec![encode::route(&to_cluster(service, port, around.default), dialect)],
    }
}

/// All requests to a cluster, within the limits that the service asks for.
fn to_cluster(service: &Service, port: u16, default: Balancer) -> traffic::Route {
    let affinity = service.traffic.affinity_secs.is_some();
    let (_, hash_on) = service.policy.balancing(affinity, default);
    let name = cluster_name(&service.key, port);
    traffic::Route {
        timeout: service.policy.timeouts.request,
        idle_timeout: service.policy.timeouts.idle,
        retries: service.policy.retries.clone(),
        hash: traffic::HashPolicy::told_by(hash_on),
        ..traffic::Route::to(PathMatch::Prefix("".into()), name)
    }
}
