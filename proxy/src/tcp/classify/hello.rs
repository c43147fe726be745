//! A TLS ClientHello (RFC 8446 §4.1.2): the server name and the protocols it offers.
//!
//! Owns the walk through records and extensions, within bounds. Refuses: to judge versions, suites
//! or keys; a hello that is broken is for the endpoint to refuse.

use super::{MAX_FIRST, Verdict};

/// The record type of handshake messages.
pub(super) const HANDSHAKE: u8 = 0x16;
/// Record header, message type and length, and the version in the message: from here on, bytes
/// that fit are TLS.
pub(super) const CERTAIN: usize = RECORD_HEADER + MESSAGE_HEADER + 2;

const RECORD_HEADER: usize = 5;
const MESSAGE_HEADER: usize = 4;
/// RFC 8446 §5.1: the most bytes of a record that is not encrypted.
const MAX_RECORD: usize = 1 << 14;
const CLIENT_HELLO: u8 = 1;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
/// The type of a name in the server name extension (RFC 6066 §3).
const HOST_NAME: u8 = 0;
/// The most protocols kept; what is offered after them is as if it were not.
const MAX_ALPN: usize = 16;

/// What a ClientHello asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The host name, in lower case. `None` when there is none or it cannot be one.
    pub(crate) sni: Option<Box<str>>,
    /// Protocols offered, the preferred one first (RFC 7301 §3.1).
    pub(crate) alpn: Vec<Box<[u8]>>,
}

/// Why a hello cannot be read.
enum Stop {
    NeedMore,
    Broken,
}

/// Bytes not read yet.
struct Reader<'a>(&'a [u8]);

pub(super) fn parse(bytes: &[u8]) -> Verdict {
    match message(bytes).and_then(|body| hello(&body)) {
        Ok(hello) => Verdict::Tls(hello),
        Err(Stop::NeedMore) => Verdict::NeedMore,
        Err(Stop::Broken) => Verdict::Other,
    }
}

/// The body of the first handshake message, put together from its records.
fn message(bytes: &[u8]) -> Result<Vec<u8>, Stop> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        // Each part is judged as soon as it is there: what is not TLS is not waited for.
        let length = record_length(rest)?;
        let fragment = &rest[RECORD_HEADER..];
        let fragment = &fragment[..fragment.len().min(length)];
        message.extend_from_slice(fragment);
        match message.first() {
            None => return Err(Stop::NeedMore),
            Some(&CLIENT_HELLO) => {}
            Some(_) => return Err(Stop::Broken),
        }
        if let [_, high, middle, low, body @ ..] = &message[..] {
            let wanted = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
            // Beyond what is looked at, the start must do: `settle` says TLS without a name.
            if wanted < 38 || (body.first().is_some_and(|major| *major != 3)) {
                return Err(Stop::Broken);
            }
            if body.len() >= wanted {
                message.truncate(MESSAGE_HEADER + wanted);
                message.drain(..MESSAGE_HEADER);
                return Ok(message);
            }
        }
        if fragment.len() < length || message.len() > MAX_FIRST {
            return Err(Stop::NeedMore);
        }
        rest = rest.get(RECORD_HEADER + length..).unwrap_or_default();
    }
}

/// The length in a record's header; empty records are forbidden for handshake messages.
fn record_length(record: &[u8]) -> Result<usize, Stop> {
    let fits = |at: usize, allowed: fn(u8) -> bool| record.get(at).is_none_or(|b| allowed(*b));
    if !fits(0, |b| b == HANDSHAKE) || !fits(1, |b| b == 3) || !fits(2, |b| b <= 4) {
        return Err(Stop::Broken);
    }
    let Some([_, _, _, high, low]) = record.first_chunk::<RECORD_HEADER>() else {
        return Err(Stop::NeedMore);
    };
    match usize::from(u16::from_be_bytes([*high, *low])) {
        0 => Err(Stop::Broken),
        length if length > MAX_RECORD => Err(Stop::Broken),
        length => Ok(length),
    }
}

/// Reads a whole message: nothing that is missing now will come.
fn hello(body: &[u8]) -> Result<Hello, Stop> {
    let mut reader = Reader(body);
    // Version and random.
    reader.take(34)?;
    let session = reader.list8()?;
    let suites = reader.list16()?;
    let compressions = reader.list8()?;
    if session.0.len() > 32 || suites.0.len() < 2 || compressions.0.is_empty() {
        return Err(Stop::Broken);
    }
    let mut hello = Hello::default();
    // Before TLS 1.3 a hello may end here (RFC 5246 §7.4.1.2).
    if reader.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = reader.list16()?;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut value = extensions.list16()?;
        match kind {
            SERVER_NAME => hello.sni = server_name(&mut value)?,
            ALPN => hello.alpn = protocols(&mut value)?,
            _ => {}
        }
    }
    Ok(hello)
}

fn server_name(value: &mut Reader<'_>) -> Result<Option<Box<str>>, Stop> {
    let mut names = value.list16()?;
    while !names.0.is_empty() {
        let kind = names.u8()?;
        let name = names.list16()?;
        if kind == HOST_NAME {
            return Ok(host_name(name.0));
        }
    }
    Ok(None)
}

/// A DNS name in ASCII, without a dot at the end (RFC 6066 §3).
fn host_name(name: &[u8]) -> Option<Box<str>> {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    let text = std::str::from_utf8(name).ok()?;
    let fits = (1..=253).contains(&name.len()) && name.iter().all(allowed);
    let labels = text.split('.').all(|label| (1..=63).contains(&label.len()));
    (fits && labels).then(|| text.to_ascii_lowercase().into())
}

fn protocols(value: &mut Reader<'_>) -> Result<Vec<Box<[u8]>>, Stop> {
    let mut names = value.list16()?;
    let mut protocols = Vec::new();
    while !names.0.is_empty() {
        let name = names.list8()?;
        if name.0.is_empty() {
            return Err(Stop::Broken);
        }
        if protocols.len() < MAX_ALPN {
            protocols.push(name.0.into());
        }
    }
    Ok(protocols)
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Stop> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(Stop::Broken)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Stop> {
        let (byte, rest) = self.0.split_first().ok_or(Stop::Broken)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn u16(&mut self) -> Result<u16, Stop> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Stop::Broken)?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    /// Bytes behind their number, in one byte.
    fn list8(&mut self) -> Result<Self, Stop> {
        let length = self.u8()?;
        self.take(usize::from(length)).map(Self)
    }

    /// The same, in two.
    fn list16(&mut self) -> Result<Self, Stop> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Self)
    }
}
