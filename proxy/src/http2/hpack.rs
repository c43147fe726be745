//! Header compression (RFC 7541): a decoder and an encoder that share the form of a table.
//!
//! Owns what a block of bytes says and how to say it briefly. Refuses to judge a head as a whole:
//! `connection::head` does; here only the characters of a field are judged, once for each time it
//! is spelled out, since a table entry keeps the verdict.

mod decoder;
mod encoder;
mod huffman;
mod integer;
mod statics;
mod table;

#[cfg(test)]
mod tests;

use thiserror::Error;

use crate::message::Known;

pub(super) use decoder::{Decoder, Sink};
pub(super) use encoder::Encoder;

/// What the name of a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Method,
    Scheme,
    Authority,
    Path,
    Protocol,
    Status,
    /// Begins with a colon and is none of the above.
    UnknownPseudo,
    Field(Known),
}

/// One field of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub(super) kind: Name,
    pub(super) name: &'a [u8],
    pub(super) value: &'a [u8],
    /// Name and value are made of characters RFC 9113 §8.2.1 allows.
    pub(super) valid: bool,
}

/// A block that cannot be decoded: the tables are out of step for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum HpackError {
    #[error("header block: ends within a field")]
    Truncated,
    #[error("header block: integer is too large")]
    Integer,
    #[error("header block: index names no entry")]
    Index,
    #[error("header block: Huffman code is invalid")]
    Huffman,
    #[error("header block: size update is above the limit, missing or misplaced")]
    SizeUpdate,
}

impl Name {
    fn of(name: &[u8]) -> Self {
        match name {
            b":method" => Self::Method,
            b":scheme" => Self::Scheme,
            b":authority" => Self::Authority,
            b":path" => Self::Path,
            b":protocol" => Self::Protocol,
            b":status" => Self::Status,
            [b':', ..] => Self::UnknownPseudo,
            _ => Self::Field(Known::of(name)),
        }
    }
}

/// Bytes of a lower-case token (RFC 9110 §5.6.2, RFC 9113 §8.2.1).
const NAME_BYTE: [bool; 256] = {
    let mut allowed = [false; 256];
    let listed = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz";
    let mut at = 0;
    while at < listed.len() {
        allowed[listed[at] as usize] = true;
        at += 1;
    }
    allowed
};

fn is_valid_name(kind: Name, name: &[u8]) -> bool {
    match kind {
        Name::Field(Known::Other) => {
            !name.is_empty() && name.iter().all(|byte| NAME_BYTE[*byte as usize])
        }
        // Known names are compared without regard to case.
        Name::Field(_) => !name.iter().any(u8::is_ascii_uppercase),
        _ => true,
    }
}

fn is_valid_value(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let control = |byte: u8| (byte < 0x20 && byte != b'\t') || byte == 0x7f;
    !blank(value.first())
        && !blank(value.last())
        && !value.iter().fold(false, |found, byte| found | control(*byte))
}
