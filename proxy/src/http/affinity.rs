//! What hashed balancers tell requests by.

use std::time::Duration;

use portolan_model::policy::HashOn;
use portolan_model::traffic::HashPolicy;

use super::Client;
use crate::balance::hash;
use crate::message::{Fields, Known, RequestHead, without_query};

/// What a request is told by, and the cookie its client is to be given so that the next is told by
/// the same.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) hash: Option<u64>,
    pub(super) cookie: Option<String>,
}

/// What a request is told by under these policies. A client without a cookie that has a lifetime is
/// given one, of which the value is drawn here.
pub(super) fn tell(policies: &[HashPolicy], client: &Client, head: &RequestHead) -> Told {
    let mut given = None;
    let mut whole = None;
    for policy in policies {
        let found = match &policy.on {
            HashOn::Header(name) => header(&head.fields, name.as_bytes()),
            HashOn::Cookie { name, ttl } => {
                let value = cookie(&head.fields, name.as_bytes());
                value.map(|value| hash::of(&[value])).or_else(|| {
                    let (high, low) = client.origin.shared.random();
                    let value = format!("{high:016x}{low:016x}");
                    given = Some(set_cookie(name, &value, (*ttl)?));
                    Some(hash::of(&[value.as_bytes()]))
                })
            }
            HashOn::SourceIp => Some(hash::of(&[client.peer_text.as_bytes()])),
            HashOn::Path => Some(hash::of(&[without_query(head.path())])),
        };
        if let Some(found) = found {
            whole = Some(hash::combine(whole, found));
            if policy.terminal {
                break;
            }
        }
    }
    Told { hash: whole, cookie: given }
}

/// A cookie for the client (RFC 6265 §4.1); without a lifetime it lasts as long as the session.
fn set_cookie(name: &str, value: &str, ttl: Duration) -> String {
    let age = match ttl.as_secs() {
        0 => String::new(),
        secs => format!("; Max-Age={secs}"),
    };
    format!("{name}={value}; Path=/; HttpOnly{age}")
}

/// All values of a field, sorted, as Envoy hashes them.
fn header(fields: &Fields, name: &[u8]) -> Option<u64> {
    let mut values: Vec<&[u8]> = fields.all_named(name).collect();
    if values.is_empty() {
        return None;
    }
    values.sort_unstable();
    Some(hash::of(&values))
}

/// The value of a cookie (RFC 6265 §5.4).
pub(super) fn cookie<'a>(fields: &'a Fields, name: &[u8]) -> Option<&'a [u8]> {
    fields.all(Known::Cookie).flat_map(|value| value.split(|byte| *byte == b';')).find_map(|pair| {
        let pair = pair.trim_ascii();
        let end = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..end] == *name).then(|| unquoted(&pair[end + 1..]))
    })
}

/// Quotes around a value are not part of it.
fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        whole => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_given_for_its_time_or_for_the_session() {
        let hour = Duration::from_hours(1);
        assert_eq!(set_cookie("s", "1", hour), "s=1; Path=/; HttpOnly; Max-Age=3600");
        assert_eq!(set_cookie("s", "1", Duration::ZERO), "s=1; Path=/; HttpOnly");
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let mut fields = Fields::default();
        fields.push(b"cookie", b"a=1; session=abc;quoted=\"x y\"");
        fields.push(b"Cookie", b"late=2");
        for (name, expected) in [
            ("a", Some(&b"1"[..])),
            ("session", Some(b"abc")),
            ("quoted", Some(b"x y")),
            ("late", Some(b"2")),
            ("sess", None),
        ] {
            assert_eq!(cookie(&fields, name.as_bytes()), expected, "{name}");
        }
    }
}
