//! What a service says in DNS: pure, from a [`ServiceEntry`] to the records of its names.
//!
//! Kubernetes DNS-Based Service Discovery 1.1.0. Both paths derive from these values; nothing here
//! knows the wire, the zone's other names, or any other service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portolan_model::{Endpoint, ServiceEntry, ServiceKind, ServicePort};

use crate::name::WireName;

/// Numbers of the record types we speak (RFC 1035 §3.2.2, RFC 3596 §2.1, RFC 2782).
pub mod rtype {
    /// A host address.
    pub const A: u16 = 1;
    /// A name server.
    pub const NS: u16 = 2;
    /// An alias.
    pub const CNAME: u16 = 5;
    /// The start of a zone.
    pub const SOA: u16 = 6;
    /// A pointer to a name.
    pub const PTR: u16 = 12;
    /// Text.
    pub const TXT: u16 = 16;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// A server's location.
    pub const SRV: u16 = 33;
}

/// Data of one record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rdata {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A server (RFC 2782).
    Srv {
        /// Lower is tried first.
        priority: u16,
        /// Share among those of one priority.
        weight: u16,
        /// Port.
        port: u16,
        /// Host.
        target: WireName,
    },
    /// The name of an address.
    Ptr(WireName),
    /// Another name for it.
    Cname(WireName),
    /// One text of 255 octets at most.
    Txt(Box<str>),
    /// The start of a zone.
    Soa(Box<Soa>),
    /// The zone's name server.
    Ns(WireName),
}

/// The start of a zone (RFC 1035 §3.3.13).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Soa {
    /// Its primary name server.
    pub mname: WireName,
    /// The mailbox of whoever is responsible.
    pub rname: WireName,
    /// Version: the snapshot's generation, cut to 32 bits.
    pub serial: u32,
    /// For secondaries, which there are none of.
    pub refresh_secs: u32,
    /// For secondaries.
    pub retry_secs: u32,
    /// For secondaries.
    pub expire_secs: u32,
    /// How long a negative answer may be kept (RFC 2308 §4).
    pub minimum_secs: u32,
}

/// How endpoints are named and which of them answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Naming {
    /// By their pods, where they have no host name.
    pub pods: bool,
    /// Those that terminate and still serve answer where nothing is ready (as KEP-1669 has it for
    /// traffic).
    pub terminating: bool,
}

/// All records of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRecords {
    /// Records by owner. An owner without data is an empty non-terminal: it exists (RFC 8020).
    pub names: BTreeMap<WireName, Vec<Rdata>>,
    /// Addresses that lead back to names.
    pub pointers: BTreeSet<(IpAddr, WireName)>,
}

impl Rdata {
    /// Number of its record type.
    #[must_use]
    pub fn rtype(&self) -> u16 {
        match self {
            Self::A(_) => rtype::A,
            Self::Aaaa(_) => rtype::AAAA,
            Self::Srv { .. } => rtype::SRV,
            Self::Ptr(_) => rtype::PTR,
            Self::Cname(_) => rtype::CNAME,
            Self::Txt(_) => rtype::TXT,
            Self::Soa(_) => rtype::SOA,
            Self::Ns(_) => rtype::NS,
        }
    }

    /// Whether it is an address.
    #[must_use]
    pub fn is_address(&self) -> bool {
        matches!(self, Self::A(_) | Self::Aaaa(_))
    }
}

impl From<IpAddr> for Rdata {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::A(v4),
            IpAddr::V6(v6) => Self::Aaaa(v6),
        }
    }
}

/// The records of a service. `svc` is `svc.<zone>`; a name too long for DNS is left out, since
/// nobody can ask for it.
#[must_use]
pub fn of_service(svc: &WireName, entry: &ServiceEntry, naming: Naming) -> ServiceRecords {
    let mut records = ServiceRecords::default();
    let key = &entry.service.key;
    let Some(base) = svc.below([key.name().as_bytes(), key.namespace().as_bytes()]) else {
        return records;
    };
    match &entry.service.kind {
        ServiceKind::ClusterIp(addresses) => cluster_ip(&base, entry, addresses, &mut records),
        ServiceKind::Headless => headless(&base, entry, naming, &mut records),
        ServiceKind::ExternalName(target) => {
            records.names.insert(base, vec![Rdata::Cname(WireName::of(target))]);
        }
    }
    for data in records.names.values_mut() {
        data.sort();
        data.dedup();
    }
    records
}

