//! Round robin: in turn when all weigh the same, else earliest deadline first, where each endpoint
//! is due again after 1/weight of a round.
//!
//! Exact (over a round each endpoint gets its weight), smooth (a heavy endpoint's turns are spread
//! out), O(1) per pick for equals and O(log n) else. Owns the turns; refuses to look at load.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::number::small;
use super::rng::Rng;

/// A round for weight 1, in units of virtual time. Fine enough for any weight, and in `u128` it
/// does not overflow in the life of a process.
const ROUND: u128 = 1 << 64;

/// How much of its own round an endpoint still has to wait, of 2^32. Has the same meaning whatever
/// the weights, so that turns outlive a change of endpoints or weights.
pub(crate) type Wait = u64;
const WHOLE: Wait = 1 << 32;

/// When an endpoint is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    due: u128,
    index: usize,
}

#[derive(Debug)]
pub(crate) struct RoundRobin(Turns);

#[derive(Debug)]
enum Turns {
    /// All weigh the same: who is next is at `at`.
    Cycle { order: Vec<u32>, at: usize },
    /// By deadlines.
    Deadlines(Deadlines),
}

#[derive(Debug)]
struct Deadlines {
    now: u128,
    strides: Vec<u128>,
    turns: BinaryHeap<Reverse<Turn>>,
    /// Turns set aside during one pick; kept for its allocation.
    passed: Vec<Turn>,
}

impl RoundRobin {
    /// Over these weights. `before` gives what an endpoint had still to wait; one without begins
    /// anywhere in its round, so that workers that start together do not pick in step.
    pub(crate) fn new(
        weights: &[u64],
        before: impl Fn(usize) -> Option<Wait>,
        rng: &mut Rng,
    ) -> Self {
        let waits: Vec<Wait> = (0..weights.len())
            .map(|index| before(index).unwrap_or_else(|| rng.below(WHOLE)).min(WHOLE))
            .collect();
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            let mut order: Vec<u32> = (0..weights.len()).map(small).collect();
            order.sort_by_key(|index| waits.get(*index as usize).copied());
            return Self(Turns::Cycle { order, at: 0 });
        }
        let strides: Vec<u128> = weights.iter().map(|w| ROUND / u128::from((*w).max(1))).collect();
        let turns = strides.iter().zip(&waits).enumerate();
        let turns = turns
            .map(|(index, (stride, wait))| Reverse(Turn { due: due_in(*stride, *wait), index }));
        let turns = turns.collect();
        Self(Turns::Deadlines(Deadlines { now: 0, strides, turns, passed: Vec::new() }))
    }

    /// What each index has still to wait.
    pub(crate) fn waits(&self) -> Vec<(usize, Wait)> {
        match &self.0 {
            Turns::Cycle { order, at } => {
                let part = WHOLE / Wait::from(small(order.len().max(1)));
                let from_next = order.iter().cycle().skip(*at).take(order.len());
                (0..).zip(from_next).map(|(k, index)| (*index as usize, part * k)).collect()
            }
            Turns::Deadlines(deadlines) => deadlines.waits(),
        }
    }

    /// The next one of those allowed; who is passed over keeps its place in the line.
    pub(crate) fn pick(&mut self, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        match &mut self.0 {
            Turns::Cycle { order, at } => next_in_cycle(order, at, allowed),
            Turns::Deadlines(deadlines) => deadlines.pick(allowed),
        }
    }
}

impl Deadlines {
    fn pick(&mut self, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        let mut picked = None;
        while let Some(Reverse(turn)) = self.turns.pop() {
            if allowed(turn.index) {
                picked = Some(turn);
                break;
            }
            self.passed.push(turn);
        }
        self.turns.extend(self.passed.drain(..).map(Reverse));
        let turn = picked?;
        // Never back in time: an endpoint passed over for long is due at once, but once.
        self.now = self.now.max(turn.due);
        let stride = self.strides.get(turn.index).copied().unwrap_or(ROUND);
        self.turns.push(Reverse(Turn { due: self.now + stride, ..turn }));
        Some(turn.index)
    }

