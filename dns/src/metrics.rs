//! Counters of the DNS role: plain atomics per worker, summed when scraped.
//!
//! What CoreDNS counts as well has CoreDNS's name, so that dashboards carry over; what only this
//! server counts starts with `portolan_dns_`.

mod collect;
mod upstream;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use portolan_runtime::Metrics;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::forward::Forwarder;
use crate::front::Protocol;
use crate::zone::ZoneId;

pub(crate) use upstream::ForwardMetrics;

/// Response codes that are counted apart: the 16 of the header, and BADVERS.
const CODES: [&str; 17] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "6", "7", "8", "9", "10",
    "11", "12", "13", "14", "15", "BADVERS",
];
/// Types that are counted apart, as CoreDNS has them.
const TYPES: [(u16, &str); 19] = [
    (0, "other"),
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (43, "DS"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (50, "NSEC3"),
    (65, "HTTPS"),
    (251, "IXFR"),
    (252, "AXFR"),
    (255, "ANY"),
];
/// Upper ends of the buckets of durations, in microseconds: CoreDNS's, from a quarter of a
/// millisecond to eight seconds.
const BUCKETS: [u64; 16] = [
    250, 500, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_024_000,
    2_048_000, 4_096_000, 8_192_000,
];
/// Namespaces that search paths are counted for; more go under no name.
const NAMESPACES_MAX: usize = 4096;

/// Counters of one worker, or of all tasks that serve one listener.
#[derive(Debug)]
pub(crate) struct Counters {
    /// One thread alone writes: it need not lock the bus.
    single: bool,
    requests: [[AtomicU64; TYPES.len()]; ZoneId::COUNT],
    responses: [[AtomicU64; CODES.len()]; ZoneId::COUNT],
    durations: [Histogram; ZoneId::COUNT],
    plain: [AtomicU64; Event::ALL.len()],
    /// Which address comes first in the next answer of a task.
    pub(crate) rotation: AtomicUsize,
}

/// What is counted without labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Answered on the fast path.
    Fast,
    /// Handed to the slow path.
    Slow,
    /// Dropped at the bound of the slow path's queue.
    SlowDropped,
    /// An answer the system would not take.
    Unsent,
    /// Answered from the cache, with records.
    CacheHit,
    /// Answered from the cache, negatively.
    CacheDenial,
    /// Not in the cache.
    CacheMiss,
    /// Answered from the cache past its time.
    CacheStale,
    /// Refused or dropped by an access rule.
    Denied,
}

impl Event {
    const ALL: [Self; 9] = [
        Self::Fast,
        Self::Slow,
        Self::SlowDropped,
        Self::Unsent,
        Self::CacheHit,
        Self::CacheDenial,
        Self::CacheMiss,
        Self::CacheStale,
        Self::Denied,
    ];

    fn index(self) -> usize {
        Self::ALL.iter().position(|event| *event == self).expect("all are listed")
    }
}

/// Durations of one zone.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

/// What all listeners share.
#[derive(Debug)]
pub(crate) struct DnsMetrics {
    /// Connections open now.
    pub(crate) connections: Gauge,
    /// Connections closed unserved because too many were open.
    pub(crate) refused: Counter,
    /// Certificates that could not be reloaded.
    pub(crate) certificate_errors: Counter,
    /// What search paths cost each namespace.
    pub(crate) search: Arc<SearchCosts>,
}

/// Counts by namespace: what is there is counted under a shard's read lock.
type Counts = DashMap<Box<[u8]>, AtomicU64>;

/// Questions that only search paths bring, by namespace.
#[derive(Debug, Default)]
pub(crate) struct SearchCosts {
    missed: Counts,
    completed: Counts,
}

/// Counters and what they are of.
#[derive(Clone, Debug)]
pub(crate) struct Labelled {
    /// The address served, as CoreDNS writes it.
    pub(crate) server: Arc<str>,
    pub(crate) protocol: Protocol,
    pub(crate) ipv6: bool,
    pub(crate) counters: Arc<Counters>,
}

impl Counters {
    /// Counters that one thread alone writes to.
    pub(crate) fn of_one_thread() -> Self {
        Self { single: true, ..Self::shared() }
    }

    /// Counters that any thread writes to.
    pub(crate) fn shared() -> Self {
        let row = |_| std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            single: false,
            requests: std::array::from_fn(row),
            responses: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
            durations: std::array::from_fn(|_| Histogram::default()),
            plain: std::array::from_fn(|_| AtomicU64::new(0)),
            rotation: AtomicUsize::new(0),
        }
    }

    /// Counts a query.
    pub(crate) fn request(&self, zone: ZoneId, qtype: u16) {
        let at = TYPES.binary_search_by_key(&qtype, |(number, _)| *number).unwrap_or(0);
        self.add(&self.requests[zone.index()][at], 1);
    }

    /// Counts an answer by its code (16 is BADVERS) and the time it took.
    pub(crate) fn response(&self, zone: ZoneId, rcode: u8, took: Duration) {
        if let Some(count) = self.responses[zone.index()].get(usize::from(rcode)) {
            self.add(count, 1);
        }
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.partition_point(|end| *end < us);
        let durations = &self.durations[zone.index()];
        self.add(&durations.buckets[bucket], 1);
        self.add(&durations.sum_us, us);
    }

    /// Counts what has no labels.
    pub(crate) fn count(&self, event: Event, times: u64) {
        self.add(&self.plain[event.index()], times);
    }

    fn add(&self, to: &AtomicU64, count: u64) {
        if self.single {
            to.store(to.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
        } else {
            to.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl SearchCosts {
    /// Counts a name that does not exist and that a search path leads to, by its namespace.
    pub(crate) fn missed(&self, namespace: &[u8]) {
        Self::count(&self.missed, namespace);
    }

    /// Counts one that was answered with what the path comes to.
    pub(crate) fn completed(&self, namespace: &[u8]) {
        Self::count(&self.completed, namespace);
    }

    fn count(counts: &Counts, namespace: &[u8]) {
        if let Some(count) = counts.get(namespace) {
            count.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let known = counts.len() < NAMESPACES_MAX;
        let namespace = if known { namespace } else { b"" };
        counts.entry(namespace.into()).or_default().fetch_add(1, Ordering::Relaxed);
    }
}

impl DnsMetrics {
    /// Registers everything; `sets` are the counters that will be written to, and `zones` the
    /// names of the zones by number.
    pub(crate) fn register(
        metrics: &Metrics,
        sets: Vec<Labelled>,
        zones: &[Box<str>],
        forwarder: Option<Arc<Forwarder>>,
    ) -> Self {
        let connections = Gauge::default();
        metrics.register(
            "dns_connections",
            "TCP, TLS, HTTPS and QUIC connections open",
            connections.clone(),
        );
        let refused = Counter::default();
        metrics.register(
            "dns_connections_refused",
            "Connections closed unserved because too many were open",
            refused.clone(),
        );
        let certificate_errors = Counter::default();
        metrics.register(
            "dns_certificate_errors",
            "Certificates that could not be reloaded, the last good one staying in force",
            certificate_errors.clone(),
        );
        let search = Arc::<SearchCosts>::default();
        let sums = collect::Sums { sets, zones: zones.into(), forwarder, search: search.clone() };
        metrics.register_collector_as(Box::new(sums));
        Self { connections, refused, certificate_errors, search }
    }
}
