//! The settings of the dns role.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use portolan_dns::DnsConfig;
use portolan_dns::config::{
    CertificateFiles, EndpointNames, ForwardConfig, ForwardPolicy, LargeAnswers, PodMode, QueryLog,
    SearchMode, Topology,
};

use super::reader::Reader;

/// The dns role: where it serves, and everything else.
#[derive(Clone, Debug)]
pub(crate) struct Dns {
    pub(crate) addresses: Vec<SocketAddr>,
    /// Zone, cluster set zone and service ranges are still the defaults.
    pub(crate) config: DnsConfig,
}

/// Most time for one question: below the 5 s after which clients ask again.
const FORWARD_TIMEOUT_MAX_MS: u64 = 4900;

pub(super) fn read(r: &mut Reader) -> Option<Dns> {
    let addresses =
        r.texts("dns.addresses", &["127.0.0.1:5353"], "Where DNS is served, on UDP and TCP alike");
    let mut config = DnsConfig { forward: forward(r), ..DnsConfig::default() };
    names(r, &mut config);
    search(r, &mut config);
    encrypted(r, &mut config);
    limits(r, &mut config);
    watching(r, &mut config);
    Some(Dns { addresses, config })
}

fn names(r: &mut Reader, config: &mut DnsConfig) {
    config.server_ips = r.texts(
        "dns.server_ips",
        &[],
        "Addresses of ns.dns.<zone>; none: the specific addresses that DNS is served on",
    );
    config.ttl_secs = r.integer("dns.ttl_secs", 5, 0..=3600, "TTL of cluster names in seconds");
    config.extra_zones =
        r.names("dns.extra_zones", &[], "Further zones in which the cluster has the same names");
    config.pods = r.word(
        "dns.pods",
        &[
            ("disabled", PodMode::Disabled),
            ("insecure", PodMode::Insecure),
            ("verified", PodMode::Verified),
        ],
        "Names of pods, such as 10-0-0-1.shop.pod.<zone>: disabled, insecure (any address), or \
         verified (addresses of pods there; these are watched for it)",
    );
    config.endpoint_names = r.word(
        "dns.endpoint_names",
        &[("address", EndpointNames::Address), ("pod", EndpointNames::Pod)],
        "What names a headless endpoint without a hostname: its address or its pod",
    );
    config.terminating_fallback = r.word(
        "dns.terminating",
        &[("fallback", true), ("never", false)],
        "Whether endpoints that terminate and still serve answer when nothing is ready: fallback \
         or never",
    );
    let prefer = r.word(
        "dns.topology",
        &[("off", false), ("prefer", true)],
        "Whether headless answers are cut to endpoints near the client: off, or prefer (those on \
         its node, else in its zone, else all)",
    );
    let threshold: usize = r.integer(
        "dns.topology_threshold",
        1,
        1..=10_000,
        "Fewest endpoints on the client's node, or in its zone, that are enough",
    );
    let node = r.optional(
        "dns.node_name",
        "The node this server runs on, if all its clients do as well; empty: clients are placed by \
         the addresses and pod ranges of nodes",
    );
    config.topology =
        Topology { threshold: prefer.then_some(threshold), node: node.map(Into::into) };
    config.large_answers = r.word(
        "dns.large_answers",
        &[("truncate", LargeAnswers::Truncate), ("subset", LargeAnswers::Subset)],
        "What becomes of addresses too many for a datagram: truncate (the client asks over TCP), \
         or a rotating subset",
    );
    config.records = r.texts(
        "dns.records",
        &[],
        "Static records, each NAME TTL TYPE DATA with type A, AAAA, CNAME, PTR, SRV or TXT",
    );
    config.hosts_file = r
        .optional("dns.hosts_file", "File in the format of /etc/hosts, followed when it changes")
        .map(Into::into);
    config.rewrites = r.texts(
        "dns.rewrites",
        &[],
        "Suffixes looked up under another, each FROM=TO; answers carry the name asked",
    );
    config.access = r.texts(
        "dns.access",
        &[],
        "Who may ask, each ACTION [from NETWORK…] [for ZONE…] with action allow, refuse or drop; \
         the first that fits decides, and with none it is allowed",
    );
}

