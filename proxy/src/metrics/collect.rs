//! The counters as prometheus sees them, summed over the workers. Owns their names and help texts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_model::traffic::ResourceName;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::cluster::ClusterMetrics;
use super::listener::{Http2Metrics, RouteName};
use super::tally::Tally;
use super::{Counter, ListenerMetrics, ProxyMetrics, WorkerMetrics};
use crate::admit::OUTCOMES;
use crate::http::local::Reason;
use crate::tcp::metrics::{CONNECT_BUCKETS_MS, End};

/// Statuses by their first digit.
pub(super) const CLASSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

type PerWorker = fn(&WorkerMetrics) -> &Counter;
type PerListener = fn(&ListenerMetrics) -> &Counter;

const COUNTERS: [(&str, &str, PerWorker); 17] = [
    ("proxy_upstream_connects", "Connections opened to endpoints", |w| &w.upstream_connects),
    ("proxy_upstream_connect_failures", "Connections to endpoints that failed", |w| {
        &w.upstream_connect_failures
    }),
    ("proxy_retries", "Requests sent to another endpoint", |w| &w.retries),
    ("proxy_hedges", "Tries begun beside ones that took their time", |w| &w.hedges),
    ("proxy_retries_over_budget", "Retries not made for want of budget", |w| {
        &w.retries_over_budget
    }),
    ("proxy_accept_errors", "Connections the system failed to hand over", |w| &w.accept_errors),
    ("proxy_pool_dropped", "Idle upstream connections closed past a bound", |w| &w.idle_dropped),
    ("proxy_tcp_spliced_bytes", "Bytes of TCP streams that were never copied", |w| &w.tcp.spliced),
    ("proxy_tcp_pipes_denied", "Pipes wanted for TCP streams and not had", |w| &w.tcp.denied),
    ("proxy_mirrors", "Copies of requests sent to other clusters", |w| &w.mirrors),
    ("proxy_mirrors_failed", "Copies of requests without a whole answer", |w| &w.mirrors_failed),
    ("proxy_mirrors_dropped", "Copies of requests not made, at the bound", |w| &w.mirrors_dropped),
    ("proxy_decisions", "Decision records made of requests", |w| &w.decisions),
    ("proxy_decisions_dropped", "Decision records not made, at the bound", |w| {
        &w.decisions_dropped
    }),
    ("proxy_spans", "Spans of requests handed on", |w| &w.spans),
    ("proxy_spans_dropped", "Spans of requests dropped, at the bound", |w| &w.spans_dropped),
    ("proxy_panics", "Connections that ended in a panic", |w| &w.panics),
];

const LISTENER_COUNTERS: [(&str, &str, PerListener); 2] = [
    ("proxy_connections_accepted", "Connections accepted", |l| &l.accepted),
    ("proxy_connections_refused", "Connections reset at the bound", |l| &l.refused),
];

impl Collector for ProxyMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (name, help, get) in COUNTERS {
            let sum = self.workers.iter().map(|w| get(w).get()).sum();
            plain_counter(&mut encoder, name, help, sum)?;
        }
        let failures = self.bind_failures.get();
        plain_counter(&mut encoder, "proxy_bind_failures", "Listeners not bound", failures)?;
        let active: u64 = self.workers.iter().map(|w| w.upstream_active.get()).sum();
        let active = i64::try_from(active).unwrap_or(i64::MAX);
        encoder
            .encode_descriptor(
                "proxy_upstream_requests",
                "Requests in flight upstream",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&active)?;
        self.encode_reasons(&mut encoder)?;
        self.encode_tcp(&mut encoder)?;
        self.encode_listeners(&mut encoder)?;
        self.encode_http2(&mut encoder)?;
        self.encode_clusters(&mut encoder)?;
        self.encode_beside(&mut encoder)
    }
}

impl ProxyMetrics {
    fn encode_reasons(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let reasons = Reason::ALL.map(|reason| {
            let sum: u64 = self.workers.iter().map(|w| w.local_answers[reason.index()].get()).sum();
            ([("reason", reason.as_str())], sum)
        });
        counter(encoder, "proxy_local_answers", "Answers the proxy made itself", reasons)
    }

