//! Routes: limits in time, retries, what is hashed, labels, and what would change a request.

use std::collections::HashMap;
use std::time::Duration;

use portolan_model::policy::{BackOff, HashOn, Retries, RetryOn};
use portolan_model::traffic::{HashPolicy as Hash, PathMatch, Route as Taken};
use portolan_proto::envoy::core::HeaderValueOption;
use portolan_proto::envoy::http_codec::FractionalPercent;
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::route::retry_policy::retry_host_predicate::ConfigType as PredicateConfig;
use portolan_proto::envoy::route::retry_policy::{
    RateLimitedRetryBackOff, RetryBackOff, RetryHostPredicate,
};
use portolan_proto::envoy::route::route_action::hash_policy::{
    ConnectionProperties, Cookie, FilterState, Header, PolicySpecifier, QueryParameter,
};
use portolan_proto::envoy::route::route_action::{
    ClusterSpecifier, HashPolicy, HostRewriteSpecifier, MaxStreamDuration, RequestMirrorPolicy,
};
use portolan_proto::envoy::route::route_match::PathSpecifier;
use portolan_proto::envoy::route::{
    FilterConfig, HedgePolicy, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost, route::Action,
};
use portolan_xds::client::decode;

use crate::{any, lb_metadata, number, secs, texts};

