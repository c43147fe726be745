//! The Huffman code of RFC 7541 Appendix B, decoding only: what we send is spelled plainly.
//!
//! The code is canonical, so that the lengths of Appendix B say all: codes of one length follow
//! each other in the order of their symbols. Codes of up to eight bits are found by one look into a
//! table; the longer ones, which text hardly has, by comparing with the ends of each length.

use super::HpackError;

/// Bits of the code of each symbol; the last is EOS.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];

const LONGEST: usize = 30;

/// The codes of one length.
#[derive(Clone, Copy)]
struct Level {
    /// The first code, at the right.
    first: u32,
    /// The first code past this length, at the left of 32 bits.
    end: u32,
    /// Where its symbols begin among the sorted ones.
    offset: usize,
}

struct Code {
    levels: [Level; LONGEST + 1],
    /// Symbols but EOS by length of code, then by value.
    sorted: [u8; 256],
    /// By the next eight bits: the symbol and its length, or 0 where the code is longer.
    short: [(u8, u8); 256],
}

static CODE: Code = build();

const fn build() -> Code {
    let none = Level { first: 0, end: 0, offset: 0 };
    let mut code = Code { levels: [none; LONGEST + 1], sorted: [0; 256], short: [(0, 0); 256] };
    let mut next = 0_u32;
    let mut count = 0;
    let mut length = 1_u8;
    while length as usize <= LONGEST {
        next <<= 1;
        code.levels[length as usize].first = next;
        code.levels[length as usize].offset = count;
        let mut symbol = 0_u8;
        loop {
            if LENGTHS[symbol as usize] == length {
                code.sorted[count] = symbol;
                count += 1;
                if length <= 8 {
                    let start = (next as usize) << (8 - length);
                    let mut at = start;
                    while at < start + (1 << (8 - length)) {
                        code.short[at] = (symbol, length);
                        at += 1;
                    }
                }
                next += 1;
            }
            if symbol == u8::MAX {
                break;
            }
            symbol += 1;
        }
        code.levels[length as usize].end = next << (32 - length as u32);
        length += 1;
    }
    code
}

/// Appends what `coded` says. Padding is at most seven one bits (RFC 7541 §5.2).
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Result<(), HpackError> {
    out.reserve(coded.len() * 8 / 5);
    let mut input = coded.iter();
    // Bits not yet read, at the left.
    let mut bits = 0_u64;
    let mut have = 0_u32;
    loop {
        while have <= 56
            && let Some(byte) = input.next()
        {
            bits |= u64::from(*byte) << (56 - have);
            have += 8;
        }
        let (symbol, length) = lookup(bits)?;
        if u32::from(length) > have {
            break;
        }
        out.push(symbol);
        bits <<= length;
        have -= u32::from(length);
        // Without looking for more bytes while there are surely enough bits.
        while have >= 32 {
            let [next, ..] = bits.to_be_bytes();
            let (symbol, length) = CODE.short[next as usize];
            if length == 0 {
                break;
            }
            out.push(symbol);
            bits <<= length;
            have -= u32::from(length);
        }
    }
    let padding = !(u64::MAX >> have.min(63));
    match have < 8 && bits == padding {
        true => Ok(()),
        false => Err(HpackError::Huffman),
    }
}

/// The symbol at the left of the bits. With fewer bits than a code has, its length is right still,
/// or more than there are.
fn lookup(bits: u64) -> Result<(u8, u8), HpackError> {
    let [next, second, third, fourth, ..] = bits.to_be_bytes();
    let (symbol, length) = CODE.short[next as usize];
    if length != 0 {
        return Ok((symbol, length));
    }
    let top = u32::from_be_bytes([next, second, third, fourth]);
    for length in 9..=30_u8 {
        let level = &CODE.levels[length as usize];
        if top < level.end {
            let index = (top >> (32 - u32::from(length))) - level.first;
            let symbol = CODE.sorted.get(level.offset + index as usize);
            return symbol.map(|symbol| (*symbol, length)).ok_or(HpackError::Huffman);
        }
    }
    // EOS, which none may send, or the ones of the padding.
    Ok((0, u8::MAX))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The code of a symbol, from the lengths alone and in another way than [`build`].
    fn code_of(symbol: usize) -> (u32, u8) {
        let mut order: Vec<usize> = (0..257).collect();
        order.sort_by_key(|symbol| (LENGTHS[*symbol], *symbol));
        let (mut code, mut length) = (0_u32, LENGTHS[order[0]]);
        for next in order {
            code <<= LENGTHS[next] - length;
            length = LENGTHS[next];
            if next == symbol {
                return (code, length);
            }
            code += 1;
        }
        unreachable!("every symbol has a code")
    }

    pub(crate) fn encode(plain: &[u8]) -> Vec<u8> {
        let mut bits = String::new();
        for byte in plain {
            let (code, length) = code_of(*byte as usize);
            bits.push_str(&format!("{code:0width$b}", width = length as usize));
        }
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let byte = |at: usize| u8::from_str_radix(&bits[at..at + 8], 2).expect("bits");
        (0..bits.len()).step_by(8).map(byte).collect()
    }

    #[test]
    fn the_codes_are_those_of_appendix_b() {
        let known = [
            (0, 0x1ff8, 13),
            (10, 0x3fff_fffc, 30),
            (b' ' as usize, 0x14, 6),
            (b'0' as usize, 0, 5),
            (b'\\' as usize, 0x7fff0, 19),
            (b'~' as usize, 0x1ffd, 13),
            (255, 0x3ff_ffee, 26),
            (256, 0x3fff_ffff, 30),
        ];
        for (symbol, code, length) in known {
            assert_eq!(code_of(symbol), (code, length), "{symbol}");
        }
    }

    #[test]
    fn every_symbol_is_decoded_alone_and_among_others() {
        for symbol in 0..=255_u8 {
            for plain in [vec![symbol], vec![symbol; 9], vec![b'a', symbol, b'z', symbol, b'0']] {
                let mut out = Vec::new();
                decode(&encode(&plain), &mut out).unwrap_or_else(|e| panic!("{symbol}: {e}"));
                assert_eq!(out, plain);
            }
        }
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        let mut out = Vec::new();
        decode(&encode(&all), &mut out).expect("valid");
        assert_eq!(out, all);
    }

    #[test]
    fn wrong_padding_and_eos_are_refused() {
        let cases: [(&[u8], bool); 7] = [
            (&[], true),
            (&[0b0000_0111], true),
            (&[0b0000_0110], false),
            (&[0b0000_0000], false),
            (&[0b0000_0111, 0xff], false),
            (&[0xff], false),
            (&[0xff, 0xff, 0xff, 0xff], false),
        ];
        for (coded, valid) in cases {
            assert_eq!(decode(coded, &mut Vec::new()).is_ok(), valid, "{coded:x?}");
        }
    }
}
