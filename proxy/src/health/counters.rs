//! What health counts, for metrics. Owns the numbers; their names are `metrics::collect`'s.

use super::ejection::Cause;
use crate::metrics::Counter;

/// Counters of health, over all clusters. All are written seldom.
#[derive(Debug, Default)]
pub(crate) struct HealthMetrics {
    /// Checks that were answered well.
    pub(crate) checks_passed: Counter,
    /// Checks whose answer says that the endpoint is not well.
    pub(crate) checks_unhealthy: Counter,
    /// Checks without an answer: no connection, no time, no protocol.
    pub(crate) checks_unreachable: Counter,
    /// Checks that had to wait for others to end.
    pub(crate) checks_delayed: Counter,
    /// Checks that wait at present (a gauge).
    pub(crate) checks_waiting: Counter,
    /// Check tasks that ended unasked: a defect.
    pub(crate) checks_lost: Counter,
    /// Endpoints that active checks found healthy again, or for the first time.
    pub(crate) became_healthy: Counter,
    /// Endpoints that active checks found unhealthy.
    pub(crate) became_unhealthy: Counter,
    /// Endpoints left out, by [`Cause::index`].
    pub(crate) ejections: [Counter; Cause::ALL.len()],
    /// Endpoints that would have been left out but for `max_percent`, by [`Cause::index`].
    pub(crate) ejections_overflowed: [Counter; Cause::ALL.len()],
    /// Endpoints left out at present (a gauge).
    pub(crate) ejected: Counter,
}

impl HealthMetrics {
    /// The counter of `cause` in `counters`.
    pub(super) fn count(counters: &[Counter; Cause::ALL.len()], cause: Cause) {
        if let Some(counter) = counters.get(cause.index()) {
            counter.add(1);
        }
    }
}