fn forward(r: &mut Reader) -> ForwardConfig {
    let defaults = ForwardConfig::default();
    let rules = r.texts(
        "dns.forward",
        &[],
        "Where names that are not ours go, each ZONE UPSTREAM… with upstreams such as \
         /etc/resolv.conf, 10.0.0.1, tcp://10.0.0.1:53, tls://9.9.9.9#dns.quad9.net, \
         https://9.9.9.9/dns-query#dns.quad9.net; none: they are refused",
    );
    let policy = r.word(
        "dns.forward_policy",
        &[
            ("random", ForwardPolicy::Random),
            ("round_robin", ForwardPolicy::RoundRobin),
            ("sequential", ForwardPolicy::Sequential),
        ],
        "Which upstream is asked first: random, round_robin or sequential",
    );
    let timeout_ms = r.integer(
        "dns.forward_timeout_ms",
        4500,
        100..=FORWARD_TIMEOUT_MAX_MS,
        "Longest time in milliseconds for one question, all tries together",
    );
    let max_inflight = r.integer(
        "dns.forward_max_inflight",
        4096,
        1..=1_000_000,
        "Questions that may wait for upstreams at once; more get SERVFAIL",
    );
    let cache_mib: u64 =
        r.integer("dns.cache_mib", 64, 1..=65_536, "Memory that kept answers may take, in MiB");
    let secs = |r: &mut Reader, path, default, help| r.integer(path, default, 0..=604_800, help);
    let authorities = r.optional(
        "dns.forward_ca",
        "PEM file of authorities that certificates of upstreams may end in; empty: the system's",
    );
    ForwardConfig {
        rules,
        policy,
        timeout: Duration::from_millis(timeout_ms),
        max_inflight,
        cache_bytes: cache_mib << 20,
        cache_ttl_max_secs: secs(
            r,
            "dns.cache_ttl_max_secs",
            3600,
            "Longest time an answer of an upstream is kept, in seconds",
        ),
        cache_ttl_min_secs: secs(r, "dns.cache_ttl_min_secs", 5, "Shortest time, in seconds"),
        cache_negative_ttl_max_secs: secs(
            r,
            "dns.cache_negative_ttl_max_secs",
            1800,
            "Longest time a negative answer is kept, in seconds",
        ),
        stale_secs: secs(
            r,
            "dns.cache_stale_secs",
            3600,
            "How long past its time an answer may be given while no upstream answers, in seconds; \
             0: never",
        ),
        prefetch: r.word(
            "dns.cache_prefetch",
            &[("on", true), ("off", false)],
            "Whether hot names are asked anew before they run out: on or off",
        ),
        certificate_authorities: authorities.map(Into::into),
        ..defaults
    }
}

fn search(r: &mut Reader, config: &mut DnsConfig) {
    config.search = r.word(
        "dns.search",
        &SearchMode::WORDS,
        "What is done about pods' search paths: off, prefetch (the bare name is looked up ahead), \
         or complete (the first candidate is answered with what the path comes to)",
    );
    config.search_namespaces =
        r.texts("dns.search_namespaces", &[], "The same for one namespace each, as NAMESPACE=MODE");
    config.search_domains = r.names(
        "dns.search_domains",
        &[],
        "Search domains that pods have after the cluster's own, in their order",
    );
}

