//! The cluster of the bench: services by number, what they are called in xDS, and who subscribes
//! to which.

use std::net::Ipv4Addr;
use std::sync::Arc;

use portolan_model::{
    Balancer, Conditions, DnsName, Endpoint, Key, Protocol, Service, ServiceEntry, ServiceKey,
    ServiceKind, ServicePort, Slice, SlicePort, Snapshot,
};
use portolan_xds::resource::{cluster_name, target_name};
use portolan_xds::{ListenerOptions, ListenerSpec, ListenerTarget, ResourceConfig};

/// As at the largest size Kubernetes is tested for.
pub(crate) const SERVICES: u32 = 10_000;
pub(crate) const PER_SERVICE: u32 = 15;
/// Services a client is subscribed to.
pub(crate) const SUBSCRIBED: usize = 20;
/// The service all clients are subscribed to, and the one the first 1,000 are.
pub(crate) const HOT: [u32; 2] = [0, 1];
pub(crate) const SOME: usize = 1_000;
/// From here on are services nobody is subscribed to, Envoy-like clients apart.
pub(crate) const COLD: u32 = 9_000;

fn key(number: u32) -> ServiceKey {
    ServiceKey::new(&format!("ns-{}", number % 50), &format!("svc-{number}")).expect("valid")
}

fn zone() -> DnsName {
    DnsName::parse("cluster.local").expect("valid")
}

/// Name of the cluster and endpoint set of a service.
pub(crate) fn cluster(number: u32) -> String {
    cluster_name(&key(number), 80).to_string()
}

/// Name of its API listener and of its route table.
pub(crate) fn target(number: u32) -> String {
    target_name(&key(number), 80, &zone()).to_string()
}

/// The key a publish of it touches.
pub(crate) fn touched(number: u32) -> Key {
    Key::Service(key(number))
}

/// How many of `clients` are subscribed to each hot service.
pub(crate) fn subscribers(clients: usize) -> [usize; 2] {
    [clients, clients.min(SOME)]
}

/// The services of a client.
pub(crate) fn services(client: usize) -> Vec<u32> {
    let own = usize::try_from(COLD).expect("small") - HOT.len();
    let mut numbers = vec![HOT[0]];
    if client < SOME {
        numbers.push(HOT[1]);
    }
    let mut next = client * SUBSCRIBED;
    while numbers.len() < SUBSCRIBED {
        numbers.push(u32::try_from(HOT.len() + next % own).expect("small"));
        next += 1;
    }
    numbers
}

/// A service; the address of its first endpoint carries a stamp, if there is one.
pub(crate) fn entry(number: u32, stamp: Option<Ipv4Addr>) -> Arc<ServiceEntry> {
    let port = ServicePort::new("main", Protocol::Tcp, 80);
    let kind = ServiceKind::ClusterIp(vec![Ipv4Addr::from_bits(0x0a60_0000 + number).into()]);
    let service = Service::new(key(number), kind, vec![port]);
    let endpoints = (0..PER_SERVICE).map(|n| {
        let own = Ipv4Addr::from_bits(0x6440_0000 + number * PER_SERVICE + n);
        Endpoint {
            conditions: Conditions::READY,
            node: Some(format!("node-{n}").into()),
            zone: Some(format!("zone-{}", n % 3).into()),
            ..Endpoint::at(stamp.filter(|_| n == 0).unwrap_or(own).into())
        }
    });
    let slice = Slice {
        name: format!("svc-{number}-1").into(),
        cluster: None,
        ports: vec![SlicePort { name: "main".into(), protocol: Protocol::Tcp, port: 8080 }],
        endpoints: endpoints.collect(),
    };
    Arc::new(ServiceEntry { service: Arc::new(service), slices: vec![Arc::new(slice)] })
}

/// A stamp: addresses of benchmarks (RFC 2544), one /16 for each hot service.
pub(crate) fn stamp(hot: usize, number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(198, if hot == 0 { 18 } else { 19 }, high, low)
}

/// The stamp in a response, found as text: hot service and number.
pub(crate) fn find_stamp(response: &[u8]) -> Option<(usize, u16)> {
    let at = response.windows(7).position(|w| w == b"198.18." || w == b"198.19.")?;
    let text = &response[at..(at + 15).min(response.len())];
    let end = text.iter().position(|b| !b.is_ascii_digit() && *b != b'.').unwrap_or(text.len());
    let address: Ipv4Addr = std::str::from_utf8(&text[..end]).ok()?.parse().ok()?;
    let [_, net, high, low] = address.octets();
    Some((usize::from(net - 18), u16::from_be_bytes([high, low])))
}

pub(crate) fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    for number in 0..SERVICES {
        snapshot.apply(entry(number, None));
    }
    snapshot
}

pub(crate) fn resources() -> ResourceConfig {
    ResourceConfig {
        zone: zone(),
        cluster_set_zone: DnsName::parse("clusterset.local").expect("valid"),
        balancer: Balancer::LeastRequest,
        endpoints_ttl_secs: 0,
        listeners: vec![ListenerSpec {
            name: "http".into(),
            address: "0.0.0.0:8080".parse().expect("an address"),
            target: ListenerTarget::Http,
            tls: None,
            options: ListenerOptions::default(),
        }],
        gateway_address: std::net::Ipv4Addr::LOCALHOST.into(),
        load_reports: false,
        trust_domain: "cluster.local".to_owned(),
    }
}
