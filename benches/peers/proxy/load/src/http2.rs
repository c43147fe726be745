//! The HTTP/2 client: GET (`get`), one gRPC message there and back per call (`unary`), or calls that
//! last and carry message after message (`stream`). Prior knowledge, as gRPC has it.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::Args;
use crate::drive::Load;
use crate::frame::{self, Frame};
use crate::meter::Meter;
use crate::poll::{self, Got, Io, Poll, Ready};

/// Octets before a gRPC message: not compressed, and its length.
const MESSAGE_HEAD: usize = 5;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Get,
    Unary,
    Stream,
}

pub struct Client {
    to: SocketAddr,
    mode: Mode,
    /// Name's index in the static table (0: none), name, value.
    headers: Vec<(u8, &'static str, String)>,
    /// What is sent per request or message; empty for GET.
    message: Vec<u8>,
    /// Length of the response, or of one message of it.
    expected: usize,
    streams: usize,
    outstanding: usize,
    connections: Vec<Connection>,
    /// Connection and stream (0: one to be opened) that have room for one more.
    room: VecDeque<(usize, u32)>,
    dirty: Vec<usize>,
    scratch: Vec<u8>,
}

struct Connection {
    io: Io,
    inbox: Vec<u8>,
    /// What we may send on all streams, and on a new one.
    window: i64,
    initial: i64,
    next_id: u32,
    streams: Vec<Stream>,
    /// Streams (0: one to be opened) that wait for a window.
    parked: Vec<u32>,
    received: u32,
    is_dirty: bool,
}

struct Stream {
    id: u32,
    window: i64,
    due: VecDeque<Instant>,
    has_head: bool,
    received: usize,
    unreported: u32,
}

impl Client {
    pub fn new(args: &Args, poll: &Poll, meter: &mut Meter) -> Result<Self, Box<dyn Error>> {
        let mode = match args.text("mode", "get").as_str() {
            "get" => Mode::Get,
            "unary" => Mode::Unary,
            "stream" => Mode::Stream,
            other => return Err(format!("--mode {other}").into()),
        };
        let size: usize = args.number("size", 1024)?;
        let count = args.number("connections", 8)?;
        let message = if mode == Mode::Get { Vec::new() } else { message(size)? };
        let mut client = Self {
            to: args.address("to")?,
            mode,
            headers: headers(args, mode),
            expected: if mode == Mode::Get { size } else { message.len() },
            message,
            streams: args.number("streams", 8)?,
            outstanding: args.number("outstanding", 4)?,
            connections: Vec::new(),
            room: VecDeque::new(),
            dirty: Vec::new(),
            scratch: vec![0; 128 << 10],
        };
        for index in 0..count {
            let connection = Connection::new(client.to, index, poll)?;
            client.connections.push(connection);
            client.add_room(index, meter);
        }
        Ok(client)
    }

    /// Room of a new connection. Long-lived streams are opened here.
    fn add_room(&mut self, index: usize, meter: &mut Meter) {
        // One of each connection after the other, so that work spreads.
        for _ in 0..self.streams {
            if self.mode == Mode::Stream {
                let id = self.open(index, false, None);
                (0..self.outstanding).for_each(|_| self.room.push_back((index, id)));
            } else {
                self.room.push_back((index, 0));
            }
        }
        self.mark(index, meter);
    }

    fn mark(&mut self, index: usize, _meter: &mut Meter) {
        if !self.connections[index].is_dirty {
            self.connections[index].is_dirty = true;
            self.dirty.push(index);
        }
    }

    fn open(&mut self, index: usize, ends: bool, due: Option<Instant>) -> u32 {
        let connection = &mut self.connections[index];
        let id = connection.next_id;
        connection.next_id += 2;
        let mut block = Vec::with_capacity(256);
        block.push(if self.mode == Mode::Get { 0x82 } else { 0x83 });
        block.push(0x86);
        let count = u8::try_from(self.headers.len()).unwrap_or(0);
        for (number, (name_index, name, value)) in (0..count).zip(&self.headers) {
            if id == 1 {
                frame::put_literal(&mut block, *name_index, name, value);
            } else {
                // The newest entry is the first behind the static table (RFC 7541 §2.3.3).
                block.push(0x80 | (62 + count - 1 - number));
            }
        }
        let flags = frame::END_HEADERS | if ends { frame::END_STREAM } else { 0 };
        frame::put(&mut connection.io.out, frame::HEADERS, flags, id, &block);
        connection.streams.push(Stream {
            id,
            window: connection.initial,
            due: due.into_iter().collect(),
            has_head: false,
            received: 0,
            unreported: 0,
        });
        id
    }

