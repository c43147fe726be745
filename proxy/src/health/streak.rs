//! Failures in a row, of three sorts at once. Owns the counting (pure) and the one word that holds
//! it for all workers; refuses to eject anybody.

use std::sync::atomic::{AtomicU64, Ordering};

use portolan_model::traffic::Outlier;

use super::ejection::Cause;
use super::outcome::Outcome;

/// Bits of a count within the word.
const BITS: u32 = 21;
const MOST: u64 = (1 << BITS) - 1;

/// Failures in a row by sort.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Streak {
    pub(crate) errors: u32,
    pub(crate) gateway_errors: u32,
    pub(crate) local_errors: u32,
}

/// A [`Streak`] that all workers write.
#[derive(Debug, Default)]
pub(super) struct SharedStreak(AtomicU64);

impl Streak {
    /// The streak after one more request. `split`: local errors count apart (Envoy
    /// `split_external_local_origin_errors`); otherwise they count as gateway errors.
    pub(super) fn after(self, outcome: Outcome, split: bool) -> Self {
        let errors = self.errors.saturating_add(1);
        let gateway_errors = self.gateway_errors.saturating_add(1);
        match outcome {
            Outcome::Success => Self::default(),
            Outcome::ServerError => Self { errors, gateway_errors: 0, local_errors: 0 },
            Outcome::GatewayError => Self { errors, gateway_errors, local_errors: 0 },
            Outcome::LocalError if split => {
                Self { local_errors: self.local_errors.saturating_add(1), ..self }
            }
            Outcome::LocalError => Self { errors, gateway_errors, local_errors: 0 },
        }
    }

    /// The first limit it reaches. A limit of 0 is none.
    pub(super) fn trips(self, outlier: &Outlier) -> Option<Cause> {
        let reaches = |run: u32, limit: Option<u32>| limit.is_some_and(|l| l > 0 && run >= l);
        if reaches(self.gateway_errors, outlier.consecutive_gateway_errors) {
            Some(Cause::ConsecutiveGatewayErrors)
        } else if reaches(self.errors, outlier.consecutive_errors) {
            Some(Cause::ConsecutiveErrors)
        } else if reaches(self.local_errors, outlier.consecutive_local_errors) {
            Some(Cause::ConsecutiveLocalErrors)
        } else {
            None
        }
    }

    /// The streak with the count behind `cause` at its beginning.
    fn without(self, cause: Cause) -> Self {
        match cause {
            Cause::ConsecutiveErrors => Self { errors: 0, ..self },
            Cause::ConsecutiveGatewayErrors => Self { gateway_errors: 0, ..self },
            Cause::ConsecutiveLocalErrors => Self { local_errors: 0, ..self },
            Cause::SuccessRate | Cause::FailurePercentage => self,
        }
    }

    fn pack(self) -> u64 {
        let field = |n: u32| u64::from(n).min(MOST);
        field(self.errors)
            | field(self.gateway_errors) << BITS
            | field(self.local_errors) << (2 * BITS)
    }

    fn unpack(word: u64) -> Self {
        let field = |shift: u32| u32::try_from((word >> shift) & MOST).unwrap_or(u32::MAX);
        Self { errors: field(0), gateway_errors: field(BITS), local_errors: field(2 * BITS) }
    }
}

impl SharedStreak {
    pub(super) fn get(&self) -> Streak {
        Streak::unpack(self.0.load(Ordering::Relaxed))
    }

