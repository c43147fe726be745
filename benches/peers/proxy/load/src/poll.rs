//! epoll and non-blocking sockets, as backends and clients of this program use them. One thread,
//! level-triggered; owns no connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// More than a proxy that is measured ever has waiting.
const BACKLOG: i32 = 4096;
/// Blocks written at once to one connection that takes them.
const POURED: usize = 2;

/// What a token is ready for.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
}

pub struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poll {
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(1024) })
    }

    /// Watches for reading.
    pub fn add(&self, fd: &impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Watches for reading, and for writing if so wanted.
    pub fn watch(&self, fd: &impl AsFd, token: u64, writable: bool) -> io::Result<()> {
        let mut flags = EventFlags::IN;
        flags.set(EventFlags::OUT, writable);
        Ok(epoll::modify(&self.epoll, fd, EventData::new_u64(token), flags)?)
    }

    /// What is ready, after `until` at the latest.
    pub fn wait(&mut self, until: Instant, ready: &mut Vec<Ready>) -> io::Result<()> {
        self.wait_for(Some(until.saturating_duration_since(Instant::now())), ready)
    }

    /// What is ready now.
    pub fn look(&mut self, ready: &mut Vec<Ready>) -> io::Result<()> {
        self.wait_for(Some(Duration::ZERO), ready)
    }

    /// What is ready, however long that takes (`None`).
    pub fn wait_for(&mut self, time: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        ready.clear();
        self.events.clear();
        let left = time.map(timespec);
        let spare = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, spare, left.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        ready.extend(self.events.iter().map(|event| {
            let flags = event.flags;
            let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
            Ready {
                token: event.data.u64(),
                readable: broken || flags.contains(EventFlags::IN),
                writable: flags.contains(EventFlags::OUT),
            }
        }));
        Ok(())
    }
}

/// Readable when anything it watches is ready, so one can watch another.
impl AsFd for Poll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn timespec(time: Duration) -> Timespec {
    let tv_sec = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    Timespec { tv_sec, tv_nsec: i64::from(time.subsec_nanos()) }
}

pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket()?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// The next that waits to be accepted.
pub fn accept(listener: &TcpListener) -> io::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(true)?;
            Ok(Some(stream))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// A connection that is being established.
pub fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket()?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?)
}

/// What reading brought.
pub enum Got {
    Bytes(usize),
    Nothing,
    End,
}

/// A connection with what is still to be written: `out`, then `tail`.
pub struct Io {
    pub stream: TcpStream,
    token: u64,
    pub out: Vec<u8>,
    written: usize,
    /// Large and shared, so that it is never copied.
    pub tail: &'static [u8],
    watched: bool,
}

impl Io {
    pub fn new(stream: TcpStream, token: u64, poll: &Poll) -> io::Result<Self> {
        poll.add(&stream, token)?;
        Ok(Self { stream, token, out: Vec::new(), written: 0, tail: &[], watched: false })
    }

    pub fn read(&mut self, into: &mut [u8]) -> io::Result<Got> {
        match self.stream.read(into) {
            Ok(0) => Ok(Got::End),
            Ok(n) => Ok(Got::Bytes(n)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::Nothing),
            Err(error) => Err(error),
        }
    }

    pub fn is_flushed(&self) -> bool {
        self.written == self.out.len() && self.tail.is_empty()
    }

    /// Writes what the socket takes; the rest goes when it is writable. Returns octets written.
    pub fn flush(&mut self, poll: &Poll) -> io::Result<usize> {
        let mut total = 0;
        while !self.is_flushed() {
            let parts = [io::IoSlice::new(&self.out[self.written..]), io::IoSlice::new(self.tail)];
            match self.stream.write_vectored(&parts) {
                Ok(n) => {
                    total += n;
                    let of_out = n.min(self.out.len() - self.written);
                    self.written += of_out;
                    self.tail = &self.tail[n - of_out..];
                }
                // A connection that is not established yet says so in one of these ways.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected
                    ) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if self.is_flushed() {
            self.out.clear();
            self.written = 0;
        }
        self.settle(poll)?;
        Ok(total)
    }

    /// Writes the block again and again, some of them now. Returns octets written.
    pub fn pour(&mut self, poll: &Poll, block: &'static [u8]) -> io::Result<usize> {
        let mut total = 0;
        for _ in 0..POURED {
            if self.is_flushed() {
                self.tail = block;
            }
            total += self.flush(poll)?;
        }
        if self.is_flushed() {
            self.tail = block;
        }
        self.settle(poll)?;
        Ok(total)
    }

    fn settle(&mut self, poll: &Poll) -> io::Result<()> {
        let wanted = !self.is_flushed();
        if self.watched != wanted {
            poll.watch(&self.stream, self.token, wanted)?;
            self.watched = wanted;
        }
        Ok(())
    }
}
