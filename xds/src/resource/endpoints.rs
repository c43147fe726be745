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

/// Endpoints with their sockets.
type Targets<'a> = Vec<(SocketAddr, &'a Endpoint)>;

/// Encodes a set without endpoints.
#[must_use]
pub fn encode_none(name: &str) -> Encoded {
    let none =
        ClusterLoadAssignment { cluster_name: name.to_owned(), ..ClusterLoadAssignment::default() };
    Encoded::new(name, &none)
}

/// Encodes the endpoint set of a port. A port without an endpoint to use has an empty set, never
/// none: Envoy waits up to 15 s for a set that does not come.
///
/// Endpoints that are serving and terminating are in it only while none is ready, and then as
/// healthy ones: of a set that is draining altogether gRPC would use nothing.
#[must_use]
pub fn encode(entry: &ServiceEntry, port: &ServicePort) -> Encoded {
    encode_tiers(entry, port, vec![entry.targets(port)])
}

/// Encodes the endpoint set that a client in this place gets of a port: the near endpoints as
/// priority 0, and those of each wider ring as the next, for when nothing nearer can be reached.
#[must_use]
pub fn encode_at(entry: &ServiceEntry, port: &ServicePort, place: &Place) -> Encoded {
    encode_tiers(entry, port, entry.tiers_at(port, place))
}

/// Priorities are counted without a gap and no address stands twice, or gRPC refuses the set.
fn encode_tiers(entry: &ServiceEntry, port: &ServicePort, tiers: Vec<Targets<'_>>) -> Encoded {
    let name = cluster_name(&entry.service.key, port.port);
    let mut localities: BTreeMap<(u32, &str), Vec<LbEndpoint>> = BTreeMap::new();
    for (priority, tier) in (0..).zip(tiers) {
        for (address, endpoint) in tier {
            let zone = endpoint.zone.as_deref().unwrap_or_default();
            localities.entry((priority, zone)).or_default().push(lb_endpoint(address));
        }
    }
    let endpoints = localities.into_iter();
    let assignment = ClusterLoadAssignment {
        cluster_name: name.to_string(),
        endpoints: endpoints
            .map(|((priority, zone), members)| locality(priority, zone, members))
            .collect(),
        ..ClusterLoadAssignment::default()
    };
    Encoded::new(&name, &assignment)
}

/// A locality weighs as much as it has endpoints, so that each endpoint of a priority gets the same
/// share. gRPC skips a locality without a weight.
fn locality(priority: u32, zone: &str, lb_endpoints: Vec<LbEndpoint>) -> LocalityLbEndpoints {
    let weight = u32::try_from(lb_endpoints.len()).unwrap_or(u32::MAX);
    LocalityLbEndpoints {
        locality: Some(Locality { zone: zone.to_owned(), ..Locality::default() }),
        load_balancing_weight: Some(UInt32Value { value: weight }),
        lb_endpoints,
        priority,
        ..LocalityLbEndpoints::default()
    }
}

pub(super) fn lb_endpoint(target: SocketAddr) -> LbEndpoint {
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
