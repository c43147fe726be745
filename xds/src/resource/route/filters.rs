//! What routes ask of HTTP filters, in Envoy's words. gRPC clients, which would refuse a route for it, are
//! not told.

use std::collections::HashMap;
use std::time::Duration;

use portolan_model::traffic::{Abort, Cors, Fault, RateLimit, Route, Session, SessionBy};
use portolan_proto::envoy::cookie_session::CookieBasedSessionState;
use portolan_proto::envoy::core::TypedExtensionConfig;
use portolan_proto::envoy::fault::FaultDelay;
use portolan_proto::envoy::fault::fault_delay::FaultDelaySecifier;
use portolan_proto::envoy::header_session::HeaderBasedSessionState;
use portolan_proto::envoy::http_codec::{HttpStatus, TokenBucket};
use portolan_proto::envoy::http_cors::CorsPolicy;
use portolan_proto::envoy::http_fault::fault_abort::ErrorType;
use portolan_proto::envoy::http_fault::{FaultAbort, HttpFault};
use portolan_proto::envoy::http_types::Cookie;
use portolan_proto::envoy::local_ratelimit::LocalRateLimit;
use portolan_proto::envoy::protobuf::{Any, BoolValue, UInt32Value};
use portolan_proto::envoy::ratelimit::LocalRateLimitDescriptor;
use portolan_proto::envoy::ratelimit::rate_limit_descriptor::Entry;
use portolan_proto::envoy::route::RateLimit as RouteRateLimit;
use portolan_proto::envoy::route::rate_limit::Action;
use portolan_proto::envoy::route::rate_limit::action::{ActionSpecifier, RemoteAddress};
use portolan_proto::envoy::stateful_session::stateful_session_per_route::Override;
use portolan_proto::envoy::stateful_session::{StatefulSession, StatefulSessionPerRoute};

use super::conditions;
use crate::resource::{duration, pack};

/// Names of the filters, by which routes and connection managers mean the same.
pub(in crate::resource) const CORS: &str = "envoy.filters.http.cors";
pub(in crate::resource) const SESSION: &str = "envoy.filters.http.stateful_session";
pub(in crate::resource) const FAULT: &str = "envoy.filters.http.fault";
pub(in crate::resource) const RATE_LIMIT: &str = "envoy.filters.http.local_ratelimit";

/// Envoy fills a bucket no more often.
const SHORTEST_FILL: Duration = Duration::from_millis(50);

/// What a route asks of filters (`typed_per_filter_config`).
pub(super) fn encode(route: &Route) -> HashMap<String, Any> {
    let cors = route.cors.as_ref().map(|asked| (CORS, pack(&cors(asked))));
    let session = route.session.as_ref().map(|asked| (SESSION, pack(&session(asked))));
    let fault = route.fault.as_ref().map(|asked| (FAULT, pack(&fault(asked))));
    let limit = route.rate_limit.as_ref().map(|asked| (RATE_LIMIT, pack(&limit(asked))));
    in_order(&cors.into_iter().chain(session).chain(fault).chain(limit).collect::<Vec<_>>())
}

/// A map that is written in the order of its names, so that the same content is the same bytes on every
/// replica: a map of the message's type has an order of its own each time it is made.
fn in_order(entries: &[(&str, Any)]) -> HashMap<String, Any> {
    loop {
        let made = entries.iter().map(|(name, asked)| ((*name).to_owned(), asked.clone()));
        let made: HashMap<String, Any> = made.collect();
        // Of the few that there are, every order comes up soon.
        if made.keys().is_sorted() {
            return made;
        }
    }
}

fn fault(asked: &Fault) -> HttpFault {
    let percentage = |millionths| conditions::fraction(millionths).default_value;
    HttpFault {
        delay: asked.delay.map(|(time, part)| FaultDelay {
            percentage: percentage(part),
            fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(time))),
        }),
        abort: asked.abort.map(|(abort, part)| FaultAbort {
            percentage: percentage(part),
            error_type: Some(match abort {
                Abort::Http(status) => ErrorType::HttpStatus(status.into()),
                Abort::Grpc(status) => ErrorType::GrpcStatus(status.into()),
            }),
            ..FaultAbort::default()
        }),
        headers: asked.headers.iter().map(conditions::header).collect(),
        ..HttpFault::default()
    }
}

