//! What the DNS role is told: zone, ranges, limits. Reading it from a file is the binary's work.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use portolan_model::DnsName;

/// Configuration of the DNS role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// The cluster's zone.
    pub zone: DnsName,
    /// The zone of names that a set of clusters shares (KEP-1645).
    pub cluster_set_zone: DnsName,
    /// The ranges cluster IPs come from: their reverse zones are ours. A range that does not end
    /// on an octet (IPv4) or nibble (IPv6) is split into the zones below it.
    pub service_ranges: Vec<IpNet>,
    /// Time to live of every record, in seconds; also the SOA's minimum (RFC 2308 §5).
    pub ttl_secs: u32,
    /// Threads per UDP address, at least 1; each has its own socket.
    pub workers: usize,
    /// Largest UDP message sent and the payload size advertised (RFC 6891 §6.2.5), in octets;
    /// less than 512 counts as 512.
    pub udp_payload_max: u16,
    /// Open TCP connections over all addresses; past it new ones are closed at once.
    pub tcp_max_connections: usize,
    /// How long a TCP connection may take for its next query, or to take an answer (RFC 7766 §6.2.3).
    pub tcp_idle_timeout: Duration,
    /// Queries that may wait for the slow path, over all UDP sockets; past it they are dropped.
    pub slow_queue: usize,
    /// Addresses of `ns.dns.<zone>`, the name server the zone names.
    pub server_ips: Vec<IpAddr>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            zone: DnsName::parse("cluster.local").expect("a constant that is a valid name"),
            cluster_set_zone: DnsName::parse("clusterset.local")
                .expect("a constant that is a valid name"),
            service_ranges: Vec::new(),
            ttl_secs: 5,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            udp_payload_max: 1232,
            tcp_max_connections: 1024,
            tcp_idle_timeout: Duration::from_secs(30),
            slow_queue: 1024,
            server_ips: Vec::new(),
        }
    }
}

impl DnsConfig {
    /// The largest UDP message sent, in octets: never less than RFC 1035 §4.2.1 grants everyone.
    #[must_use]
    pub fn udp_limit(&self) -> u16 {
        self.udp_payload_max.max(512)
    }
}
