//! Which requests a route is for, and what becomes of them: conditions, shares, changes, answers.

use std::collections::HashMap;
use std::time::Duration;

use portolan_model::traffic::{
    Action, Conditions, Edits, HeaderEdit, HeaderMatch, HeaderTest, PathEdit, PathMatch, Pattern,
    QueryMatch, RateLimit, Redirect, Respond, TextMatch, TextTest,
};
use portolan_proto::envoy::cookie_session::CookieBasedSessionState;
use portolan_proto::envoy::core::data_source::Specifier;
use portolan_proto::envoy::core::header_value_option::HeaderAppendAction;
use portolan_proto::envoy::core::{
    DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent, TypedExtensionConfig,
};
use portolan_proto::envoy::header_session::HeaderBasedSessionState;
use portolan_proto::envoy::http_codec::{FractionalPercent, Int64Range, TokenBucket};
use portolan_proto::envoy::http_cors::CorsPolicy;
use portolan_proto::envoy::http_fault::fault_abort::ErrorType;
use portolan_proto::envoy::http_fault::{FaultAbort, HttpFault};
use portolan_proto::envoy::http_types::Cookie;
use portolan_proto::envoy::local_ratelimit::LocalRateLimit;
use portolan_proto::envoy::matcher::string_matcher::MatchPattern;
use portolan_proto::envoy::matcher::{RegexMatcher, StringMatcher};
use portolan_proto::envoy::protobuf::{Any, BoolValue, Duration as Span, UInt32Value};
use portolan_proto::envoy::route::header_matcher::HeaderMatchSpecifier;
use portolan_proto::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use portolan_proto::envoy::route::redirect_action::{PathRewriteSpecifier, SchemeRewriteSpecifier};
use portolan_proto::envoy::route::route::Action as Said;
use portolan_proto::envoy::route::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use portolan_proto::envoy::route::route_match::PathSpecifier;
use portolan_proto::envoy::route::weighted_cluster::ClusterWeight;
use portolan_proto::envoy::route::{
    DirectResponseAction, FilterConfig, HeaderMatcher, QueryParameterMatcher, RedirectAction,
    Route, RouteAction, RouteConfiguration, RouteMatch, WeightedCluster,
};

use portolan_proto::envoy::stateful_session::stateful_session_per_route::Override;
use portolan_proto::envoy::stateful_session::{StatefulSession, StatefulSessionPerRoute};

use crate::any;
use crate::routes::{self, action, taken};

fn table(route: Route) -> RouteConfiguration {
    routes::table(routes::host(route))
}

fn to(specifier: ClusterSpecifier) -> RouteAction {
    RouteAction { cluster_specifier: Some(specifier), ..RouteAction::default() }
}

fn route(action: Said) -> Route {
    let path_specifier = Some(PathSpecifier::Prefix("/a".into()));
    Route {
        r#match: Some(RouteMatch { path_specifier, ..RouteMatch::default() }),
        action: Some(action),
        ..Route::default()
    }
}

/// The conditions of a route with this match.
fn conditions(matched: RouteMatch) -> Result<Option<Conditions>, String> {
    let path_specifier = matched.path_specifier.clone();
    let prefix = Some(PathSpecifier::Prefix("/".into()));
    let r#match = Some(RouteMatch { path_specifier: path_specifier.or(prefix), ..matched });
    let route = Route { r#match, ..route(Said::Route(action())) };
    taken(&table(route)).map(|route| route.conditions.map(|conditions| *conditions))
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.into(), ..RegexMatcher::default() }
}

fn header(name: &str, by: Option<HeaderMatchSpecifier>) -> HeaderMatcher {
    HeaderMatcher { name: name.into(), header_match_specifier: by, ..HeaderMatcher::default() }
}

