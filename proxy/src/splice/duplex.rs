//! Both directions of a pair of streams in one task, with their limits of time.
//!
//! A half-close passes through once all bytes before it have; the other direction goes on. Anything
//! else ends both, and says which side or limit it was.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd as _;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Broken, Pump, sys};
use crate::metrics::Counter;

/// Limits on a pair of streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Ends the pair when no byte has moved either way for this long.
    pub(crate) idle: Duration,
    /// Ends the pair at this time, whatever moves.
    pub(crate) until: Option<Instant>,
}

/// What is counted while bytes move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters<'a> {
    /// What this stream moved from and to the client so far.
    pub(crate) own: &'a (Cell<u64>, Cell<u64>),
    /// Bytes taken from the near side.
    pub(crate) bytes_in: &'a Counter,
    /// Bytes given to the near side.
    pub(crate) bytes_out: &'a Counter,
    /// Bytes given to either side that were never copied.
    pub(crate) spliced: &'a Counter,
    /// Pipes wanted and not had.
    pub(crate) denied: &'a Counter,
}

impl Counters<'_> {
    /// Bytes that were taken from the near side, and given to it.
    pub(crate) fn count(&self, taken: u64, given: u64) {
        self.bytes_in.add(taken);
        self.bytes_out.add(given);
        let (own_in, own_out) = self.own;
        own_in.set(own_in.get() + taken);
        own_out.set(own_out.get() + given);
    }
}

/// How a pair of streams ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides have ended, and everything was passed on.
    Done,
    /// The near side failed or was reset.
    Near(io::Error),
    /// The far side failed or was reset.
    Far(io::Error),
    /// Nothing moved for too long.
    Idle,
    /// It was too old.
    Age,
}

/// The two directions.
struct Pair<'a> {
    near: &'a TcpStream,
    far: &'a TcpStream,
    up: Way,
    down: Way,
    counters: Counters<'a>,
}

/// One direction.
struct Way {
    pump: Pump,
    done: bool,
}

/// Passes bytes both ways until both sides have ended, one has failed, or a limit is reached. The
/// far side is given `first` before anything else. Neither socket is closed: the caller closes both
/// at once, which is the end of the direction that ended second. After any end but
/// [`End::Done`] bytes may be missing: resetting both says so to both.
pub(crate) async fn bidirectional(
    near: &TcpStream,
    far: &TcpStream,
    first: Vec<u8>,
    limits: Limits,
    counters: Counters<'_>,
) -> End {
    let (up, down) = (Way::new(Pump::new(None).after(first)), Way::new(Pump::new(None)));
    let mut pair = Pair { near, far, up, down, counters };
    let mut last = Instant::now();
    let due = |last: Instant| {
        let idle = last + limits.idle;
        limits.until.map_or(idle, |until| until.min(idle))
    };
    let mut timer = pin!(tokio::time::sleep_until(due(last)));
    // A reset of a side that is neither read nor written just now would not be seen otherwise.
    let mut near_fails = pin!(near.ready(Interest::ERROR));
    let mut far_fails = pin!(far.ready(Interest::ERROR));
    let (mut near_failed, mut far_failed) = (false, false);
    poll_fn(|cx| {
        let before = pair.progress();
        if let Poll::Ready(end) = pair.poll(cx) {
            return Poll::Ready(end);
        }
        let moved = pair.progress() != before;
        near_failed = near_failed || near_fails.as_mut().poll(cx).is_ready();
        far_failed = far_failed || far_fails.as_mut().poll(cx).is_ready();
        match (near_failed, far_failed) {
            // What the side had sent before is passed on as far as it can be without a wait.
            (true, _) | (_, true) if moved => cx.waker().wake_by_ref(),
            (true, _) => return Poll::Ready(End::Near(error_of(near))),
            (_, true) => return Poll::Ready(End::Far(error_of(far))),
            (false, false) => {}
        }
        if moved {
            last = Instant::now();
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if limits.until.is_some_and(|until| now >= until) {
                return Poll::Ready(End::Age);
            }
            if now >= last + limits.idle {
                return Poll::Ready(End::Idle);
            }
            timer.as_mut().reset(due(last));
        }
        Poll::Pending
    })
    .await
}

/// What went wrong with a socket that says something did.
fn error_of(socket: &TcpStream) -> io::Error {
    match socket.take_error() {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
    }
}

impl Pair<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let (taken, given) = (self.up.pump.taken(), self.down.pump.moved());
        let before = self.piped();
        let up = self.up.poll(cx, self.near, self.far, self.down.done);
        let down = self.down.poll(cx, self.far, self.near, self.up.done);
        let (taken, given) = (self.up.pump.taken() - taken, self.down.pump.moved() - given);
        self.counters.count(taken, given);
        let after = self.piped();
        if after != before {
            self.counters.spliced.add(after.0 - before.0);
            self.counters.denied.add(after.1 - before.1);
        }
        match (up, down) {
            (Err(Broken::Source(error)), _) | (_, Err(Broken::Sink(error))) => {
                Poll::Ready(End::Near(error))
            }
            (Err(Broken::Sink(error)), _) | (_, Err(Broken::Source(error))) => {
                Poll::Ready(End::Far(error))
            }
            (Ok(()), Ok(())) if self.up.done && self.down.done => Poll::Ready(End::Done),
            (Ok(()), Ok(())) => Poll::Pending,
        }
    }

    /// Bytes spliced so far, and pipes denied.
    fn piped(&self) -> (u64, u64) {
        let (up, down) = (&self.up.pump, &self.down.pump);
        (up.spliced() + down.spliced(), up.denied() + down.denied())
    }

    /// Differs from an earlier value when a byte or an end has moved since.
    fn progress(&self) -> (u64, u64, bool, bool) {
        let moved = |way: &Way| way.pump.taken().wrapping_add(way.pump.moved());
        (moved(&self.up), moved(&self.down), self.up.done, self.down.done)
    }
}

impl Way {
    fn new(pump: Pump) -> Self {
        Self { pump, done: false }
    }

    /// Moves bytes, and the end after the last one; `last`: the other direction has ended.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &TcpStream,
        last: bool,
    ) -> Result<(), Broken> {
        if self.done {
            return Ok(());
        }
        match self.pump.poll(cx, from, to) {
            Poll::Ready(Ok(())) => {
                self.done = true;
                // Closing, which follows the second end at once, says the same.
                if last { Ok(()) } else { sys::end(to.as_fd()).map_err(Broken::Sink) }
            }
            Poll::Ready(Err(error)) => Err(error),
            Poll::Pending => Ok(()),
        }
    }
}
