//! Judges the fields of a head (RFC 9113 §8.2, §8.3, RFC 8441 §4) while they are decoded.
//!
//! Whatever is wrong, decoding goes on to the end of the block, so that the table stays in step.

use super::super::hpack::{Item, Name, Sink};
use crate::message::{Fields, Known, RequestHead, ResponseHead};

/// What RFC 9113 §6.5.2 adds for each field.
const OVERHEAD: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Request,
    Response,
    Trailers,
    /// A block of a stream nobody knows: only the table matters.
    Discard,
}

/// Why a head is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    Malformed,
    /// Larger than the limit.
    TooLarge,
}

#[derive(Debug)]
pub(super) struct Judge {
    what: What,
    /// Bytes that the head may still have.
    left: usize,
    too_large: bool,
    malformed: bool,
    fields_begun: bool,
    /// A bit for each pseudo-header that came.
    seen: u8,
    status: u16,
    length: Option<u64>,
    head: RequestHead,
}

impl Judge {
    pub(super) fn new(what: What, limit: usize, block: usize) -> Self {
        let mut head = RequestHead::default();
        if what != What::Discard {
            // Plain fields are as long as they are coded, table entries far longer.
            head.fields.reserve((block * 2).clamp(256, 4096).min(limit), 12);
        }
        Self {
            what,
            left: limit,
            too_large: false,
            malformed: false,
            fields_begun: false,
            seen: 0,
            status: 0,
            length: None,
            head,
        }
    }

    /// Content-Length, if there is one.
    pub(super) fn length(&self) -> Option<u64> {
        self.length
    }

    /// A request, where `connect` says whether extended CONNECT is on.
    pub(super) fn request(self, connect: bool) -> Result<RequestHead, BadHead> {
        self.check()?;
        let head = self.head;
        match is_valid_request(&head, connect, self.seen) {
            true => Ok(head),
            false => Err(BadHead::Malformed),
        }
    }

    pub(super) fn response(self) -> Result<ResponseHead, BadHead> {
        self.check()?;
        // 101 belongs to HTTP/1.1 (RFC 9113 §8.6).
        match self.status {
            101 => Err(BadHead::Malformed),
            status @ 100..=999 => Ok(ResponseHead { status, fields: self.head.fields }),
            _ => Err(BadHead::Malformed),
        }
    }

    pub(super) fn trailers(self) -> Result<Fields, BadHead> {
        self.check()?;
        Ok(self.head.fields)
    }

    fn check(&self) -> Result<(), BadHead> {
        match (self.too_large, self.malformed) {
            (true, _) => Err(BadHead::TooLarge),
            (_, true) => Err(BadHead::Malformed),
            _ => Ok(()),
        }
    }

    fn regular(&mut self, known: Known, item: &Item<'_>) {
        self.fields_begun = true;
        let fine = match known {
            Known::Connection
            | Known::KeepAlive
            | Known::ProxyConnection
            | Known::TransferEncoding
            | Known::Upgrade => false,
            Known::Te => item.value.eq_ignore_ascii_case(b"trailers"),
            Known::ContentLength => self.content_length(item.value),
            _ => true,
        };
        self.malformed |= !fine;
        self.head.fields.push_as(known, item.name, item.value);
    }

    /// The same value more than once is no harm (RFC 9110 §8.6).
    fn content_length(&mut self, value: &[u8]) -> bool {
        let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        let Some(number) = number.filter(|_| digits) else { return false };
        self.length.replace(number).is_none_or(|before| before == number)
    }

    fn pseudo(&mut self, item: &Item<'_>) -> bool {
        let (bit, of) = match item.kind {
            Name::Method => (METHOD, What::Request),
            Name::Scheme => (SCHEME, What::Request),
            Name::Authority => (AUTHORITY, What::Request),
            Name::Path => (PATH, What::Request),
            Name::Protocol => (PROTOCOL, What::Request),
            Name::Status => (STATUS, What::Response),
            _ => return false,
        };
        if self.fields_begun || self.what != of || self.seen & bit != 0 {
            return false;
        }
        self.seen |= bit;
        let value = item.value;
        match item.kind {
            Name::Method => self.head.set_method(value),
            Name::Scheme => self.head.set_scheme(value),
            Name::Authority => self.head.set_authority(value),
            Name::Path => self.head.set_path(value),
            Name::Protocol => self.head.set_protocol(Some(value)),
            _ => {
                let [a, b, c] = *value else { return false };
                if ![a, b, c].iter().all(u8::is_ascii_digit) {
                    return false;
                }
                let digit = |byte: u8| u16::from(byte - b'0');
                self.status = digit(a) * 100 + digit(b) * 10 + digit(c);
            }
        }
        true
    }
}

const METHOD: u8 = 1;
const SCHEME: u8 = 2;
const AUTHORITY: u8 = 4;
const PATH: u8 = 8;
const PROTOCOL: u8 = 16;
const STATUS: u8 = 32;

impl Sink for Judge {
    fn field(&mut self, item: &Item<'_>) {
        if self.what == What::Discard || self.too_large {
            return;
        }
        let size = item.name.len() + item.value.len() + OVERHEAD;
        match self.left.checked_sub(size) {
            Some(left) => self.left = left,
            None => {
                self.too_large = true;
                return;
            }
        }
        self.malformed |= !item.valid;
        match item.kind {
            Name::Field(known) => self.regular(known, item),
            _ => self.malformed |= !self.pseudo(item),
        }
    }
}

fn is_valid_request(head: &RequestHead, connect_enabled: bool, seen: u8) -> bool {
    let has = |bits: u8| seen & bits == bits;
    let method = head.method();
    if !is_token(method) {
        return false;
    }
    let connect = method == b"CONNECT";
    let shape = match (connect, has(PROTOCOL)) {
        (true, false) => seen == METHOD | AUTHORITY,
        (true, true) => connect_enabled && has(SCHEME | PATH | AUTHORITY),
        (false, true) => false,
        (false, false) => has(SCHEME | PATH),
    };
    let path = head.path();
    let path_fine = match path {
        _ if !has(PATH) => true,
        b"*" => method == b"OPTIONS",
        [b'/', ..] => path.iter().all(|byte| *byte > b' ' && *byte != 0x7f),
        _ => false,
    };
    let scheme_fine = head.scheme().is_none_or(is_scheme);
    let protocol_fine = head.protocol().is_none_or(is_token);
    shape && path_fine && scheme_fine && protocol_fine && is_valid_authority(head)
}

/// `:authority` names a host and nothing else, and Host says the same (RFC 9113 §8.3.1).
fn is_valid_authority(head: &RequestHead) -> bool {
    let mut hosts = head.fields.all(Known::Host);
    let host = hosts.next();
    if hosts.next().is_some() {
        return false;
    }
    let Some(authority) = head.authority() else {
        return host.is_none_or(|host| host.is_empty() || is_authority(host));
    };
    is_authority(authority) && host.is_none_or(|host| host.eq_ignore_ascii_case(authority))
}

fn is_authority(bytes: &[u8]) -> bool {
    let allowed = |byte: &u8| {
        byte.is_ascii_graphic() && !matches!(byte, b'@' | b'/' | b'?' | b'#' | b'\\' | b',')
    };
    !bytes.is_empty() && bytes.iter().all(allowed)
}

fn is_scheme(bytes: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    bytes.first().is_some_and(u8::is_ascii_alphabetic) && bytes.iter().all(allowed)
}

fn is_token(bytes: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(allowed)
}