#[test]
#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
fn conditions_on_fields_are_taken_in_each_form() {
    use HeaderMatchSpecifier as By;
    let plain = |test| HeaderTest::Text(TextMatch { test, ignore_case: false });
    let string =
        StringMatcher { ignore_case: true, match_pattern: Some(MatchPattern::Suffix("x".into())) };
    let pattern = Pattern::new("a|b").expect("valid");
    for (by, test) in [
        (None, HeaderTest::Present(true)),
        (Some(By::PresentMatch(false)), HeaderTest::Present(false)),
        (Some(By::ExactMatch("x".into())), plain(TextTest::Exact("x".into()))),
        (Some(By::PrefixMatch("x".into())), plain(TextTest::Prefix("x".into()))),
        (Some(By::SuffixMatch("x".into())), plain(TextTest::Suffix("x".into()))),
        (Some(By::ContainsMatch("x".into())), plain(TextTest::Contains("x".into()))),
        (Some(By::SafeRegexMatch(regex("a|b"))), plain(TextTest::Regex(pattern))),
        (Some(By::RangeMatch(Int64Range { start: 1, end: 9 })), HeaderTest::Range(1, 9)),
        (
            Some(By::StringMatch(string)),
            HeaderTest::Text(TextMatch { test: TextTest::Suffix("x".into()), ignore_case: true }),
        ),
    ] {
        let headers = vec![header("X-Canary", by)];
        let got = conditions(RouteMatch { headers, ..RouteMatch::default() });
        let name = "x-canary".into();
        let one = HeaderMatch { name, test, invert: false, missing_is_empty: false };
        let expected = Conditions { headers: vec![one], ..Conditions::default() };
        assert_eq!(got, Ok(Some(expected)));
    }
    let odd = HeaderMatcher {
        invert_match: true,
        treat_missing_header_as_empty: true,
        ..header(":method", None)
    };
    let got = conditions(RouteMatch { headers: vec![odd], ..RouteMatch::default() });
    let header = &got.expect("valid").expect("a condition").headers[0];
    assert_eq!((&*header.name, header.invert, header.missing_is_empty), (":method", true, true));
}

#[test]
fn other_conditions_are_taken_and_none_is_none() {
    assert_eq!(conditions(RouteMatch::default()), Ok(None));
    let parameter =
        |by| QueryParameterMatcher { name: "q".into(), query_parameter_match_specifier: by };
    let exact = StringMatcher {
        match_pattern: Some(MatchPattern::Exact("1".into())),
        ..StringMatcher::default()
    };
    let fraction = FractionalPercent { numerator: 25, denominator: 0 };
    let said = RouteMatch {
        case_sensitive: Some(BoolValue { value: false }),
        query_parameters: vec![
            parameter(None),
            parameter(Some(QueryParameterMatchSpecifier::StringMatch(exact))),
        ],
        grpc: Some(Default::default()),
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(fraction),
            runtime_key: "k".into(),
        }),
        ..RouteMatch::default()
    };
    let one = TextMatch { test: TextTest::Exact("1".into()), ignore_case: false };
    let query = [None, Some(one)].map(|test| QueryMatch { name: "q".into(), test });
    let expected = Conditions {
        ignore_case: true,
        query: query.to_vec(),
        grpc: true,
        millionths: Some(250_000),
        ..Conditions::default()
    };
    assert_eq!(conditions(said), Ok(Some(expected)));
    let path_specifier = Some(PathSpecifier::SafeRegex(regex("/v[0-9]+/.*")));
    let matched = RouteMatch { path_specifier, ..RouteMatch::default() };
    let expression = Route { r#match: Some(matched), ..route(Said::Route(action())) };
    let pattern = Pattern::new("/v[0-9]+/.*").expect("valid");
    assert_eq!(taken(&table(expression)).map(|r| r.path), Ok(PathMatch::Regex(pattern)));
}

fn option(key: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: key.into(), value: value.into(), ..Default::default() }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    }
}

