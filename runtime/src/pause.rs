//! Pauses between tries.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Between half of the pause and all of it, so that those who failed together do not come back
/// together.
#[must_use]
pub fn jittered(pause: Duration) -> Duration {
    let share = RandomState::new().hash_one(0_u8) % 1024;
    pause / 2 + pause * u32::try_from(share).unwrap_or(0) / 2048
}
