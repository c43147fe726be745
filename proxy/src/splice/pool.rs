//! What the streams of a worker share: one buffer to copy through, and a bounded pool of pipes.
//!
//! Kept per thread, as a worker is one. A stream borrows the buffer for the length of a call and
//! has a pipe only while bytes are in it, so idle streams cost neither.

use std::cell::{Cell, RefCell};

use super::sys::Pipe;

/// Pipes at a time per worker, so that streams nobody reads from hold 128 MiB at the most. A
/// stream that gets none goes on copying, and is counted.
pub(super) const MAX_PIPES: usize = 128;
/// Empty pipes kept; one more is closed. Few, as without rights all pipes of a user may have
/// 64 MiB together.
pub(super) const MAX_IDLE: usize = 16;
/// A pipe smaller than this is not worth two more system calls: without rights the system grants
/// two pages once the user has many pipes.
const MIN_PIPE: usize = 64 * 1024;

/// What the benchmark varies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tuning {
    /// Bytes of the buffer to copy through.
    pub(super) scratch: usize,
    /// Bytes asked for a pipe.
    pub(super) pipe: usize,
    /// Calls that may follow each other to fill a pipe before it is drained.
    pub(super) fills: usize,
    /// Bytes a direction moves by copying before it may splice.
    pub(super) long: u64,
}

/// Pipes of this thread.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pipes {
    /// Open ones, in use and idle.
    pub(super) open: usize,
    pub(super) idle: usize,
}

/// A pipe out of the pool; goes back when dropped if it is empty, and is closed if not.
#[derive(Debug)]
pub(super) struct Lease(Option<Pipe>);

struct Worker {
    tuning: Cell<Tuning>,
    scratch: RefCell<Vec<u8>>,
    idle: RefCell<Vec<Pipe>>,
    open: Cell<usize>,
}

thread_local! {
    static WORKER: Worker = const {
        Worker {
            tuning: Cell::new(Tuning::DEFAULT),
            scratch: RefCell::new(Vec::new()),
            idle: RefCell::new(Vec::new()),
            open: Cell::new(0),
        }
    };
}

impl Tuning {
    pub(super) const DEFAULT: Self =
        Self { scratch: 64 * 1024, pipe: 1024 * 1024, fills: 1, long: 64 * 1024 };
}

/// The sizes this thread works with.
pub(super) fn tuning() -> Tuning {
    WORKER.with(|worker| worker.tuning.get())
}

/// Other sizes for this thread; its idle pipes are closed.
#[cfg(test)]
pub(super) fn tune(tuning: Tuning) {
    WORKER.with(|worker| {
        worker.tuning.set(tuning);
        worker.scratch.take();
        let idle = worker.idle.take().len();
        worker.open.set(worker.open.get() - idle);
    });
}

#[cfg(test)]
pub(super) fn pipes() -> Pipes {
    WORKER.with(|w| Pipes { open: w.open.get(), idle: w.idle.borrow().len() })
}

/// Lends the buffer. What is in it is whatever the last stream left.
pub(super) fn with_scratch<T>(f: impl FnOnce(&mut [u8]) -> T) -> T {
    WORKER.with(|worker| {
        let mut scratch = worker.scratch.borrow_mut();
        if scratch.is_empty() {
            scratch.resize(worker.tuning.get().scratch, 0);
        }
        f(&mut scratch)
    })
}

impl Lease {
    /// An empty pipe; `None` at the bound, or when the system gives none that is large enough.
    pub(super) fn take() -> Option<Self> {
        WORKER.with(|worker| {
            if let Some(pipe) = worker.idle.borrow_mut().pop() {
                return Some(Self(Some(pipe)));
            }
            if worker.open.get() >= MAX_PIPES {
                return None;
            }
            // Out of descriptors or of the user's share of pipes: both pass.
            let pipe = Pipe::new(worker.tuning.get().pipe).ok()?;
            if pipe.capacity() < MIN_PIPE {
                return None;
            }
            worker.open.set(worker.open.get() + 1);
            Some(Self(Some(pipe)))
        })
    }

    /// The pipe itself.
    pub(super) fn pipe(&mut self) -> Option<&mut Pipe> {
        self.0.as_mut()
    }

    pub(super) fn held(&self) -> usize {
        self.0.as_ref().map_or(0, Pipe::held)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(pipe) = self.0.take() else { return };
        // At the end of the thread there is no pool to go back to: the pipe is closed.
        let _closed = WORKER.try_with(|worker| {
            let mut idle = worker.idle.borrow_mut();
            if pipe.held() == 0 && idle.len() < MAX_IDLE {
                idle.push(pipe);
            } else {
                worker.open.set(worker.open.get().saturating_sub(1));
            }
        });
    }
}