/// A table of which each level adds a field and removes one, and the route has two clusters.
fn layered(specific_wins: bool) -> RouteConfiguration {
    let add =
        |level: &str| vec![option("X-Level", level, HeaderAppendAction::OverwriteIfExistsOrAdd)];
    let share = |name: &str, weight, level: &[&str]| ClusterWeight {
        name: name.into(),
        weight: Some(UInt32Value { value: weight }),
        request_headers_to_add: level.iter().flat_map(|level| add(level)).collect(),
        ..ClusterWeight::default()
    };
    let weighted = WeightedCluster {
        clusters: vec![share("a", 9, &["share"]), share("b", 1, &[])],
        ..WeightedCluster::default()
    };
    let mut table = table(Route {
        request_headers_to_add: add("route"),
        request_headers_to_remove: vec!["X-Gone".into()],
        response_headers_to_remove: vec!["Server".into()],
        ..route(Said::Route(RouteAction {
            prefix_rewrite: "/b".into(),
            host_rewrite_specifier: Some(HostRewriteSpecifier::HostRewriteLiteral("b.shop".into())),
            ..to(ClusterSpecifier::WeightedClusters(weighted))
        }))
    });
    table.virtual_hosts[0].request_headers_to_add = add("host");
    table.request_headers_to_add = add("table");
    table.most_specific_header_mutations_wins = specific_wins;
    table
}

#[test]
fn changes_of_all_levels_are_made_in_envoys_order() {
    let set = |level: &str| HeaderEdit::Set("x-level".into(), level.into());
    let removed = || HeaderEdit::Remove("x-gone".into());
    let general_last = vec![set("share"), removed(), set("route"), set("host"), set("table")];
    let specific_last = vec![set("share"), set("table"), set("host"), removed(), set("route")];
    for (specific_wins, expected) in [(false, general_last), (true, specific_last)] {
        let route = taken(&layered(specific_wins)).expect("valid");
        let Action::Forward(shares) = route.action else { panic!("{:?}", route.action) };
        let seen = shares.iter().map(|share| (&*share.cluster, share.weight));
        assert_eq!(seen.collect::<Vec<_>>(), [("a", 9), ("b", 1)]);
        let edits = shares[0].edits.as_deref().expect("changes");
        assert_eq!(edits.request, expected, "{specific_wins}");
        let rewritten = Edits {
            request: Vec::new(),
            response: vec![HeaderEdit::Remove("server".into())],
            host: Some("b.shop".into()),
            path: Some(PathEdit::Matched("/b".into())),
        };
        let second = shares[1].edits.as_deref().expect("changes");
        assert_eq!(Edits { request: Vec::new(), ..second.clone() }, rewritten);
        assert!(!second.request.contains(&set("share")), "{second:?}");
    }
}

#[test]
fn a_field_is_added_as_its_action_says() {
    use HeaderAppendAction as By;
    for (append, value, keep, expected) in [
        (By::AppendIfExistsOrAdd, "1", false, Some(HeaderEdit::Add("x".into(), "1".into()))),
        (By::AddIfAbsent, "1", false, Some(HeaderEdit::AddIfAbsent("x".into(), "1".into()))),
        (By::OverwriteIfExists, "1", false, Some(HeaderEdit::Replace("x".into(), "1".into()))),
        (By::AddIfAbsent, "100%%", false, Some(HeaderEdit::AddIfAbsent("x".into(), "100%".into()))),
        (By::AddIfAbsent, "", false, None),
        (By::AddIfAbsent, "", true, Some(HeaderEdit::AddIfAbsent("x".into(), "".into()))),
    ] {
        let said = HeaderValueOption { keep_empty_value: keep, ..option("X", value, append) };
        let route = Route { response_headers_to_add: vec![said], ..route(Said::Route(action())) };
        let Action::Forward(shares) = taken(&table(route)).expect("valid").action else {
            panic!("not forwarded")
        };
        let got = shares[0].edits.as_ref().and_then(|edits| edits.response.first().cloned());
        assert_eq!(got, expected);
    }
}

