//! Bodies on their way from one side to the other, whichever version each side speaks.
//!
//! Owns moving: a piece is taken from one side only when the other has taken the one before, and
//! that is all the back-pressure there is. Refuses to know why a message is sent.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::passing;
use crate::http1::{self, Length};
use crate::http2;
use crate::message::Fields;
use crate::splice::{Broken, Pump};

/// Bytes of a request's body that are kept for another try.
const REPLAY: usize = 64 * 1024;

/// Bytes to come from which a body goes from socket to socket.
const LONG: u64 = 128 * 1024;

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{0}")]
    Http1(#[from] http1::ReadError),
    #[error("{0}")]
    Http2(#[from] http2::StreamError),
}

/// Why a body could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("{0}")]
    Http1(#[from] io::Error),
    #[error("{0}")]
    Http2(#[from] http2::StreamError),
}

/// Which side of a body failed.
#[derive(Debug)]
pub(crate) enum PumpError {
    Read(ReadError),
    Write(WriteError),
}

/// A body to read.
pub(crate) enum Incoming<'a> {
    Http1(http1::Receiving<'a>),
    Http2(http2::RecvStream),
}

/// A body to write.
pub(crate) enum Outgoing<'a> {
    Http1(http1::Sending<'a>),
    Http2(Http2Out),
}

/// A stream to write to, with what it has no room for yet.
pub(crate) struct Http2Out {
    pub(crate) stream: http2::SendStream,
    waiting: Bytes,
    /// The end goes with the last of what waits.
    end: bool,
    ended: bool,
}

impl Incoming<'_> {
    /// The next piece; `None` at the end.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        match self {
            Self::Http1(body) => body.poll_data(cx).map_err(ReadError::Http1),
            Self::Http2(body) => body.poll_data(cx).map(|piece| Ok(piece.transpose()?)),
        }
    }

    /// The whole of the rest, if it was read already.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        match self {
            Self::Http1(body) => body.whole(),
            Self::Http2(_) => None,
        }
    }

    pub(crate) fn skip_whole(&mut self) {
        if let Self::Http1(body) = self {
            body.skip_whole();
        }
    }

    /// A piece of so many bytes went on: the sender may send as much again.
    fn release(&mut self, n: usize) {
        if let Self::Http2(body) = self {
            body.release(n);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_over(),
            Self::Http2(body) => body.is_end(),
        }
    }

    pub(crate) fn length(&self) -> Length {
        match self {
            Self::Http1(body) => body.length(),
            Self::Http2(body) if body.is_end() => Length::None,
            Self::Http2(body) => body.content_length().map_or(Length::Chunked, |n| match n {
                0 => Length::Chunked,
                n => Length::Known(n),
            }),
        }
    }

    fn take_trailers(&mut self) -> Option<Fields> {
        match self {
            Self::Http1(body) => body.take_trailers(),
            Self::Http2(body) => body.trailers(),
        }
    }

    /// Completes when the sender has gone away although the body is over. Over HTTP/2 it is the
    /// other direction that is told.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(body) => body.poll_gone(cx),
            Self::Http2(_) => Poll::Pending,
        }
    }

    pub(crate) fn begin_tunnel(&mut self) {
        if let Self::Http1(body) = self {
            body.begin_tunnel();
        }
    }
}

