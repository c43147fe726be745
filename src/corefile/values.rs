//! Values of directives: numbers and lengths of time.

/// A length of time as Go writes it (`1h30m`, `1.5s`, `0`), in milliseconds; what is shorter than
/// one is rounded up.
pub(super) fn millis(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut nanos: u64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        nanos = nanos.checked_add(part(number, unit)?)?;
        rest = after;
    }
    Some(nanos.div_ceil(1_000_000))
}

/// The same in whole seconds, rounded up.
pub(super) fn seconds(text: &str) -> Option<u64> {
    millis(text).map(|millis| millis.div_ceil(1000))
}

/// One number and its unit, in nanoseconds.
fn part(number: &str, unit: &str) -> Option<u64> {
    let unit: u64 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    let mut scale = unit;
    for digit in fraction.chars() {
        scale /= 10;
        nanos = nanos.checked_add(u64::from(digit.to_digit(10)?).checked_mul(scale)?)?;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_go_writes_them() {
        for (text, expected) in [
            ("5s", Some(5000)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1500)),
            (".5s", Some(500)),
            ("300ms", Some(300)),
            ("1us", Some(1)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("5", None),
            ("s", None),
            ("", None),
            (".s", None),
            ("1.2.3s", None),
            ("-5s", None),
            ("5d", None),
            ("99999999999h", None),
        ] {
            assert_eq!(millis(text), expected, "{text:?}");
        }
        assert_eq!((seconds("1001ms"), seconds("5s"), seconds("x")), (Some(2), Some(5), None));
    }
}
