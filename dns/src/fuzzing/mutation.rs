//! Packets that are nearly right: seeded, so that a finding can be had again.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug)]
/// splitmix64: enough to mutate with, and a seed says it all.
pub struct Random(u64);

impl Random {
    /// From the seed in `PORTOLAN_SEED`, else from one that is new each time; it is printed.
    #[must_use]
    pub fn seeded() -> Self {
        let given = std::env::var("PORTOLAN_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            RandomState::new().hash_one(now)
        });
        println!("PORTOLAN_SEED={seed}");
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below a limit.
    ///
    /// # Panics
    /// Never: what is below a `usize` fits one.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).expect("fits");
        usize::try_from(self.number() % limit).expect("below a usize")
    }

    fn octet(&mut self) -> u8 {
        self.number().to_be_bytes()[0]
    }
}

/// Changes a few things about a packet.
pub fn mutate(random: &mut Random, packet: &mut Vec<u8>) {
    for _ in 0..=random.below(6) {
        let at = random.below(packet.len());
        match random.below(6) {
            0 => packet.truncate(at),
            1 => packet.insert(at.min(packet.len()), random.octet()),
            2 if !packet.is_empty() => packet[at] = random.octet(),
            3 if !packet.is_empty() => packet[at] ^= 1 << random.below(8),
            4 if !packet.is_empty() => {
                packet.remove(at);
            }
            _ => {
                let piece = packet[at..].to_vec();
                packet.extend(piece.into_iter().take(40));
            }
        }
    }
}
