//! One direction of a stream: takes bytes from a socket, gives them to another, and keeps only what
//! the other has not taken yet.
//!
//! Takes nothing while the receiver has no room, so a slow receiver stops the sender: what is kept
//! is at most one buffer, or one pipe.

use std::io;
use std::os::fd::AsFd as _;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::TcpStream;

use super::pool::{self, Lease};
use super::{receive, send};

/// Bytes a direction takes in one poll before other tasks have their turn.
const POLL_BYTES: usize = 1024 * 1024;
/// A stream splices once this much arrives without a wait …
const FAST: u64 = 32 * 1024;
/// … and copies again once less than this does: for a few bytes a copy is cheaper than a pipe.
const SLOW: u64 = 8 * 1024;
/// Bytes moved before a stream that got no pipe asks again: asking may cost system calls.
const ASK_AGAIN: u64 = 4 * 1024 * 1024;
/// The most asked of one splice; a pipe takes what it has room for.
const MAX_SPLICE: u64 = 16 * 1024 * 1024;

/// Moves bytes until a limit or the end of the source.
#[derive(Debug)]
pub(crate) struct Pump {
    limit: u64,
    taken: u64,
    given: u64,
    spliced: u64,
    /// Pipes wanted and not had.
    denied: u64,
    /// Bytes taken before it splices.
    copied_till: u64,
    /// Bytes taken since the source was last waited for.
    burst: u64,
    /// Bytes read and not written, from `next` on.
    rest: Vec<u8>,
    next: usize,
    pipe: Option<Lease>,
    fast: bool,
    ended: bool,
}

