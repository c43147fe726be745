//! Heads that come (RFC 9113 §6.2, §6.10, §8.1): from frames to a request, a response, trailers.

use std::task::{Context, Poll};
use std::time::Instant;

use super::super::error::{Code, Fault, StreamError, frame_size, protocol};
use super::super::frame::{END_HEADERS, END_STREAM, HEAD, Head, PRIORITY, unpadded, word};
use super::head::{BadHead, Judge, What};
use super::streams::{RECEIVER, SENDER, Stream, note, wake};
use super::{Abuse, Connection, Key, Partial, Role};
use crate::message::{Fields, Known, RequestHead, ResponseHead};

/// What a block may be longer than twice the list, which is then refused by itself; past that the
/// connection ends, since without its block the table is out of step.
const SLACK: usize = 16 << 10;

/// What an answer to a head over the limit says beside its status.
const TOO_LARGE: (&[u8], &[u8]) = (b"x-portolan-reason", b"head_too_large");

/// The parts of a request that a client begins a stream with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open<'a> {
    pub(crate) method: &'a [u8],
    /// `None` for a plain CONNECT, as `path`.
    pub(crate) scheme: Option<&'a [u8]>,
    pub(crate) authority: Option<&'a [u8]>,
    pub(crate) path: Option<&'a [u8]>,
    /// Of an extended CONNECT (RFC 8441 §4).
    pub(crate) protocol: Option<&'a [u8]>,
    pub(crate) fields: &'a Fields,
}

/// Whom a block is for.
enum Target {
    Request,
    Response(Key),
    Trailers(Key),
    /// Nobody; after it was decoded, that is wrong.
    Nobody(Option<Fault>),
}

impl Connection {
    pub(super) fn on_headers(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let Some(mut block) = unpadded(head, payload) else {
            return Err(protocol("more padding than payload"));
        };
        if head.has(PRIORITY) {
            let depends_on = word(block).map(|word| word & 0x7fff_ffff);
            block = block.get(5..).ok_or(frame_size("HEADERS is too short"))?;
            if depends_on == Some(head.stream) {
                // The block is decoded for nobody before the stream is reset.
                self.decode(What::Discard, block)?;
                return Err(Fault::Stream(head.stream, Code::PROTOCOL_ERROR));
            }
        }
        let end = head.has(END_STREAM);
        if head.has(END_HEADERS) {
            return self.on_block(head.stream, end, block);
        }
        let block = block.to_vec();
        self.partial = Some(Box::new(Partial { stream: head.stream, end, frames: 0, block }));
        Ok(())
    }

    /// More of a head, of which the length and the number of frames are bounded.
    pub(super) fn on_continuation(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let Some(mut partial) = self.partial.take() else {
            return Err(protocol("CONTINUATION of no head"));
        };
        partial.frames += 1;
        partial.block.extend_from_slice(payload);
        let longest = self.settings.max_header_list as usize * 2 + SLACK;
        if partial.frames > self.settings.limits.continuations || partial.block.len() > longest {
            return Err(Fault::Connection(Code::ENHANCE_YOUR_CALM, "a head is endless"));
        }
        if head.has(END_HEADERS) {
            return self.on_block(partial.stream, partial.end, &partial.block);
        }
        self.partial = Some(partial);
        Ok(())
    }

    fn decode(&mut self, what: What, block: &[u8]) -> Result<Judge, Fault> {
        let limit = self.settings.max_header_list as usize;
        let mut judge = Judge::new(what, limit, block.len());
        match self.decoder.decode(block, &mut judge) {
            Ok(()) => Ok(judge),
            Err(_) => Err(Fault::Connection(Code::COMPRESSION_ERROR, "a head cannot be decoded")),
        }
    }

    fn on_block(&mut self, id: u32, end: bool, block: &[u8]) -> Result<(), Fault> {
        let target = self.target(id, end)?;
        let what = match target {
            Target::Request => What::Request,
            Target::Response(_) => What::Response,
            Target::Trailers(_) => What::Trailers,
            Target::Nobody(_) => What::Discard,
        };
        let judge = self.decode(what, block)?;
        match target {
            Target::Request => self.on_request(id, end, judge),
            Target::Response(key) => self.on_response(key, id, end, judge),
            Target::Trailers(key) => self.on_trailers(key, id, judge),
            Target::Nobody(fault) => fault.map_or(Ok(()), Err),
        }
    }