impl Outgoing<'_> {
    /// Whether what is queued has to be flushed before there is room for more.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_full(),
            Self::Http2(body) => !body.waiting.is_empty(),
        }
    }

    /// Queues a piece.
    pub(crate) fn data(&mut self, data: Bytes) {
        match self {
            Self::Http1(body) => body.data(data),
            Self::Http2(body) => body.waiting = data,
        }
    }

    /// Queues a small piece that is somewhere else.
    pub(crate) fn copy(&mut self, data: &[u8]) {
        match self {
            Self::Http1(body) => body.copy(data),
            Self::Http2(body) => body.waiting = Bytes::copy_from_slice(data),
        }
    }

    /// Queues the end.
    pub(crate) fn finish(&mut self, trailers: Option<&Fields>) {
        match self {
            Self::Http1(body) => body.finish(trailers),
            Self::Http2(body) => body.finish(trailers),
        }
    }

    /// Hands everything to the system, or to the connection's driver.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        match self {
            Self::Http1(body) => body.poll_flush(cx).map_err(WriteError::Http1),
            Self::Http2(body) => body.poll_flush(cx).map_err(WriteError::Http2),
        }
    }

    /// Completes when the receiver has refused the rest. Over HTTP/1.1 writing says so.
    pub(crate) fn poll_refused(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(_) => Poll::Pending,
            Self::Http2(body) => body.stream.poll_reset(cx).map(|_code| ()),
        }
    }

    pub(crate) fn begin_tunnel(&mut self) {
        if let Self::Http1(body) = self {
            body.begin_tunnel();
        }
    }

    /// Ends this direction of a tunnel.
    fn poll_end_tunnel(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        match self {
            Self::Http1(body) => body.poll_shutdown(cx).map_err(WriteError::Http1),
            Self::Http2(body) => {
                body.finish(None);
                body.poll_flush(cx).map_err(WriteError::Http2)
            }
        }
    }
}

impl Http2Out {
    pub(crate) fn new(stream: http2::SendStream, ended: bool) -> Self {
        Self { stream, waiting: Bytes::new(), end: false, ended }
    }

    /// The head that was sent was all there is.
    pub(crate) fn set_ended(&mut self) {
        self.ended = true;
    }

    fn finish(&mut self, trailers: Option<&Fields>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        match trailers {
            Some(trailers) => self.stream.send_trailers(trailers),
            None if self.waiting.is_empty() => self.stream.finish(),
            None => self.end = true,
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), http2::StreamError>> {
        while !self.waiting.is_empty() {
            let room = ready!(self.stream.poll_capacity(cx, self.waiting.len()))?;
            let piece = self.waiting.split_to(room.min(self.waiting.len()));
            let end = self.end && self.waiting.is_empty();
            self.stream.send_data(piece, end);
        }
        Poll::Ready(Ok(()))
    }
}

/// A request's body, of which the beginning can be sent again.
pub(crate) struct Source<'a> {
    incoming: Incoming<'a>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Pieces of `kept` that this try has had.
    next: usize,
    /// More was read than is kept: there is no other try.
    spent: bool,
    /// The body was sent from where it was read into; it is passed over at the end.
    lent: bool,
    failed: bool,
    /// Bytes read and not let go of yet.
    held: usize,
    /// Bytes of the body so far, for the log.
    pub(crate) bytes: u64,
}

impl<'a> Source<'a> {
    pub(crate) fn new(incoming: Incoming<'a>) -> Self {
        Self {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            next: 0,
            spent: false,
            lent: false,
            failed: false,
            held: 0,
            bytes: 0,
        }
    }

    /// Begins anew for another try.
    pub(crate) fn rewind(&mut self) {
        self.next = 0;
        self.lent = false;
    }

    /// Whether all that was read can be sent again.
    pub(crate) fn can_rewind(&self) -> bool {
        !self.spent && !self.failed
    }

    /// Whether the client failed to send it.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// Whether there is no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0 && !self.lent && self.incoming.is_over()
    }

    /// Whether all of it was read.
    pub(crate) fn is_over(&self) -> bool {
        self.incoming.is_over() || self.lent
    }

    pub(crate) fn length(&self) -> Length {
        self.incoming.length()
    }

    /// An answer is there: there will be no other try.
    pub(crate) fn settle(&mut self) {
        self.spent = true;
        self.kept = Vec::new();
        if self.lent {
            self.lent = false;
            self.incoming.skip_whole();
        }
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_over() && !self.lent { self.incoming.poll_gone(cx) } else { Poll::Pending }
    }

    /// What follows is a tunnel's.
    pub(crate) fn begin_tunnel(&mut self) {
        self.settle();
        self.incoming.begin_tunnel();
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ReadError>> {
        if let Some(kept) = self.kept.get(self.next) {
            self.next += 1;
            return Poll::Ready(Ok(Some(kept.clone())));
        }
        let piece = ready!(self.incoming.poll_data(cx)).inspect_err(|_| self.failed = true)?;
        if let Some(piece) = &piece {
            self.bytes += u64::try_from(piece.len()).unwrap_or(0);
            self.held += piece.len();
            self.keep(piece);
        }
        Poll::Ready(Ok(piece))
    }

    fn keep(&mut self, piece: &Bytes) {
        if self.spent {
            return;
        }
        self.kept_bytes += piece.len();
        if self.kept_bytes > REPLAY {
            self.spent = true;
            self.kept = Vec::new();
        } else {
            self.kept.push(piece.clone());
            self.next = self.kept.len();
        }
    }
}

