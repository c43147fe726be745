//! What a request must be for a route to take it (Envoy `RouteMatch`; Gateway API `HTTPRouteMatch`).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What conditions look at.
pub trait Asked {
    /// The path without the query.
    fn path(&self) -> &[u8];
    /// What follows the `?`, if there is one.
    fn query(&self) -> Option<&[u8]>;
    /// The values of a field, joined by commas (RFC 9110 §5.3). The name is in lower case; `:method`,
    /// `:path`, `:authority` and `:scheme` are fields, too.
    fn field(&self, name: &str) -> Option<Cow<'_, [u8]>>;
    /// Whether it is gRPC, by its content type.
    fn is_grpc(&self) -> bool;
    /// A number for this request, which may be any.
    fn random(&self) -> u64;
}

/// Whether a number, which may be any, falls in a part of all, in millionths.
#[must_use]
pub fn falls_in(part: u32, number: u64) -> bool {
    number % 1_000_000 < u64::from(part)
}

/// A condition on the path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// Starts with these characters.
    Prefix(Arc<str>),
    /// Is this, or goes on below it: `/a` for `/a` and `/a/b`, and not for `/ab`.
    Under(Arc<str>),
    /// Is exactly this.
    Exact(Arc<str>),
    /// All of it is matched by this.
    Regex(Pattern),
}

/// What a request must be beside its path. All of it must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conditions {
    /// The path is compared without regard to case; an expression says that itself.
    pub ignore_case: bool,
    /// Fields.
    pub headers: Vec<HeaderMatch>,
    /// Parameters of the query, as they are written: nothing is decoded.
    pub query: Vec<QueryMatch>,
    /// It is gRPC.
    pub grpc: bool,
    /// The part of all requests that may pass, in millionths.
    pub millionths: Option<u32>,
}

/// A condition on a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// What it must be.
    pub test: HeaderTest,
    /// It must not be so.
    pub invert: bool,
    /// One that is not there is taken for an empty one.
    pub missing_is_empty: bool,
}

/// What a field must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeaderTest {
    /// It is there, or it is not.
    Present(bool),
    /// A text.
    Text(TextMatch),
    /// A whole number of at least the first and below the second.
    Range(i64, i64),
}

/// A condition on a parameter of the query. The first of a name counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct QueryMatch {
    /// Its name.
    pub name: Arc<str>,
    /// What its value must be; `None`: it is there, whatever it is.
    pub test: Option<TextMatch>,
}

/// A condition on a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TextMatch {
    /// What it must be.
    pub test: TextTest,
    /// ASCII letters of either case are the same; an expression says that itself.
    pub ignore_case: bool,
}

/// What a text must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TextTest {
    /// Exactly this.
    Exact(Arc<str>),
    /// It starts with this.
    Prefix(Arc<str>),
    /// It ends with this.
    Suffix(Arc<str>),
    /// It holds this.
    Contains(Arc<str>),
    /// All of it is matched by this.
    Regex(Pattern),
}

/// A regular expression that matches whole texts, in time linear in their length. Classes are of
/// octets (`\d` is 0 to 9, `.` any but a line feed), unless the expression needs Unicode (`\p{L}`).
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    compiled: regex::bytes::Regex,
}

/// Most bytes that a compiled expression may take.
const MAX_COMPILED: usize = 1024 * 1024;

/// Compiles an expression, of octets unless it needs Unicode; and whether it does.
///
/// # Errors
/// Why it is none, in one line, or that it is too large.
pub(super) fn compile(text: &str) -> Result<(regex::bytes::Regex, bool), String> {
    if let Ok(compiled) = build(text, false) {
        return Ok((compiled, false));
    }
    build(text, true).map(|compiled| (compiled, true))
}