    fn target(&mut self, id: u32, end: bool) -> Result<Target, Fault> {
        if let Some(stream) =
            self.streams.find(id).and_then(|key| Some((key, self.streams.get(key)?)))
        {
            return Ok(match stream {
                (_, Stream { failure: Some(_), .. }) => Target::Nobody(self.gone(id).err()),
                (_, Stream { recv_end: true, .. }) => {
                    Target::Nobody(Some(Fault::Stream(id, Code::STREAM_CLOSED)))
                }
                (key, Stream { has_head: false, .. }) => Target::Response(key),
                (key, _) if end => Target::Trailers(key),
                _ => Target::Nobody(Some(Fault::Stream(id, Code::PROTOCOL_ERROR))),
            });
        }
        match (self.role, self.is_idle(id)) {
            (Role::Server, true) if id.is_multiple_of(2) => {
                Err(protocol("a client's stream is even"))
            }
            (Role::Client, true) => Err(protocol("HEADERS of an idle stream")),
            (Role::Server, true) => Ok(Target::Request),
            (_, false) if self.gone(id).is_ok() => Ok(Target::Nobody(None)),
            (_, false) => {
                let closed = Fault::Connection(Code::STREAM_CLOSED, "HEADERS of a closed stream");
                Ok(Target::Nobody(Some(closed)))
            }
        }
    }

    fn on_request(&mut self, id: u32, end: bool, judge: Judge) -> Result<(), Fault> {
        self.last_peer = id;
        if self.going.last.is_some_and(|last| id > last) {
            // Told by GOAWAY that it is not processed.
            return Ok(());
        }
        // Also those that were reset but are still worked for.
        let most = self.settings.max_concurrent_streams as usize;
        if self.active >= most || self.streams.len() >= most.saturating_mul(2) {
            self.guard.counters.refused += 1;
            return Err(Fault::Stream(id, Code::REFUSED_STREAM));
        }
        let expected = judge.length();
        let head = match judge.request(self.settings.connect_protocol) {
            Ok(head) if !end || expected.unwrap_or(0) == 0 => head,
            Err(BadHead::TooLarge) => return self.refuse_too_large(id, end),
            _ => {
                self.guard.counters.bad_heads += 1;
                return Err(Fault::Stream(id, Code::PROTOCOL_ERROR));
            }
        };
        let begun = Some(*self.now.get_or_insert_with(Instant::now));
        let stream =
            Stream { expected, begun, has_head: true, recv_end: end, ..self.new_stream(id) };
        let key = self.streams.insert(stream);
        self.active += 1;
        self.accepted.push_back((key, head));
        Ok(())
    }

    /// A stream that just began.
    fn new_stream(&self, id: u32) -> Stream {
        Stream {
            id,
            send_window: self.peer.initial_window,
            recv_window: self.own_window,
            counted: true,
            handles: SENDER | RECEIVER,
            ..Stream::default()
        }
    }

    /// RFC 6585 §5, and an end to whatever else was to come.
    fn refuse_too_large(&mut self, id: u32, end: bool) -> Result<(), Fault> {
        self.guard.counters.bad_heads += 1;
        self.guard.counters.large_heads += 1;
        let start = self.begin_block();
        self.encoder.status(self.out.buffer(), 431);
        // Who answers, and why, is said as by all answers of the proxy's own.
        let (name, value) = TOO_LARGE;
        self.encoder.field(self.out.buffer(), Known::Other, name, value);
        self.out.close_block(start, END_STREAM, id, self.peer.max_frame);
        if !end {
            self.write_reset(id, Code::NO_ERROR);
        }
        self.count_reply()?;
        match self.guard.allows(Abuse::Reset) {
            true => Ok(()),
            false => Err(Fault::Connection(Code::ENHANCE_YOUR_CALM, "too many large heads")),
        }
    }

