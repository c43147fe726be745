//! What a request must be, in Envoy's words.

use portolan_model::traffic::{
    Conditions, HeaderMatch, HeaderTest, PathMatch, Pattern, QueryMatch, TextMatch, TextTest,
};
use portolan_proto::envoy::core::RuntimeFractionalPercent;
use portolan_proto::envoy::http_codec::fractional_percent::DenominatorType;
use portolan_proto::envoy::http_codec::{FractionalPercent, Int64Range};
use portolan_proto::envoy::matcher::string_matcher::MatchPattern;
use portolan_proto::envoy::matcher::{RegexMatcher, StringMatcher};
use portolan_proto::envoy::protobuf::BoolValue;
use portolan_proto::envoy::route::header_matcher::HeaderMatchSpecifier;
use portolan_proto::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use portolan_proto::envoy::route::route_match::{GrpcRouteMatchOptions, PathSpecifier};
use portolan_proto::envoy::route::{HeaderMatcher, QueryParameterMatcher, RouteMatch};

use crate::capability::Dialect;

/// What a request must be.
pub(super) fn encode(
    path: &PathMatch,
    conditions: Option<&Conditions>,
    dialect: Dialect,
) -> RouteMatch {
    let path = Some(specifier(path, dialect));
    let Some(conditions) = conditions else {
        return RouteMatch { path_specifier: path, ..RouteMatch::default() };
    };
    RouteMatch {
        path_specifier: path,
        case_sensitive: conditions.ignore_case.then_some(BoolValue { value: false }),
        headers: conditions.headers.iter().map(header).collect(),
        query_parameters: conditions.query.iter().map(parameter).collect(),
        grpc: conditions.grpc.then(GrpcRouteMatchOptions::default),
        runtime_fraction: conditions.millionths.map(fraction),
        ..RouteMatch::default()
    }
}

/// gRPC knows nothing of prefixes by segments, and refuses a whole table for one (gRFC A28).
fn specifier(path: &PathMatch, dialect: Dialect) -> PathSpecifier {
    match path {
        PathMatch::Prefix(prefix) => PathSpecifier::Prefix(prefix.to_string()),
        PathMatch::Exact(exact) => PathSpecifier::Path(exact.to_string()),
        PathMatch::Under(whole) if dialect == Dialect::Grpc => {
            PathSpecifier::SafeRegex(regex(&format!("{}(/.*)?", Pattern::literal(whole))))
        }
        PathMatch::Under(whole) => PathSpecifier::PathSeparatedPrefix(whole.to_string()),
        PathMatch::Regex(pattern) => PathSpecifier::SafeRegex(regex(pattern.as_str())),
    }
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.to_owned(), ..RegexMatcher::default() }
}

pub(super) fn header(header: &HeaderMatch) -> HeaderMatcher {
    let test = match &header.test {
        HeaderTest::Present(present) => HeaderMatchSpecifier::PresentMatch(*present),
        HeaderTest::Text(text) => HeaderMatchSpecifier::StringMatch(self::text(text)),
        HeaderTest::Range(start, end) => {
            HeaderMatchSpecifier::RangeMatch(Int64Range { start: *start, end: *end })
        }
    };
    HeaderMatcher {
        name: header.name.to_string(),
        invert_match: header.invert,
        treat_missing_header_as_empty: header.missing_is_empty,
        header_match_specifier: Some(test),
    }
}

fn parameter(query: &QueryMatch) -> QueryParameterMatcher {
    let test = match &query.test {
        None => QueryParameterMatchSpecifier::PresentMatch(true),
        Some(test) => QueryParameterMatchSpecifier::StringMatch(text(test)),
    };
    QueryParameterMatcher {
        name: query.name.to_string(),
        query_parameter_match_specifier: Some(test),
    }
}

pub(super) fn text(text: &TextMatch) -> StringMatcher {
    let pattern = match &text.test {
        TextTest::Exact(exact) => MatchPattern::Exact(exact.to_string()),
        TextTest::Prefix(prefix) => MatchPattern::Prefix(prefix.to_string()),
        TextTest::Suffix(suffix) => MatchPattern::Suffix(suffix.to_string()),
        TextTest::Contains(part) => MatchPattern::Contains(part.to_string()),
        TextTest::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern.as_str())),
    };
    StringMatcher { match_pattern: Some(pattern), ignore_case: text.ignore_case }
}

/// A part of all.
pub(super) fn fraction(millionths: u32) -> RuntimeFractionalPercent {
    RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: millionths,
            denominator: DenominatorType::Million.into(),
        }),
        ..RuntimeFractionalPercent::default()
    }
}