#[test]
fn what_the_proxy_answers_itself_is_taken() {
    let redirect = RedirectAction {
        host_redirect: "b.shop".into(),
        port_redirect: 8443,
        response_code: 3,
        strip_query: true,
        scheme_rewrite_specifier: Some(SchemeRewriteSpecifier::HttpsRedirect(true)),
        path_rewrite_specifier: Some(PathRewriteSpecifier::PrefixRewrite("/b".into())),
    };
    let expected = Redirect {
        scheme: Some("https".into()),
        host: Some("b.shop".into()),
        port: Some(8443),
        path: Some(PathEdit::Matched("/b".into())),
        strip_query: true,
        status: 307,
        edits: None,
    };
    let got = taken(&table(route(Said::Redirect(redirect)))).map(|route| route.action);
    assert_eq!(got, Ok(Action::Redirect(expected)));
    let body = Some(DataSource {
        specifier: Some(Specifier::InlineString("no\n".into())),
        ..DataSource::default()
    });
    let respond = DirectResponseAction { status: 403, body, ..DirectResponseAction::default() };
    let got = taken(&table(route(Said::DirectResponse(respond)))).map(|route| route.action);
    let body = b"no\n"[..].into();
    assert_eq!(got, Ok(Action::Respond(Respond { status: 403, body, edits: None })));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let field = "t: virtual_hosts[0].routes[0]";
    let matched = |matched: RouteMatch| {
        let path_specifier = Some(PathSpecifier::Prefix("/".into()));
        let r#match = Some(RouteMatch { path_specifier, ..matched });
        Route { r#match, ..route(Said::Route(action())) }
    };
    let headers = |headers| matched(RouteMatch { headers, ..RouteMatch::default() });
    let adding = |key: &str, value: &str| Route {
        request_headers_to_add: vec![option(key, value, HeaderAppendAction::AddIfAbsent)],
        ..route(Said::Route(action()))
    };
    let weighted = |clusters| {
        let weighted = WeightedCluster { clusters, ..WeightedCluster::default() };
        route(Said::Route(to(ClusterSpecifier::WeightedClusters(weighted))))
    };
    let share = |name: &str, value| ClusterWeight {
        name: name.into(),
        weight: Some(UInt32Value { value }),
        ..ClusterWeight::default()
    };
    let redirect = |change: fn(&mut RedirectAction)| {
        let mut action = RedirectAction::default();
        change(&mut action);
        route(Said::Redirect(action))
    };
    let direct = |status, specifier| {
        let body = Some(DataSource { specifier, ..DataSource::default() });
        route(Said::DirectResponse(DirectResponseAction { status, body, ..Default::default() }))
    };
    let expression = Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
        match_pattern: Some(MatchPattern::SafeRegex(regex("("))),
        ..StringMatcher::default()
    }));
    #[rustfmt::skip]
    let cases = [
        (headers(vec![header("", None)]), ".match.headers[0].name: missing"),
        (headers(vec![header("x", None); 33]), ".match: 33 conditions are more than 32"),
        (headers(vec![header("x", expression)]),
            ".match.headers[0].string_match.safe_regex.regex: regex parse error: ( ^ error: unclosed group"),
        (adding(":path", "/"), ".request_headers_to_add[0].header.key: \":path\" is no field name that can be changed"),
        (adding("Host", "a"), ".request_headers_to_add[0].header.key: host is not to be changed"),
        (adding("Content-Length", "0"), ".request_headers_to_add[0].header.key: content-length is not to be changed"),
        (adding("x", "a\r\nb: c"), ".request_headers_to_add[0].header.value: \"a\\r\\nb: c\" has control characters"),
        (adding("x", "%REQ(y)%"), ".request_headers_to_add[0].header.value: \"%REQ(y)%\": variables are not supported"),
        (weighted(vec![share("a", 0), share("b", 0)]), ".route.weighted_clusters: no cluster has a weight"),
        (weighted(vec![]), ".route.weighted_clusters: no cluster has a weight"),
        (weighted(vec![share("a", u32::MAX), share("b", 1)]),
            ".route.weighted_clusters: the weights are more than 4294967295 together"),
        (weighted(vec![share("", 1)]), ".route.weighted_clusters.clusters[0].name: missing"),
        (redirect(|r| r.port_redirect = 70_000), ".redirect.port_redirect: 70000 is no port"),
        (redirect(|r| r.host_redirect = "a/b".into()), ".redirect.host_redirect: \"a/b\" is no host"),
        (redirect(|r| r.path_rewrite_specifier = Some(PathRewriteSpecifier::PathRedirect("a\r\n".into()))),
            ".redirect.path_redirect: \"a\\r\\n\" is no path"),
        (redirect(|r| r.scheme_rewrite_specifier = Some(SchemeRewriteSpecifier::SchemeRedirect("ftp".into()))),
            ".redirect.scheme_redirect: \"ftp\" is not http or https"),
        (redirect(|r| r.response_code = 9), ".redirect.response_code: 9 is none"),
        (direct(99, None), ".direct_response.status: 99 is not one of 200 to 599"),
        (direct(200, Some(Specifier::Filename("/x".into()))), ".direct_response.body: only inline bodies are supported"),
        (direct(200, Some(Specifier::InlineString("x".repeat(4097)))),
            ".direct_response.body: 4097 bytes are more than 4096"),
    ];
    for (route, reason) in cases {
        assert_eq!(taken(&table(route)), Err(format!("{field}{reason}")));
    }
}

