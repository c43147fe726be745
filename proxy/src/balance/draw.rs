//! Drawing at random by weight in constant time: the alias method (Walker 1977, Vose 1991).
//!
//! Owns the table; who may be drawn is the caller's.

use super::number::{count, float, small, whole};
use super::rng::Rng;

/// Draws before the next place is taken, when not everybody may be drawn.
const DRAWS: usize = 4;
/// One, in the fractions of [`Slot`].
const ONE: f64 = 4_294_967_296.0;

/// A place of the table: it stands for itself in this share of the draws (of 2^32), else for `alias`.
#[derive(Clone, Copy, Debug)]
struct Slot {
    keep: u32,
    alias: u32,
}

/// Places 0 to `len`, drawn by weight.
#[derive(Debug)]
pub(crate) struct Draw {
    len: usize,
    /// Empty when all weigh the same: then a place is drawn directly.
    slots: Vec<Slot>,
}

impl Draw {
    /// By these weights; a weight of 0 counts as 1.
    pub(crate) fn new(weights: &[u64]) -> Self {
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        Self { len: weights.len(), slots: if equal { Vec::new() } else { slots(weights) } }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Any place; 0 when there is none.
    pub(crate) fn any(&self, rng: &mut Rng) -> usize {
        if self.slots.is_empty() {
            return rng.index(self.len);
        }
        let at = rng.index(self.slots.len());
        let share = u32::try_from(rng.next() >> 32).unwrap_or(u32::MAX);
        match self.slots.get(at) {
            Some(slot) if share >= slot.keep => slot.alias as usize,
            _ => at,
        }
    }

    /// Another place than `not`, for places that weigh the same; `None` when there is none.
    pub(crate) fn other(&self, rng: &mut Rng, not: usize) -> Option<usize> {
        let at = rng.index(self.len.checked_sub(1).filter(|rest| *rest > 0)?);
        Some(if at >= not { at + 1 } else { at })
    }

    /// A place that is allowed; `None` only when there is none.
    pub(crate) fn allowed(&self, rng: &mut Rng, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        for _ in 0..DRAWS {
            let at = self.any(rng);
            if allowed(at) {
                return Some(at);
            }
        }
        // Few are allowed: the next one from a random place.
        let start = rng.index(self.len);
        (start..self.len).chain(0..start).find(|at| allowed(*at))
    }
}

/// Vose's construction: each place that has less than the mean is filled up by one that has more.
fn slots(weights: &[u64]) -> Vec<Slot> {
    let total: f64 = weights.iter().map(|w| float((*w).max(1))).sum();
    let mut shares: Vec<f64> =
        weights.iter().map(|w| float((*w).max(1)) * count(weights.len()) / total).collect();
    let mut slots: Vec<Slot> =
        (0..weights.len()).map(|at| Slot { keep: u32::MAX, alias: small(at) }).collect();
    let (mut less, mut more): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|at| shares[*at] < 1.0);
    while let (Some(poor), Some(rich)) = (less.pop(), more.pop()) {
        let keep = u32::try_from(whole(shares[poor] * ONE)).unwrap_or(u32::MAX);
        slots[poor] = Slot { keep, alias: small(rich) };
        shares[rich] -= 1.0 - shares[poor];
        if shares[rich] < 1.0 { &mut less } else { &mut more }.push(rich);
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 5;

    #[test]
    fn places_are_drawn_by_weight() {
        for weights in [&[1, 1, 1][..], &[1, 2, 3, 4], &[1000, 1], &[7], &[0, 0]] {
            let (draw, mut rng) = (Draw::new(weights), Rng::seeded(SEED));
            let mut counts = vec![0_u32; weights.len()];
            (0..100_000).for_each(|_| counts[draw.any(&mut rng)] += 1);
            let total: f64 = weights.iter().map(|w| float((*w).max(1))).sum();
            for (at, weight) in weights.iter().enumerate() {
                let expected = 100_000.0 * float((*weight).max(1)) / total;
                let off = (f64::from(counts[at]) - expected).abs();
                assert!(off < 4.0 * expected.sqrt() + 1.0, "seed {SEED}: {weights:?} {counts:?}");
            }
        }
    }

    #[test]
    fn another_place_is_never_the_same() {
        let mut rng = Rng::seeded(SEED);
        for weights in [&[1, 1, 1][..], &[4], &[]] {
            let draw = Draw::new(weights);
            for not in 0..weights.len() {
                assert!((0..200).all(|_| draw.other(&mut rng, not) != Some(not)));
            }
        }
        assert_eq!(Draw::new(&[4]).other(&mut rng, 0), None);
    }

    #[test]
    fn the_last_one_allowed_is_found_among_many() {
        let (draw, mut rng) = (Draw::new(&[1; 1000]), Rng::seeded(SEED));
        assert_eq!(draw.allowed(&mut rng, |at| at == 777), Some(777));
        assert_eq!(draw.allowed(&mut rng, |_| false), None);
        assert_eq!(Draw::new(&[]).allowed(&mut rng, |_| true), None);
    }
}
