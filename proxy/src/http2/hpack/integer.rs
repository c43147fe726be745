//! Integers with a prefix (RFC 7541 §5.1), of at most 28 bits past the prefix.

use super::HpackError;

/// Four bytes past the prefix: more than any length or index that the limits allow.
const MAX_SHIFT: u32 = 21;

/// Reads the integer at `at` of which the first byte has `prefix` bits, and moves `at` past it.
pub(super) fn decode(block: &[u8], at: &mut usize, prefix: u32) -> Result<usize, HpackError> {
    let mask = 0xff_u8 >> (8 - prefix);
    let first = block.get(*at).ok_or(HpackError::Truncated)? & mask;
    *at += 1;
    if first < mask {
        return Ok(first as usize);
    }
    let mut value = first as usize;
    let mut shift = 0;
    loop {
        let byte = *block.get(*at).ok_or(HpackError::Truncated)?;
        *at += 1;
        if shift > MAX_SHIFT {
            return Err(HpackError::Integer);
        }
        value += ((byte & 0x7f) as usize) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
}

/// Writes an integer below the bits `pattern` of a first byte.
pub(super) fn encode(out: &mut Vec<u8>, pattern: u8, prefix: u32, value: usize) {
    let mask = 0xff_u8 >> (8 - prefix);
    match u8::try_from(value) {
        Ok(small) if small < mask => out.push(pattern | small),
        _ => {
            out.push(pattern | mask);
            let mut rest = value - mask as usize;
            while let Some(low) = u8::try_from(rest & 0x7f).ok().filter(|_| rest >= 0x80) {
                out.push(low | 0x80);
                rest >>= 7;
            }
            out.extend(u8::try_from(rest).ok());
        }
    }
}
