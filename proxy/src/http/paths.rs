//! The path of a request as a listener wants it: escaped slashes, dot segments, slashes in a row. In
//! Envoy's order, so that what decides by the path sees what the endpoint will. Refuses
//! paths with an escaped NUL. What would go above the root stays there (RFC 3986 §5.2.4).

use std::borrow::Cow;

use portolan_model::traffic::{EscapedSlashes, HttpOptions};

use crate::message::without_query;

/// What becomes of a request by its path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome<'a> {
    /// It goes on with this target; borrowed if nothing had to change.
    Goes(Cow<'a, [u8]>),
    /// The client is to ask for this target (307).
    Redirect(Vec<u8>),
    /// It is refused (400).
    Refused(&'static str),
}

/// Brings a target into the form that is asked for. Only what begins with a slash has a path; the
/// query is left alone.
pub(super) fn normalize<'a>(target: &'a [u8], options: &HttpOptions) -> Outcome<'a> {
    let asked = options.normalize_path
        || options.merge_slashes
        || options.escaped_slashes != EscapedSlashes::Keep;
    if !asked || target.first() != Some(&b'/') {
        return Outcome::Goes(Cow::Borrowed(target));
    }
    let path = without_query(target);
    let query = &target[path.len()..];
    let mut now = Cow::Borrowed(path);
    let mut redirect = false;
    if options.escaped_slashes != EscapedSlashes::Keep
        && let Some(unescaped) = unescape_slashes(path)
    {
        match options.escaped_slashes {
            EscapedSlashes::Reject => return Outcome::Refused("escaped slashes in the path"),
            EscapedSlashes::Redirect => redirect = true,
            EscapedSlashes::Keep | EscapedSlashes::Unescape => {}
        }
        now = Cow::Owned(unescaped);
    }
    if options.normalize_path && !is_normal(&now) {
        match unescape(&now) {
            Some(unescaped) => now = Cow::Owned(remove_dots(&unescaped)),
            None => return Outcome::Refused("NUL in the path"),
        }
    }
    if options.merge_slashes && now.windows(2).any(|pair| pair == b"//") {
        let mut merged = now.into_owned();
        merged.dedup_by(|this, before| *this == b'/' && *before == b'/');
        now = Cow::Owned(merged);
    }
    match now {
        Cow::Borrowed(_) => Outcome::Goes(Cow::Borrowed(target)),
        Cow::Owned(mut whole) => {
            whole.extend_from_slice(query);
            if redirect { Outcome::Redirect(whole) } else { Outcome::Goes(Cow::Owned(whole)) }
        }
    }
}

/// The octet that stands escaped at the beginning of this.
fn escaped(text: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|n| u8::try_from(n).ok());
    match text {
        [b'%', high, low, ..] => Some(digit(*high)? * 16 + digit(*low)?),
        _ => None,
    }
}

/// The path with `%2F` and `%5C` undone; `None` if there are none.
fn unescape_slashes(path: &[u8]) -> Option<Vec<u8>> {
    let is_slash = |at: usize| {
        let octet = path.get(at..).and_then(escaped);
        octet.filter(|octet| matches!(octet, b'/' | b'\\'))
    };
    let mut found = false;
    let mut unescaped = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        let slash = is_slash(at);
        found |= slash.is_some();
        unescaped.push(slash.unwrap_or(*byte));
        at += if slash.is_some() { 3 } else { 1 };
    }
    found.then_some(unescaped)
}

/// Whether normalization leaves it as it is, said without allocating: nearly all paths are.
fn is_normal(path: &[u8]) -> bool {
    !path.windows(2).any(|pair| pair == b"/.")
        && !path.iter().any(|byte| matches!(byte, b'%' | b'\\'))
}

/// Escapes of unreserved characters undone, the others in upper case (RFC 3986 §6.2.2.1, §6.2.2.2),
/// and backslashes as slashes, for which some endpoints take them; `None` for one of NUL.
fn unescape(path: &[u8]) -> Option<Vec<u8>> {
    let mut normal = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        match path.get(at..).and_then(escaped) {
            Some(0) => return None,
            Some(octet) if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) => {
                normal.push(octet);
                at += 3;
            }
            Some(_) => {
                normal.extend(path.iter().skip(at).take(3).map(u8::to_ascii_uppercase));
                at += 3;
            }
            None => {
                normal.push(if *byte == b'\\' { b'/' } else { *byte });
                at += 1;
            }
        }
    }
    Some(normal)
}

