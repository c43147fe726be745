//! The one writer: what the watches tell goes into the index, and out of it at the pace of the coalescer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_model::Snapshot;
use portolan_runtime::Staleness;
use tokio::sync::mpsc;

use super::store::{Event, Store};
use super::trouble::Trouble;
use super::watch::Message;
use crate::coalesce::Coalescer;
use crate::gateway::status::Status;
use crate::index::Index;
use crate::loads::LoadsEnd;
use crate::object::Kind;
use crate::outlet::Outlet;
use crate::rejection::Origin;
use crate::report::{ControlMetrics, Report, Reports, SourceState};

/// Events taken in before the loop looks whether a publish is due.
const BATCH: usize = 512;

/// The loop.
pub(super) struct Loop {
    pub(super) store: Store,
    pub(super) index: Index,
    pub(super) coalescer: Coalescer,
    pub(super) outlet: Outlet,
    pub(super) origin: Origin,
    pub(super) sources: BTreeMap<Kind, SourceState>,
    pub(super) reports: Reports,
    pub(super) metrics: ControlMetrics,
    /// Something of the report has changed since it was last put in place.
    pub(super) unreported: bool,
    /// A snapshot of all kinds has been published.
    pub(super) complete: bool,
    /// What was published is a copy of an earlier life, until the first own snapshot.
    pub(super) staleness: Option<Staleness>,
    pub(super) loads: LoadsEnd,
    /// Statuses last reported.
    pub(super) told: Arc<Vec<Status>>,
}

impl Loop {
    pub(super) async fn run(&mut self, mut messages: mpsc::Receiver<Message>) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let due = self.coalescer.due().map(tokio::time::Instant::from_std);
            tokio::select! {
                // What is due is published however much more comes in.
                biased;
                () = sleep_until(due) => self.publish(),
                () = self.outlet.wake() => self.publish(),
                told = self.loads.next() => {
                    self.index.on_loads(told, now());
                    self.note();
                }
                count = messages.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    for message in batch.drain(..) {
                        self.on_message(message);
                    }
                    self.note();
                }
            }
        }
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Event(kind, event) => {
                self.on_event(kind, &event);
                self.store.on_event(kind, event, &mut self.index);
            }
            Message::Trouble(kind, trouble) => self.on_trouble(kind, trouble),
            Message::Recovered(kind) => {
                self.sources.entry(kind).or_default().trouble = None;
                self.unreported = true;
            }
        }
    }

    fn on_event(&mut self, kind: Kind, event: &Event) {
        let state = self.sources.entry(kind).or_default();
        match event {
            Event::ListBegins | Event::Listed(_) => {}
            Event::Unserved => {
                state.served = false;
                state.trouble = None;
                self.unreported = true;
            }
            Event::ListEnds => {
                *state = SourceState { served: true, synced: true, trouble: None };
                self.unreported = true;
                tracing::info!(kind = kind.as_str(), "listed");
            }
            Event::Applied(_) | Event::Deleted(_) => {
                self.unreported = true;
                state.trouble = None;
            }
        }
    }

    fn on_trouble(&mut self, kind: Kind, trouble: Trouble) {
        self.metrics.on_watch_error(kind);
        let state = self.sources.entry(kind).or_default();
        // The same trouble again is no news.
        if state.trouble.as_ref() != Some(&trouble.text) {
            tracing::warn!(text = %trouble.text, "the Kubernetes API is not watched as it should be");
            state.trouble = Some(trouble.text);
            self.unreported = true;
        }
    }

    /// Brings the report and the coalescer up to date after a batch.
    fn note(&mut self) {
        if !self.store.is_synced() {
            self.report();
            return;
        }
        if self.index.is_touched() || !self.complete {
            self.coalescer.on_change(now());
        } else {
            self.report();
        }
    }

    pub(super) fn restore(&mut self, saved: &Snapshot) {
        if let Some(staleness) = &self.staleness {
            staleness.set(true);
        }
        let touched = Snapshot::default().differences(saved);
        let admitted = self.outlet.admit(saved, touched);
        self.outlet.publish(admitted, Duration::ZERO);
        let services = saved.service_count();
        tracing::warn!(
            services,
            "published a saved snapshot; the Kubernetes API is yet to be heard"
        );
    }

    fn publish(&mut self) {
        let (started, wall) = (now(), Instant::now());
        let (snapshot, mut touched) = self.index.commit();
        let first = !std::mem::replace(&mut self.complete, true);
        if first {
            // What a saved snapshot has and the API server has not is to go.
            touched = self.outlet.published().differences(&snapshot);
        }
        let services = snapshot.service_count();
        let admitted = self.outlet.admit(&snapshot, touched);
        // What became of Gateways and routes may be another thing without any of them having changed.
        let statuses = self.index.statuses();
        self.unreported |= admitted.has_news || !Arc::ptr_eq(&statuses, &self.told);
        self.told = statuses;
        let waited = self.coalescer.waited(started);
        if first {
            self.outlet.publish(admitted, waited);
        } else {
            self.outlet.publish_changes(admitted, waited);
        }
        self.coalescer.on_published(started, wall.elapsed());
        if first {
            if let Some(staleness) = self.staleness.take() {
                staleness.set(false);
            }
            let generation = self.outlet.published().generation();
            tracing::info!(%generation, services, "published all that the Kubernetes API has");
        }
        self.report();
    }

    fn report(&mut self) {
        if !std::mem::take(&mut self.unreported) {
            return;
        }
        for kind in self.store.watched() {
            self.metrics.set_synced(*kind, self.store.has_synced(*kind));
        }
        let mut rejections = self.store.rejections(&self.origin);
        rejections.extend(self.outlet.rejections(&self.origin));
        rejections.extend(self.index.rolled_back(&self.origin));
        let report = Report {
            objects: self.store.counts(),
            unused: BTreeMap::new(),
            rejections,
            statuses: self.index.statuses(),
            sources: self.sources.clone(),
        };
        self.reports.replace(report, &self.metrics);
    }
}

/// The runtime's clock, which tests can turn.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
