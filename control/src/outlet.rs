//! The way out of the control loop: snapshots are published here, in order, and measured.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use portolan_model::{Generation, Key, Snapshot};
use portolan_runtime::{Gate, Publisher};

use crate::order;
use crate::report::ControlMetrics;

/// Publishes snapshots.
#[derive(Debug)]
pub(crate) struct Outlet {
    publisher: Publisher,
    gate: Gate,
    metrics: ControlMetrics,
    published: Snapshot,
}

impl Outlet {
    /// Nothing is published yet.
    pub(crate) fn new(publisher: Publisher, gate: Gate, metrics: ControlMetrics) -> Self {
        Self { publisher, gate, metrics, published: Snapshot::default() }
    }

    /// Whether anything has been published.
    pub(crate) fn is_open(&self) -> bool {
        self.gate.generation().is_some()
    }

    /// What was published last.
    pub(crate) fn published(&self) -> &Snapshot {
        &self.published
    }

    /// Publishes a snapshot that differs from the last one in `touched`, in one step or in two
    /// (see [`order`]); `waited` is how long the oldest change in it did.
    pub(crate) fn publish(&mut self, next: &Snapshot, touched: BTreeSet<Key>, waited: Duration) {
        let started = Instant::now();
        let changed = touched.len();
        let split =
            if self.is_open() { order::split(&self.published, next, &touched) } else { None };
        let generation = match split {
            Some(split) => {
                self.step(&split.first, split.leaving);
                self.step(next, split.joining)
            }
            None => self.step(next, touched),
        };
        self.published = next.at(generation);
        let took = started.elapsed();
        self.metrics.on_published(waited, took);
        tracing::debug!(%generation, changed, ?waited, ?took, "published");
    }

    fn step(&self, snapshot: &Snapshot, touched: BTreeSet<Key>) -> Generation {
        let generation = self.publisher.publish(snapshot, touched);
        self.gate.applied(generation);
        generation
    }
}
