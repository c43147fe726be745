//! Numbers that one thread writes and the scrape reads, without a locked instruction: adding is a
//! load and a store. Owns nothing else; what may have two writers is a [`Counter`](super::Counter).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A number of which only one thread is the writer.
#[derive(Debug, Default)]
pub(crate) struct Tally(AtomicU64);

impl Tally {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Of a number that goes up and down. The workers' sum is right even where one wraps.
    #[inline]
    pub(crate) fn sub(&self, n: u64) {
        self.set(self.get().wrapping_sub(n));
    }

    #[inline]
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets with a bound of their own.
pub(crate) const BOUNDED: usize = 20;
/// The first bound is 2 to this many microseconds; each bound is twice the one before.
const FIRST: u32 = 7;

/// Times by powers of two, from 128 µs to 67 s.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    pub(crate) buckets: [Tally; BOUNDED + 1],
    /// All times together, in microseconds.
    pub(crate) micros: Tally,
}

impl Histogram {
    pub(crate) fn record(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        // The least power of two that is not below.
        let power = u64::BITS - micros.saturating_sub(1).leading_zeros();
        let bucket = (power.saturating_sub(FIRST) as usize).min(BOUNDED);
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(1);
        }
        self.micros.add(micros);
    }

    /// Upper bounds in seconds; the last is for everything.
    pub(crate) fn bounds() -> impl Iterator<Item = f64> {
        let micros = (0..BOUNDED).map(|at| Duration::from_micros(1 << (at + FIRST as usize)));
        micros.map(|bound| bound.as_secs_f64()).chain([f64::MAX])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_counted_in_the_first_bucket_that_has_room_for_it() {
        let bounds: Vec<f64> = Histogram::bounds().collect();
        assert_eq!((bounds.len(), bounds[0]), (BOUNDED + 1, 0.000_128));
        for micros in [0, 1, 128, 129, 256, 257, 1_000, 67_108_864, 67_108_865, u64::MAX] {
            let histogram = Histogram::default();
            let took = Duration::from_micros(micros);
            histogram.record(took);
            let bucket = histogram.buckets.iter().position(|b| b.get() == 1).expect("one bucket");
            assert!(took.as_secs_f64() <= bounds[bucket], "{micros} in {bucket}");
            assert!(bucket == 0 || took.as_secs_f64() > bounds[bucket - 1], "{micros} in {bucket}");
            assert_eq!(histogram.micros.get(), micros);
        }
    }

    #[test]
    fn a_gauge_of_several_workers_adds_up() {
        let (a, b) = (Tally::default(), Tally::default());
        a.add(3);
        b.sub(2);
        assert_eq!(a.get().wrapping_add(b.get()), 1);
    }
}
