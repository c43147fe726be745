//! Which requests a route takes and what becomes of them, over HTTP/1.1 and HTTP/2.

use std::collections::HashMap;

use portolan_proto::envoy::core::data_source::Specifier;
use portolan_proto::envoy::core::header_value_option::HeaderAppendAction;
use portolan_proto::envoy::core::{
    DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent,
};
use portolan_proto::envoy::fault::FaultDelay;
use portolan_proto::envoy::fault::fault_delay::FaultDelaySecifier;
use portolan_proto::envoy::http_codec::{FractionalPercent, TokenBucket};
use portolan_proto::envoy::http_cors::CorsPolicy;
use portolan_proto::envoy::http_fault::fault_abort::ErrorType;
use portolan_proto::envoy::http_fault::{FaultAbort, HttpFault};
use portolan_proto::envoy::local_ratelimit::LocalRateLimit;
use portolan_proto::envoy::matcher::string_matcher::MatchPattern;
use portolan_proto::envoy::matcher::{RegexMatcher, StringMatcher};
use portolan_proto::envoy::protobuf::{Any, Duration, UInt32Value};
use portolan_proto::envoy::route::header_matcher::HeaderMatchSpecifier;
use portolan_proto::envoy::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use portolan_proto::envoy::route::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use portolan_proto::envoy::route::route::Action;
use portolan_proto::envoy::route::route_action::{ClusterSpecifier, HostRewriteSpecifier};
use portolan_proto::envoy::route::route_match::PathSpecifier;
use portolan_proto::envoy::route::weighted_cluster::ClusterWeight;
use portolan_proto::envoy::route::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, Route, RouteAction,
    RouteMatch, WeightedCluster,
};
use reqwest::{Client, Method};

use crate::backend::{Backend, CHANGED, ENDPOINT, GOT_CHANGED, GOT_HOST, GOT_TARGET};
use crate::control_plane::resources::{
    action, all, any, http_listener, manager, route, static_cluster, table,
};
use crate::control_plane::{CDS, LDS, RDS};
use crate::kit::{ROUTES, World};

/// A proxy with the clusters `a` and `b`, of an endpoint each, and these routes.
async fn world(routes: Vec<Route>) -> (World, Vec<Backend>) {
    let backends = Backend::several(2).await;
    let world = World::start().await;
    let clusters: Vec<_> = ["a", "b"]
        .iter()
        .zip(&backends)
        .map(|(name, backend)| static_cluster(name, &[backend.address]))
        .collect();
    world.plane.set(CDS, all(&clusters));
    world.plane.set(LDS, all(&[http_listener("main", world.http, &manager(ROUTES))]));
    let version = world.plane.set(RDS, all(&[table(ROUTES, routes)]));
    world.plane.acked(RDS, &version).await;
    world.until("the listener serves", |answer| answer.status != 0).await;
    (world, backends)
}

/// A client of each version, which is sent elsewhere and does not go.
fn clients() -> [(&'static str, Client); 2] {
    let builder = || Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
    let one = builder().http1_only().build().expect("a client");
    let two = builder().http2_prior_knowledge().build().expect("a client");
    [("HTTP/1.1", one), ("HTTP/2", two)]
}

fn on(matched: RouteMatch, action: RouteAction) -> Route {
    let prefix = Some(PathSpecifier::Prefix("/".into()));
    let path_specifier = matched.path_specifier.clone().or(prefix);
    let r#match = Some(RouteMatch { path_specifier, ..matched });
    Route { r#match, ..route("/", action) }
}

fn under(path: &str) -> RouteMatch {
    let path_specifier = Some(PathSpecifier::PathSeparatedPrefix(path.into()));
    RouteMatch { path_specifier, ..RouteMatch::default() }
}

fn text(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }
}

fn header(name: &str, pattern: MatchPattern) -> RouteMatch {
    let headers = vec![HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(text(pattern))),
        ..HeaderMatcher::default()
    }];
    RouteMatch { headers, ..RouteMatch::default() }
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher { regex: text.into(), ..RegexMatcher::default() }
}

fn option(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.into(), value: value.into(), ..Default::default() }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    }
}

/// A request by method, target and fields, and the endpoint that is to answer it.
type Case = (&'static str, &'static str, &'static [(&'static str, &'static str)], &'static str);

