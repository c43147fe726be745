//! Bytes to heads: the request line, the status line and the fields (RFC 9112 §3 to §5).
//!
//! Pure, and strict where readers differ: every line ends in CR LF, no CR stands by itself, no
//! field is folded, no blank stands before a colon. `Ok(None)` asks for more bytes.

use memchr::memchr;

use super::Limits;
use super::framing::{self, Malformed, Request, Response};
use super::table;
use crate::message::{Fields, RequestHead, ResponseHead};

/// Reads a request's head; with it, the bytes it took.
pub(super) fn request(
    input: &[u8],
    limits: Limits,
    head: &mut RequestHead,
) -> Result<Option<(usize, Request)>, Malformed> {
    // RFC 9112 §2.2: an empty line before the request line is passed over.
    let skipped = if input.starts_with(b"\r\n") { 2 } else { 0 };
    let mut lines = Lines { input: &input[skipped..], at: 0 };
    let Some(line) = lines.next()? else { return bounded(input, limits) };
    head.clear();
    let modern = request_line(line, head)?;
    if !fields(&mut lines, limits, &mut head.fields)? {
        return bounded(input, limits);
    }
    let used = skipped + lines.at;
    if used > limits.head {
        return Err(Malformed::TooLarge);
    }
    let framing = framing::request(&head.fields, modern)?;
    Ok(Some((used, framing)))
}

/// Reads the head of the response to a request of that method.
pub(super) fn response(
    input: &[u8],
    limits: Limits,
    method: &[u8],
    head: &mut ResponseHead,
) -> Result<Option<(usize, Response)>, Malformed> {
    let mut lines = Lines { input, at: 0 };
    let Some(line) = lines.next()? else { return bounded(input, limits) };
    head.fields.clear();
    let (status, modern) = status_line(line)?;
    head.status = status;
    if !fields(&mut lines, limits, &mut head.fields)? {
        return bounded(input, limits);
    }
    if lines.at > limits.head {
        return Err(Malformed::TooLarge);
    }
    let framing = framing::response(&head.fields, status, method, modern)?;
    Ok(Some((lines.at, framing)))
}

/// Reads the trailer section of a chunked body, with the empty line that ends it.
pub(super) fn trailers(
    input: &[u8],
    limits: Limits,
    into: &mut Fields,
) -> Result<Option<usize>, Malformed> {
    into.clear();
    let mut lines = Lines { input, at: 0 };
    if fields(&mut lines, limits, into)? {
        return Ok(Some(lines.at));
    }
    bounded(input, limits)
}

fn bounded<T>(input: &[u8], limits: Limits) -> Result<Option<T>, Malformed> {
    if input.len() >= limits.head { Err(Malformed::TooLarge) } else { Ok(None) }
}

/// Lines without their ends.
struct Lines<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let rest = &self.input[self.at..];
        let Some(end) = memchr(b'\n', rest) else { return Ok(None) };
        let Some(line) = rest[..end].strip_suffix(b"\r") else { return Err(Malformed::LineEnd) };
        self.at += end + 1;
        Ok(Some(line))
    }
}

/// Whether it is HTTP/1.1 and not 1.0.
fn request_line(line: &[u8], head: &mut RequestHead) -> Result<bool, Malformed> {
    let method_end = memchr(b' ', line).ok_or(Malformed::RequestLine)?;
    let (method, rest) = (&line[..method_end], &line[method_end + 1..]);
    let target_end = memchr(b' ', rest).ok_or(Malformed::RequestLine)?;
    let (target, version) = (&rest[..target_end], &rest[target_end + 1..]);
    if !table::is_token(method) {
        return Err(Malformed::RequestLine);
    }
    let modern = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        other if other.starts_with(b"HTTP/") => return Err(Malformed::Version),
        _ => return Err(Malformed::RequestLine),
    };
    if !table::is_target(target) {
        return Err(Malformed::Target);
    }
    head.set_method(method);
    set_target(method, target, head)?;
    Ok(modern)
}

/// The four forms of a target (RFC 9112 §3.2).
fn set_target(method: &[u8], target: &[u8], head: &mut RequestHead) -> Result<(), Malformed> {
    if method == b"CONNECT" {
        head.set_authority(target);
        return Ok(());
    }
    if target[0] == b'/' || (target == b"*" && method == b"OPTIONS") {
        head.set_path(target);
        return Ok(());
    }
    let scheme_end = target.windows(3).position(|w| w == b"://").ok_or(Malformed::Target)?;
    let (scheme, rest) = (&target[..scheme_end], &target[scheme_end + 3..]);
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return Err(Malformed::Target);
    }
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let (authority, path) = (&rest[..end], &rest[end..]);
    if authority.is_empty() {
        return Err(Malformed::Target);
    }
    head.set_scheme(scheme);
    head.set_authority(authority);
    match path {
        b"" if method == b"OPTIONS" => head.set_path(b"*"),
        b"" => head.set_path(b"/"),
        [b'/', ..] => head.set_path(path),
        query => {
            let mut whole = vec![b'/'];
            whole.extend_from_slice(query);
            head.set_path(&whole);
        }
    }
    Ok(())
}

fn status_line(line: &[u8]) -> Result<(u16, bool), Malformed> {
    let (version, rest) = line.split_at_checked(9).ok_or(Malformed::StatusLine)?;
    let modern = match version {
        b"HTTP/1.1 " => true,
        b"HTTP/1.0 " => false,
        _ => return Err(Malformed::StatusLine),
    };
    let (digits, reason) = rest.split_at_checked(3).ok_or(Malformed::StatusLine)?;
    let valid = matches!(reason, [] | [b' ', ..]) && table::is_value(reason);
    let status = digits.iter().try_fold(0_u16, |status, byte| {
        byte.is_ascii_digit().then(|| status * 10 + u16::from(byte - b'0'))
    });
    match status {
        Some(status) if valid && status >= 100 => Ok((status, modern)),
        _ => Err(Malformed::StatusLine),
    }
}

/// Reads fields up to the empty line; whether that was there.
fn fields(lines: &mut Lines<'_>, limits: Limits, into: &mut Fields) -> Result<bool, Malformed> {
    let mut count = 0;
    while let Some(line) = lines.next()? {
        if line.is_empty() {
            return Ok(true);
        }
        count += 1;
        if count > limits.fields {
            return Err(Malformed::TooManyFields);
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err(Malformed::Fold);
        }
        let colon = memchr(b':', line).ok_or(Malformed::Field)?;
        let (name, value) = (&line[..colon], table::trim(&line[colon + 1..]));
        if !table::is_token(name) {
            return Err(Malformed::Field);
        }
        if !table::is_value(value) {
            let bare = value.contains(&b'\r');
            return Err(if bare { Malformed::LineEnd } else { Malformed::Field });
        }
        into.push(name, value);
    }
    Ok(false)
}