    fn send(&mut self, index: usize, stream: u32, due: Instant) -> bool {
        let needed = i64::try_from(self.message.len()).unwrap_or(i64::MAX);
        let connection = &mut self.connections[index];
        let open = connection.streams.iter_mut().find(|s| s.id == stream);
        let of_stream = open.as_ref().map_or(connection.initial, |s| s.window);
        if needed > connection.window.min(of_stream) {
            connection.parked.push(stream);
            return false;
        }
        connection.window -= needed;
        if let Some(open) = open {
            open.window -= needed;
            open.due.push_back(due);
            frame::put(&mut connection.io.out, frame::DATA, 0, stream, &self.message);
            return true;
        }
        let is_get = self.mode == Mode::Get;
        let id = self.open(index, is_get, Some(due));
        if !is_get {
            let out = &mut self.connections[index].io.out;
            frame::put(out, frame::DATA, frame::END_STREAM, id, &self.message);
        }
        true
    }

    /// Everything anew; what was under way has failed.
    fn fail(&mut self, poll: &Poll, index: usize, error: &io::Error, meter: &mut Meter) {
        meter.on_error(error);
        self.room.retain(|(of, _)| *of != index);
        match Connection::new(self.to, index, poll) {
            Ok(connection) => {
                let was_dirty = self.connections[index].is_dirty;
                self.connections[index] = connection;
                self.connections[index].is_dirty = was_dirty;
                self.add_room(index, meter);
            }
            Err(error) => meter.on_error(&format!("connect: {error}")),
        }
    }

    fn read(&mut self, index: usize, meter: &mut Meter) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let count = match connection.io.read(&mut self.scratch)? {
            Got::Nothing => return Ok(()),
            Got::End => return Err(io::Error::other("closed too soon")),
            Got::Bytes(count) => count,
        };
        meter.on_octets(count);
        let mut inbox = std::mem::take(&mut connection.inbox);
        inbox.extend_from_slice(&self.scratch[..count]);
        let mut at = 0;
        let now = Instant::now();
        while let Some((frame, taken)) = frame::first(&inbox[at..]) {
            self.on_frame(index, &frame, now, meter)?;
            at += taken;
        }
        inbox.drain(..at);
        self.connections[index].inbox = inbox;
        if !self.connections[index].io.out.is_empty() {
            self.mark(index, meter);
        }
        Ok(())
    }

    fn on_frame(
        &mut self,
        index: usize,
        frame: &Frame<'_>,
        now: Instant,
        meter: &mut Meter,
    ) -> io::Result<()> {
        let connection = &mut self.connections[index];
        match frame.kind {
            frame::SETTINGS if frame.flags & frame::ACK == 0 => {
                if let Some(initial) = frame.setting(frame::INITIAL_WINDOW_SIZE) {
                    let change = i64::from(initial) - connection.initial;
                    connection.initial += change;
                    connection.streams.iter_mut().for_each(|s| s.window += change);
                }
                frame::put(&mut connection.io.out, frame::SETTINGS, frame::ACK, 0, &[]);
                self.unpark(index);
            }
            frame::PING if frame.flags & frame::ACK == 0 => {
                frame::put(&mut connection.io.out, frame::PING, frame::ACK, 0, frame.payload);
            }
            frame::WINDOW_UPDATE => {
                let streams = &mut connection.streams;
                if frame.stream == 0 {
                    connection.window += frame.increment();
                } else if let Some(stream) = streams.iter_mut().find(|s| s.id == frame.stream) {
                    stream.window += frame.increment();
                }
                self.unpark(index);
            }
            frame::GOAWAY => return Err(io::Error::other("GOAWAY")),
            frame::RST_STREAM => {
                return Err(io::Error::other(format!("RST_STREAM {:?}", frame.payload)));
            }
            frame::HEADERS | frame::DATA => self.on_response(index, frame, now, meter)?,
            _ => {}
        }
        Ok(())
    }

    fn unpark(&mut self, index: usize) {
        let parked = std::mem::take(&mut self.connections[index].parked);
        self.room.extend(parked.into_iter().map(|stream| (index, stream)));
    }

