//! What is counted beside the workers, as prometheus sees it: health of endpoints, limits of
//! clusters, the access log.

use std::fmt;

use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;

use super::collect::{counter, gauge, plain_counter};
use super::{Counter, ProxyMetrics};
use crate::health::counters::HealthMetrics;
use crate::health::ejection::Cause;
use crate::limit::LimiterView;
use crate::limit::breaker::ResourceView;

type PerHealth = fn(&HealthMetrics) -> &Counter;

const CHECKS: [(&str, PerHealth); 4] = [
    ("passed", |h| &h.checks_passed),
    ("unhealthy", |h| &h.checks_unhealthy),
    ("unreachable", |h| &h.checks_unreachable),
    ("lost", |h| &h.checks_lost),
];

const HEALTH: [(&str, &str, PerHealth); 3] = [
    ("proxy_health_checks_delayed", "Active checks that had to wait for others", |h| {
        &h.checks_delayed
    }),
    ("proxy_health_became_healthy", "Endpoints found healthy", |h| &h.became_healthy),
    ("proxy_health_became_unhealthy", "Endpoints found unhealthy", |h| &h.became_unhealthy),
];

const GAUGES: [(&str, &str, PerHealth); 2] = [
    ("proxy_health_checks_waiting", "Active checks that wait", |h| &h.checks_waiting),
    ("proxy_outlier_ejected", "Endpoints left out by outlier detection", |h| &h.ejected),
];

impl ProxyMetrics {
    pub(super) fn encode_beside(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let log = &self.access;
        let help = "Records of the access log that were dropped: what writes it did not keep up";
        plain_counter(encoder, "proxy_access_log_dropped", help, log.dropped.get())?;
        let help = "Records of the access log handed over to be written";
        plain_counter(encoder, "proxy_access_log_records", help, log.records.get())?;
        let help = "Writes of the access log that failed";
        plain_counter(encoder, "proxy_access_log_failures", help, log.failures.get())?;
        let Some((health, limiters)) = self.beside.get() else { return Ok(()) };
        encode_health(encoder, health.metrics())?;
        let limits = limiters.view();
        let all = || limits.iter().map(|(name, view)| (&**name, view));
        encode_breakers(encoder, all)?;
        encode_adaptive(encoder, all)
    }
}

fn encode_health(encoder: &mut DescriptorEncoder<'_>, health: &HealthMetrics) -> fmt::Result {
    let values = CHECKS.map(|(result, get)| ([("result", result)], get(health).get()));
    counter(encoder, "proxy_health_checks", "Active checks by result", values)?;
    for (name, help, get) in HEALTH {
        plain_counter(encoder, name, help, get(health).get())?;
    }
    for (name, help, get) in GAUGES {
        let value = i64::try_from(get(health).get()).unwrap_or(i64::MAX);
        encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
    }
    let by_cause = |counters: &[Counter; Cause::ALL.len()]| {
        let numbers = counters.each_ref().map(Counter::get);
        Cause::ALL.map(|c| [("cause", c.as_str())]).into_iter().zip(numbers)
    };
    let values = by_cause(&health.ejections);
    counter(encoder, "proxy_outlier_ejections", "Endpoints left out by cause", values)?;
    let help = "Endpoints that stayed in only since enough were out";
    counter(
        encoder,
        "proxy_outlier_ejections_overflowed",
        help,
        by_cause(&health.ejections_overflowed),
    )
}

fn resources(view: &LimiterView) -> [(&'static str, &ResourceView); 4] {
    let breaker = &view.breaker;
    [
        ("connections", &breaker.connections),
        ("pending", &breaker.pending_requests),
        ("requests", &breaker.requests),
        ("retries", &breaker.retries),
    ]
}

fn encode_breakers<'a, I: Iterator<Item = (&'a str, &'a LimiterView)>>(
    encoder: &mut DescriptorEncoder<'_>,
    all: impl Fn() -> I,
) -> fmt::Result {
    let each = || {
        all().flat_map(|(cluster, view)| {
            resources(view)
                .map(|(word, resource)| ([("cluster", cluster), ("resource", word)], resource))
        })
    };
    let help = "Connections, waiting requests, requests and retries under way by cluster";
    gauge(encoder, "proxy_cluster_active", help, each().map(|(l, r)| (l, r.used)))?;
    let limits = each().filter_map(|(l, r)| Some((l, u64::from(r.limit?))));
    gauge(encoder, "proxy_cluster_limit", "How much of that there may be", limits)?;
    let open = each().filter(|(_, r)| r.limit.is_some()).map(|(l, r)| (l, u64::from(r.open)));
    gauge(encoder, "proxy_cluster_circuit_open", "Whether nothing more is let in", open)?;
    let over = each().filter(|(_, r)| r.limit.is_some()).map(|(l, r)| (l, r.overflowed));
    counter(encoder, "proxy_cluster_circuit_overflows", "What was not let in", over)
}

fn encode_adaptive<'a, I: Iterator<Item = (&'a str, &'a LimiterView)>>(
    encoder: &mut DescriptorEncoder<'_>,
    all: impl Fn() -> I,
) -> fmt::Result {
    let each = || all().filter_map(|(name, v)| Some(([("cluster", name)], v.adaptive.as_ref()?)));
    let limits = each().map(|(labels, g)| (labels, u64::from(g.limit)));
    gauge(encoder, "proxy_cluster_adaptive_limit", "Requests that latency allows", limits)?;
    let blocked = each().map(|(labels, g)| (labels, g.blocked));
    counter(encoder, "proxy_cluster_adaptive_blocked", "Requests not let in by it", blocked)?;
    let help = "Round trip without a queue";
    let name = "proxy_cluster_adaptive_min_rtt_seconds";
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, gradient) in each() {
        let seconds = std::time::Duration::from_micros(gradient.min_rtt_us).as_secs_f64();
        metric.encode_family(&labels)?.encode_gauge(&seconds)?;
    }
    Ok::<(), fmt::Error>(())
}
