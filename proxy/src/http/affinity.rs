//! What hashed balancers tell requests by.

use portolan_model::policy::HashOn;
use portolan_model::traffic::HashPolicy;

use super::Client;
use crate::balance::hash;
use crate::message::{Fields, Known, RequestHead};

/// The hash of a request by these policies; `None` when none of them finds anything.
pub(super) fn hash(policies: &[HashPolicy], client: &Client, head: &RequestHead) -> Option<u64> {
    let mut whole = None;
    for policy in policies {
        let found = match &policy.on {
            HashOn::Header(name) => header(&head.fields, name.as_bytes()),
            HashOn::Cookie { name, .. } => {
                cookie(&head.fields, name.as_bytes()).map(|value| hash::of(&[value]))
            }
            HashOn::SourceIp => Some(hash::of(&[client.peer_text.as_bytes()])),
            HashOn::Path => {
                let path = head.path();
                let end = path.iter().position(|byte| *byte == b'?').unwrap_or(path.len());
                Some(hash::of(&[&path[..end]]))
            }
        };
        if let Some(found) = found {
            whole = Some(hash::combine(whole, found));
            if policy.terminal {
                break;
            }
        }
    }
    whole
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
