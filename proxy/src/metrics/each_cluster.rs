//! What is counted for each cluster and endpoint, summed over the workers, as prometheus sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use portolan_model::traffic::ResourceName;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::cluster::{ClusterMetrics, GRPC_STATUSES, Retried};
use super::collect::{CLASSES, counter, gauge};
use super::tally::{BOUNDED, Histogram, Tally};
use super::{OTHER, ProxyMetrics};
use crate::http::local::Reason;

/// A field of the counters of a cluster.
type PerCluster = fn(&ClusterMetrics) -> &Tally;
type PerHistogram = fn(&ClusterMetrics) -> &Histogram;
/// An endpoint's numbers over all workers: requests, failures, in flight, and of the expected
/// latency in microseconds the sum and how many know it.
type Sums = [u64; 5];
type EndpointLabels<'a> = [(&'static str, &'a str); 2];

const COUNTERS: [(&str, &str, PerCluster); 3] = [
    ("proxy_cluster_requests", "Requests and streams by cluster", |c| &c.requests),
    ("proxy_cluster_connects", "Connections tried", |c| &c.connects),
    ("proxy_cluster_connect_failures", "Connections that failed", |c| &c.connect_failures),
];

const TIMES: [(&str, &str, PerHistogram); 2] = [
    ("proxy_cluster_request_seconds", "Time from a request's head to its response's end", |c| {
        &c.duration
    }),
    ("proxy_cluster_head_seconds", "Time from a request's head to the endpoint's response", |c| {
        &c.head
    }),
];

/// The words of gRPC statuses in labels: their numbers.
const GRPC: [&str; GRPC_STATUSES] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    OTHER,
];

