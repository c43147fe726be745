//! How load spreads over priorities, by how many endpoints of each are healthy or degraded.
//!
//! Envoy's reckoning ("Priority levels", "Degraded endpoints", "Panic threshold"), in whole percent.
//! Owns the arithmetic; knows no endpoint.

/// Endpoints of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) total: u32,
    pub(crate) healthy: u32,
    pub(crate) degraded: u32,
}

/// What one priority gets, in percent of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    /// To its healthy endpoints; to all of them in panic.
    pub(crate) healthy: u32,
    /// To its degraded endpoints.
    pub(crate) degraded: u32,
    /// So few are usable that health is not minded.
    pub(crate) panic: bool,
}

/// The share of each priority. `overprovisioning` is in percent (140), as is the share of usable
/// endpoints below which a priority is in panic, once all priorities together are not enough.
pub(crate) fn shares(levels: &[Level], overprovisioning: u32, panic_threshold: u32) -> Vec<Share> {
    let score = |part: u32, total: u32| {
        let percent = u64::from(overprovisioning) * u64::from(part) / u64::from(total.max(1));
        u32::try_from(percent.min(100)).unwrap_or(100)
    };
    let healthy: Vec<u32> = levels.iter().map(|l| score(l.healthy, l.total)).collect();
    let degraded: Vec<u32> = levels.iter().map(|l| score(l.degraded, l.total)).collect();
    let available: u32 = healthy.iter().chain(&degraded).fold(0, |sum, p| sum.saturating_add(*p));
    let available = available.min(100);
    let mut shares = vec![Share::default(); levels.len()];
    if available < 100 {
        for (share, level) in shares.iter_mut().zip(levels) {
            share.panic = is_in_panic(*level, panic_threshold);
        }
        if panic_threshold > 0 && shares.iter().zip(levels).all(|(s, l)| s.panic || l.total == 0) {
            return all_in_panic(levels);
        }
    }
    if available == 0 {
        return shares;
    }
    let mut left = 100;
    let mut take = |score: u32| {
        let part = (score * 100 / available).min(left);
        left -= part;
        part
    };
    shares.iter_mut().zip(&healthy).for_each(|(share, score)| share.healthy = take(*score));
    shares.iter_mut().zip(&degraded).for_each(|(share, score)| share.degraded = take(*score));
    give_rest(&mut shares, left);
    in_panic_all_serve(&mut shares);
    shares
}

fn is_in_panic(level: Level, threshold: u32) -> bool {
    let usable = u64::from(level.healthy) + u64::from(level.degraded);
    usable * 100 < u64::from(threshold.min(100)) * u64::from(level.total)
}

/// Nothing is left to judge by but size.
fn all_in_panic(levels: &[Level]) -> Vec<Share> {
    let total: u64 = levels.iter().map(|l| u64::from(l.total)).sum();
    let percent = |l: &Level| u32::try_from(u64::from(l.total) * 100 / total.max(1)).unwrap_or(100);
    let mut shares: Vec<Share> = levels
        .iter()
        .map(|l| Share { healthy: percent(l), degraded: 0, panic: l.total > 0 })
        .collect();
    let given: u32 = shares.iter().map(|s| s.healthy).sum();
    if total > 0 {
        give_rest(&mut shares, 100_u32.saturating_sub(given));
    }
    shares
}

/// What rounding left over goes to the first priority that has any.
fn give_rest(shares: &mut [Share], left: u32) {
    if let Some(share) = shares.iter_mut().find(|share| share.healthy > 0) {
        share.healthy += left;
    } else if let Some(share) = shares.iter_mut().find(|share| share.degraded > 0) {
        share.degraded += left;
    }
}

