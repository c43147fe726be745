//! RDS: a route table per gRPC target, and the one table of all HTTP listeners.
//!
//! The HTTP table holds a virtual host per port of every service. Virtual hosts are encoded one by
//! one and joined as bytes, so that a service that changes is encoded alone; the join is a copy of
//! some 200 bytes per service.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use imbl::OrdMap;
use portolan_model::policy::{Retries, RetryOn};
use portolan_model::{AppProtocol, Balancer, DnsName, Protocol, Scope, Service, ServicePort};
use portolan_proto::envoy::protobuf::UInt32Value;
use portolan_proto::envoy::route::retry_policy::RetryBackOff;
use portolan_proto::envoy::route::{
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
    route_action, route_action::HashPolicy, route_match::PathSpecifier,
};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost::{Message, Name};

use super::{Encoded, balancing, cluster_name, duration, host_name, target_name};

/// Name of the route table of all HTTP listeners.
pub const HTTP_ROUTES: &str = "portolan/http";
/// Field number of `virtual_hosts` in `RouteConfiguration`.
const VIRTUAL_HOSTS: u32 = 2;

/// Encodes the route table of a gRPC target: everything to the port's cluster.
#[must_use]
pub fn encode_target(
    service: &Service,
    port: &ServicePort,
    default: Balancer,
    zone: &DnsName,
) -> Encoded {
    let name = target_name(&service.key, port.port, zone);
    let mut route = to_cluster(service, port.port, balancing::call_hash(service, default));
    if let (Some(Action::Route(action)), Some(limit)) =
        (&mut route.action, service.policy.timeouts.request)
    {
        // What gRPC clients read in place of `timeout` (gRFC A31).
        action.max_stream_duration = Some(route_action::MaxStreamDuration {
            max_stream_duration: Some(duration(limit)),
            ..route_action::MaxStreamDuration::default()
        });
    }
    let config = RouteConfiguration {
        name: name.to_string(),
        virtual_hosts: vec![VirtualHost {
            name: name.to_string(),
            domains: vec!["*".to_owned()],
            routes: vec![route],
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
pub fn virtual_hosts(
    service: &Service,
    default: Balancer,
    zone: &DnsName,
) -> Vec<(Arc<str>, Bytes)> {
    let hash = balancing::http_hash(service, default);
    let ports: Vec<&ServicePort> = http_ports(service).collect();
    let bare = ports.iter().find(|p| p.port == 80).or(ports.first()).map(|p| p.port);
    let (name, namespace) = (service.key.name(), service.key.namespace());
    let full = host_name(&service.key, zone);
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
                routes: vec![to_cluster(service, port.port, hash.clone())],
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

/// All requests to a cluster. No timeout of the whole request unless the service asks for one:
/// Envoy's default of 15 s would cut gRPC streams.
fn to_cluster(service: &Service, port: u16, hash_policy: Vec<HashPolicy>) -> Route {
    let name = cluster_name(&service.key, port).to_string();
    let timeouts = &service.policy.timeouts;
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix(String::new())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(name)),
            timeout: Some(duration(timeouts.request.unwrap_or_default())),
            idle_timeout: timeouts.idle.map(duration),
            retry_policy: service.policy.retries.as_ref().map(retry_policy),
            hash_policy,
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}

/// Envoy and gRPC (gRFC A44) read the same list and skip the words they do not know; gRPC has no
/// limit on a single try.
fn retry_policy(retries: &Retries) -> RetryPolicy {
    let words: Vec<&str> = retries.on.iter().map(|reason| RetryOn::word(*reason)).collect();
    RetryPolicy {
        retry_on: words.join(","),
        num_retries: Some(UInt32Value { value: retries.attempts }),
        retriable_status_codes: retries.status_codes.iter().map(|code| u32::from(*code)).collect(),
        per_try_timeout: retries.per_try_timeout.map(duration),
        retry_back_off: retries.back_off.map(|back_off| RetryBackOff {
            base_interval: Some(duration(back_off.base)),
            max_interval: Some(duration(back_off.max)),
        }),
        ..RetryPolicy::default()
    }
}
