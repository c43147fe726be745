//! What becomes of a request that a route takes (Envoy `Route.action`; Gateway API filters).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{PathMatch, Substitution};
use crate::traffic::ResourceName;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// It goes to one of these clusters, as often as their weights say. Never empty, and never all
    /// without weight.
    Forward(Vec<Share>),
    /// The client is sent elsewhere.
    Redirect(Redirect),
    /// The proxy answers it.
    Respond(Respond),
}

/// A cluster's part of a route's requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// Name of the cluster.
    pub cluster: ResourceName,
    /// Its part of the sum of all.
    pub weight: u32,
    /// What is changed of requests that go there; `None`: nothing.
    pub edits: Option<Arc<Edits>>,
}

/// Where copies of a route's requests go; nobody waits for what they are answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// Name of the cluster.
    pub cluster: ResourceName,
    /// Of how many requests, in millionths.
    pub millionths: u32,
    /// The host of a copy ends in `-shadow`, as Envoy has it unless it is told otherwise.
    pub shadow_host: bool,
}

/// Changes of a request on its way, and of its response.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Edits {
    /// Of the request's fields, in this order.
    pub request: Vec<HeaderEdit>,
    /// Of the response's.
    pub response: Vec<HeaderEdit>,
    /// The host that the endpoint is asked for.
    pub host: Option<Arc<str>>,
    /// The path that the endpoint is asked for.
    pub path: Option<PathEdit>,
}

/// One change of fields. Names are in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeaderEdit {
    /// All of the name go.
    Remove(Arc<str>),
    /// One more.
    Add(Arc<str>, Arc<str>),
    /// One more if there is none.
    AddIfAbsent(Arc<str>, Arc<str>),
    /// This one in place of all of the name.
    Set(Arc<str>, Arc<str>),
    /// This one in place of those that are there, if there are any.
    Replace(Arc<str>, Arc<str>),
}

/// A change of the path; the query stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathEdit {
    /// What the route's condition matched (a prefix, or all of it) becomes this.
    Matched(Arc<str>),
    /// All of it becomes this.
    Whole(Arc<str>),
    /// Every part that an expression matches becomes what this says of it.
    Replaced(Substitution),
}

/// Where a client is sent. What is `None` stays as the client asked for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Arc<str>>,
    /// The host, without a port.
    pub host: Option<Arc<str>>,
    /// The port. Where none is given the one that was asked for stays, unless the host is another or
    /// it is that of the scheme.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathEdit>,
    /// The query is left out.
    pub strip_query: bool,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Changes of the answer's fields.
    pub edits: Option<Arc<Edits>>,
}

/// An answer that stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// The body.
    pub body: Arc<[u8]>,
    /// Changes of the answer's fields.
    pub edits: Option<Arc<Edits>>,
}

impl Share {
    /// All of it, unchanged.
    #[must_use]
    pub fn all(cluster: ResourceName) -> Self {
        Self { cluster, weight: 1, edits: None }
    }
}

impl Action {
    /// To one cluster, unchanged.
    #[must_use]
    pub fn to(cluster: ResourceName) -> Self {
        Self::Forward(vec![Share::all(cluster)])
    }
}

/// The share for a number below the sum of the weights (or any, taken modulo that sum).
#[must_use]
pub fn pick(shares: &[Share], number: u64) -> Option<&Share> {
    if let [only] = shares {
        return Some(only);
    }
    let sum: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
    let mut left = number.checked_rem(sum)?;
    shares.iter().find(|share| {
        let weight = u64::from(share.weight);
        let here = left < weight;
        left = left.saturating_sub(weight);
        here
    })
}

impl HeaderEdit {
    /// Fields that frame a message or are for one connection: to change them would be to change where
    /// it ends. Host is changed by rewriting it.
    const NOT_TO_CHANGE: [&str; 9] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "te",
        "http2-settings",
    ];

    /// Whether a text is the name of a field (`token`, RFC 9110 §5.6.2).
    #[must_use]
    pub fn is_name(text: &str) -> bool {
        let of_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        !text.is_empty() && text.bytes().all(of_token)
    }

    /// Whether a field of this name, in lower case, may be changed on the way.
    #[must_use]
    pub fn may_change(name: &str) -> bool {
        !Self::NOT_TO_CHANGE.contains(&name)
    }

    /// The field that is changed.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Remove(name)
            | Self::Add(name, _)
            | Self::AddIfAbsent(name, _)
            | Self::Set(name, _)
            | Self::Replace(name, _) => name,
        }
    }
}