/// Moves a request's body towards an endpoint.
#[derive(Default)]
pub(crate) struct Upload {
    begun: bool,
    /// The body is over; its end, with these trailers, is still to be queued.
    trailers: Option<Fields>,
    finished: bool,
    done: bool,
    tunnel: bool,
}

impl Upload {
    /// A body that is not to be sent; the head is.
    pub(crate) fn held() -> Self {
        Self { begun: true, finished: true, ..Self::default() }
    }

    /// One direction of a tunnel.
    pub(crate) fn tunnel() -> Self {
        Self { begun: true, tunnel: true, ..Self::default() }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done
    }

    /// Moves what can be moved; ready when all is written or one side failed.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Source<'_>,
        to: &mut Outgoing<'_>,
        trailers: bool,
    ) -> Poll<Result<(), PumpError>> {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        if !self.begun {
            self.begun = true;
            if source.kept.is_empty()
                && let Some(whole) = source.incoming.whole()
            {
                source.bytes = u64::try_from(whole.len()).unwrap_or(0);
                to.copy(whole);
                source.lent = true;
            } else if source.incoming.is_over() && source.kept.is_empty() {
                self.finished = true;
                to.finish(None);
            }
        }
        loop {
            if self.finished || to.is_full() {
                ready!(self.poll_flush(cx, source, to))?;
            }
            if self.finished {
                if self.tunnel {
                    ready!(to.poll_end_tunnel(cx)).map_err(PumpError::Write)?;
                }
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            if let Some(trailers) = self.trailers.take() {
                to.finish(Some(&trailers));
                self.finished = true;
                continue;
            }
            let piece = if source.lent { Poll::Ready(Ok(None)) } else { source.poll_data(cx) };
            match piece {
                Poll::Pending => {
                    ready!(self.poll_flush(cx, source, to))?;
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Read(error))),
                Poll::Ready(Ok(Some(piece))) => to.data(piece),
                Poll::Ready(Ok(None)) if self.tunnel => self.finished = true,
                Poll::Ready(Ok(None)) => {
                    self.trailers = source.incoming.take_trailers().filter(|_| trailers);
                    self.trailers.iter_mut().for_each(passing::trailers);
                    if self.trailers.is_none() {
                        to.finish(None);
                        self.finished = true;
                    }
                }
            }
        }
    }

    fn poll_flush(
        &self,
        cx: &mut Context<'_>,
        source: &mut Source<'_>,
        to: &mut Outgoing<'_>,
    ) -> Poll<Result<(), PumpError>> {
        ready!(to.poll_flush(cx)).map_err(PumpError::Write)?;
        source.incoming.release(std::mem::take(&mut source.held));
        Poll::Ready(Ok(()))
    }
}

/// Moves a response's body towards the client, or one direction of a tunnel.
pub(crate) struct Download<'a> {
    pub(crate) from: Incoming<'a>,
    held: usize,
    finished: bool,
    /// The body is over; its end, with the trailers, is still to be queued.
    ending: bool,
    /// Trailers are passed on.
    trailers: bool,
    tunnel: bool,
    /// Moves what is left of a long body from socket to socket.
    pump: Option<Box<Pump>>,
    /// Bytes so far.
    pub(crate) bytes: u64,
    /// What the trailers, which are gone by then, said that somebody wants to know.
    pub(crate) seen: Option<Fields>,
}

