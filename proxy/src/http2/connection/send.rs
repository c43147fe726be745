//! What is sent on a stream: heads, data within the windows, trailers.

use std::task::{Context, Poll};

use bytes::Bytes;

use super::super::error::{Code, StreamError};
use super::super::frame::END_STREAM;
use super::streams::{Ending, Stream, note};
use super::{Abuse, Connection, Key};
use crate::message::{Fields, Known, ResponseHead};

/// Larger frames than the least would hold up the streams behind.
const MAX_FRAME: usize = 32 << 10;
/// With less room among the output than this, a stream waits.
const LEAST_ROOM: usize = 8 << 10;
/// A window that cuts data below this is a tiny one.
const TINY: usize = 256;

impl Connection {
    /// A response's head, final or informational; past the final one nothing is sent.
    pub(in crate::http2) fn send_head(&mut self, key: Key, head: &ResponseHead, end: bool) {
        let Some(stream) = self.sending(key).filter(|stream| !stream.head_sent) else { return };
        let id = stream.id;
        stream.head_sent = head.status >= 200;
        let start = self.begin_block();
        self.encoder.status(self.out.buffer(), head.status);
        self.write_fields(&head.fields, false);
        let flags = if end { END_STREAM } else { 0 };
        self.out.close_block(start, flags, id, self.peer.max_frame);
        if end {
            self.end_of_output(key);
        }
    }

    /// Fields but those of a connection, which HTTP/2 has not (RFC 9113 §8.2.2).
    pub(super) fn write_fields(&mut self, fields: &Fields, has_authority: bool) {
        let out = self.out.buffer();
        for field in fields.iter() {
            match field.known {
                Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Upgrade
                | Known::Http2Settings => {}
                Known::Host if has_authority => {}
                Known::Te if !field.value.eq_ignore_ascii_case(b"trailers") => {}
                known => self.encoder.field(out, known, field.name, field.value),
            }
        }
    }

    /// The stream, if its sender may still send.
    fn sending(&mut self, key: Key) -> Option<&mut Stream> {
        self.streams
            .get_mut(key)
            .filter(|stream| stream.failure.is_none() && matches!(stream.ending, Ending::Open))
    }

    /// How much of `want` may be sent now; never 0 of more than 0.
    pub(in crate::http2) fn poll_capacity(
        &mut self,
        key: Key,
        want: usize,
        cx: &Context<'_>,
    ) -> Poll<Result<usize, StreamError>> {
        let (connection, waiting) = (self.send_window, self.out.len());
        let bound = self.settings.output;
        let Some(stream) = self.streams.get_mut(key) else {
            return Poll::Ready(Err(StreamError::Ended));
        };
        if let Some(error) = stream.failure {
            return Poll::Ready(Err(error));
        }
        if !matches!(stream.ending, Ending::Open) {
            return Poll::Ready(Err(StreamError::Ended));
        }
        let room = match bound.saturating_sub(waiting) {
            0..LEAST_ROOM if waiting > 0 => 0,
            room => room.max(LEAST_ROOM),
        };
        let own = stream.send_window;
        let allowed = usize::try_from(own.min(connection)).unwrap_or(0).min(room);
        if want == 0 || (allowed > 0 && stream.backlog.is_empty()) {
            return Poll::Ready(Ok(allowed.min(want)));
        }
        note(&mut stream.on_send, cx);
        if own > 0 {
            self.block(key);
        }
        Poll::Pending
    }

    /// Data, of which what finds no window waits with the stream. Nothing after the end.
    pub(in crate::http2) fn send_data(&mut self, key: Key, data: Bytes, end: bool) {
        let Some(stream) = self.sending(key) else { return };
        if end {
            stream.ending = Ending::Data;
        }
        if stream.backlog.is_empty() && data.is_empty() {
            return self.flush(key);
        }
        stream.backlog.push_back(data);
        self.flush(key);
    }

    pub(in crate::http2) fn send_trailers(&mut self, key: Key, fields: &Fields) {
        let Some(stream) = self.sending(key) else { return };
        if stream.backlog.is_empty() {
            return self.write_trailers(key, fields);
        }
        stream.ending = Ending::Trailers(Box::new(fields.clone()));
    }

    fn write_trailers(&mut self, key: Key, fields: &Fields) {
        let Some(id) = self.streams.get(key).map(|stream| stream.id) else { return };
        let start = self.begin_block();
        self.write_fields(fields, false);
        self.out.close_block(start, END_STREAM, id, self.peer.max_frame);
        self.end_of_output(key);
    }

    /// Sends of the backlog what the windows allow, and the end behind it.
    pub(super) fn flush(&mut self, key: Key) {
        let largest = self.peer.max_frame.min(MAX_FRAME);
        let Some(stream) = self.streams.get_mut(key).filter(|s| s.failure.is_none()) else {
            return;
        };
        let mut tiny = false;
        while let Some(data) = stream.backlog.front_mut() {
            let window = stream.send_window.min(self.send_window);
            let length = usize::try_from(window).unwrap_or(0).min(data.len()).min(largest);
            if length == 0 && !data.is_empty() {
                break;
            }
            let whole = length == data.len();
            tiny |= !whole && length < TINY && stream.send_window <= self.send_window;
            let piece = data.split_to(length);
            if whole {
                stream.backlog.pop_front();
            }
            let last = stream.backlog.is_empty() && matches!(stream.ending, Ending::Data);
            let sent = i64::try_from(length).unwrap_or_default();
            stream.send_window -= sent;
            self.send_window -= sent;
            if length > 0 || last {
                self.out.data(if last { END_STREAM } else { 0 }, stream.id, piece);
            }
            if last {
                return self.end_of_output(key);
            }
        }
        let waits = !stream.backlog.is_empty();
        if waits && stream.send_window > 0 {
            self.block(key);
        } else if !waits {
            self.end_if_due(key);
        }
        if tiny && !self.guard.allows(Abuse::TinyWindow) {
            self.go_away_for(Code::ENHANCE_YOUR_CALM, "windows are too small");
        }
    }

    /// The end that stands behind a backlog which is empty now.
    fn end_if_due(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        match std::mem::take(&mut stream.ending) {
            Ending::Open => {}
            Ending::Done => stream.ending = Ending::Done,
            Ending::Data => {
                self.out.data(END_STREAM, stream.id, Bytes::new());
                self.end_of_output(key);
            }
            Ending::Trailers(fields) => self.write_trailers(key, &fields),
        }
    }

    /// END_STREAM is among the output.
    pub(super) fn end_of_output(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.ending = Ending::Done;
        }
        self.settle(key);
    }
}
