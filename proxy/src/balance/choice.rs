//! Power of several choices: draw some by weight, take the one that costs least.
//!
//! Mitzenmacher, "The power of two choices in randomized load balancing" (2001). Owns the drawing
//! and the comparison per weight; what an endpoint costs (requests in flight, expected wait) is the
//! caller's.

use super::draw::Draw;
use super::number::{count, float};
use super::rng::Rng;

#[derive(Debug)]
pub(crate) struct Choice {
    draw: Draw,
    choices: u32,
    /// The mean weight over the endpoint's; empty when all weigh the same.
    inverse: Vec<f64>,
}

impl Choice {
    /// `choices` places are drawn, at least 2.
    pub(crate) fn new(weights: &[u64], choices: u32) -> Self {
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let total: f64 = weights.iter().map(|w| float((*w).max(1))).sum();
        let mean = total / count(weights.len());
        let inverse = |w: &u64| mean / float((*w).max(1));
        Self {
            draw: Draw::new(weights),
            choices: choices.max(2),
            inverse: if equal { Vec::new() } else { weights.iter().map(inverse).collect() },
        }
    }

    /// A place among those allowed. `cost` is given a place and by what to multiply its load so that
    /// it counts per weight. A tie goes to the first drawn, which keeps an idle cluster's shares at
    /// the weights. For the same reason a second draw by weight may hit the first place again: were
    /// two always compared, what decides between them would be their cost alone and not their weight.
    pub(crate) fn pick(
        &self,
        rng: &mut Rng,
        allowed: impl Fn(usize) -> bool,
        cost: impl Fn(usize, f64) -> f64,
    ) -> Option<usize> {
        let mut best = self.draw.allowed(rng, &allowed)?;
        if self.draw.len() == 1 {
            return Some(best);
        }
        let mut least = cost(best, self.inverse(best));
        for _ in 1..self.choices {
            let Some(other) = self.other(rng, best) else { continue };
            let other = if allowed(other) {
                Some(other)
            } else {
                self.draw.allowed(rng, |at| at != best && allowed(at))
            };
            let Some(other) = other else { break };
            let costs = cost(other, self.inverse(other));
            if costs < least {
                (best, least) = (other, costs);
            }
        }
        Some(best)
    }

    fn other(&self, rng: &mut Rng, best: usize) -> Option<usize> {
        if self.inverse.is_empty() {
            return self.draw.other(rng, best);
        }
        Some(self.draw.any(rng)).filter(|at| *at != best)
    }

    fn inverse(&self, at: usize) -> f64 {
        self.inverse.get(at).copied().unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 11;

    fn shares(weights: &[u64], load: impl Fn(usize) -> f64, picks: usize) -> Vec<usize> {
        let (choice, mut rng) = (Choice::new(weights, 2), Rng::seeded(SEED));
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            counts[choice
                .pick(&mut rng, |_| true, |at, inverse| load(at) * inverse)
                .expect("not empty")] += 1;
        }
        counts
    }

    #[test]
    fn idle_endpoints_share_by_weight() {
        let counts = shares(&[1, 3], |_| 0.0, 40_000);
        assert!(counts[0].abs_diff(10_000) < 500, "seed {SEED}: {counts:?}");
        for count in shares(&[1; 10], |_| 0.0, 100_000) {
            assert!(count.abs_diff(10_000) < 500, "seed {SEED}: {count}");
        }
    }

    #[test]
    fn of_two_the_busier_one_is_left_alone() {
        assert_eq!(shares(&[1, 1], |at| if at == 0 { 1.0 } else { 0.0 }, 1_000), [0, 1_000]);
        // Twice the load at twice the weight is no more busy.
        let counts = shares(&[2, 1], |at| if at == 0 { 2.0 } else { 1.0 }, 30_000);
        assert!(counts[0].abs_diff(20_000) < 800, "seed {SEED}: {counts:?}");
    }

    #[test]
    fn more_choices_find_the_idle_one_more_often() {
        let found = |choices| {
            let (choice, mut rng) = (Choice::new(&[1; 50], choices), Rng::seeded(SEED));
            let load = |at| if at == 7 { 0.0 } else { 1.0 };
            (0..50_000)
                .filter(|_| choice.pick(&mut rng, |_| true, |at, _| load(at)) == Some(7))
                .count()
        };
        let (two, five) = (found(2), found(5));
        assert!(two.abs_diff(2_000) < 200 && five.abs_diff(4_900) < 500, "{two} {five}");
    }
}
