//! Counters of forwarding.

use std::sync::Arc;
use std::time::Duration;

use portolan_runtime::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::CODES;

/// Counters of all upstreams. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ForwardMetrics {
    durations: Family<Exchange, Histogram, fn() -> Histogram>,
    failures: Family<To, Counter>,
    health_failures: Family<To, Counter>,
    bad: Family<Bad, Counter>,
    down: Family<To, Gauge>,
    looping: Family<To, Gauge>,
    /// Questions refused because too many waited.
    pub(crate) rejected: Counter,
    /// Questions refused because too many of one client waited.
    pub(crate) client_rejected: Counter,
    /// Questions that joined one under way.
    pub(crate) coalesced: Counter,
    /// Questions asked ahead of need.
    pub(crate) prefetches: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Exchange {
    proxy_name: &'static str,
    to: Arc<str>,
    rcode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct To {
    proxy_name: &'static str,
    to: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Bad {
    to: Arc<str>,
    reason: &'static str,
}

/// What CoreDNS calls the plugin that forwards.
const FORWARD: &str = "forward";

impl ForwardMetrics {
    /// Registers everything.
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.00025, 2.0, 16));
        let this = Self {
            durations: Family::new_with_constructor(histogram),
            failures: Family::default(),
            health_failures: Family::default(),
            bad: Family::default(),
            down: Family::default(),
            looping: Family::default(),
            rejected: Counter::default(),
            client_rejected: Counter::default(),
            coalesced: Counter::default(),
            prefetches: Counter::default(),
        };
        metrics.register_as(
            "coredns_proxy_request_duration_seconds",
            "How long upstreams took to answer, in seconds",
            this.durations.clone(),
        );
        metrics.register(
            "dns_upstream_failures",
            "Questions that an upstream did not answer",
            this.failures.clone(),
        );
        metrics.register_as(
            "coredns_proxy_healthcheck_failures",
            "Probes that an upstream did not answer",
            this.health_failures.clone(),
        );
        metrics.register(
            "dns_upstream_bad_responses",
            "Datagrams from an upstream that were no answer to what it was asked",
            this.bad.clone(),
        );
        metrics.register(
            "dns_upstream_down",
            "Whether an upstream counts as down",
            this.down.clone(),
        );
        metrics.register(
            "dns_upstream_looping",
            "Whether what is sent to an upstream comes back",
            this.looping.clone(),
        );
        metrics.register_as(
            "coredns_forward_max_concurrent_rejects",
            "Questions refused because too many waited for upstreams",
            this.rejected.clone(),
        );
        metrics.register(
            "dns_client_rejects",
            "Questions refused because too many of one client waited for upstreams",
            this.client_rejected.clone(),
        );
        metrics.register(
            "dns_coalesced",
            "Questions that joined the same one under way",
            this.coalesced.clone(),
        );
        metrics.register_as(
            "coredns_cache_prefetch",
            "Questions asked ahead of need",
            this.prefetches.clone(),
        );
        this
    }

    pub(crate) fn exchanged(&self, to: &Arc<str>, rcode: u8, took: Duration) {
        let rcode = CODES.get(usize::from(rcode)).copied().unwrap_or("other");
        let labels = Exchange { proxy_name: FORWARD, to: to.clone(), rcode };
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(crate) fn failed(&self, to: &Arc<str>) {
        self.failures.get_or_create(&Self::to(to)).inc();
    }

    pub(crate) fn health_failed(&self, to: &Arc<str>) {
        self.health_failures.get_or_create(&Self::to(to)).inc();
    }

    pub(crate) fn bad_responses(&self, to: &Arc<str>, reason: &'static str, count: u32) {
        self.bad.get_or_create(&Bad { to: to.clone(), reason }).inc_by(count.into());
    }

    /// An upstream is none any more: its state is nobody's.
    pub(crate) fn forget(&self, to: &Arc<str>) {
        self.down.remove(&Self::to(to));
        self.looping.remove(&Self::to(to));
    }

    pub(crate) fn down(&self, to: &Arc<str>, down: bool) {
        self.down.get_or_create(&Self::to(to)).set(down.into());
    }

    pub(crate) fn looping(&self, to: &Arc<str>, looping: bool) {
        self.looping.get_or_create(&Self::to(to)).set(looping.into());
    }

    fn to(to: &Arc<str>) -> To {
        To { proxy_name: FORWARD, to: to.clone() }
    }
}
