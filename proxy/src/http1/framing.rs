//! How long a message is, and whether the connection lives on after it (RFC 9112 §6 and §9.3).
//!
//! Owns every refusal of a message that two readers could cut in different places.

use crate::message::{Fields, Known};

use super::table;

/// What of a message is not HTTP/1.1, or could be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Malformed {
    #[error("the request line is not METHOD SP TARGET SP HTTP/1.1")]
    RequestLine,
    #[error("the status line is not HTTP/1.1 SP STATUS")]
    StatusLine,
    #[error("a version of HTTP other than 1.0 and 1.1")]
    Version,
    #[error("the request target is not valid")]
    Target,
    #[error("a line that does not end in CR LF, or a CR by itself")]
    LineEnd,
    #[error("a field line that is no name, colon and value")]
    Field,
    #[error("a field continued on another line (obs-fold)")]
    Fold,
    #[error("the head is larger than this proxy takes")]
    TooLarge,
    #[error("the head has more fields than this proxy takes")]
    TooManyFields,
    #[error("no Host")]
    NoHost,
    #[error("more than one Host")]
    Hosts,
    #[error("Transfer-Encoding beside Content-Length")]
    BothLengths,
    #[error("Content-Length is not one number")]
    ContentLength,
    #[error("a transfer coding other than chunked")]
    TransferCoding,
    #[error("Transfer-Encoding in HTTP/1.0")]
    OldTransferCoding,
    #[error("a chunk that does not begin with its size, or does not end with CR LF")]
    Chunk,
}

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// There is none.
    None,
    /// So many bytes are left.
    Known(u64),
    /// As long as its chunks.
    Chunked,
    /// To the end of the connection.
    Close,
}

/// What a request's head says of the connection and of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) length: Length,
    /// Another request may follow.
    pub(crate) keep_alive: bool,
    /// HTTP/1.1 and not 1.0: chunks, trailers and interim responses are understood.
    pub(crate) modern: bool,
    /// `Expect: 100-continue`.
    pub(crate) expects: bool,
    /// `Connection: upgrade` with an Upgrade.
    pub(crate) upgrade: bool,
    /// `TE: trailers`, named by Connection.
    pub(crate) trailers: bool,
}

/// The same of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) length: Length,
    pub(crate) keep_alive: bool,
    pub(crate) modern: bool,
}

/// What the Connection fields name.
#[derive(Clone, Copy, Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

/// Reads the framing of a request.
pub(super) fn request(fields: &Fields, modern: bool) -> Result<Request, Malformed> {
    let seen = Seen::of(fields)?;
    match seen.hosts {
        0 if modern => return Err(Malformed::NoHost),
        0 | 1 => {}
        _ => return Err(Malformed::Hosts),
    }
    let length = match (seen.coding, seen.length) {
        (true, Some(_)) => return Err(Malformed::BothLengths),
        // RFC 9112 §6.1: a client that old knows no chunks; whoever put it there means to confuse.
        (true, None) if !modern => return Err(Malformed::OldTransferCoding),
        (true, None) => Length::Chunked,
        (false, Some(0) | None) => Length::None,
        (false, Some(length)) => Length::Known(length),
    };
    let connection = seen.connection;
    Ok(Request {
        length,
        keep_alive: if modern { !connection.close } else { connection.keep_alive },
        modern,
        expects: modern && seen.expects,
        upgrade: connection.upgrade && fields.contains(Known::Upgrade),
        trailers: seen.trailers,
    })
}

/// Reads the framing of the response to a request of that method.
pub(super) fn response(
    fields: &Fields,
    status: u16,
    method: &[u8],
    modern: bool,
) -> Result<Response, Malformed> {
    let seen = Seen::of(fields)?;
    let bodiless = method == b"HEAD" || status < 200 || status == 204 || status == 304;
    let length = match (seen.coding, seen.length) {
        (true, Some(_)) => return Err(Malformed::BothLengths),
        (true, None) if !modern => return Err(Malformed::OldTransferCoding),
        _ if bodiless => Length::None,
        // RFC 9112 §6.3: what follows is a tunnel, whatever the fields say.
        _ if method == b"CONNECT" && (200..300).contains(&status) => Length::Close,
        (true, None) => Length::Chunked,
        (false, Some(0)) => Length::None,
        (false, Some(length)) => Length::Known(length),
        (false, None) => Length::Close,
    };
    let connection = seen.connection;
    let persistent = if modern { !connection.close } else { connection.keep_alive };
    Ok(Response { length, keep_alive: persistent && length != Length::Close, modern })
}

/// What of the fields bears on framing, read in one pass.
#[derive(Default)]
struct Seen {
    hosts: usize,
    length: Option<u64>,
    coding: bool,
    connection: Connection,
    expects: bool,
    trailers: bool,
}

impl Seen {
    fn of(fields: &Fields) -> Result<Self, Malformed> {
        let mut seen = Self::default();
        for field in fields.iter() {
            match field.known {
                Known::Host => seen.hosts += 1,
                Known::ContentLength => {
                    let length = number(field.value).ok_or(Malformed::ContentLength)?;
                    // Said twice, even alike: whoever wrote it does not know what they send.
                    if seen.length.replace(length).is_some() {
                        return Err(Malformed::ContentLength);
                    }
                }
                Known::TransferEncoding => {
                    if seen.coding || !field.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Malformed::TransferCoding);
                    }
                    seen.coding = true;
                }
                Known::Connection => seen.connection.read(field.value),
                Known::Expect => seen.expects |= field.value.eq_ignore_ascii_case(b"100-continue"),
                Known::Te => seen.trailers |= tokens(field.value).any(is(b"trailers")),
                _ => {}
            }
        }
        Ok(seen)
    }
}

impl Connection {
    fn read(&mut self, value: &[u8]) {
        for token in tokens(value) {
            self.close |= token.eq_ignore_ascii_case(b"close");
            self.keep_alive |= token.eq_ignore_ascii_case(b"keep-alive");
            self.upgrade |= token.eq_ignore_ascii_case(b"upgrade");
        }
    }
}

fn is(name: &'static [u8]) -> impl Fn(&[u8]) -> bool {
    move |token| token.eq_ignore_ascii_case(name)
}

/// The members of a comma-separated list (RFC 9110 §5.6.1).
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(table::trim).filter(|token| !token.is_empty())
}

/// Digits and nothing else (RFC 9110 §8.6), and not so many that readers would differ on them.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0_u64, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'))
    })
}
