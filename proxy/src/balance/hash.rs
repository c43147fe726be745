//! Balancing by a hash, so that what has the same hash keeps its endpoint.
//!
//! Owns hashing, the two tables (ring, Maglev) and what happens when the endpoint a hash stands for
//! cannot be used: the next on the ring, another place of the table, always the same one for the
//! same hash. What is hashed of a request is the caller's.

mod maglev;
mod ring;

use xxhash_rust::xxh64::{Xxh64, xxh64};

use maglev::Maglev;
use ring::Ring;

use super::number::{count, float, whole};

/// Places of a table looked at before all endpoints are compared.
const STEPS: usize = 64;

/// The hash of these parts one after the other (xxHash64 without a seed, as in Envoy and gRPC).
pub(crate) fn of(parts: &[&[u8]]) -> u64 {
    if let [part] = parts {
        return xxh64(part, 0);
    }
    let mut state = Xxh64::new(0);
    parts.iter().for_each(|part| state.update(part));
    state.digest()
}

/// The hash of several policies: each further one goes into a turn of what there is (Envoy
/// `HashPolicyImpl`).
pub(crate) fn combine(before: Option<u64>, next: u64) -> u64 {
    before.map_or(next, |before| before.rotate_left(1) ^ next)
}

/// Which table, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Fewest and most points.
    Ring(u64, u64),
    /// Places.
    Maglev(u32),
}

#[derive(Debug)]
enum Points {
    Ring(Ring),
    Maglev(Maglev),
}

/// A table over endpoints with a key and a weight each.
#[derive(Debug)]
pub(crate) struct Table {
    points: Points,
    /// What the table was made of.
    made_of: u64,
    /// One hash for each endpoint's key.
    keys: Vec<u64>,
}

impl Table {
    /// Tells tables apart by what they are made of.
    pub(crate) fn made_of(shape: Shape, endpoints: &[(String, u64)]) -> u64 {
        let mut state = Xxh64::new(0);
        let (kind, least, most) = match shape {
            Shape::Ring(least, most) => (0_u8, least, most),
            Shape::Maglev(places) => (1, u64::from(places), 0),
        };
        state.update(&[kind]);
        state.update(&least.to_le_bytes());
        state.update(&most.to_le_bytes());
        for (key, weight) in endpoints {
            state.update(key.as_bytes());
            state.update(&[0]);
            state.update(&weight.to_le_bytes());
        }
        state.digest()
    }

    pub(crate) fn new(shape: Shape, endpoints: &[(String, u64)]) -> Self {
        let points = match shape {
            Shape::Ring(least, most) => Points::Ring(Ring::new(endpoints, least, most)),
            Shape::Maglev(places) => Points::Maglev(Maglev::new(endpoints, places)),
        };
        let keys = endpoints.iter().map(|(key, _)| of(&[key.as_bytes()])).collect();
        Self { points, made_of: Self::made_of(shape, endpoints), keys }
    }

    pub(crate) fn is_made_of(&self, made_of: u64) -> bool {
        self.made_of == made_of
    }

    /// The endpoint for a hash: the first allowed one that also `fits` (is not at its bound), from
    /// the place of the hash on; when none fits, the first allowed one.
    pub(crate) fn pick(
        &self,
        hash: u64,
        allowed: impl Fn(usize) -> bool,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let start = self.start(hash);
        let mut fallback = None;
        let mut last = None;
        for step in 0..STEPS {
            let at = self.step(hash, start, step)?;
            if last.replace(at) == Some(at) || !allowed(at) {
                continue;
            }
            if fits(at) {
                return Some(at);
            }
            fallback = fallback.or(Some(at));
        }
        self.highest(hash, |at| allowed(at) && fits(at))
            .or(fallback)
            .or_else(|| self.highest(hash, allowed))
    }

    fn start(&self, hash: u64) -> usize {
        match &self.points {
            Points::Ring(ring) => ring.start(hash),
            Points::Maglev(_) => 0,
        }
    }

    fn step(&self, hash: u64, start: usize, step: usize) -> Option<usize> {
        match &self.points {
            Points::Ring(ring) => ring.at(start, step),
            Points::Maglev(maglev) if step == 0 => maglev.at(hash),
            Points::Maglev(maglev) => maglev.at(mix(hash, u64::try_from(step).unwrap_or(u64::MAX))),
        }
    }

    /// Few are left: the one whose key goes highest together with the hash (Thaler and Ravishankar
    /// 1998), so that the choice hangs on who is left and nothing else.
    fn highest(&self, hash: u64, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        let left = (0..self.keys.len()).filter(|at| allowed(*at));
        left.max_by_key(|at| self.keys.get(*at).map(|key| mix(hash, *key)))
    }
}

/// Requests that an endpoint may have in flight so that it stays within `percent` of what is its
/// share of `total` and one more (consistent hashing with bounded loads, Mirrokni and others 2016).
pub(crate) fn bound(percent: u32, total: u32, share: f64) -> u32 {
    let fair = (f64::from(total) + 1.0) * share * f64::from(percent) / 100.0;
    u32::try_from(whole(fair.ceil())).unwrap_or(u32::MAX)
}

/// Two numbers as one, evenly (splitmix64's finish).
fn mix(a: u64, b: u64) -> u64 {
    let mut z = a ^ b.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Weights as shares of their sum; equal ones when all are 0.
fn shares(endpoints: &[(String, u64)]) -> Vec<f64> {
    let total: f64 = endpoints.iter().map(|(_, weight)| float(*weight)).sum();
    let share = |weight: u64| {
        if total > 0.0 { float(weight) / total } else { 1.0 / count(endpoints.len()) }
    };
    endpoints.iter().map(|(_, weight)| share(*weight)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_xxhash64_and_combine_in_order() {
        assert_eq!(of(&[b""]), 0xef46_db37_51d8_e999);
        assert_eq!(of(&[b"a"]), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(of(&[b"ab", b"c"]), of(&[b"abc"]));
        assert_eq!(combine(None, 5), 5);
        assert_eq!(combine(Some(1 << 63), 5), 1 ^ 5);
        assert_ne!(combine(Some(3), 9), combine(Some(9), 3));
    }

    #[test]
    fn the_bound_is_the_share_of_the_load_and_a_little_more() {
        for (percent, total, share, expected) in
            [(125, 0, 0.1, 1), (125, 99, 0.1, 13), (100, 9, 0.5, 5), (200, u32::MAX, 1.0, u32::MAX)]
        {
            assert_eq!(bound(percent, total, share), expected, "{percent} {total} {share}");
        }
    }
}
