//! `ClusterLoadAssignment` -> [`EndpointSet`]: localities with their priorities and weights, and every
//! endpoint with what is said of its health.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use portolan_model::traffic::{EndpointSet, Health, Locality, ResourceName, Target};
use portolan_proto::envoy::core::socket_address::PortSpecifier;
use portolan_proto::envoy::core::{Address, HealthStatus, address, socket_address};
use portolan_proto::envoy::endpoint::cluster_load_assignment::Policy;
use portolan_proto::envoy::endpoint::locality_lb_endpoints::LbConfig;
use portolan_proto::envoy::endpoint::{
    ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use portolan_proto::envoy::protobuf::Any;

use super::{DecodeError, labels, named, refuse, resource, within};

/// Highest priority there may be (Envoy's own bound).
const MAX_PRIORITY: u32 = 128;

/// Decodes and checks an endpoint set.
///
/// # Errors
/// The first field that is malformed.
pub fn decode(any: &Any) -> Result<(ResourceName, EndpointSet), DecodeError> {
    let assignment: ClusterLoadAssignment = resource(any)?;
    let name: ResourceName = assignment.cluster_name.as_str().into();
    if name.is_empty() {
        return Err(named("")("cluster_name: missing".to_owned()));
    }
    let set = convert(&assignment, name.clone()).map_err(named(&assignment.cluster_name))?;
    Ok((name, set))
}

/// Converts an assignment under the given name.
///
/// # Errors
/// The first field that is malformed or not supported.
pub fn convert(
    assignment: &ClusterLoadAssignment,
    name: ResourceName,
) -> Result<EndpointSet, String> {
    let mut places: Vec<(Locality, Vec<Target>)> = Vec::with_capacity(assignment.endpoints.len());
    let mut seen = BTreeSet::new();
    for (i, locality) in assignment.endpoints.iter().enumerate() {
        let (place, members) = convert_locality(&format!("endpoints[{i}]"), locality, &mut seen)?;
        if !members.is_empty() {
            places.push((place, members));
        }
    }
    // In an order of its own, so that the same set is the same value however it was listed.
    places.sort_by(|(a, _), (b, _)| key(a).cmp(&key(b)));
    let mut set = EndpointSet::new(name, Vec::with_capacity(places.len()), Vec::new());
    for (number, (place, mut members)) in (0..).zip(places) {
        members.sort_unstable_by_key(|target| target.address);
        set.localities.push(place);
        set.endpoints.extend(members.into_iter().map(|t| Target { locality: number, ..t }));
    }
    if let Some(policy) = &assignment.policy {
        set.overprovisioning = overprovisioning(policy, set.overprovisioning)?;
    }
    Ok(set)
}

fn key(locality: &Locality) -> (u32, &str, &str, &str) {
    (locality.priority, &locality.region, &locality.zone, &locality.sub_zone)
}

fn overprovisioning(policy: &Policy, default: u32) -> Result<u32, String> {
    refuse("policy.drop_overloads", !policy.drop_overloads.is_empty())?;
    refuse("policy.weighted_priority_health", policy.weighted_priority_health)?;
    let factor = policy.overprovisioning_factor.as_ref();
    within("policy.overprovisioning_factor", factor, 1..=u32::MAX, default)
}

fn convert_locality(
    field: &str,
    said: &LocalityLbEndpoints,
    seen: &mut BTreeSet<SocketAddr>,
) -> Result<(Locality, Vec<Target>), String> {
    let listed = match &said.lb_config {
        None => &said.lb_endpoints,
        Some(LbConfig::LedsClusterLocalityConfig(_)) => {
            return Err(format!("{field}.leds_cluster_locality_config: not supported"));
        }
        Some(_) => return Err(format!("{field}.load_balancer_endpoints: not supported")),
    };
    if said.priority > MAX_PRIORITY {
        return Err(format!("{field}.priority: {} is not in 0..={MAX_PRIORITY}", said.priority));
    }
    let weight = said.load_balancing_weight.as_ref();
    let of = |text: fn(&portolan_proto::envoy::core::Locality) -> &str| -> Arc<str> {
        said.locality.as_ref().map_or("", text).into()
    };
    let place = Locality {
        region: of(|l| &l.region),
        zone: of(|l| &l.zone),
        sub_zone: of(|l| &l.sub_zone),
        priority: said.priority,
        weight: weight.map(|w| w.value),
    };
    if place.weight == Some(0) {
        return Err(format!("{field}.load_balancing_weight: 0 is not at least 1"));
    }
    let mut members = Vec::with_capacity(listed.len());
    for (i, endpoint) in listed.iter().enumerate() {
        let field = format!("{field}.lb_endpoints[{i}]");
        let target = convert_endpoint(&field, endpoint)?;
        if !seen.insert(target.address) {
            return Err(format!("{field}: {} stands twice", target.address));
        }
        members.push(target);
    }
    Ok((place, members))
}

/// An endpoint, whose place is not known yet.
fn convert_endpoint(field: &str, said: &LbEndpoint) -> Result<Target, String> {
    let health = match HealthStatus::try_from(said.health_status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        Ok(HealthStatus::Unhealthy | HealthStatus::Timeout) => Health::Unhealthy,
        Ok(HealthStatus::Draining) => Health::Draining,
        Err(_) => {
            return Err(format!("{field}.health_status: {} is no status", said.health_status));
        }
    };
    Ok(Target {
        address: address(field, said)?,
        weight: said.load_balancing_weight.as_ref().map_or(1, |w| w.value.max(1)),
        locality: 0,
        health,
        labels: labels::said(said.metadata.as_ref()).map(Arc::new),
    })
}

fn address(field: &str, endpoint: &LbEndpoint) -> Result<SocketAddr, String> {
    match &endpoint.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => {
            let check = endpoint.health_check_config.as_ref();
            let elsewhere = check.is_some_and(|c| c.port_value != 0 || c.address.is_some());
            refuse(&format!("{field}.endpoint.health_check_config"), elsewhere)?;
            socket_address(&format!("{field}.endpoint.address"), endpoint.address.as_ref())
        }
        Some(HostIdentifier::EndpointName(_)) => {
            Err(format!("{field}.endpoint_name: not supported"))
        }
        None => Err(format!("{field}.endpoint: missing")),
    }
}

/// Reads the address of a TCP socket.
pub(super) fn socket_address(field: &str, address: Option<&Address>) -> Result<SocketAddr, String> {
    let Some(address::Address::SocketAddress(socket)) = address.and_then(|a| a.address.as_ref())
    else {
        return Err(format!("{field}: a socket_address is needed"));
    };
    refuse(field, socket.protocol != i32::from(socket_address::Protocol::Tcp))?;
    let ip = socket
        .address
        .parse()
        .map_err(|_| format!("{field}: {:?} is not an IP address", socket.address))?;
    match socket.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(port)
            .map(|port| SocketAddr::new(ip, port))
            .map_err(|_| format!("{field}: {port} is not in 0..=65535")),
        _ => Err(format!("{field}: port_value is missing")),
    }
}
