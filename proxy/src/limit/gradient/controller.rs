//! The arithmetic of adaptive concurrency: Envoy's gradient controller. Pure.
//!
//! From time to time the limit is lowered to the least and the round trip measured: that is how
//! long a request takes without a queue. At the end of each window the limit is multiplied by how
//! the present round trip compares to that, plus room for a burst that is the root of it.

use std::time::Duration;

use portolan_model::traffic::AdaptiveConcurrency;

/// Round trips that make a measurement of the lowest one.
const MEASURED: u32 = 50;
/// Windows after which a measurement ends with what it has.
const MAX_MEASURING: u32 = 50;
/// Windows in a row at the least limit after which the lowest round trip is doubted.
const DOUBTED: u32 = 5;
/// Bounds of one step.
const STEP: (f64, f64) = (0.5, 2.0);
/// Up to this share of the time between two measurements is added at random, in percent.
const JITTER_PERCENT: u32 = 15;

/// What becomes of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// They are kept: too few yet.
    Wait,
    /// They have been used.
    Used,
    /// They have been used, and so are requests that began before now.
    Restart,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Controller {
    config: AdaptiveConcurrency,
    limit: u32,
    min_rtt: Duration,
    sample_rtt: Duration,
    phase: Phase,
    /// Windows in a row that ended at the least limit.
    at_least: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The lowest round trip is measured; `back`: the limit from before.
    Measuring { back: u32, windows: u32 },
    /// The limit is adjusted until then.
    Adjusting { until: Duration },
}

impl Controller {
    pub(super) fn new(config: AdaptiveConcurrency) -> Self {
        let mut controller = Self {
            config,
            limit: 0,
            min_rtt: Duration::ZERO,
            sample_rtt: Duration::ZERO,
            phase: Phase::Measuring { back: 0, windows: 0 },
            at_least: 0,
        };
        controller.limit = controller.least();
        controller.phase = Phase::Measuring { back: controller.limit, windows: 0 };
        controller
    }

    pub(super) fn limit(&self) -> u32 {
        self.limit
    }

    pub(super) fn min_rtt(&self) -> Duration {
        self.min_rtt
    }

    pub(super) fn sample_rtt(&self) -> Duration {
        self.sample_rtt
    }

    pub(super) fn is_measuring(&self) -> bool {
        matches!(self.phase, Phase::Measuring { .. })
    }

    /// Time between two looks.
    pub(super) fn window(&self) -> Duration {
        self.config.interval.max(Duration::from_millis(1))
    }

    /// A window is over at `now` with `count` samples. `jitter`: up to a second, at random.
    pub(super) fn on_window(
        &mut self,
        now: Duration,
        count: u32,
        median: impl FnOnce() -> Option<Duration>,
        jitter: Duration,
    ) -> Decision {
        match self.phase {
            Phase::Measuring { back, windows } => {
                let enough = count >= MEASURED || windows >= MAX_MEASURING;
                let Some(rtt) = enough.then(median).flatten() else {
                    self.phase = Phase::Measuring { back, windows: windows.saturating_add(1) };
                    return Decision::Wait;
                };
                self.min_rtt = rtt;
                self.limit = back;
                self.at_least = 0;
                self.phase = Phase::Adjusting { until: now.saturating_add(self.pause(jitter)) };
                // What began before ran at another limit.
                Decision::Restart
            }
            Phase::Adjusting { until } => {
                let Some(rtt) = median() else { return Decision::Wait };
                self.sample_rtt = rtt;
                self.limit = self.adjusted();
                let stuck = self.limit == self.least();
                self.at_least = if stuck { self.at_least + 1 } else { 0 };
                if now < until && self.at_least < DOUBTED {
                    return Decision::Used;
                }
                self.phase = Phase::Measuring { back: self.limit, windows: 0 };
                self.limit = self.least();
                Decision::Restart
            }
        }
    }

    fn adjusted(&self) -> u32 {
        let tolerance = 1.0 + f64::from(self.config.tolerance_percent) / 100.0;
        let gradient = self.min_rtt.as_secs_f64() * tolerance / self.sample_rtt.as_secs_f64();
        // Not a number when both are zero: as it was.
        let gradient = if gradient.is_nan() { 1.0 } else { gradient.clamp(STEP.0, STEP.1) };
        let kept = f64::from(self.limit) * gradient;
        let wanted = kept + kept.sqrt();
        let most = f64::from(self.config.max.max(self.least()));
        floor(wanted.clamp(f64::from(self.least()), most))
    }

    fn least(&self) -> u32 {
        self.config.min.max(1)
    }

    /// Time to the next measurement.
    fn pause(&self, jitter: Duration) -> Duration {
        let share = jitter.as_secs_f64().clamp(0.0, 1.0) * f64::from(JITTER_PERCENT) / 100.0;
        let permille = floor(share * 1000.0);
        let interval = self.config.min_rtt_interval;
        interval.saturating_add((interval / 1000).saturating_mul(permille))
    }
}