/// What Envoy calls limits of rate in its statistics.
pub(in crate::resource) const LIMITS: &str = "routes";

fn limit(asked: &RateLimit) -> LocalRateLimit {
    let part = |millionths: u32| Some(conditions::fraction(millionths));
    let per_client = asked.per_client.iter();
    LocalRateLimit {
        stat_prefix: LIMITS.to_owned(),
        status: Some(HttpStatus { code: asked.status.into() }),
        token_bucket: Some(bucket(asked.tokens, asked.each)),
        filter_enabled: part(asked.parts[0]),
        filter_enforced: part(asked.parts[1]),
        rate_limited_as_resource_exhausted: asked.resource_exhausted,
        rate_limits: per_client
            .clone()
            .map(|_| {
                let by = ActionSpecifier::RemoteAddress(RemoteAddress {});
                let actions = vec![Action { action_specifier: Some(by) }];
                RouteRateLimit { actions, ..RouteRateLimit::default() }
            })
            .collect(),
        descriptors: per_client
            .map(|own| LocalRateLimitDescriptor {
                entries: vec![Entry { key: "remote_address".to_owned(), value: String::new() }],
                token_bucket: Some(bucket(own.tokens, own.each)),
                ..LocalRateLimitDescriptor::default()
            })
            .collect(),
        max_dynamic_descriptors: asked.per_client.map(|own| UInt32Value { value: own.most }),
        ..LocalRateLimit::default()
    }
}

/// As many tokens at a time as come in what Envoy takes for the shortest, or one.
fn bucket(tokens: u32, each: Duration) -> TokenBucket {
    let fill = SHORTEST_FILL.as_nanos().div_ceil(each.as_nanos().max(1)).max(1);
    let fill = u32::try_from(fill).unwrap_or(u32::MAX);
    TokenBucket {
        max_tokens: tokens,
        tokens_per_fill: Some(UInt32Value { value: fill }),
        fill_interval: Some(duration(each.saturating_mul(fill))),
    }
}

fn cors(asked: &Cors) -> CorsPolicy {
    CorsPolicy {
        allow_origin_string_match: asked.origins.iter().map(conditions::text).collect(),
        allow_methods: asked.methods.to_string(),
        allow_headers: asked.headers.to_string(),
        expose_headers: asked.exposed.to_string(),
        max_age: asked.max_age.to_string(),
        allow_credentials: asked.credentials.then_some(BoolValue { value: true }),
        // Envoy's default is the other way.
        forward_not_matching_preflights: (!asked.forward_unmatched)
            .then_some(BoolValue { value: false }),
        ..CorsPolicy::default()
    }
}

fn session(asked: &Session) -> StatefulSessionPerRoute {
    let name = asked.name.to_string();
    let (of, state) = match &asked.by {
        SessionBy::Header => ("header", pack(&HeaderBasedSessionState { name })),
        SessionBy::Cookie { path, ttl } => {
            let (ttl, path) = (ttl.map(duration), path.to_string());
            let cookie = Some(Cookie { name, ttl, path, ..Cookie::default() });
            ("cookie", pack(&CookieBasedSessionState { cookie }))
        }
    };
    let state = TypedExtensionConfig {
        name: format!("envoy.http.stateful_session.{of}"),
        typed_config: Some(state),
    };
    let session = StatefulSession { session_state: Some(state), ..StatefulSession::default() };
    StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(session)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_a_map_is_that_of_its_names() {
        let entries = ["d", "b", "a", "c"].map(|name| (name, Any::default()));
        for _ in 0..100 {
            let made = in_order(&entries);
            // What is sent is a copy.
            assert!(made.clone().keys().eq(["a", "b", "c", "d"]), "{made:?}");
        }
    }
}
