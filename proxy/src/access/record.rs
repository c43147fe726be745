//! One record as bytes, as text or as JSON.
//!
//! Owns that no value breaks a line or a field out of its quotes, and that every value is bounded.
//! Nothing here allocates but the buffer that is written to.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::AccessFormat;
use crate::message::decimal;

/// Bytes of a path that are written; of any other value that a client chooses, a quarter.
const MAX_PATH: usize = 2048;
const MAX_VALUE: usize = MAX_PATH / 4;
/// Longest method that is written.
const MAX_METHOD: usize = 32;

/// A request or a stream that ended. Empty and `None`: there was no such thing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Record<'a> {
    pub(crate) listener: &'a str,
    /// `HTTP/1.1` and so on, or `TCP`.
    pub(crate) protocol: &'static str,
    /// The client's IP address and port.
    pub(crate) client: &'a str,
    pub(crate) port: u16,
    /// Who the client has proven to be.
    pub(crate) identity: &'a str,
    pub(crate) method: &'a [u8],
    pub(crate) authority: &'a [u8],
    pub(crate) path: &'a [u8],
    /// 0 when there was no response.
    pub(crate) status: u16,
    pub(crate) grpc_status: Option<u32>,
    /// Bytes of the body from and to the client.
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) took: Duration,
    /// To the head of the endpoint's response, or to a connection to it.
    pub(crate) head: Option<Duration>,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) cluster: &'a str,
    pub(crate) tries: u32,
    /// Why the proxy answered itself, or who cut it.
    pub(crate) reason: Option<&'static str>,
    pub(crate) request_id: &'a [u8],
    pub(crate) user_agent: &'a [u8],
    /// X-Forwarded-For as the client gave it.
    pub(crate) forwarded_for: &'a [u8],
}

impl Record<'_> {
    /// Adds the record and a line feed.
    pub(super) fn put(
        &self,
        format: AccessFormat,
        time: &[u8; 24],
        generation: Option<u64>,
        out: &mut Vec<u8>,
    ) {
        match format {
            AccessFormat::Text => self.text(time, generation, out),
            AccessFormat::Json => self.json(time, generation, out),
        }
    }

    fn text(&self, time: &[u8; 24], generation: Option<u64>, out: &mut Vec<u8>) {
        out.push(b'[');
        out.extend_from_slice(time);
        out.extend_from_slice(b"] \"");
        if self.method.is_empty() {
            out.push(b'-');
        } else {
            quoted(bounded(self.method, MAX_METHOD), out);
            out.push(b' ');
            quoted(bounded(self.path, MAX_PATH), out);
        }
        out.push(b' ');
        out.extend_from_slice(self.protocol.as_bytes());
        out.extend_from_slice(b"\" ");
        or_dash(self.status != 0, out, |out| decimal(out, self.status.into()));
        out.push(b' ');
        or_dash(self.grpc_status.is_some(), out, |out| {
            decimal(out, self.grpc_status.unwrap_or(0).into());
        });
        out.push(b' ');
        out.extend_from_slice(self.reason.unwrap_or("-").as_bytes());
        for number in [self.bytes_in, self.bytes_out] {
            out.push(b' ');
            decimal(out, number);
        }
        out.push(b' ');
        millis(self.took, out);
        out.push(b' ');
        or_dash(self.head.is_some(), out, |out| millis(self.head.unwrap_or_default(), out));
        for value in [self.forwarded_for, self.user_agent, self.request_id, self.authority] {
            out.extend_from_slice(b" \"");
            if value.is_empty() {
                out.push(b'-');
            } else {
                quoted(bounded(value, MAX_VALUE), out);
            }
            out.push(b'"');
        }
        out.push(b' ');
        self.client(out);
        out.push(b' ');
        or_dash(self.endpoint.is_some(), out, |out| {
            self.endpoint.iter().for_each(|e| address(*e, out));
        });
        for name in [self.listener, self.cluster] {
            out.extend_from_slice(b" \"");
            quoted(bounded(name.as_bytes(), MAX_VALUE), out);
            out.push(b'"');
        }
        out.push(b' ');
        decimal(out, self.tries.into());
        out.push(b' ');
        or_dash(generation.is_some(), out, |out| decimal(out, generation.unwrap_or(0)));
        out.push(b'\n');
    }

    fn json(&self, time: &[u8; 24], generation: Option<u64>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(time);
        out.push(b'"');
        let text = |name: &str, value: &[u8], most: usize, out: &mut Vec<u8>| {
            if !value.is_empty() {
                key(name, out);
                out.push(b'"');
                escaped(value, most, out);
                out.push(b'"');
            }
        };
        let number = |name: &str, value: u64, out: &mut Vec<u8>| {
            key(name, out);
            decimal(out, value);
        };
        text("listener", self.listener.as_bytes(), MAX_VALUE, out);
        text("protocol", self.protocol.as_bytes(), MAX_VALUE, out);
        key("client", out);
        out.push(b'"');
        self.client(out);
        out.push(b'"');
        text("method", self.method, MAX_METHOD, out);
        text("authority", self.authority, MAX_VALUE, out);
        text("path", self.path, MAX_PATH, out);
        if self.status != 0 {
            number("status", self.status.into(), out);
        }
        if let Some(status) = self.grpc_status {
            number("grpc_status", status.into(), out);
        }
        text("reason", self.reason.unwrap_or_default().as_bytes(), MAX_VALUE, out);
        number("bytes_in", self.bytes_in, out);
        number("bytes_out", self.bytes_out, out);
        key("duration_ms", out);
        millis(self.took, out);
        if let Some(head) = self.head {
            key("head_ms", out);
            millis(head, out);
        }
        if let Some(endpoint) = self.endpoint {
            key("endpoint", out);
            out.push(b'"');
            address(endpoint, out);
            out.push(b'"');
        }
        text("cluster", self.cluster.as_bytes(), MAX_VALUE, out);
        number("tries", self.tries.into(), out);
        text("request_id", self.request_id, MAX_VALUE, out);
        text("identity", self.identity.as_bytes(), MAX_VALUE, out);
        text("user_agent", self.user_agent, MAX_VALUE, out);
        text("forwarded_for", self.forwarded_for, MAX_VALUE, out);
        if let Some(generation) = generation {
            number("generation", generation, out);
        }
        out.extend_from_slice(b"}\n");
    }

    fn client(&self, out: &mut Vec<u8>) {
        let v6 = self.client.contains(':');
        out.extend_from_slice(if v6 { b"[" } else { b"" });
        out.extend_from_slice(self.client.as_bytes());
        out.extend_from_slice(if v6 { b"]:" } else { b":" });
        decimal(out, self.port.into());
    }
}

