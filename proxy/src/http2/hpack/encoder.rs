//! Writes header blocks, plainly spelled, and keeps in the table what is said more than once.
//!
//! A field is put into the table when it is seen the second time within memory: dates, addresses,
//! content types and calls that repeat become one byte, and what never repeats (ids, lengths)
//! pushes nothing out. What is remembered are hashes, in a table of fixed size.

use super::table::{OVERHEAD, Table};
use super::{Item, Name, integer, statics};
use crate::message::Known;

/// The largest table we keep, whatever the peer allows.
const MAX_TABLE: usize = 4096;
/// Hashes remembered, a power of two.
const MEMORY: usize = 128;
/// Cookies shorter than this can be guessed by trying (RFC 7541 §7.1.3).
const GUESSABLE: usize = 20;

#[derive(Debug)]
pub(in crate::http2) struct Encoder {
    pub(super) table: Table,
    /// Empty until the first field.
    memory: Vec<Memory>,
    /// The smallest size since the last block, if the size changed (RFC 7541 §4.2).
    smallest: Option<usize>,
    /// A name that had to be brought to lower case.
    lower: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Memory {
    hash: u32,
    /// Number of its entry in the table; 0 when it was only seen.
    number: u64,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { table: Table::new(MAX_TABLE), memory: Vec::new(), smallest: None, lower: Vec::new() }
    }
}

impl Encoder {
    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub(in crate::http2) fn set_limit(&mut self, limit: usize) {
        let size = limit.min(MAX_TABLE);
        if size != self.table.max() {
            self.table.resize(size);
            self.smallest = Some(self.smallest.map_or(size, |smallest| smallest.min(size)));
        }
    }

    /// To be called first in each block.
    pub(in crate::http2) fn begin(&mut self, out: &mut Vec<u8>) {
        if let Some(smallest) = self.smallest.take() {
            integer::encode(out, 0x20, 5, smallest);
            if self.table.max() != smallest {
                integer::encode(out, 0x20, 5, self.table.max());
            }
        }
    }

    pub(in crate::http2) fn status(&mut self, out: &mut Vec<u8>, status: u16) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digit = |value: u16| u8::try_from(value % 10).map_or(b'0', |d| b'0' + d);
                let text = [digit(status / 100), digit(status / 10), digit(status)];
                return self.pair(out, Name::Status, b":status", &text);
            }
        };
        out.push(0x80 | index);
    }

    pub(in crate::http2) fn method(&mut self, out: &mut Vec<u8>, method: &[u8]) {
        match method {
            b"GET" => out.push(0x82),
            b"POST" => out.push(0x83),
            _ => self.pair(out, Name::Method, b":method", method),
        }
    }

    pub(in crate::http2) fn scheme(&mut self, out: &mut Vec<u8>, scheme: &[u8]) {
        match scheme {
            b"http" => out.push(0x86),
            b"https" => out.push(0x87),
            _ => self.pair(out, Name::Scheme, b":scheme", scheme),
        }
    }

    pub(in crate::http2) fn authority(&mut self, out: &mut Vec<u8>, authority: &[u8]) {
        self.pair(out, Name::Authority, b":authority", authority);
    }

    pub(in crate::http2) fn path(&mut self, out: &mut Vec<u8>, path: &[u8]) {
        match path {
            b"/" => out.push(0x84),
            _ => self.pair(out, Name::Path, b":path", path),
        }
    }

    pub(in crate::http2) fn protocol(&mut self, out: &mut Vec<u8>, protocol: &[u8]) {
        self.pair(out, Name::Protocol, b":protocol", protocol);
    }

    /// A field that is no pseudo-header; its name may be in any case.
    pub(in crate::http2) fn field(
        &mut self,
        out: &mut Vec<u8>,
        known: Known,
        name: &[u8],
        value: &[u8],
    ) {
        if !name.iter().any(u8::is_ascii_uppercase) {
            return self.pair(out, Name::Field(known), name, value);
        }
        let mut lower = std::mem::take(&mut self.lower);
        lower.clear();
        lower.extend(name.iter().map(u8::to_ascii_lowercase));
        self.pair(out, Name::Field(known), &lower, value);
        self.lower = lower;
    }

    fn pair(&mut self, out: &mut Vec<u8>, kind: Name, name: &[u8], value: &[u8]) {
        if is_secret(kind, name, value) {
            return literal(out, 0x10, 4, name, value);
        }
        if name.len() + value.len() + OVERHEAD > self.table.max() / 4 {
            return literal(out, 0, 4, name, value);
        }
        if self.memory.is_empty() {
            self.memory = vec![Memory::default(); MEMORY];
        }
        let hash = hash(name, value);
        let first = (hash as usize) & (MEMORY - 1);
        let places = [first, first ^ 1];
        for place in places {
            let Some(memory) = self.memory.get_mut(place).filter(|memory| memory.hash == hash)
            else {
                continue;
            };
            if let Some(index) = self.table.index_of(memory.number) {
                let entry = self.table.get(index);
                if entry.is_some_and(|entry| entry.name == name && entry.value == value) {
                    return integer::encode(out, 0x80, 7, index + statics::COUNT + 1);
                }
                return literal(out, 0, 4, name, value);
            }
            literal(out, 0x40, 6, name, value);
            self.table.insert(&Item { kind, name, value, valid: true });
            memory.number = self.table.added();
            return;
        }
        // Takes the place of what is not in the table, rather than of what is.
        let table = &self.table;
        let is_in = |place: &usize| {
            self.memory.get(*place).is_some_and(|memory| table.index_of(memory.number).is_some())
        };
        let place = places.into_iter().find(|place| !is_in(place)).unwrap_or(first);
        if let Some(memory) = self.memory.get_mut(place) {
            *memory = Memory { hash, number: 0 };
        }
        literal(out, 0, 4, name, value);
    }
}

/// What must not be found out by trying what the table holds (RFC 7541 §7.1.3).
fn is_secret(kind: Name, name: &[u8], value: &[u8]) -> bool {
    match kind {
        Name::Field(Known::Cookie) => value.len() < GUESSABLE,
        Name::Field(Known::SetCookie) => true,
        Name::Field(Known::Other) => {
            matches!(name, b"authorization" | b"proxy-authorization")
        }
        _ => false,
    }
}

fn literal(out: &mut Vec<u8>, pattern: u8, prefix: u32, name: &[u8], value: &[u8]) {
    match statics::index_of(name) {
        0 => {
            out.push(pattern);
            integer::encode(out, 0, 7, name.len());
            out.extend_from_slice(name);
        }
        index => integer::encode(out, pattern, prefix, index),
    }
    integer::encode(out, 0, 7, value.len());
    out.extend_from_slice(value);
}

/// Never 0, which an empty place of the memory has.
fn hash(name: &[u8], value: &[u8]) -> u32 {
    const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |state: u64, word: u64| (state.rotate_left(5) ^ word).wrapping_mul(SEED);
    let run = |mut state: u64, bytes: &[u8]| {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            state = mix(state, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        let length = u64::try_from(bytes.len()).unwrap_or_default();
        mix(mix(state, u64::from_le_bytes(last)), length)
    };
    let [a, b, c, d, ..] = run(run(SEED, name), value).to_be_bytes();
    u32::from_be_bytes([a, b, c, d]).max(1)
}