fn build(text: &str, unicode: bool) -> Result<regex::bytes::Regex, String> {
    let mut builder = regex::bytes::RegexBuilder::new(text);
    builder.unicode(unicode).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED);
    builder.build().map_err(|error| {
        // It comes in several lines, with the place marked.
        error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

impl Pattern {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Why it is none, in one line, or that it is too large.
    pub fn new(text: &str) -> Result<Self, String> {
        // By itself first: what closes the group that it stands in is no expression.
        let (_, unicode) = compile(text)?;
        let compiled = build(&format!(r"\A(?:{text})\z"), unicode)?;
        Ok(Self { text: text.into(), compiled })
    }

    /// A text that stands for itself, as an expression.
    #[must_use]
    pub fn literal(text: &str) -> String {
        let special = |c: char| r"\.+*?()|[]{}^$".contains(c);
        text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
    }

    /// The expression.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches all of a text.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        self.compiled.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(de::Error::custom)
    }
}

impl PathMatch {
    /// Whether a path, without its query, is so.
    #[must_use]
    pub fn matches(&self, path: &[u8], ignore_case: bool) -> bool {
        match self {
            Self::Prefix(prefix) => starts(path, prefix.as_bytes(), ignore_case),
            Self::Under(whole) => {
                starts(path, whole.as_bytes(), ignore_case)
                    && matches!(path.get(whole.len()..), Some([] | [b'/', ..]))
            }
            Self::Exact(exact) => same(path, exact.as_bytes(), ignore_case),
            Self::Regex(pattern) => pattern.matches(path),
        }
    }
}

impl Conditions {
    /// What any request is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a request is all that.
    pub fn hold(&self, asked: &impl Asked) -> bool {
        self.headers.iter().all(|header| header.holds(asked))
            && self.query.iter().all(|query| query.holds(asked.query()))
            && (!self.grpc || asked.is_grpc())
            && self.millionths.is_none_or(|part| falls_in(part, asked.random()))
    }
}

impl HeaderMatch {
    /// Whether a request is so.
    pub fn holds(&self, asked: &impl Asked) -> bool {
        let value = match asked.field(&self.name) {
            None if self.missing_is_empty => Some(Cow::Borrowed(&b""[..])),
            value => value,
        };
        let so = match (&self.test, &value) {
            (HeaderTest::Present(present), value) => value.is_some() == *present,
            // Envoy's rule: what is not there is not so, inverted or not, unless it counts as empty.
            (_, None) => return false,
            (HeaderTest::Text(text), Some(value)) => text.matches(value),
            (HeaderTest::Range(from, below), Some(value)) => {
                let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                number.is_some_and(|number: i64| (*from..*below).contains(&number))
            }
        };
        so != self.invert
    }
}

impl QueryMatch {
    fn holds(&self, query: Option<&[u8]>) -> bool {
        let pairs = query.unwrap_or_default().split(|byte| *byte == b'&');
        let mut named = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
            let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            (&pair[..equals], pair.get(equals + 1..).unwrap_or_default())
        });
        let first = named.find(|(name, _)| *name == self.name.as_bytes());
        match (&self.test, first) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(test), Some((_, value))) => test.matches(value),
        }
    }
}

impl TextMatch {
    /// Whether a text is so.
    #[must_use]
    pub fn matches(&self, text: &[u8]) -> bool {
        let ignore_case = self.ignore_case;
        match &self.test {
            TextTest::Exact(exact) => same(text, exact.as_bytes(), ignore_case),
            TextTest::Prefix(prefix) => starts(text, prefix.as_bytes(), ignore_case),
            TextTest::Suffix(suffix) => {
                let start = text.len().checked_sub(suffix.len());
                start.is_some_and(|start| same(&text[start..], suffix.as_bytes(), ignore_case))
            }
            TextTest::Contains(part) => {
                part.is_empty()
                    || text
                        .windows(part.len())
                        .any(|window| same(window, part.as_bytes(), ignore_case))
            }
            TextTest::Regex(pattern) => pattern.matches(text),
        }
    }
}

fn same(text: &[u8], other: &[u8], ignore_case: bool) -> bool {
    if ignore_case { text.eq_ignore_ascii_case(other) } else { text == other }
}