fn in_panic_all_serve(shares: &mut [Share]) {
    for share in shares.iter_mut().filter(|share| share.panic) {
        share.healthy += share.degraded;
        share.degraded = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Percent healthy of each priority; percent of traffic to each; which are in panic.
    type Case = (&'static [u32], &'static [u32], &'static [bool]);

    fn level(healthy: u32, degraded: u32) -> Level {
        Level { total: 100, healthy, degraded }
    }

    #[test]
    fn load_spreads_as_in_envoys_tables() {
        const NO: bool = false;
        #[rustfmt::skip]
        let cases: &[Case] = &[
            (&[100, 100], &[100, 0], &[NO, NO]), (&[72, 100], &[100, 0], &[NO, NO]),
            (&[71, 100], &[99, 1], &[NO, NO]),   (&[50, 100], &[70, 30], &[NO, NO]),
            (&[25, 100], &[35, 65], &[NO, NO]),  (&[0, 100], &[0, 100], &[NO, NO]),
            (&[72, 72], &[100, 0], &[NO, NO]),   (&[71, 71], &[99, 1], &[NO, NO]),
            (&[50, 50], &[70, 30], &[NO, NO]),   (&[25, 25], &[50, 50], &[true, true]),
            (&[5, 65], &[8, 92], &[true, NO]),
            (&[100, 100, 100], &[100, 0, 0], &[NO, NO, NO]),
            (&[71, 71, 100], &[99, 1, 0], &[NO, NO, NO]),
            (&[50, 50, 100], &[70, 30, 0], &[NO, NO, NO]),
            (&[25, 100, 100], &[35, 65, 0], &[NO, NO, NO]),
            (&[25, 25, 100], &[35, 35, 30], &[NO, NO, NO]),
            (&[0], &[100], &[true]), (&[0, 0], &[50, 50], &[true, true]),
            (&[30], &[100], &[true]), (&[60], &[100], &[NO]),
        ];
        for (healthy, expected, panic) in cases {
            let levels: Vec<Level> = healthy.iter().map(|h| level(*h, 0)).collect();
            let shares = shares(&levels, 140, 50);
            let loads: Vec<u32> = shares.iter().map(|s| s.healthy).collect();
            assert_eq!(loads, *expected, "{healthy:?}");
            let panics: Vec<bool> = shares.iter().map(|s| s.panic).collect();
            assert_eq!(panics, *panic, "{healthy:?}");
        }
    }

    #[test]
    fn scores_below_a_hundred_are_normalised() {
        // Health 35, 35 and 28 of together 98: Envoy's last row, all of it below panic.
        let levels = [level(25, 0), level(25, 0), level(20, 0)];
        let loads: Vec<u32> = shares(&levels, 140, 0).iter().map(|s| s.healthy).collect();
        assert_eq!(loads, [37, 35, 28], "what rounding leaves goes to the first");
    }

    #[test]
    fn degraded_endpoints_get_what_healthy_ones_cannot_take() {
        #[rustfmt::skip]
        let cases = [
            (level(100, 0), (100, 0, false)), (level(71, 0), (100, 0, false)),
            (level(71, 29), (99, 1, false)), (level(25, 65), (35, 65, false)),
            (level(5, 0), (100, 0, true)), (level(0, 100), (0, 100, false)),
            (level(10, 10), (100, 0, true)),
        ];
        for (level, (healthy, degraded, panic)) in cases {
            let expected = [Share { healthy, degraded, panic }];
            assert_eq!(shares(&[level], 140, 50), expected, "{level:?}");
        }
        // All healthy ones of any priority go before any degraded one.
        let two = shares(&[level(50, 50), level(100, 0)], 140, 50);
        assert_eq!((two[0].healthy, two[1].healthy, two[0].degraded), (70, 30, 0));
    }

    #[test]
    fn without_panic_nobody_serves_when_nobody_is_healthy() {
        let none = shares(&[level(0, 0), level(0, 0)], 140, 0);
        assert!(none.iter().all(|s| *s == Share::default()), "{none:?}");
        assert_eq!(shares(&[Level::default()], 140, 50)[0].healthy, 0, "nor when there is nobody");
        assert!(shares(&[], 140, 50).is_empty());
    }

    #[test]
    fn shares_always_add_up() {
        for a in 0..=20 {
            for b in 0..=20 {
                for degraded in 0..=(20 - a) {
                    let levels = [
                        Level { total: 20, healthy: a, degraded },
                        Level { total: 20, healthy: b, degraded: 0 },
                    ];
                    let shares = shares(&levels, 140, 50);
                    let sum: u32 = shares.iter().map(|s| s.healthy + s.degraded).sum();
                    assert_eq!(sum, 100, "{levels:?} {shares:?}");
                }
            }
        }
    }
}
