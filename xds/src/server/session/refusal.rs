//! Which resources a client's refusal is about.
//!
//! The protocol has no field for it ("ACK, NACK": a NACK is about a whole response): clients name
//! resources in their words, Envoy and gRPC both.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::Name;
use crate::resource::ResourceType;

/// How much of a client's words is kept, in characters.
const MAX_WORDS: usize = 1024;
/// Most names kept of one refusal.
pub(super) const MAX_NAMED: usize = 64;

/// A resource in a version that a client refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The version.
    pub version: u64,
    /// The client's words.
    pub words: Arc<str>,
    /// When, in milliseconds since the Unix epoch.
    pub at: u64,
}

/// A refused response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Type.
    pub kind: ResourceType,
    /// The client's words.
    pub words: Arc<str>,
    /// The resources it is about: those the client names, else all that were new to it; at most 64.
    pub names: Vec<Name>,
    /// Whether the client said the same before.
    pub repeated: bool,
}

pub(super) fn cut(words: &str) -> Arc<str> {
    match words.char_indices().nth(MAX_WORDS) {
        Some((end, _)) => words[..end].into(),
        None => words.into(),
    }
}

/// The names in the client's words that are among what it answers.
pub(super) fn named(words: &str, sent: &BTreeSet<Name>) -> BTreeSet<Name> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || ".:/-_?=&%[]~@+*#".contains(c);
    let mut found = BTreeSet::new();
    for token in words.split(|c| !is_part(c)) {
        let bare = token.trim_end_matches(['.', ':', ']', '?']).trim_start_matches('[');
        for candidate in [token, bare] {
            found.extend(sent.get(candidate).cloned());
        }
        if found.len() >= MAX_NAMED {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_name_resources_in_their_words() {
        let cases = [
            ("Error adding/updating cluster(s) shop/web:80: duplicate", vec!["shop/web:80"]),
            ("shop/web:80", vec!["shop/web:80"]),
            ("[xds] 'shop/web:80' and \"shop/api:8\".", vec!["shop/web:80", "shop/api:8"]),
            ("shop/web:800 is bad", vec![]),
            ("web.shop.svc.cluster.local:80: no router", vec!["web.shop.svc.cluster.local:80"]),
            ("nothing known", vec![]),
            ("", vec![]),
            ("shop/web:80 shop/web:80", vec!["shop/web:80"]),
        ];
        let sent = ["shop/web:80", "shop/api:8", "web.shop.svc.cluster.local:80"];
        let sent = sent.map(Name::from).into();
        for (words, expected) in cases {
            let expected = expected.into_iter().map(Name::from).collect();
            assert_eq!(named(words, &sent), expected, "{words}");
        }
    }
}