impl ProxyMetrics {
    pub(super) fn encode_clusters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for (name, help, get) in COUNTERS {
            let all = self.sum(|w| &w.clusters, |c| [get(c).get()]);
            let values = all.iter().map(|(name, [n])| ([("cluster", &**name)], *n));
            counter(encoder, name, help, values)?;
        }
        self.by_word(encoder, "proxy_cluster_responses", "class", CLASSES, |c| {
            c.responses.each_ref().map(Tally::get)
        })?;
        self.by_word(encoder, "proxy_cluster_grpc_responses", "status", GRPC, |c| {
            c.grpc.each_ref().map(Tally::get)
        })?;
        self.by_word(encoder, "proxy_cluster_bytes", "direction", ["in", "out"], |c| {
            [c.bytes_in.get(), c.bytes_out.get()]
        })?;
        let outcomes = Retried::ALL.map(Retried::as_str);
        self.by_word(encoder, "proxy_cluster_retries", "outcome", outcomes, |c| {
            c.retries.each_ref().map(Tally::get)
        })?;
        let reasons = Reason::ALL.map(Reason::as_str);
        self.by_word(encoder, "proxy_cluster_local_answers", "reason", reasons, |c| {
            c.local.each_ref().map(Tally::get)
        })?;
        let kinds = [
            "panic",
            "cross_zone",
            "spilled",
            "subset_fallback",
            "no_subset",
            "subsets_full",
            "none",
        ];
        self.by_word(encoder, "proxy_cluster_picks", "kind", kinds, |c| {
            let b = &c.balance;
            let fell = &b.subset_fallback;
            [&b.panic, &b.cross_zone, &b.spilled, fell, &b.no_subset, &b.subsets_full, &b.none]
                .map(Tally::get)
        })?;
        for (name, help, get) in TIMES {
            self.encode_times(encoder, name, help, get)?;
        }
        self.encode_endpoints(encoder)
    }

    /// A counter by cluster and a word of a fixed list.
    fn by_word<const N: usize>(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        label: &'static str,
        words: [&'static str; N],
        read: impl Fn(&ClusterMetrics) -> [u64; N],
    ) -> fmt::Result {
        let all = self.sum(|w| &w.clusters, read);
        let values = all.iter().flat_map(|(cluster, counts)| {
            let labels = words.map(|word| [("cluster", &**cluster), (label, word)]);
            labels.into_iter().zip(*counts).filter(|(_, n)| *n > 0)
        });
        let help = HELP.iter().find(|(of, _)| *of == name).map_or("", |(_, help)| *help);
        counter(encoder, name, help, values)
    }

    fn encode_times(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        get: PerHistogram,
    ) -> fmt::Result {
        let all = self.sum(
            |w| &w.clusters,
            |c| -> [u64; BOUNDED + 2] {
                let histogram = get(c);
                std::array::from_fn(|at| {
                    histogram.buckets.get(at).unwrap_or(&histogram.micros).get()
                })
            },
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (cluster, numbers) in &all {
            let buckets: Vec<(f64, u64)> =
                Histogram::bounds().zip(numbers.iter().copied()).collect();
            let count: u64 = buckets.iter().map(|(_, n)| n).sum();
            if count > 0 {
                let sum = Duration::from_micros(numbers[BOUNDED + 1]).as_secs_f64();
                metric
                    .encode_family(&[("cluster", &**cluster)])?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }

    fn encode_endpoints(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut sums: BTreeMap<(ResourceName, Option<SocketAddr>), Sums> = BTreeMap::new();
        let mut idle: BTreeMap<ResourceName, u64> = BTreeMap::new();
        for worker in &self.workers {
            let clusters = worker.clusters.lock().unwrap_or_else(PoisonError::into_inner);
            for (cluster, metrics) in &*clusters {
                let idle = idle.entry(Arc::clone(cluster)).or_default();
                metrics.each_endpoint(|address, endpoint| {
                    *idle = idle.wrapping_add(endpoint.idle.get());
                    let ewma = endpoint.ewma_micros.get();
                    let (requests, failures) = (endpoint.requests.get(), endpoint.failures.get());
                    let active = endpoint.active.get();
                    let numbers = [requests, failures, active, ewma, u64::from(ewma > 0)];
                    let sums = sums.entry((Arc::clone(cluster), address)).or_default();
                    for (sum, n) in sums.iter_mut().zip(numbers) {
                        *sum = sum.wrapping_add(n);
                    }
                });
            }
        }
        let values = idle.iter().map(|(cluster, n)| ([("cluster", &**cluster)], *n));
        gauge(encoder, "proxy_cluster_idle_connections", "Idle HTTP/1.1 connections", values)?;
        let named: Vec<(&str, String, Sums)> = (sums.iter())
            .map(|((cluster, address), sums)| {
                let address = address.map_or_else(|| OTHER.to_owned(), |a| a.to_string());
                (&**cluster, address, *sums)
            })
            .collect();
        let values = |at: usize| {
            named.iter().map(move |(cluster, address, sums)| (labels(cluster, address), sums[at]))
        };
        let help = "Tries by endpoint, retries included";
        counter(encoder, "proxy_endpoint_requests", help, values(0))?;
        let help = "Tries that count as failures of the endpoint";
        counter(encoder, "proxy_endpoint_failures", help, values(1))?;
        gauge(encoder, "proxy_endpoint_active", "Tries in flight by endpoint", values(2))?;
        let help = "Expected latency, the mean of the workers that know one";
        let mut metric = encoder.encode_descriptor(
            "proxy_endpoint_latency_seconds",
            help,
            None,
            MetricType::Gauge,
        )?;
        for (cluster, address, [.., micros, known]) in &named {
            let known_one = address != OTHER && *known > 0;
            if let Some(mean) = micros.checked_div(*known).filter(|_| known_one) {
                let mean = Duration::from_micros(mean).as_secs_f64();
                metric.encode_family(&labels(cluster, address))?.encode_gauge(&mean)?;
            }
        }
        Ok(())
    }
}

fn labels<'a>(cluster: &'a str, endpoint: &'a str) -> EndpointLabels<'a> {
    [("cluster", cluster), ("endpoint", endpoint)]
}

const HELP: [(&str, &str); 6] = [
    ("proxy_cluster_responses", "Requests by class of status; other: there was no response"),
    ("proxy_cluster_grpc_responses", "gRPC requests by status"),
    ("proxy_cluster_bytes", "Bytes of bodies and streams, as the client sees them"),
    ("proxy_cluster_retries", "Retries by outcome"),
    ("proxy_cluster_local_answers", "Answers the proxy made itself, and what it cut or reset"),
    ("proxy_cluster_picks", "Picks of an endpoint that did not go the common way"),
];
