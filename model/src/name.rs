//! Names: service keys and DNS names, validated where they enter.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A service's identity: its scope, and namespace and name, both DNS labels (RFC 1123 §2.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    scope: Scope,
    namespace: Arc<str>,
    name: Arc<str>,
}

/// Where a service is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// In this cluster: a Service.
    #[default]
    Cluster,
    /// In all clusters of a set: a ServiceImport (KEP-1645).
    ClusterSet,
}

/// An absolute DNS host name in lower case, without the trailing dot; at most 253 octets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(Arc<str>);

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing was given.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than DNS allows (RFC 1035 §2.3.4).
    #[error("{name:?} is {length} octets long, the limit is {limit}")]
    TooLong {
        /// What was given, cut to a readable length.
        name: String,
        /// Its length in octets.
        length: usize,
        /// The limit in octets: 63 for a label, 253 for a name.
        limit: usize,
    },
    /// A character outside `a-z`, `0-9` and `-`, or a `-` at an end.
    #[error(
        "{name:?} is not a DNS label: it may hold a-z, 0-9 and '-', and must start and end with \
         a letter or digit"
    )]
    Character {
        /// What was given.
        name: String,
    },
    /// A `namespace/name` without its slash.
    #[error("{name:?} is not of the form namespace/name or clusterset/namespace/name")]
    Form {
        /// What was given.
        name: String,
    },
}

/// What stands before the key of a service of a cluster set in its text form.
const CLUSTER_SET: &str = "clusterset";
/// Longest DNS label in octets (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;
/// Longest DNS name in its text form, in octets (RFC 1035 §2.3.4: 255 on the wire).
pub const MAX_NAME: usize = 253;

impl ServiceKey {
    /// Builds a key from two DNS labels.
    ///
    /// # Errors
    /// [`InvalidName`] when either is not a DNS label.
    pub fn new(namespace: &str, name: &str) -> Result<Self, InvalidName> {
        validate_label(namespace)?;
        validate_label(name)?;
        Ok(Self { scope: Scope::Cluster, namespace: namespace.into(), name: name.into() })
    }

    /// The same in another scope.
    #[must_use]
    pub fn within(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The same with these very strings, so that many keys share one namespace.
    #[must_use]
    pub fn sharing(mut self, namespace: &Arc<str>) -> Self {
        if self.namespace == *namespace {
            self.namespace = Arc::clone(namespace);
        }
        self
    }

    /// Parses `namespace/name`, or `clusterset/namespace/name`.
    ///
    /// # Errors
    /// [`InvalidName`] when the slash is missing or a part is not a DNS label.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let form = || InvalidName::Form { name: shorten(text) };
        let (rest, name) = text.rsplit_once('/').ok_or_else(form)?;
        match rest.split_once('/') {
            None => Self::new(rest, name),
            Some((CLUSTER_SET, namespace)) => {
                Self::new(namespace, name).map(|key| key.within(Scope::ClusterSet))
            }
            Some(_) => Err(form()),
        }
    }

    /// Where it is known.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Arc<str> {
        &self.namespace
    }

    /// The name within the namespace.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scope == Scope::ClusterSet {
            write!(f, "{CLUSTER_SET}/")?;
        }
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for ServiceKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ServiceKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

impl DnsName {
    /// Parses a host name; upper case is folded, one trailing dot is dropped.
    ///
    /// # Errors
    /// [`InvalidName`] when a label or the whole is malformed or too long.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(InvalidName::TooLong {
                name: shorten(text),
                length: text.len(),
                limit: MAX_NAME,
            });
        }
        let lower = text.to_ascii_lowercase();
        for label in lower.split('.') {
            validate_host_label(label)?;
        }
        Ok(Self(lower.into()))
    }

    /// The name in lower case without a trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The labels, leftmost first.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('.')
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DnsName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DnsName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

/// Checks a DNS label as Kubernetes asks for names (RFC 1123 §2.1, lower case).
///
/// # Errors
/// [`InvalidName`] saying what is wrong with it.
pub fn validate_label(label: &str) -> Result<(), InvalidName> {
    check_label(label, false)
}

/// Checks a label of a host name; an underscore may stand anywhere, since `ExternalName` targets
/// in the wild carry them (RFC 2181 §11).
fn validate_host_label(label: &str) -> Result<(), InvalidName> {
    check_label(label, true)
}

fn check_label(label: &str, underscore: bool) -> Result<(), InvalidName> {
    let bytes = label.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err(InvalidName::Empty);
    };
    if bytes.len() > MAX_LABEL {
        return Err(InvalidName::TooLong {
            name: shorten(label),
            length: bytes.len(),
            limit: MAX_LABEL,
        });
    }
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || (underscore && b == b'_');
    if letter(*first) && letter(*last) && bytes.iter().all(|b| letter(*b) || *b == b'-') {
        Ok(())
    } else {
        Err(InvalidName::Character { name: shorten(label) })
    }
}

/// Cuts what a stranger wrote to a length fit for a log line.
fn shorten(text: &str) -> String {
    const LIMIT: usize = 80;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    text.chars().take(LIMIT).chain("…".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_refused_for_the_reasons_dns_gives() {
        let long = "a".repeat(64);
        let cases: &[(&str, Option<&str>)] = &[
            ("web", None),
            ("4web-2", None),
            (&long[..63], None),
            ("", Some("must not be empty")),
            (&long, Some("64 octets long, the limit is 63")),
            ("Web", Some("not a DNS label")),
            ("-web", Some("not a DNS label")),
            ("web-", Some("not a DNS label")),
            ("we.b", Some("not a DNS label")),
            ("wéb", Some("not a DNS label")),
        ];
        for (label, expected) in cases {
            match (validate_label(label), expected) {
                (Ok(()), None) => {}
                (Err(e), Some(text)) => assert!(e.to_string().contains(text), "{label}: {e}"),
                (got, _) => panic!("{label}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_host_name_is_folded_and_bounded() {
        assert_eq!(DnsName::parse("DB.Example.com.").expect("valid").as_str(), "db.example.com");
        assert!(DnsName::parse("a..b").is_err());
        assert!(DnsName::parse(&"a.".repeat(127)).is_ok());
        assert!(DnsName::parse(&"a.".repeat(128)).is_err());
    }
}