fn bounded(value: &[u8], most: usize) -> &[u8] {
    value.get(..most).unwrap_or(value)
}

fn or_dash(is_some: bool, out: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    if is_some { put(out) } else { out.push(b'-') }
}

fn key(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// Milliseconds with three places.
fn millis(time: Duration, out: &mut Vec<u8>) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    decimal(out, micros / 1000);
    let rest = micros % 1000;
    let digit = |number: u64| b'0' + u8::try_from(number % 10).unwrap_or(0);
    out.extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
}

fn address(address: SocketAddr, out: &mut Vec<u8>) {
    if let IpAddr::V4(ip) = address.ip() {
        for (at, octet) in ip.octets().into_iter().enumerate() {
            if at > 0 {
                out.push(b'.');
            }
            decimal(out, octet.into());
        }
        out.push(b':');
        return decimal(out, address.port().into());
    }
    // Writing to a buffer does not fail.
    let _ = write!(out, "{address}");
}

/// Whether a byte stands for itself between quotes, in text and in JSON.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

/// Whether all do. Looks at all of them, which is faster than to stop early.
fn all_plain(value: &[u8]) -> bool {
    value.iter().fold(true, |plain, byte| plain & is_plain(*byte))
}

/// A value between quotes of a text: what is not printable ASCII, a quote or a backslash is `\xHH`.
fn quoted(value: &[u8], out: &mut Vec<u8>) {
    if all_plain(value) {
        return out.extend_from_slice(value);
    }
    for byte in value {
        if is_plain(*byte) {
            out.push(*byte);
        } else {
            out.extend_from_slice(&[b'\\', b'x', hex(byte >> 4), hex(byte & 0xf)]);
        }
    }
}

/// A value between quotes of JSON (RFC 8259 §7), of which at most so many bytes. One that is no
/// UTF-8 has its other bytes as the characters of the same number.
fn escaped(whole: &[u8], most: usize, out: &mut Vec<u8>) {
    let value = bounded(whole, most);
    if all_plain(value) {
        return out.extend_from_slice(value);
    }
    let (bytes, is_text) = match std::str::from_utf8(value) {
        Ok(text) => (text.as_bytes(), true),
        // Cut within a character: what is before that.
        Err(error) if error.error_len().is_none() && value.len() < whole.len() => {
            (&value[..error.valid_up_to()], true)
        }
        Err(_) => (value, false),
    };
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0x80.. if is_text => out.push(*byte),
            byte if is_plain(*byte) => out.push(*byte),
            byte => {
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 0xf)]);
            }
        }
    }
}

fn hex(nibble: u8) -> u8 {
    if nibble < 10 { b'0' + nibble } else { b'a' + (nibble & 0xf) - 10 }
}