fn starts(text: &[u8], prefix: &[u8], ignore_case: bool) -> bool {
    text.get(..prefix.len()).is_some_and(|start| same(start, prefix, ignore_case))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Plain(&'static [(&'static str, &'static str)], Option<&'static str>);

    impl Asked for Plain {
        fn path(&self) -> &[u8] {
            b"/"
        }
        fn query(&self) -> Option<&[u8]> {
            self.1.map(str::as_bytes)
        }
        fn field(&self, name: &str) -> Option<Cow<'_, [u8]>> {
            let found = self.0.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| Cow::Borrowed(value.as_bytes()))
        }
        fn is_grpc(&self) -> bool {
            false
        }
        fn random(&self) -> u64 {
            250_000
        }
    }

    fn text(test: TextTest) -> TextMatch {
        TextMatch { test, ignore_case: false }
    }

    #[test]
    fn a_text_meets_each_form_with_or_without_case() {
        let regex = |text| TextTest::Regex(Pattern::new(text).expect("valid"));
        for (test, given, sharp, blunt) in [
            (TextTest::Exact("Ab".into()), "Ab", true, true),
            (TextTest::Exact("Ab".into()), "aB", false, true),
            (TextTest::Exact("Ab".into()), "Abc", false, false),
            (TextTest::Prefix("Ab".into()), "abc", false, true),
            (TextTest::Prefix("Ab".into()), "A", false, false),
            (TextTest::Suffix("Bc".into()), "aBc", true, true),
            (TextTest::Suffix("Bc".into()), "abc", false, true),
            (TextTest::Suffix("abc".into()), "bc", false, false),
            (TextTest::Contains("B".into()), "abc", false, true),
            (TextTest::Contains("".into()), "", true, true),
            (regex("a|b"), "a", true, true),
            (regex("a|b"), "ab", false, false),
            (regex("a.*"), "ä", false, false),
        ] {
            for (ignore_case, expected) in [(false, sharp), (true, blunt)] {
                let met = TextMatch { test: test.clone(), ignore_case }.matches(given.as_bytes());
                assert_eq!(met, expected, "{test:?} {given:?} {ignore_case}");
            }
        }
    }

    #[test]
    fn classes_are_of_octets_unless_unicode_is_asked_for() {
        for (text, given, expected) in [
            (r"\d+", &b"12"[..], true),
            (r"\d+", "\u{661}".as_bytes(), false),
            (r"/admin.*", b"/admin/\xff", true),
            (r"\w{1,64}", b"a_1", true),
            (r"[^/]{1,255}", b"a", true),
            (r"\p{L}+", "\u{e4}".as_bytes(), true),
        ] {
            let pattern = Pattern::new(text).expect("valid");
            assert_eq!(pattern.matches(given), expected, "{text} {given:?}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused_whatever_stands_around_it() {
        for text in ["(", "a)(?:b", r"\", "[z-a]", "(?=a)", "(a{1000}){1000}"] {
            assert!(Pattern::new(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_field_is_there_or_is_a_text_or_a_number_or_is_not() {
        let asked = Plain(&[("x-n", "12"), ("x-t", "blue")], None);
        let blue = || HeaderTest::Text(text(TextTest::Exact("blue".into())));
        let empty = || HeaderTest::Text(text(TextTest::Exact("".into())));
        for (name, test, plain, inverted) in [
            ("x-t", HeaderTest::Present(true), true, false),
            ("x-t", HeaderTest::Present(false), false, true),
            ("x-z", HeaderTest::Present(false), true, false),
            ("x-t", blue(), true, false),
            ("x-n", blue(), false, true),
            ("x-z", blue(), false, false),
            ("x-n", HeaderTest::Range(12, 13), true, false),
            ("x-n", HeaderTest::Range(11, 12), false, true),
            ("x-t", HeaderTest::Range(0, 99), false, true),
            ("x-z", empty(), false, false),
        ] {
            for (invert, expected) in [(false, plain), (true, inverted)] {
                let test = test.clone();
                let header =
                    HeaderMatch { name: name.into(), test, invert, missing_is_empty: false };
                assert_eq!(header.holds(&asked), expected, "{header:?}");
            }
        }
        let header = HeaderMatch {
            name: "x-z".into(),
            test: empty(),
            invert: false,
            missing_is_empty: true,
        };
        assert!(header.holds(&asked));
    }

    #[test]
    fn the_first_parameter_of_a_name_counts_as_it_is_written() {
        for (query, name, value, expected) in [
            (Some("a=1&b=2"), "b", Some("2"), true),
            (Some("a=1&a=2"), "a", Some("2"), false),
            (Some("a=%31"), "a", Some("1"), false),
            (Some("a"), "a", Some(""), true),
            (Some("a"), "a", None, true),
            (Some("ab=1"), "a", None, false),
            (Some(""), "a", None, false),
            (None, "a", None, false),
            (Some("a=b=c"), "a", Some("b=c"), true),
        ] {
            let test = value.map(|value: &str| text(TextTest::Exact(value.into())));
            let matched = QueryMatch { name: name.into(), test };
            assert_eq!(matched.holds(query.map(str::as_bytes)), expected, "{query:?} {matched:?}");
        }
    }

    #[test]
    fn a_part_of_the_requests_passes() {
        let asked = Plain(&[], None);
        for (part, expected) in
            [(None, true), (Some(0), false), (Some(250_000), false), (Some(250_001), true)]
        {
            let conditions = Conditions { millionths: part, ..Conditions::default() };
            assert_eq!(conditions.hold(&asked), expected, "{part:?}");
        }
    }

    #[test]
    fn a_path_meets_a_prefix_by_characters_or_by_segments() {
        let prefix = || PathMatch::Prefix("/a".into());
        let under = || PathMatch::Under("/a".into());
        let exact = || PathMatch::Exact("/a".into());
        let regex = || PathMatch::Regex(Pattern::new("/a/?").expect("valid"));
        for (path, sharp, blunt) in [
            ("/a", [true, true, true, true], [true, true, true, true]),
            ("/a/", [true, true, false, true], [true, true, false, true]),
            ("/a/b", [true, true, false, false], [true, true, false, false]),
            ("/ab", [true, false, false, false], [true, false, false, false]),
            ("/A/b", [false, false, false, false], [true, true, false, false]),
            ("/", [false, false, false, false], [false, false, false, false]),
        ] {
            for (ignore_case, expected) in [(false, sharp), (true, blunt)] {
                let met = [prefix(), under(), exact(), regex()]
                    .map(|condition| condition.matches(path.as_bytes(), ignore_case));
                assert_eq!(met, expected, "{path} {ignore_case}");
            }
        }
    }
}
