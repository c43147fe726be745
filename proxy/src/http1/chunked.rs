//! The chunked transfer coding, read (RFC 9112 §7.1).
//!
//! Pure and strict: sizes are hexadecimal digits and nothing else, lines end in CR LF. Extensions
//! are passed over, within a bound. The trailer section is `head`'s.

use super::framing::Malformed;

/// Bytes a line with a size may take, with its extensions.
const LINE: usize = 256;
/// Digits of a size: more than any real chunk needs, and fewer than overflow.
const DIGITS: usize = 15;

/// Where in a body the decoder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Decoder {
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before a line with a size.
    #[default]
    Size,
    /// Within a chunk that has so many bytes left, at least one.
    Data(u64),
    /// Before the CR LF after a chunk.
    DataEnd,
    /// After the last chunk.
    Trailers,
}

/// What the first bytes of the input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Not enough to tell.
    More,
    /// So many bytes of framing.
    Skip(usize),
    /// So many bytes of the body.
    Data(usize),
    /// The trailer section follows.
    Trailers,
}

impl Decoder {
    /// Says what the input begins with and goes on past it.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        match self.state {
            State::Trailers => Ok(Step::Trailers),
            _ if input.is_empty() => Ok(Step::More),
            State::Size => self.size(input),
            State::Data(left) => {
                let n = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let left = left.saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
                self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                Ok(Step::Data(n))
            }
            State::DataEnd => match input {
                [b'\r', b'\n', ..] => {
                    self.state = State::Size;
                    Ok(Step::Skip(2))
                }
                [b'\r'] => Ok(Step::More),
                _ => Err(Malformed::Chunk),
            },
        }
    }

    fn size(&mut self, input: &[u8]) -> Result<Step, Malformed> {
        let window = &input[..input.len().min(LINE)];
        let digits = window.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits == 0 || digits > DIGITS {
            return Err(Malformed::Chunk);
        }
        let Some(end) = memchr::memchr(b'\n', window) else {
            let full = input.len() >= LINE;
            let bad = !matches!(window.get(digits), None | Some(b';' | b'\r' | b' ' | b'\t'));
            return if full || bad { Err(Malformed::Chunk) } else { Ok(Step::More) };
        };
        let line = window[digits..end].strip_suffix(b"\r").ok_or(Malformed::Chunk)?;
        // RFC 9112 §7.1.1: blanks may stand before an extension; a CR by itself may not.
        let extension = super::table::trim(line);
        let valid = matches!(extension, [] | [b';', ..]) && super::table::is_value(extension);
        if !valid || (extension.is_empty() && !line.is_empty()) {
            return Err(Malformed::Chunk);
        }
        let size = window[..digits].iter().fold(0_u64, |size, byte| size * 16 + digit(*byte));
        self.state = if size == 0 { State::Trailers } else { State::Data(size) };
        Ok(Step::Skip(end + 1))
    }
}

fn digit(byte: u8) -> u64 {
    u64::from(match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        _ => 0,
    })
}
