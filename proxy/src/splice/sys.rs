//! The system calls the standard library lacks: `splice`, the size of a pipe, and reads and writes
//! on a socket that is only borrowed.
//!
//! The one file of this crate with unsafe code. Every descriptor is borrowed from a live owner and
//! every buffer from a slice that outlives the call. Nothing here waits: the sockets are tokio's,
//! hence non-blocking, and on pipes every call says so.
#![expect(unsafe_code, reason = "system calls without a safe wrapper in the standard library")]

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

/// `SPLICE_F_MORE` is never set: it holds back the end of what was sent while nothing follows.
const FLAGS: libc::c_uint = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;

/// A pipe, and how many bytes are in it.
#[derive(Debug)]
pub(super) struct Pipe {
    out: PipeReader,
    into: PipeWriter,
    capacity: usize,
    held: usize,
}

impl Pipe {
    /// A pipe of `size` bytes, or of the most the system allows below that, by halves
    /// (`fs.pipe-max-size`, `fs.pipe-user-pages-soft`).
    pub(super) fn new(size: usize) -> io::Result<Self> {
        let (out, into) = io::pipe()?;
        let mut capacity = pipe_size(into.as_fd())?;
        let mut wanted = size;
        while wanted > capacity {
            if let Ok(granted) = set_pipe_size(into.as_fd(), wanted) {
                capacity = granted;
                break;
            }
            wanted /= 2;
        }
        Ok(Self { out, into, capacity, held: 0 })
    }

    /// Bytes the pipe takes when each of its pages is full. It can hold more: a page of a socket
    /// may be larger than one of the system.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes put in and not yet taken out.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Moves up to `max` bytes from a socket into the pipe; 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has nothing or, with bytes held, when the pipe is full: which
    /// of the two cannot be told.
    pub(super) fn fill(&mut self, socket: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
        let n = splice(socket, self.into.as_fd(), max)?;
        self.held += n;
        Ok(n)
    }

    /// Moves what it holds to a socket, as far as that takes it.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes nothing; the caller makes sure that something is held.
    pub(super) fn drain(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let n = splice(self.out.as_fd(), socket, self.held)?;
        self.held = self.held.saturating_sub(n);
        Ok(n)
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, max: usize) -> io::Result<usize> {
    loop {
        // SAFETY: both descriptors are borrowed for the call; without offsets the pointers are null.
        let n = unsafe {
            libc::splice(
                from.as_raw_fd(),
                ptr::null_mut(),
                to.as_raw_fd(),
                ptr::null_mut(),
                max,
                FLAGS,
            )
        };
        match count(n) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Reads from a socket; 0 at the end of the stream.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel writes at most the length given into the slice.
        let n = unsafe {
            libc::recv(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_DONTWAIT,
            )
        };
        match count(n) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Writes to a socket.
pub(super) fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the kernel reads at most the length given from the slice.
        let n = unsafe {
            libc::send(
                socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            )
        };
        match count(n) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Ends the writing half: the peer reads the end after what was sent.
pub(super) fn end(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed for the call; there are no pointers.
    let result = unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_WR) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn pipe_size(pipe: BorrowedFd<'_>) -> io::Result<usize> {
    // SAFETY: the descriptor is borrowed for the call; there are no pointers.
    let size = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_GETPIPE_SZ) };
    usize::try_from(size).map_err(|_negative| io::Error::last_os_error())
}

fn set_pipe_size(pipe: BorrowedFd<'_>, size: usize) -> io::Result<usize> {
    let size = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
    // SAFETY: as above.
    let granted = unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, size) };
    usize::try_from(granted).map_err(|_negative| io::Error::last_os_error())
}

/// What a call returned: a count, or −1 and `errno`.
fn count(returned: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_negative| io::Error::last_os_error())
}

/// Processor time this thread has used, in user and system mode.
#[cfg(test)]
pub(super) fn thread_time() -> std::time::Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel fills the struct, for which all zeros is a value as well.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
        usage.assume_init()
    };
    let time = |t: libc::timeval| {
        let secs = u64::try_from(t.tv_sec).unwrap_or(0);
        let micros = u64::try_from(t.tv_usec).unwrap_or(0);
        std::time::Duration::from_secs(secs) + std::time::Duration::from_micros(micros)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Keeps this thread on one processor.
#[cfg(test)]
pub(super) fn pin_to(processor: usize) {
    let mut set = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: an all-zero set is the empty set; `CPU_SET` checks its index against the set's size.
    unsafe {
        libc::CPU_SET(processor, set.assume_init_mut());
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set.as_ptr());
    }
}
