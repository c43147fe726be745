//! Readiness: a gate per role, all of which must be open, and none once draining has begun.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portolan_model::Generation;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::lifecycle::Lifecycle;
use crate::telemetry::Metrics;

/// The gates of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    lifecycle: Lifecycle,
    gates: Arc<Mutex<Vec<Gate>>>,
    applied: Family<RoleLabel, Gauge<i64>>,
    stale: Staleness,
}

/// Whether what is served is a copy saved in an earlier life. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Staleness {
    stale: Arc<AtomicBool>,
    metric: Gauge<i64>,
}

/// A role's gate: opens when the role has applied its first snapshot.
#[derive(Clone, Debug)]
pub struct Gate {
    role: &'static str,
    applied: Arc<AtomicU64>,
    metric: Gauge<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

impl Readiness {
    /// No gates yet. Registers `portolan_applied_generation`.
    #[must_use]
    pub fn new(lifecycle: Lifecycle, metrics: &Metrics) -> Self {
        let applied = Family::default();
        metrics.register(
            "applied_generation",
            "Generation of the snapshot a role has applied in full",
            applied.clone(),
        );
        let stale = Staleness::default();
        metrics.register(
            "snapshot_stale",
            "Whether a snapshot saved on disk is served because the source has not answered yet",
            stale.metric.clone(),
        );
        Self { lifecycle, gates: Arc::default(), applied, stale }
    }

    /// The mark that is shown with readiness while a saved snapshot is served.
    #[must_use]
    pub fn staleness(&self) -> Staleness {
        self.stale.clone()
    }

    /// Adds a closed gate for a role.
    #[must_use]
    pub fn gate(&self, role: &'static str) -> Gate {
        let metric = self.applied.get_or_create(&RoleLabel { role }).clone();
        let gate = Gate { role, applied: Arc::default(), metric };
        self.gates.lock().unwrap_or_else(PoisonError::into_inner).push(gate.clone());
        gate
    }

    /// `Ok` with the generations applied, or `Err` with what is missing; a line per role.
    ///
    /// # Errors
    /// The same text when a role has applied nothing yet, or the process drains.
    pub fn check(&self) -> Result<String, String> {
        let mut text = String::new();
        let mut ready = !self.lifecycle.is_draining();
        if !ready {
            text.push_str("draining\n");
        }
        if self.stale.is_set() {
            text.push_str("stale: a snapshot saved on disk is served until the source answers\n");
        }
        for gate in &*self.gates.lock().unwrap_or_else(PoisonError::into_inner) {
            let _infallible = match gate.generation() {
                Some(generation) => writeln!(text, "{}: generation {generation}", gate.role),
                None => {
                    ready = false;
                    writeln!(text, "{}: waiting for its first snapshot", gate.role)
                }
            };
        }
        if ready { Ok(text) } else { Err(text) }
    }
}

impl Staleness {
    /// Sets or clears the mark.
    pub fn set(&self, stale: bool) {
        self.stale.store(stale, Ordering::Release);
        self.metric.set(i64::from(stale));
    }

    /// Whether the mark is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.stale.load(Ordering::Acquire)
    }
}

impl Gate {
    /// Records that the role has applied this generation in full.
    pub fn applied(&self, generation: Generation) {
        self.applied.store(generation.0, Ordering::Release);
        self.metric.set(i64::try_from(generation.0).unwrap_or(i64::MAX));
    }

    /// The generation last applied.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        match self.applied.load(Ordering::Acquire) {
            0 => None,
            number => Some(Generation(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_means_every_role_applied_a_snapshot_and_none_drains() {
        let lifecycle = Lifecycle::new();
        let readiness = Readiness::new(lifecycle.clone(), &Metrics::new());
        let dns = readiness.gate("dns");
        let proxy = readiness.gate("proxy");
        dns.applied(Generation(3));
        assert_eq!(
            readiness.check(),
            Err("dns: generation 3\nproxy: waiting for its first snapshot\n".to_owned())
        );
        proxy.applied(Generation(2));
        assert_eq!(readiness.check(), Ok("dns: generation 3\nproxy: generation 2\n".to_owned()));
        lifecycle.drain();
        assert!(readiness.check().is_err_and(|text| text.starts_with("draining\n")));
    }
}
