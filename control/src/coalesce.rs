//! When waiting changes are published. Pure: times in, times out.
//!
//! A lone change is published at once. Changes that follow closely wait for one another: the gap
//! between two publishes doubles while changes keep coming, up to [`Pace::max_delay`], and starts
//! small again after a pause. A publish that is costly widens the gap, so that publishing takes no
//! more than [`Pace::share`] of a core, unless the bound on the delay says otherwise.

use std::time::{Duration, Instant};

/// Smallest gap between two publishes.
const MIN_GAP: Duration = Duration::from_millis(5);

/// How publishes are spaced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Longest time that a change waits.
    pub max_delay: Duration,
    /// Share of one core that publishing may take, above 0 and at most 1.
    pub share: f64,
}

impl Default for Pace {
    fn default() -> Self {
        Self { max_delay: Duration::from_millis(100), share: 0.1 }
    }
}

/// Decides when to publish.
#[derive(Debug)]
pub struct Coalescer {
    pace: Pace,
    gap: Duration,
    /// When the oldest change that waits came.
    since: Option<Instant>,
    not_before: Option<Instant>,
}

impl Coalescer {
    /// Nothing waits.
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self { pace, gap: MIN_GAP.min(pace.max_delay), since: None, not_before: None }
    }

    /// Notes a change.
    pub fn on_change(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// When to publish what waits; `None` while nothing does.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let since = self.since?;
        let slot = self.not_before.unwrap_or(since).max(since);
        Some(slot.min(since + self.pace.max_delay))
    }

    /// For how long the oldest change that waits has done so.
    #[must_use]
    pub fn waited(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Notes a publish of all that waits, which began at `now` and took `cost`.
    pub fn on_published(&mut self, now: Instant, cost: Duration) {
        let since = self.since.take().unwrap_or(now);
        let early = self.not_before.is_some_and(|slot| since < slot);
        // Changes came before the gap was over: a storm, or the beginning of one.
        self.gap = if early { self.gap * 2 } else { MIN_GAP };
        let fair = Duration::try_from_secs_f64(cost.as_secs_f64() / self.pace.share);
        self.gap = self.gap.max(fair.unwrap_or(Duration::MAX)).min(self.pace.max_delay);
        self.not_before = now.checked_add(self.gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds changes at these milliseconds to a publisher of this cost; when it published.
    fn publishes(changes: impl IntoIterator<Item = u64>, pace: Pace, cost_ms: u64) -> Vec<u64> {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut coalescer = Coalescer::new(pace);
        let mut published = Vec::new();
        let mut free_at = 0;
        let mut publish = |coalescer: &mut Coalescer, until: Option<u64>| {
            while let Some(due) = coalescer.due() {
                let due = u64::try_from((due - start).as_millis()).expect("small").max(free_at);
                if until.is_some_and(|until| due > until) {
                    return;
                }
                let waited = coalescer.waited(at(due));
                coalescer.on_published(at(due), Duration::from_millis(cost_ms));
                assert!(waited <= pace.max_delay + Duration::from_millis(cost_ms), "{waited:?}");
                free_at = due + cost_ms;
                published.push(due);
            }
        };
        for ms in changes {
            publish(&mut coalescer, Some(ms));
            coalescer.on_change(at(ms));
        }
        publish(&mut coalescer, None);
        published
    }

    #[test]
    fn lone_changes_are_published_at_once() {
        assert_eq!(publishes([0, 50, 400, 1000], Pace::default(), 0), [0, 50, 400, 1000]);
    }

    #[test]
    fn a_storm_is_merged_within_the_bound_and_a_pause_ends_it() {
        let storm = publishes(0..1000, Pace::default(), 0);
        assert!(storm.len() <= 15, "{storm:?}");
        assert_eq!(storm[..4], [0, 5, 15, 35], "the gap doubles");
        assert!(storm.windows(2).all(|w| w[1] - w[0] <= 101), "{storm:?}");
        let after = publishes((0..1000).chain([5000, 5001]), Pace::default(), 0);
        assert_eq!(after[after.len() - 2..], [5000, 5005], "a pause starts anew");
    }

    #[test]
    fn costly_publishes_keep_to_their_share_unless_the_delay_forbids_it() {
        let pace = Pace { max_delay: Duration::from_millis(100), share: 0.1 };
        let busy = publishes(0..2000, pace, 4);
        let share = busy.len() * 4;
        assert!(share <= 240, "{share} ms of 2000");
        let slow = publishes(0..2000, pace, 50);
        assert!(slow.windows(2).all(|w| w[1] - w[0] <= 151), "{slow:?}");
    }
}