    fn encode_tcp(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let total = |get: &dyn Fn(&WorkerMetrics) -> &Counter| -> u64 {
            self.workers.iter().map(|w| get(w).get()).sum()
        };
        let ends = End::ALL
            .iter()
            .enumerate()
            .map(|(i, end)| ([("end", end.as_str())], total(&|w| &w.tcp.ends[i])));
        counter(encoder, "proxy_tcp_ends", "TCP streams by how they ended", ends)?;
        let bounds = CONNECT_BUCKETS_MS.iter().map(|ms| f64::from(*ms) / 1e3);
        let buckets: Vec<(f64, u64)> = (bounds.chain([f64::MAX]).enumerate())
            .map(|(i, bound)| (bound, total(&|w| &w.tcp.connects[i])))
            .collect();
        let count = buckets.iter().map(|(_, n)| n).sum();
        let micros = Duration::from_micros(total(&|w| &w.tcp.connect_micros));
        encoder
            .encode_descriptor(
                "proxy_tcp_connect_seconds",
                "Time to a connection for TCP streams, retries included",
                None,
                MetricType::Histogram,
            )?
            .encode_histogram::<NoLabelSet>(micros.as_secs_f64(), count, &buckets, None)
    }

    fn encode_listeners(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.sum(|w| &w.listeners, |l| l.responses.each_ref().map(Counter::get));
        let requests = all.iter().flat_map(|(name, counts)| {
            let labels = CLASSES.map(|class| [("listener", &**name), ("class", class)]);
            labels.into_iter().zip(*counts).filter(|(_, n)| *n > 0)
        });
        counter(encoder, "proxy_requests", "Responses by listener and class", requests)?;
        for (name, help, get) in LISTENER_COUNTERS {
            let all = self.sum(|w| &w.listeners, |l| [get(l).get()]);
            let values = all.iter().map(|(name, [n])| ([("listener", &**name)], *n));
            counter(encoder, name, help, values)?;
        }
        let all = self.sum(|w| &w.listeners, |l| [l.active.get()]);
        let values = all.iter().map(|(name, [n])| ([("listener", &**name)], *n));
        gauge(encoder, "proxy_connections", "Connections open", values)?;
        let all = self.sum(|w| &w.listeners, |l| [l.bytes_in.get(), l.bytes_out.get()]);
        let values = all.iter().flat_map(|(name, counts)| {
            let labels = ["in", "out"].map(|d| [("listener", &**name), ("direction", d)]);
            labels.into_iter().zip(*counts).filter(|(_, n)| *n > 0)
        });
        counter(encoder, "proxy_bytes", "Bytes of TCP streams, as the client sees them", values)?;
        let all = self.sum(|w| &w.listeners, |l| l.local.each_ref().map(Tally::get));
        let values = all.iter().flat_map(|(name, counts)| {
            let labels = Reason::ALL.map(|r| [("listener", &**name), ("reason", r.as_str())]);
            labels.into_iter().zip(*counts).filter(|(_, n)| *n > 0)
        });
        let help = "Answers the proxy made itself, and what it cut or reset, by listener";
        counter(encoder, "proxy_listener_local_answers", help, values)?;
        let all = self.sum(|w| &w.listeners, |l| l.access.each_ref().map(Tally::get));
        let values = all.iter().flat_map(|(name, counts)| {
            let labels = OUTCOMES.map(|outcome| [("listener", &**name), ("outcome", outcome)]);
            labels.into_iter().zip(*counts).filter(|(_, n)| *n > 0)
        });
        let help = "Requests and connections judged by who may do what";
        counter(encoder, "proxy_access", help, values)?;
        let all = self.sum(|w| &w.listeners, |l| [l.cut.get()]);
        let values = all.iter().map(|(name, [n])| ([("listener", &**name)], *n));
        counter(encoder, "proxy_responses_cut", "Responses begun and not ended", values)?;
        let all = self.sum(|w| &w.listeners, |l| [l.displaced.get()]);
        let values = all.iter().map(|(name, [n])| ([("listener", &**name)], *n));
        let help =
            "Clients whose buckets of a limit of rate gave way to others' before they were full";
        counter(encoder, "proxy_rate_limit_displaced", help, values)?;
        self.encode_routes(encoder)
    }

