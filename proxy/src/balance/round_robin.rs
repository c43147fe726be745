//! Round robin as earliest deadline first: each endpoint is due again after 1/weight of a round.
//!
//! Exact (over a round each endpoint gets its weight), smooth (a heavy endpoint's turns are spread
//! out) and O(log n) per pick. Owns the turns; refuses to look at load.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::rng::Rng;

/// A round for weight 1, in units of virtual time. Fine enough for any `u32` weight, and in
/// `u128` it does not overflow in the life of a process.
const ROUND: u128 = 1 << 64;

/// When an endpoint is due; ties go by a random order that is fixed while it stays, so that
/// workers that start together do not all begin with the same endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    due: u128,
    order: u64,
    index: usize,
}

#[derive(Debug)]
pub(crate) struct RoundRobin {
    now: u128,
    strides: Vec<u128>,
    turns: BinaryHeap<Reverse<Turn>>,
    /// Turns set aside during one pick; kept for its allocation.
    passed: Vec<Turn>,
}

impl RoundRobin {
    pub(crate) fn new(
        weights: &[u32],
        old: Option<&Self>,
        kept: impl Fn(usize) -> Option<usize>,
        rng: &mut Rng,
    ) -> Self {
        let now = old.map_or(0, |old| old.now);
        let mut before = vec![None; old.map_or(0, |old| old.strides.len())];
        for Reverse(turn) in old.iter().flat_map(|old| &old.turns) {
            before[turn.index] = Some(*turn);
        }
        let strides: Vec<u128> = weights.iter().map(|w| ROUND / u128::from((*w).max(1))).collect();
        let turns = strides
            .iter()
            .enumerate()
            .map(|(index, stride)| {
                let turn = kept(index).and_then(|i| before.get(i).copied().flatten());
                Reverse(match turn {
                    // A weight that grew must not wait for the turn of the old one.
                    Some(turn) => Turn { due: turn.due.min(now + stride), index, ..turn },
                    None => Turn { due: now + stride, order: rng.next(), index },
                })
            })
            .collect();
        Self { now, strides, turns, passed: Vec::new() }
    }

    pub(crate) fn pick(&mut self, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        let mut picked = None;
        while let Some(Reverse(turn)) = self.turns.pop() {
            if allowed(turn.index) {
                picked = Some(turn);
                break;
            }
            self.passed.push(turn);
        }
        // Who is passed over keeps its place in the line.
        self.turns.extend(self.passed.drain(..).map(Reverse));
        let turn = picked?;
        // Never back in time: an endpoint passed over for long is due at once, but once.
        self.now = self.now.max(turn.due);
        self.turns.push(Reverse(Turn { due: self.now + self.strides[turn.index], ..turn }));
        Some(turn.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(weights: &[u32]) -> RoundRobin {
        RoundRobin::new(weights, None, |_| None, &mut Rng::seeded(7))
    }

    #[test]
    fn every_window_of_n_picks_has_each_of_n_equals_once() {
        let mut picker = fresh(&[1; 7]);
        let picks: Vec<usize> = (0..70).filter_map(|_| picker.pick(|_| true)).collect();
        for window in picks.windows(7) {
            let mut sorted = window.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        }
    }

    #[test]
    fn weights_are_met_exactly_and_smoothly() {
        let mut picker = fresh(&[5, 1, 2]);
        let picks: Vec<usize> = (0..800).filter_map(|_| picker.pick(|_| true)).collect();
        let count = |i| picks.iter().filter(|p| **p == i).count();
        assert!(count(0).abs_diff(500) <= 1 && count(1).abs_diff(100) <= 1, "{picks:?}");
        assert!(count(2).abs_diff(200) <= 1);
        // Smooth: never more than two of the heavy one's turns between two other picks' worth.
        let longest = picks.split(|p| *p != 0).map(<[usize]>::len).max();
        assert!(longest <= Some(4), "{longest:?}");
    }

    #[test]
    fn an_endpoint_that_stays_keeps_its_turn() {
        let mut rng = Rng::seeded(3);
        let mut old = fresh(&[1; 4]);
        let first: Vec<usize> = (0..2).filter_map(|_| old.pick(|_| true)).collect();
        let gone = first[0];
        let kept: Vec<usize> = (0..4).filter(|i| *i != gone).collect();
        let mut new = RoundRobin::new(&[1; 3], Some(&old), |i| kept.get(i).copied(), &mut rng);
        let next: Vec<usize> = (0..2).filter_map(|_| new.pick(|_| true)).map(|i| kept[i]).collect();
        assert!(!next.contains(&first[1]), "{first:?} then {next:?}: it had its turn already");
    }

    #[test]
    fn who_is_not_allowed_is_never_picked_and_none_means_none() {
        let mut picker = fresh(&[1, 1, 1]);
        for _ in 0..30 {
            assert_ne!(picker.pick(|i| i != 1), Some(1));
        }
        assert_eq!(picker.pick(|_| false), None);
        assert_eq!(fresh(&[]).pick(|_| true), None);
    }
}
