//! DATA frames that come (RFC 9113 §6.1), and the data that readers take.

use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};

use super::super::error::{Code, Fault, StreamError, protocol};
use super::super::frame::{END_STREAM, HEAD, Head, unpadded};
use super::streams::{Stream, note, wake};
use super::{Abuse, Connection, Key};
use crate::message::Fields;

/// Data shorter than this is copied out of the read buffer; longer shares it.
const COPIED: usize = 1024;
/// Small data is put together up to this length.
const GATHERED: usize = 16 << 10;

impl Connection {
    /// A whole DATA frame is at `at`; both move past it.
    pub(super) fn on_data(
        &mut self,
        head: &Head,
        input: &mut BytesMut,
        at: &mut usize,
    ) -> Result<(), Fault> {
        let start = *at + HEAD;
        *at = start + head.length;
        let payload = input.get(start..*at).unwrap_or_default();
        let Some(data) = unpadded(head, payload) else {
            return Err(protocol("more padding than payload"));
        };
        let skipped = usize::from(head.has(super::super::frame::PADDED));
        let (start, length) = (start + skipped, data.len());
        let end = head.has(END_STREAM);

        let whole = i64::try_from(head.length).unwrap_or(i64::MAX);
        if whole > self.recv_window {
            return Err(Fault::Connection(Code::FLOW_CONTROL_ERROR, "more data than allowed"));
        }
        self.recv_window -= whole;
        let key = match self.admit_data(head, whole, length, end) {
            Ok(Some(key)) => key,
            other => {
                self.release_connection(head.length);
                return other.map(|_| ());
            }
        };
        if length == 0 && !end && !self.guard.allows(Abuse::EmptyData) {
            return Err(Fault::Connection(Code::ENHANCE_YOUR_CALM, "too many empty DATA frames"));
        }
        self.release_connection(head.length - length);
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        stream.recv_window -= whole;
        stream.owed += head.length - length;
        let discarded = stream.discard;
        if !discarded && length > 0 {
            stream.unreleased += length;
            stream.take(input, at, start, length);
        }
        if discarded {
            self.release_connection(length);
        } else if head.length > length {
            self.release(key, 0);
        }
        if end {
            self.end_of_input(key);
        } else if let Some(stream) = self.streams.get_mut(key) {
            wake(&mut stream.on_recv);
        }
        Ok(())
    }

    /// The stream that takes the data; `None` when nobody does.
    fn admit_data(
        &mut self,
        head: &Head,
        whole: i64,
        length: usize,
        end: bool,
    ) -> Result<Option<Key>, Fault> {
        let id = head.stream;
        let Some(key) = self.streams.find(id) else {
            return match self.is_idle(id) {
                true => Err(protocol("DATA of an idle stream")),
                false => self.gone(id).map(|()| None),
            };
        };
        if self.streams.get(key).is_some_and(|stream| stream.failure.is_some()) {
            return self.gone(id).map(|()| None);
        }
        let Some(stream) = self.streams.get_mut(key) else { return Ok(None) };
        let fault = |code| Err(Fault::Stream(id, code));
        match stream {
            Stream { recv_end: true, .. } => fault(Code::STREAM_CLOSED),
            Stream { has_head: false, .. } => fault(Code::PROTOCOL_ERROR),
            Stream { recv_window, .. } if whole > *recv_window => fault(Code::FLOW_CONTROL_ERROR),
            stream => {
                stream.received += u64::try_from(length).unwrap_or_default();
                let fits = stream.expected.is_none_or(|expected| match end {
                    true => stream.received == expected,
                    false => stream.received <= expected,
                });
                if fits { Ok(Some(key)) } else { fault(Code::PROTOCOL_ERROR) }
            }
        }
    }

    /// END_STREAM came, in whatever frame.
    pub(super) fn end_of_input(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.recv_end = true;
            wake(&mut stream.on_recv);
        }
        self.settle(key);
    }

    /// The next data of a stream; `None` at its end.
    pub(in crate::http2) fn poll_data(
        &mut self,
        key: Key,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Bytes, StreamError>>> {
        let Some(stream) = self.streams.get_mut(key) else { return Poll::Ready(None) };
        if let Some(data) = stream.next_data() {
            return Poll::Ready(Some(Ok(data)));
        }
        match stream.failure {
            _ if stream.recv_end => Poll::Ready(None),
            Some(error) => Poll::Ready(Some(Err(error))),
            None => {
                note(&mut stream.on_recv, cx);
                Poll::Pending
            }
        }
    }

    pub(in crate::http2) fn trailers(&mut self, key: Key) -> Option<Fields> {
        self.streams.get_mut(key)?.trailers.take()
    }

    /// All was read, trailers too, and it ended as it should.
    pub(in crate::http2) fn is_input_over(&self, key: Key) -> bool {
        let over = |stream: &Stream| {
            let read = stream.queue.is_empty() && stream.tail.is_empty();
            stream.recv_end && read && stream.trailers.is_none()
        };
        self.streams.get(key).is_none_or(over)
    }

    pub(in crate::http2) fn content_length(&self, key: Key) -> Option<u64> {
        self.streams.get(key)?.expected
    }
}

impl Stream {
    /// Takes data out of the input: small by copying, large by cutting the buffer, which moves the
    /// place that is read at.
    fn take(&mut self, input: &mut BytesMut, at: &mut usize, start: usize, length: usize) {
        if length < COPIED {
            return self.gather(input.get(start..start + length).unwrap_or_default());
        }
        input.advance(start);
        let data = input.split_to(length).freeze();
        *at -= start + length;
        self.settle();
        self.queue.push_back(data);
    }

    /// Puts small data behind what waits.
    fn gather(&mut self, data: &[u8]) {
        if self.tail.len() + data.len() > GATHERED {
            self.settle();
        }
        self.tail.extend_from_slice(data);
    }

    /// Closes what was put together, so that something else can follow it.
    fn settle(&mut self) {
        if !self.tail.is_empty() {
            self.queue.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    fn next_data(&mut self) -> Option<Bytes> {
        if let Some(data) = self.queue.pop_front() {
            return Some(data);
        }
        (!self.tail.is_empty()).then(|| std::mem::take(&mut self.tail).freeze())
    }

    pub(super) fn drop_input(&mut self) {
        self.queue.clear();
        self.tail = BytesMut::new();
        self.trailers = None;
        self.heads.clear();
    }
}
