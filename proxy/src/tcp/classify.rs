//! What a client speaks, by its first bytes; a pure function of bytes nobody vouches for.
//!
//! Certain or nothing: a verdict never changes with more bytes. What is none of HTTP/1, HTTP/2 and
//! TLS is told at the first byte that cannot belong to them.

mod hello;

pub(crate) use hello::Hello;

/// The most bytes that are looked at: one TLS record (RFC 8446 §5.1), and a long request line.
pub(crate) const MAX_FIRST: usize = 16 * 1024 + 5;

/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is looked for; the longest registered one has 17 letters.
const MAX_METHOD: usize = 24;

/// What the first bytes tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not certain yet.
    NeedMore,
    /// An HTTP/1 request line.
    Http1,
    /// The preface of HTTP/2.
    Http2,
    /// A ClientHello, and what it asks for.
    Tls(Hello),
    /// None of these.
    Other,
}

/// Where a partial input may still lead.
enum Partial {
    Never,
    NeedMore,
    Whole,
}

/// What these first bytes of a connection are. From [`MAX_FIRST`] bytes on, the answer is never
/// [`Verdict::NeedMore`].
pub(crate) fn classify(bytes: &[u8]) -> Verdict {
    match probe(bytes) {
        Verdict::NeedMore if bytes.len() >= MAX_FIRST => settle(bytes),
        verdict => verdict,
    }
}

/// The verdict when no more bytes will be looked at: what they would have to become.
pub(crate) fn settle(bytes: &[u8]) -> Verdict {
    match (probe(bytes), bytes.first()) {
        (Verdict::NeedMore, Some(&hello::HANDSHAKE)) if bytes.len() >= hello::CERTAIN => {
            Verdict::Tls(Hello::default())
        }
        // With a method and a target behind it, a line that does not end is a request too long.
        (Verdict::NeedMore, _) if has_target(bytes) => Verdict::Http1,
        (Verdict::NeedMore, _) => Verdict::Other,
        (verdict, _) => verdict,
    }
}

fn probe(bytes: &[u8]) -> Verdict {
    if bytes.first() == Some(&hello::HANDSHAKE) {
        return hello::parse(bytes);
    }
    let compared = bytes.len().min(PREFACE.len());
    if bytes[..compared] == PREFACE[..compared] {
        return if compared == PREFACE.len() { Verdict::Http2 } else { Verdict::NeedMore };
    }
    match request_line(bytes) {
        Partial::Whole => Verdict::Http1,
        Partial::NeedMore => Verdict::NeedMore,
        Partial::Never => Verdict::Other,
    }
}

/// `METHOD SP target SP HTTP/1.x CRLF` (RFC 9112 §3), after one empty line at the most (§2.2), and
/// with a bare LF for the CRLF. The version must be there: RTSP and SIP look the same before it.
fn request_line(bytes: &[u8]) -> Partial {
    let line = match bytes {
        [b'\r'] => return Partial::NeedMore,
        [b'\r', b'\n', line @ ..] => line,
        line => line,
    };
    let Some((method, rest)) = split_at_space(line) else {
        let open = line.len() <= MAX_METHOD && is_method(line);
        return if open { Partial::NeedMore } else { Partial::Never };
    };
    if method.is_empty() || method.len() > MAX_METHOD || !is_method(method) {
        return Partial::Never;
    }
    let (target, rest) = split_at_space(rest).map_or((rest, None), |(t, r)| (t, Some(r)));
    // RFC 3986 allows no control characters; some clients send bytes beyond ASCII.
    if target.iter().any(|b| b.is_ascii_control()) || (target.is_empty() && rest.is_some()) {
        return Partial::Never;
    }
    rest.map_or(Partial::NeedMore, version)
}

/// `HTTP/1.x` and the end of the line.
fn version(rest: &[u8]) -> Partial {
    const NAME: &[u8] = b"HTTP/1.";
    let compared = rest.len().min(NAME.len());
    if rest[..compared] != NAME[..compared] {
        return Partial::Never;
    }
    match &rest[compared..] {
        [] | [b'0'..=b'9'] | [b'0'..=b'9', b'\r'] => Partial::NeedMore,
        [b'0'..=b'9', b'\n', ..] | [b'0'..=b'9', b'\r', b'\n', ..] => Partial::Whole,
        _ => Partial::Never,
    }
}

/// Registered methods are in capitals, with hyphens here and there; lower case is some other
/// protocol's command, such as memcached's.
fn is_method(word: &[u8]) -> bool {
    word.iter().all(|b| b.is_ascii_uppercase() || *b == b'-')
}

fn has_target(bytes: &[u8]) -> bool {
    split_at_space(bytes).is_some_and(|(_, target)| target.first() == Some(&b'/'))
}

fn split_at_space(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == b' ')?;
    Some((bytes.get(..at)?, bytes.get(at + 1..)?))
}

/// What a fuzzer calls: a verdict once certain stays, however much follows, and is reached in time.
///
/// # Panics
/// When it does not: that is the finding.
pub(crate) fn fuzz(data: &[u8]) {
    let whole = classify(data);
    assert!(whole != Verdict::NeedMore || data.len() < MAX_FIRST, "no verdict at the bound");
    assert_ne!(settle(data), Verdict::NeedMore, "settled without a verdict");
    let data = &data[..data.len().min(MAX_FIRST - 1)];
    let whole = classify(data);
    let mut cut = data.len();
    while cut > 0 {
        cut /= 2;
        let part = classify(&data[..cut]);
        assert!(part == Verdict::NeedMore || part == whole, "{part:?} at {cut}, then {whole:?}");
    }
}

#[cfg(test)]
mod tests;