/// The whole part of a number that is not negative.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast of a float saturates, and there is no other way from one to an integer"
)]
fn floor(value: f64) -> u32 {
    value as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn config() -> AdaptiveConcurrency {
        AdaptiveConcurrency {
            min: 3,
            max: 200,
            interval: 100 * MS,
            min_rtt_interval: Duration::from_secs(10),
            tolerance_percent: 25,
        }
    }

    /// A controller that has measured `min_rtt` and holds `limit`.
    fn at(limit: u32, min_rtt: Duration) -> Controller {
        let mut controller = Controller::new(config());
        let decision = controller.on_window(Duration::ZERO, 50, || Some(min_rtt), Duration::ZERO);
        assert_eq!(decision, Decision::Restart);
        controller.limit = limit;
        controller
    }

    #[test]
    fn the_limit_follows_the_gradient() {
        #[rustfmt::skip]
        let cases = [
            // 100 * 1.25 + sqrt(125)
            ("no queue: up", 100, 10, 10, 136),
            ("as slow as is tolerated: room for a burst", 100, 10, 12_500, 110),
            ("a queue: down", 100, 10, 25, 57),
            ("no step is more than half", 100, 10, 1000, 57),
            ("nor more than double", 10, 100, 1, 24),
            ("never over the most", 190, 10, 10, 200),
            ("never below the least", 3, 10, 1000, 3),
        ];
        for (about, limit, min_rtt, rtt, expected) in cases {
            let mut controller = at(limit, min_rtt * MS);
            let rtt = if rtt >= 10_000 {
                Duration::from_micros(rtt)
            } else {
                MS * u32::try_from(rtt).expect("small")
            };
            let decision = controller.on_window(100 * MS, 9, || Some(rtt), Duration::ZERO);
            assert_eq!((decision, controller.limit()), (Decision::Used, expected), "{about}");
        }
    }

    #[test]
    fn the_lowest_round_trip_is_measured_at_the_least_limit() {
        let mut controller = Controller::new(config());
        assert!(controller.is_measuring() && controller.limit() == 3);
        let few = controller.on_window(100 * MS, 49, || Some(MS), Duration::ZERO);
        assert_eq!((few, controller.is_measuring()), (Decision::Wait, true));
        let enough = controller.on_window(200 * MS, 50, || Some(MS), Duration::ZERO);
        assert_eq!((enough, controller.is_measuring()), (Decision::Restart, false));
        assert_eq!(controller.min_rtt(), MS);
        let idle = controller.on_window(300 * MS, 0, || None, Duration::ZERO);
        assert_eq!((idle, controller.limit()), (Decision::Wait, 3), "no samples, no change");
        controller.limit = 50;
        let due = controller.on_window(Duration::from_secs(11), 9, || Some(MS), Duration::ZERO);
        assert_eq!((due, controller.limit()), (Decision::Restart, 3));
        let mut now = Duration::from_secs(11);
        for _ in 0..MAX_MEASURING {
            now += 100 * MS;
            let wait = controller.on_window(now, 1, || Some(2 * MS), Duration::ZERO);
            assert_eq!(wait, Decision::Wait);
        }
        let last = controller.on_window(now + MS, 1, || Some(2 * MS), Duration::ZERO);
        assert_eq!(
            (last, controller.min_rtt()),
            (Decision::Restart, 2 * MS),
            "it does not take for ever"
        );
        assert_eq!(controller.limit(), 70, "back to what it was: 50 * 1.25 + sqrt");
    }

    #[test]
    fn a_limit_that_stays_at_the_least_makes_the_lowest_round_trip_doubtful() {
        let mut controller = at(3, MS);
        for n in 1..DOUBTED {
            let decision = controller.on_window(n * 100 * MS, 9, || Some(9 * MS), Duration::ZERO);
            assert_eq!(decision, Decision::Used, "window {n}");
        }
        let doubted = controller.on_window(600 * MS, 9, || Some(9 * MS), Duration::ZERO);
        assert_eq!((doubted, controller.is_measuring()), (Decision::Restart, true));
    }

    #[test]
    fn measurements_are_apart_by_their_interval_and_some_chance() {
        let controller = at(3, MS);
        assert_eq!(controller.pause(Duration::ZERO), Duration::from_secs(10));
        assert_eq!(controller.pause(Duration::from_secs(1)), Duration::from_millis(11_500));
    }

    #[test]
    fn odd_numbers_do_no_harm() {
        let odd = AdaptiveConcurrency {
            min: 0,
            max: 0,
            interval: Duration::ZERO,
            min_rtt_interval: Duration::MAX,
            tolerance_percent: u32::MAX,
        };
        let mut controller = Controller::new(odd);
        for rtt in [Duration::ZERO, Duration::MAX, Duration::ZERO, MS] {
            controller.on_window(Duration::MAX, u32::MAX, || Some(rtt), Duration::MAX);
            assert_eq!(controller.limit(), 1);
        }
    }
}
