//! What the control loop tells about itself: objects in force, rejections, metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portolan_model::ServiceKey;
use portolan_runtime::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use serde::{Serialize, Serializer};
use tokio::sync::watch;

use crate::gateway::status::Status;
use crate::object::{Kind, ObjectId};
use crate::rejection::{Origin, Rejection, Severity, Subject};
use crate::removal::{Guard, Reason};

/// Kinds that are counted under their own name; the rest share `other`.
const MAX_KINDS: usize = 64;

/// A handle on the newest report; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Reports(Arc<watch::Sender<Arc<Report>>>);

/// Objects in force, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<Kind, usize>);

/// Every kind by its plural, those of which there are none, too.
impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(Kind::ALL.map(|kind| (kind.plural(), self.of(kind))))
    }
}

/// State of the source after the last reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Objects in force.
    pub objects: Counts,
    /// Objects passed over because Portolan has no use for their kind, by `apiVersion/kind`.
    pub unused: BTreeMap<String, usize>,
    /// What is refused, in order of file and document.
    pub rejections: Vec<Rejection>,
    /// What became of the objects of the Gateway API, in their order.
    #[serde(skip)]
    pub statuses: Arc<Vec<Status>>,
    /// How the watches of a Kubernetes API fare, by kind; empty for manifests.
    pub sources: BTreeMap<Kind, SourceState>,
}

/// How the watch of one kind fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceState {
    /// Whether the API has the kind.
    pub served: bool,
    /// Whether all objects of it are known.
    pub synced: bool,
    /// What went wrong last; `None` while it works.
    pub trouble: Option<String>,
}

/// What a client does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The service it is made of, if it is one's.
    pub service: Option<ServiceKey>,
    /// The client.
    pub client: String,
    /// Type and name of the resource, such as `cds shop/web:80`.
    pub resource: String,
    /// The client's words.
    pub words: String,
}

impl Refused {
    fn rejection(self) -> Rejection {
        let id = self.service.as_ref().map(ObjectId::of_service);
        Rejection {
            origin: Origin::file(&format!("client {}", self.client).into()),
            object: id.as_ref().map(ToString::to_string),
            field: Some(self.resource),
            reason: self.words,
            severity: Severity::Refused,
            subject: id.map(|id| Subject { id, uid: None }),
        }
    }
}