/// Moves a long body past the engines, where both sides are sockets and its length is known: `None`
/// where that is not so, or not yet. Ready when all of it was moved; what was so far is added to
/// `bytes`.
fn long(
    pump: &mut Option<Box<Pump>>,
    from: &mut Incoming<'_>,
    to: &mut Outgoing<'_>,
    cx: &mut Context<'_>,
    bytes: &mut u64,
) -> Option<Poll<Result<(), PumpError>>> {
    let (Incoming::Http1(receiving), Outgoing::Http1(sending)) = (from, to) else { return None };
    let left = receiving.unread().filter(|left| pump.is_some() || *left >= LONG)?;
    let sink = sending.socket()?;
    let pump = pump.get_or_insert_with(|| Box::new(Pump::new(Some(left))));
    let before = pump.moved();
    let polled = pump.poll(cx, receiving.socket(), sink);
    let after = pump.moved();
    *bytes += after - before;
    Some(match polled {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) if after < left => {
            Poll::Ready(Err(PumpError::Read(http1::ReadError::Incomplete.into())))
        }
        Poll::Ready(Ok(())) => {
            receiving.on_moved(left);
            Poll::Ready(Ok(()))
        }
        Poll::Ready(Err(Broken::Source(error))) => {
            Poll::Ready(Err(PumpError::Read(http1::ReadError::Io(error).into())))
        }
        Poll::Ready(Err(Broken::Sink(error))) => {
            Poll::Ready(Err(PumpError::Write(WriteError::Http1(error))))
        }
    })
}

impl<'a> Download<'a> {
    pub(crate) fn new(from: Incoming<'a>, trailers: bool) -> Self {
        Self {
            from,
            held: 0,
            finished: false,
            ending: false,
            trailers,
            tunnel: false,
            pump: None,
            bytes: 0,
            seen: None,
        }
    }

    pub(crate) fn tunnel(mut from: Incoming<'a>) -> Self {
        from.begin_tunnel();
        Self { tunnel: true, ..Self::new(from, false) }
    }

    /// Moves what can be moved; ready when all is written or one side failed. The head may be
    /// queued still: it goes out with the first piece.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Outgoing<'_>,
    ) -> Poll<Result<(), PumpError>> {
        if !self.finished
            && let Some(whole) = self.from.whole()
        {
            self.bytes += u64::try_from(whole.len()).unwrap_or(0);
            to.copy(whole);
            self.from.skip_whole();
        }
        loop {
            if self.finished || to.is_full() {
                ready!(self.poll_flush(cx, to))?;
            }
            if self.finished {
                return if self.tunnel {
                    to.poll_end_tunnel(cx).map_err(PumpError::Write)
                } else {
                    Poll::Ready(Ok(()))
                };
            }
            if self.ending {
                to.finish(self.seen.as_ref());
                self.finished = true;
                continue;
            }
            if let Some(moved) = long(&mut self.pump, &mut self.from, to, cx, &mut self.bytes) {
                ready!(moved)?;
                continue;
            }
            match self.from.poll_data(cx) {
                Poll::Pending => {
                    ready!(self.poll_flush(cx, to))?;
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Read(error))),
                Poll::Ready(Ok(Some(piece))) => {
                    self.bytes += u64::try_from(piece.len()).unwrap_or(0);
                    self.held += piece.len();
                    to.data(piece);
                }
                Poll::Ready(Ok(None)) if self.tunnel => self.finished = true,
                Poll::Ready(Ok(None)) => {
                    self.seen = self.from.take_trailers();
                    self.seen.iter_mut().for_each(passing::trailers);
                    self.ending = self.trailers && self.seen.is_some();
                    if !self.ending {
                        to.finish(None);
                        self.finished = true;
                    }
                }
            }
        }
    }

    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Outgoing<'_>,
    ) -> Poll<Result<(), PumpError>> {
        ready!(to.poll_flush(cx)).map_err(PumpError::Write)?;
        self.from.release(std::mem::take(&mut self.held));
        Poll::Ready(Ok(()))
    }
}
