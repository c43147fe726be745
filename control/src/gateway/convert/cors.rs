//! The filter `CORS` of a rule (`HTTPCORSFilter`).

use std::sync::Arc;

use portolan_model::traffic::{Cors, Pattern, TextMatch, TextTest};

use super::super::api;
use super::at_most;
use super::filters::field_name;
use crate::object::Fault;

/// Most entries of a list (CRD).
const MAX_LIST: usize = 64;
const MAX_METHODS: usize = 9;
/// How long an answer may be kept where nothing is said, in seconds (CRD).
const MAX_AGE_SECS: i32 = 5;
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// Converts a filter. Preflights of other origins are answered here, whatever the endpoint thinks of
/// them: the route is where it is said.
pub(super) fn convert(field: &str, said: &api::Cors) -> Result<Cors, Fault> {
    let name = format!("{field}.allowOrigins");
    list(&name, &said.allow_origins, MAX_LIST)?;
    let origins = said.allow_origins.iter().enumerate();
    let origins = origins.map(|(i, said)| origin(&format!("{name}[{i}]"), said));
    let age = said.max_age.unwrap_or(MAX_AGE_SECS);
    if age < 1 {
        return Err(Fault::rejected(format!("{field}.maxAge"), format!("{age} is less than 1")));
    }
    Ok(Cors {
        origins: origins.collect::<Result<_, _>>()?,
        methods: methods(&format!("{field}.allowMethods"), &said.allow_methods)?,
        headers: names(&format!("{field}.allowHeaders"), &said.allow_headers)?,
        exposed: names(&format!("{field}.exposeHeaders"), &said.expose_headers)?,
        max_age: age.to_string().into(),
        credentials: said.allow_credentials.unwrap_or(false),
        forward_unmatched: false,
    })
}

fn list(field: &str, said: &[String], most: usize) -> Result<(), Fault> {
    at_most(field, said.len(), most)?;
    if said.len() > 1 && said.iter().any(|one| one == "*") {
        return Err(Fault::rejected(field, "\"*\" must not stand with others"));
    }
    Ok(())
}

/// `*`, or `scheme://host` with a port if that is not the scheme's own; the host may begin with `*.`.
/// Browsers write all of it in lower case.
fn origin(field: &str, said: &str) -> Result<TextMatch, Fault> {
    let wrong = || {
        let reason =
            format!("{said:?} is not \"*\" or an origin such as https://*.example.com:8443");
        Fault::rejected(field, reason)
    };
    let plain = |test| Ok(TextMatch { test, ignore_case: false });
    if said == "*" {
        return plain(TextTest::Exact("*".into()));
    }
    let lower = said.to_ascii_lowercase();
    let (scheme, authority) = lower.split_once("://").ok_or_else(wrong)?;
    let of_scheme = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(of_scheme) {
        return Err(wrong());
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(wrong());
    }
    let of_host = |b: u8| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b);
    let (suffix, starred) = host.strip_prefix('*').map_or((host, false), |rest| (rest, true));
    let fits = match (starred, suffix) {
        (false, "") => false,
        (true, rest) => rest.is_empty() || rest.starts_with('.'),
        (false, _) => true,
    };
    if !fits || !suffix.bytes().all(of_host) {
        return Err(wrong());
    }
    if !starred {
        return plain(TextTest::Exact(lower.into()));
    }
    let (scheme, rest) = (Pattern::literal(scheme), Pattern::literal(&authority[1..]));
    let pattern = format!("{scheme}://[^/:]+{rest}");
    plain(TextTest::Regex(Pattern::new(&pattern).map_err(|_| wrong())?))
}

fn methods(field: &str, said: &[String]) -> Result<Arc<str>, Fault> {
    list(field, said, MAX_METHODS)?;
    for (i, method) in said.iter().enumerate() {
        if method != "*" && !METHODS.contains(&method.as_str()) {
            let reason = format!("{method:?} is not one of {}, *", METHODS.join(", "));
            return Err(Fault::rejected(format!("{field}[{i}]"), reason));
        }
    }
    Ok(said.join(", ").into())
}

fn names(field: &str, said: &[String]) -> Result<Arc<str>, Fault> {
    list(field, said, MAX_LIST)?;
    for (i, name) in said.iter().enumerate() {
        field_name(&format!("{field}[{i}]"), name)?;
    }
    Ok(said.join(", ").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_the_specification_writes_them() {
        for (said, fits, not) in [
            ("*", "*", ""),
            ("https://a.test", "https://a.test", "https://a.test:1"),
            ("HTTPS://A.test:8443", "https://a.test:8443", "https://a.test"),
            ("https://*.a.test", "https://x.y.a.test", "https://a.test"),
            ("https://*.a.test", "https://x.a.test", "https://xa.test"),
            ("https://*.a.test:81", "https://x.a.test:81", "https://x.a.test"),
            ("https://*.a.test", "https://x.a.test", "https://evil.test/x.a.test"),
            ("https://*", "https://anything", "http://anything"),
            ("http://[::1]:80", "http://[::1]:80", "http://[::1]"),
            ("capacitor://localhost", "capacitor://localhost", ""),
        ] {
            let read = origin("f", said).unwrap_or_else(|_| panic!("{said}"));
            assert!(read.matches(fits.as_bytes()), "{said} {fits}");
            assert!(!read.matches(not.as_bytes()), "{said} {not}");
        }
        for said in [
            "",
            "a.test",
            "https://",
            "https://a.test/",
            "https://a*.test",
            "https://a.test:x",
            "https://*a.test",
            "://a",
            "https://a.*.test",
            "https://a?.test",
        ] {
            assert!(origin("f", said).is_err(), "{said}");
        }
    }
}
