//! The TCP client: a connection for each octet that is echoed (`connect`), or connections that
//! receive (`source`) or send (`sink`) as much as they can.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::Args;
use crate::drive::Load;
use crate::meter::Meter;
use crate::poll::{self, Got, Io, Poll, Ready};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Connect,
    Source,
    Sink,
}

pub struct Client {
    to: SocketAddr,
    mode: Mode,
    slots: Vec<Option<(Io, Instant)>>,
    free: Vec<usize>,
    started: Vec<usize>,
    scratch: Vec<u8>,
    block: &'static [u8],
}

impl Client {
    pub fn new(args: &Args) -> Result<Self, Box<dyn Error>> {
        let mode = match args.text("mode", "connect").as_str() {
            "connect" => Mode::Connect,
            "source" => Mode::Source,
            "sink" => Mode::Sink,
            other => return Err(format!("--mode {other}").into()),
        };
        let count = args.number("connections", 64)?;
        Ok(Self {
            to: args.address("to")?,
            mode,
            slots: (0..count).map(|_| None).collect(),
            free: (0..count).collect(),
            started: Vec::new(),
            scratch: vec![0; 256 << 10],
            block: Box::leak(vec![b'x'; 256 << 10].into_boxed_slice()),
        })
    }

    fn write(&mut self, poll: &Poll, index: usize, meter: &mut Meter) -> io::Result<()> {
        let Some((io, _)) = &mut self.slots[index] else { return Ok(()) };
        match self.mode {
            Mode::Sink => meter.on_octets(io.pour(poll, self.block)?),
            _ => {
                io.flush(poll)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, index: usize, meter: &mut Meter) -> io::Result<()> {
        let Some((io, due)) = &mut self.slots[index] else { return Ok(()) };
        match (io.read(&mut self.scratch)?, self.mode) {
            (Got::Nothing, _) => {}
            (Got::Bytes(1), Mode::Connect) => {
                meter.on_done(*due, Instant::now());
                self.slots[index] = None;
                self.free.push(index);
            }
            (Got::Bytes(count), Mode::Source) => meter.on_octets(count),
            (Got::Bytes(_), _) => return Err(io::Error::other("more than was sent")),
            (Got::End, _) => return Err(io::Error::other("closed too soon")),
        }
        Ok(())
    }

    fn fail(&mut self, index: usize, error: &io::Error, meter: &mut Meter) {
        meter.on_error(error);
        if self.slots[index].take().is_some() {
            self.free.push(index);
        }
    }
}

impl Load for Client {
    fn start(&mut self, poll: &Poll, due: Instant, meter: &mut Meter) -> bool {
        let Some(index) = self.free.pop() else { return false };
        match poll::connect(self.to).and_then(|s| Io::new(s, index as u64, poll)) {
            Ok(mut io) => {
                if self.mode == Mode::Connect {
                    io.out.push(b'x');
                }
                self.slots[index] = Some((io, due));
                self.started.push(index);
                true
            }
            Err(error) => {
                meter.on_error(&format!("connect: {error}"));
                self.free.insert(0, index);
                false
            }
        }
    }

    fn flush(&mut self, poll: &Poll, meter: &mut Meter) {
        while let Some(index) = self.started.pop() {
            if let Err(error) = self.write(poll, index, meter) {
                self.fail(index, &error, meter);
            }
        }
    }

    fn on_ready(&mut self, poll: &Poll, ready: Ready, meter: &mut Meter) {
        let index = usize::try_from(ready.token).unwrap_or(usize::MAX);
        let written = if ready.writable { self.write(poll, index, meter) } else { Ok(()) };
        let done =
            written.and_then(|()| if ready.readable { self.read(index, meter) } else { Ok(()) });
        if let Err(error) = done {
            self.fail(index, &error, meter);
        }
    }
}