/// Kubernetes DNS-Based Service Discovery 1.1.0 §2.3.
fn cluster_ip(
    base: &WireName,
    entry: &ServiceEntry,
    addresses: &[IpAddr],
    records: &mut ServiceRecords,
) {
    let own = records.names.entry(base.clone()).or_default();
    own.extend(addresses.iter().map(|ip| Rdata::from(*ip)));
    records.pointers.extend(addresses.iter().map(|ip| (*ip, base.clone())));
    for port in &entry.service.ports {
        let server = Rdata::Srv { priority: 0, weight: 100, port: port.port, target: base.clone() };
        add_servers(base, port, vec![server], records);
    }
}

/// The endpoints that answer for a headless service: those ready or, where that is wanted and there
/// are none, those on their way out; each address once.
#[must_use]
pub fn answering(entry: &ServiceEntry, naming: Naming) -> Vec<&Endpoint> {
    let ready = entry.ready_endpoints();
    if !ready.is_empty() || !naming.terminating {
        return ready;
    }
    let listed = entry.slices.iter().flat_map(|slice| &slice.endpoints);
    let leaving = |e: &&Endpoint| e.conditions.serving && e.conditions.terminating;
    let by_address: BTreeMap<IpAddr, &Endpoint> =
        listed.filter(leaving).map(|e| (e.address, e)).collect();
    by_address.into_values().collect()
}

/// Kubernetes DNS-Based Service Discovery 1.1.0 §2.4: with no endpoint ready there is no name.
fn headless(base: &WireName, entry: &ServiceEntry, naming: Naming, records: &mut ServiceRecords) {
    let mut names: BTreeMap<IpAddr, WireName> = BTreeMap::new();
    for endpoint in answering(entry, naming) {
        let data = Rdata::from(endpoint.address);
        records.names.entry(base.clone()).or_default().push(data.clone());
        // KEP-1645: names of endpoints in a cluster set say which cluster they are in.
        let own_base = match entry.cluster_of(endpoint) {
            Some(cluster) => base.child(cluster).inspect(|name| {
                records.names.entry(name.clone()).or_default();
            }),
            None => Some(base.clone()),
        };
        if let Some(name) = own_base.and_then(|base| endpoint_name(&base, endpoint, naming)) {
            records.names.entry(name.clone()).or_default().push(data);
            records.pointers.insert((endpoint.address, name.clone()));
            names.insert(endpoint.address, name);
        }
    }
    for port in &entry.service.ports {
        // Whoever is not among the endpoints that answer has no name and falls out below.
        let targets: BTreeSet<(u16, &WireName)> = entry
            .targets(port)
            .into_iter()
            .filter_map(|(socket, _)| Some((socket.port(), names.get(&socket.ip())?)))
            .collect();
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
        let servers = targets
            .into_iter()
            .map(|(port, target)| Rdata::Srv { priority: 0, weight, port, target: target.clone() })
            .collect();
        add_servers(base, port, servers, records);
    }
}

/// Servers of one port: under `_port._proto` when the port has a name, and under the service's own
/// name in any case.
fn add_servers(
    base: &WireName,
    port: &ServicePort,
    servers: Vec<Rdata>,
    records: &mut ServiceRecords,
) {
    if servers.is_empty() {
        return;
    }
    let protocol = port.protocol.dns_label();
    let name = port.name.as_deref().filter(|name| !name.is_empty());
    let owner = name.and_then(|name| {
        let label = format!("_{name}");
        base.below([label.as_bytes(), protocol.as_bytes()])
    });
    if let (Some(owner), Some(parent)) = (owner, base.child(protocol)) {
        records.names.entry(parent).or_default();
        records.names.entry(owner).or_default().extend(servers.iter().cloned());
    }
    records.names.entry(base.clone()).or_default().extend(servers);
}

/// The name of one endpoint: its host name, else that of its pod where that is wanted and is a
/// label, else its address with dashes.
fn endpoint_name(base: &WireName, endpoint: &Endpoint, naming: Naming) -> Option<WireName> {
    let pod = endpoint.pod.as_deref().filter(|pod| naming.pods && !pod.contains('.'));
    let own = endpoint.hostname.as_deref().or(pod).and_then(|name| base.child(name));
    own.or_else(|| base.child(&dashed(endpoint.address)))
}

/// An address as a label: dashes for dots and colons.
#[must_use]
pub fn dashed(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}
