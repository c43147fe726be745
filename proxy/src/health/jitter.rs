//! Chance, for what must not happen in step. Refuses any use that needs unpredictability.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A time from zero up to `most`.
pub(crate) fn up_to(most: Duration) -> Duration {
    share(most, RandomState::new().hash_one(0_u8))
}

/// The share `random / 2^64` of a time.
fn share(of: Duration, random: u64) -> Duration {
    let nanos = u64::try_from(of.as_nanos()).unwrap_or(u64::MAX);
    let wide = u128::from(nanos) * u128::from(random);
    Duration::from_nanos(u64::try_from(wide >> 64).unwrap_or(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_time_is_never_more_than_the_time() {
        let second = Duration::from_secs(1);
        assert_eq!(share(second, 0), Duration::ZERO);
        assert_eq!(share(second, 1 << 63), second / 2);
        assert!(share(second, u64::MAX) < second);
        assert!(share(Duration::MAX, u64::MAX) < Duration::MAX);
        assert!((0..50).all(|_| up_to(second) < second));
        assert!((0..50).any(|_| up_to(second) != up_to(second)));
    }
}