pub(crate) fn action() -> RouteAction {
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

pub(crate) fn host(route: Route) -> VirtualHost {
    VirtualHost {
        name: "h".into(),
        domains: vec!["*".into()],
        routes: vec![route],
        ..VirtualHost::default()
    }
}

pub(crate) fn table(host: VirtualHost) -> RouteConfiguration {
    RouteConfiguration {
        name: "t".into(),
        virtual_hosts: vec![host],
        ..RouteConfiguration::default()
    }
}

pub(crate) fn taken(table: &RouteConfiguration) -> Result<Taken, String> {
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
        let per_try_timeout = Some(Duration::from_secs(1));
        Some(Retries { attempts, on: on.to_vec(), per_try_timeout, ..Retries::default() })
    };
    use RetryOn::{Conflict, ConnectFailure, ResetBeforeRequest, ServerError, Unavailable};
    for (words, count, expected) in [
        (
            "connect-failure, 5xx,unavailable,5xx",
            number(3),
            retries(3, &[ConnectFailure, ServerError, Unavailable]),
        ),
        ("5xx", None, retries(1, &[ServerError])),
        ("5xx", number(500), retries(10, &[ServerError])),
        ("5xx", number(0), None),
        ("5xx,retriable-4xx", number(2), retries(2, &[ServerError, Conflict])),
        ("reset-before-request", number(2), retries(2, &[ResetBeforeRequest])),
        ("5xx,some-other,http3-post-connect-failure", number(2), retries(2, &[ServerError])),
        ("5xx,retriable-headers", number(2), retries(2, &[ServerError])),
        ("retriable-status-codes", number(2), None),
        ("some-other", number(2), None),
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

#[test]
fn tries_side_by_side_are_taken_where_they_begin_with_the_time_of_a_try_and_refused_otherwise() {
    let on_timeout = HedgePolicy { hedge_on_per_try_timeout: true, ..HedgePolicy::default() };
    let one = HedgePolicy { initial_requests: number(1), ..HedgePolicy::default() };
    let several = HedgePolicy { initial_requests: number(2), ..HedgePolicy::default() };
    let chance = FractionalPercent { numerator: 5, denominator: 0 };
    let chance = HedgePolicy { additional_request_chance: Some(chance), ..HedgePolicy::default() };
    let refused = |name: &str| {
        let field = "virtual_hosts[0].routes[0].route.hedge_policy";
        Err(format!("t: {field}.{name}: not supported"))
    };
    for (said, expected) in [
        (None, Ok(false)),
        (Some(on_timeout), Ok(true)),
        (Some(one), Ok(false)),
        (Some(several), refused("initial_requests")),
        (Some(chance), refused("additional_request_chance")),
    ] {
        let policy = RetryPolicy { retry_on: "5xx".into(), ..RetryPolicy::default() };
        let of_route =
            RouteAction { hedge_policy: said, retry_policy: Some(policy.clone()), ..action() };
        let read = |route: Result<Taken, String>| {
            route.map(|route| route.retries.is_some_and(|retries| retries.hedge))
        };
        assert_eq!(read(of(of_route)), expected, "{said:?}");
        let of_host =
            VirtualHost { hedge_policy: said, retry_policy: Some(policy), ..host(route(action())) };
        assert_eq!(read(taken(&table(of_host))), expected, "{said:?} of the host");
        // Without tries there is nothing to be beside.
        let alone = RouteAction { hedge_policy: said, ..action() };
        assert!(of(alone).is_ok_and(|route| route.retries.is_none()));
    }
}

#[test]
fn status_codes_are_a_reason_where_the_word_and_the_list_say_so() {
    let policy = |words: &str, codes: &[u32]| RouteAction {
        retry_policy: Some(RetryPolicy {
            retry_on: words.into(),
            retriable_status_codes: codes.to_vec(),
            ..RetryPolicy::default()
        }),
        ..action()
    };
    let retries = |on: &[RetryOn], codes: &[u16]| {
        let (on, status_codes) = (on.to_vec(), codes.to_vec());
        Some(Retries { attempts: 1, on, status_codes, ..Retries::default() })
    };
    use RetryOn::{ServerError, StatusCodes};
    for (words, codes, expected) in [
        ("retriable-status-codes", &[503, 409, 503][..], retries(&[StatusCodes], &[409, 503])),
        ("5xx,retriable-status-codes", &[], retries(&[ServerError], &[])),
        ("5xx", &[409], retries(&[ServerError], &[])),
    ] {
        assert_eq!(of(policy(words, codes)).map(|r| r.retries), Ok(expected), "{words} {codes:?}");
    }
    for code in [0, 99, 199, 600, 65_536 + 503] {
        let field = "virtual_hosts[0].routes[0].route.retry_policy.retriable_status_codes";
        let refused = Err(format!("t: {field}: {code} is not in 200..=599"));
        assert_eq!(of(policy("retriable-status-codes", &[code])), refused);
    }
}

/// What a policy says besides, and the field that is refused for it, if any.
#[test]
fn of_a_retry_policy_what_changes_its_meaning_is_refused_and_what_does_not_is_passed_over() {
    let typed = |name: &str| RetryHostPredicate {
        name: "p".into(),
        config_type: Some(PredicateConfig::TypedConfig(Any {
            type_url: format!("type.googleapis.com/envoy.extensions.retry.host.{name}"),
            value: Vec::new(),
        })),
    };
    let plain = RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".into(),
        ..RetryHostPredicate::default()
    };
    let previous = typed("previous_hosts.v3.PreviousHostsPredicate");
    let canary = typed("omit_canary_hosts.v3.OmitCanaryHostsPredicate");
    let base = || RetryPolicy { retry_on: "5xx".into(), ..RetryPolicy::default() };
    let limited = RateLimitedRetryBackOff::default();
    let predicates = |predicates| RetryPolicy { retry_host_predicate: predicates, ..base() };
    let headers = || vec![Default::default()];
    let back_off = |base_interval, max_interval| RetryPolicy {
        retry_back_off: Some(RetryBackOff { base_interval, max_interval }),
        ..base()
    };
    #[rustfmt::skip]
    let cases = [
        (back_off(secs(1), None), ""),
        (back_off(secs(1), secs(1)), ""),
        (back_off(None, secs(1)), "retry_back_off.base_interval: missing"),
        (back_off(secs(2), secs(1)), "retry_back_off.max_interval: 1s is less than the base"),
        (RetryPolicy { host_selection_retry_max_attempts: 5, ..base() }, ""),
        (RetryPolicy { per_try_idle_timeout: secs(0), ..base() }, ""),
        (RetryPolicy { retriable_headers: headers(), ..base() }, ""),
        (predicates(vec![plain, previous.clone()]), ""),
        (predicates(vec![previous, canary]), "retry_host_predicate[1]: not supported"),
        (RetryPolicy { retry_on: "5xx, envoy-ratelimited".into(), ..base() },
            "retry_on: envoy-ratelimited is not supported"),
        (RetryPolicy { retry_on: "retriable-headers".into(), retriable_headers: headers(), ..base() },
            "retriable_headers: not supported"),
        (RetryPolicy { retriable_request_headers: headers(), ..base() },
            "retriable_request_headers: not supported"),
        (RetryPolicy { per_try_idle_timeout: secs(1), ..base() }, "per_try_idle_timeout: not supported"),
        (RetryPolicy { retry_priority: Some(Default::default()), ..base() }, "retry_priority: not supported"),
        (RetryPolicy { rate_limited_retry_back_off: Some(limited), ..base() },
            "rate_limited_retry_back_off: not supported"),
    ];
    for (policy, refused) in cases {
        let result = of(RouteAction { retry_policy: Some(policy.clone()), ..action() });
        let expected = match refused {
            "" => Ok(Some(vec![RetryOn::ServerError])),
            reason => Err(format!("t: virtual_hosts[0].routes[0].route.retry_policy.{reason}")),
        };
        let result = result.map(|r| r.retries);
        if let (Some(said), Ok(Some(retries))) = (&policy.retry_back_off, &result) {
            let second = Duration::from_secs(1);
            let max = if said.max_interval.is_some() { second } else { 10 * second };
            assert_eq!(retries.back_off, Some(BackOff { base: second, max }));
        }
        assert_eq!(result.map(|r| r.map(|r| r.on)), expected, "{policy:?}");
    }
}

#[test]
fn what_is_asked_of_filters_is_refused_unless_it_may_be_left_out() {
    let asked = |config: Any| HashMap::from([("some.filter".to_owned(), config)]);
    let off = FilterConfig { disabled: true, ..FilterConfig::default() };
    let optional = FilterConfig { is_optional: true, ..FilterConfig::default() };
    let other = || Any { type_url: "example.Odd".into(), value: Vec::new() };
    let at = |place: usize, config: Any| {
        let (mut route, asked) = (route(action()), asked(config));
        match place {
            0 => {
                return RouteConfiguration { typed_per_filter_config: asked, ..table(host(route)) };
            }
            1 => return table(VirtualHost { typed_per_filter_config: asked, ..host(route) }),
            _ => route.typed_per_filter_config = asked,
        }
        table(host(route))
    };
    for (place, field) in
        ["", "virtual_hosts[0].", "virtual_hosts[0].routes[0]."].iter().enumerate()
    {
        for taken_all_the_same in [any(&off), any(&optional)] {
            assert!(taken(&at(place, taken_all_the_same)).is_ok());
        }
        let field = format!("{field}typed_per_filter_config[some.filter]");
        for config in [other(), any(&FilterConfig::default())] {
            assert_eq!(taken(&at(place, config)), Err(format!("t: {field}: not supported")));
        }
    }
}

#[test]
fn paths_and_hosts_are_matched_as_the_table_says() {
    for (said, expected) in [
        (PathSpecifier::Prefix("/a".into()), PathMatch::Prefix("/a".into())),
        (PathSpecifier::PathSeparatedPrefix("/a".into()), PathMatch::Under("/a".into())),
        (PathSpecifier::Path("/a".into()), PathMatch::Exact("/a".into())),
    ] {
        let mut route = route(action());
        route.r#match = Some(RouteMatch { path_specifier: Some(said), ..RouteMatch::default() });
        assert_eq!(taken(&table(host(route))).map(|r| r.path), Ok(expected));
    }
    for (ignore, found) in [(false, false), (true, true)] {
        let shop = VirtualHost { domains: vec!["web.shop".into()], ..host(route(action())) };
        let config = RouteConfiguration { ignore_port_in_host_matching: ignore, ..table(shop) };
        let (_, table) = decode::route::decode(&any(&config)).expect("taken");
        assert_eq!(table.lookup("web.shop:8080").is_some(), found);
    }
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
#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
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
    let by_header = HostRewriteSpecifier::HostRewriteHeader("x-host".into());
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
        (by(RouteAction { cors: Some(Default::default()), ..action() }), format!("{field}.route.cors: not supported")),
        (table(VirtualHost { cors: Some(Default::default()), ..host(route(action())) }),
            "virtual_hosts[0].cors: not supported".to_owned()),
        (by(RouteAction { prefix_rewrite: "x".into(), ..action() }), format!("{field}.route.prefix_rewrite: \"x\" is no path")),
        (by(RouteAction { host_rewrite_specifier: Some(by_header), ..action() }),
            format!("{field}.route.host_rewrite_specifier: not supported")),
        (by(RouteAction { request_mirror_policies: vec![RequestMirrorPolicy::default()], ..action() }),
            format!("{field}.route.request_mirror_policies[0].cluster: missing")),
        (by(RouteAction { regex_rewrite: Some(Default::default()), ..action() }),
            format!("{field}.route.regex_rewrite.pattern.regex: missing")),
        (by(RouteAction { retry_policy: Some(conditional), ..action() }),
            format!("{field}.route.retry_policy.retriable_request_headers: not supported")),
        (by(RouteAction { metadata_match: lb_metadata(number_label), ..action() }),
            format!("{field}.route.metadata_match.filter_metadata[envoy.lb].shard: only strings are supported")),
        (by(RouteAction { cluster_specifier: Some(ClusterSpecifier::ClusterHeader("x".into())), ..action() }),
            format!("{field}.route: only `cluster` and `weighted_clusters` are supported")),
        (by(hashed(PolicySpecifier::QueryParameter(QueryParameter { name: "q".into() }))),
            format!("{field}.route.hash_policy[0].query_parameter: not supported")),
        (by(hashed(PolicySpecifier::FilterState(FilterState { key: "k".into() }))),
            format!("{field}.route.hash_policy[0].filter_state: not supported")),
        (by(hashed(header(""))), format!("{field}.route.hash_policy[0].header.header_name: missing")),
        (by(RouteAction { hash_policy: vec![hashing(header("x"), false); 17], ..action() }),
            format!("{field}.route.hash_policy: 17 are more than 16")),
        (on(|m| m.path_specifier = Some(PathSpecifier::PathSeparatedPrefix("/a/".into()))),
            format!("{field}.match.path_separated_prefix: \"/a/\" is none")),
        (on(|m| m.path_specifier = Some(PathSpecifier::SafeRegex(Default::default()))),
            format!("{field}.match.safe_regex.regex: missing")),
        (on(|m| m.tls_context = Some(Default::default())), format!("{field}.match.tls_context: not supported")),
        (table(host(Route { request_headers_to_add: header_option(), ..route(action()) })),
            format!("{field}.request_headers_to_add[0].header: missing")),
        (table(VirtualHost { response_headers_to_remove: vec!["x y".into()], ..host(route(action())) }),
            "virtual_hosts[0].response_headers_to_remove[0]: \"x y\" is no field name that can be changed".to_owned()),
        (table(VirtualHost { require_tls: 2, ..host(route(action())) }), "virtual_hosts[0].require_tls: not supported".to_owned()),
        (RouteConfiguration { request_headers_to_add: header_option(), ..table(host(route(action()))) },
            "request_headers_to_add[0].header: missing".to_owned()),
    ];
    for (table, reason) in cases {
        assert_eq!(taken(&table), Err(format!("t: {reason}")));
    }
}
