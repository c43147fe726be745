//! Events on the objects that are refused, so that whoever wrote one sees why with
//! `kubectl describe`.
//!
//! Of several replicas the holder of a Lease alone writes; no Lease is asked for while there is
//! nothing to write. Reading needs none of this: without the rights to write, the loop is the same.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use portolan_runtime::Lifecycle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_64;

use crate::rejection::{Rejection, Severity};
use crate::report::{ControlMetrics, Report};

/// Name of the Lease.
const LEASE: &str = "portolan-control";
/// Who says it.
const CONTROLLER: &str = "portolan.dev/control";
/// For how many seconds the Lease holds without being renewed, and how long before that it is.
const LEASE_SECS: u64 = 15;
const LEASE_GRACE_SECS: u64 = 5;
/// Longest note an event may have, in bytes (Kubernetes API).
const MAX_NOTE: usize = 1024;
/// Events of one round; what is left over is written in the next.
const ROUND: usize = 50;
/// Time between two rounds while there is more to write.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(10);
/// Longest time for giving the Lease back; the drain waits for it.
const GIVING_BACK: Duration = Duration::from_secs(5);
/// Time before another try after the server refused one.
const AFTER_REFUSAL: Duration = Duration::from_secs(300);

/// Writes Events.
pub struct Announcer {
    client: Client,
    reports: watch::Receiver<Arc<Report>>,
    /// Unique among the replicas: the pod's name.
    identity: String,
    namespace: String,
    metrics: ControlMetrics,
    /// Rejections that have their event, of those in force.
    announced: BTreeSet<Rejection>,
    lease: Option<Leadership>,
}

struct Leadership {
    leads: watch::Receiver<bool>,
    /// Ends by itself, giving the Lease back, once `leads` is dropped.
    task: JoinHandle<kube_lease_manager::Result<LeaseManager>>,
}

impl std::fmt::Debug for Announcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announcer").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Announcer {
    /// Announces what these reports refuse; the Lease is in the client's own namespace.
    #[must_use]
    pub fn new(
        client: Client,
        reports: watch::Receiver<Arc<Report>>,
        identity: String,
        metrics: ControlMetrics,
    ) -> Self {
        let namespace = client.default_namespace().to_owned();
        let announced = BTreeSet::new();
        Self { client, reports, identity, namespace, metrics, announced, lease: None }
    }

    /// Writes until draining, then gives the Lease back.
    pub async fn run(mut self, lifecycle: Lifecycle) {
        let reporter =
            Reporter { controller: CONTROLLER.into(), instance: Some(self.identity.clone()) };
        let recorder = Recorder::new(self.client.clone(), reporter);
        loop {
            let pause = tokio::select! {
                biased;
                // A write under way is given up: at worst the event is written again.
                () = lifecycle.draining() => break,
                pause = self.round(&recorder) => pause,
            };
            tokio::select! {
                () = lifecycle.draining() => break,
                () = sleep(pause) => {}
                changed = self.news(pause.is_none()) => if !changed { break },
            }
        }
        if let Some(Leadership { leads, task }) = self.lease.take() {
            drop(leads);
            if !matches!(timeout(GIVING_BACK, task).await, Ok(Ok(Ok(_)))) {
                tracing::warn!("the lease was not given back; it runs out by itself");
            }
        }
    }

    /// Completes with another report or a change of who leads; `false` when there will be none.
    async fn news(&mut self, reports_too: bool) -> bool {
        let leads = self.lease.as_mut().map(|lease| &mut lease.leads);
        let led = async {
            match leads {
                Some(leads) => leads.changed().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.reports.changed(), if reports_too => changed.is_ok(),
            still = led => {
                if !still {
                    // Its task is gone, and nobody leads here until there is another.
                    self.lease = None;
                }
                true
            }
        }
    }

    /// Writes what is new; for how long to wait if there is more, or it failed.
    async fn round(&mut self, recorder: &Recorder) -> Option<Duration> {
        let report = Arc::clone(&self.reports.borrow_and_update());
        let current: BTreeSet<&Rejection> =
            report.rejections.iter().filter(|rejection| rejection.subject.is_some()).collect();
        self.announced.retain(|known| current.contains(known));
        let new: Vec<&Rejection> =
            current.into_iter().filter(|rejection| !self.announced.contains(*rejection)).collect();
        if new.is_empty() {
            return None;
        }
        match self.leads().await {
            Ok(true) => {}
            // Whoever leads writes them.
            Ok(false) => return None,
            Err(error) => {
                tracing::warn!(%error, "no events are written: the lease cannot be had");
                return Some(AFTER_REFUSAL);
            }
        }
        for rejection in new.iter().take(ROUND) {
            let Some((event, reference)) = event(rejection) else { continue };
            if let Err(error) = recorder.publish(&event, &reference).await {
                self.metrics.on_event(false);
                if !is_about_this_one(&error) {
                    tracing::warn!(%error, "events are not written for now");
                    return Some(AFTER_REFUSAL);
                }
                tracing::warn!(%error, %rejection, "it gets no event");
            } else {
                self.metrics.on_event(true);
            }
            self.announced.insert((*rejection).clone());
        }
        (new.len() > ROUND).then_some(BETWEEN_ROUNDS)
    }

    /// Whether this replica is the one that writes.
    async fn leads(&mut self) -> kube_lease_manager::Result<bool> {
        if self.lease.as_ref().is_some_and(|lease| lease.task.is_finished()) {
            self.lease = None;
        }
        if self.lease.is_none() {
            let manager = LeaseManagerBuilder::new(self.client.clone(), LEASE)
                .with_namespace(self.namespace.clone())
                .with_identity(self.identity.clone())
                .with_duration(LEASE_SECS)
                .with_grace(LEASE_GRACE_SECS)
                .build()
                .await?;
            let (leads, task) = manager.watch().await;
            self.lease = Some(Leadership { leads, task });
        }
        Ok(self.lease.as_ref().is_some_and(|lease| *lease.leads.borrow()))
    }
}

