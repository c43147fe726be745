//! The HTTP/1.1 client: one request at a time on each connection, kept alive or made anew for each.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use memchr::memmem;

use crate::Args;
use crate::drive::Load;
use crate::meter::Meter;
use crate::poll::{self, Got, Io, Poll, Ready};

/// Longest head of a response.
const MAX_HEAD: usize = 16 << 10;

pub struct Client {
    to: SocketAddr,
    request: Vec<u8>,
    /// Each request has a connection of its own, which the other end closes.
    once: bool,
    slots: Vec<Slot>,
    /// Those without a request under way.
    free: Vec<usize>,
    started: Vec<usize>,
    scratch: Vec<u8>,
}

#[derive(Default)]
struct Slot {
    io: Option<Io>,
    /// When the request under way was due; `None` once it is answered.
    due: Option<Instant>,
    response: Response,
}

/// How far a response has come.
#[derive(Default)]
pub struct Response {
    head: Vec<u8>,
    /// Octets of the body to come, once the head is there.
    left: Option<usize>,
}

impl Client {
    pub fn new(args: &Args, poll: &Poll, meter: &mut Meter) -> Result<Self, Box<dyn Error>> {
        let once = args.text("mode", "keep") == "once";
        let count = args.number("connections", 64)?;
        let mut client = Self {
            to: args.address("to")?,
            request: request(args, once),
            once,
            slots: (0..count).map(|_| Slot::default()).collect(),
            free: (0..count).rev().collect(),
            started: Vec::new(),
            scratch: vec![0; 256 << 10],
        };
        if !once {
            for index in 0..count {
                client.connect(poll, index, meter);
            }
        }
        Ok(client)
    }

    fn connect(&mut self, poll: &Poll, index: usize, meter: &mut Meter) -> bool {
        let made = poll::connect(self.to).and_then(|s| Io::new(s, index as u64, poll));
        match made {
            Ok(io) => {
                self.slots[index].io = Some(io);
                true
            }
            Err(error) => {
                meter.on_error(&format!("connect: {error}"));
                false
            }
        }
    }

    fn fail(&mut self, index: usize, error: &dyn std::fmt::Display, meter: &mut Meter) {
        meter.on_error(error);
        self.end(index);
    }

    fn end(&mut self, index: usize) {
        let was_free = self.slots[index].due.is_none() && self.slots[index].io.is_some();
        self.slots[index] = Slot::default();
        if !was_free || self.once {
            self.free.push(index);
        }
    }

    fn read(&mut self, index: usize, meter: &mut Meter) -> io::Result<()> {
        let slot = &mut self.slots[index];
        let Some(io) = &mut slot.io else { return Ok(()) };
        loop {
            let count = match io.read(&mut self.scratch)? {
                Got::Nothing => return Ok(()),
                Got::End if self.once && slot.due.is_none() => {
                    self.end(index);
                    return Ok(());
                }
                Got::End => return Err(io::Error::other("closed too soon")),
                Got::Bytes(count) => count,
            };
            meter.on_octets(count);
            if slot.response.on_octets(&self.scratch[..count]).map_err(io::Error::other)? {
                slot.response = Response::default();
                let due = slot.due.take().ok_or_else(|| io::Error::other("not asked for"))?;
                meter.on_done(due, Instant::now());
                if !self.once {
                    self.free.push(index);
                    return Ok(());
                }
            } else if count < self.scratch.len() {
                return Ok(());
            }
        }
    }
}

impl Load for Client {
    fn start(&mut self, poll: &Poll, due: Instant, meter: &mut Meter) -> bool {
        let Some(index) = self.free.pop() else { return false };
        if self.slots[index].io.is_none() && !self.connect(poll, index, meter) {
            // Whoever refuses is not asked again at once.
            self.free.insert(0, index);
            return false;
        }
        let slot = &mut self.slots[index];
        slot.due = Some(due);
        if let Some(io) = &mut slot.io {
            io.out.extend_from_slice(&self.request);
        }
        self.started.push(index);
        true
    }

    fn flush(&mut self, poll: &Poll, meter: &mut Meter) {
        while let Some(index) = self.started.pop() {
            let result = self.slots[index].io.as_mut().map(|io| io.flush(poll));
            if let Some(Err(error)) = result {
                self.fail(index, &format!("write: {error}"), meter);
            }
        }
    }

    fn on_ready(&mut self, poll: &Poll, ready: Ready, meter: &mut Meter) {
        let index = usize::try_from(ready.token).unwrap_or(usize::MAX);
        if ready.writable {
            let result = self.slots[index].io.as_mut().map(|io| io.flush(poll));
            if let Some(Err(error)) = result {
                return self.fail(index, &format!("write: {error}"), meter);
            }
        }
        if ready.readable
            && let Err(error) = self.read(index, meter)
        {
            self.fail(index, &format!("read: {error}"), meter);
        }
    }
}

/// With the headers that a plain client of a program sends.
pub fn request(args: &Args, once: bool) -> Vec<u8> {
    let path = args.text("path", "/");
    let authority = args.text("authority", "bench");
    let connection = if once { "connection: close\r\n" } else { "" };
    format!(
        "GET {path} HTTP/1.1\r\nhost: {authority}\r\nuser-agent: portolan-load/0.1\r\n\
         accept: */*\r\naccept-encoding: gzip\r\n{connection}\r\n"
    )
    .into_bytes()
}

impl Response {
    /// Whether it is whole.
    pub fn on_octets(&mut self, octets: &[u8]) -> Result<bool, String> {
        if let Some(left) = self.left {
            return self.on_body(left, octets.len());
        }
        if self.head.is_empty()
            && let Some(end) = memmem::find(octets, b"\r\n\r\n")
        {
            let length = length(&octets[..end])?;
            return self.on_body(length, octets.len() - end - 4);
        }
        self.head.extend_from_slice(octets);
        match memmem::find(&self.head, b"\r\n\r\n") {
            Some(end) => {
                let length = length(&self.head[..end])?;
                self.on_body(length, self.head.len() - end - 4)
            }
            None if self.head.len() > MAX_HEAD => Err("a head without an end".to_owned()),
            None => Ok(false),
        }
    }

    fn on_body(&mut self, left: usize, came: usize) -> Result<bool, String> {
        let left = left.checked_sub(came).ok_or("a longer body than was said")?;
        self.left = Some(left);
        Ok(left == 0)
    }
}

/// The length of the body behind this head of a 200.
fn length(head: &[u8]) -> Result<usize, String> {
    if !head.starts_with(b"HTTP/1.1 200") {
        return Err(String::from_utf8_lossy(&head[..head.len().min(40)]).into_owned());
    }
    for line in head.split(|b| *b == b'\n') {
        let name = b"content-length:";
        if let Some((start, value)) = line.split_at_checked(name.len())
            && start.eq_ignore_ascii_case(name)
        {
            let value = std::str::from_utf8(value).unwrap_or_default();
            return value.trim().parse().map_err(|_| "a length that is none".to_owned());
        }
    }
    Err("no content-length".to_owned())
}
