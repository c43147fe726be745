//! Both directions of a pair of streams of which one is TLS, or both: bytes have to be looked at, so
//! none go past this process. Otherwise as `splice::bidirectional`.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::splice::{Broken, Counters, End, Limits};
use crate::stream::{ReadHalf, Stream, WriteHalf};

/// Bytes that one read takes: a record of TLS (RFC 8446 §5.1).
const PIECE: usize = 16 << 10;
/// Pieces that a direction moves before others get their turn.
const ROUNDS: usize = 16;

thread_local! {
    /// What all streams of a worker are read into.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into());
}

/// One direction.
#[derive(Default)]
struct Way {
    /// What was read, and how much of it is written.
    held: Vec<u8>,
    written: usize,
    taken: u64,
    moved: u64,
    /// The reader has ended.
    ended: bool,
    /// And the writer was told.
    done: bool,
}

/// Passes bytes both ways until both sides have ended, one has failed, or a limit is reached. The far
/// side is given `first` before anything else. An end without TLS having said so is a failure.
pub(super) async fn relay(
    near: &mut Stream,
    far: &mut Stream,
    first: Vec<u8>,
    limits: Limits,
    counters: Counters<'_>,
) -> End {
    let ((mut near_reads, mut near_writes), (mut far_reads, mut far_writes)) =
        (near.split(), far.split());
    let (mut up, mut down) = (Way { held: first, ..Way::default() }, Way::default());
    let mut last = Instant::now();
    let due = |last: Instant| {
        let idle = last + limits.idle;
        limits.until.map_or(idle, |until| until.min(idle))
    };
    let mut timer = pin!(tokio::time::sleep_until(due(last)));
    poll_fn(|cx| {
        let before = (up.progress(), down.progress());
        let upwards = up.poll(cx, &mut near_reads, &mut far_writes);
        let downwards = down.poll(cx, &mut far_reads, &mut near_writes);
        counters.count(up.taken - before.0.0, down.moved - before.1.1);
        match (upwards, downwards) {
            (Poll::Ready(Err(Broken::Source(error))), _)
            | (_, Poll::Ready(Err(Broken::Sink(error)))) => return Poll::Ready(End::Near(error)),
            (Poll::Ready(Err(Broken::Sink(error))), _)
            | (_, Poll::Ready(Err(Broken::Source(error)))) => return Poll::Ready(End::Far(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(End::Done),
            _ => {}
        }
        if before != (up.progress(), down.progress()) {
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

impl Way {
    /// Differs from an earlier value when a byte or an end has moved since.
    fn progress(&self) -> (u64, u64, bool) {
        (self.taken, self.moved, self.done)
    }

    /// Moves bytes, and the end after the last one; ready when that is done.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
    ) -> Poll<Result<(), Broken>> {
        for _ in 0..ROUNDS {
            ready!(self.poll_write(cx, to)).map_err(Broken::Sink)?;
            if self.ended {
                if !self.done {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Broken::Sink)?;
                    self.done = true;
                }
                return Poll::Ready(Ok(()));
            }
            let Poll::Ready(read) = self.poll_read(cx, from) else {
                // TLS keeps back what the socket did not take.
                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Broken::Sink)?;
                return Poll::Pending;
            };
            read.map_err(Broken::Source)?;
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what is held, and then holds none.
    fn poll_write(&mut self, cx: &mut Context<'_>, to: &mut WriteHalf<'_>) -> Poll<io::Result<()>> {
        while self.written < self.held.len() {
            let rest = &self.held[self.written..];
            let count = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.moved += u64::try_from(count).unwrap_or(0);
        }
        (self.held, self.written) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, from: &mut ReadHalf<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            self.taken += u64::try_from(read.len()).unwrap_or(0);
            self.ended = read.is_empty();
            self.held.extend_from_slice(read);
            Poll::Ready(Ok(()))
        })
    }
}
