//! Which requests a rule is for.

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_model::traffic::{
    Conditions, HeaderMatch, HeaderTest, PathMatch, Pattern, QueryMatch, TextMatch, TextTest,
};

use super::super::api;
use super::super::draft::{MatchDraft, Rank};
use super::at_most;
use super::filters::field_name;
use crate::object::Fault;

/// Most matches of a rule; most fields, and most parameters, of a match (CRD).
const MAX_MATCHES: usize = 64;
const MAX_FIELDS: usize = 16;
/// Ranks of paths by how they are written.
const EXACT: u8 = 2;
const EXPRESSION: u8 = 1;
const PREFIX: u8 = 0;

/// What is read; or what of it is not done here, in words.
pub(super) type Read<T> = Result<Result<T, String>, Fault>;

/// The requests of a rule of an HTTPRoute; all of them if it says nothing.
pub(super) fn http(field: &str, said: &[api::HttpRouteMatch]) -> Read<Vec<MatchDraft>> {
    if said.is_empty() {
        return Ok(Ok(vec![anything()]));
    }
    each(field, said, |field, said| {
        let (path, tier, characters) = match path(&format!("{field}.path"), said.path.as_ref())? {
            Ok(path) => path,
            Err(unsupported) => return Ok(Err(unsupported)),
        };
        let mut headers = match headers(&format!("{field}.headers"), &said.headers)? {
            Ok(headers) => headers,
            Err(unsupported) => return Ok(Err(unsupported)),
        };
        let query = match query(&format!("{field}.queryParams"), &said.query_params)? {
            Ok(query) => query,
            Err(unsupported) => return Ok(Err(unsupported)),
        };
        let rank = Rank {
            tier,
            characters,
            method: usize::from(said.method.is_some()),
            headers: headers.len(),
            query: query.len(),
        };
        if let Some(method) = &said.method {
            headers.push(by_method(&format!("{field}.method"), method)?);
        }
        let conditions = Conditions { headers, query, ..Conditions::default() };
        Ok(Ok(MatchDraft { path, conditions, rank }))
    })
}

/// The calls of a rule of a GRPCRoute; all of them if it says nothing.
pub(super) fn grpc(field: &str, said: &[api::GrpcRouteMatch]) -> Read<Vec<MatchDraft>> {
    if said.is_empty() {
        // As wide as a match that names no method, and so behind one that names a header.
        return Ok(Ok(vec![MatchDraft { rank: Rank::default(), ..anything() }]));
    }
    each(field, said, |field, said| {
        let called = said.method.as_ref().map(|said| call(&format!("{field}.method"), said));
        let (path, mut rank) = match called.transpose()? {
            None => (any_path(), Rank::default()),
            Some(Ok(called)) => called,
            Some(Err(unsupported)) => return Ok(Err(unsupported)),
        };
        let headers = match headers(&format!("{field}.headers"), &said.headers)? {
            Ok(headers) => headers,
            Err(unsupported) => return Ok(Err(unsupported)),
        };
        rank.headers = headers.len();
        let conditions = Conditions { headers, ..Conditions::default() };
        Ok(Ok(MatchDraft { path, conditions, rank }))
    })
}

fn each<T>(
    field: &str,
    said: &[T],
    read: impl Fn(&str, &T) -> Read<MatchDraft>,
) -> Read<Vec<MatchDraft>> {
    at_most(field, said.len(), MAX_MATCHES)?;
    let mut matches = Vec::with_capacity(said.len());
    for (i, said) in said.iter().enumerate() {
        match read(&format!("{field}[{i}]"), said)? {
            Ok(read) => matches.push(read),
            Err(unsupported) => return Ok(Err(unsupported)),
        }
    }
    Ok(Ok(matches))
}

fn anything() -> MatchDraft {
    let (path, conditions) = (any_path(), Conditions::default());
    MatchDraft { path, conditions, rank: Rank { tier: PREFIX, characters: 1, ..Rank::default() } }
}

fn any_path() -> PathMatch {
    PathMatch::Prefix("/".into())
}

/// A path, with its tier and its characters.
fn path(field: &str, said: Option<&api::PathMatch>) -> Read<(PathMatch, u8, usize)> {
    let value = said.and_then(|said| said.value.as_deref()).unwrap_or("/");
    let kind = said.and_then(|said| said.kind.as_deref()).unwrap_or("PathPrefix");
    let field = format!("{field}.value");
    match kind {
        "Exact" => {
            check_path(&field, value)?;
            Ok(Ok((PathMatch::Exact(value.into()), EXACT, value.chars().count())))
        }
        "PathPrefix" => {
            check_path(&field, value)?;
            let path = match value.trim_end_matches('/') {
                "" => any_path(),
                // One that ends in a slash is for what the same without it is for.
                prefix => PathMatch::Under(prefix.into()),
            };
            Ok(Ok((path, PREFIX, value.chars().count())))
        }
        "RegularExpression" => Ok(pattern(&field, value)
            .map(|pattern| (PathMatch::Regex(pattern), EXPRESSION, value.chars().count()))),
        other => Ok(Err(format!("{field}: paths of type {other} are not supported"))),
    }
}

