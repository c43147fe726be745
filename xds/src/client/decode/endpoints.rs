//! `ClusterLoadAssignment` -> [`EndpointSet`]: usable endpoints by priority, with locality weights
//! folded into each endpoint's own.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use portolan_model::traffic::{EndpointSet, ResourceName, Target};
use portolan_proto::envoy::core::socket_address::PortSpecifier;
use portolan_proto::envoy::core::{Address, HealthStatus, address};
use portolan_proto::envoy::endpoint::{
    ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use portolan_proto::envoy::protobuf::Any;

use super::{DecodeError, named, resource};

/// Resolution of a locality's weight when it is spread over its endpoints.
const SCALE: u64 = 1 << 16;

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
/// The first field that is malformed.
pub fn convert(
    assignment: &ClusterLoadAssignment,
    name: ResourceName,
) -> Result<EndpointSet, String> {
    let mut weighted: Vec<(u64, Target)> = Vec::new();
    let mut seen = BTreeSet::new();
    for (i, locality) in assignment.endpoints.iter().enumerate() {
        convert_locality(&format!("endpoints[{i}]"), locality, &mut seen, &mut weighted)?;
    }
    let divisor = weighted.iter().fold(0, |d, (w, _)| gcd(d, *w)).max(1);
    let mut endpoints: Vec<Target> = weighted
        .into_iter()
        .map(|(weight, target)| Target {
            weight: u32::try_from(weight / divisor).unwrap_or(u32::MAX).max(1),
            ..target
        })
        .collect();
    endpoints.sort_by_key(|t| (t.priority, t.address));
    Ok(EndpointSet { name, endpoints })
}

fn convert_locality(
    field: &str,
    locality: &LocalityLbEndpoints,
    seen: &mut BTreeSet<SocketAddr>,
    weighted: &mut Vec<(u64, Target)>,
) -> Result<(), String> {
    let zone = locality.locality.as_ref().map(|l| l.zone.as_str()).filter(|z| !z.is_empty());
    let mut members = Vec::new();
    for (i, endpoint) in locality.lb_endpoints.iter().enumerate() {
        let field = format!("{field}.lb_endpoints[{i}]");
        let address = address(&field, endpoint)?;
        if !seen.insert(address) {
            return Err(format!("{field}: {address} stands twice"));
        }
        if is_usable(endpoint) {
            let weight = endpoint.load_balancing_weight.as_ref().map_or(1, |w| w.value);
            members.push((u64::from(weight.max(1)), address));
        }
    }
    let total: u64 = members.iter().map(|(w, _)| w).sum();
    // A locality without a weight of its own weighs what its endpoints weigh together.
    let share = locality.load_balancing_weight.as_ref().map_or(total, |w| u64::from(w.value));
    for (weight, address) in members {
        let target =
            Target { address, weight: 1, priority: locality.priority, zone: zone.map(Into::into) };
        weighted.push((share.saturating_mul(weight).saturating_mul(SCALE) / total, target));
    }
    Ok(())
}

/// Unhealthy and draining endpoints get no traffic.
fn is_usable(endpoint: &LbEndpoint) -> bool {
    matches!(
        HealthStatus::try_from(endpoint.health_status),
        Ok(HealthStatus::Unknown | HealthStatus::Healthy)
    )
}

fn address(field: &str, endpoint: &LbEndpoint) -> Result<SocketAddr, String> {
    match &endpoint.host_identifier {
        Some(HostIdentifier::Endpoint(endpoint)) => {
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

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
