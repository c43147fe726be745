//! Routes: limits in time, retries, what is hashed, labels, and what would change a request.

use std::time::Duration;

use portolan_model::policy::{HashOn, Retries, RetryOn};
use portolan_model::traffic::{HashPolicy as Hash, Route as Taken};
use portolan_proto::envoy::core::HeaderValueOption;
use portolan_proto::envoy::protobuf::BoolValue;
use portolan_proto::envoy::route::route_action::hash_policy::{
    ConnectionProperties, Cookie, FilterState, Header, PolicySpecifier, QueryParameter,
};
use portolan_proto::envoy::route::route_action::{
    ClusterSpecifier, HashPolicy, HostRewriteSpecifier, MaxStreamDuration, RequestMirrorPolicy,
};
use portolan_proto::envoy::route::route_match::PathSpecifier;
use portolan_proto::envoy::route::{
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route::Action,
};
use portolan_xds::client::decode;

use crate::{any, lb_metadata, number, secs, texts};

fn action() -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster("c".into())),
        ..RouteAction::default()
    }
}

fn route(action: RouteAction) -> Route {
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".into())),
            ..RouteMatch::default()
        }),
        action: Some(Action::Route(action)),
        ..Route::default()
    }
}

fn host(route: Route) -> VirtualHost {
    VirtualHost {
        name: "h".into(),
        domains: vec!["*".into()],
        routes: vec![route],
        ..VirtualHost::default()
    }
}

fn table(host: VirtualHost) -> RouteConfiguration {
    RouteConfiguration {
        name: "t".into(),
        virtual_hosts: vec![host],
        ..RouteConfiguration::default()
    }
}

fn taken(table: &RouteConfiguration) -> Result<Taken, String> {
    let decoded = decode::route::decode(&any(table)).map_err(|e| e.to_string());
    decoded.map(|(_, table)| table.hosts[0].routes[0].clone())
}

fn of(action: RouteAction) -> Result<Taken, String> {
    taken(&table(host(route(action))))
}

#[test]
fn limits_in_time_are_those_of_the_route() {
    let stream = |seconds| {
        Some(MaxStreamDuration {
            max_stream_duration: secs(seconds),
            ..MaxStreamDuration::default()
        })
    };
    let sec = |seconds| Some(Duration::from_secs(seconds));
    let cases = [
        ("Envoy's default", action(), (sec(15), None)),
        ("none", RouteAction { timeout: secs(0), idle_timeout: secs(0), ..action() }, (None, None)),
        (
            "both",
            RouteAction { timeout: secs(3), idle_timeout: secs(60), ..action() },
            (sec(3), sec(60)),
        ),
        (
            "gRPC's",
            RouteAction { timeout: secs(0), max_stream_duration: stream(7), ..action() },
            (sec(7), None),
        ),
        (
            "the shorter",
            RouteAction { timeout: secs(3), max_stream_duration: stream(7), ..action() },
            (sec(3), None),
        ),
    ];
    for (about, action, expected) in cases {
        assert_eq!(of(action).map(|r| (r.timeout, r.idle_timeout)), Ok(expected), "{about}");
    }
}

#[test]
fn retries_are_those_of_the_route_else_of_its_host() {
    let policy = |words: &str, count| RetryPolicy {
        retry_on: words.into(),
        num_retries: count,
        per_try_timeout: secs(1),
        ..RetryPolicy::default()
    };
    let retries = |attempts, on: &[RetryOn]| {
        Some(Retries { attempts, on: on.to_vec(), per_try_timeout: Some(Duration::from_secs(1)) })
    };
    use RetryOn::{ConnectFailure, ServerError, Unavailable};
    for (words, count, expected) in [
        (
            "connect-failure, 5xx,unavailable,5xx",
            number(3),
            retries(3, &[ConnectFailure, ServerError, Unavailable]),
        ),
        ("5xx", None, retries(1, &[ServerError])),
        ("5xx", number(500), retries(10, &[ServerError])),
        ("5xx", number(0), None),
        ("5xx,retriable-4xx,envoy-ratelimited", number(2), retries(2, &[ServerError])),
        ("retriable-4xx", number(2), None),
        ("", number(2), None),
    ] {
        let of_route = RouteAction { retry_policy: Some(policy(words, count)), ..action() };
        assert_eq!(of(of_route).map(|r| r.retries), Ok(expected.clone()), "{words}");
        let of_host =
            VirtualHost { retry_policy: Some(policy(words, count)), ..host(route(action())) };
        assert_eq!(taken(&table(of_host)).map(|r| r.retries), Ok(expected), "{words} of the host");
    }
    let own = RouteAction { retry_policy: Some(policy("5xx", number(1))), ..action() };
    let both = VirtualHost { retry_policy: Some(policy("reset", number(2))), ..host(route(own)) };
    assert_eq!(taken(&table(both)).map(|r| r.retries), Ok(retries(1, &[ServerError])));
}

fn hashing(specifier: PolicySpecifier, terminal: bool) -> HashPolicy {
    HashPolicy { terminal, policy_specifier: Some(specifier) }
}

fn header(name: &str) -> PolicySpecifier {
    PolicySpecifier::Header(Header { header_name: name.into(), ..Header::default() })
}

