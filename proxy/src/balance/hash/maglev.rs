//! Maglev's table (Eisenbud and others, NSDI 2016, §3.4): endpoints take places in turn, each by a
//! permutation of its own, until none is left.

use super::{mix, of, shares};
use crate::balance::number::small;

/// Largest table (Envoy's bound).
const MAX_PLACES: u32 = 5_000_011;
/// A place nobody has.
const FREE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Maglev(Vec<u32>);

/// An endpoint that takes places: where it is in its permutation, and how much it has a right to.
struct Taker {
    index: u32,
    next: u64,
    skip: u64,
    share: f64,
    credit: f64,
}

impl Maglev {
    /// A table of `places` (a prime, so that every permutation reaches every place).
    pub(super) fn new(endpoints: &[(String, u64)], places: u32) -> Self {
        let places = places.clamp(3, MAX_PLACES);
        let modulus = u64::from(places);
        let shares = shares(endpoints);
        let greatest = shares.iter().copied().fold(0.0, f64::max);
        let mut takers: Vec<Taker> = endpoints
            .iter()
            .zip(&shares)
            .enumerate()
            .filter(|(_, (_, share))| **share > 0.0)
            .map(|(index, ((key, _), share))| {
                let hash = of(&[key.as_bytes()]);
                Taker {
                    index: small(index),
                    next: hash % modulus,
                    skip: mix(hash, 1) % (modulus - 1) + 1,
                    share: share / greatest,
                    credit: 0.0,
                }
            })
            .collect();
        // By key, so that the table does not hang on the order endpoints are listed in.
        takers.sort_by(|a, b| key(endpoints, a).cmp(key(endpoints, b)));
        Self(if takers.is_empty() { Vec::new() } else { fill(&mut takers, places) })
    }

    /// Whose place a hash falls on.
    pub(super) fn at(&self, hash: u64) -> Option<usize> {
        let places = u64::try_from(self.0.len()).ok().filter(|places| *places > 0)?;
        let place = usize::try_from(hash % places).ok()?;
        self.0.get(place).map(|owner| *owner as usize)
    }
}

fn key<'a>(endpoints: &'a [(String, u64)], taker: &Taker) -> &'a str {
    endpoints.get(taker.index as usize).map_or("", |(key, _)| key)
}

/// Rounds in which the heaviest takes one place and the others one whenever their share adds up to
/// one. Every taker's permutation reaches every place only when the size is a prime; for one that
/// is not, a search ends after a whole cycle and goes to the next place.
fn fill(takers: &mut [Taker], places: u32) -> Vec<u32> {
    let modulus = u64::from(places);
    let mut table = vec![FREE; places as usize];
    let mut left = places;
    while left > 0 {
        for taker in takers.iter_mut() {
            taker.credit += taker.share;
            if taker.credit < 1.0 || left == 0 {
                continue;
            }
            taker.credit -= 1.0;
            let mut steps = 0;
            while !take(&mut table, taker) {
                steps += 1;
                let skip = if steps % modulus == 0 { taker.skip + 1 } else { taker.skip };
                let next = taker.next + skip;
                taker.next = if next >= modulus { next - modulus } else { next };
            }
            left -= 1;
        }
    }
    table
}

fn take(table: &mut [u32], taker: &Taker) -> bool {
    match usize::try_from(taker.next).ok().and_then(|at| table.get_mut(at)) {
        Some(place) if *place == FREE => {
            *place = taker.index;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[&str], weights: &[u64], places: u32) -> Maglev {
        let endpoints: Vec<(String, u64)> =
            names.iter().zip(weights).map(|(n, w)| ((*n).to_owned(), *w)).collect();
        Maglev::new(&endpoints, places)
    }

    #[test]
    fn places_are_shared_by_weight_almost_exactly() {
        for (weights, places) in [(&[1, 1, 1][..], 65_537), (&[1, 2, 5], 65_537), (&[3, 1], 100)] {
            let table = table(&["a", "b", "c"], weights, places);
            let total: u64 = weights.iter().sum();
            for (index, weight) in weights.iter().enumerate() {
                let has = table.0.iter().filter(|owner| **owner == small(index)).count();
                let expected = places as usize * usize::try_from(*weight).expect("small")
                    / usize::try_from(total).expect("small");
                assert!(has.abs_diff(expected) <= 2, "{weights:?} {index}: {has} {expected}");
            }
        }
    }

    #[test]
    fn the_order_of_endpoints_does_not_matter() {
        let (one, other) = (table(&["a", "b"], &[1, 2], 101), table(&["b", "a"], &[2, 1], 101));
        assert!(one.0.iter().zip(&other.0).all(|(a, b)| *a == 1 - *b));
        assert_eq!(table(&[], &[], 101).at(5), None);
    }
}
