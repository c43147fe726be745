//! The streams of a connection and what each of them holds (RFC 9113 §5.1).
//!
//! A stream's place is kept until both directions are done, or it failed, and nobody holds a
//! handle to it; an id is found by a small map, a handle's key is a place.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::task::{Context, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::super::error::StreamError;
use crate::message::{Fields, ResponseHead};

/// A place among the streams.
pub(in crate::http2) type Key = usize;

/// Bits of [`Stream::handles`].
pub(super) const SENDER: u8 = 1;
pub(super) const RECEIVER: u8 = 2;

/// How a direction that we send ends.
#[derive(Debug, Default)]
pub(super) enum Ending {
    /// More is to come.
    #[default]
    Open,
    /// With the last of the backlog.
    Data,
    /// After the backlog.
    Trailers(Box<Fields>),
    /// END_STREAM is among the output.
    Done,
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) id: u32,
    /// What we may send; negative after the peer lowered it (RFC 9113 §6.9.2).
    pub(super) send_window: i64,
    /// What the peer may send.
    pub(super) recv_window: i64,
    /// Bytes that came and were not released.
    pub(super) unreleased: usize,
    /// Bytes released that the peer was not told of.
    pub(super) owed: usize,

    /// Response heads not yet taken.
    pub(super) heads: VecDeque<ResponseHead>,
    /// The request's head, or the final response's, came.
    pub(super) has_head: bool,
    pub(super) queue: VecDeque<Bytes>,
    /// Small data behind the queue, put together.
    pub(super) tail: BytesMut,
    pub(super) trailers: Option<Fields>,
    /// END_STREAM came.
    pub(super) recv_end: bool,
    /// Content-Length, where it binds (RFC 9113 §8.1.1).
    pub(super) expected: Option<u64>,
    pub(super) received: u64,
    /// Nobody wants what is still to come.
    pub(super) discard: bool,
    /// The response has no body whatever it says: to HEAD.
    pub(super) bodiless: bool,

    pub(super) head_sent: bool,
    pub(super) ending: Ending,
    /// Data that found no window.
    pub(super) backlog: VecDeque<Bytes>,
    /// Is among the connection's blocked streams.
    pub(super) blocked: bool,

    /// When the peer began it (server).
    pub(super) begun: Option<Instant>,
    pub(super) failure: Option<StreamError>,
    /// Counts as active.
    pub(super) counted: bool,
    pub(super) handles: u8,
    pub(super) on_recv: Option<Waker>,
    pub(super) on_send: Option<Waker>,
    pub(super) on_reset: Option<Waker>,
}

impl Stream {
    pub(super) fn send_end(&self) -> bool {
        matches!(self.ending, Ending::Done)
    }

    pub(super) fn is_over(&self) -> bool {
        self.failure.is_some() || (self.recv_end && self.send_end())
    }

    pub(super) fn wake_all(&mut self) {
        wake(&mut self.on_recv);
        wake(&mut self.on_send);
        wake(&mut self.on_reset);
    }
}

pub(super) fn wake(place: &mut Option<Waker>) {
    if let Some(waker) = place.take() {
        waker.wake();
    }
}

/// Notes who is to be woken; spares the clone when it is noted already.
pub(super) fn note(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}

/// Spreads stream ids, which are small and mostly in a row.
#[derive(Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20);
    }
}

#[derive(Debug, Default)]
pub(super) struct Streams {
    places: Vec<Option<Stream>>,
    free: Vec<Key>,
    by_id: HashMap<u32, Key, BuildHasherDefault<IdHasher>>,
}

impl Streams {
    pub(super) fn insert(&mut self, stream: Stream) -> Key {
        let id = stream.id;
        let key = match self.free.pop() {
            Some(key) => key,
            None => {
                self.places.push(None);
                self.places.len() - 1
            }
        };
        if let Some(place) = self.places.get_mut(key) {
            *place = Some(stream);
        }
        self.by_id.insert(id, key);
        key
    }

    pub(super) fn find(&self, id: u32) -> Option<Key> {
        self.by_id.get(&id).copied()
    }

    pub(super) fn get(&self, key: Key) -> Option<&Stream> {
        self.places.get(key)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Stream> {
        self.places.get_mut(key)?.as_mut()
    }

    pub(super) fn remove(&mut self, key: Key) {
        let Some(place) = self.places.get_mut(key) else { return };
        let Some(id) = place.as_ref().map(|stream| stream.id) else { return };
        *place = None;
        self.by_id.remove(&id);
        self.free.push(key);
        // An idle connection holds no more than a few places.
        if self.by_id.is_empty() && self.places.len() > 8 {
            *self = Self::default();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.places.iter_mut().flatten()
    }

    pub(super) fn keys(&self) -> Vec<Key> {
        self.by_id.values().copied().collect()
    }
}
