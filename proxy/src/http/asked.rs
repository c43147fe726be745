//! Whom a request is for. Owns what makes that ambiguous, and refuses it.

use portolan_model::traffic::StripPort;
use smallvec::SmallVec;

use crate::message::{Known, RequestHead};

/// The authority of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// As the client wrote it, for upstream.
    pub(super) host: SmallVec<[u8; 64]>,
    /// In lower case, for the route table; empty for an HTTP/1.0 request that names none.
    lower: SmallVec<[u8; 64]>,
}

impl Asked {
    /// Reads `:authority`, an absolute target or Host; the number of Hosts was checked by whoever
    /// read the head.
    ///
    /// # Errors
    /// The reason why the request is not valid: RFC 9110 §4.2.4 (no user information), RFC 3986
    /// §3.2 (what an authority is made of), RFC 9113 §8.3.1 (Host and `:authority` must agree; in
    /// HTTP/1.1 the target's authority replaces Host, RFC 9112 §3.2.2).
    pub(super) fn of(head: &RequestHead, http2: bool) -> Result<Self, &'static str> {
        let host = head.fields.get(Known::Host);
        let text = match (head.authority(), host) {
            (Some(target), Some(host)) if http2 && !target.eq_ignore_ascii_case(host) => {
                return Err("Host and :authority differ");
            }
            (Some(target), _) => target,
            (None, Some(host)) => host,
            (None, None) => b"",
        };
        if text.contains(&b'@') {
            return Err("user information in the authority");
        }
        if !is_authority(text) {
            return Err("Host is not an authority");
        }
        let lower = text.iter().map(u8::to_ascii_lowercase).collect();
        Ok(Self { host: SmallVec::from_slice(text), lower })
    }

    /// Takes the port off, if that is asked for. `own` is the listener's.
    pub(super) fn strip_port(&mut self, strip: StripPort, own: u16) {
        let port = match strip {
            StripPort::No => return,
            StripPort::Matching => Some(own),
            StripPort::Any => None,
        };
        let (host, said) = split_port(self.lower());
        let end = host.len();
        if said.is_some_and(|said| port.is_none_or(|port| port == said)) {
            self.host.truncate(end);
            self.lower.truncate(end);
        }
    }

    pub(super) fn lower(&self) -> &str {
        // Checked to be ASCII.
        std::str::from_utf8(&self.lower).unwrap_or_default()
    }
}

/// A host without its port, and the port. What ends in brackets is an IPv6 address.
pub(super) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// `host [":" port]`, or nothing.
fn is_authority(text: &[u8]) -> bool {
    let (host, port) = match text {
        [b'[', rest @ ..] => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let literal = &rest[..end];
            let valid = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            if literal.is_empty() || !literal.iter().all(valid) {
                return false;
            }
            (&b""[..], &rest[end + 1..])
        }
        _ => {
            let end = text.iter().position(|byte| *byte == b':').unwrap_or(text.len());
            (&text[..end], &text[end..])
        }
    };
    let name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(byte);
    let port_valid = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host.iter().all(name) && port_valid && !(host.is_empty() && !port.is_empty() && text[0] == b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(
        http2: bool,
        target: Option<&str>,
        host: Option<&str>,
    ) -> Result<String, &'static str> {
        let mut head = RequestHead::default();
        if let Some(target) = target {
            head.set_authority(target.as_bytes());
        }
        if let Some(host) = host {
            head.fields.push(b"host", host.as_bytes());
        }
        Asked::of(&head, http2).map(|asked| asked.lower().to_owned())
    }

    #[test]
    fn a_port_is_told_from_the_end_of_an_address() {
        for (authority, host, port) in [
            ("a", "a", None),
            ("a:80", "a", Some(80)),
            ("[::1]", "[::1]", None),
            ("[::1]:80", "[::1]", Some(80)),
            ("", "", None),
        ] {
            assert_eq!(split_port(authority), (host, port), "{authority}");
        }
    }

    #[test]
    fn a_port_is_taken_off_where_that_is_asked_for() {
        for (host, strip, expected) in [
            ("web:80", StripPort::No, "web:80"),
            ("web:80", StripPort::Any, "web"),
            ("web:80", StripPort::Matching, "web"),
            ("web:81", StripPort::Matching, "web:81"),
            ("web", StripPort::Any, "web"),
            ("[::1]", StripPort::Any, "[::1]"),
            ("[::1]:80", StripPort::Any, "[::1]"),
        ] {
            let mut head = RequestHead::default();
            head.fields.push(b"host", host.as_bytes());
            let mut asked = Asked::of(&head, false).expect("valid");
            asked.strip_port(strip, 80);
            assert_eq!(asked.lower(), expected, "{host} {strip:?}");
            assert_eq!(asked.host.as_slice(), expected.as_bytes());
        }
    }

    #[test]
    fn an_authority_is_read_or_refused() {
        for (http2, target, host, expected) in [
            (false, None, Some("Web.Shop:80"), Ok("web.shop:80")),
            (false, None, Some(""), Ok("")),
            (false, Some("Target"), Some("other"), Ok("target")),
            (false, None, Some("user@a"), Err("user information in the authority")),
            (false, None, Some("a b"), Err("Host is not an authority")),
            (false, None, Some("a,b:80:90"), Err("Host is not an authority")),
            (false, None, Some(":80"), Err("Host is not an authority")),
            (false, None, Some("a/b"), Err("Host is not an authority")),
            (false, None, Some("a:http"), Err("Host is not an authority")),
            (false, None, Some("[fd00::1]:80"), Ok("[fd00::1]:80")),
            (false, None, Some("[fd00::1"), Err("Host is not an authority")),
            (false, None, Some("[]"), Err("Host is not an authority")),
            (false, None, Some("[::1]x"), Err("Host is not an authority")),
            (false, None, None, Ok("")),
            (true, Some("A"), None, Ok("a")),
            (true, Some("a"), Some("A"), Ok("a")),
            (true, Some("a"), Some("b"), Err("Host and :authority differ")),
            (true, None, Some("b"), Ok("b")),
        ] {
            let expected = expected.map(str::to_owned);
            assert_eq!(asked(http2, target, host), expected, "{http2} {target:?} {host:?}");
        }
    }
}