#[test]
fn what_is_hashed_stays_in_its_order() {
    let cookie = |ttl| {
        PolicySpecifier::Cookie(Cookie {
            name: "user".into(),
            ttl,
            path: "/".into(),
            ..Cookie::default()
        })
    };
    let address =
        |source_ip| PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip });
    let said = vec![
        hashing(header("X-User"), true),
        hashing(header(":path"), false),
        hashing(cookie(None), false),
        hashing(cookie(secs(60)), true),
        hashing(address(false), true),
        hashing(address(true), false),
    ];
    let ours = |on, terminal| Hash { on, terminal };
    let named = |ttl| HashOn::Cookie { name: "user".into(), ttl };
    let expected = vec![
        ours(HashOn::Header("x-user".into()), true),
        ours(HashOn::Path, false),
        ours(named(None), false),
        ours(named(Some(Duration::from_secs(60))), true),
        ours(HashOn::SourceIp, false),
    ];
    let hashed = RouteAction { hash_policy: said, ..action() };
    assert_eq!(of(hashed).map(|r| r.hash), Ok(expected));
}

#[test]
fn labels_of_the_route_ask_for_a_part_of_the_cluster() {
    let labels = RouteAction {
        metadata_match: lb_metadata(texts(&[("version", "v1"), ("stage", "prod")])),
        ..action()
    };
    let expected = [("stage", "prod"), ("version", "v1")];
    let expected = expected.map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(of(labels).map(|r| r.labels), Ok(expected.into_iter().collect()));
}

#[test]
fn what_would_change_a_request_or_where_it_goes_is_refused_by_name() {
    let field = "virtual_hosts[0].routes[0]";
    let hashed =
        |specifier| RouteAction { hash_policy: vec![hashing(specifier, false)], ..action() };
    let on = |change: fn(&mut RouteMatch)| {
        let mut route = route(action());
        change(route.r#match.as_mut().expect("a match"));
        table(host(route))
    };
    let by = |action| table(host(route(action)));
    let header_option = || vec![HeaderValueOption::default()];
    let literal = HostRewriteSpecifier::HostRewriteLiteral("other".into());
    let conditional = RetryPolicy {
        retry_on: "5xx".into(),
        retriable_request_headers: vec![Default::default()],
        ..RetryPolicy::default()
    };
    let mut number_label = texts(&[]);
    let value = portolan_proto::envoy::protobuf::value::Kind::NumberValue(1.0);
    number_label
        .fields
        .insert("shard".into(), portolan_proto::envoy::protobuf::Value { kind: Some(value) });
    #[rustfmt::skip]
    let cases = [
        (by(RouteAction { prefix_rewrite: "/x".into(), ..action() }), format!("{field}.route.prefix_rewrite: not supported")),
        (by(RouteAction { host_rewrite_specifier: Some(literal), ..action() }),
            format!("{field}.route.host_rewrite_specifier: not supported")),
        (by(RouteAction { request_mirror_policies: vec![RequestMirrorPolicy::default()], ..action() }),
            format!("{field}.route.request_mirror_policies: not supported")),
        (by(RouteAction { retry_policy: Some(conditional), ..action() }),
            format!("{field}.route.retry_policy.retriable_request_headers: not supported")),
        (by(RouteAction { metadata_match: lb_metadata(number_label), ..action() }),
            format!("{field}.route.metadata_match.filter_metadata[envoy.lb].shard: only strings are supported")),
        (by(RouteAction { cluster_specifier: Some(ClusterSpecifier::ClusterHeader("x".into())), ..action() }),
            format!("{field}.route: only `cluster` is supported yet")),
        (by(hashed(PolicySpecifier::QueryParameter(QueryParameter { name: "q".into() }))),
            format!("{field}.route.hash_policy[0].query_parameter: not supported")),
        (by(hashed(PolicySpecifier::FilterState(FilterState { key: "k".into() }))),
            format!("{field}.route.hash_policy[0].filter_state: not supported")),
        (by(hashed(header(""))), format!("{field}.route.hash_policy[0].header.header_name: missing")),
        (by(RouteAction { hash_policy: vec![hashing(header("x"), false); 17], ..action() }),
            format!("{field}.route.hash_policy: 17 are more than 16")),
        (on(|m| m.case_sensitive = Some(BoolValue { value: false })), format!("{field}.match.case_sensitive: not supported")),
        (on(|m| m.grpc = Some(Default::default())), format!("{field}.match.grpc: not supported")),
        (table(host(Route { request_headers_to_add: header_option(), ..route(action()) })),
            format!("{field}.request_headers_to_add: not supported")),
        (table(VirtualHost { response_headers_to_remove: vec!["x".into()], ..host(route(action())) }),
            "virtual_hosts[0].response_headers_to_remove: not supported".to_owned()),
        (table(VirtualHost { require_tls: 2, ..host(route(action())) }), "virtual_hosts[0].require_tls: not supported".to_owned()),
        (RouteConfiguration { request_headers_to_add: header_option(), ..table(host(route(action()))) },
            "request_headers_to_add: not supported".to_owned()),
        (RouteConfiguration { ignore_port_in_host_matching: true, ..table(host(route(action()))) },
            "ignore_port_in_host_matching: not supported".to_owned()),
    ];
    for (table, reason) in cases {
        assert_eq!(taken(&table), Err(format!("t: {reason}")));
    }
}
