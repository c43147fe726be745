//! Leaving an endpoint out for what it answered: whether, for how long, and until when. Pure.
//!
//! Owns the arithmetic of Envoy's "Outlier detection, Ejection algorithm"; refuses to read a clock,
//! to draw at random and to know which requests there were.

use std::time::Duration;

use portolan_model::traffic::Outlier;
use serde::Serialize;
use tokio::time::Instant;

/// Why an endpoint is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Cause {
    /// Failures in a row.
    ConsecutiveErrors,
    /// 502, 503, 504 in a row.
    ConsecutiveGatewayErrors,
    /// Failures in a row that the proxy saw itself.
    ConsecutiveLocalErrors,
    /// A success rate far below the others'.
    SuccessRate,
    /// A share of failures.
    FailurePercentage,
}

impl Cause {
    pub(crate) const ALL: [Self; 5] = [
        Self::ConsecutiveErrors,
        Self::ConsecutiveGatewayErrors,
        Self::ConsecutiveLocalErrors,
        Self::SuccessRate,
        Self::FailurePercentage,
    ];

    /// Its place in arrays of counters.
    pub(crate) fn index(self) -> usize {
        Self::ALL.iter().position(|cause| *cause == self).unwrap_or(0)
    }

    /// Its word in metrics and logs.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveErrors => "consecutive_errors",
            Self::ConsecutiveGatewayErrors => "consecutive_gateway_errors",
            Self::ConsecutiveLocalErrors => "consecutive_local_errors",
            Self::SuccessRate => "success_rate",
            Self::FailurePercentage => "failure_percentage",
        }
    }
}

/// Whether one more of `hosts` endpoints may be left out when `ejected` are: the first always may,
/// unless the share is 0, which allows none.
pub(super) fn is_allowed(ejected: usize, hosts: usize, max_percent: u32) -> bool {
    let percent = usize::try_from(max_percent.min(100)).unwrap_or(100);
    let wanted = ejected.saturating_add(1).saturating_mul(100);
    percent > 0 && (ejected == 0 || wanted <= hosts.saturating_mul(percent))
}

/// One endpoint's history of being left out.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    /// The time out is the base times this.
    pub(super) multiplier: u32,
    /// How often it was left out in all.
    pub(super) ejections: u64,
    /// The present time out.
    pub(super) current: Option<Current>,
    /// When the last one ended.
    returned: Option<Instant>,
}

/// A time out that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub(super) cause: Cause,
    since: Instant,
    jitter: Duration,
}

impl Record {
    /// It is left out from now on, `jitter` longer than is reckoned.
    pub(super) fn on_eject(
        &mut self,
        outlier: &Outlier,
        cause: Cause,
        jitter: Duration,
        now: Instant,
    ) {
        let reckoned = outlier.base_ejection.saturating_mul(self.multiplier);
        // Past the most, a greater multiplier would only take longer to come down.
        if reckoned < outlier.max_ejection.saturating_add(outlier.base_ejection) {
            self.multiplier = self.multiplier.saturating_add(1);
        }
        self.ejections = self.ejections.saturating_add(1);
        self.current = Some(Current { cause, since: now, jitter });
    }

    /// It is back.
    pub(super) fn on_return(&mut self, now: Instant) {
        self.current = None;
        self.returned = Some(now);
    }

    /// How much of the time out is left; `None` when there is none, zero when it is over.
    pub(super) fn left(&self, outlier: &Outlier, now: Instant) -> Option<Duration> {
        let current = self.current.as_ref()?;
        let time = outlier.base_ejection.saturating_mul(self.multiplier).min(outlier.max_ejection);
        let out = now.saturating_duration_since(current.since);
        Some(time.saturating_add(current.jitter).saturating_sub(out))
    }

    /// An interval ends. One that was whole and without a time out takes one from the multiplier.
    pub(super) fn on_interval(&mut self, outlier: &Outlier, now: Instant) {
        let whole = |at: Instant| now.saturating_duration_since(at) >= outlier.interval;
        if self.current.is_none() && self.returned.is_some_and(whole) {
            self.multiplier = self.multiplier.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::outlier;

    #[test]
    fn no_more_are_left_out_than_the_share_allows_but_one_always() {
        let cases = [
            ("one of one", 0, 1, 10, true),
            ("one of three at 10 %", 0, 3, 10, true),
            ("the second of three at 10 %", 1, 3, 10, false),
            ("the second of 20 at 10 %", 1, 20, 10, true),
            ("the third of 20 at 10 %", 2, 20, 10, false),
            ("the last of four at 100 %", 3, 4, 100, true),
            ("more than 100 % is 100 %", 4, 4, 1000, false),
            ("none at 0 %", 0, 50, 0, false),
        ];
        for (about, ejected, hosts, percent, expected) in cases {
            assert_eq!(is_allowed(ejected, hosts, percent), expected, "{about}");
        }
    }

    /// Envoy, "Ejection algorithm": base times the ejections in a row, at most the most.
    #[test]
    fn each_time_out_in_a_row_is_longer_up_to_the_most() {
        let outlier = Outlier {
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(100),
            ..outlier()
        };
        let mut now = Instant::now();
        let mut record = Record::default();
        for (time, expected) in [30, 60, 90, 100, 100, 100].into_iter().enumerate() {
            record.on_eject(&outlier, Cause::ConsecutiveErrors, Duration::from_secs(2), now);
            let left = record.left(&outlier, now);
            assert_eq!(left, Some(Duration::from_secs(expected + 2)), "time {time}");
            now += Duration::from_secs(expected + 1);
            assert_eq!(record.left(&outlier, now), Some(Duration::from_secs(1)), "time {time}");
            now += Duration::from_secs(1);
            assert_eq!(record.left(&outlier, now), Some(Duration::ZERO), "time {time}");
            record.on_return(now);
            assert_eq!(record.left(&outlier, now), None, "time {time}");
        }
        assert_eq!((record.multiplier, record.ejections), (5, 6));
    }

    #[test]
    fn each_healthy_interval_takes_one_from_the_multiplier() {
        let outlier = outlier();
        let start = Instant::now();
        let mut record = Record { multiplier: 3, ..Record::default() };
        record.on_interval(&outlier, start + outlier.interval * 9);
        assert_eq!(record.multiplier, 3, "never ejected: nothing to take back");
        record.on_eject(&outlier, Cause::SuccessRate, Duration::ZERO, start);
        record.on_interval(&outlier, start + outlier.interval);
        assert_eq!(record.multiplier, 4, "still out");
        record.on_return(start + outlier.interval);
        record.on_interval(&outlier, start + outlier.interval * 3 / 2);
        assert_eq!(record.multiplier, 4, "half an interval");
        for (n, expected) in [(2, 3), (3, 2), (4, 1), (5, 0), (6, 0)] {
            record.on_interval(&outlier, start + outlier.interval * n);
            assert_eq!(record.multiplier, expected, "interval {n}");
        }
    }
}