impl Edits {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl PathEdit {
    /// Whether a text may stand in a path that takes the place of another.
    #[must_use]
    pub fn is_path(text: &str) -> bool {
        text.bytes().all(|byte| byte.is_ascii_graphic() && !b"#?\"<>\\^`{|}".contains(&byte))
    }

    /// The target (path and query) that a target becomes, if the route's condition is this.
    /// `matched` is only used where a prefix is replaced.
    #[must_use]
    pub fn apply(&self, target: &[u8], matched: &PathMatch) -> Vec<u8> {
        let end = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
        let (path, query) = target.split_at(end);
        let replaced;
        let (start, rest): (&str, &[u8]) = match self {
            Self::Whole(path) => (path, b""),
            Self::Replaced(substitution) => {
                replaced = substitution.apply(path);
                ("", &replaced)
            }
            Self::Matched(start) => {
                let taken = match matched {
                    PathMatch::Prefix(prefix) | PathMatch::Under(prefix) => prefix.len(),
                    PathMatch::Exact(_) | PathMatch::Regex(_) => path.len(),
                };
                let rest = path.get(taken..).unwrap_or_default();
                // By segments there is one slash between the two, and at least one (Gateway API,
                // "ReplacePrefixMatch"); by characters they are put together as they are.
                match (matched, rest) {
                    (PathMatch::Under(_), [b'/', ..]) => (start.trim_end_matches('/'), rest),
                    _ => (start, rest),
                }
            }
        };
        let mut target = Vec::with_capacity(start.len() + rest.len() + query.len() + 1);
        target.extend_from_slice(start.as_bytes());
        target.extend_from_slice(rest);
        if target.first() != Some(&b'/') {
            target.insert(0, b'/');
        }
        target.extend_from_slice(query);
        target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_as_their_weights_say() {
        let share = |cluster: &str, weight| Share { cluster: cluster.into(), weight, edits: None };
        let shares = [share("a", 90), share("none", 0), share("b", 10)];
        let mut seen = std::collections::BTreeMap::new();
        for number in 0..100_000 {
            *seen.entry(&*pick(&shares, number).expect("one").cluster).or_insert(0) += 1;
        }
        assert_eq!(seen, [("a", 90_000), ("b", 10_000)].into());
        assert_eq!(pick(&[share("a", 0), share("b", 0)], 3), None);
        assert_eq!(pick(&[], 3), None);
    }

    #[test]
    fn a_path_is_replaced_in_whole_or_as_far_as_it_was_matched() {
        let prefix = PathMatch::Prefix("/a".into());
        let under = PathMatch::Under("/a".into());
        let exact = PathMatch::Exact("/a".into());
        let whole = PathEdit::Whole("/x".into());
        let matched = |to: &str| PathEdit::Matched(to.into());
        let replaced = |text: &str, with: &str| {
            PathEdit::Replaced(Substitution::new(text, with).expect("valid"))
        };
        for (edit, condition, target, expected) in [
            (&whole, &prefix, "/a/b?c=d", "/x?c=d"),
            (&matched("/x"), &prefix, "/a/b?c", "/x/b?c"),
            (&matched("/x"), &prefix, "/ab", "/xb"),
            (&matched("/x"), &under, "/a", "/x"),
            (&matched("/x/"), &under, "/a/b", "/x/b"),
            (&matched("/"), &under, "/a/b", "/b"),
            (&matched("/"), &under, "/a", "/"),
            (&matched(""), &under, "/a", "/"),
            (&matched(""), &under, "/a?q", "/?q"),
            (&matched("/x"), &exact, "/a?q", "/x?q"),
            (&replaced("^/.*$", "/x"), &exact, "/a/b?q", "/x?q"),
            (&replaced("^/a/?", "/"), &under, "/a/b", "/b"),
            (&replaced("^/a/?", "/"), &under, "/a", "/"),
            (&replaced("/([a-z])", r"/\1\1"), &under, "/a/b?/c", "/aa/bb?/c"),
        ] {
            let got = edit.apply(target.as_bytes(), condition);
            assert_eq!(String::from_utf8_lossy(&got), expected, "{edit:?} {condition:?} {target}");
        }
    }
}
