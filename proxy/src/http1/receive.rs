//! Reading messages from a socket: heads, then bodies piece by piece.
//!
//! Room for what is read is taken only when something is there to read, and let go of when all of
//! it was used: a connection that waits holds none. Bytes after a message stay for the next.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use super::chunked::{Decoder, Step};
use super::framing::{Length, Malformed, Request, Response};
use super::{Limits, ReadError, head};
use crate::message::{Fields, RequestHead, ResponseHead};
use crate::stream::ReadHalf;

/// Room for the first read of a message, and for a read of a long body.
const FIRST_ROOM: usize = 4 * 1024;
const MOST_ROOM: usize = 64 * 1024;

/// Bytes and fields of a trailer section.
const TRAILERS: Limits = Limits { head: 16 * 1024, fields: 64 };

/// What was read, and where in a body that is.
#[derive(Debug, Default)]
pub(crate) struct Input {
    buffer: BytesMut,
    /// Bytes of the buffer that hold no end of a head.
    seen: usize,
    /// Room for the next read; grows while reads fill it.
    room: usize,
    ended: bool,
    body: Body,
    trailers: Option<Fields>,
}

#[derive(Debug, Default)]
enum Body {
    #[default]
    Over,
    Known(u64),
    Chunked(Decoder),
    Close,
}

/// One direction of a connection while a message is read from it.
#[derive(Debug)]
pub(crate) struct Receiving<'a> {
    reader: ReadHalf<'a>,
    input: &'a mut Input,
}

impl Input {
    pub(super) fn new(read: &[u8]) -> Self {
        Self { buffer: BytesMut::from(read), ..Self::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Whether the last message was read to its end and nothing follows it.
    pub(super) fn is_at_rest(&self) -> bool {
        self.buffer.is_empty() && matches!(self.body, Body::Over)
    }

    /// Reads once; 0 at the end. `least`: room to have.
    pub(super) fn poll_fill(
        &mut self,
        reader: &mut ReadHalf<'_>,
        cx: &mut Context<'_>,
        least: usize,
    ) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        if self.buffer.is_empty() && self.buffer.capacity() == 0 {
            // No room is held for a connection that is silent.
            ready!(reader.poll_read_ready(cx))?;
        }
        if self.buffer.capacity() == 0 {
            self.buffer = super::room::take_input();
        }
        let room = self.room.max(least).max(FIRST_ROOM);
        if self.buffer.capacity() - self.buffer.len() < room / 2 {
            self.buffer.reserve(room);
        }
        let spare = self.buffer.capacity() - self.buffer.len();
        let n = match tokio_util::io::poll_read_buf(Pin::new(reader), cx, &mut self.buffer) {
            Poll::Ready(read) => read?,
            Poll::Pending => {
                if self.buffer.is_empty() {
                    super::room::give_input(std::mem::take(&mut self.buffer));
                }
                return Poll::Pending;
            }
        };
        if n == spare {
            self.room = (room * 4).min(MOST_ROOM);
        }
        self.ended = n == 0;
        Poll::Ready(Ok(n))
    }

    pub(super) fn poll_request(
        &mut self,
        reader: &mut ReadHalf<'_>,
        cx: &mut Context<'_>,
        limits: Limits,
        into: &mut RequestHead,
    ) -> Poll<Result<Option<Request>, ReadError>> {
        loop {
            if self.may_have_head() {
                if into.fields.is_bare() {
                    *into = RequestHead::spare();
                }
                if let Some((used, request)) = head::request(&self.buffer, limits, into)? {
                    self.begin(used, request.length);
                    return Poll::Ready(Ok(Some(request)));
                }
                self.seen = self.buffer.len();
            }
            if ready!(self.poll_fill(reader, cx, 1))? == 0 {
                let between = self.buffer.is_empty();
                return Poll::Ready(if between { Ok(None) } else { Err(ReadError::Incomplete) });
            }
        }
    }

    /// Whether the bytes read since the last look may end a head, or break a rule: a head that
    /// drips in is not read from its start for every drop.
    fn may_have_head(&self) -> bool {
        let from = self.seen.saturating_sub(3).min(self.buffer.len());
        !self.buffer.is_empty() && memchr::memchr(b'\n', &self.buffer[from..]).is_some()
            || self.buffer.len() > MOST_ROOM / 2
    }

    fn begin(&mut self, used: usize, length: Length) {
        // All of it was used: the room serves the next read as it is.
        if used == self.buffer.len() {
            self.buffer.clear();
        } else {
            bytes::Buf::advance(&mut self.buffer, used);
        }
        self.seen = 0;
        self.trailers = None;
        self.body = match length {
            Length::None => Body::Over,
            Length::Known(left) => Body::Known(left),
            Length::Chunked => Body::Chunked(Decoder::default()),
            Length::Close => Body::Close,
        };
    }

    /// The next piece of the body that is in the buffer, `None` at its end; pending without a wake
    /// when more has to be read.
    fn piece(&mut self) -> Result<Poll<Option<Bytes>>, Malformed> {
        loop {
            match &mut self.body {
                Body::Over => return Ok(Poll::Ready(None)),
                _ if self.buffer.is_empty() => return Ok(Poll::Pending),
                Body::Close => return Ok(Poll::Ready(Some(self.buffer.split().freeze()))),
                Body::Known(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(self.buffer.len());
                    *left = left.saturating_sub(u64::try_from(n).unwrap_or(u64::MAX));
                    if *left == 0 {
                        self.body = Body::Over;
                    }
                    return Ok(Poll::Ready(Some(self.buffer.split_to(n).freeze())));
                }
                Body::Chunked(decoder) => match decoder.step(&self.buffer)? {
                    Step::More => return Ok(Poll::Pending),
                    Step::Skip(n) => bytes::Buf::advance(&mut self.buffer, n),
                    Step::Data(n) => {
                        return Ok(Poll::Ready(Some(self.buffer.split_to(n).freeze())));
                    }
                    Step::Trailers => {
                        let mut fields = Fields::default();
                        let Some(n) = head::trailers(&self.buffer, TRAILERS, &mut fields)? else {
                            return Ok(Poll::Pending);
                        };
                        bytes::Buf::advance(&mut self.buffer, n);
                        self.trailers = (fields.len() > 0).then_some(fields);
                        self.body = Body::Over;
                    }
                },
            }
        }
    }
}

impl<'a> Receiving<'a> {
    pub(super) fn new(reader: ReadHalf<'a>, input: &'a mut Input) -> Self {
        Self { reader, input }
    }