    fn on_response(
        &mut self,
        index: usize,
        frame: &Frame<'_>,
        now: Instant,
        meter: &mut Meter,
    ) -> io::Result<()> {
        let connection = &mut self.connections[index];
        let Some(at) = connection.streams.iter().position(|s| s.id == frame.stream) else {
            return Err(io::Error::other("a frame for no stream of ours"));
        };
        let stream = &mut connection.streams[at];
        if frame.kind == frame::DATA {
            let count = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
            refill(&mut connection.io.out, &mut connection.received, 0, count);
            refill(&mut connection.io.out, &mut stream.unreported, stream.id, count);
            stream.received += frame.content().len();
        } else if !stream.has_head {
            if !frame::is_ok(frame.content()) {
                let start = &frame.content()[..frame.content().len().min(16)];
                return Err(io::Error::other(format!("not 200: {start:02x?}")));
            }
            stream.has_head = true;
        }
        if self.mode == Mode::Stream {
            while stream.received >= self.expected
                && let Some(due) = stream.due.pop_front()
            {
                stream.received -= self.expected;
                meter.on_done(due, now);
                self.room.push_back((index, frame.stream));
            }
            return if frame.is_end() { Err(io::Error::other("a stream ended")) } else { Ok(()) };
        }
        if frame.is_end() {
            let stream = connection.streams.swap_remove(at);
            if stream.received != self.expected {
                return Err(io::Error::other(format!("{} octets", stream.received)));
            }
            stream.due.iter().for_each(|due| meter.on_done(*due, now));
            self.room.push_back((index, 0));
        }
        Ok(())
    }
}

impl Load for Client {
    fn start(&mut self, _poll: &Poll, due: Instant, meter: &mut Meter) -> bool {
        while let Some((index, stream)) = self.room.pop_front() {
            if self.send(index, stream, due) {
                self.mark(index, meter);
                return true;
            }
        }
        false
    }

    fn flush(&mut self, poll: &Poll, meter: &mut Meter) {
        for index in std::mem::take(&mut self.dirty) {
            self.connections[index].is_dirty = false;
            if let Err(error) = self.connections[index].io.flush(poll) {
                self.fail(poll, index, &error, meter);
            }
        }
    }

    fn on_ready(&mut self, poll: &Poll, ready: Ready, meter: &mut Meter) {
        let index = usize::try_from(ready.token).unwrap_or(usize::MAX);
        let io = &mut self.connections[index].io;
        let written = if ready.writable { io.flush(poll).map(|_| ()) } else { Ok(()) };
        let done =
            written.and_then(|()| if ready.readable { self.read(index, meter) } else { Ok(()) });
        if let Err(error) = done {
            self.fail(poll, index, &error, meter);
        }
    }
}

impl Connection {
    fn new(to: SocketAddr, index: usize, poll: &Poll) -> io::Result<Self> {
        let mut io = Io::new(poll::connect(to)?, index as u64, poll)?;
        io.out.extend_from_slice(frame::PREFACE);
        frame::put_settings(&mut io.out);
        Ok(Self {
            io,
            inbox: Vec::new(),
            window: frame::FIRST_WINDOW,
            initial: frame::FIRST_WINDOW,
            next_id: 1,
            streams: Vec::new(),
            parked: Vec::new(),
            received: 0,
            is_dirty: false,
        })
    }
}

/// Counts what came and gives the window back once enough of it is used.
pub fn refill(out: &mut Vec<u8>, used: &mut u32, stream: u32, count: u32) {
    *used += count;
    if *used >= frame::REFILL {
        frame::put(out, frame::WINDOW_UPDATE, 0, stream, &used.to_be_bytes());
        *used = 0;
    }
}

fn headers(args: &Args, mode: Mode) -> Vec<(u8, &'static str, String)> {
    let mut headers = vec![
        (4, ":path", args.text("path", "/")),
        (1, ":authority", args.text("authority", "bench")),
        (58, "user-agent", "portolan-load/0.1".to_owned()),
    ];
    if mode == Mode::Get {
        headers.push((19, "accept", "*/*".to_owned()));
        headers.push((16, "accept-encoding", "gzip".to_owned()));
    } else {
        headers.push((31, "content-type", "application/grpc".to_owned()));
        headers.push((0, "te", "trailers".to_owned()));
    }
    headers
}

/// A gRPC message of this size.
fn message(size: usize) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut message = Vec::with_capacity(MESSAGE_HEAD + size);
    message.push(0);
    message.extend_from_slice(&u32::try_from(size)?.to_be_bytes());
    message.resize(MESSAGE_HEAD + size, b'x');
    Ok(message)
}
