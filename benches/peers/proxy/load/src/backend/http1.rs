//! HTTP/1.1: the body's size is what the path says (`/0`, `/1k`, `/16k`, `/1m`).

use std::io;
use std::sync::OnceLock;

use memchr::memmem;

use super::Serve;
use crate::poll::{Got, Io, Poll, Ready};

const SIZES: [(&[u8], usize); 4] =
    [(b"/0 ", 0), (b"/1k ", 1 << 10), (b"/16k ", 16 << 10), (b"/1m ", 1 << 20)];

/// Smaller bodies go out with their head, in one copy.
const COPIED: usize = 4096;

pub struct Connection {
    io: Io,
    inbox: Vec<u8>,
    closes: bool,
}

fn body() -> &'static [u8] {
    static BODY: OnceLock<Vec<u8>> = OnceLock::new();
    BODY.get_or_init(|| vec![b'x'; 1 << 20])
}

impl Connection {
    pub fn new(io: Io) -> Self {
        Self { io, inbox: Vec::new(), closes: false }
    }

    /// Answers what is asked, as long as no large body is under way.
    fn answer(&mut self) {
        let mut at = 0;
        while self.io.tail.is_empty()
            && let Some(end) = memmem::find(&self.inbox[at..], b"\r\n\r\n")
        {
            let head = &self.inbox[at..at + end];
            at += end + 4;
            // `Connection: close` in any case that a proxy may choose.
            self.closes |= memmem::find(head, b"onnection: close").is_some();
            let path = head.iter().position(|b| *b == b' ').map_or(head, |n| &head[n + 1..]);
            let size = SIZES.iter().find(|(p, _)| path.starts_with(p));
            let (status, size) = size.map_or(("404 Not Found", 0), |(_, size)| ("200 OK", *size));
            let head = format!(
                "HTTP/1.1 {status}\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
                 server: portolan-load\r\ncontent-type: text/plain\r\ncontent-length: {size}\r\n\r\n"
            );
            self.io.out.extend_from_slice(head.as_bytes());
            if size <= COPIED {
                self.io.out.extend_from_slice(&body()[..size]);
            } else {
                self.io.tail = &body()[..size];
            }
        }
        self.inbox.drain(..at);
    }
}

impl Serve for Connection {
    fn on_ready(&mut self, poll: &Poll, ready: Ready, scratch: &mut [u8]) -> io::Result<()> {
        if ready.readable {
            match self.io.read(scratch)? {
                Got::Bytes(count) => self.inbox.extend_from_slice(&scratch[..count]),
                Got::Nothing => {}
                Got::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        loop {
            self.answer();
            let had = self.io.tail.len();
            self.io.flush(poll)?;
            if had == 0 || !self.io.is_flushed() {
                break;
            }
        }
        if self.closes && self.io.is_flushed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }
}