/// Metrics of the control loop.
#[derive(Clone, Debug)]
pub struct ControlMetrics {
    reloads: Counter,
    delay: Histogram,
    publishing: Histogram,
    watch_errors: Family<KindLabel, Counter>,
    synced: Family<KindLabel, Gauge>,
    events: Family<OutcomeLabel, Counter>,
    statuses: Family<OutcomeLabel, Counter>,
    objects: Family<KindLabel, Gauge>,
    unused: Family<KindLabel, Gauge>,
    rejections: Family<SeverityLabel, Gauge>,
    holds: Family<ReasonLabel, Gauge>,
    held: Family<ReasonLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SeverityLabel {
    severity: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

impl Counts {
    /// How many of a kind.
    #[must_use]
    pub fn of(&self, kind: Kind) -> usize {
        self.0.get(&kind).copied().unwrap_or_default()
    }

    pub(crate) fn add(&mut self, kind: Kind, count: usize) {
        *self.0.entry(kind).or_default() += count;
    }

    pub(crate) fn remove_one(&mut self, kind: Kind) {
        if let Some(count) = self.0.get_mut(&kind) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Reports {
    /// The newest report.
    #[must_use]
    pub fn newest(&self) -> Arc<Report> {
        self.0.borrow().clone()
    }

    /// The reports from now on; the newest one counts as not seen yet.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Report>> {
        let mut receiver = self.0.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Puts a report in place; logs the rejections that are new, each once.
    pub(crate) fn replace(&self, report: Report, metrics: &ControlMetrics) {
        let before = self.newest();
        let known: BTreeSet<&Rejection> = before.rejections.iter().collect();
        let is_new = |r: &&Rejection| !known.contains(r);
        for rejection in report.rejections.iter().filter(is_new) {
            match rejection.severity {
                Severity::Rejected => tracing::error!(%rejection, "rejected"),
                Severity::Warning => tracing::warn!(%rejection, "not in force"),
                // Whoever holds it back, or serves the client, has said so.
                Severity::Held | Severity::Refused | Severity::RolledBack => {}
            }
        }
        metrics.record(&report);
        self.0.send_modify(|newest| {
            let mut report = report;
            let refused = newest.rejections.iter().filter(|r| r.severity == Severity::Refused);
            report.rejections.extend(refused.cloned());
            *newest = Arc::new(report);
        });
    }

    /// Says what clients refuse at present, in place of what was said before.
    pub fn set_refused(&self, refused: impl IntoIterator<Item = Refused>) {
        let refused: Vec<Rejection> = refused.into_iter().map(Refused::rejection).collect();
        self.0.send_if_modified(|newest| {
            let mut report = Report::clone(newest);
            report.rejections.retain(|r| r.severity != Severity::Refused);
            report.rejections.extend(refused);
            let differs = report != **newest;
            *newest = Arc::new(report);
            differs
        });
    }
}

impl Default for ControlMetrics {
    fn default() -> Self {
        let times = || Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        Self {
            reloads: Counter::default(),
            delay: times(),
            publishing: times(),
            watch_errors: Family::default(),
            synced: Family::default(),
            events: Family::default(),
            statuses: Family::default(),
            objects: Family::default(),
            unused: Family::default(),
            rejections: Family::default(),
            holds: Family::default(),
            held: Family::default(),
        }
    }
}

impl ControlMetrics {
    /// Notes that manifests were read again.
    pub(crate) fn on_reload(&self) {
        self.reloads.inc();
    }

    /// Notes a publish: how long its oldest change had waited, and how long it took.
    pub(crate) fn on_published(&self, waited: Duration, took: Duration) {
        self.delay.observe(waited.as_secs_f64());
        self.publishing.observe(took.as_secs_f64());
    }

    /// Notes that a watch failed.
    pub(crate) fn on_watch_error(&self, kind: Kind) {
        let kind = kind.as_str().to_owned();
        self.watch_errors.get_or_create(&KindLabel { kind }).inc();
    }

    /// Notes an Event written, or refused by the server.
    pub(crate) fn on_event(&self, written: bool) {
        let outcome = if written { "written" } else { "refused" };
        self.events.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Notes a status written, or refused by the server.
    pub(crate) fn on_status(&self, written: bool) {
        let outcome = if written { "written" } else { "refused" };
        self.statuses.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Notes whether the objects of a kind are known in full.
    pub(crate) fn set_synced(&self, kind: Kind, synced: bool) {
        let kind = kind.as_str().to_owned();
        self.synced.get_or_create(&KindLabel { kind }).set(i64::from(synced));
    }

    /// Notes that a service is held back from now on.
    pub(crate) fn on_held(&self, reason: Reason) {
        self.held.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }

    /// Notes how many services a guard holds back.
    pub(crate) fn set_holds(&self, guard: &Guard) {
        for reason in Reason::ALL {
            let count = guard.held().values().filter(|hold| hold.reason == reason).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.holds.get_or_create(&ReasonLabel { reason: reason.as_str() }).set(count);
        }
    }

    /// Registers the metrics of the control loop.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register("control_reloads", "Reloads of the manifests", own.reloads.clone());
        metrics.register(
            "control_publish_delay_seconds",
            "Time that the oldest change of a publish had waited",
            own.delay.clone(),
        );
        metrics.register(
            "control_publish_seconds",
            "Time that a publish took",
            own.publishing.clone(),
        );
        metrics.register(
            "control_watch_errors",
            "Failed lists and watches of the Kubernetes API, by kind",
            own.watch_errors.clone(),
        );
        metrics.register(
            "control_synced",
            "Whether all objects of a kind are known from the Kubernetes API",
            own.synced.clone(),
        );
        metrics.register(
            "control_events",
            "Events about refused objects, by whether the server took them",
            own.events.clone(),
        );
        metrics.register(
            "control_statuses",
            "Statuses of objects of the Gateway API, by whether the server took them",
            own.statuses.clone(),
        );
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
        metrics.register(
            "control_guard_holds",
            "Services held back at present, by whether their source lost too many or they all of \
             their endpoints",
            own.holds.clone(),
        );
        metrics.register(
            "control_guard_held",
            "Services held back so far, by why",
            own.held.clone(),
        );
        own
    }

    fn record(&self, report: &Report) {
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let label = |kind: &str| KindLabel { kind: kind.to_owned() };
        for kind in Kind::ALL {
            let count = gauge(report.objects.of(kind));
            self.objects.get_or_create(&label(kind.as_str())).set(count);
        }
        self.unused.clear();
        for (kind, count) in report.unused.iter().take(MAX_KINDS) {
            self.unused.get_or_create(&label(kind)).set(gauge(*count));
        }
        let rest: usize = report.unused.values().skip(MAX_KINDS).sum();
        if rest > 0 {
            self.unused.get_or_create(&label("other")).set(gauge(rest));
        }
        for severity in
            [Severity::Rejected, Severity::Warning, Severity::Held, Severity::RolledBack]
        {
            let count = report.rejections.iter().filter(|r| r.severity == severity).count();
            let label = SeverityLabel { severity: severity.as_str() };
            self.rejections.get_or_create(&label).set(gauge(count));
        }
    }
}
