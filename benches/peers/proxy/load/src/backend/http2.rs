//! HTTP/2 with prior knowledge: a fixed body for every request, or gRPC that echoes what comes as it
//! comes.

use std::collections::{HashMap, VecDeque};
use std::io;

use super::Serve;
use crate::frame::{self, Frame};
use crate::http2::refill;
use crate::poll::{Got, Io, Poll, Ready};

const BODY: [u8; 1024] = [b'x'; 1024];

pub struct Connection {
    io: Io,
    echoes: bool,
    has_preface: bool,
    inbox: Vec<u8>,
    window: i64,
    initial: i64,
    streams: HashMap<u32, Stream>,
    /// What waits for a window: stream, data, whether it ends the stream.
    waiting: VecDeque<(u32, Vec<u8>, bool)>,
    received: u32,
}

struct Stream {
    window: i64,
    has_head: bool,
    unreported: u32,
}

impl Connection {
    pub fn new(io: Io, echoes: bool) -> Self {
        let mut io = io;
        frame::put_settings(&mut io.out);
        Self {
            io,
            echoes,
            has_preface: false,
            inbox: Vec::new(),
            window: frame::FIRST_WINDOW,
            initial: frame::FIRST_WINDOW,
            streams: HashMap::new(),
            waiting: VecDeque::new(),
            received: 0,
        }
    }

    fn on_octets(&mut self) -> io::Result<()> {
        let inbox = std::mem::take(&mut self.inbox);
        let mut at = 0;
        if !self.has_preface {
            if inbox.len() < frame::PREFACE.len() {
                self.inbox = inbox;
                return Ok(());
            }
            if !inbox.starts_with(frame::PREFACE) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.has_preface = true;
            at = frame::PREFACE.len();
        }
        while let Some((frame, taken)) = frame::first(&inbox[at..]) {
            self.on_frame(&frame)?;
            at += taken;
        }
        self.inbox = inbox;
        self.inbox.drain(..at);
        Ok(())
    }

    fn on_frame(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        match frame.kind {
            frame::SETTINGS if frame.flags & frame::ACK == 0 => {
                if let Some(initial) = frame.setting(frame::INITIAL_WINDOW_SIZE) {
                    let change = i64::from(initial) - self.initial;
                    self.initial += change;
                    self.streams.values_mut().for_each(|s| s.window += change);
                }
                frame::put(&mut self.io.out, frame::SETTINGS, frame::ACK, 0, &[]);
                self.send_waiting();
            }
            frame::PING if frame.flags & frame::ACK == 0 => {
                frame::put(&mut self.io.out, frame::PING, frame::ACK, 0, frame.payload);
            }
            frame::WINDOW_UPDATE => {
                if frame.stream == 0 {
                    self.window += frame.increment();
                } else if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    stream.window += frame.increment();
                }
                self.send_waiting();
            }
            frame::RST_STREAM => {
                self.streams.remove(&frame.stream);
            }
            frame::GOAWAY => return Err(io::ErrorKind::ConnectionAborted.into()),
            frame::HEADERS => {
                // Trailers of a request come as HEADERS too.
                let window = self.initial;
                let new = || Stream { window, has_head: false, unreported: 0 };
                self.streams.entry(frame.stream).or_insert_with(new);
                self.on_request(frame.stream, &[], frame.is_end());
            }
            frame::DATA => {
                let count = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
                refill(&mut self.io.out, &mut self.received, 0, count);
                if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    refill(&mut self.io.out, &mut stream.unreported, frame.stream, count);
                    self.on_request(frame.stream, frame.content(), frame.is_end());
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn on_request(&mut self, id: u32, data: &[u8], ends: bool) {
        if !self.echoes {
            if ends {
                self.put_head(id);
                self.send(id, &BODY, true);
            }
        } else if ends || !data.is_empty() {
            self.put_head(id);
            self.send(id, data, ends);
        }
    }

    fn put_head(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if std::mem::replace(&mut stream.has_head, true) {
            return;
        }
        // Never put into the table: the same octets every time (RFC 7541 §6.2.2).
        let mut block = vec![0x88];
        let mut header = |head: &[u8], value: &str| {
            block.extend_from_slice(head);
            block.push(u8::try_from(value.len()).unwrap_or(0));
            block.extend_from_slice(value.as_bytes());
        };
        if self.echoes {
            header(&[0x0f, 31 - 15], "application/grpc");
        } else {
            header(&[0x0f, 31 - 15], "text/plain");
            header(&[0x0f, 28 - 15], "1024");
        }
        header(&[0x0f, 33 - 15], "Thu, 01 Jan 2026 00:00:00 GMT");
        frame::put(&mut self.io.out, frame::HEADERS, frame::END_HEADERS, id, &block);
    }

    /// Sends in order, as far as the windows go.
    fn send(&mut self, id: u32, data: &[u8], ends: bool) {
        let is_behind = self.waiting.iter().any(|(of, _, _)| *of == id);
        if is_behind || !self.try_send(id, data, ends) {
            self.waiting.push_back((id, data.to_vec(), ends));
        }
    }

    fn try_send(&mut self, id: u32, data: &[u8], ends: bool) -> bool {
        // A stream that was reset needs nothing more.
        let Some(stream) = self.streams.get_mut(&id) else { return true };
        let len = i64::try_from(data.len()).unwrap_or(i64::MAX);
        if len > 0 && len > self.window.min(stream.window) {
            return false;
        }
        self.window -= len;
        stream.window -= len;
        let is_last = ends && !self.echoes;
        if len > 0 || is_last {
            let flags = if is_last { frame::END_STREAM } else { 0 };
            frame::put(&mut self.io.out, frame::DATA, flags, id, data);
        }
        if ends && self.echoes {
            let mut block = vec![0x00, 11];
            block.extend_from_slice(b"grpc-status\x010");
            let flags = frame::END_HEADERS | frame::END_STREAM;
            frame::put(&mut self.io.out, frame::HEADERS, flags, id, &block);
        }
        if ends {
            self.streams.remove(&id);
        }
        true
    }

    fn send_waiting(&mut self) {
        for (id, data, ends) in std::mem::take(&mut self.waiting) {
            self.send(id, &data, ends);
        }
    }
}

impl Serve for Connection {
    fn on_ready(&mut self, poll: &Poll, ready: Ready, scratch: &mut [u8]) -> io::Result<()> {
        if ready.readable {
            match self.io.read(scratch)? {
                Got::Bytes(count) => {
                    self.inbox.extend_from_slice(&scratch[..count]);
                    self.on_octets()?;
                }
                Got::Nothing => {}
                Got::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        self.io.flush(poll).map(|_| ())
    }
}
