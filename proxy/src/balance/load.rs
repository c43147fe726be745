//! What one worker knows of an endpoint's load: requests in flight, how long answers take, what the
//! endpoint itself reports, since when it is there.
//!
//! Lives as long as the endpoint does on the worker, whatever becomes of clusters and plans; all of
//! it in cells. Time is the caller's.

use std::cell::Cell;
use std::time::Duration;

use portolan_model::traffic::SlowStart;
use tokio::time::Instant;

use super::orca::{OrcaReport, OrcaWeight};

/// Time constant by which an observed latency is forgotten, in seconds (as in Finagle and linkerd).
const DECAY_SECS: f64 = 10.0;
/// Latency below which endpoints do not differ, in nanoseconds.
const FLOOR: f64 = 1_000.0;
/// A request in flight at an endpoint that never answered counts this many times over, so that it
/// is tried by few requests at once.
const UNKNOWN_PENALTY: f64 = 4.0;
/// A failure counts as an answer that took this many times what answers take …
const FAILURE_FACTOR: f64 = 10.0;
/// … at least this long and at most that long, in nanoseconds.
const FAILURE: (f64, f64) = (1e7, 5e9);

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The endpoint answered.
    Answered,
    /// No connection, no answer, or one that stands for a failure: a high latency is taken.
    Failed,
    /// The client left before there was an answer: it would have taken at least so long.
    Abandoned,
}

#[derive(Debug)]
pub(crate) struct Load {
    /// Peak-sensitive moving average of latencies in nanoseconds; 0 while there is none.
    rtt: Cell<f64>,
    /// When `rtt` was brought up to date.
    at: Cell<Instant>,
    in_flight: Cell<u32>,
    joined: Cell<Instant>,
    orca: OrcaWeight,
}

impl Load {
    /// Of an endpoint that joined now.
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            rtt: Cell::new(0.0),
            at: Cell::new(now),
            in_flight: Cell::new(0),
            joined: Cell::new(now),
            orca: OrcaWeight::default(),
        }
    }

    /// A request was given to the endpoint.
    pub(crate) fn begin(&self, now: Instant) {
        let in_flight = self.in_flight.get();
        if in_flight == 0 {
            // It was idle until now, and is not from now on: what was forgotten stays forgotten.
            self.rtt.set(self.forgotten(now));
            self.at.set(now);
        }
        self.in_flight.set(in_flight.saturating_add(1));
    }

    /// The request is over, however it ended.
    pub(crate) fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    /// What a request met: `latency` until the head of the answer (or until it failed, or the
    /// client left). More than the average counts at once, less by how old the average is. Call
    /// before [`end`](Self::end).
    pub(crate) fn observe(&self, now: Instant, latency: Duration, outcome: Outcome) {
        let rtt = self.rtt.get();
        let latency = (latency.as_secs_f64() * 1e9).max(FLOOR);
        let sample = match outcome {
            Outcome::Answered => latency,
            Outcome::Failed => (rtt * FAILURE_FACTOR).clamp(FAILURE.0, FAILURE.1).max(latency),
            Outcome::Abandoned => latency.max(rtt),
        };
        let kept = decay(now.saturating_duration_since(self.at.get()));
        let below = rtt * kept + sample * (1.0 - kept);
        self.rtt.set(if sample > rtt { sample } else { below });
        self.at.set(now);
    }

    /// Requests in flight on this worker.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Expected latency now, in nanoseconds; `None` when no request was ever observed.
    pub(crate) fn rtt(&self, now: Instant) -> Option<f64> {
        let rtt = if self.in_flight.get() == 0 { self.forgotten(now) } else { self.rtt.get() };
        (rtt > 0.0).then_some(rtt)
    }

    /// Expected wait of one more request, in nanoseconds: latency times what would be in flight,
    /// where what is there counts `per_weight`. `unknown` is taken for the latency of an endpoint that
    /// has none yet.
    pub(crate) fn cost(&self, now: Instant, unknown: f64, per_weight: f64) -> f64 {
        let in_flight = self.in_flight.get();
        let rtt = self.rtt.get();
        if in_flight == 0 {
            return if rtt == 0.0 { unknown } else { self.forgotten(now) };
        }
        // Not divided as a whole: two idle endpoints are as good as one another whatever they weigh.
        let with_one_more = f64::from(in_flight) * per_weight + 1.0;
        with_one_more * if rtt == 0.0 { unknown * UNKNOWN_PENALTY } else { rtt }
    }

    /// Begins anew as far as slow start is concerned, and with a new black-out for its reports: it
    /// was out of service and is back.
    pub(crate) fn rejoin(&self, now: Instant) {
        self.joined.set(now);
        self.orca.restart();
    }

    /// A load report that came with an answer.
    pub(crate) fn report(&self, report: &OrcaReport, now: Instant) {
        self.orca.report(report, now);
    }

    /// Weight by the endpoint's own reports; `None` while it has none that counts.
    pub(crate) fn orca_weight(&self, now: Instant) -> Option<f64> {
        self.orca.weight(now)
    }

    /// Share of its weight that an endpoint gets: less than 1 while it is new (Envoy's slow start).
    pub(crate) fn warmth(&self, slow_start: &SlowStart, now: Instant) -> f64 {
        let since = now.saturating_duration_since(self.joined.get());
        if since >= slow_start.window {
            return 1.0;
        }
        let since = since.max(Duration::from_secs(1)).as_secs_f64();
        let elapsed = (since / slow_start.window.as_secs_f64()).min(1.0);
        let exponent = 1000.0 / f64::from(slow_start.aggression_milli.get());
        let least = f64::from(slow_start.min_weight_percent.min(100)) / 100.0;
        elapsed.powf(exponent).max(least)
    }

    /// The average as far as an idle endpoint's is still remembered. While requests are in flight
    /// nothing is forgotten: an endpoint that answers no more would come to look the fastest.
    fn forgotten(&self, now: Instant) -> f64 {
        let rtt = self.rtt.get();
        if rtt == 0.0 {
            return 0.0;
        }
        (rtt * decay(now.saturating_duration_since(self.at.get()))).max(FLOOR)
    }
}

