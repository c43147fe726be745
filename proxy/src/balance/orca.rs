//! What endpoints report of their own load (ORCA) and the weight that follows (gRFC A58).
//!
//! Owns the report, its three formats on the wire and the tracking of one endpoint's weight; whose
//! report it is and who is picked by it is settled elsewhere.

pub(crate) mod parse;

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// An endpoint must have reported for so long before its weight counts (gRFC A58 `blackout_period`).
const BLACKOUT: Duration = Duration::from_secs(10);
/// A weight counts for so long after the last report (`weight_expiration_period`).
const EXPIRATION: Duration = Duration::from_secs(180);
/// How much a share of errors adds to the utilization (`error_utilization_penalty`).
const ERROR_PENALTY: f64 = 1.0;

/// Most named metrics kept of a report; more are dropped.
pub(crate) const MAX_NAMED: usize = 16;
/// Longest name of a metric, in bytes; one with a longer name is dropped.
pub(crate) const MAX_NAME: usize = 128;

/// A load report (`xds.data.orca.v3.OrcaLoadReport`); what was not said, or was negative or no
/// finite number, is 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct OrcaReport {
    /// Share of what the application can do.
    pub(crate) application_utilization: f64,
    /// Share of the processor.
    pub(crate) cpu_utilization: f64,
    /// Share of the memory.
    pub(crate) mem_utilization: f64,
    /// Requests per second.
    pub(crate) qps: f64,
    /// Errors per second.
    pub(crate) eps: f64,
    /// Metrics of the application's own, at most [`MAX_NAMED`].
    pub(crate) named: Vec<(Box<str>, f64)>,
}

/// Why a report cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrcaError {
    #[error("load report: longer than {} bytes", parse::MAX_LEN)]
    TooLong,
    #[error("load report: not base64")]
    Base64,
    #[error("load report: not a message of protobuf")]
    Wire,
    #[error("load report: not a JSON object of metrics")]
    Json,
    #[error("load report: a part is not name=number")]
    Text,
}

impl OrcaReport {
    /// Requests per second over utilization, where errors count as utilization; `None` when the
    /// report does not say enough.
    pub(crate) fn weight(&self) -> Option<f64> {
        let application = self.application_utilization;
        let utilization = if application > 0.0 { application } else { self.cpu_utilization };
        let usable = utilization > 0.0 && self.qps > 0.0;
        let weight = self.qps / (utilization + self.eps / self.qps * ERROR_PENALTY);
        (usable && weight.is_finite() && weight > 0.0).then_some(weight)
    }

    fn set(&mut self, name: &str, value: f64) {
        let value = if value.is_finite() { value.max(0.0) } else { 0.0 };
        match name {
            "application_utilization" => self.application_utilization = value,
            "cpu_utilization" | "cpu" => self.cpu_utilization = value,
            "mem_utilization" | "mem" => self.mem_utilization = value,
            "rps_fractional" | "rps" => self.qps = value,
            "eps" => self.eps = value,
            _ => {
                if let Some(name) = name.strip_prefix("named_metrics.") {
                    self.add(name, value);
                }
            }
        }
    }

    fn add(&mut self, name: &str, value: f64) {
        if self.named.len() < MAX_NAMED && !name.is_empty() && name.len() <= MAX_NAME {
            self.named.push((name.into(), value));
        }
    }
}

/// The weight of one endpoint by its reports.
#[derive(Debug, Default)]
pub(crate) struct OrcaWeight {
    weight: Cell<f64>,
    /// When the first report came after none that counted.
    since: Cell<Option<Instant>>,
    last: Cell<Option<Instant>>,
}

impl OrcaWeight {
    pub(crate) fn report(&self, report: &OrcaReport, now: Instant) {
        let Some(weight) = report.weight() else { return };
        if self.since.get().is_none() || self.is_expired(now) {
            self.since.set(Some(now));
        }
        self.last.set(Some(now));
        self.weight.set(weight);
    }

    /// The weight, once reports have come for long enough and while they come.
    pub(crate) fn weight(&self, now: Instant) -> Option<f64> {
        let since = self.since.get()?;
        let counts = !self.is_expired(now) && now.saturating_duration_since(since) >= BLACKOUT;
        counts.then(|| self.weight.get())
    }

    /// The endpoint was away: the black-out begins anew with its next report.
    pub(crate) fn restart(&self) {
        self.since.set(None);
    }

    fn is_expired(&self, now: Instant) -> bool {
        self.last.get().is_none_or(|last| now.saturating_duration_since(last) >= EXPIRATION)
    }
}

/// Weights in thousandths of the mean; whoever has none gets the mean, and all the same when fewer
/// than two have one (gRFC A58).
pub(crate) fn weights(reported: &[Option<f64>]) -> Vec<u64> {
    const MEAN: f64 = 1000.0;
    let known: Vec<f64> = reported.iter().flatten().copied().collect();
    if known.len() < 2 {
        return vec![super::number::whole(MEAN); reported.len()];
    }
    let mean = known.iter().sum::<f64>() / super::number::count(known.len());
    let scaled = |weight: &Option<f64>| weight.map_or(MEAN, |w| w / mean * MEAN);
    reported.iter().map(|w| super::number::whole(scaled(w)).max(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(application: f64, cpu: f64, qps: f64, eps: f64) -> OrcaReport {
        OrcaReport {
            application_utilization: application,
            cpu_utilization: cpu,
            qps,
            eps,
            ..OrcaReport::default()
        }
    }

    #[test]
    fn the_weight_is_requests_over_utilization_and_errors() {
        #[rustfmt::skip]
        let cases = [
            (report(0.0, 0.5, 100.0, 0.0), Some(200.0)),
            (report(0.25, 0.5, 100.0, 0.0), Some(400.0)),
            (report(0.0, 0.5, 100.0, 50.0), Some(100.0)),
            (report(0.0, 0.0, 100.0, 0.0), None), (report(0.0, 0.5, 0.0, 0.0), None),
            (report(0.0, 1e-320, 1e300, 0.0), None), (OrcaReport::default(), None),
        ];
        for (report, expected) in cases {
            assert_eq!(report.weight(), expected, "{report:?}");
        }
    }

    #[test]
    fn a_weight_counts_after_the_blackout_and_until_it_expires() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let (weight, report) = (OrcaWeight::default(), report(0.0, 0.5, 50.0, 0.0));
        weight.report(&report, at(0));
        assert_eq!(weight.weight(at(9)), None, "black-out");
        weight.report(&OrcaReport::default(), at(9));
        assert_eq!(weight.weight(at(10)), Some(100.0));
        assert_eq!(weight.weight(at(179)), Some(100.0));
        assert_eq!(weight.weight(at(180)), None, "expired");
        weight.report(&report, at(200));
        assert_eq!(weight.weight(at(205)), None, "the black-out again");
        assert_eq!(weight.weight(at(210)), Some(100.0));
        weight.restart();
        weight.report(&report, at(211));
        assert_eq!((weight.weight(at(220)), weight.weight(at(221))), (None, Some(100.0)));
    }

    #[test]
    fn whoever_has_no_weight_gets_the_mean() {
        assert_eq!(weights(&[Some(1.0), Some(3.0), None]), [500, 1500, 1000]);
        assert_eq!(weights(&[Some(9.0), None, None]), [1000, 1000, 1000]);
        assert_eq!(weights(&[Some(1.0), Some(1e9)]), [1, 1999]);
        assert!(weights(&[]).is_empty());
    }
}
