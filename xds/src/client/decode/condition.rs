//! `RouteMatch` -> [`PathMatch`] and [`Conditions`]: which requests a route is for.

use portolan_model::traffic::{
    Conditions, HeaderMatch, HeaderTest, PathMatch, Pattern, QueryMatch, TextMatch, TextTest,
};
use portolan_proto::envoy::core::RuntimeFractionalPercent;
use portolan_proto::envoy::http_codec::FractionalPercent;
use portolan_proto::envoy::http_codec::fractional_percent::DenominatorType;
use portolan_proto::envoy::matcher::string_matcher::MatchPattern;
use portolan_proto::envoy::matcher::{RegexMatcher, StringMatcher};
use portolan_proto::envoy::route::header_matcher::HeaderMatchSpecifier;
use portolan_proto::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use portolan_proto::envoy::route::route_match::PathSpecifier;
use portolan_proto::envoy::route::{HeaderMatcher, QueryParameterMatcher, RouteMatch};

use super::refuse;

/// Most conditions of a route.
const MAX_CONDITIONS: usize = 32;

/// Converts what a request must be.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn convert(
    field: &str,
    said: &RouteMatch,
) -> Result<(PathMatch, Option<Box<Conditions>>), String> {
    let asked = [
        ("cookies", !said.cookies.is_empty()),
        ("tls_context", said.tls_context.is_some()),
        ("dynamic_metadata", !said.dynamic_metadata.is_empty()),
        ("filter_state", !said.filter_state.is_empty()),
    ];
    asked.into_iter().try_for_each(|(name, asked)| refuse(&format!("{field}.{name}"), asked))?;
    let count = said.headers.len() + said.query_parameters.len();
    if count > MAX_CONDITIONS {
        return Err(format!("{field}: {count} conditions are more than {MAX_CONDITIONS}"));
    }
    let headers = said.headers.iter().enumerate();
    let query = said.query_parameters.iter().enumerate();
    let conditions = Conditions {
        ignore_case: said.case_sensitive.is_some_and(|sensitive| !sensitive.value),
        headers: headers
            .map(|(i, header)| self::header(&format!("{field}.headers[{i}]"), header))
            .collect::<Result<_, _>>()?,
        query: query
            .map(|(i, one)| parameter(&format!("{field}.query_parameters[{i}]"), one))
            .collect::<Result<_, _>>()?,
        grpc: said.grpc.is_some(),
        millionths: said.runtime_fraction.as_ref().and_then(millionths),
    };
    let path = path(field, said)?;
    Ok((path, (!conditions.is_empty()).then(|| Box::new(conditions))))
}

fn path(field: &str, said: &RouteMatch) -> Result<PathMatch, String> {
    match &said.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => Ok(PathMatch::Prefix(prefix.as_str().into())),
        Some(PathSpecifier::Path(path)) => Ok(PathMatch::Exact(path.as_str().into())),
        Some(PathSpecifier::PathSeparatedPrefix(whole)) => {
            // Envoy's own rule.
            if whole.is_empty() || whole.ends_with('/') || whole.contains(['?', '#']) {
                return Err(format!("{field}.path_separated_prefix: {whole:?} is none"));
            }
            Ok(PathMatch::Under(whole.as_str().into()))
        }
        Some(PathSpecifier::SafeRegex(expression)) => {
            Ok(PathMatch::Regex(regex(&format!("{field}.safe_regex"), expression)?))
        }
        Some(_) => Err(format!("{field}: only prefixes, paths and expressions are supported yet")),
        None => Err(format!("{field}.path_specifier: missing")),
    }
}

#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
pub(super) fn header(field: &str, said: &HeaderMatcher) -> Result<HeaderMatch, String> {
    use HeaderMatchSpecifier as By;
    if said.name.is_empty() {
        return Err(format!("{field}.name: missing"));
    }
    let plain = |test| HeaderTest::Text(TextMatch { test, ignore_case: false });
    let test = match &said.header_match_specifier {
        // Envoy's default.
        None => HeaderTest::Present(true),
        Some(By::PresentMatch(present)) => HeaderTest::Present(*present),
        Some(By::ExactMatch(exact)) => plain(TextTest::Exact(exact.as_str().into())),
        Some(By::PrefixMatch(prefix)) => plain(TextTest::Prefix(prefix.as_str().into())),
        Some(By::SuffixMatch(suffix)) => plain(TextTest::Suffix(suffix.as_str().into())),
        Some(By::ContainsMatch(part)) => plain(TextTest::Contains(part.as_str().into())),
        Some(By::SafeRegexMatch(expression)) => {
            plain(TextTest::Regex(regex(&format!("{field}.safe_regex_match"), expression)?))
        }
        Some(By::RangeMatch(range)) => HeaderTest::Range(range.start, range.end),
        Some(By::StringMatch(said)) => {
            HeaderTest::Text(text(&format!("{field}.string_match"), said)?)
        }
    };
    Ok(HeaderMatch {
        name: said.name.to_ascii_lowercase().into(),
        test,
        invert: said.invert_match,
        missing_is_empty: said.treat_missing_header_as_empty,
    })
}

fn parameter(field: &str, said: &QueryParameterMatcher) -> Result<QueryMatch, String> {
    use QueryParameterMatchSpecifier as By;
    if said.name.is_empty() {
        return Err(format!("{field}.name: missing"));
    }
    let test = match &said.query_parameter_match_specifier {
        None | Some(By::PresentMatch(true)) => None,
        Some(By::PresentMatch(false)) => {
            return Err(format!("{field}.present_match: false is not supported"));
        }
        Some(By::StringMatch(said)) => Some(text(&format!("{field}.string_match"), said)?),
    };
    Ok(QueryMatch { name: said.name.as_str().into(), test })
}

pub(super) fn text(field: &str, said: &StringMatcher) -> Result<TextMatch, String> {
    let test = match &said.match_pattern {
        Some(MatchPattern::Exact(exact)) => TextTest::Exact(exact.as_str().into()),
        Some(MatchPattern::Prefix(prefix)) => TextTest::Prefix(prefix.as_str().into()),
        Some(MatchPattern::Suffix(suffix)) => TextTest::Suffix(suffix.as_str().into()),
        Some(MatchPattern::Contains(part)) => TextTest::Contains(part.as_str().into()),
        Some(MatchPattern::SafeRegex(expression)) => {
            TextTest::Regex(regex(&format!("{field}.safe_regex"), expression)?)
        }
        Some(MatchPattern::Custom(_)) => return Err(format!("{field}.custom: not supported")),
        None => return Err(format!("{field}: missing")),
    };
    Ok(TextMatch { test, ignore_case: said.ignore_case })
}

/// Envoy's engine is RE2, whose expressions these are but for a few escapes.
fn regex(field: &str, said: &RegexMatcher) -> Result<Pattern, String> {
    if said.regex.is_empty() {
        return Err(format!("{field}.regex: missing"));
    }
    Pattern::new(&said.regex).map_err(|error| format!("{field}.regex: {error}"))
}

/// The default: there is no runtime to ask. `None` for all of the requests.
fn millionths(said: &RuntimeFractionalPercent) -> Option<u32> {
    said.default_value.as_ref().map(part).filter(|part| *part < 1_000_000)
}

/// A part of a whole, in millionths and at most all of it.
pub(super) fn part(percent: &FractionalPercent) -> u32 {
    let part = match percent.denominator() {
        DenominatorType::Hundred => percent.numerator.saturating_mul(10_000),
        DenominatorType::TenThousand => percent.numerator.saturating_mul(100),
        DenominatorType::Million => percent.numerator,
    };
    part.min(1_000_000)
}
