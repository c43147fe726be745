//! The dynamic table (RFC 7541 §2.3.2, §4): entries in one run of bytes, the oldest first.
//!
//! Bytes are only ever added at the end; when there is no more room the living ones move to the
//! front, so that an entry is always one slice and the room is at most twice the table's size.

use std::collections::VecDeque;

use super::{Item, Name};

/// What an entry costs besides its bytes (RFC 7541 §4.1).
pub(super) const OVERHEAD: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Table {
    bytes: Vec<u8>,
    entries: VecDeque<Entry>,
    /// As RFC 7541 §4.1 counts.
    size: usize,
    max: usize,
    /// Entries ever added; tells entries apart that share an index over time.
    added: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    name: usize,
    value: usize,
    kind: Name,
    valid: bool,
}

impl Table {
    pub(super) fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    pub(super) fn max(&self) -> usize {
        self.max
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Number of the entry added last; the first is 1.
    pub(super) fn added(&self) -> u64 {
        self.added
    }

    /// The entry `index` entries before the newest.
    pub(super) fn get(&self, index: usize) -> Option<Item<'_>> {
        let at = self.entries.len().checked_sub(index + 1)?;
        let entry = self.entries.get(at)?;
        let (name, rest) = self.bytes.get(entry.start..)?.split_at_checked(entry.name)?;
        let value = rest.get(..entry.value)?;
        Some(Item { kind: entry.kind, name, value, valid: entry.valid })
    }

    /// How far before the newest the entry of that number is, if it is there still.
    pub(super) fn index_of(&self, number: u64) -> Option<usize> {
        let index = usize::try_from(self.added.checked_sub(number)?).ok()?;
        (number != 0 && index < self.entries.len()).then_some(index)
    }

    pub(super) fn resize(&mut self, max: usize) {
        self.max = max;
        self.make_room(0);
        if self.entries.is_empty() {
            self.bytes = Vec::new();
        }
    }

    /// Adds an entry, for which older ones go; one too large for the table empties it (§4.4).
    pub(super) fn insert(&mut self, item: &Item<'_>) {
        if self.admit(item.name.len(), item.value.len()) {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(item.name);
            self.bytes.extend_from_slice(item.value);
            self.push(start, item.kind, item.name.len(), item.value.len(), item.valid);
        }
    }

    /// As [`Self::insert`] with the name of an entry that may go for it.
    pub(super) fn insert_named_by(&mut self, index: usize, value: &[u8], valid: bool) {
        let Some(at) = self.entries.len().checked_sub(index + 1) else { return };
        let Some(name) = self.entries.get(at).copied() else { return };
        // Copied before anything moves; names that are repeated are short.
        let mut copy = [0_u8; 64];
        let Some(bytes) = self.bytes.get(name.start..name.start + name.name) else { return };
        let longer;
        let bytes = match copy.get_mut(..name.name) {
            Some(room) => {
                room.copy_from_slice(bytes);
                &*room
            }
            None => {
                longer = bytes.to_vec();
                &longer
            }
        };
        self.insert(&Item { kind: name.kind, name: bytes, value, valid });
    }

    fn push(&mut self, start: usize, kind: Name, name: usize, value: usize, valid: bool) {
        self.entries.push_back(Entry { start, name, value, kind, valid });
        self.size += name + value + OVERHEAD;
        self.added += 1;
    }

    fn admit(&mut self, name: usize, value: usize) -> bool {
        let bytes = name + value;
        self.make_room(bytes + OVERHEAD);
        if bytes + OVERHEAD > self.max {
            return false;
        }
        if self.bytes.len() + bytes > 2 * self.max {
            self.compact();
        }
        true
    }

    fn make_room(&mut self, wanted: usize) {
        while self.size + wanted > self.max
            && let Some(oldest) = self.entries.pop_front()
        {
            self.size -= oldest.name + oldest.value + OVERHEAD;
        }
        if self.entries.is_empty() {
            self.bytes.clear();
        }
    }

    fn compact(&mut self) {
        let from = self.entries.front().map_or(self.bytes.len(), |oldest| oldest.start);
        self.bytes.drain(..from);
        self.entries.iter_mut().for_each(|entry| entry.start -= from);
    }
}
