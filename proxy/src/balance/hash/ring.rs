//! A ring of points (ketama; Envoy's ring hash, gRFC A42): each endpoint has as many points as it
//! weighs, a hash belongs to the next point from its place on.

use super::{of, shares};
use crate::balance::number::{count, float, small, whole};

/// Most points of a ring, whatever the configuration says: 12 MB per worker.
const MAX_POINTS: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Ring {
    /// Places of the points in order, and whose they are; apart, so that a search reads only the
    /// places.
    places: Vec<u64>,
    owners: Vec<u32>,
}

impl Ring {
    /// A ring of `least` to twice as many points, more when the lightest endpoint would have none
    /// otherwise, but not more than `most`.
    pub(super) fn new(endpoints: &[(String, u64)], least: u64, most: u64) -> Self {
        let shares = shares(endpoints);
        let lightest = shares.iter().copied().filter(|s| *s > 0.0).fold(1.0, f64::min);
        let most = float(most.clamp(1, MAX_POINTS)).max(count(endpoints.len()));
        // A whole number of points for the lightest, so that equal weights get equal numbers; and a
        // power of two, so that it seldom changes when endpoints come and go: as long as it does
        // not, no key moves but those of the endpoint that left or to the one that joined. (Envoy
        // takes the number as it is, and with it a few other keys move each time.)
        let points = whole((lightest * float(least)).ceil()).clamp(1, MAX_POINTS);
        let size = (float(points.next_power_of_two()) / lightest).min(most);
        let mut points = Vec::with_capacity(usize::try_from(whole(size)).unwrap_or(0));
        let (mut wanted, mut made, mut name) = (0.0, 0.0, String::new());
        for (index, ((key, _), share)) in endpoints.iter().zip(&shares).enumerate() {
            wanted += size * share;
            let mut number = 0_u64;
            // Sums of shares are a little off: half a point is not worth another one. Everybody has
            // one, and who comes after makes up for it.
            while made + 0.5 < wanted || (number == 0 && *share > 0.0) {
                name.clear();
                name.push_str(key);
                name.push('_');
                name.push_str(&number.to_string());
                points.push((of(&[name.as_bytes()]), small(index)));
                number += 1;
                made += 1.0;
            }
        }
        points.sort_unstable();
        let (places, owners) = points.into_iter().unzip();
        Self { places, owners }
    }

    /// Where a hash is on the ring.
    pub(super) fn start(&self, hash: u64) -> usize {
        self.places.partition_point(|place| *place < hash)
    }

    /// Whose the point is that lies `step` points after `start`.
    pub(super) fn at(&self, start: usize, step: usize) -> Option<usize> {
        let at = start.checked_add(step)?.checked_rem(self.owners.len())?;
        self.owners.get(at).map(|owner| *owner as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(weights: &[u64], least: u64, most: u64) -> Vec<usize> {
        let endpoints: Vec<(String, u64)> =
            weights.iter().enumerate().map(|(n, w)| (format!("10.0.0.{n}:80"), *w)).collect();
        let ring = Ring::new(&endpoints, least, most);
        assert!(ring.places.is_sorted());
        let of = |n| ring.owners.iter().filter(|owner| **owner as usize == n).count();
        (0..weights.len()).map(of).collect()
    }

    #[test]
    fn endpoints_have_points_by_their_weight() {
        #[rustfmt::skip]
        let cases: [(&[u64], u64, u64, &[usize]); 6] = [
            (&[1, 1, 1], 12, 100, &[4, 4, 4]), (&[1, 1, 1], 10, 100, &[4, 4, 4]),
            (&[1, 2], 3, 100, &[1, 2]), (&[1, 2, 1], 2, 100, &[1, 2, 1]),
            (&[1, 1], 100, 10, &[5, 5]), (&[], 10, 10, &[]),
        ];
        for (weights, least, most, expected) in cases {
            assert_eq!(points(weights, least, most), expected, "{weights:?} {least} {most}");
        }
    }

    #[test]
    fn a_ring_has_a_bound_and_room_for_every_endpoint() {
        let size: usize = points(&[1, u64::from(u32::MAX)], 1024, u64::MAX).iter().sum();
        assert_eq!(size, 1 << 20);
        assert_eq!(points(&[1; 5], 1, 1), [1; 5]);
    }
}
