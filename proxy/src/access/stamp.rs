//! The time of a record as text: RFC 3339, UTC, with milliseconds.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY: u64 = 86_400;

/// The text of a second, kept for the records that follow.
#[derive(Debug)]
pub(crate) struct Stamp {
    second: u64,
    text: [u8; 24],
}

impl Default for Stamp {
    fn default() -> Self {
        Self { second: 0, text: *b"1970-01-01T00:00:00.000Z" }
    }
}

impl Stamp {
    /// The text of this time. Years past 9999 read as 9999.
    pub(crate) fn at(&mut self, time: SystemTime) -> &[u8; 24] {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let second = since.as_secs();
        if second != self.second {
            self.second = second;
            self.set_second();
        }
        put(&mut self.text[20..23], since.subsec_millis().into());
        &self.text
    }

    fn set_second(&mut self) {
        let (year, month, day) = date(self.second / DAY);
        let second = self.second % DAY;
        put(&mut self.text[0..4], year.min(9999));
        put(&mut self.text[5..7], month);
        put(&mut self.text[8..10], day);
        put(&mut self.text[11..13], second / 3600);
        put(&mut self.text[14..16], second / 60 % 60);
        put(&mut self.text[17..19], second % 60);
    }
}

/// Writes a number with leading zeros.
fn put(into: &mut [u8], mut number: u64) {
    for byte in into.iter_mut().rev() {
        *byte = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

/// Year, month and day of a day since 1970-01-01 (proleptic Gregorian). Years are counted from March, so
/// that the day a leap year adds comes last.
fn date(days: u64) -> (u64, u64, u64) {
    // Days from 0000-03-01 to 1970-01-01.
    let days = days.saturating_add(719_468);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339() {
        let mut stamp = Stamp::default();
        for (secs, millis, expected) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (0, 7, "1970-01-01T00:00:00.007Z"),
            (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000Z"),
            (1_709_210_096, 123, "2024-02-29T12:34:56.123Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
            (1_798_761_599, 1, "2026-12-31T23:59:59.001Z"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(secs) + Duration::from_millis(millis);
            let text = stamp.at(time);
            assert_eq!(std::str::from_utf8(text).expect("ASCII"), expected);
        }
    }
}
