//! Reads header blocks and keeps the peer's table in step.

use super::table::Table;
use super::{HpackError, Item, Name, huffman, integer, is_valid_name, is_valid_value, statics};

/// The size both sides begin with (RFC 9113 §6.5.2).
const INITIAL: usize = 4096;

/// Takes the fields of a block, one after another.
pub(in crate::http2) trait Sink {
    fn field(&mut self, item: &Item<'_>);
}

#[derive(Debug)]
pub(in crate::http2) struct Decoder {
    pub(super) table: Table,
    /// What the peer may raise its table to.
    limit: usize,
    /// The limit was lowered: the next block must say so (RFC 7541 §4.2).
    must_shrink: bool,
    /// Strings that were Huffman coded.
    plain: Vec<u8>,
}

/// Where a string of a field is.
enum Text {
    Block(usize, usize),
    Plain(usize, usize),
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: Table::new(INITIAL), limit: INITIAL, must_shrink: false, plain: Vec::new() }
    }
}

impl Decoder {
    /// The peer has taken note of our SETTINGS_HEADER_TABLE_SIZE.
    pub(in crate::http2) fn set_limit(&mut self, limit: usize) {
        self.must_shrink = limit < self.table.max();
        self.limit = limit;
    }

    /// Decodes a whole block. An error leaves the table out of step: the connection must end.
    pub(in crate::http2) fn decode(
        &mut self,
        block: &[u8],
        sink: &mut impl Sink,
    ) -> Result<(), HpackError> {
        let mut at = 0;
        while block.get(at).is_some_and(|first| first & 0xe0 == 0x20) {
            let size = integer::decode(block, &mut at, 5)?;
            if size > self.limit {
                return Err(HpackError::SizeUpdate);
            }
            self.must_shrink = false;
            self.table.resize(size);
        }
        if self.must_shrink {
            return Err(HpackError::SizeUpdate);
        }
        while let Some(first) = block.get(at).copied() {
            match first {
                0x80.. => {
                    let index = integer::decode(block, &mut at, 7)?;
                    sink.field(&self.entry(index)?);
                }
                0x40.. => self.literal(block, &mut at, 6, true, sink)?,
                0x20.. => return Err(HpackError::SizeUpdate),
                _ => self.literal(block, &mut at, 4, false, sink)?,
            }
        }
        if self.plain.capacity() > INITIAL {
            self.plain = Vec::new();
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<Item<'_>, HpackError> {
        let found = match index.checked_sub(statics::COUNT + 1) {
            None => statics::get(index),
            Some(index) => self.table.get(index),
        };
        found.ok_or(HpackError::Index)
    }

    fn literal(
        &mut self,
        block: &[u8],
        at: &mut usize,
        prefix: u32,
        keep: bool,
        sink: &mut impl Sink,
    ) -> Result<(), HpackError> {
        self.plain.clear();
        let index = integer::decode(block, at, prefix)?;
        if let Some(index) = index.checked_sub(statics::COUNT + 1) {
            return self.literal_of_entry(block, at, index, keep, sink);
        }
        let new = if index == 0 { Some(self.text(block, at)?) } else { None };
        let value = self.text(block, at)?;
        let value = value.of(block, &self.plain);
        let item = match new {
            Some(name) => {
                let name = name.of(block, &self.plain);
                let kind = Name::of(name);
                Item { kind, name, value, valid: is_valid_name(kind, name) }
            }
            None => Item { value, ..statics::get(index).ok_or(HpackError::Index)? },
        };
        let item = Item { valid: item.valid && is_valid_value(value), ..item };
        sink.field(&item);
        if keep {
            self.table.insert(&item);
        }
        Ok(())
    }

    /// A literal named by an entry of the dynamic table.
    fn literal_of_entry(
        &mut self,
        block: &[u8],
        at: &mut usize,
        index: usize,
        keep: bool,
        sink: &mut impl Sink,
    ) -> Result<(), HpackError> {
        let value = self.text(block, at)?;
        let value = value.of(block, &self.plain);
        let entry = self.table.get(index).ok_or(HpackError::Index)?;
        // The entry's verdict is of name and value together: the name alone is judged anew.
        let valid = entry.valid || is_valid_name(entry.kind, entry.name);
        let valid = valid && is_valid_value(value);
        sink.field(&Item { value, valid, ..entry });
        if keep {
            self.table.insert_named_by(index, value, valid);
        }
        Ok(())
    }

    /// A string literal (RFC 7541 §5.2).
    fn text(&mut self, block: &[u8], at: &mut usize) -> Result<Text, HpackError> {
        let coded = block.get(*at).ok_or(HpackError::Truncated)? & 0x80 != 0;
        let length = integer::decode(block, at, 7)?;
        let start = *at;
        let end = start.checked_add(length).ok_or(HpackError::Integer)?;
        let bytes = block.get(start..end).ok_or(HpackError::Truncated)?;
        *at = end;
        if !coded {
            return Ok(Text::Block(start, end));
        }
        let start = self.plain.len();
        huffman::decode(bytes, &mut self.plain)?;
        Ok(Text::Plain(start, self.plain.len()))
    }
}

impl Text {
    fn of<'a>(&self, block: &'a [u8], plain: &'a [u8]) -> &'a [u8] {
        match *self {
            Self::Block(start, end) => block.get(start..end),
            Self::Plain(start, end) => plain.get(start..end),
        }
        .unwrap_or_default()
    }
}