    fn waits(&self) -> Vec<(usize, Wait)> {
        let wait = |turn: &Turn| {
            let stride = self.strides.get(turn.index).copied().unwrap_or(ROUND).max(1);
            let left = turn.due.saturating_sub(self.now).min(stride);
            Wait::try_from(left * u128::from(WHOLE) / stride).unwrap_or(WHOLE)
        };
        self.turns.iter().map(|Reverse(turn)| (turn.index, wait(turn))).collect()
    }
}

/// `stride` is at most 2^64 and `wait` at most 2^32, so the product fits.
fn due_in(stride: u128, wait: Wait) -> u128 {
    stride * u128::from(wait) / u128::from(WHOLE)
}

fn next_in_cycle(
    order: &mut [u32],
    at: &mut usize,
    allowed: impl Fn(usize) -> bool,
) -> Option<usize> {
    let len = order.len();
    let place = |k: usize| if *at + k < len { *at + k } else { *at + k - len };
    let found = (0..len).find(|k| order.get(place(*k)).is_some_and(|i| allowed(*i as usize)))?;
    // Who was passed over moves up by one, so that it is next.
    for k in (1..=found).rev() {
        order.swap(place(k), place(k - 1));
    }
    let picked = order.get(place(0)).copied()?;
    *at = place(1) % len;
    Some(picked as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(weights: &[u64]) -> RoundRobin {
        RoundRobin::new(weights, |_| None, &mut Rng::seeded(7))
    }

    #[test]
    fn every_window_of_n_picks_has_each_of_n_equals_once() {
        let mut picker = fresh(&[3; 7]);
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
        // Smooth: a run of the heavy one is never much longer than its weight over the others'.
        let longest = picks.split(|p| *p != 0).map(<[usize]>::len).max();
        assert!(longest <= Some(4), "{longest:?}");
    }

    #[test]
    fn an_endpoint_that_stays_keeps_its_turn() {
        for weights in [[1; 4], [1, 2, 1, 1]] {
            let mut old = fresh(&weights);
            let first: Vec<usize> = (0..2).filter_map(|_| old.pick(|_| true)).collect();
            let kept: Vec<usize> = (0..4).filter(|i| *i != first[0]).collect();
            let waits = old.waits();
            let before = |i: usize| waits.iter().find(|(w, _)| *w == kept[i]).map(|(_, w)| *w);
            let left: Vec<u64> = kept.iter().map(|i| weights[*i]).collect();
            let mut new = RoundRobin::new(&left, before, &mut Rng::seeded(3));
            let old_next = std::iter::repeat_with(|| old.pick(|i| i != first[0]));
            let expected: Vec<Option<usize>> = old_next.take(3).collect();
            let next: Vec<Option<usize>> =
                (0..3).map(|_| new.pick(|_| true).map(|i| kept[i])).collect();
            assert_eq!(next, expected, "{weights:?}");
        }
    }

    #[test]
    fn who_is_passed_over_is_next() {
        for weights in [[1; 3], [2, 3, 2]] {
            let mut picker = fresh(&weights);
            let first = picker.pick(|_| true).expect("not empty");
            let waiting = (0..3).find(|i| *i != first).expect("two are left");
            for _ in 0..5 {
                assert_ne!(picker.pick(|i| i != waiting), Some(waiting));
            }
            assert_eq!(picker.pick(|_| true), Some(waiting), "{weights:?}");
        }
    }

    #[test]
    fn who_is_not_allowed_is_never_picked_and_none_means_none() {
        for weights in [[1, 1, 1], [1, 2, 3]] {
            let mut picker = fresh(&weights);
            for _ in 0..30 {
                assert_ne!(picker.pick(|i| i != 1), Some(1));
            }
            assert_eq!(picker.pick(|_| false), None);
        }
        assert_eq!(fresh(&[]).pick(|_| true), None);
    }
}
