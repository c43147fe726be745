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
use portolan_runtime::Lifecycle;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64;

use super::lease::Lease;
use crate::rejection::{Rejection, Severity};
use crate::report::{ControlMetrics, Report};

/// Name of the Lease.
const LEASE: &str = "portolan-control";
/// Who says it.
const CONTROLLER: &str = "portolan.dev/control";
/// Longest note an event may have, in bytes (Kubernetes API).
const MAX_NOTE: usize = 1024;
/// Events of one round; what is left over is written in the next.
const ROUND: usize = 50;
/// Time between two rounds while there is more to write.
const BETWEEN_ROUNDS: Duration = Duration::from_secs(10);
/// Time before another try after the server refused one.
const AFTER_REFUSAL: Duration = Duration::from_secs(300);

/// Writes Events.
pub struct Announcer {
    client: Client,
    reports: watch::Receiver<Arc<Report>>,
    metrics: ControlMetrics,
    /// Rejections that have their event, of those in force.
    announced: BTreeSet<Rejection>,
    lease: Lease,
}

impl std::fmt::Debug for Announcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Announcer")
            .field("identity", &self.lease.identity())
            .finish_non_exhaustive()
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
        let announced = BTreeSet::new();
        let lease = Lease::new(client.clone(), LEASE, identity);
        Self { client, reports, metrics, announced, lease }
    }

    /// Writes until draining, then gives the Lease back.
    pub async fn run(mut self, lifecycle: Lifecycle) {
        let instance = Some(self.lease.identity().to_owned());
        let reporter = Reporter { controller: CONTROLLER.into(), instance };
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
        self.lease.give_back().await;
    }

    /// Completes with another report or a change of who leads; `false` when there will be none.
    async fn news(&mut self, reports_too: bool) -> bool {
        tokio::select! {
            changed = self.reports.changed(), if reports_too => changed.is_ok(),
            () = self.lease.changed() => true,
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
        match self.lease.leads().await {
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
        Severity::RolledBack => ("RolledBack", "it has no weight until the rule is changed"),
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