/// Whether the server refuses one event and may take the next: its namespace ends, or its name
/// became too long.
fn is_about_this_one(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status)
        if (400..500).contains(&status.code) && ![401, 403, 429].contains(&status.code)
            || (status.code == 403 && status.message.contains("being terminated")))
}

/// The event of a rejection and the object it is about.
fn event(rejection: &Rejection) -> Option<(Event, ObjectReference)> {
    let subject = rejection.subject.as_ref()?;
    let (group, version) = subject.id.kind.group_version();
    let api_version = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    let reference = ObjectReference {
        api_version: Some(api_version),
        kind: Some(subject.id.kind.as_str().to_owned()),
        name: Some(subject.id.name.clone()),
        namespace: Some(subject.id.namespace.clone()).filter(|n| !n.is_empty()),
        uid: subject.uid.clone(),
        ..ObjectReference::default()
    };
    let (reason, effect) = match rejection.severity {
        Severity::Rejected => ("Rejected", "the last good version stays in force"),
        Severity::Warning => ("SettingNotInForce", "the setting falls back to its default"),
        Severity::Held => ("HeldBack", "what was in force stays"),
        Severity::Refused => ("RefusedByClient", "the client goes on with what it had"),
    };
    let field = rejection.field.as_deref().map(|f| format!("{f}: ")).unwrap_or_default();
    let mut note = format!("{field}{}; {effect}", rejection.reason);
    note.truncate(note.floor_char_boundary(MAX_NOTE));
    let event = Event {
        type_: EventType::Warning,
        reason: reason.to_owned(),
        note: Some(note.clone()),
        // kube counts an event up when one of the same action, reason and object was written
        // lately, whatever their notes: each note is an action of its own.
        action: format!("Read-{:016x}", xxh3_64(note.as_bytes())),
        secondary: None,
    };
    Some((event, reference))
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => std::future::pending().await,
    }
}
