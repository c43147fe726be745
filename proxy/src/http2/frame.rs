//! Frames (RFC 9113 §4, §6): their heads, read and written, and what the flags mean.
//!
//! Refuses to know about streams: whether a frame may come now is the connection's affair.

/// Bytes before each payload.
pub(super) const HEAD: usize = 9;
/// The largest payload every endpoint must take (§4.2), and all we ever allow.
pub(super) const DEFAULT_MAX: usize = 16_384;
/// What a client sends before its first frame (§3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames (§6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// To be passed over (§4.1).
    Unknown,
}

/// Bits of the flags byte.
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY: u8 = 0x20;

/// Identifiers of settings (§6.5.2, RFC 8441 §3).
pub(super) mod setting {
    pub(in crate::http2) const HEADER_TABLE_SIZE: u16 = 1;
    pub(in crate::http2) const ENABLE_PUSH: u16 = 2;
    pub(in crate::http2) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(in crate::http2) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(in crate::http2) const MAX_FRAME_SIZE: u16 = 5;
    pub(in crate::http2) const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub(in crate::http2) const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// The nine bytes before a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Kind {
    fn of(code: u8) -> Self {
        match code {
            0 => Self::Data,
            1 => Self::Headers,
            2 => Self::Priority,
            3 => Self::Reset,
            4 => Self::Settings,
            5 => Self::PushPromise,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            9 => Self::Continuation,
            _ => Self::Unknown,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Headers => 1,
            Self::Priority => 2,
            Self::Reset => 3,
            Self::Settings => 4,
            Self::PushPromise => 5,
            Self::Ping => 6,
            Self::GoAway => 7,
            Self::WindowUpdate => 8,
            Self::Continuation => 9,
            Self::Unknown => 0xff,
        }
    }
}

impl Head {
    /// Reads the first nine bytes; `None` while there are fewer. The reserved bit is ignored.
    pub(super) fn parse(input: &[u8]) -> Option<Self> {
        let [a, b, c, kind, flags, d, e, f, g] = *input.first_chunk::<HEAD>()?;
        Some(Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind: Kind::of(kind),
            flags,
            stream: u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff,
        })
    }

    pub(super) fn write(kind: Kind, flags: u8, stream: u32, length: usize) -> [u8; HEAD] {
        let [.., a, b, c] = u32::try_from(length).unwrap_or_default().to_be_bytes();
        let [d, e, f, g] = stream.to_be_bytes();
        [a, b, c, kind.code(), flags, d, e, f, g]
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A payload without its padding (§6.1); `None` when there is more padding than payload.
pub(super) fn unpadded<'a>(head: &Head, payload: &'a [u8]) -> Option<&'a [u8]> {
    if !head.has(PADDED) {
        return Some(payload);
    }
    let (padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(*padding as usize)?)
}

/// The number in the first four bytes.
pub(super) fn word(payload: &[u8]) -> Option<u32> {
    payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_is_written_is_read() {
        for code in 0..=9_u8 {
            let kind = Kind::of(code);
            let bytes = Head::write(kind, 0x25, 0x7fff_fffe, 0x0001_0203);
            let head = Head { length: 0x0001_0203, kind, flags: 0x25, stream: 0x7fff_fffe };
            assert_eq!(Head::parse(&bytes), Some(head));
            assert_eq!(Head::parse(&bytes[..8]), None);
        }
        assert_eq!(Kind::of(0x10), Kind::Unknown);
    }

    #[test]
    fn padding_is_taken_off_where_there_is_enough() {
        type Case = (u8, &'static [u8], Option<&'static [u8]>);
        let cases: [Case; 6] = [
            (0, &[1, 2], Some(&[1, 2])),
            (PADDED, &[1, 2, 0], Some(&[2])),
            (PADDED, &[0], Some(&[])),
            (PADDED, &[1, 0], Some(&[])),
            (PADDED, &[1], None),
            (PADDED, &[], None),
        ];
        for (flags, payload, expected) in cases {
            let head = Head { length: payload.len(), kind: Kind::Data, flags, stream: 1 };
            assert_eq!(unpadded(&head, payload), expected, "{flags} {payload:?}");
        }
    }
}
