//! Round trips of one worker, in buckets a sixteenth of an octave wide or narrower. Owns recording
//! (one uncontended addition) and the median over several workers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Buckets per doubling, as a power of two.
const SUB_BITS: u32 = 4;
const SUB: usize = 1 << SUB_BITS;
/// Doublings from 16 µs: up to about 70 minutes, in microseconds.
const OCTAVES: usize = 28;
const BUCKETS: usize = SUB * (OCTAVES + 1);

/// See the module.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Histogram {
    buckets: Box<[AtomicU32]>,
    count: AtomicU32,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| AtomicU32::new(0)).collect();
        Self { buckets, count: AtomicU32::new(0) }
    }
}

impl Histogram {
    pub(super) fn record(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get(index(micros)) {
            bucket.fetch_add(1, Ordering::Relaxed);
            self.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    pub(super) fn clear(&self) {
        self.count.store(0, Ordering::Relaxed);
        self.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
    }

    /// The median over all of them, `None` when they are empty.
    pub(super) fn median(all: &[Self]) -> Option<Duration> {
        let sum = |i: usize| {
            let each = all.iter().filter_map(|h| h.buckets.get(i));
            each.map(|bucket| u64::from(bucket.load(Ordering::Relaxed))).sum::<u64>()
        };
        let total: u64 = (0..BUCKETS).map(sum).sum();
        let wanted = total.div_ceil(2);
        let mut before = 0;
        for i in 0..BUCKETS {
            let here = sum(i);
            if here > 0 && before + here >= wanted {
                let (low, high) = (lowest(i), lowest(i + 1));
                let within = (high - low).saturating_mul(wanted - before) / here;
                return Some(Duration::from_micros((low + within).max(1)));
            }
            before += here;
        }
        None
    }
}

/// The bucket of a value. The first [`SUB`] buckets have one value each; what is past the last is
/// in the last.
fn index(micros: u64) -> usize {
    let Some(log) = micros.checked_ilog2().filter(|log| *log >= SUB_BITS) else {
        return usize::try_from(micros).unwrap_or(0);
    };
    let shift = log - SUB_BITS;
    // The top bit stands for the octave, the next ones for the place within.
    let sub = usize::try_from(micros >> shift).unwrap_or(SUB) - SUB;
    let octave = usize::try_from(shift + 1).unwrap_or(OCTAVES);
    (octave * SUB + sub).min(BUCKETS - 1)
}

/// The lowest value of a bucket.
fn lowest(index: usize) -> u64 {
    let (octave, sub) = (index / SUB, index % SUB);
    let sub = u64::try_from(sub).unwrap_or(0);
    match u32::try_from(octave).unwrap_or(0).checked_sub(1) {
        None => sub,
        Some(shift) => (sub + (1 << SUB_BITS)) << shift,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_is_in_the_bucket_that_begins_at_or_below_it() {
        for i in 0..BUCKETS {
            assert_eq!(index(lowest(i)), i, "bucket {i}");
            assert_eq!(index(lowest(i + 1) - 1), i, "bucket {i}");
        }
        assert_eq!(index(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn the_median_is_near_the_middle_value_of_all_workers() {
        let all = [Histogram::default(), Histogram::default()];
        assert_eq!(Histogram::median(&all), None);
        for (values, expected) in [
            (vec![0], 1),
            (vec![10_000], 10_000),
            (vec![100, 200, 300], 200),
            (vec![1000; 99], 1000),
            ((1..=1001).collect::<Vec<u64>>(), 501),
            (vec![5, 5, 5, u64::MAX], 5),
        ] {
            all.iter().for_each(Histogram::clear);
            for (i, value) in values.iter().enumerate() {
                all[i % 2].record(Duration::from_micros(*value));
            }
            let median = Histogram::median(&all).expect("values").as_micros();
            let off = median.abs_diff(expected);
            assert!(off * 16 <= expected + 16, "{median} for {expected}");
        }
    }
}
