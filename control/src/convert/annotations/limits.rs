//! How much may be under way at once, and when a request is sent again.

use std::time::Duration;

use portolan_model::policy::{BackOff, CircuitBreaker, Retries, RetryBudget, RetryOn};
use portolan_model::traffic::AdaptiveConcurrency;

use super::values::{count, duration, number, on, percent, retry_on, status_codes};
use super::{PREFIX, Settings};

/// Most tries after the first.
const MAX_ATTEMPTS: u32 = 10;
/// Tries after the first where only the reasons are given.
const DEFAULT_ATTEMPTS: u32 = 2;
/// The setting that lists the answers that are a reason.
const CODES: &str = "retry-status-codes";
/// What a budget always allows where only its share is given (Envoy's).
const MIN_RETRIES: u32 = 3;
/// The share of a budget of which only the least is given, in percent (Envoy's).
const BUDGET: u32 = 20;
/// Adaptive concurrency where nothing is said: the least and most, times, and tolerance in percent.
const CONCURRENCY: AdaptiveConcurrency = AdaptiveConcurrency {
    min: 3,
    max: 1000,
    interval: Duration::from_millis(100),
    min_rtt_interval: Duration::from_secs(60),
    tolerance_percent: 25,
};

impl Settings<'_, '_> {
    /// How much may be under way, and how many retries beside it: by number or by share.
    pub(super) fn limits(&mut self) -> (CircuitBreaker, Option<RetryBudget>) {
        let share = self.take("retry-budget-percent", percent);
        let least = self.take("retry-budget-min", |text| number(text, 0, 1_000_000_000));
        let budget = (share.is_some() || least.is_some()).then(|| RetryBudget {
            percent: share.unwrap_or(BUDGET),
            minimum: least.unwrap_or(MIN_RETRIES),
        });
        let mut breaker = CircuitBreaker {
            connections: self.take("max-connections", count),
            pending_requests: self.take("max-pending-requests", count),
            requests: self.take("max-requests", count),
            retries: self.take("max-retries", count),
        };
        if budget.is_some() && breaker.retries.is_some() {
            self.warn("max-retries", format!("has no effect with {PREFIX}retry-budget-percent"));
            breaker.retries = None;
        }
        (breaker, budget)
    }

    /// When a request is sent again.
    pub(super) fn retries(&mut self) -> Option<Retries> {
        let reasons = self.take("retry-on", retry_on);
        let codes = self.take(CODES, status_codes);
        let attempts = self.take("retry-attempts", |text| number(text, 0, MAX_ATTEMPTS));
        if reasons.is_none() && codes.is_none() && attempts.is_none() {
            self.without("retry-attempts", "retry-");
            return None;
        }
        let per_try_timeout = self.take("retry-per-try-timeout", duration);
        let back_off = self.back_off();
        let hedge = self.take("retry-hedge", on).unwrap_or(false);
        if hedge && per_try_timeout.is_none() {
            self.warn(
                "retry-hedge",
                format!("has no effect without {PREFIX}retry-per-try-timeout"),
            );
        }
        let mut on = reasons.unwrap_or_else(|| {
            vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Unavailable]
        });
        let word = RetryOn::StatusCodes;
        match (&codes, on.contains(&word)) {
            (Some(_), false) => on.push(word),
            (None, true) => {
                let reason = format!("{} has no effect without {PREFIX}{CODES}", word.word());
                self.warn("retry-on", reason);
                on.retain(|reason| *reason != word);
            }
            _ => {}
        }
        let attempts = attempts.unwrap_or(DEFAULT_ATTEMPTS);
        (attempts > 0 && !on.is_empty()).then(|| Retries {
            attempts,
            on,
            status_codes: codes.unwrap_or_default(),
            per_try_timeout,
            back_off,
            hedge: hedge && per_try_timeout.is_some(),
        })
    }

    /// The pauses between the tries.
    fn back_off(&mut self) -> Option<BackOff> {
        const MAX: &str = "retry-back-off-max";
        let Some(base) = self.take("retry-back-off", duration) else {
            self.without("retry-back-off", MAX);
            return None;
        };
        // As Envoy's default.
        let max = self.take(MAX, |text| match duration(text) {
            Ok(max) if max < base => Err(format!("{text:?} is less than {PREFIX}retry-back-off")),
            read => read,
        });
        Some(BackOff { base, max: max.unwrap_or(base * 10) })
    }

    /// Whether requests in flight are held to what latency allows.
    pub(super) fn adaptive_concurrency(&mut self) -> Option<AdaptiveConcurrency> {
        const NAME: &str = "adaptive-concurrency";
        if self.take(NAME, on) != Some(true) {
            self.without(NAME, "adaptive-concurrency-");
            return None;
        }
        let max = self.take("adaptive-concurrency-max", count).unwrap_or(CONCURRENCY.max);
        let least = |text: &str| number(text, 1, max);
        let min = self.take("adaptive-concurrency-min", least);
        let interval = self.take("adaptive-concurrency-interval", duration);
        let rtt = self.take("adaptive-concurrency-min-rtt-interval", duration);
        let tolerance = self.take("adaptive-concurrency-tolerance-percent", percent);
        Some(AdaptiveConcurrency {
            min: min.unwrap_or(CONCURRENCY.min.min(max)),
            max,
            interval: interval.unwrap_or(CONCURRENCY.interval),
            min_rtt_interval: rtt.unwrap_or(CONCURRENCY.min_rtt_interval),
            tolerance_percent: tolerance.unwrap_or(CONCURRENCY.tolerance_percent),
        })
    }
}
