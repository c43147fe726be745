//! How fast streams are let in. After a restart all clients come at once, and each wants its first
//! full state.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Longest a stream is made to wait; one that would have to wait longer is refused.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Of the rate, the part that one address may take for long: nobody uses up the turns of all.
const SHARE: u32 = 4;
/// Addresses that are remembered; past this those that have not come lately are
/// forgotten, and new ones have the common bucket alone.
const MAX_ADDRESSES: usize = 16_384;

/// Lets in a burst at once and then so many a second: a bucket that is known by the time at which
/// it will be full again (the generic cell rate algorithm of ITU-T I.371).
#[derive(Debug)]
pub(super) struct Admission {
    /// Time between two streams.
    interval: Duration,
    /// How far ahead of its time the bucket may be emptied.
    burst: Duration,
    buckets: Mutex<Buckets>,
}

/// When each bucket will be full again.
#[derive(Debug, Default)]
struct Buckets {
    all: Option<Instant>,
    by_address: HashMap<IpAddr, Instant>,
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
        Self { interval, burst: interval * rate.max(1), buckets: Mutex::default() }
    }

    /// Asks for a stream that arrives now, from this address; those of this machine share no
    /// bucket of their own.
    pub(super) fn reserve(&self, now: Instant, from: Option<IpAddr>) -> Admitted {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let after = |full_at: Option<Instant>, interval: Duration| {
            let next = full_at.map_or(now, |at| at.max(now)) + interval;
            (next, next.duration_since(now).saturating_sub(self.burst))
        };
        let from = from.filter(|address| !address.is_loopback());
        let own = from.map(|address| {
            let full_at = buckets.by_address.get(&address).copied();
            (address, after(full_at, self.interval * SHARE))
        });
        let (all, mut wait) = after(buckets.all, self.interval);
        if let Some((_, (_, own))) = own {
            wait = wait.max(own);
        }
        if wait > MAX_WAIT {
            return Admitted::Refused;
        }
        buckets.all = Some(all);
        if let Some((address, (next, _))) = own {
            if buckets.by_address.len() >= MAX_ADDRESSES {
                buckets.by_address.retain(|_, full_at| *full_at > now);
            }
            if buckets.by_address.len() < MAX_ADDRESSES || buckets.by_address.contains_key(&address)
            {
                buckets.by_address.insert(address, next);
            }
        }
        Admitted::After(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Arrivals at these times in milliseconds, and how long each waits, in milliseconds.
    fn waits(admission: &Admission, arrivals: &[u64]) -> Vec<Option<u128>> {
        let start = Instant::now();
        let wait = |at: &u64| match admission.reserve(start + Duration::from_millis(*at), None) {
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

    #[test]
    fn an_address_that_comes_all_the_time_leaves_turns_to_others() {
        let eight = Admission::new(8);
        let (hostile, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let start = Instant::now();
        let mut let_in = 0;
        // Ten seconds of 100 streams a second.
        for n in 0..1000 {
            let now = start + Duration::from_millis(n * 10);
            let_in += usize::from(eight.reserve(now, Some(hostile)) != Admitted::Refused);
        }
        // Its burst, two a second, and those that wait their 20 s for it.
        assert!((60..=75).contains(&let_in), "{let_in}");
        let now = start + Duration::from_secs(10);
        assert_eq!(eight.reserve(now, Some(other)), Admitted::After(Duration::ZERO));
        let own = match eight.reserve(now, Some(hostile)) {
            Admitted::After(wait) => wait,
            Admitted::Refused => MAX_WAIT,
        };
        assert!(own > MAX_WAIT - Duration::from_secs(1), "{own:?}");
        let local = [127, 0, 0, 1].into();
        assert_eq!(eight.reserve(now, Some(local)), Admitted::After(Duration::ZERO));
    }
}
