//! Sums the counters when they are scraped.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::{BUCKETS, CODES, Counters, Event, Labelled, SearchCosts, TYPES};
use crate::forward::Forwarder;
use crate::zone::ZoneId;

/// All counters of a server.
#[derive(Debug)]
pub(super) struct Sums {
    pub(super) sets: Vec<Labelled>,
    pub(super) zones: Box<[Box<str>]>,
    pub(super) forwarder: Option<Arc<Forwarder>>,
    pub(super) search: Arc<SearchCosts>,
}

#[derive(Clone, Debug, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    server: Arc<str>,
    zone: Box<str>,
    view: &'static str,
    proto: &'static str,
    family: &'static str,
    r#type: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ResponseLabels {
    server: Arc<str>,
    zone: Box<str>,
    view: &'static str,
    rcode: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct ZoneLabels {
    server: Arc<str>,
    zone: Box<str>,
    view: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct CacheLabels {
    r#type: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet)]
struct NamespaceLabel {
    namespace: String,
}

impl Sums {
    fn total(&self, event: Event) -> u64 {
        let at = event.index();
        self.sets.iter().map(|set| set.counters.plain[at].load(Ordering::Relaxed)).sum()
    }

    /// Sums of one place in the counters over sets that share everything `same` looks at, those
    /// that are zero left out.
    fn sum(&self, of: &Labelled, read: impl Fn(&Counters) -> &AtomicU64, by_proto: bool) -> u64 {
        let same = |set: &&Labelled| {
            set.server == of.server
                && (!by_proto || (set.protocol == of.protocol && set.ipv6 == of.ipv6))
        };
        self.sets.iter().filter(same).map(|set| read(&set.counters).load(Ordering::Relaxed)).sum()
    }

    /// One of each group of sets.
    fn groups(&self, by_proto: bool) -> Vec<&Labelled> {
        let mut groups: Vec<&Labelled> = Vec::new();
        for set in &self.sets {
            let known = groups.iter().any(|g| {
                g.server == set.server
                    && (!by_proto || (g.protocol == set.protocol && g.ipv6 == set.ipv6))
            });
            if !known {
                groups.push(set);
            }
        }
        groups
    }

    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Queries received";
        let mut metric =
            encoder.encode_descriptor("coredns_dns_requests", help, None, MetricType::Counter)?;
        for group in self.groups(true) {
            for (zone, name) in self.zones.iter().enumerate() {
                for (kind, (_, r#type)) in TYPES.iter().enumerate() {
                    let sum = self.sum(group, |c| &c.requests[zone][kind], true);
                    if sum == 0 {
                        continue;
                    }
                    let labels = RequestLabels {
                        server: group.server.clone(),
                        zone: name.clone(),
                        view: "",
                        proto: group.protocol.name(),
                        // As IANA numbers address families, which is what CoreDNS shows.
                        family: if group.ipv6 { "2" } else { "1" },
                        r#type,
                    };
                    ConstCounter::new(sum).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }

    fn responses(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Answers made, by zone and response code";
        let mut metric =
            encoder.encode_descriptor("coredns_dns_responses", help, None, MetricType::Counter)?;
        for group in self.groups(false) {
            for (zone, name) in self.zones.iter().enumerate() {
                for (code, rcode) in CODES.into_iter().enumerate() {
                    let sum = self.sum(group, |c| &c.responses[zone][code], false);
                    if sum == 0 {
                        continue;
                    }
                    let labels = ResponseLabels {
                        server: group.server.clone(),
                        zone: name.clone(),
                        view: "",
                        rcode,
                    };
                    ConstCounter::new(sum).encode(metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }

    fn durations(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "How long answers took to make, in seconds";
        let name = "coredns_dns_request_duration_seconds";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for group in self.groups(false) {
            for (zone, name) in self.zones.iter().enumerate() {
                let counts: Vec<u64> = (0..=BUCKETS.len())
                    .map(|n| self.sum(group, |c| &c.durations[zone].buckets[n], false))
                    .collect();
                let count: u64 = counts.iter().sum();
                if count == 0 {
                    continue;
                }
                let sum = self.sum(group, |c| &c.durations[zone].sum_us, false);
                let ends = BUCKETS.iter().map(|end| seconds(*end)).chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = ends.zip(counts).collect();
                let labels =
                    ZoneLabels { server: group.server.clone(), zone: name.clone(), view: "" };
                metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                    seconds(sum),
                    count,
                    &buckets,
                    None,
                )?;
            }
        }
        Ok(())
    }

    fn plain(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, event) in [
            ("portolan_dns_fast_hits", "Queries answered on the fast path", Event::Fast),
            ("portolan_dns_slow", "Queries handed to the slow path", Event::Slow),
            (
                "portolan_dns_slow_dropped",
                "Queries dropped at the bound of the slow path",
                Event::SlowDropped,
            ),
            ("portolan_dns_unsent", "UDP answers the system would not take", Event::Unsent),
            ("portolan_dns_denied", "Queries refused or dropped by an access rule", Event::Denied),
            ("coredns_cache_misses", "Names that were not in the cache", Event::CacheMiss),
            ("coredns_cache_served_stale", "Answers given past their time", Event::CacheStale),
        ] {
            let sum = ConstCounter::new(self.total(event));
            sum.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let mut hits = encoder.encode_descriptor(
            "coredns_cache_hits",
            "Answers from the cache",
            None,
            MetricType::Counter,
        )?;
        for (r#type, event) in [("success", Event::CacheHit), ("denial", Event::CacheDenial)] {
            let sum = ConstCounter::new(self.total(event));
            sum.encode(hits.encode_family(&CacheLabels { r#type })?)?;
        }
        Ok(())
    }

    fn cache(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(forwarder) = &self.forwarder else { return Ok(()) };
        let (entries, bytes, evicted) = forwarder.cache.size();
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        for (name, help, value) in [
            ("coredns_cache_entries", "Answers kept", count(entries)),
            (
                "portolan_dns_forward_inflight",
                "Questions under way to upstreams",
                count(forwarder.inflight()),
            ),
            ("portolan_dns_cache_bytes", "Octets that kept answers take", bytes),
        ] {
            let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            value.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        let help = "Answers given up for others";
        let name = "coredns_cache_evictions";
        let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(evicted).encode(metric)
    }

    fn search(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Names of search paths that do not exist, by namespace of the pod";
        namespaces(encoder, "portolan_dns_search_misses", help, &self.search.missed)?;
        let help = "Search paths answered with what they come to, by namespace of the pod";
        namespaces(encoder, "portolan_dns_search_completions", help, &self.search.completed)
    }
}

fn namespaces(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    counts: &super::Counts,
) -> Result<(), fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for count in counts {
        let namespace = String::from_utf8_lossy(count.key()).into_owned();
        let value = ConstCounter::new(count.value().load(Ordering::Relaxed));
        value.encode(metric.encode_family(&NamespaceLabel { namespace })?)?;
    }
    Ok(())
}

/// Microseconds as seconds; exact below 2^53.
fn seconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

impl Collector for Sums {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        debug_assert!(self.zones.len() <= ZoneId::COUNT);
        self.requests(&mut encoder)?;
        self.responses(&mut encoder)?;
        self.durations(&mut encoder)?;
        self.plain(&mut encoder)?;
        self.cache(&mut encoder)?;
        self.search(&mut encoder)
    }
}
