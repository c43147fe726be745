//! Parts of a text that an expression matches, put in other words (Envoy
//! `RegexMatchAndSubstitute`, which is RE2's `GlobalReplace`).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::condition::compile;

/// What every part of a text that an expression matches becomes. In what it becomes `\0` to `\9`
/// stand for the groups of the expression, and `\\` for one backslash.
#[derive(Clone)]
pub struct Substitution {
    text: Arc<str>,
    with: Arc<str>,
    compiled: regex::bytes::Regex,
    parts: Arc<[Part]>,
}

#[derive(Debug)]
enum Part {
    Text(Box<[u8]>),
    Group(usize),
}

impl Substitution {
    /// Compiles an expression and what its matches become.
    ///
    /// # Errors
    /// Why one of them is none, in one line, or too large.
    pub fn new(text: &str, with: &str) -> Result<Self, String> {
        let (compiled, _) = compile(text)?;
        let parts = parts(with)?;
        let groups = compiled.captures_len();
        for part in &parts {
            if let Part::Group(group) = part
                && *group >= groups
            {
                return Err(format!("{with:?}: the expression has no group {group}"));
            }
        }
        Ok(Self { text: text.into(), with: with.into(), compiled, parts: parts.into() })
    }

    /// The expression.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.text
    }

    /// What its matches become.
    #[must_use]
    pub fn with(&self) -> &str {
        &self.with
    }

    /// A text after it.
    #[must_use]
    pub fn apply(&self, text: &[u8]) -> Vec<u8> {
        let replace = |found: &regex::bytes::Captures<'_>| {
            let mut replaced = Vec::new();
            for part in &*self.parts {
                match part {
                    Part::Text(text) => replaced.extend_from_slice(text),
                    Part::Group(group) => {
                        let group = found.get(*group).map(|group| group.as_bytes());
                        replaced.extend_from_slice(group.unwrap_or_default());
                    }
                }
            }
            replaced
        };
        self.compiled.replace_all(text, replace).into_owned()
    }

    /// A text that stands for itself in what a match becomes.
    #[must_use]
    pub fn escaped(text: &str) -> String {
        text.replace('\\', r"\\")
    }
}

fn parts(with: &str) -> Result<Vec<Part>, String> {
    let (mut parts, mut text) = (Vec::new(), Vec::new());
    let mut bytes = with.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            text.push(byte);
            continue;
        }
        match bytes.next() {
            Some(b'\\') => text.push(b'\\'),
            Some(digit @ b'0'..=b'9') => {
                parts.push(Part::Text(std::mem::take(&mut text).into()));
                parts.push(Part::Group(usize::from(digit - b'0')));
            }
            _ => return Err(format!("{with:?}: a backslash must come before a digit or another")),
        }
    }
    parts.push(Part::Text(text.into()));
    Ok(parts)
}

impl PartialEq for Substitution {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.with) == (&other.text, &other.with)
    }
}

impl Eq for Substitution {}

impl fmt::Debug for Substitution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Substitution").field(&self.text).field(&self.with).finish()
    }
}

impl Serialize for Substitution {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.text, &self.with).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Substitution {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (text, with) = <(String, String)>::deserialize(deserializer)?;
        Self::new(&text, &with).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_become_what_is_said_of_them() {
        for (text, with, from, to) in [
            ("a", "b", "banana", "bbnbnb"),
            ("^/a/?", "/", "/a/b", "/b"),
            (r"/(\w+)/(\w+)", r"/\2/\1", "/x/y/z", "/y/x/z"),
            ("x", r"\\1", "x", r"\1"),
            ("(a)|b", r"<\1>", "ab", "<a><>"),
            ("none", "x", "/a", "/a"),
        ] {
            let substitution = Substitution::new(text, with).expect("valid");
            let got = substitution.apply(from.as_bytes());
            assert_eq!(String::from_utf8_lossy(&got), to, "{text} {with} {from}");
        }
        for (text, with) in [("(", "x"), ("a", r"\"), ("a", r"\x"), ("(a)", r"\2")] {
            assert!(Substitution::new(text, with).is_err(), "{text} {with}");
        }
        let odd = Substitution::new("x", &Substitution::escaped(r"\1")).expect("valid");
        assert_eq!(odd.apply(b"x"), br"\1");
    }
}