    /// Reads the head of the response to a request of that method.
    pub(crate) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        limits: Limits,
        method: &[u8],
        into: &mut ResponseHead,
    ) -> Poll<Result<Response, ReadError>> {
        let input = &mut *self.input;
        loop {
            if input.may_have_head() {
                let read = head::response(&input.buffer, limits, method, into)?;
                if let Some((used, response)) = read {
                    input.begin(used, response.length);
                    return Poll::Ready(Ok(response));
                }
                input.seen = input.buffer.len();
            }
            if ready!(input.poll_fill(&mut self.reader, cx, 1))? == 0 {
                return Poll::Ready(Err(ReadError::Incomplete));
            }
        }
    }

    /// What comes is a tunnel's: bytes to the end of the connection.
    pub(crate) fn begin_tunnel(&mut self) {
        self.input.body = Body::Close;
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        loop {
            if let Poll::Ready(piece) = self.input.piece()? {
                return Poll::Ready(Ok(piece));
            }
            if ready!(self.input.poll_fill(&mut self.reader, cx, 1))? == 0 {
                if matches!(self.input.body, Body::Close) {
                    self.input.body = Body::Over;
                    return Poll::Ready(Ok(None));
                }
                return Poll::Ready(Err(ReadError::Incomplete));
            }
        }
    }

    /// The whole rest of the body, if its length is known and all of it was read already.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        match self.input.body {
            Body::Known(left) => self.input.buffer.get(..usize::try_from(left).ok()?),
            _ => None,
        }
    }

    /// Passes over what [`Self::whole`] showed.
    pub(crate) fn skip_whole(&mut self) {
        if let Body::Known(left) = self.input.body
            && let Ok(left) = usize::try_from(left)
            && left <= self.input.buffer.len()
        {
            if left == self.input.buffer.len() {
                self.input.buffer.clear();
            } else {
                bytes::Buf::advance(&mut self.input.buffer, left);
            }
            self.input.body = Body::Over;
        }
    }

    /// Completes when the peer has gone away, once its message is here. What it sends meanwhile is kept
    /// for its next one, up to one read.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let whole = self.whole().map_or(0, <[u8]>::len);
        if self.input.buffer.len() > whole {
            return Poll::Pending;
        }
        match self.input.poll_fill(&mut self.reader, cx, 1) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(()),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        }
    }

    /// The socket, for what goes past this engine; `None` where its bytes are not the connection's.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        self.reader.socket()
    }

    /// Looks at the socket, whatever its bytes are.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&TcpStream) -> T) -> T {
        self.reader.look(look)
    }

    /// Bytes of the body that are to come, if its length is known and none of it was read yet.
    pub(crate) fn unread(&self) -> Option<u64> {
        match self.input.body {
            Body::Known(left) if self.input.buffer.is_empty() => Some(left),
            _ => None,
        }
    }

    /// So many bytes of the body went another way.
    pub(crate) fn on_moved(&mut self, n: u64) {
        if let Body::Known(left) = &mut self.input.body {
            *left = left.saturating_sub(n);
            if *left == 0 {
                self.input.body = Body::Over;
            }
        }
    }

    /// Whether the body is over.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.input.body, Body::Over)
    }

    /// The length of what is left of the body.
    pub(crate) fn length(&self) -> Length {
        match self.input.body {
            Body::Over => Length::None,
            Body::Known(left) => Length::Known(left),
            Body::Chunked(_) => Length::Chunked,
            Body::Close => Length::Close,
        }
    }

    /// The trailers, once the body is over.
    pub(crate) fn take_trailers(&mut self) -> Option<Fields> {
        self.input.trailers.take()
    }
}
