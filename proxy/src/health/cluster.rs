//! The health of one cluster's endpoints.
//!
//! Owns which endpoints have health, what a change of the configuration makes of it, and the end of
//! an interval of outlier detection. Refuses to run by itself: `checker` and `board` do.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_model::traffic::{Cluster, EndpointSet, Outlier, ResourceName};
use tokio::time::Instant;

use super::counters::HealthMetrics;
use super::detector::Detector;
use super::host::{Flags, HostHealth};
use super::interval;
use super::view::HostView;

/// See the module.
#[derive(Debug)]
pub(crate) struct ClusterHealth {
    detector: Arc<Detector>,
    workers: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    hosts: BTreeMap<SocketAddr, Arc<HostHealth>>,
    has_checks: bool,
}

impl ClusterHealth {
    pub(super) fn new(cluster: ResourceName, workers: usize, metrics: Arc<HealthMetrics>) -> Self {
        let detector = Arc::new(Detector::new(cluster, metrics));
        Self { detector, workers, state: Mutex::default() }
    }

    /// Grows whenever the health of an endpoint changes; a worker that has seen this number need
    /// not look at the endpoints again.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.detector.version()
    }

    /// An endpoint's health; `None` when the cluster has no such endpoint.
    pub(crate) fn host(&self, address: SocketAddr) -> Option<Arc<HostHealth>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).hosts.get(&address).cloned()
    }

    /// All endpoints, by address.
    pub(super) fn hosts(&self) -> Vec<Arc<HostHealth>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.hosts.values().cloned().collect()
    }

    pub(super) fn name(&self) -> &ResourceName {
        &self.detector.cluster
    }

    /// Takes a configuration: endpoints that stay keep all that is known of them, those that left
    /// are let go of at once.
    pub(super) fn configure(&self, cluster: &Cluster, set: Option<&EndpointSet>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.detector.outlier.store(cluster.outlier.map(Arc::new));
        let has_checks = cluster.health_check.is_some();
        let had_checks = std::mem::replace(&mut state.has_checks, has_checks);
        let endpoints = set.map_or(&[][..], |set| &set.endpoints);
        let stays: HashSet<SocketAddr> = endpoints.iter().map(|target| target.address).collect();
        state.hosts.retain(|address, host| {
            let keep = stays.contains(address);
            if !keep {
                self.detector.forget(host);
            } else if has_checks && !had_checks {
                host.begin_checks();
            } else if had_checks && !has_checks {
                host.end_checks();
            }
            keep
        });
        for address in stays {
            let new = || HostHealth::new(address, Arc::clone(&self.detector), has_checks);
            state.hosts.entry(address).or_insert_with(|| Arc::new(new()));
        }
        self.detector.count_hosts(state.hosts.len());
        for host in state.hosts.values() {
            match &cluster.outlier {
                None => self.detector.take_back(host, "outlier detection is off", Instant::now()),
                Some(outlier) if counts(outlier) => host.count_requests(self.workers),
                Some(_) => {}
            }
        }
    }

    /// The cluster leaves the configuration.
    pub(super) fn retire(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.hosts.values().for_each(|host| self.detector.forget(host));
        state.hosts.clear();
    }

    /// An interval of outlier detection ends: who has been out long enough comes back, who stands
    /// out by its rates is left out, who was well comes back sooner the next time.
    pub(super) fn on_interval(&self, now: Instant) {
        let Some(outlier) = self.detector.outlier.load_full() else { return };
        let hosts = self.hosts();
        let mut samples = Vec::with_capacity(hosts.len());
        for host in &hosts {
            if host.with_record(|r| r.left(&outlier, now)).is_some_and(|left| left.is_zero()) {
                self.detector.take_back(host, "its time is over", now);
            }
            let sample = host.take_sample();
            samples.push((!host.has(Flags::EJECTED)).then_some(sample));
        }
        for (i, cause) in interval::outliers(&outlier, &samples) {
            if let Some(host) = hosts.get(i) {
                self.detector.eject(host, cause, now);
            }
        }
        hosts.iter().for_each(|host| host.with_record(|r| r.on_interval(&outlier, now)));
    }

    /// How the endpoints are, for people.
    pub(super) fn view(&self, now: Instant) -> Vec<HostView> {
        let outlier = self.detector.outlier.load_full();
        self.hosts().iter().map(|host| HostView::of(host, outlier.as_deref(), now)).collect()
    }
}

/// Whether somebody judges by rates.
fn counts(outlier: &Outlier) -> bool {
    outlier.success_rate.is_some() || outlier.failure_percentage.is_some()
}