fn whole() -> Option<RuntimeFractionalPercent> {
    let default_value = Some(FractionalPercent { numerator: 100, denominator: 0 });
    Some(RuntimeFractionalPercent { default_value, ..RuntimeFractionalPercent::default() })
}

fn limit(tokens: u32) -> LocalRateLimit {
    LocalRateLimit {
        token_bucket: Some(TokenBucket {
            max_tokens: tokens,
            tokens_per_fill: Some(UInt32Value { value: 4 }),
            fill_interval: Some(Span { seconds: 1, nanos: 0 }),
        }),
        filter_enabled: whole(),
        filter_enforced: whole(),
        ..LocalRateLimit::default()
    }
}

fn filters(of: &[Any]) -> HashMap<String, Any> {
    of.iter().enumerate().map(|(i, any)| (format!("f{i}"), any.clone())).collect()
}

#[test]
fn the_most_specific_level_says_what_a_filter_does() {
    let quarter = Duration::from_millis(250);
    let disabled = LocalRateLimit { filter_enabled: None, ..limit(9) };
    let optional = |inner| {
        any(&FilterConfig { config: Some(inner), is_optional: true, ..FilterConfig::default() })
    };
    let off = FilterConfig { disabled: true, ..FilterConfig::default() };
    for (of_table, of_host, of_route, tokens) in [
        (vec![], vec![], vec![], None),
        (vec![any(&limit(1))], vec![], vec![], Some(1)),
        (vec![any(&limit(1))], vec![any(&limit(2))], vec![], Some(2)),
        (vec![any(&limit(1))], vec![any(&limit(2))], vec![any(&limit(3))], Some(3)),
        // It limits nothing: the route has none.
        (vec![any(&limit(1))], vec![], vec![any(&disabled)], None),
        (vec![], vec![], vec![optional(any(&limit(4)))], Some(4)),
        (vec![any(&limit(1))], vec![], vec![any(&off)], None),
    ] {
        let mut table = table(Route {
            typed_per_filter_config: filters(&of_route),
            ..route(Said::Route(action()))
        });
        table.virtual_hosts[0].typed_per_filter_config = filters(&of_host);
        table.typed_per_filter_config = filters(&of_table);
        let got = taken(&table).expect("valid").rate_limit;
        let expected = tokens.map(|tokens| RateLimit::new(tokens, quarter, 429));
        assert_eq!(got.as_deref(), expected.as_ref(), "{of_table:?} {of_host:?} {of_route:?}");
    }
}

