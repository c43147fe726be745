//! Crossing between integers and floating point, in one place and saturating. Refuses arithmetic.

/// The nearest floating-point number.
pub(crate) fn float(n: u64) -> f64 {
    n as f64
}

/// A count as a floating-point number.
pub(crate) fn count(n: usize) -> f64 {
    n as f64
}

/// The whole part; 0 for what is negative or no number, the greatest for what is too much.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from floating point saturates and takes no number for 0"
)]
pub(crate) fn whole(x: f64) -> u64 {
    x as u64
}

/// An index in four bytes. Lists of endpoints are far shorter than its range.
pub(crate) fn small(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_saturates() {
        for (from, to) in [(-1.0, 0), (f64::NAN, 0), (2.9, 2), (1e300, u64::MAX)] {
            assert_eq!(whole(from), to, "{from}");
        }
        assert_eq!(small(usize::MAX), u32::MAX);
    }
}