    fn encode_routes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut sums: BTreeMap<(ResourceName, RouteName), ([u64; 6], u64)> = BTreeMap::new();
        for worker in &self.workers {
            let listeners = worker.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            for (listener, metrics) in &*listeners {
                metrics.each_route(|name, route| {
                    let key = (Arc::clone(listener), name.clone());
                    let (classes, micros) = sums.entry(key).or_default();
                    for (sum, n) in classes.iter_mut().zip(&route.responses) {
                        *sum += n.get();
                    }
                    *micros += route.micros.get();
                });
            }
        }
        let values = sums.iter().flat_map(|((listener, name), (classes, _))| {
            let labels = CLASSES.map(|class| (listener, name, class));
            labels.into_iter().zip(*classes).filter(|(_, n)| *n > 0)
        });
        let values = values.map(|((listener, name, class), n)| {
            let (host, path) = (("virtual_host", &*name.host), ("path", name.path.as_str()));
            ([("listener", &**listener), host, path, ("class", class)], n)
        });
        counter(encoder, "proxy_route_requests", "Requests by route and class", values)?;
        let help = "Time of all requests of a route, from head to end";
        let mut metric =
            encoder.encode_descriptor("proxy_route_seconds", help, None, MetricType::Counter)?;
        for ((listener, name), (_, micros)) in &sums {
            let (host, path) = (("virtual_host", &*name.host), ("path", name.path.as_str()));
            let labels = [("listener", &**listener), host, path];
            let seconds = Duration::from_micros(*micros).as_secs_f64();
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
        }
        Ok(())
    }

    fn encode_http2(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.sum(|w| &w.listeners, |l| l.http2.events.each_ref().map(Tally::get));
        let values = all.iter().flat_map(|(name, counts)| {
            let labels = Http2Metrics::EVENTS.map(|e| [("listener", &**name), ("event", e)]);
            labels.into_iter().zip(*counts).filter(|(_, n)| *n > 0)
        });
        let help = "What HTTP/2 clients did that has a limit, and streams refused or reset for it";
        counter(encoder, "proxy_http2_events", help, values)?;
        let all = self.sum(|w| &w.listeners, |l| l.http2.closes.each_ref().map(Tally::get));
        let values = all.iter().flat_map(|(name, counts)| {
            let labels = Http2Metrics::CLOSES.map(|c| [("listener", &**name), ("cause", c)]);
            labels.into_iter().zip(*counts).filter(|(_, n)| *n > 0)
        });
        counter(encoder, "proxy_http2_closes", "HTTP/2 connections that failed, by cause", values)
    }

    /// The workers' counters by name, added up.
    /// Reads the counters of every cluster.
    pub(crate) fn each_cluster<const N: usize>(
        &self,
        read: impl Fn(&ClusterMetrics) -> [u64; N],
    ) -> BTreeMap<ResourceName, [u64; N]> {
        self.sum(|worker| &worker.clusters, read)
    }

    pub(super) fn sum<T, const N: usize>(
        &self,
        map: impl Fn(&WorkerMetrics) -> &Mutex<BTreeMap<ResourceName, Arc<T>>>,
        read: impl Fn(&T) -> [u64; N],
    ) -> BTreeMap<ResourceName, [u64; N]> {
        let mut sums: BTreeMap<ResourceName, [u64; N]> = BTreeMap::new();
        for worker in &self.workers {
            for (name, counters) in &*map(worker).lock().unwrap_or_else(PoisonError::into_inner) {
                let sum = sums.entry(Arc::clone(name)).or_insert([0; N]);
                for (sum, n) in sum.iter_mut().zip(read(counters)) {
                    *sum = sum.wrapping_add(n);
                }
            }
        }
        sums
    }
}

pub(super) fn counter<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    Ok(())
}

pub(super) fn gauge<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        let value = i64::try_from(value).unwrap_or(i64::MAX);
        metric.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

pub(super) fn plain_counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
}
