//! Power of two choices: draw two by weight, take the one with fewer requests in flight.
//!
//! Mitzenmacher, "The power of two choices in randomized load balancing" (2001). Owns the drawing;
//! the load is the caller's.

use super::rng::Rng;

#[derive(Debug)]
pub(crate) struct LeastRequest {
    weights: Vec<u32>,
    /// Running sums of the weights; empty when all are equal (then an index is drawn directly).
    sums: Vec<u64>,
}

/// Draws for a second endpoint that differs from the first before the next index is taken.
const DRAWS: usize = 4;

impl LeastRequest {
    pub(crate) fn new(weights: &[u32]) -> Self {
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let mut sum = 0_u64;
        let sums = if equal {
            Vec::new()
        } else {
            weights
                .iter()
                .map(|w| {
                    sum += u64::from((*w).max(1));
                    sum
                })
                .collect()
        };
        Self { weights: weights.iter().map(|w| (*w).max(1)).collect(), sums }
    }

    pub(crate) fn pick(
        &self,
        rng: &mut Rng,
        load: impl Fn(usize) -> u32,
        allowed: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let first = self.draw(rng, &allowed)?;
        let second = self.draw(rng, |i| i != first && allowed(i)).unwrap_or(first);
        // In flight per weight, compared crosswise; a tie goes to the first drawn, which keeps an
        // idle cluster's shares at the weights.
        let per_weight = |a: usize, b: usize| u64::from(load(a)) * u64::from(self.weights[b]);
        Some(if per_weight(second, first) < per_weight(first, second) { second } else { first })
    }

    fn draw(&self, rng: &mut Rng, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        let len = self.weights.len();
        if len == 0 {
            return None;
        }
        for _ in 0..DRAWS {
            let drawn = self.draw_any(rng);
            if allowed(drawn) {
                return Some(drawn);
            }
        }
        // Few are allowed: the next one from a random place.
        let start = rng.index(len);
        (start..len).chain(0..start).find(|i| allowed(*i))
    }

    fn draw_any(&self, rng: &mut Rng) -> usize {
        match self.sums.last() {
            None => rng.index(self.weights.len()),
            Some(total) => {
                let point = rng.below(*total);
                self.sums.partition_point(|sum| *sum <= point)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 11;

    fn shares(weights: &[u32], load: impl Fn(usize) -> u32, picks: usize) -> Vec<usize> {
        let (picker, mut rng) = (LeastRequest::new(weights), Rng::seeded(SEED));
        let mut counts = vec![0; weights.len()];
        for _ in 0..picks {
            counts[picker.pick(&mut rng, &load, |_| true).expect("not empty")] += 1;
        }
        counts
    }

    #[test]
    fn idle_equals_get_equal_shares() {
        for count in shares(&[1; 10], |_| 0, 100_000) {
            assert!(count.abs_diff(10_000) < 500, "seed {SEED}: {count}");
        }
    }

    #[test]
    fn idle_endpoints_share_by_weight() {
        let counts = shares(&[1, 3], |_| 0, 40_000);
        assert!(counts[0].abs_diff(10_000) < 500, "seed {SEED}: {counts:?}");
    }

    #[test]
    fn of_two_the_busier_one_is_left_alone() {
        assert_eq!(shares(&[1, 1], |i| u32::from(i == 0), 1_000), [0, 1_000]);
        // Twice the load at twice the weight is no more busy.
        let counts = shares(&[2, 1], |i| if i == 0 { 2 } else { 1 }, 30_000);
        assert!(counts[0].abs_diff(20_000) < 800, "seed {SEED}: {counts:?}");
    }

    #[test]
    fn the_busiest_of_many_is_never_picked() {
        let counts = shares(&[1; 8], |i| if i == 3 { 9 } else { 1 }, 10_000);
        assert_eq!(counts[3], 0);
    }

    #[test]
    fn the_last_one_allowed_is_found_among_many() {
        let (picker, mut rng) = (LeastRequest::new(&[1; 1000]), Rng::seeded(SEED));
        assert_eq!(picker.pick(&mut rng, |_| 0, |i| i == 777), Some(777));
        assert_eq!(picker.pick(&mut rng, |_| 0, |_| false), None);
        assert_eq!(LeastRequest::new(&[]).pick(&mut rng, |_| 0, |_| true), None);
    }
}
