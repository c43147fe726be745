//! What the control loop tells about itself: objects in force, rejections, metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use portolan_runtime::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use serde::Serialize;

use crate::rejection::{Rejection, Severity};

/// Kinds that are counted under their own name; the rest share `other`.
const MAX_KINDS: usize = 64;

/// A handle on the newest report; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<Mutex<Arc<Report>>>);

/// State of the source after the last reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Services in force.
    pub services: usize,
    /// Endpoint slices in force.
    pub endpoint_slices: usize,
    /// Objects passed over because Portolan has no use for their kind, by `apiVersion/kind`.
    pub unused: BTreeMap<String, usize>,
    /// What is refused, in order of file and document.
    pub rejections: Vec<Rejection>,
}

/// Metrics of the control loop.
#[derive(Clone, Debug, Default)]
pub struct ControlMetrics {
    reloads: Counter,
    objects: Family<KindLabel, Gauge>,
    unused: Family<KindLabel, Gauge>,
    rejections: Family<SeverityLabel, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SeverityLabel {
    severity: &'static str,
}

impl Reports {
    /// The newest report.
    #[must_use]
    pub fn newest(&self) -> Arc<Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts a report in place; logs the rejections that are new, each once.
    pub(crate) fn replace(&self, report: Report, metrics: &ControlMetrics) {
        let before = self.newest();
        let known: BTreeSet<&Rejection> = before.rejections.iter().collect();
        for rejection in report.rejections.iter().filter(|r| !known.contains(r)) {
            match rejection.severity {
                Severity::Rejected => tracing::error!(%rejection, "rejected"),
                Severity::Warning => tracing::warn!(%rejection, "not in force"),
            }
        }
        metrics.record(&report);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(report);
    }
}

impl ControlMetrics {
    /// Registers the metrics of the control loop.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register("control_reloads", "Reloads of the manifests", own.reloads.clone());
        metrics.register("control_objects", "Objects in force, by kind", own.objects.clone());
        metrics.register(
            "control_unused_objects",
            "Objects passed over because their kind is not used",
            own.unused.clone(),
        );
        metrics.register(
            "control_rejections",
            "Objects and settings refused at present",
            own.rejections.clone(),
        );
        own
    }

    fn record(&self, report: &Report) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.reloads.inc();
        let label = |kind: &str| KindLabel { kind: kind.to_owned() };
        self.objects.get_or_create(&label("Service")).set(gauge(report.services));
        self.objects.get_or_create(&label("EndpointSlice")).set(gauge(report.endpoint_slices));
        self.unused.clear();
        for (kind, count) in report.unused.iter().take(MAX_KINDS) {
            self.unused.get_or_create(&label(kind)).set(gauge(*count));
        }
        let rest: usize = report.unused.values().skip(MAX_KINDS).sum();
        if rest > 0 {
            self.unused.get_or_create(&label("other")).set(gauge(rest));
        }
        for (severity, name) in [(Severity::Rejected, "rejected"), (Severity::Warning, "warning")] {
            let count = report.rejections.iter().filter(|r| r.severity == severity).count();
            self.rejections.get_or_create(&SeverityLabel { severity: name }).set(gauge(count));
        }
    }
}
