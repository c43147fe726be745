//! A request's body towards an endpoint, and again towards another while that is possible.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use super::super::passing;
use super::copied::Tap;
use super::{Incoming, Outgoing, PumpError, ReadError};
use crate::http1::{self, Length};
use crate::message::Fields;

/// Bytes of a request's body that are kept for another try.
const REPLAY: usize = 64 * 1024;

/// How often a client is looked at whose bytes are not taken. Reading would tell that it has gone;
/// the readiness of its socket, which has bytes, does not change.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// A request's body, of which the beginning can be sent again.
pub(crate) struct Source<'a> {
    incoming: Incoming<'a>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// Pieces of `kept` that this try has had.
    next: usize,
    /// What came after the last piece, for this try and the next.
    trailers: Option<Fields>,
    /// More was read than is kept: there is no other try.
    spent: bool,
    /// The body was sent from where it was read into; it is passed over at the end.
    lent: bool,
    failed: bool,
    /// Bytes read and not let go of yet.
    held: usize,
    /// Bytes of the body so far, for the log.
    pub(crate) bytes: u64,
    /// What is told of each piece that is read, once.
    taps: Vec<Tap>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(incoming: Incoming<'a>) -> Self {
        Self {
            incoming,
            kept: Vec::new(),
            kept_bytes: 0,
            next: 0,
            trailers: None,
            spent: false,
            lent: false,
            failed: false,
            held: 0,
            bytes: 0,
            taps: Vec::new(),
        }
    }

    /// Has what is read from now on copied.
    pub(crate) fn tap(&mut self, tap: Tap) {
        self.taps.push(tap);
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

    /// Whether there is no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0 && !self.lent && self.trailers.is_none() && self.incoming.is_over()
    }

    /// Whether all of it was read.
    pub(crate) fn is_over(&self) -> bool {
        self.incoming.is_over() || self.lent
    }

    pub(crate) fn length(&self) -> Length {
        self.incoming.length()
    }

    /// There will be no other try: an answer is there, or there will be none.
    pub(crate) fn settle(&mut self) {
        self.spent = true;
        self.kept = Vec::new();
        if self.lent {
            self.lent = false;
            self.incoming.skip_whole();
        }
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_over() { self.incoming.poll_gone(cx) } else { Poll::Pending }
    }

    /// Whether a client whose body is not read has ended its side or reset it. Over HTTP/2 the
    /// stream says so.
    pub(crate) fn has_left(&self) -> bool {
        let Some(body) = self.incoming.http1() else { return false };
        body.look(|socket| {
            if is_reset(socket) {
                return true;
            }
            let ready = std::pin::pin!(socket.ready(tokio::io::Interest::READABLE));
            let mut context = Context::from_waker(std::task::Waker::noop());
            matches!(ready.poll(&mut context), Poll::Ready(Ok(ready)) if ready.is_read_closed())
        })
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
            self.taps.iter().for_each(|tap| tap.data(piece));
            self.keep(piece);
        }
        Poll::Ready(Ok(piece))
    }

    /// The next piece, for somebody who keeps what is to be sent again: `None` at the end. The sender may
    /// send as much again at once.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        self.spent = true;
        let piece = ready!(self.poll_data(cx));
        self.incoming.release(std::mem::take(&mut self.held));
        Poll::Ready(piece)
    }

    /// The trailers, once the data has ended.
    pub(super) fn trailers(&mut self) -> Option<&Fields> {
        if let Some(mut trailers) = self.incoming.take_trailers() {
            passing::trailers(&mut trailers);
            self.trailers = Some(trailers);
        }
        for tap in self.taps.drain(..) {
            tap.end(self.trailers.as_ref());
        }
        self.trailers.as_ref()
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

fn is_reset(socket: &TcpStream) -> bool {
    matches!(socket.take_error(), Ok(Some(_)) | Err(_))
}

/// Moves a request's body towards an endpoint.
#[derive(Default)]
pub(crate) struct Upload {
    begun: bool,
    /// The body is over; its end, with the trailers, is still to be queued.
    ending: bool,
    finished: bool,
    done: bool,
    tunnel: bool,
    /// When the client is looked at next, once it has had to wait.
    look: Option<Pin<Box<Sleep>>>,
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
                for tap in source.taps.drain(..) {
                    tap.data(&Bytes::copy_from_slice(whole));
                    tap.end(None);
                }
                to.copy(whole);
                source.lent = true;
            } else if source.is_empty() {
                source.taps.drain(..).for_each(|tap| tap.end(None));
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
            if self.ending {
                to.finish(source.trailers());
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
                    self.ending = source.trailers().is_some();
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
        source: &mut Source<'_>,
        to: &mut Outgoing<'_>,
    ) -> Poll<Result<(), PumpError>> {
        if to.poll_flush(cx).map_err(PumpError::Write)?.is_pending() {
            return self.poll_reset(cx, source).map(Err);
        }
        source.incoming.release(std::mem::take(&mut source.held));
        Poll::Ready(Ok(()))
    }

    /// Completes when a client that is held back has reset its connection.
    fn poll_reset(&mut self, cx: &mut Context<'_>, source: &Source<'_>) -> Poll<PumpError> {
        let Some(body) = source.incoming.http1() else { return Poll::Pending };
        let look = self.look.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK)));
        while look.as_mut().poll(cx).is_ready() {
            if !source.is_over() && body.look(is_reset) {
                let gone = ReadError::Http1(http1::ReadError::Incomplete);
                return Poll::Ready(PumpError::Read(gone));
            }
            look.as_mut().reset(Instant::now() + LOOK);
        }
        Poll::Pending
    }
}