#[test]
fn what_filters_cannot_do_is_refused_by_name() {
    let bucket = |change: fn(&mut TokenBucket)| {
        let mut limit = limit(1);
        change(limit.token_bucket.as_mut().expect("a bucket"));
        any(&limit)
    };
    let limited = |change: fn(&mut LocalRateLimit)| {
        let mut limit = limit(1);
        change(&mut limit);
        any(&limit)
    };
    let fault = |change: fn(&mut HttpFault)| {
        let mut fault = HttpFault::default();
        change(&mut fault);
        any(&fault)
    };
    let cors = |change: fn(&mut CorsPolicy)| {
        let mut cors = CorsPolicy::default();
        change(&mut cors);
        any(&cors)
    };
    let session = |change: fn(&mut StatefulSession)| {
        let mut session = StatefulSession::default();
        change(&mut session);
        any(&StatefulSessionPerRoute { r#override: Some(Override::StatefulSession(session)) })
    };
    fn state(config: Any) -> Option<TypedExtensionConfig> {
        Some(TypedExtensionConfig { name: "s".into(), typed_config: Some(config) })
    }
    let mut garbage = any(&limit(1));
    garbage.value = vec![0xff; 3];
    #[rustfmt::skip]
    let cases = [
        (bucket(|b| b.fill_interval = None), ".token_bucket.fill_interval: missing"),
        (bucket(|b| b.tokens_per_fill = Some(UInt32Value { value: 0 })), ".token_bucket.tokens_per_fill: 0 in 1s"),
        (limited(|l| l.descriptors = vec![Default::default()]),
            ".descriptors[0].entries: only one of remote_address, of any value, is supported"),
        (limited(|l| l.descriptors = vec![Default::default(); 2]),
            ".descriptors: only one of remote_address, of any value, is supported"),
        (limited(|l| l.rate_limits = vec![Default::default()]),
            ".descriptors: only one of remote_address, of any value, is supported"),
        (limited(|l| l.local_rate_limit_per_downstream_connection = true),
            ".local_rate_limit_per_downstream_connection: not supported"),
        (fault(|f| f.upstream_cluster = "c".into()), ".upstream_cluster: not supported"),
        (fault(|f| f.max_active_faults = Some(UInt32Value { value: 1 })), ".max_active_faults: not supported"),
        (fault(|f| f.delay = Some(Default::default())), ".delay.fixed_delay: missing"),
        (fault(|f| f.abort = Some(FaultAbort { error_type: Some(ErrorType::HttpStatus(99)), ..Default::default() })),
            ".abort.http_status: 99 is not one of 200 to 599"),
        (fault(|f| f.abort = Some(FaultAbort { error_type: Some(ErrorType::GrpcStatus(17)), ..Default::default() })),
            ".abort.grpc_status: 17 is not one of 0 to 16"),
        (limited(|l| l.enable_x_ratelimit_headers = 1), ".enable_x_ratelimit_headers: not supported"),
        (any(&UInt32Value { value: 1 }), ": not supported"),
        (cors(|c| c.allow_private_network_access = Some(BoolValue { value: true })), ".allow_private_network_access: not supported"),
        (cors(|c| c.allow_methods = "GET\r\nx: y".into()), ".allow_methods: \"GET\\r\\nx: y\""),
        (cors(|c| c.allow_origin_string_match = vec![Default::default()]), ".allow_origin_string_match[0]: missing"),
        (session(|s| s.strict = true), ".stateful_session.strict: not supported"),
        (session(|s| s.session_state = state(any(&UInt32Value { value: 1 }))),
            ".stateful_session.session_state: type.googleapis.com/google.protobuf.UInt32Value is not supported"),
        (session(|s| s.session_state = state(any(&HeaderBasedSessionState { name: "Host".into() }))),
            ".stateful_session.session_state.name: host is not to be changed"),
        (session(|s| s.session_state = state(any(&CookieBasedSessionState::default()))),
            ".stateful_session.session_state.cookie: missing"),
        (session(|s| s.session_state = state(any(&CookieBasedSessionState {
            cookie: Some(Cookie { name: "a=b".into(), ..Cookie::default() }) }))),
            ".stateful_session.session_state.cookie.name: \"a=b\" is none"),
        (any(&StatefulSessionPerRoute::default()), ".override: missing"),
    ];
    let field = "t: virtual_hosts[0].routes[0].typed_per_filter_config[f0]";
    let with = |config: Any| {
        let typed_per_filter_config = filters(&[config]);
        taken(&table(Route { typed_per_filter_config, ..route(Said::Route(action())) }))
    };
    for (config, reason) in cases {
        assert_eq!(with(config), Err(format!("{field}{reason}")));
    }
    let typed_per_filter_config = filters(&[any(&limit(1)), any(&limit(2))]);
    let twice = taken(&table(Route { typed_per_filter_config, ..route(Said::Route(action())) }));
    assert_eq!(twice, Err(format!("{}: f0 asks for one, too", field.replace("f0", "f1"))));
    let refused = with(garbage).expect_err("no message");
    assert!(refused.starts_with(&format!("{field}: ")), "{refused}");
}
