//! What the endpoints of one cluster share: the rules of outlier detection, how many are left out,
//! and the version that tells workers to look again.
//!
//! Owns ejecting and taking back, each under one short lock that no request takes unless it has
//! just found an outlier. Refuses to know which endpoints there are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use portolan_model::traffic::{Outlier, ResourceName};
use tokio::time::Instant;

use super::counters::HealthMetrics;
use super::ejection::{self, Cause};
use super::host::{Flags, HostHealth};
use super::jitter;

/// See the module.
#[derive(Debug)]
pub(super) struct Detector {
    pub(super) cluster: ResourceName,
    /// `None`: nobody is left out for what it answered.
    pub(super) outlier: ArcSwapOption<Outlier>,
    pub(super) metrics: Arc<HealthMetrics>,
    version: AtomicU64,
    census: Mutex<Census>,
}

/// Endpoints by number.
#[derive(Debug, Default)]
struct Census {
    hosts: usize,
    ejected: usize,
}

impl Detector {
    pub(super) fn new(cluster: ResourceName, metrics: Arc<HealthMetrics>) -> Self {
        Self {
            cluster,
            outlier: ArcSwapOption::empty(),
            metrics,
            version: AtomicU64::new(1),
            census: Mutex::default(),
        }
    }

    /// Grows with every flag that changes.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn on_changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// So many endpoints, of which a share may be left out.
    pub(super) fn count_hosts(&self, hosts: usize) {
        self.census.lock().unwrap_or_else(PoisonError::into_inner).hosts = hosts;
    }

    /// Leaves an endpoint out, unless it is out already, has left, or too many are out.
    pub(super) fn eject(&self, host: &HostHealth, cause: Cause, now: Instant) {
        let Some(outlier) = self.outlier.load_full() else { return };
        let mut census = self.census.lock().unwrap_or_else(PoisonError::into_inner);
        if host.has(Flags::EJECTED) || host.has(Flags::GONE) {
            return;
        }
        if !ejection::is_allowed(census.ejected, census.hosts, outlier.max_percent) {
            HealthMetrics::count(&self.metrics.ejections_overflowed, cause);
            return;
        }
        census.ejected = census.ejected.saturating_add(1);
        let jitter = jitter::up_to(outlier.ejection_jitter);
        let left = host.with_record(|record| {
            record.on_eject(&outlier, cause, jitter, now);
            record.left(&outlier, now)
        });
        host.change(Flags::EJECTED, 0);
        drop(census);
        HealthMetrics::count(&self.metrics.ejections, cause);
        self.metrics.ejected.add(1);
        tracing::warn!(
            cluster = &*self.cluster, endpoint = %host.address, cause = cause.as_str(),
            seconds = left.unwrap_or_default().as_secs(), "an endpoint is left out for its answers"
        );
    }

    /// Takes an endpoint back. Its streaks begin anew, so that few new errors do not put it out again.
    pub(super) fn take_back(&self, host: &HostHealth, why: &'static str, now: Instant) {
        let mut census = self.census.lock().unwrap_or_else(PoisonError::into_inner);
        if !host.has(Flags::EJECTED) || host.has(Flags::GONE) {
            return;
        }
        census.ejected = census.ejected.saturating_sub(1);
        host.with_record(|record| record.on_return(now));
        host.end_streak();
        host.change(0, Flags::EJECTED);
        drop(census);
        self.metrics.ejected.sub(1);
        tracing::info!(
            cluster = &*self.cluster, endpoint = %host.address, why, "an endpoint is taken back"
        );
    }

    /// An endpoint leaves the cluster: nothing changes it from now on.
    pub(super) fn forget(&self, host: &HostHealth) {
        let mut census = self.census.lock().unwrap_or_else(PoisonError::into_inner);
        if host.has(Flags::GONE) {
            return;
        }
        if host.has(Flags::EJECTED) {
            census.ejected = census.ejected.saturating_sub(1);
            self.metrics.ejected.sub(1);
        }
        host.change(Flags::GONE, 0);
    }
}