#[tokio::test(flavor = "multi_thread")]
async fn the_first_route_whose_conditions_all_hold_takes_the_request() {
    let query = |name: &str, value: &str| QueryParameterMatcher {
        name: name.into(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(text(
            MatchPattern::Exact(value.into()),
        ))),
    };
    let expression = RouteMatch {
        path_specifier: Some(PathSpecifier::SafeRegex(regex("/v[0-9]+/items"))),
        ..RouteMatch::default()
    };
    let beta = RouteMatch { query_parameters: vec![query("beta", "1")], ..RouteMatch::default() };
    let routes = vec![
        on(header("x-canary", MatchPattern::Exact("on".into())), action("b")),
        // What a client says of proxies before it is believed by nobody here.
        on(header("x-forwarded-proto", MatchPattern::Exact("https".into())), action("b")),
        on(
            RouteMatch {
                headers: header("x-forwarded-for", MatchPattern::Exact("127.0.0.1".into())).headers,
                ..under("/direct")
            },
            action("b"),
        ),
        on(header(":method", MatchPattern::Exact("PUT".into())), action("b")),
        on(
            header("cookie", MatchPattern::SafeRegex(regex("(.*; )?canary=yes(;.*)?"))),
            action("b"),
        ),
        on(beta, action("b")),
        on(expression, action("b")),
        on(
            RouteMatch {
                headers: header("x-x", MatchPattern::Prefix("1".into())).headers,
                ..under("/both")
            },
            action("b"),
        ),
        route("/", action("a")),
    ];
    let (world, _backends) = world(routes).await;
    let cases: &[Case] = &[
        ("GET", "/", &[], "a"),
        ("GET", "/", &[("x-canary", "on")], "b"),
        ("GET", "/", &[("X-CANARY", "on")], "b"),
        ("GET", "/", &[("x-forwarded-proto", "https")], "a"),
        ("GET", "/direct", &[], "b"),
        ("GET", "/direct", &[("x-forwarded-for", "10.0.0.1")], "a"),
        ("GET", "/", &[("x-canary", "ON")], "a"),
        ("GET", "/", &[("x-canary", "on"), ("x-canary", "off")], "a"),
        ("PUT", "/", &[], "b"),
        ("POST", "/", &[], "a"),
        ("GET", "/", &[("cookie", "canary=yes")], "b"),
        ("GET", "/", &[("cookie", "a=1; canary=yes; b=2")], "b"),
        ("GET", "/", &[("cookie", "a=1"), ("cookie", "canary=yes")], "b"),
        ("GET", "/", &[("cookie", "canary=yesterday")], "a"),
        ("GET", "/?beta=1", &[], "b"),
        ("GET", "/?alpha=2&beta=1", &[], "b"),
        ("GET", "/?beta=0&beta=1", &[], "a"),
        ("GET", "/?xbeta=1", &[], "a"),
        ("GET", "/v12/items", &[], "b"),
        ("GET", "/v12/items?a=b", &[], "b"),
        ("GET", "/v12/items/1", &[], "a"),
        ("GET", "/both/1", &[("x-x", "12")], "b"),
        ("GET", "/both/1", &[("x-x", "21")], "a"),
        ("GET", "/bother", &[("x-x", "12")], "a"),
    ];
    for (version, client) in clients() {
        for (method, path, headers, expected) in cases {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            let mut request = client.request(method, format!("http://{}{path}", world.http));
            for (name, value) in *headers {
                request = request.header(*name, *value);
            }
            let answer = request.send().await.expect("an answer");
            let endpoint = answer.headers().get(ENDPOINT).and_then(|name| name.to_str().ok());
            assert_eq!(endpoint, Some(*expected), "{version} {path} {headers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_changed_on_its_way_and_its_answer_too() {
    use HeaderAppendAction as By;
    let to =
        |prefix_rewrite: &str| RouteAction { prefix_rewrite: prefix_rewrite.into(), ..action("a") };
    let literal = HostRewriteSpecifier::HostRewriteLiteral("inner.shop:8080".into());
    let routes = vec![
        on(under("/old"), to("/new")),
        on(under("/root"), to("/")),
        on(under("/host"), RouteAction { host_rewrite_specifier: Some(literal), ..action("a") }),
        Route {
            request_headers_to_add: vec![option(CHANGED, "set", By::OverwriteIfExistsOrAdd)],
            response_headers_to_add: vec![option("x-answer", "added", By::AppendIfExistsOrAdd)],
            response_headers_to_remove: vec!["X-Got-Forwarded".into()],
            ..on(under("/set"), action("a"))
        },
        Route {
            request_headers_to_add: vec![option(CHANGED, "more", By::AppendIfExistsOrAdd)],
            ..on(under("/add"), action("a"))
        },
        Route {
            request_headers_to_remove: vec![CHANGED.into()],
            ..on(under("/remove"), action("a"))
        },
        route("/", action("a")),
    ];
    let (world, _backends) = world(routes).await;
    let own = world.http.to_string();
    // Asked for; and what the endpoint got: target, host, the field.
    let cases = [
        ("/plain?a=b", "/plain?a=b", &*own, "mine"),
        ("/old", "/new", &own, "mine"),
        ("/old/x?a=b", "/new/x?a=b", &own, "mine"),
        ("/older", "/older", &own, "mine"),
        ("/root/x", "/x", &own, "mine"),
        ("/root?q", "/?q", &own, "mine"),
        ("/host/x", "/host/x", "inner.shop:8080", "mine"),
        ("/set", "/set", &own, "set"),
        ("/add", "/add", &own, "mine,more"),
        ("/remove", "/remove", &own, ""),
    ];
    for (version, client) in clients() {
        for (path, target, host, changed) in cases {
            let request = client.get(format!("http://{own}{path}")).header(CHANGED, "mine");
            let answer = request.send().await.expect("an answer");
            let said = |name: &str| {
                answer.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
            };
            let got = (said(GOT_TARGET), said(GOT_HOST), said(GOT_CHANGED));
            assert_eq!(got, (target, host, changed), "{version} {path}");
            let edited = path == "/set";
            assert_eq!(said("x-answer"), if edited { "added" } else { "" }, "{version} {path}");
            let kept = answer.headers().contains_key("x-got-forwarded");
            assert_eq!(kept, !edited, "{version} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clusters_get_their_shares_and_a_share_its_own_changes() {
    let share = |name: &str, weight| ClusterWeight {
        name: name.into(),
        weight: Some(UInt32Value { value: weight }),
        response_headers_to_add: vec![option(
            "x-answer",
            &format!("by {name}"),
            HeaderAppendAction::AddIfAbsent,
        )],
        ..ClusterWeight::default()
    };
    let weighted = |a, b| {
        let clusters = vec![share("a", a), share("b", b)];
        let specifier =
            ClusterSpecifier::WeightedClusters(WeightedCluster { clusters, ..Default::default() });
        let action = RouteAction { cluster_specifier: Some(specifier), ..RouteAction::default() };
        vec![route("/", action)]
    };
    let (world, _backends) = world(weighted(90, 10)).await;
    const REQUESTS: u32 = 4_000;
    for (version, client) in clients() {
        let mut canary = 0;
        for _ in 0..REQUESTS {
            let answer = client.get(format!("http://{}/", world.http)).send().await;
            let answer = answer.expect("an answer");
            let said = |name: &str| answer.headers()[name].to_str().expect("text").to_owned();
            assert_eq!(said("x-answer"), format!("by {}", said(ENDPOINT)));
            canary += u32::from(said(ENDPOINT) == "b");
        }
        // 400 of them, with a standard deviation of 19: five of those once in two million runs.
        assert!((305..=495).contains(&canary), "{version}: {canary} of {REQUESTS}");
    }
    let version = world.plane.set(RDS, all(&[table(ROUTES, weighted(0, 1))]));
    world.plane.acked(RDS, &version).await;
    world.until("all go to the other", |answer| answer.endpoint == "b").await;
    for _ in 0..200 {
        assert_eq!(world.get("/").await.endpoint, "b");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_sent_elsewhere_or_answered_as_the_route_says() {
    let redirect = |path: &str, action: RedirectAction| Route {
        action: Some(Action::Redirect(action)),
        ..on(under(path), RouteAction::default())
    };
    let direct = |path: &str, status, body: &str| Route {
        action: Some(Action::DirectResponse(DirectResponseAction {
            status,
            body: Some(DataSource {
                specifier: Some(Specifier::InlineString(body.into())),
                ..DataSource::default()
            }),
            ..DirectResponseAction::default()
        })),
        response_headers_to_add: vec![option("x-answer", "ours", HeaderAppendAction::AddIfAbsent)],
        ..on(under(path), RouteAction::default())
    };
    let https = Some(SchemeRewriteSpecifier::HttpsRedirect(true));
    let path = |path: &str| Some(PathRewriteSpecifier::PathRedirect(path.into()));
    let prefix = |path: &str| Some(PathRewriteSpecifier::PrefixRewrite(path.into()));
    let code = i32::from(RedirectResponseCode::PermanentRedirect);
    let routes = vec![
        redirect("/tls", RedirectAction { scheme_rewrite_specifier: https, ..Default::default() }),
        redirect("/host", RedirectAction { host_redirect: "b.shop".into(), ..Default::default() }),
        redirect(
            "/port",
            RedirectAction { port_redirect: 8443, response_code: code, ..Default::default() },
        ),
        redirect(
            "/whole",
            RedirectAction {
                path_rewrite_specifier: path("/x"),
                strip_query: true,
                ..Default::default()
            },
        ),
        redirect(
            "/part",
            RedirectAction { path_rewrite_specifier: prefix("/x"), ..Default::default() },
        ),
        direct("/no", 403, "not for you\n"),
        direct("/empty", 204, "of no use"),
        Route {
            response_headers_to_add: vec![option(
                "content-type",
                "text/html",
                HeaderAppendAction::AppendIfExistsOrAdd,
            )],
            ..direct("/page", 200, "<p>")
        },
        Route {
            response_headers_to_add: vec![option(
                "x-answer",
                "ours",
                HeaderAppendAction::AddIfAbsent,
            )],
            ..on(under("/gone"), action("nowhere"))
        },
        route("/", action("a")),
    ];
    let (world, _backends) = world(routes).await;
    let own = world.http.to_string();
    let port = world.http.port();
    let cases = [
        ("/tls/x?a=b", 301, format!("https://127.0.0.1:{port}/tls/x?a=b")),
        ("/host/x", 301, "http://b.shop/host/x".to_owned()),
        ("/port", 308, "http://127.0.0.1:8443/port".to_owned()),
        ("/whole/1?a=b", 301, format!("http://127.0.0.1:{port}/x")),
        ("/part/1?a=b", 301, format!("http://127.0.0.1:{port}/x/1?a=b")),
    ];
    for (version, client) in clients() {
        for (path, status, location) in &cases {
            let answer = client.get(format!("http://{own}{path}")).send().await.expect("one");
            let said = answer.headers()["location"].to_str().expect("text");
            assert_eq!(
                (answer.status().as_u16(), said),
                (*status, &**location),
                "{version} {path}"
            );
            assert_eq!(answer.headers()["x-portolan-reason"], "redirect", "{version} {path}");
        }
        for (path, status, body) in [("/no", 403, "not for you\n"), ("/empty", 204, "")] {
            let answer = client.get(format!("http://{own}{path}")).send().await.expect("one");
            assert_eq!(answer.status().as_u16(), status, "{version} {path}");
            assert_eq!(answer.headers()["x-portolan-reason"], "direct_response");
            assert_eq!(answer.headers()["x-answer"], "ours");
            assert_eq!(answer.text().await.expect("a body"), body, "{version} {path}");
        }
        // For gRPC an answer of the proxy's is a status.
        let asked =
            client.post(format!("http://{own}/no")).header("content-type", "application/grpc");
        let answer = asked.send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200, "{version}");
        assert_eq!(answer.headers()["grpc-status"], "7", "{version}: PERMISSION_DENIED");
        assert_eq!(answer.headers()["x-answer"], "ours", "{version}");
        let answer = client.head(format!("http://{own}/no")).send().await.expect("an answer");
        assert_eq!(answer.headers()["content-length"], "12", "{version}");
        assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
        let answer = client.get(format!("http://{own}/page")).send().await.expect("an answer");
        let kinds: Vec<_> = answer.headers().get_all("content-type").iter().collect();
        assert_eq!(kinds, ["text/html"], "{version}");
        // A route to nowhere: the answer is the proxy's, the changes are the route's.
        let answer = client.get(format!("http://{own}/gone")).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 503, "{version}");
        assert_eq!(answer.headers()["x-answer"], "ours", "{version}");
    }
}

/// Messages for filters, by the names that those have in Envoy.
fn asked(of: &[(&str, Any)]) -> HashMap<String, Any> {
    of.iter().map(|(name, any)| (format!("envoy.filters.http.{name}"), any.clone())).collect()
}

fn percent(numerator: u32) -> FractionalPercent {
    FractionalPercent { numerator, denominator: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_takes_as_many_requests_as_its_limit_allows() {
    let all_of_them = || {
        let default_value = Some(percent(100));
        Some(RuntimeFractionalPercent { default_value, ..RuntimeFractionalPercent::default() })
    };
    let limit = LocalRateLimit {
        stat_prefix: "limit".into(),
        token_bucket: Some(TokenBucket {
            max_tokens: 20,
            tokens_per_fill: Some(UInt32Value { value: 1 }),
            fill_interval: Some(Duration { seconds: 3600, nanos: 0 }),
        }),
        filter_enabled: all_of_them(),
        filter_enforced: all_of_them(),
        rate_limited_as_resource_exhausted: true,
        ..LocalRateLimit::default()
    };
    let routes = || {
        let limited = Route {
            typed_per_filter_config: asked(&[("local_ratelimit", any(&limit))]),
            ..on(under("/limited"), action("a"))
        };
        vec![limited, route("/", action("a"))]
    };
    let (world, _backends) = world(routes()).await;
    let own = world.http;
    // All workers of the proxy take from one bucket, whatever the version.
    let [(_, one), (_, two)] = clients();
    let get = |client: &Client, path: &str| client.get(format!("http://{own}{path}")).send();
    let (mut passed, mut refused) = (0, 0);
    for n in 0..60 {
        let answer = get(if n % 2 == 0 { &one } else { &two }, "/limited").await.expect("one");
        match answer.status().as_u16() {
            200 => passed += 1,
            429 => {
                assert_eq!(answer.headers()["x-portolan-reason"], "rate_limited");
                refused += 1;
            }
            other => panic!("{other}"),
        }
        assert_eq!(get(&one, "/other").await.expect("one").status().as_u16(), 200);
    }
    assert_eq!((passed, refused), (20, 40));
    // The same table again is no new bucket.
    world.plane.set(LDS, all(&[http_listener("main", world.http, &manager(ROUTES))]));
    let version = world.plane.set(RDS, all(&[table(ROUTES, routes())]));
    world.plane.acked(RDS, &version).await;
    assert_eq!(get(&one, "/limited").await.expect("one").status().as_u16(), 429);
    let grpc = two.post(format!("http://{own}/limited")).header("content-type", "application/grpc");
    let answer = grpc.send().await.expect("an answer");
    assert_eq!(answer.headers()["grpc-status"], "8", "RESOURCE_EXHAUSTED");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_meet_the_requests_they_are_for() {
    let delay = FaultDelay {
        percentage: Some(percent(100)),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(Duration {
            seconds: 0,
            nanos: 300_000_000,
        })),
    };
    let abort = |part, with| FaultAbort {
        percentage: Some(percent(part)),
        error_type: Some(with),
        ..FaultAbort::default()
    };
    let faulty = |path: &str, fault: HttpFault| Route {
        typed_per_filter_config: asked(&[("fault", any(&fault))]),
        ..on(under(path), action("a"))
    };
    let for_some = header("x-fault", MatchPattern::Exact("yes".into())).headers;
    let routes = vec![
        // The route's own time begins after the delay.
        Route {
            action: Some(Action::Route(RouteAction {
                timeout: Some(Duration { seconds: 0, nanos: 200_000_000 }),
                ..action("a")
            })),
            ..faulty("/slow", HttpFault { delay: Some(delay), ..HttpFault::default() })
        },
        Route {
            action: Some(Action::DirectResponse(DirectResponseAction {
                status: 200,
                ..DirectResponseAction::default()
            })),
            ..faulty(
                "/said",
                HttpFault {
                    abort: Some(abort(100, ErrorType::HttpStatus(500))),
                    ..HttpFault::default()
                },
            )
        },
        faulty(
            "/teapot",
            HttpFault {
                abort: Some(abort(100, ErrorType::HttpStatus(418))),
                headers: for_some,
                ..HttpFault::default()
            },
        ),
        faulty(
            "/grpc",
            HttpFault { abort: Some(abort(100, ErrorType::GrpcStatus(10))), ..Default::default() },
        ),
        faulty(
            "/half",
            HttpFault { abort: Some(abort(50, ErrorType::HttpStatus(503))), ..Default::default() },
        ),
        route("/", action("a")),
    ];
    let (world, _backends) = world(routes).await;
    let own = world.http;
    for (version, client) in clients() {
        let get = |path: &str| client.get(format!("http://{own}{path}"));
        let started = std::time::Instant::now();
        let answer = get("/slow").send().await.expect("one");
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()[ENDPOINT]),
            (200, &"a".parse().expect("text"))
        );
        assert!(started.elapsed() >= std::time::Duration::from_millis(300), "{version}");
        for (fields, status, reason) in
            [(Some("yes"), 418, "fault"), (Some("no"), 200, ""), (None, 200, "")]
        {
            let request =
                fields.iter().fold(get("/teapot"), |r, value| r.header("x-fault", *value));
            let answer = request.send().await.expect("one");
            let said = answer.headers().get("x-portolan-reason").and_then(|r| r.to_str().ok());
            let seen = (answer.status().as_u16(), said.unwrap_or_default());
            assert_eq!(seen, (status, reason), "{version} {fields:?}");
        }
        assert_eq!(get("/said").send().await.expect("one").status().as_u16(), 500, "{version}");
        let answer = get("/grpc").header("content-type", "application/grpc").send().await;
        let answer = answer.expect("one");
        assert_eq!(
            (answer.status().as_u16(), answer.headers()["grpc-status"].as_bytes()),
            (200, &b"10"[..])
        );
        let mut failed = 0;
        for _ in 0..1_000 {
            failed += u32::from(get("/half").send().await.expect("one").status() == 503);
        }
        // 500, with a standard deviation of 16: six of those once in 500 million runs.
        assert!((405..=595).contains(&failed), "{version}: {failed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_may_read_what_a_route_lets_them() {
    let cors = CorsPolicy {
        allow_origin_string_match: vec![text(MatchPattern::Exact("https://a.test".into()))],
        allow_methods: "GET".into(),
        ..CorsPolicy::default()
    };
    let marked = |path: &str, said: Action| Route {
        typed_per_filter_config: asked(&[("cors", any(&cors))]),
        action: Some(said),
        ..on(under(path), action("a"))
    };
    let gone = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster("nobody".into())),
        ..RouteAction::default()
    };
    let away = RedirectAction { host_redirect: "b.test".into(), ..RedirectAction::default() };
    let routes = vec![
        marked("/there", Action::Route(action("a"))),
        marked("/gone", Action::Route(gone)),
        marked("/away", Action::Redirect(away)),
        route("/", action("b")),
    ];
    let (world, _backends) = world(routes).await;
    let own = world.http;
    for (version, client) in clients() {
        // What the proxy answers itself is read by pages, too.
        for (path, origin, status, allowed) in [
            ("/there", "https://a.test", 200, true),
            ("/gone", "https://a.test", 503, true),
            ("/away", "https://a.test", 301, true),
            ("/there", "https://b.test", 200, false),
            ("/", "https://a.test", 200, false),
        ] {
            let request = client.get(format!("http://{own}{path}")).header("origin", origin);
            let answer = request.send().await.expect("one");
            let said = answer.headers().get("access-control-allow-origin");
            let said = said.and_then(|said| said.to_str().ok());
            let seen = (answer.status().as_u16(), said);
            assert_eq!(seen, (status, allowed.then_some(origin)), "{version} {path} {origin}");
        }
        // By Envoy's default a preflight of another origin is the endpoint's to answer.
        for (origin, by) in [("https://a.test", None), ("https://b.test", Some("a"))] {
            let url = format!("http://{own}/there");
            let request = client.request(Method::OPTIONS, url).header("origin", origin);
            let request = request.header("access-control-request-method", "GET");
            let answer = request.send().await.expect("one");
            assert_eq!(answer.status(), 200, "{version} {origin}");
            let endpoint = answer.headers().get(ENDPOINT).and_then(|name| name.to_str().ok());
            assert_eq!(endpoint, by, "{version} {origin}");
        }
    }
}
