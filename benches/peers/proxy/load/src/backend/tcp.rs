//! TCP that echoes, sends for ever, or takes all.

use std::io;
use std::sync::OnceLock;

use super::Serve;
use crate::poll::{Got, Io, Poll, Ready};

pub struct Echo(pub Io);
pub struct Source(Io);
pub struct Sink(pub Io);

fn block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| vec![b'x'; 256 << 10])
}

impl Serve for Echo {
    fn on_ready(&mut self, poll: &Poll, ready: Ready, scratch: &mut [u8]) -> io::Result<()> {
        if ready.readable {
            match self.0.read(scratch)? {
                Got::Bytes(count) => self.0.out.extend_from_slice(&scratch[..count]),
                Got::Nothing => {}
                Got::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        self.0.flush(poll).map(|_| ())
    }
}

impl Source {
    pub fn new(mut io: Io, poll: &Poll) -> io::Result<Self> {
        io.pour(poll, block())?;
        Ok(Self(io))
    }
}

impl Serve for Source {
    fn on_ready(&mut self, poll: &Poll, ready: Ready, scratch: &mut [u8]) -> io::Result<()> {
        if ready.readable
            && let Got::End = self.0.read(scratch)?
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.pour(poll, block()).map(|_| ())
    }
}

impl Serve for Sink {
    fn on_ready(&mut self, _poll: &Poll, _ready: Ready, scratch: &mut [u8]) -> io::Result<()> {
        match self.0.read(scratch)? {
            Got::End => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}
