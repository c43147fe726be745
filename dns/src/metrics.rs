//! Counters of the DNS role: plain atomics per worker, summed when scraped.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use portolan_runtime::Metrics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use crate::fast::Transport;

/// Response codes that are counted apart: the 16 of the header, and BADVERS.
const CODES: [&str; 17] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "6", "7", "8", "9", "10",
    "11", "12", "13", "14", "15", "BADVERS",
];

/// Counters of one worker, or of all TCP connections of one address.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicU64,
    responses: [AtomicU64; CODES.len()],
    fast: AtomicU64,
    slow: AtomicU64,
    slow_dropped: AtomicU64,
    unsent: AtomicU64,
    /// Which address comes first in the next answer over TCP.
    pub(crate) rotation: AtomicUsize,
}

/// What a batch adds up to before it is put into the shared counters.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) fast: u64,
    pub(crate) slow: u64,
    pub(crate) slow_dropped: u64,
    pub(crate) unsent: u64,
    pub(crate) responses: [u64; CODES.len()],
}

/// All counters of a server.
#[derive(Debug)]
pub(crate) struct DnsMetrics {
    /// Connections open now.
    pub(crate) tcp_connections: Gauge,
    /// Connections closed unserved because too many were open.
    pub(crate) tcp_refused: Counter,
}

/// Counters and what they are of.
#[derive(Clone, Debug)]
pub(crate) struct Labelled {
    pub(crate) labels: Labels,
    pub(crate) counters: Arc<Counters>,
}

/// What a counter is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Labels {
    pub(crate) transport: Transport,
    pub(crate) ipv6: bool,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct RequestLabels {
    transport: &'static str,
    family: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct CodeLabel {
    rcode: &'static str,
}

/// Sums the counters when scraped.
#[derive(Debug)]
struct Sums(Vec<Labelled>);

impl Tally {
    /// Counts an answer by its code; 16 is BADVERS.
    pub(crate) fn response(&mut self, rcode: u8) {
        if let Some(count) = self.responses.get_mut(usize::from(rcode)) {
            *count += 1;
        }
    }

    /// Adds everything to the shared counters and starts anew.
    pub(crate) fn flush(&mut self, counters: &Counters) {
        let add = |to: &AtomicU64, count: u64| {
            if count > 0 {
                to.fetch_add(count, Ordering::Relaxed);
            }
        };
        add(&counters.requests, self.requests);
        add(&counters.fast, self.fast);
        add(&counters.slow, self.slow);
        add(&counters.slow_dropped, self.slow_dropped);
        add(&counters.unsent, self.unsent);
        for (to, count) in counters.responses.iter().zip(self.responses) {
            add(to, count);
        }
        *self = Self::default();
    }
}

impl DnsMetrics {
    /// Registers everything; `sets` are the counters that will be written to.
    pub(crate) fn register(metrics: &Metrics, sets: Vec<Labelled>) -> Self {
        let tcp_connections = Gauge::default();
        metrics.register("dns_tcp_connections", "TCP connections open", tcp_connections.clone());
        let tcp_refused = Counter::default();
        metrics.register(
            "dns_tcp_refused",
            "TCP connections closed unserved because too many were open",
            tcp_refused.clone(),
        );
        metrics.register_collector(Box::new(Sums(sets)));
        Self { tcp_connections, tcp_refused }
    }
}

impl Labels {
    fn request(self) -> RequestLabels {
        RequestLabels {
            transport: match self.transport {
                Transport::Udp => "udp",
                Transport::Tcp => "tcp",
            },
            family: if self.ipv6 { "ipv6" } else { "ipv4" },
        }
    }
}

impl Sums {
    fn total(&self, read: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.0.iter().map(|set| read(&set.counters).load(Ordering::Relaxed)).sum()
    }

    fn encode_requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Queries received";
        let mut metric =
            encoder.encode_descriptor("dns_requests", help, None, MetricType::Counter)?;
        for transport in [Transport::Udp, Transport::Tcp] {
            for ipv6 in [false, true] {
                let labels = Labels { transport, ipv6 };
                let sets = self.0.iter().filter(|set| set.labels == labels);
                let sum: u64 = sets.map(|s| s.counters.requests.load(Ordering::Relaxed)).sum();
                let labels = labels.request();
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&sum, None)?;
            }
        }
        Ok(())
    }

    fn encode_responses(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Answers made, by response code";
        let mut metric =
            encoder.encode_descriptor("dns_responses", help, None, MetricType::Counter)?;
        for (i, rcode) in CODES.into_iter().enumerate() {
            let sum = self.total(|counters| &counters.responses[i]);
            let named = !rcode.starts_with(|c: char| c.is_ascii_digit());
            if named || sum > 0 {
                let labels = CodeLabel { rcode };
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&sum, None)?;
            }
        }
        Ok(())
    }
}

impl Collector for Sums {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_requests(&mut encoder)?;
        self.encode_responses(&mut encoder)?;
        type Read = fn(&Counters) -> &AtomicU64;
        let plain: [(&str, &str, Read); 4] = [
            ("dns_fast_hits", "Queries answered on the fast path", |c| &c.fast),
            ("dns_slow", "Queries handed to the slow path", |c| &c.slow),
            ("dns_slow_dropped", "Queries dropped at the bound of the slow path", |c| {
                &c.slow_dropped
            }),
            ("dns_unsent", "UDP answers the system would not take", |c| &c.unsent),
        ];
        for (name, help, read) in plain {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&self.total(read), None)?;
        }
        Ok(())
    }
}