    fn on_response(&mut self, key: Key, id: u32, end: bool, judge: Judge) -> Result<(), Fault> {
        let length = judge.length();
        let Ok(head) = judge.response() else {
            self.guard.counters.bad_heads += 1;
            return Err(Fault::Stream(id, Code::PROTOCOL_ERROR));
        };
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        let informational = head.status < 200;
        if informational && (end || stream.heads.len() >= 8) {
            return Err(Fault::Stream(id, Code::PROTOCOL_ERROR));
        }
        if !informational {
            stream.has_head = true;
            let binds = !stream.bodiless && !matches!(head.status, 204 | 304);
            stream.expected = length.filter(|_| binds);
            if end && stream.expected.is_some_and(|length| length > 0) {
                return Err(Fault::Stream(id, Code::PROTOCOL_ERROR));
            }
        }
        if !stream.discard {
            stream.heads.push_back(head);
        }
        if end {
            self.end_of_input(key);
        } else if let Some(stream) = self.streams.get_mut(key) {
            wake(&mut stream.on_recv);
        }
        Ok(())
    }

    fn on_trailers(&mut self, key: Key, id: u32, judge: Judge) -> Result<(), Fault> {
        let Ok(fields) = judge.trailers() else {
            self.guard.counters.bad_heads += 1;
            return Err(Fault::Stream(id, Code::PROTOCOL_ERROR));
        };
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        if stream.expected.is_some_and(|expected| expected != stream.received) {
            return Err(Fault::Stream(id, Code::PROTOCOL_ERROR));
        }
        if !stream.discard {
            stream.trailers = Some(fields);
        }
        self.end_of_input(key);
        Ok(())
    }

    /// The next request, unless it was reset meanwhile. Whoever takes it holds both handles.
    pub(in crate::http2) fn accept(&mut self) -> Option<(Key, RequestHead)> {
        while let Some((key, head)) = self.accepted.pop_front() {
            let failed = self.streams.get(key).is_none_or(|stream| stream.failure.is_some());
            if !failed {
                return Some((key, head));
            }
            self.drop_handle(key, SENDER | RECEIVER);
        }
        None
    }

    /// The next response head of a stream, informational ones included.
    pub(in crate::http2) fn poll_head(
        &mut self,
        key: Key,
        cx: &Context<'_>,
    ) -> Poll<Result<ResponseHead, StreamError>> {
        let Some(stream) = self.streams.get_mut(key) else {
            return Poll::Ready(Err(StreamError::Ended));
        };
        match (stream.heads.pop_front(), stream.failure) {
            (Some(head), _) => Poll::Ready(Ok(head)),
            (None, Some(error)) => Poll::Ready(Err(error)),
            (None, None) if stream.recv_end => Poll::Ready(Err(StreamError::Ended)),
            (None, None) => {
                note(&mut stream.on_recv, cx);
                Poll::Pending
            }
        }
    }

    /// Streams that can be opened now (client).
    pub(in crate::http2) fn room(&self) -> usize {
        let over = self.failure.is_some()
            || self.going.draining
            || self.going.peer_last.is_some()
            || self.next_id > 0x7fff_ffff;
        if over {
            return 0;
        }
        let most = self.peer.max_streams.min(self.settings.max_concurrent_streams);
        (most as usize).saturating_sub(self.active)
    }

    /// Begins a stream (client) and holds both handles for the caller; `None` without room.
    pub(in crate::http2) fn open(&mut self, request: &Open<'_>, end: bool) -> Option<Key> {
        if self.room() == 0 {
            return None;
        }
        let id = self.next_id;
        self.next_id += 2;
        let start = self.begin_block();
        let out = self.out.buffer();
        self.encoder.method(out, request.method);
        if let Some(scheme) = request.scheme {
            self.encoder.scheme(out, scheme);
        }
        if let Some(path) = request.path {
            self.encoder.path(out, path);
        }
        if let Some(authority) = request.authority {
            self.encoder.authority(out, authority);
        }
        if let Some(protocol) = request.protocol {
            self.encoder.protocol(out, protocol);
        }
        self.write_fields(request.fields, request.authority.is_some());
        let flags = if end { END_STREAM } else { 0 };
        self.out.close_block(start, flags, id, self.peer.max_frame);
        let stream =
            Stream { bodiless: request.method == b"HEAD", head_sent: true, ..self.new_stream(id) };
        let key = self.streams.insert(stream);
        self.active += 1;
        if end {
            self.end_of_output(key);
        }
        Some(key)
    }

    /// Room for a frame head, to be closed with `Output::close_block`, and what the encoder has to
    /// say first.
    pub(super) fn begin_block(&mut self) -> usize {
        let out = self.out.buffer();
        let start = out.len();
        out.extend_from_slice(&[0; HEAD]);
        self.encoder.begin(out);
        start
    }
}