fn encrypted(r: &mut Reader, config: &mut DnsConfig) {
    config.tls_addresses = r.texts("dns.tls_addresses", &[], "Where DNS over TLS is served");
    config.https_addresses =
        r.texts("dns.https_addresses", &[], "Where DNS over HTTPS is served, at /dns-query");
    config.quic_addresses = r.texts("dns.quic_addresses", &[], "Where DNS over QUIC is served");
    let chain = r.optional(
        "dns.tls_certificate",
        "PEM file with the certificate chain of these, followed when it changes",
    );
    let key = r.optional("dns.tls_key", "PEM file with its private key");
    config.certificate = match (chain, key) {
        (Some(chain), Some(key)) => {
            Some(CertificateFiles { chain: PathBuf::from(chain), key: PathBuf::from(key) })
        }
        (None, None) => None,
        (Some(_), None) => {
            r.reject("dns.tls_key", "missing: the certificate has no key");
            None
        }
        (None, Some(_)) => {
            r.reject("dns.tls_certificate", "missing: the key has no certificate");
            None
        }
    };
    let any = [&config.tls_addresses, &config.https_addresses, &config.quic_addresses];
    if config.certificate.is_none() && any.iter().any(|addresses| !addresses.is_empty()) {
        r.reject("dns.tls_certificate", "missing: encrypted DNS needs one, and dns.tls_key");
    }
}

fn limits(r: &mut Reader, config: &mut DnsConfig) {
    let workers: usize =
        r.integer("dns.workers", 0, 0..=1024, "UDP workers per address; 0 is one per core");
    config.workers = NonZeroUsize::new(workers).map_or(config.workers, NonZeroUsize::get);
    config.udp_payload_max = r.integer(
        "dns.udp_payload_max",
        1232,
        512..=4096,
        "Largest UDP message sent and asked for, in octets",
    );
    config.tcp_max_connections = r.integer(
        "dns.tcp_max_connections",
        1024,
        1..=1_000_000,
        "TCP, TLS, HTTPS and QUIC connections open at once; more are closed at once",
    );
    config.client_max_connections = r.integer(
        "dns.client_max_connections",
        256,
        1..=1_000_000,
        "Of these, connections of one client; more are closed at once",
    );
    config.tcp_max_pipelined = r.integer(
        "dns.tcp_max_pipelined",
        64,
        1..=10_000,
        "Queries of one connection under way at once; more wait unread",
    );
    let idle = r.integer(
        "dns.tcp_idle_secs",
        30,
        1..=3600,
        "Seconds after which an idle connection is closed",
    );
    config.tcp_idle_timeout = Duration::from_secs(idle);
    config.slow_queue = r.integer(
        "dns.slow_queue",
        1024,
        1..=1_000_000,
        "UDP queries that may wait for the slow path; more are dropped",
    );
    config.client_max_inflight = r.integer(
        "dns.client_max_inflight",
        256,
        1..=1_000_000,
        "Queries of one client that may wait for upstreams at once; more get SERVFAIL",
    );
    let lameduck = r.integer(
        "dns.lameduck_secs",
        0,
        0..=600,
        "Seconds to go on answering once asked to stop, while /readyz says no",
    );
    config.lameduck = Duration::from_secs(lameduck);
}

fn watching(r: &mut Reader, config: &mut DnsConfig) {
    config.nsid = r
        .optional(
            "dns.nsid",
            "What this server calls itself to whoever asks (NSID); empty: nothing",
        )
        .map(Into::into);
    if config.nsid.as_ref().is_some_and(|id| id.len() > 128) {
        r.reject("dns.nsid", "longer than 128 octets");
    }
    config.cookies = r.word(
        "dns.cookies",
        &[("on", true), ("off", false)],
        "Whether clients that send an EDNS cookie get one: on or off",
    );
    config.query_log = r.word(
        "dns.query_log",
        &[("off", QueryLog::Off), ("errors", QueryLog::Errors), ("all", QueryLog::All)],
        "Which queries are logged (target dns_query): off, errors (answers that are neither \
         NOERROR nor NXDOMAIN) or all",
    );
    config.query_log_sample =
        r.integer("dns.query_log_sample", 1, 1..=1_000_000, "One in this many of them");
}
