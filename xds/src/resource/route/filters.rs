//! What routes ask of HTTP filters, in Envoy's words. gRPC clients, which would refuse a route for it, are
//! not told.

use std::collections::HashMap;

use portolan_model::traffic::{Cors, Route, Session, SessionBy};
use portolan_proto::envoy::cookie_session::CookieBasedSessionState;
use portolan_proto::envoy::core::TypedExtensionConfig;
use portolan_proto::envoy::header_session::HeaderBasedSessionState;
use portolan_proto::envoy::http_cors::CorsPolicy;
use portolan_proto::envoy::http_types::Cookie;
use portolan_proto::envoy::protobuf::{Any, BoolValue};
use portolan_proto::envoy::stateful_session::stateful_session_per_route::Override;
use portolan_proto::envoy::stateful_session::{StatefulSession, StatefulSessionPerRoute};

use super::conditions;
use crate::resource::{duration, pack};

/// Names of the filters, by which routes and connection managers mean the same.
pub(in crate::resource) const CORS: &str = "envoy.filters.http.cors";
pub(in crate::resource) const SESSION: &str = "envoy.filters.http.stateful_session";

/// What a route asks of filters (`typed_per_filter_config`).
pub(super) fn encode(route: &Route) -> HashMap<String, Any> {
    let cors = route.cors.as_ref().map(|asked| (CORS, pack(&cors(asked))));
    let session = route.session.as_ref().map(|asked| (SESSION, pack(&session(asked))));
    in_order(&cors.into_iter().chain(session).collect::<Vec<_>>())
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