    /// Ends the streak. While there is none this is one load, and no write that other workers see.
    #[inline]
    pub(super) fn clear(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn add(&self, outcome: Outcome, split: bool) -> Streak {
        self.update(|streak| streak.after(outcome, split))
    }

    /// Begins the count behind `cause` anew, so that it takes a whole streak to reach its limit again.
    pub(super) fn restart(&self, cause: Cause) {
        self.update(|streak| streak.without(cause));
    }

    fn update(&self, change: impl Fn(Streak) -> Streak) -> Streak {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let next = change(Streak::unpack(word));
            match self.0.compare_exchange_weak(
                word,
                next.pack(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return next,
                Err(now) => word = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome::{GatewayError, LocalError, ServerError, Success};
    use super::*;
    use crate::health::tests::outlier;

    /// Errors, gateway errors, local errors.
    type Counts = (u32, u32, u32);

    /// Envoy, "Outlier detection": consecutive 5xx, gateway failure, local origin failure.
    #[test]
    fn failures_in_a_row_are_counted_by_sort() {
        #[rustfmt::skip]
        let cases: [(&str, bool, &[Outcome], Counts); 10] = [
            ("nothing", false, &[], (0, 0, 0)),
            ("a success ends all", false, &[ServerError, GatewayError, Success], (0, 0, 0)),
            ("500s are no gateway errors", false, &[ServerError, ServerError], (2, 0, 0)),
            ("503s are both", false, &[GatewayError, GatewayError], (2, 2, 0)),
            ("a 500 ends a run of 503s", false, &[GatewayError, ServerError, GatewayError], (3, 1, 0)),
            ("local errors count with all", false, &[LocalError, LocalError, ServerError], (3, 0, 0)),
            ("two timeouts and a 503", false, &[LocalError, LocalError, GatewayError], (3, 3, 0)),
            ("split: local errors apart", true, &[GatewayError, LocalError, LocalError], (1, 1, 2)),
            ("split: any answer ends local errors", true, &[LocalError, LocalError, ServerError], (1, 0, 0)),
            ("split: a success ends all", true, &[ServerError, LocalError, Success], (0, 0, 0)),
        ];
        for (about, split, outcomes, (errors, gateway_errors, local_errors)) in cases {
            let shared = SharedStreak::default();
            for outcome in outcomes {
                match outcome {
                    Success => shared.clear(),
                    failure => {
                        shared.add(*failure, split);
                    }
                }
            }
            let expected = Streak { errors, gateway_errors, local_errors };
            assert_eq!(shared.get(), expected, "{about}");
            let pure = outcomes.iter().fold(Streak::default(), |s, o| s.after(*o, split));
            assert_eq!(pure, expected, "{about}: pure");
        }
    }

    #[test]
    fn a_streak_trips_at_its_limit_and_begins_anew() {
        let limits = Outlier {
            consecutive_errors: Some(5),
            consecutive_gateway_errors: Some(3),
            consecutive_local_errors: Some(2),
            ..outlier()
        };
        let off = Outlier { consecutive_errors: Some(0), ..outlier() };
        let cases = [
            (limits, (4, 2, 1), None),
            (limits, (5, 0, 0), Some(Cause::ConsecutiveErrors)),
            (limits, (5, 3, 0), Some(Cause::ConsecutiveGatewayErrors)),
            (limits, (0, 0, 2), Some(Cause::ConsecutiveLocalErrors)),
            (outlier(), (1000, 1000, 1000), None),
            (off, (1000, 0, 0), None),
        ];
        for (limits, (errors, gateway_errors, local_errors), expected) in cases {
            let streak = Streak { errors, gateway_errors, local_errors };
            assert_eq!(streak.trips(&limits), expected, "{streak:?}");
        }
        let shared = SharedStreak::default();
        for _ in 0..3 {
            shared.add(GatewayError, false);
        }
        shared.restart(Cause::ConsecutiveGatewayErrors);
        assert_eq!(shared.get(), Streak { errors: 3, ..Streak::default() });
    }

    #[test]
    fn counts_stop_at_the_width_of_their_field() {
        let most = Streak { errors: u32::MAX, gateway_errors: 7, local_errors: u32::MAX };
        let limit = u32::try_from(MOST).expect("21 bits");
        let expected = Streak { errors: limit, gateway_errors: 7, local_errors: limit };
        assert_eq!(Streak::unpack(most.pack()), expected);
    }
}
