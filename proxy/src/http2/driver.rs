//! Moves the bytes of one connection: reads, feeds, writes everything once for each wake.
//!
//! Works a bounded number of rounds before others get their turn. Owns the read buffer, which an
//! idle connection has not; refuses the protocol (`connection`) and time (`clock`).

use std::cell::Cell;
use std::io::IoSlice;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::clock::Clock;
use super::error::Error;
use super::handle::Shared;

/// Reads and writes before the task yields.
const ROUNDS: usize = 8;
/// Room for one read; more once a read filled it.
const READ: usize = 16 << 10;
const READ_MORE: usize = 64 << 10;

thread_local! {
    /// A read buffer that no connection needs now.
    static SPARE: Cell<Option<BytesMut>> = const { Cell::new(None) };
}

pub(super) struct Driver<S> {
    io: S,
    shared: Rc<Shared>,
    input: BytesMut,
    read_size: usize,
    clock: Clock,
    /// The prefix is still to be taken.
    fresh: bool,
    /// The output is closed.
    shut: bool,
    /// Why the peer takes nothing any more, while it is heard out.
    broken: Option<Error>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    pub(super) fn new(io: S, shared: Rc<Shared>, prefix: Bytes) -> Self {
        Self {
            io,
            shared,
            input: BytesMut::from(prefix),
            read_size: READ,
            clock: Clock::default(),
            fresh: true,
            shut: false,
            broken: None,
        }
    }

    /// Runs until the connection is over. `dispatch` is called after each read, to take requests.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        dispatch: &mut impl FnMut(&Rc<Shared>),
    ) -> Poll<Result<(), Error>> {
        self.shared.enter();
        let result = self.rounds(cx, dispatch);
        match result {
            Poll::Pending => {
                if self.input.is_empty() {
                    SPARE.set(Some(std::mem::take(&mut self.input)));
                }
                self.shared.leave(cx);
                Poll::Pending
            }
            Poll::Ready(Err(error)) => {
                self.shared.with(|connection| connection.fail(error));
                Poll::Ready(Err(error))
            }
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
        }
    }

    fn rounds(
        &mut self,
        cx: &mut Context<'_>,
        dispatch: &mut impl FnMut(&Rc<Shared>),
    ) -> Poll<Result<(), Error>> {
        if std::mem::take(&mut self.fresh) && !self.input.is_empty() {
            self.feed(dispatch);
        }
        for _ in 0..ROUNDS {
            let read = if self.is_over() { false } else { self.read(cx, dispatch)? };
            if let Some(error) = self.broken {
                if self.is_over() || self.clock.poll(cx, &self.shared, true)? {
                    return Poll::Ready(Err(self.outcome().err().unwrap_or(error)));
                }
                if read {
                    continue;
                }
                return Poll::Pending;
            }
            let Some(mut written) = self.write_or_break(cx) else { continue };
            if self.clock.poll(cx, &self.shared, !written)? {
                return Poll::Ready(self.outcome());
            }
            if written {
                // What the tick added.
                let Some(rest) = self.write_or_break(cx) else { continue };
                written = rest;
            }
            if self.shared.look(|connection| connection.is_finished()) && written {
                self.shared.with(|connection| connection.close());
                if self.finish(cx)?.is_pending() && !self.clock.poll(cx, &self.shared, false)? {
                    return Poll::Pending;
                }
                return Poll::Ready(self.outcome());
            }
            if !read {
                if written {
                    self.shared.with(|connection| connection.rest());
                }
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_over(&self) -> bool {
        self.shared.look(|connection| connection.failure().is_some())
    }

    /// One read; whether there was something.
    fn read(
        &mut self,
        cx: &mut Context<'_>,
        dispatch: &mut impl FnMut(&Rc<Shared>),
    ) -> Result<bool, Error> {
        if self.input.capacity() == 0
            && let Some(spare) = SPARE.take()
        {
            self.input = spare;
        }
        if self.input.capacity() - self.input.len() < self.read_size / 2 {
            self.input.reserve(self.read_size);
        }
        let Poll::Ready(count) = pin!(self.io.read_buf(&mut self.input)).poll(cx)? else {
            return Ok(false);
        };
        self.clock.reads.add();
        if count == 0 {
            self.shared.with(|connection| connection.end());
            return Ok(true);
        }
        let full = self.input.len() == self.input.capacity();
        self.read_size = if full { READ_MORE } else { READ };
        self.feed(dispatch);
        Ok(true)
    }

    fn feed(&mut self, dispatch: &mut impl FnMut(&Rc<Shared>)) {
        // A failure is seen by whoever looks next: its GOAWAY is written first.
        let _ = self.shared.with(|connection| connection.recv(&mut self.input));
        dispatch(&self.shared);
    }

    /// Writes what waits; whether all of it went, or nothing if the peer takes no more. What it
    /// said before that is still under way to us, with what it did not process: it is read to its
    /// end, which comes soon.
    fn write_or_break(&mut self, cx: &mut Context<'_>) -> Option<bool> {
        match self.write(cx) {
            Ok(written) => Some(written),
            Err(error) => {
                self.broken = Some(error);
                self.shared.with(|connection| connection.drain());
                None
            }
        }
    }

    /// Writes what waits; whether all of it went.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let io = &mut self.io;
        loop {
            let written = self.shared.look(|connection| {
                if connection.output().is_empty() {
                    return Poll::Ready(Ok(0));
                }
                let mut slices = [IoSlice::new(&[]); 64];
                let count = connection.output().slices(&mut slices);
                let slices = slices.get(..count).unwrap_or_default();
                match Pin::new(&mut *io).poll_write_vectored(cx, slices) {
                    Poll::Ready(Ok(0)) => Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                    other => other,
                }
            })?;
            match written {
                // TLS keeps what the system does not take.
                Poll::Ready(0) => return Ok(Pin::new(io).poll_flush(cx)?.is_ready()),
                Poll::Ready(count) => {
                    self.clock.writes.add();
                    self.shared.with(|connection| connection.written(count));
                }
                Poll::Pending => return Ok(false),
            }
        }
    }

    /// Closes after everything was written. The peer gets the time to read it: closing with input
    /// unread would take the last words away.
    fn finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if !self.write(cx)? {
            return Poll::Pending;
        }
        if !self.shut {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            self.shut = true;
        }
        for _ in 0..ROUNDS {
            self.input.clear();
            self.input.reserve(READ);
            if ready!(pin!(self.io.read_buf(&mut self.input)).poll(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn outcome(&self) -> Result<(), Error> {
        match self.shared.look(|connection| connection.failure()) {
            None | Some(Error::Closed) => Ok(()),
            Some(error) => Err(error),
        }
    }
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.shared.enter();
        self.shared.with(|connection| connection.fail(Error::Closed));
    }
}
