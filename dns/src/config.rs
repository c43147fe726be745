//! What the DNS role is told: zones, ranges, upstreams, limits. Reading it from a file is the
//! binary's work; settings of one line each parse themselves here.

mod access;
mod forward;
mod records;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use portolan_model::DnsName;

pub use access::{AccessAction, AccessRule};
pub(crate) use forward::address as upstream_address;
pub use forward::{ForwardConfig, ForwardPolicy, ForwardRule, Proto, UpstreamSpec};
pub use portolan_runtime::certificate::CertificateFiles;
pub use records::{Rewrite, SearchNamespace, StaticRecord};

/// Configuration of the DNS role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// The cluster's zone.
    pub zone: DnsName,
    /// Further zones in which the cluster has the same names.
    pub extra_zones: Vec<DnsName>,
    /// The zone of names that a set of clusters shares (KEP-1645).
    pub cluster_set_zone: DnsName,
    /// The ranges cluster IPs come from: their reverse zones are ours. A range that does not end
    /// on an octet (IPv4) or nibble (IPv6) is split into the zones below it.
    pub service_ranges: Vec<IpNet>,
    /// Time to live of every record, in seconds; also the SOA's minimum (RFC 2308 §5).
    pub ttl_secs: u32,
    /// How names below `pod.<zone>` are answered.
    pub pods: PodMode,
    /// What names an endpoint without a host name.
    pub endpoint_names: EndpointNames,
    /// Whether endpoints that terminate and still serve answer for a headless service of which
    /// nothing is ready.
    pub terminating_fallback: bool,
    /// Nearness at which headless answers are cut to near endpoints.
    pub topology: Topology,
    /// Whether an answer too large for its datagram is a rotating subset instead of TC.
    pub large_answers: LargeAnswers,
    /// Records of our own making.
    pub records: Vec<StaticRecord>,
    /// A file in the format of /etc/hosts, followed when it changes.
    pub hosts_file: Option<PathBuf>,
    /// Suffixes that stand for others.
    pub rewrites: Vec<Rewrite>,
    /// Who may ask for what; the first rule that fits decides, and with none it is allowed.
    pub access: Vec<AccessRule>,
    /// Where names that are not ours go.
    pub forward: ForwardConfig,
    /// What is done about search paths, where no namespace says otherwise.
    pub search: SearchMode,
    /// What is done about search paths of one namespace.
    pub search_namespaces: Vec<SearchNamespace>,
    /// Search domains that pods have after the cluster's own, in their order.
    pub search_domains: Vec<DnsName>,
    /// Threads per UDP address, at least 1; each has its own socket.
    pub workers: usize,
    /// Largest UDP message sent and the payload size advertised (RFC 6891 §6.2.5), in octets;
    /// less than 512 counts as 512.
    pub udp_payload_max: u16,
    /// Open TCP, TLS, HTTPS and QUIC connections over all addresses; past it new ones are closed at
    /// once.
    pub tcp_max_connections: usize,
    /// How many of them one client may have (RFC 7766 §6.2.2).
    pub client_max_connections: usize,
    /// How long a connection may take for its next query, or to take an answer (RFC 7766 §6.2.3).
    pub tcp_idle_timeout: Duration,
    /// Queries of one connection that may be under way at once; past it no more are read.
    pub tcp_max_pipelined: usize,
    /// Queries that may wait for the slow path, over all UDP sockets; past it they are dropped.
    pub slow_queue: usize,
    /// Queries of one client address that may wait for upstreams at once; more get SERVFAIL.
    pub client_max_inflight: usize,
    /// Addresses of `ns.dns.<zone>`, the name server the zone names.
    pub server_ips: Vec<IpAddr>,
    /// What this server calls itself (RFC 5001); `None`: it does not say.
    pub nsid: Option<Arc<str>>,
    /// Whether clients that send an EDNS cookie get one (RFC 7873).
    pub cookies: bool,
    /// Which queries are logged.
    pub query_log: QueryLog,
    /// One in this many of them, at least 1.
    pub query_log_sample: u32,
    /// How long to go on answering once asked to stop.
    pub lameduck: Duration,
    /// Where DNS over TLS is served (RFC 7858).
    pub tls_addresses: Vec<SocketAddr>,
    /// Where DNS over HTTPS is served, at `/dns-query` (RFC 8484).
    pub https_addresses: Vec<SocketAddr>,
    /// Where DNS over QUIC is served (RFC 9250).
    pub quic_addresses: Vec<SocketAddr>,
    /// Certificate chain and key of DoT, DoH and DoQ, PEM files, followed when they change.
    pub certificate: Option<CertificateFiles>,
}

/// How names below `pod.<zone>` are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodMode {
    /// Not at all: there are none.
    #[default]
    Disabled,
    /// With the address that the name spells, in any namespace that exists.
    Insecure,
    /// With the address that the name spells when a pod of that namespace has it.
    Verified,
}

/// What names an endpoint that has no host name of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointNames {
    /// Its address, with dashes.
    #[default]
    Address,
    /// Its pod, where that has a name of 63 characters at most; else its address.
    Pod,
}

/// Nearness at which headless answers are cut to the endpoints near the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Fewest endpoints that are enough: first those on the client's node, then those in its
    /// zone, then all. `None`: everyone gets all of them.
    pub threshold: Option<usize>,
    /// The node this server runs on, where all its clients run as well; `None`: found by the
    /// client's address.
    pub node: Option<Arc<str>>,
}

/// What becomes of an answer that does not fit its datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LargeAnswers {
    /// TC without records: the client asks again over TCP (RFC 2181 §9).
    #[default]
    Truncate,
    /// As many addresses as fit, another subset each time.
    Subset,
}

/// What is done about a pod's search path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SearchMode {
    /// Each candidate is a question like any other.
    #[default]
    Off,
    /// The first candidate has the bare name looked up ahead of the client's asking for it.
    Prefetch,
    /// The first candidate is answered with what the whole path comes to.
    Complete,
}

/// Which queries are logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueryLog {
    /// None.
    #[default]
    Off,
    /// Those answered with another code than NOERROR and NXDOMAIN.
    Errors,
    /// All.
    All,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self {
            zone: DnsName::parse("cluster.local").expect("a constant that is a valid name"),
            extra_zones: Vec::new(),
            cluster_set_zone: DnsName::parse("clusterset.local")
                .expect("a constant that is a valid name"),
            service_ranges: Vec::new(),
            ttl_secs: 5,
            pods: PodMode::default(),
            endpoint_names: EndpointNames::default(),
            terminating_fallback: true,
            topology: Topology::default(),
            large_answers: LargeAnswers::default(),
            records: Vec::new(),
            hosts_file: None,
            rewrites: Vec::new(),
            access: Vec::new(),
            forward: ForwardConfig::default(),
            search: SearchMode::default(),
            search_namespaces: Vec::new(),
            search_domains: Vec::new(),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            udp_payload_max: 1232,
            tcp_max_connections: 1024,
            client_max_connections: 256,
            tcp_idle_timeout: Duration::from_secs(30),
            tcp_max_pipelined: 64,
            slow_queue: 1024,
            client_max_inflight: 256,
            server_ips: Vec::new(),
            nsid: None,
            cookies: true,
            query_log: QueryLog::default(),
            query_log_sample: 1,
            lameduck: Duration::ZERO,
            tls_addresses: Vec::new(),
            https_addresses: Vec::new(),
            quic_addresses: Vec::new(),
            certificate: None,
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