/// RFC 3986 §5.2.4.
fn remove_dots(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut dots_last = false;
    for segment in path.split(|byte| *byte == b'/').skip(1) {
        dots_last = matches!(segment, b"." | b"..");
        match segment {
            b"." => {}
            b".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    if dots_last {
        segments.push(b"");
    }
    let mut whole = Vec::with_capacity(path.len());
    for segment in segments {
        whole.push(b'/');
        whole.extend_from_slice(segment);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str, options: &HttpOptions) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match normalize(target.as_bytes(), options) {
            Outcome::Goes(Cow::Borrowed(same)) => {
                assert_eq!(same, target.as_bytes());
                "same".to_owned()
            }
            Outcome::Goes(Cow::Owned(target)) => text(&target),
            Outcome::Redirect(target) => format!("to {}", text(&target)),
            Outcome::Refused(_) => "refused".to_owned(),
        }
    }

    #[test]
    fn paths_are_normalized_where_that_is_asked_for() {
        let options = HttpOptions { normalize_path: true, ..HttpOptions::NONE };
        for (target, expected) in [
            ("/", "same"),
            ("/a/b?c=/../%41", "same"),
            ("/a//b", "same"),
            ("/a/...", "/a/..."),
            ("/a/./b", "/a/b"),
            ("/a/../b?x=..", "/b?x=.."),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/a/..", "/"),
            ("/.", "/"),
            ("/a//../b", "/a/b"),
            ("/%61%7Eb%2f", "/a~b%2F"),
            ("/a/%2e%2E/b", "/b"),
            ("/a\\..\\b", "/b"),
            ("/a%zz%4", "/a%zz%4"),
            ("/..", "/"),
            ("/a/../../b", "/b"),
            ("/%2e%2e/b", "/b"),
            ("/a%00/b", "refused"),
            ("*", "same"),
            ("", "same"),
        ] {
            assert_eq!(of(target, &options), expected, "{target}");
            let none = of(target, &HttpOptions::NONE);
            assert_eq!(none, "same", "{target} where nothing is asked");
        }
    }

    #[test]
    fn slashes_in_a_row_are_one_after_all_else() {
        let merge = HttpOptions { merge_slashes: true, ..HttpOptions::NONE };
        let both = HttpOptions { normalize_path: true, ..merge.clone() };
        for (target, merged, normal) in [
            ("/a/b", "same", "same"),
            ("//a///b//?c=//", "/a/b/?c=//", "/a/b/?c=//"),
            ("/a//../b", "/a/../b", "/a/b"),
            ("/a/\\b", "same", "/a/b"),
        ] {
            assert_eq!(of(target, &merge), merged, "{target}");
            assert_eq!(of(target, &both), normal, "{target} normalized");
        }
    }

    #[test]
    fn escaped_slashes_are_kept_refused_undone_or_redirected() {
        let with = |escaped_slashes| HttpOptions {
            escaped_slashes,
            normalize_path: true,
            ..HttpOptions::NONE
        };
        for (target, kept, refused, redirected, undone) in [
            ("/a/b?%2f", "same", "same", "same", "same"),
            ("/a%2fb?%2F", "/a%2Fb?%2F", "refused", "to /a/b?%2F", "/a/b?%2F"),
            ("/a%5C..%5cb", "/a%5C..%5Cb", "refused", "to /b", "/b"),
            ("/a%2F..%2f..", "/a%2F..%2F..", "refused", "to /", "/"),
            ("/a%00%2f", "refused", "refused", "refused", "refused"),
        ] {
            for (action, expected) in [
                (EscapedSlashes::Keep, kept),
                (EscapedSlashes::Reject, refused),
                (EscapedSlashes::Redirect, redirected),
                (EscapedSlashes::Unescape, undone),
            ] {
                assert_eq!(of(target, &with(action)), expected, "{target} {action:?}");
            }
        }
    }

    #[test]
    fn what_is_normal_stays_so() {
        let options = HttpOptions {
            normalize_path: true,
            merge_slashes: true,
            escaped_slashes: EscapedSlashes::Unescape,
            ..HttpOptions::NONE
        };
        // Every path of up to six of these.
        let parts = ["/", ".", "a", "%2e", "%2F", "\\", "%"];
        let mut targets = vec!["/".to_owned()];
        for _ in 0..5 {
            let longer: Vec<String> = (targets.iter())
                .flat_map(|target| parts.iter().map(move |part| format!("{target}{part}")))
                .collect();
            for target in &longer {
                let once = match normalize(target.as_bytes(), &options) {
                    Outcome::Goes(once) => once.into_owned(),
                    Outcome::Redirect(_) => panic!("{target} is redirected"),
                    Outcome::Refused(_) => continue,
                };
                assert_eq!(once.first(), Some(&b'/'), "{target}");
                assert!(!once.windows(2).any(|pair| pair == b"//"), "{target}");
                let mut segments = once.split(|byte| *byte == b'/');
                assert!(!segments.any(|s| matches!(s, b"." | b"..")), "{target}");
            }
            targets = longer;
        }
    }
}