/// e^(-elapsed/[`DECAY_SECS`]) to within two hundredths, as (1 - x/64)^64: this is on the way of every
/// pick, where the exact function, or a division, would be most of the cost.
fn decay(elapsed: Duration) -> f64 {
    const PER_NANO: f64 = 1.0 / (64.0 * 1e9 * DECAY_SECS);
    let secs = u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX);
    let nanos = f64::from(secs) * 1e9 + f64::from(elapsed.subsec_nanos());
    let base = (1.0 - nanos * PER_NANO).max(0.0);
    let by_2 = base * base;
    let by_4 = by_2 * by_2;
    let by_8 = by_4 * by_4;
    let by_16 = by_8 * by_8;
    let by_32 = by_16 * by_16;
    by_32 * by_32
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const DECAY: Duration = Duration::from_secs(10);

    fn millis(load: &Load, now: Instant) -> f64 {
        load.rtt(now).map_or(0.0, |rtt| rtt / 1e6)
    }

    #[test]
    fn the_decay_is_close_to_the_exponential() {
        for tenths in 0..200_u32 {
            let exact = (-f64::from(tenths) / 100.0).exp();
            let near = decay(Duration::from_millis(100) * tenths);
            assert!((exact - near).abs() < 0.02, "{tenths}: {exact} {near}");
        }
        assert_eq!(decay(Duration::from_secs(100_000)), 0.0);
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let start = Instant::now();
        let load = Load::new(start);
        assert_eq!(load.rtt(start), None);
        load.begin(start);
        load.observe(start, 10 * MS, Outcome::Answered);
        assert!((millis(&load, start) - 10.0).abs() < 0.01);
        load.observe(start, 200 * MS, Outcome::Answered);
        assert!((millis(&load, start) - 200.0).abs() < 0.01);
        let later = start + DECAY;
        load.observe(later, 10 * MS, Outcome::Answered);
        let now = millis(&load, later);
        assert!((75.0..85.0).contains(&now), "10 + 190/e: {now}");
    }

    #[test]
    fn an_idle_endpoint_is_forgotten_and_a_silent_one_is_not() {
        let start = Instant::now();
        let (idle, silent) = (Load::new(start), Load::new(start));
        for load in [&idle, &silent] {
            load.begin(start);
            load.observe(start, 100 * MS, Outcome::Answered);
        }
        idle.end();
        let later = start + 3 * DECAY;
        assert!(millis(&idle, later) < 6.0);
        assert!((millis(&silent, later) - 100.0).abs() < 0.1);
        assert!(silent.cost(later, 1.0, 1.0) > 30.0 * idle.cost(later, 1.0, 1.0));
        // What was forgotten while idle does not come back with the next request.
        idle.begin(later);
        assert!(millis(&idle, later) < 6.0);
    }

    #[test]
    fn failures_count_as_slow_answers_and_grow_to_a_bound() {
        let start = Instant::now();
        let load = Load::new(start);
        let mut seen = Vec::new();
        for _ in 0..5 {
            load.begin(start);
            load.observe(start, MS, Outcome::Failed);
            load.end();
            seen.push(millis(&load, start).round());
        }
        assert_eq!(seen, [10.0, 100.0, 1000.0, 5000.0, 5000.0]);
    }

    #[test]
    fn a_client_that_leaves_early_makes_nobody_look_fast() {
        let start = Instant::now();
        let load = Load::new(start);
        load.observe(start, 50 * MS, Outcome::Answered);
        load.observe(start + 5 * DECAY, MS, Outcome::Abandoned);
        assert!((load.rtt.get() / 1e6 - 50.0).abs() < 0.01);
        load.observe(start + 5 * DECAY, 80 * MS, Outcome::Abandoned);
        assert!((load.rtt.get() / 1e6 - 80.0).abs() < 0.01);
    }

    #[test]
    fn slow_start_follows_envoys_formula() {
        let start = Instant::now();
        let load = Load::new(start);
        let slow = |aggression, min_weight_percent| SlowStart {
            window: Duration::from_secs(100),
            aggression_milli: NonZeroU32::new(aggression).expect("not 0"),
            min_weight_percent,
        };
        #[rustfmt::skip]
        let cases = [
            (0, slow(1000, 10), 0.10), (5, slow(1000, 10), 0.10), (50, slow(1000, 10), 0.50),
            (99, slow(1000, 10), 0.99), (100, slow(1000, 10), 1.0), (1000, slow(1000, 10), 1.0),
            (25, slow(2000, 0), 0.50), (50, slow(500, 0), 0.25), (0, slow(1000, 0), 0.01),
        ];
        for (secs, slow, expected) in cases {
            let warmth = load.warmth(&slow, start + Duration::from_secs(secs));
            assert!((warmth - expected).abs() < 1e-9, "{secs} s {slow:?}: {warmth}");
        }
    }
}
