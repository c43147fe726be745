//! Adaptive concurrency: requests in flight to a cluster, held to what latency allows.
//!
//! Owns what all workers share of it: the count, the limit, and a histogram of round trips for each
//! worker. Whoever ends a request after an interval is over adjusts the limit, so there is no task
//! and no timer. The arithmetic is `controller`'s. Refuses to queue.

mod controller;
mod histogram;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portolan_model::traffic::AdaptiveConcurrency;
use serde::Serialize;
use tokio::time::Instant;

use crate::health::jitter;
use controller::{Controller, Decision};
use histogram::Histogram;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gradient {
    begun: Instant,
    limit: AtomicU32,
    in_flight: AtomicU32,
    /// When the present window ends, in nanoseconds since `begun`.
    window_ends: AtomicU64,
    /// Requests that began before this say nothing, in nanoseconds since `begun`.
    epoch: AtomicU64,
    blocked: AtomicU64,
    histograms: Box<[Histogram]>,
    controller: Mutex<Controller>,
}

/// A request in flight. Its round trip counts when it is [recorded](Sampled::record); one that is
/// dropped (the client went away, the endpoint failed at once) says nothing.
#[derive(Debug)]
pub(crate) struct Sampled {
    gradient: Arc<Gradient>,
    worker: usize,
    begun: Instant,
}

/// Adaptive concurrency of a cluster, for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GradientView {
    /// Requests that may be in flight.
    pub(crate) limit: u32,
    /// Requests in flight.
    pub(crate) in_flight: u32,
    /// Requests that were turned away.
    pub(crate) blocked: u64,
    /// The round trip without a queue, in microseconds; 0 before it is known.
    pub(crate) min_rtt_us: u64,
    /// The median round trip of the last window, in microseconds.
    pub(crate) sample_rtt_us: u64,
    /// Whether the former is being measured, at the least concurrency.
    pub(crate) measuring: bool,
}

impl Gradient {
    /// Begins by measuring the round trip without a queue.
    pub(super) fn new(config: AdaptiveConcurrency, workers: usize) -> Self {
        let controller = Controller::new(config);
        Self {
            begun: Instant::now(),
            limit: AtomicU32::new(controller.limit()),
            in_flight: AtomicU32::new(0),
            window_ends: AtomicU64::new(nanos(controller.window())),
            epoch: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            histograms: (0..workers).map(|_| Histogram::default()).collect(),
            controller: Mutex::new(controller),
        }
    }

    /// Leave to begin a request, `None` at the limit. `worker` is the number of the calling worker.
    pub(crate) fn try_begin(self: &Arc<Self>, worker: usize) -> Option<Sampled> {
        let limit = self.limit.load(Ordering::Relaxed);
        let begun = self.in_flight.load(Ordering::Relaxed) < limit
            && (self.in_flight.fetch_add(1, Ordering::Relaxed) < limit || {
                self.in_flight.fetch_sub(1, Ordering::Relaxed);
                false
            });
        if !begun {
            self.blocked.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Sampled { gradient: Arc::clone(self), worker, begun: Instant::now() })
    }

    /// Adjusts the limit when a window is over. One caller does it, the others go on.
    fn adjust(&self, now: Duration) {
        let due = nanos(now) >= self.window_ends.load(Ordering::Relaxed);
        let Some(mut controller) = due.then(|| self.controller.try_lock().ok()).flatten() else {
            return;
        };
        let count = self.histograms.iter().map(Histogram::count).sum();
        let decision = controller.on_window(
            now,
            count,
            || Histogram::median(&self.histograms),
            jitter::up_to(Duration::from_secs(1)),
        );
        if decision == Decision::Restart {
            self.epoch.store(nanos(now), Ordering::Relaxed);
        }
        if decision != Decision::Wait {
            self.histograms.iter().for_each(Histogram::clear);
        }
        self.limit.store(controller.limit(), Ordering::Relaxed);
        self.window_ends.store(nanos(now + controller.window()), Ordering::Relaxed);
    }

    /// The state, for people and metrics.
    pub(crate) fn view(&self) -> GradientView {
        let controller = self.controller.lock().unwrap_or_else(PoisonError::into_inner);
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        GradientView {
            limit: self.limit.load(Ordering::Relaxed),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            blocked: self.blocked.load(Ordering::Relaxed),
            min_rtt_us: micros(controller.min_rtt()),
            sample_rtt_us: micros(controller.sample_rtt()),
            measuring: controller.is_measuring(),
        }
    }
}

impl Sampled {
    /// The request was answered: its round trip counts.
    pub(crate) fn record(self) {
        let now = Instant::now();
        let gradient = &self.gradient;
        let began = nanos(self.begun.saturating_duration_since(gradient.begun));
        if began >= gradient.epoch.load(Ordering::Relaxed)
            && let Some(histogram) = gradient.histograms.get(self.worker)
        {
            histogram.record(now.saturating_duration_since(self.begun));
        }
        gradient.adjust(now.saturating_duration_since(gradient.begun));
    }
}

impl Drop for Sampled {
    fn drop(&mut self) {
        self.gradient.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
