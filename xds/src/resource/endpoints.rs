//! EDS: the ready endpoints of one port of a service, one locality per zone.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use portolan_model::{Endpoint, Place, ServiceEntry, ServicePort};
use portolan_proto::envoy::core::{
    Address, HealthStatus, Locality, SocketAddress, address, socket_address,
};
use portolan_proto::envoy::endpoint::{
    ClusterLoadAssignment, Endpoint as EnvoyEndpoint, LbEndpoint, LocalityLbEndpoints,
    lb_endpoint::HostIdentifier,
};
use portolan_proto::envoy::protobuf::UInt32Value;

use super::{Encoded, cluster_name};

/// Encodes the endpoint set of a port. A port without an endpoint to use has an empty set, never
/// none: Envoy waits up to 15 s for a set that does not come.
#[must_use]
pub fn encode(entry: &ServiceEntry, port: &ServicePort) -> Encoded {
    encode_targets(entry, port, entry.targets(port))
}

/// Encodes the endpoint set that a client in this place gets of a port.
#[must_use]
pub fn encode_at(entry: &ServiceEntry, port: &ServicePort, place: &Place) -> Encoded {
    encode_targets(entry, port, entry.targets_at(port, place))
}

fn encode_targets(
    entry: &ServiceEntry,
    port: &ServicePort,
    targets: Vec<(SocketAddr, &Endpoint)>,
) -> Encoded {
    let name = cluster_name(&entry.service.key, port.port);
    let mut zones: BTreeMap<&str, Vec<LbEndpoint>> = BTreeMap::new();
    for (address, endpoint) in targets {
        let zone = endpoint.zone.as_deref().unwrap_or_default();
        zones.entry(zone).or_default().push(lb_endpoint(address));
    }
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: zones.into_iter().map(|(zone, members)| locality(zone, members)).collect(),
        ..ClusterLoadAssignment::default()
    };
    Encoded::new(&name, &assignment)
}

/// A locality weighs as much as it has endpoints, so that each endpoint gets the same share.
/// gRPC skips a locality without a weight.
fn locality(zone: &str, lb_endpoints: Vec<LbEndpoint>) -> LocalityLbEndpoints {
    let weight = u32::try_from(lb_endpoints.len()).unwrap_or(u32::MAX);
    LocalityLbEndpoints {
        locality: Some(Locality { zone: zone.to_owned(), ..Locality::default() }),
        load_balancing_weight: Some(UInt32Value { value: weight }),
        lb_endpoints,
        ..LocalityLbEndpoints::default()
    }
}

fn lb_endpoint(target: SocketAddr) -> LbEndpoint {
    LbEndpoint {
        health_status: HealthStatus::Healthy.into(),
        load_balancing_weight: Some(UInt32Value { value: 1 }),
        host_identifier: Some(HostIdentifier::Endpoint(EnvoyEndpoint {
            address: Some(socket_address(target)),
            ..EnvoyEndpoint::default()
        })),
        ..LbEndpoint::default()
    }
}

/// An Envoy address of a TCP socket.
pub(super) fn socket_address(target: SocketAddr) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(SocketAddress {
            address: target.ip().to_string(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(target.port().into())),
            ..SocketAddress::default()
        })),
    }
}
