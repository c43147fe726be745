//! Counters, kept per worker and summed when they are scraped.
//!
//! A counter has one writing thread, so its cache line stays with that core. The maps of
//! per-listener and per-cluster counters are locked only when a listener or cluster is first seen
//! and on scrape, never by a request. Owns the bound on label values.

pub(crate) mod cluster;
mod collect;
mod each_cluster;
mod limits;
pub(crate) mod listener;
pub(crate) mod tally;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use portolan_model::traffic::ResourceName;

use crate::access::LogMetrics;
use crate::health::Board;
use crate::http::local::Reason;
use crate::limit::Limiters;
use crate::tcp::metrics::TcpMetrics;
pub(crate) use cluster::{ClusterMetrics, EndpointMetrics};
pub(crate) use listener::{KnownRoute, ListenerMetrics};

/// Clusters and listeners with counters of their own, per worker; the rest are counted as
/// [`OTHER`].
const MAX_LABELS: usize = 10_000;

/// The label value of everything past the bound.
const OTHER: &str = "other";

/// A number one thread writes and the scrape reads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counters of the whole proxy.
#[derive(Debug)]
pub(crate) struct ProxyMetrics {
    pub(crate) workers: Vec<Arc<WorkerMetrics>>,
    /// Listeners that could not be bound; written by the supervisor.
    pub(crate) bind_failures: Counter,
    /// Written by the access log's thread.
    pub(crate) access: Arc<LogMetrics>,
    /// What is counted beside the workers, once the proxy runs.
    beside: OnceLock<(Arc<Board>, Arc<Limiters>)>,
}

/// Counters of one worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerMetrics {
    pub(crate) local_answers: [Counter; Reason::ALL.len()],
    pub(crate) accept_errors: Counter,
    pub(crate) upstream_connects: Counter,
    pub(crate) upstream_connect_failures: Counter,
    pub(crate) upstream_active: Counter,
    pub(crate) retries: Counter,
    pub(crate) retries_over_budget: Counter,
    pub(crate) hedges: Counter,
    pub(crate) idle_dropped: Counter,
    pub(crate) panics: Counter,
    pub(crate) mirrors: Counter,
    pub(crate) mirrors_active: Counter,
    pub(crate) mirrors_failed: Counter,
    pub(crate) mirrors_dropped: Counter,
    pub(crate) decisions: Counter,
    pub(crate) decisions_dropped: Counter,
    /// Spans handed on, and those that there was no room for.
    pub(crate) spans: Counter,
    pub(crate) spans_dropped: Counter,
    pub(crate) tcp: TcpMetrics,
    listeners: Mutex<BTreeMap<ResourceName, Arc<ListenerMetrics>>>,
    clusters: Mutex<BTreeMap<ResourceName, Arc<ClusterMetrics>>>,
}

impl ProxyMetrics {
    pub(crate) fn new(workers: usize) -> Self {
        let workers = (0..workers).map(|_| Arc::default()).collect();
        let (bind_failures, access) = (Counter::default(), Arc::default());
        Self { workers, bind_failures, access, beside: OnceLock::new() }
    }

    /// Shows what these count as well.
    pub(crate) fn attach(&self, health: &Arc<Board>, limiters: &Arc<Limiters>) {
        // A proxy runs once.
        let _ = self.beside.set((Arc::clone(health), Arc::clone(limiters)));
    }
}

impl WorkerMetrics {
    pub(crate) fn listener(&self, name: &ResourceName) -> Arc<ListenerMetrics> {
        labelled(&self.listeners, name)
    }

    pub(crate) fn cluster(&self, name: &ResourceName) -> Arc<ClusterMetrics> {
        labelled(&self.clusters, name)
    }

    /// Counts a request upstream while what is returned lives.
    pub(crate) fn upstream(self: &Arc<Self>) -> Upstream {
        self.upstream_active.add(1);
        Upstream(Arc::clone(self))
    }

    pub(crate) fn count_local(&self, reason: Reason) {
        self.local_answers[reason.index()].add(1);
    }
}

/// A request upstream, while it lives.
pub(crate) struct Upstream(Arc<WorkerMetrics>);

impl Drop for Upstream {
    fn drop(&mut self) {
        self.0.upstream_active.sub(1);
    }
}

/// The counters of `name`, or of everything past the bound. Once a name has its own it keeps them,
/// so that a counter never falls.
fn labelled<T: Default>(
    map: &Mutex<BTreeMap<ResourceName, Arc<T>>>,
    name: &ResourceName,
) -> Arc<T> {
    let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = map.get(name) {
        return Arc::clone(known);
    }
    let name = if map.len() < MAX_LABELS { Arc::clone(name) } else { OTHER.into() };
    Arc::clone(map.entry(name).or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_past_the_bound_are_counted_together() {
        let metrics = WorkerMetrics::default();
        for i in 0..MAX_LABELS + 5 {
            metrics.cluster(&format!("c{i}").into()).requests.add(1);
        }
        assert_eq!(metrics.cluster(&"c7".into()).requests.get(), 1);
        assert_eq!(metrics.cluster(&"new".into()).requests.get(), 5);
        assert!(metrics.clusters.lock().expect("not poisoned").len() <= MAX_LABELS + 1);
    }
}
