//! Which resources a client's refusal is about.
//!
//! The protocol has no field for it ("ACK, NACK": a NACK is about a whole response): clients name
//! resources in their words, Envoy and gRPC both.

use std::sync::Arc;

use super::held::Held;
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

/// The names in the client's words that are among what it was sent.
pub(super) fn named(words: &str, sent: &Held) -> Vec<Name> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || ".:/-_?=&%[]~@+*#".contains(c);
    let mut found: Vec<Name> = Vec::new();
    for token in words.split(|c| !is_part(c)) {
        let bare = token.trim_end_matches(['.', ':', ']', '?']).trim_start_matches('[');
        for candidate in [token, bare] {
            let known = sent.map().get_key_value(candidate);
            if let Some((name, _)) = known.filter(|(name, _)| !found.contains(name)) {
                found.push(name.clone());
            }
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
    use crate::resource::generation;

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
        let mut sent = Held::default();
        for name in ["shop/web:80", "shop/api:8", "web.shop.svc.cluster.local:80"] {
            sent.insert(name.into(), generation::encode(portolan_model::Generation(1)));
        }
        for (words, expected) in cases {
            let found = named(words, &sent);
            let found: Vec<&str> = found.iter().map(|name| &**name).collect();
            assert_eq!(found, expected, "{words}");
        }
    }
}