/// Which side of a pump failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// The socket bytes come from.
    #[error("source: {0}")]
    Source(#[source] io::Error),
    /// The socket bytes go to.
    #[error("sink: {0}")]
    Sink(#[source] io::Error),
}

impl Pump {
    /// A pump that stops after `limit` bytes, or without one at the end of the source.
    pub(crate) fn new(limit: Option<u64>) -> Self {
        Self {
            limit: limit.unwrap_or(u64::MAX),
            taken: 0,
            given: 0,
            spliced: 0,
            denied: 0,
            copied_till: pool::tuning().long,
            burst: 0,
            rest: Vec::new(),
            next: 0,
            pipe: None,
            fast: false,
            ended: false,
        }
    }

    /// Gives these bytes first. They are on top of the limit, and counted by nobody.
    #[must_use]
    pub(crate) fn after(mut self, prefix: Vec<u8>) -> Self {
        self.rest = prefix;
        self
    }

    /// Bytes taken from the source.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes of the source that the sink's socket has taken.
    pub(crate) fn moved(&self) -> u64 {
        self.given
    }

    /// How many of those were never copied.
    pub(crate) fn spliced(&self) -> u64 {
        self.spliced
    }

    /// How often it would have spliced and got no pipe.
    pub(crate) fn denied(&self) -> u64 {
        self.denied
    }

    /// Whether the source has ended. With a limit not reached, it has ended early.
    #[cfg(test)]
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Moves what can be moved now. Ready once the limit or the source's end is reached and the
    /// sink's socket has everything; whether the sink is ended as well is the caller's to say.
    ///
    /// # Errors
    /// The side that failed. What was taken and not given is lost.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<(), Broken>> {
        let mut budget = POLL_BYTES;
        loop {
            ready!(self.poll_give(cx, to)).map_err(Broken::Sink)?;
            if self.ended || self.taken >= self.limit {
                self.pipe = None;
                return Poll::Ready(Ok(()));
            }
            if budget == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = ready!(self.poll_take(cx, from, to))?;
            budget = budget.saturating_sub(taken);
        }
    }

    /// Writes what is kept until there is nothing.
    fn poll_give(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<()>> {
        while self.next < self.rest.len() {
            ready!(to.poll_write_ready(cx))?;
            match send(to, &self.rest[self.next..]) {
                Ok(n) => self.next += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            // What a prefix gives is not the source's: only that was taken and not spliced.
            self.count_given();
        }
        if !self.rest.is_empty() {
            (self.rest, self.next) = (Vec::new(), 0);
        }
        let Some(pipe) = self.pipe.as_mut().and_then(Lease::pipe) else {
            return Poll::Ready(Ok(()));
        };
        while pipe.held() > 0 {
            ready!(to.poll_write_ready(cx))?;
            // The pipe holds something, so that it is the socket which has no room.
            match to.try_io(Interest::WRITABLE, || pipe.drain(to.as_fd())) {
                Ok(n) => {
                    let n = u64::try_from(n).unwrap_or(u64::MAX);
                    self.given += n;
                    self.spliced += n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Everything taken is given, but for what is kept.
    fn count_given(&mut self) {
        let held = self.pipe.as_ref().map_or(0, Lease::held);
        let kept = self.rest.len().saturating_sub(self.next).saturating_add(held);
        let given = self.taken.saturating_sub(u64::try_from(kept).unwrap_or(u64::MAX));
        self.given = self.given.max(given);
    }

    /// Takes once; how many bytes.
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
    ) -> Poll<Result<usize, Broken>> {
        loop {
            let Poll::Ready(ready) = from.poll_read_ready(cx) else {
                self.on_wait();
                return Poll::Pending;
            };
            ready.map_err(Broken::Source)?;
            // What nobody takes is not read: it waits in the socket, where it slows the sender.
            ready!(to.poll_write_ready(cx)).map_err(Broken::Sink)?;
            let taken = if self.may_splice() { self.fill(from) } else { self.copy(from, to)? };
            match taken {
                Ok(n) => {
                    self.ended = n == 0;
                    let taken = u64::try_from(n).unwrap_or(u64::MAX);
                    self.taken += taken;
                    self.burst += taken;
                    self.fast |= self.burst >= FAST && self.taken >= self.copied_till;
                    self.count_given();
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(Broken::Source(error))),
            }
        }
    }

    /// The source has nothing: the pipe is empty too, and another stream may have it.
    fn on_wait(&mut self) {
        self.pipe = None;
        self.fast &= self.burst >= SLOW;
        self.burst = 0;
    }

    /// Whether to splice now; has a pipe then.
    fn may_splice(&mut self) -> bool {
        if !self.fast || self.limit - self.taken < FAST {
            return false;
        }
        if self.pipe.is_none() {
            self.pipe = Lease::take();
            if self.pipe.is_none() {
                self.denied += 1;
                self.fast = false;
                self.copied_till = self.taken.saturating_add(ASK_AGAIN);
            }
        }
        self.pipe.is_some()
    }

    /// Splices into the pipe.
    fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let max = usize::try_from((self.limit - self.taken).min(MAX_SPLICE)).unwrap_or(usize::MAX);
        let Some(pipe) = self.pipe.as_mut().and_then(Lease::pipe) else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        from.try_io(Interest::READABLE, || {
            // The pipe is empty, so that it is the socket which has nothing …
            let mut total = pipe.fill(from.as_fd(), max)?;
            for _ in 1..pool::tuning().fills {
                match pipe.fill(from.as_fd(), max - total) {
                    Ok(0) => break,
                    Ok(n) => total += n,
                    // … and here it may be the pipe that is full: the socket stays ready. An error
                    // comes again when the pipe is drained.
                    Err(_later) => break,
                }
            }
            Ok(total)
        })
    }

    /// Reads into the worker's buffer and writes from there; keeps what is left.
    fn copy(&mut self, from: &TcpStream, to: &TcpStream) -> Result<io::Result<usize>, Broken> {
        let room = usize::try_from(self.limit - self.taken).unwrap_or(usize::MAX);
        pool::with_scratch(|scratch| {
            let room = room.min(scratch.len());
            let n = match receive(from, &mut scratch[..room]) {
                Ok(n) if n > 0 => n,
                other => return Ok(other),
            };
            let mut written = 0;
            while written < n {
                match send(to, &scratch[written..n]) {
                    Ok(w) => written += w,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(Broken::Sink(error)),
                }
            }
            self.rest.extend_from_slice(&scratch[written..n]);
            Ok(Ok(n))
        })
    }
}
