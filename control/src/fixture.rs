//! What the unit tests of several files begin with: small snapshots.

use std::net::IpAddr;
use std::sync::Arc;

use portolan_model::{
    Endpoint, Protocol, Service, ServiceEntry, ServiceKey, ServiceKind, ServicePort, Slice,
    Snapshot,
};

/// Headless services by key, each with one slice of ready endpoints by last octet.
pub(crate) fn snapshot(services: &[(&str, &[u8])]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (key, octets) in services {
        let key = ServiceKey::parse(key).expect("valid");
        let ports = vec![ServicePort::new("", Protocol::Tcp, 80)];
        let service = Service::new(key, ServiceKind::Headless, ports);
        let endpoints = octets.iter().map(|o| Endpoint::at(IpAddr::from([10, 0, 0, *o]))).collect();
        let slice = Slice { name: "s".into(), cluster: None, ports: Vec::new(), endpoints };
        let slices = vec![Arc::new(slice)];
        snapshot.apply(Arc::new(ServiceEntry { service: Arc::new(service), slices }));
    }
    snapshot
}
