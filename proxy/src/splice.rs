//! Bytes from one TCP socket to another, at the least cost.
//!
//! A stream is copied through a buffer its worker's streams share until it has shown to be long;
//! then its pages go through a pipe (splice(2)) and are never copied. Owns readiness, half-close,
//! the bounds of memory and of work per poll, and the idle and age limits of a pair of streams.
//! Refuses: to know what the bytes mean, and to close or reset a socket; that is the caller's.

mod duplex;
mod pool;
mod pump;
mod sys;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;

pub(crate) use duplex::{Counters, End, Limits, bidirectional};
pub(crate) use pump::{Broken, Pump};

use std::io;
use std::os::fd::AsFd as _;

use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads what has arrived, at most `max` bytes, and adds it to `into`; 0 at the end of the stream.
/// Goes through the worker's buffer, so that waiting costs none.
///
/// # Errors
/// `WouldBlock` when nothing has arrived, else what the system says.
pub(crate) fn read_some(from: &TcpStream, into: &mut Vec<u8>, max: usize) -> io::Result<usize> {
    pool::with_scratch(|scratch| {
        let room = max.min(scratch.len());
        let n = receive(from, &mut scratch[..room])?;
        into.extend_from_slice(&scratch[..n]);
        Ok(n)
    })
}

/// Reads once. A short read means that the socket is empty now, and is noted as such: epoll tells
/// of the next byte, and a read that fails is saved.
fn receive(from: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut short = None;
    let read = from.try_io(Interest::READABLE, || {
        let n = sys::receive(from.as_fd(), buffer)?;
        if n > 0 && n < buffer.len() {
            short = Some(n);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(n)
    });
    short.map_or(read, Ok)
}

/// Writes once; a short write is noted as in [`receive`].
fn send(to: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut short = None;
    let written = to.try_io(Interest::WRITABLE, || {
        let n = sys::send(to.as_fd(), bytes)?;
        if n > 0 && n < bytes.len() {
            short = Some(n);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(n)
    });
    short.map_or(written, Ok)
}
