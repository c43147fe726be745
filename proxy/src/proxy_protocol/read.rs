//! Reading a header from a connection; what was read beyond it is handed on.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

use super::{Addresses, Parsed, ProxyProtocolError, parse};
use crate::splice::read_some;

/// Bytes read at once: the longest header of version 1. Little that is no header is read with it.
const MAX_LINE: usize = 107;

/// What a listener expects of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// A header or none. Section 2 warns of this: whoever can reach the listener can claim any
    /// address. It also waits for a client that speaks second; no byte by the deadline is no header.
    Optional,
    /// A header, or the connection is refused.
    Required,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Read {
    /// `None` when those of the connection itself hold.
    pub(crate) addresses: Option<Addresses>,
    /// Bytes read that are no header: the first of the stream.
    pub(crate) rest: Vec<u8>,
}

/// Why a connection is to be refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The header is not valid.
    #[error(transparent)]
    Invalid(#[from] ProxyProtocolError),
    /// There is none, and one is required.
    #[error("proxy protocol: no header")]
    Absent,
    /// It did not come in time.
    #[error("proxy protocol: no whole header within the deadline")]
    Late,
    /// The connection ended or failed in the middle.
    #[error("proxy protocol: {0}")]
    Io(#[source] io::Error),
}

/// Reads the header a client's connection begins with.
///
/// # Errors
/// [`ReadError`]: the connection is not to be served.
pub(crate) async fn read(
    stream: &TcpStream,
    expect: Expect,
    deadline: Duration,
) -> Result<Read, ReadError> {
    let mut bytes = Vec::new();
    match tokio::time::timeout(deadline, collect(stream, &mut bytes, expect)).await {
        Ok(read) => read,
        // What began like a header and stopped may be anything; a client that is silent may wait
        // for the server.
        Err(_elapsed) if expect == Expect::Optional && bytes.is_empty() => Ok(Read::default()),
        Err(_elapsed) => Err(ReadError::Late),
    }
}

async fn collect(
    stream: &TcpStream,
    bytes: &mut Vec<u8>,
    expect: Expect,
) -> Result<Read, ReadError> {
    loop {
        let needed = match parse(bytes)? {
            Parsed::NeedMore(length) => length,
            Parsed::Absent if expect == Expect::Required => return Err(ReadError::Absent),
            Parsed::Absent => return Ok(Read { addresses: None, rest: std::mem::take(bytes) }),
            Parsed::Header { length, addresses } => {
                return Ok(Read { addresses, rest: bytes.split_off(length) });
            }
        };
        stream.readable().await.map_err(ReadError::Io)?;
        let room = needed.max(MAX_LINE).saturating_sub(bytes.len());
        match read_some(stream, bytes, room) {
            Ok(0) if bytes.is_empty() && expect == Expect::Optional => return Ok(Read::default()),
            Ok(0) => return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(ReadError::Io(error)),
        }
    }
}
