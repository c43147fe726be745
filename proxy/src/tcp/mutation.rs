//! Input that is nearly right, for tests of what reads bytes nobody vouches for.

use std::hash::{BuildHasher as _, RandomState};

use crate::balance::Rng;

/// Calls `check` with `rounds` mutations of the seeds. The seed comes from `PORTOLAN_SEED`, else is
/// new each time; it is printed.
pub(crate) fn of(seeds: &[Vec<u8>], rounds: usize, check: impl Fn(&[u8])) {
    let given = std::env::var("PORTOLAN_SEED").ok().and_then(|s| s.parse().ok());
    let seed = given.unwrap_or_else(|| RandomState::new().hash_one(seeds));
    println!("PORTOLAN_SEED={seed}");
    let mut rng = Rng::seeded(seed);
    let mut below = move |limit: usize| rng.index(limit);
    for _ in 0..rounds {
        let mut bytes = seeds[below(seeds.len())].clone();
        for _ in 0..below(6) {
            let at = below(bytes.len());
            let octet = u8::try_from(below(256)).expect("below");
            match below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at.min(bytes.len()), octet),
                2 if !bytes.is_empty() => bytes[at] = octet,
                3 if !bytes.is_empty() => bytes[at] ^= 1 << below(8),
                4 if !bytes.is_empty() => {
                    bytes.remove(at);
                }
                _ => {
                    let piece = bytes[at..].to_vec();
                    bytes.extend(piece.into_iter().take(40));
                }
            }
        }
        check(&bytes);
    }
}
