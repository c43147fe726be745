//! What the answers to active checks make of an endpoint. Pure.
//!
//! As Envoy documents it: an endpoint is unhealthy until its first check has passed; the first
//! result decides at once; later it takes so many in a row. An answer that says "not well" counts
//! at once, only silence has to repeat (`unhealthy_threshold`, "this threshold is ignored").

use portolan_model::policy::HealthCheck;

/// The result of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The endpoint is well.
    Passed,
    /// It answered, and not as one that is well.
    Unhealthy(String),
    /// It did not answer: no connection, no time, no protocol.
    Unreachable(String),
}

/// What became of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// As it was.
    None,
    /// As it was, but the results now say otherwise.
    Pending,
    /// Healthy from now on.
    Healthy,
    /// Unhealthy from now on.
    Unhealthy,
}

/// How an endpoint stands with its checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) healthy: bool,
    /// Checks so far.
    pub(super) checks: u32,
    /// Whether one ever passed.
    pub(super) ever_passed: bool,
    passed: u32,
    failed: u32,
}

impl Standing {
    /// Before the first check. `healthy`: it is in use meanwhile, because it was before there were
    /// checks.
    pub(super) fn new(healthy: bool) -> Self {
        Self { healthy, checks: 0, ever_passed: false, passed: 0, failed: 0 }
    }

    pub(super) fn on_answer(&mut self, answer: &Answer, rule: &HealthCheck) -> Change {
        let first = self.checks == 0;
        self.checks = self.checks.saturating_add(1);
        if *answer == Answer::Passed {
            self.ever_passed = true;
            self.failed = 0;
            self.passed = self.passed.saturating_add(1);
            if self.healthy {
                return Change::None;
            }
            self.healthy = first || self.passed >= rule.healthy_threshold;
            return if self.healthy { Change::Healthy } else { Change::Pending };
        }
        self.passed = 0;
        self.failed = self.failed.saturating_add(1);
        if !self.healthy {
            return Change::None;
        }
        let at_once = first || matches!(answer, Answer::Unhealthy(_));
        self.healthy = !at_once && self.failed < rule.unhealthy_threshold;
        if self.healthy { Change::Pending } else { Change::Unhealthy }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portolan_model::policy::Probe;

    use super::Change::{Healthy, Pending, Unhealthy};
    use super::*;

    /// Answers and what comes of each.
    type Steps = &'static [(char, Change)];

    /// `+` passed, `!` answered "not well", `-` no answer; and what comes of each.
    fn check(about: &str, in_use: bool, steps: Steps) {
        let rule = HealthCheck {
            probe: Probe::Tcp,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(2),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        };
        let mut standing = Standing::new(in_use);
        for (n, (symbol, expected)) in steps.iter().enumerate() {
            let answer = match symbol {
                '+' => Answer::Passed,
                '!' => Answer::Unhealthy("503".to_owned()),
                _ => Answer::Unreachable("refused".to_owned()),
            };
            assert_eq!(standing.on_answer(&answer, &rule), *expected, "{about}, step {n}");
        }
    }

    #[test]
    fn answers_move_an_endpoint_as_envoy_documents() {
        const NONE: Change = Change::None;
        #[rustfmt::skip]
        let cases: [(&str, bool, Steps); 9] = [
            ("the first success is enough", false, &[('+', Healthy), ('+', NONE)]),
            ("the first failure leaves it unhealthy", false, &[('-', NONE), ('-', NONE)]),
            ("after a failure it takes two", false, &[('-', NONE), ('+', Pending), ('+', Healthy)]),
            ("two in a row, not two", false, &[('-', NONE), ('+', Pending), ('-', NONE), ('+', Pending), ('+', Healthy)]),
            ("silence has to repeat", false, &[('+', Healthy), ('-', Pending), ('-', Pending), ('-', Unhealthy), ('-', NONE)]),
            ("a success ends a run of silence", false, &[('+', Healthy), ('-', Pending), ('-', Pending), ('+', NONE), ('-', Pending)]),
            ("a bad answer counts at once", false, &[('+', Healthy), ('!', Unhealthy), ('+', Pending), ('+', Healthy)]),
            ("in use, its first check passes", true, &[('+', NONE), ('-', Pending)]),
            ("in use, its first check decides", true, &[('-', Unhealthy), ('+', Pending), ('+', Healthy)]),
        ];
        for (about, in_use, steps) in cases {
            check(about, in_use, steps);
        }
    }
}