/// What the CRD asks of a path: no request has any other, or it means the same as one written
/// otherwise.
fn check_path(field: &str, path: &str) -> Result<(), Fault> {
    let refuse = |reason: String| Err(Fault::rejected(field, reason));
    if !path.starts_with('/') {
        return refuse(format!("{path:?} does not begin with '/'"));
    }
    for part in ["//", "/./", "/../", "%2f", "%2F", "#"] {
        if path.contains(part) {
            return refuse(format!("{path:?} must not contain {part:?}"));
        }
    }
    for end in ["/.", "/.."] {
        if path.ends_with(end) {
            return refuse(format!("{path:?} must not end in {end:?}"));
        }
    }
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&byte);
    if !path.bytes().all(valid) {
        return refuse(format!("{path:?} has characters that no path has"));
    }
    Ok(())
}

fn pattern(field: &str, text: &str) -> Result<Pattern, String> {
    Pattern::new(text).map_err(|error| format!("{field}: {error}"))
}

fn by_method(field: &str, method: &str) -> Result<HeaderMatch, Fault> {
    const METHODS: [&str; 9] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    if !METHODS.contains(&method) {
        let reason = format!("{method:?} is not one of {}", METHODS.join(", "));
        return Err(Fault::rejected(field, reason));
    }
    Ok(by_text((":method".into(), exactly(method))))
}

fn by_text((name, test): (Arc<str>, TextMatch)) -> HeaderMatch {
    HeaderMatch { name, test: HeaderTest::Text(test), invert: false, missing_is_empty: false }
}

fn exactly(text: &str) -> TextMatch {
    TextMatch { test: TextTest::Exact(text.into()), ignore_case: false }
}

fn headers(field: &str, said: &[api::HeaderMatch]) -> Read<Vec<HeaderMatch>> {
    let name = |field: &str, said: &str| field_name(&format!("{field}.name"), said);
    Ok(tests(field, said, name)?.map(|tests| tests.into_iter().map(by_text).collect()))
}

fn query(field: &str, said: &[api::HeaderMatch]) -> Read<Vec<QueryMatch>> {
    let of = |(name, test)| QueryMatch { name, test: Some(test) };
    let tests = tests(field, said, |_, said| Ok(said.into()))?;
    Ok(tests.map(|tests| tests.into_iter().map(of).collect()))
}

/// What is asked of values by their names. Of several of a name the first counts.
fn tests(
    field: &str,
    said: &[api::HeaderMatch],
    name: impl Fn(&str, &str) -> Result<Arc<str>, Fault>,
) -> Read<Vec<(Arc<str>, TextMatch)>> {
    at_most(field, said.len(), MAX_FIELDS)?;
    let (mut tests, mut known) = (Vec::new(), BTreeSet::new());
    for (i, said) in said.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let name = name(&field, &said.name)?;
        match text(&field, said) {
            Ok(test) if known.insert(Arc::clone(&name)) => tests.push((name, test)),
            Ok(_) => {}
            Err(unsupported) => return Ok(Err(unsupported)),
        }
    }
    Ok(Ok(tests))
}

fn text(field: &str, said: &api::HeaderMatch) -> Result<TextMatch, String> {
    match said.kind.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(exactly(&said.value)),
        "RegularExpression" => {
            let pattern = pattern(&format!("{field}.value"), &said.value)?;
            Ok(TextMatch { test: TextTest::Regex(pattern), ignore_case: false })
        }
        other => Err(format!("{field}.type: {other} is not supported")),
    }
}

/// The path of a call: `/service/method`.
fn call(field: &str, said: &api::GrpcMethodMatch) -> Read<(PathMatch, Rank)> {
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, method) = (filled(&said.service), filled(&said.method));
    if service.is_none() && method.is_none() {
        return Err(Fault::rejected(field, "needs a service, a method, or both"));
    }
    let count = |text: &Option<String>| text.as_ref().map_or(0, |text| text.chars().count());
    let rank = |tier| Rank {
        tier,
        characters: count(&service),
        method: count(&method),
        ..Rank::default()
    };
    match said.kind.as_deref().unwrap_or("Exact") {
        "Exact" => {
            for (name, said) in [("service", &service), ("method", &method)] {
                let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
                if let Some(said) = said.as_ref().filter(|said| !said.bytes().all(valid)) {
                    let reason = format!("{said:?} is not a name of gRPC");
                    return Err(Fault::rejected(format!("{field}.{name}"), reason));
                }
            }
            let path = match (&service, &method) {
                (Some(service), Some(method)) => {
                    PathMatch::Exact(format!("/{service}/{method}").into())
                }
                (Some(service), None) => PathMatch::Prefix(format!("/{service}/").into()),
                (None, method) => {
                    let method = method.as_deref().unwrap_or_default().replace('.', r"\.");
                    match pattern(field, &format!("/[^/]+/{method}")) {
                        Ok(pattern) => PathMatch::Regex(pattern),
                        Err(unsupported) => return Ok(Err(unsupported)),
                    }
                }
            };
            Ok(Ok((path, rank(EXACT))))
        }
        "RegularExpression" => {
            let part = |said: &Option<String>| said.clone().unwrap_or_else(|| "[^/]+".to_owned());
            // Each by itself first: what closes the group that it stands in is no expression.
            for (name, said) in [("service", &service), ("method", &method)] {
                let field = format!("{field}.{name}");
                if let Some(Err(unsupported)) = said.as_ref().map(|said| pattern(&field, said)) {
                    return Ok(Err(unsupported));
                }
            }
            let whole = format!("/(?:{})/(?:{})", part(&service), part(&method));
            Ok(pattern(field, &whole).map(|pattern| (PathMatch::Regex(pattern), rank(EXPRESSION))))
        }
        other => Ok(Err(format!("{field}.type: {other} is not supported"))),
    }
}
