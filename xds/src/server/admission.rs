//! How fast streams are let in. After a restart all clients come at once, and each wants its first
//! full state.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Longest a stream is made to wait; one that would have to wait longer is refused.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Lets in a burst at once and then so many a second: a bucket that is known by the time at which
/// it will be full again (the generic cell rate algorithm of ITU-T I.371).
#[derive(Debug)]
pub(super) struct Admission {
    /// Time between two streams.
    interval: Duration,
    /// How far ahead of its time the bucket may be emptied.
    burst: Duration,
    full_at: Mutex<Option<Instant>>,
}

/// What becomes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admitted {
    /// It is let in after this time.
    After(Duration),
    /// Too many wait already.
    Refused,
}

impl Admission {
    /// `rate` streams a second, and as many at once.
    pub(super) fn new(rate: u32) -> Self {
        let interval = Duration::from_secs(1) / rate.max(1);
        Self { interval, burst: interval * rate.max(1), full_at: Mutex::default() }
    }

    /// Asks for a stream that arrives now.
    pub(super) fn reserve(&self, now: Instant) -> Admitted {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let next = full_at.map_or(now, |at| at.max(now)) + self.interval;
        let wait = next.duration_since(now).saturating_sub(self.burst);
        if wait > MAX_WAIT {
            return Admitted::Refused;
        }
        *full_at = Some(next);
        Admitted::After(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arrivals at these times in milliseconds, and how long each waits, in milliseconds.
    fn waits(admission: &Admission, arrivals: &[u64]) -> Vec<Option<u128>> {
        let start = Instant::now();
        let wait = |at: &u64| match admission.reserve(start + Duration::from_millis(*at)) {
            Admitted::After(wait) => Some(wait.as_millis()),
            Admitted::Refused => None,
        };
        arrivals.iter().map(wait).collect()
    }

    #[test]
    fn a_burst_passes_and_the_rest_is_spread() {
        let two = Admission::new(2);
        let expected = [0, 0, 500, 1000, 1500].map(Some);
        assert_eq!(waits(&two, &[0, 0, 0, 0, 0]), expected);
        // Four seconds later the bucket is full again.
        assert_eq!(
            waits(&Admission::new(2), &[0, 0, 0, 4000, 4000, 4000]),
            [0, 0, 500, 0, 0, 500].map(Some)
        );
    }

    #[test]
    fn who_would_wait_too_long_is_refused_and_takes_no_place() {
        let one = Admission::new(1);
        let got = waits(&one, &[0; 30]);
        assert_eq!(got.iter().filter(|wait| wait.is_some()).count(), 21);
        assert_eq!(got.last(), Some(&None));
        assert_eq!(waits(&one, &[5000]).len(), 1);
    }
}
