//! The way out of the control loop: snapshots pass the guard and are published here, in order, and
//! measured.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use portolan_model::{Generation, Key, ServiceKey, Snapshot};
use portolan_runtime::{Gate, Publisher};

use crate::holds::{self, Answer, Command, HoldsEnd, ReleaseError, Released, Which};
use crate::order;
use crate::rejection::{Origin, Rejection};
use crate::removal::{End, Guard, GuardLimits, Passed, Reason};
use crate::report::ControlMetrics;

/// Publishes snapshots.
#[derive(Debug)]
pub(crate) struct Outlet {
    publisher: Publisher,
    gate: Gate,
    metrics: ControlMetrics,
    published: Snapshot,
    guard: Guard,
    holds: HoldsEnd,
    /// Commands to be answered with the next publish, and what they released.
    waiting: Vec<(Answer, Vec<ServiceKey>)>,
}

/// What an outlet needs to hold something back.
#[derive(Debug)]
pub(crate) struct GuardParts {
    pub(crate) limits: GuardLimits,
    pub(crate) holds: HoldsEnd,
}

/// A snapshot that has passed the guard.
#[derive(Debug)]
pub(crate) struct Admitted {
    content: Snapshot,
    changed: BTreeSet<Key>,
    /// Whether what is held is another than before.
    pub(crate) has_news: bool,
}

impl Default for GuardParts {
    /// The usual limits, with nobody to give commands.
    fn default() -> Self {
        Self { limits: GuardLimits::default(), holds: holds::channel().1 }
    }
}

impl Outlet {
    /// Nothing is published yet.
    pub(crate) fn new(
        publisher: Publisher,
        gate: Gate,
        metrics: ControlMetrics,
        guard: GuardParts,
    ) -> Self {
        let GuardParts { limits, holds } = guard;
        let (published, guard) = (Snapshot::default(), Guard::new(limits));
        Self { publisher, gate, metrics, published, guard, holds, waiting: Vec::new() }
    }

    /// Whether anything has been published.
    pub(crate) fn is_open(&self) -> bool {
        self.gate.generation().is_some()
    }

    /// What was published last.
    pub(crate) fn published(&self) -> &Snapshot {
        &self.published
    }

    /// What may be published of a snapshot that differs from the one given last in `touched`.
    pub(crate) fn admit(&mut self, next: &Snapshot, touched: BTreeSet<Key>) -> Admitted {
        let passed = self.guard.pass(&self.published, next, touched, holds::now());
        let Passed { content, changed, begun, ended, altered } = passed;
        let has_news = altered || !begun.is_empty() || !ended.is_empty();
        if has_news {
            self.tell(&begun, &ended);
            self.holds.set(&self.guard);
            self.metrics.set_holds(&self.guard);
        }
        Admitted { content, changed, has_news }
    }

    /// What is held, for a report.
    pub(crate) fn rejections(&self, origin: &Origin) -> Vec<Rejection> {
        holds::rejections(&self.guard, origin)
    }

    /// Publishes in one step or in two (see [`order`]); `waited` is how long the oldest change in
    /// it did.
    pub(crate) fn publish(&mut self, admitted: Admitted, waited: Duration) -> Generation {
        let started = Instant::now();
        let Admitted { content, changed: touched, .. } = admitted;
        let changed = touched.len();
        let split =
            if self.is_open() { order::split(&self.published, &content, &touched) } else { None };
        let generation = match split {
            Some(split) => {
                self.step(&split.first, split.leaving);
                self.step(&content, split.joining)
            }
            None => self.step(&content, touched),
        };
        self.published = content.at(generation);
        self.answer();
        let took = started.elapsed();
        self.metrics.on_published(waited, took);
        tracing::debug!(%generation, changed, ?waited, ?took, "published");
        generation
    }

    /// As [`Self::publish`], if anything is to be published.
    pub(crate) fn publish_changes(
        &mut self,
        admitted: Admitted,
        waited: Duration,
    ) -> Option<Generation> {
        if admitted.changed.is_empty() && self.is_open() {
            self.answer();
            return None;
        }
        Some(self.publish(admitted, waited))
    }

    /// Returns once something that is held is to be let go, by [`Self::admit`].
    pub(crate) async fn wake(&mut self) {
        loop {
            let due = self.guard.due().map(tokio::time::Instant::from_std);
            let over = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => return,
                command = self.holds.next() => if self.take(command) { return },
            }
        }
    }

    /// Takes a command; whether it lets anything go.
    fn take(&mut self, command: Command) -> bool {
        let Command { which, answer } = command;
        let (keys, refusal) = match which {
            Which::All => (self.guard.held().keys().cloned().collect(), ReleaseError::Nothing),
            Which::One(key) => (vec![key.clone()], ReleaseError::NotHeld(key)),
        };
        let released: Vec<ServiceKey> =
            keys.into_iter().filter(|key| self.guard.release(key)).collect();
        if released.is_empty() {
            // Whoever asked may have given up.
            let _gone = answer.send(Err(refusal));
            return false;
        }
        self.waiting.push((answer, released));
        true
    }

    fn answer(&mut self) {
        let generation = self.published.generation();
        for (answer, released) in self.waiting.drain(..) {
            let released = released.iter().map(ToString::to_string).collect();
            // Whoever asked may have given up.
            let _gone = answer.send(Ok(Released { released, generation }));
        }
    }

    /// Says what is held from now on and what no longer is, each service once.
    fn tell(&self, begun: &[ServiceKey], ended: &[(ServiceKey, End)]) {
        let mut of_source = 0;
        for (key, hold) in begun.iter().filter_map(|key| Some((key, self.guard.held().get(key)?))) {
            self.metrics.on_held(hold.reason);
            match hold.reason {
                Reason::Source => of_source += 1,
                Reason::Endpoints => tracing::error!(
                    service = %key,
                    endpoints = hold.endpoints,
                    "all endpoints gone at once: held back"
                ),
            }
        }
        if let Some(source) = self.guard.source().filter(|_| of_source > 0) {
            let (lost, of, services) = (source.lost, source.of, of_source);
            tracing::error!(services, lost, of, "the source lost most at once: held back");
        }
        let mut ends: BTreeMap<End, Vec<&ServiceKey>> = BTreeMap::new();
        for (key, end) in ended {
            ends.entry(*end).or_default().push(key);
        }
        for (end, keys) in ends {
            let (services, first) = (keys.len(), keys.first().map(ToString::to_string));
            let (why, left) = (end.as_str(), self.guard.held().len());
            tracing::warn!(services, first, why, left, "no longer held back");
        }
    }

    fn step(&self, snapshot: &Snapshot, touched: BTreeSet<Key>) -> Generation {
        let generation = self.publisher.publish(snapshot, touched);
        self.gate.applied(generation);
        generation
    }
}
