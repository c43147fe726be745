//! Buffers that connections of one thread lend each other: one that waits holds none, and one that
//! has work does not ask the allocator. Bounded in number and size; what is over goes back.

use std::cell::RefCell;

use bytes::BytesMut;

/// Buffers kept of each kind.
const MOST: usize = 32;
/// Room of a new one: a usual head with a small body.
const ROOM: usize = 4 * 1024;
/// The most room one may have that is kept.
const MOST_ROOM: usize = 64 * 1024;

thread_local! {
    static OUTPUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static INPUT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer to write from.
pub(super) fn take() -> Vec<u8> {
    OUTPUT.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(ROOM))
}

/// Takes an empty buffer back.
pub(super) fn give(buffer: Vec<u8>) {
    if (ROOM..=MOST_ROOM).contains(&buffer.capacity()) {
        OUTPUT.with_borrow_mut(|spare| {
            if spare.len() < MOST {
                spare.push(buffer);
            }
        });
    }
}

/// An empty buffer to read into.
pub(super) fn take_input() -> BytesMut {
    INPUT.with_borrow_mut(Vec::pop).unwrap_or_default()
}

/// Takes an empty buffer back.
pub(super) fn give_input(buffer: BytesMut) {
    if (ROOM..=MOST_ROOM).contains(&buffer.capacity()) {
        INPUT.with_borrow_mut(|spare| {
            if spare.len() < MOST {
                spare.push(buffer);
            }
        });
    }
}
