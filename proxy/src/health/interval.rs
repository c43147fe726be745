//! Who stands out at the end of an interval: by success rate and by share of failures. Pure.
//!
//! Owns the arithmetic of Envoy's "Success Rate" and "Failure Percentage"; refuses to say whether
//! somebody that stands out is left out.

use portolan_model::policy::FailurePercentage;
use portolan_model::traffic::{Outlier, SuccessRate};

use super::ejection::Cause;

/// Requests of one endpoint within an interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
}

/// The places of those that stand out, each once, with the reason. `None` is an endpoint that is
/// left out already: it counts for nothing.
pub(super) fn outliers(outlier: &Outlier, samples: &[Option<Sample>]) -> Vec<(usize, Cause)> {
    let by_rate = outlier.success_rate.iter().flat_map(|rule| by_success_rate(rule, samples));
    let mut found: Vec<_> = by_rate.map(|i| (i, Cause::SuccessRate)).collect();
    if let Some(rule) = &outlier.failure_percentage {
        for i in by_failure_percentage(rule, samples) {
            if !found.iter().any(|(known, _)| *known == i) {
                found.push((i, Cause::FailurePercentage));
            }
        }
    }
    found
}

fn by_success_rate(rule: &SuccessRate, samples: &[Option<Sample>]) -> Vec<usize> {
    let judged = judged(samples, rule.request_volume, rule.minimum_hosts);
    let count = float(judged.len());
    let mean = judged.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = judged.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let threshold = mean - variance.sqrt() * f64::from(rule.stdev_factor_milli) / 1000.0;
    judged.into_iter().filter(|(_, rate)| *rate < threshold).map(|(i, _)| i).collect()
}

fn by_failure_percentage(rule: &FailurePercentage, samples: &[Option<Sample>]) -> Vec<usize> {
    let threshold = f64::from(rule.threshold);
    let judged = judged(samples, rule.request_volume, rule.minimum_hosts);
    judged.into_iter().filter(|(_, rate)| 100.0 - rate >= threshold).map(|(i, _)| i).collect()
}

/// Those with enough requests, with their success rate in percent; nobody when they are too few.
fn judged(samples: &[Option<Sample>], volume: u32, minimum: u32) -> Vec<(usize, f64)> {
    let rate = |sample: &Sample| {
        let total = sample.succeeded.saturating_add(sample.failed);
        let enough = total > 0 && total >= u64::from(volume);
        enough.then(|| 100.0 * float(sample.succeeded) / float(total))
    };
    let with_rate = samples.iter().enumerate().filter_map(|(i, s)| Some((i, rate(s.as_ref()?)?)));
    let judged: Vec<_> = with_rate.collect();
    let enough = u32::try_from(judged.len()).unwrap_or(u32::MAX) >= minimum;
    if enough { judged } else { Vec::new() }
}

/// A count as a float; what is past 32 bits makes no difference to a rate worth speaking of.
fn float(count: impl TryInto<u32>) -> f64 {
    f64::from(count.try_into().unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::tests::outlier;

    /// Endpoints with 100 requests, so many of them good.
    fn rates(good: &[u64]) -> Vec<Option<Sample>> {
        good.iter().map(|g| Some(Sample { succeeded: *g, failed: 100 - g })).collect()
    }

    fn rate(stdev_factor_milli: u32, minimum_hosts: u32, request_volume: u32) -> Outlier {
        let rule = SuccessRate { stdev_factor_milli, minimum_hosts, request_volume };
        Outlier { success_rate: Some(rule), ..outlier() }
    }

    fn share(threshold: u32, minimum_hosts: u32, request_volume: u32) -> Outlier {
        let rule = FailurePercentage { threshold, minimum_hosts, request_volume };
        Outlier { failure_percentage: Some(rule), ..outlier() }
    }

    #[test]
    fn those_that_stand_out_are_found() {
        let both = Outlier { success_rate: rate(1900, 5, 100).success_rate, ..share(50, 1, 100) };
        let out = |mut samples: Vec<Option<Sample>>, i: usize| {
            samples[i] = None;
            samples
        };
        // Mean 90, standard deviation 20: the threshold at 1.9 is 52.
        let one_bad = [50, 100, 100, 100, 100];
        #[rustfmt::skip]
        let cases = [
            ("nothing asked", outlier(), rates(&one_bad), vec![]),
            ("rate: far below the mean", rate(1900, 5, 100), rates(&one_bad), vec![(0, Cause::SuccessRate)]),
            ("rate: on the threshold", rate(2000, 5, 100), rates(&one_bad), vec![]),
            ("rate: a greater factor", rate(2500, 5, 100), rates(&one_bad), vec![]),
            ("rate: all alike", rate(1900, 5, 100), rates(&[10; 5]), vec![]),
            ("rate: too few endpoints", rate(1900, 6, 100), rates(&one_bad), vec![]),
            ("rate: too few requests", rate(1900, 5, 101), rates(&one_bad), vec![]),
            ("rate: one is out, too few left", rate(1900, 5, 100), out(rates(&one_bad), 1), vec![]),
            ("rate: out already", rate(1900, 4, 100), out(rates(&one_bad), 0), vec![]),
            ("rate: nobody had requests", rate(1900, 0, 0), vec![Some(Sample::default()); 5], vec![]),
            ("rate: nobody there", rate(1900, 0, 0), vec![], vec![]),
            ("share: at the threshold", share(50, 5, 100), rates(&one_bad), vec![(0, Cause::FailurePercentage)]),
            ("share: below", share(51, 5, 100), rates(&one_bad), vec![]),
            ("share: everybody", share(90, 1, 1), rates(&[5, 10]), vec![(0, Cause::FailurePercentage), (1, Cause::FailurePercentage)]),
            ("share: too few endpoints", share(50, 6, 100), rates(&one_bad), vec![]),
            ("share: too few requests", share(50, 1, 101), rates(&one_bad), vec![]),
            ("both find it: once", both, rates(&one_bad), vec![(0, Cause::SuccessRate)]),
        ];
        for (about, outlier, samples, expected) in cases {
            assert_eq!(outliers(&outlier, &samples), expected, "{about}");
        }
    }
}
