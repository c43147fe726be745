//! Annotations -> policy, setting by setting, and what is said of those that are wrong.

use std::num::NonZeroU32;
use std::time::Duration;

use portolan_model::AppProtocol;
use portolan_model::policy::{
    Account, BackOff, Balancer, CircuitBreaker, Connections, FailurePercentage, HashOn,
    HealthCheck, Inbound, MutualTls, OutlierDetection, Probe, Retries, RetryBudget, RetryOn,
    TlsMode, Tuning,
};
use portolan_model::traffic::{AdaptiveConcurrency, ProxyHeader, SlowStart, SuccessRate};

use super::*;

fn read(annotations: &[(&str, &str)]) -> (Policy, Vec<ServicePort>, Vec<String>) {
    let annotations: BTreeMap<String, String> = (annotations.iter())
        .map(|(n, v)| (format!("{PREFIX}{n}"), (*v).to_owned()))
        .chain([("other.dev/x".to_owned(), "y".to_owned())])
        .collect();
    let mut ports = vec![
        ServicePort::new("web", Protocol::Tcp, 80),
        ServicePort::new("dns", Protocol::Udp, 53),
        ServicePort::new("", Protocol::Tcp, 9000),
    ];
    let mut warnings = Vec::new();
    let targets = [Some(8080), Some(53), None];
    let policy = convert(annotations.iter(), &mut ports, &targets, &mut warnings);
    let prefix = format!("metadata.annotations[{PREFIX}");
    let said = warnings.iter().map(|w| {
        let field = w.field.as_deref().unwrap_or_default();
        let name = field.strip_prefix(&prefix).and_then(|f| f.strip_suffix(']'));
        format!("{}: {}", name.expect("an annotation of ours"), w.reason)
    });
    (policy.expect("taken"), ports, said.collect())
}

#[test]
fn every_setting_is_read() {
    let ms = Duration::from_millis;
    let (policy, ports, warnings) = read(&[
        ("balancer", "ring_hash"),
        ("hash-on", "header:X-User"),
        ("connect-timeout", "250ms"),
        ("request-timeout", "1.5s"),
        ("idle-timeout", "2m"),
        ("retry-attempts", "3"),
        ("retry-on", "5xx, unavailable,5xx, retriable-status-codes"),
        ("retry-status-codes", "429, 409,429"),
        ("retry-per-try-timeout", "1s"),
        ("retry-hedge", "true"),
        ("retry-back-off", "25ms"),
        ("retry-back-off-max", "1s"),
        ("health-check", "http:/healthz?deep=1"),
        ("health-check-interval", "5s"),
        ("health-check-timeout", "1s"),
        ("health-check-healthy-threshold", "1"),
        ("health-check-unhealthy-threshold", "4"),
        ("outlier-consecutive-errors", "7"),
        ("outlier-consecutive-gateway-errors", "8"),
        ("outlier-consecutive-local-errors", "9"),
        ("outlier-success-rate-stdev", "1.9"),
        ("outlier-max-ejection-time", "2h"),
        ("outlier-ejection-jitter", "10s"),
        ("outlier-failure-percent", "60"),
        ("outlier-minimum-hosts", "5"),
        ("outlier-request-volume", "50"),
        ("outlier-interval", "3s"),
        ("outlier-ejection-time", "1h"),
        ("outlier-max-percent", "50"),
        ("max-connections", "100"),
        ("max-pending-requests", "200"),
        ("max-requests", "300"),
        ("max-retries", "4"),
        ("hash-balance-percent", "125"),
        ("panic-percent", "0"),
        ("connection-idle-timeout", "90s"),
        ("connection-max-age", "10m"),
        ("connection-max-requests", "1000"),
        ("proxy-protocol", "v2"),
        ("adaptive-concurrency", "on"),
        ("adaptive-concurrency-min", "5"),
        ("adaptive-concurrency-max", "500"),
        ("adaptive-concurrency-interval", "200ms"),
        ("adaptive-concurrency-min-rtt-interval", "30s"),
        ("adaptive-concurrency-tolerance-percent", "50"),
        ("mtls", "strict"),
        ("service-accounts", "web, other/api"),
        ("app-port.web", "9080"),
        ("protocol", "http"),
        ("protocol.9000", "grpc"),
    ]);
    assert_eq!(warnings, [""; 0]);
    let expected = Policy {
        balancer: Some(Balancer::RingHash),
        hash_on: Some(HashOn::Header("x-user".to_owned())),
        timeouts: Timeouts {
            connect: Some(ms(250)),
            request: Some(ms(1500)),
            idle: Some(ms(120_000)),
        },
        retries: Some(Retries {
            attempts: 3,
            on: vec![RetryOn::ServerError, RetryOn::Unavailable, RetryOn::StatusCodes],
            status_codes: vec![409, 429],
            per_try_timeout: Some(ms(1000)),
            back_off: Some(BackOff { base: ms(25), max: ms(1000) }),
            hedge: true,
        }),
        health_check: Some(HealthCheck {
            probe: Probe::Http("/healthz?deep=1".to_owned()),
            interval: ms(5000),
            timeout: ms(1000),
            healthy_threshold: 1,
            unhealthy_threshold: 4,
        }),
        outlier_detection: Some(OutlierDetection {
            consecutive_errors: Some(7),
            consecutive_gateway_errors: Some(8),
            consecutive_local_errors: Some(9),
            failure_percentage: Some(FailurePercentage {
                threshold: 60,
                minimum_hosts: 5,
                request_volume: 50,
            }),
            success_rate: Some(SuccessRate {
                stdev_factor_milli: 1900,
                minimum_hosts: 5,
                request_volume: 50,
            }),
            interval: ms(3000),
            ejection_time: ms(3_600_000),
            max_ejection_time: Some(ms(7_200_000)),
            ejection_jitter: Some(ms(10_000)),
            max_percent: 50,
        }),
        circuit_breaker: CircuitBreaker {
            connections: Some(100),
            pending_requests: Some(200),
            requests: Some(300),
            retries: Some(4),
        },
        retry_budget: None,
        adaptive_concurrency: Some(AdaptiveConcurrency {
            min: 5,
            max: 500,
            interval: ms(200),
            min_rtt_interval: ms(30_000),
            tolerance_percent: 50,
        }),
        tuning: Tuning {
            slow_start: None,
            choices: None,
            hash_balance_factor: Some(125),
            panic_threshold: Some(0),
        },
        connections: Connections {
            idle_timeout: Some(ms(90_000)),
            max_age: Some(ms(600_000)),
            max_requests: NonZeroU32::new(1000),
            send_proxy: Some(ProxyHeader::V2),
        },
        mutual_tls: Some(MutualTls {
            mode: TlsMode::Strict,
            accounts: vec![
                Account { namespace: None, name: "web".into() },
                Account { namespace: Some("other".into()), name: "api".into() },
            ],
        }),
        inbound: [(80, Inbound { listens: 8080, app: 9080 })].into(),
    };
    assert_eq!(policy, expected);
    let protocols: Vec<_> = ports.into_iter().map(|p| p.app_protocol).collect();
    assert_eq!(protocols, [Some(AppProtocol::Http1), None, Some(AppProtocol::Http2)]);
}

#[test]
fn a_bad_value_costs_its_own_setting_and_says_what_would_be_right() {
    let cases: &[(&str, &str, &str)] = &[
        (
            "balancer",
            "rr",
            "\"rr\" is not one of peak_ewma, least_request, round_robin, ring_hash, maglev, client_side_weighted_round_robin, pick_first, random",
        ),
        (
            "hash-on",
            "header",
            "\"header\" is not header:NAME, cookie:NAME, cookie:NAME:TIME, source-ip or path",
        ),
        (
            "hash-on",
            "header:x user",
            "\"header:x user\" is not header:NAME, cookie:NAME, cookie:NAME:TIME, source-ip or path",
        ),
        (
            "hash-on",
            "source-ip:4",
            "\"source-ip:4\" is not header:NAME, cookie:NAME, cookie:NAME:TIME, source-ip or path",
        ),
        ("hash-on", "cookie:", "\"\" is no name of a cookie"),
        ("hash-on", "cookie:a;b", "\"a;b\" is no name of a cookie"),
        ("hash-on", "cookie:a:0s", "\"0s\" is not above 0 and at most 24h"),
        ("connect-timeout", "5", "\"5\" is not a time such as 250ms, 1.5s, 2m or 1h"),
        ("connect-timeout", "-5s", "\"-5s\" is not a time such as 250ms, 1.5s, 2m or 1h"),
        ("connect-timeout", "0s", "\"0s\" is not above 0 and at most 24h"),
        ("connect-timeout", "25h", "\"25h\" is not above 0 and at most 24h"),
        ("retry-attempts", "11", "\"11\" is not a whole number in 0..=10"),
        (
            "retry-on",
            "always",
            "\"always\" is not one of connect-failure, refused-stream, reset, reset-before-request, gateway-error, 5xx, retriable-4xx, retriable-status-codes, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable",
        ),
        ("retry-on", " , ", "names no reason"),
        ("retry-status-codes", "409,1000", "\"1000\" is not a status in 200..=599"),
        ("retry-status-codes", ",", "names no status"),
        ("retry-per-try-timeout", "1s", "has no effect without portolan.dev/retry-attempts"),
        ("retry-back-off", "25ms", "has no effect without portolan.dev/retry-attempts"),
        ("retry-hedge", "true", "has no effect without portolan.dev/retry-attempts"),
        ("health-check", "http:no", "\"http:no\" is not tcp, grpc or http:/path"),
        ("health-check", "http:/a b", "\"http:/a b\" is not tcp, grpc or http:/path"),
        ("health-check-timeout", "1s", "has no effect without portolan.dev/health-check"),
        ("outlier-consecutive-errors", "0", "\"0\" is not a whole number in 1..=1000000000"),
        (
            "outlier-max-percent",
            "5",
            "has no effect without portolan.dev/outlier-consecutive-errors, -consecutive-gateway-errors, -consecutive-local-errors, -failure-percent or -success-rate-stdev",
        ),
        ("outlier-success-rate-stdev", "0", "\"0\" is not a number in 0.001..=10"),
        ("outlier-success-rate-stdev", "11", "\"11\" is not a number in 0.001..=10"),
        ("outlier-success-rate-stdev", "NaN", "\"NaN\" is not a number in 0.001..=10"),
        ("slow-start", "0s", "\"0s\" is not above 0 and at most 24h"),
        ("slow-start-aggression", "2", "has no effect without portolan.dev/slow-start"),
        ("balancer-choices", "1", "\"1\" is not a whole number in 2..=10"),
        ("hash-balance-percent", "99", "\"99\" is not a whole number in 100..=1000"),
        ("panic-percent", "101", "\"101\" is not a whole number in 0..=100"),
        ("connection-max-requests", "0", "\"0\" is not a whole number in 1..=1000000000"),
        ("connection-max-age", "2d", "\"2d\" is not a time such as 250ms, 1.5s, 2m or 1h"),
        ("proxy-protocol", "yes", "\"yes\" is not v1 or v2"),
        ("retry-budget-percent", "200", "\"200\" is not a whole number in 0..=100"),
        ("adaptive-concurrency", "maybe", "\"maybe\" is not on or off"),
        (
            "adaptive-concurrency-max",
            "9",
            "has no effect without portolan.dev/adaptive-concurrency",
        ),
        ("outlier-failure-percent", "0", "\"0\" is not a whole number in 1..=100"),
        ("outlier-failure-percent", "101", "\"101\" is not a whole number in 1..=100"),
        ("max-requests", "many", "\"many\" is not a whole number in 1..=1000000000"),
        ("protocol", "spdy", "\"spdy\" is not http, http2, grpc or tcp"),
        ("protocol.web", "spdy", "\"spdy\" is not http, http2, grpc or tcp"),
        ("protocol.nope", "http", "there is no TCP port \"nope\""),
        ("protocol.dns", "http", "there is no TCP port \"dns\""),
        ("health-check", "grpc", "no port speaks HTTP/2, which gRPC needs"),
    ];
    for (name, value, reason) in cases {
        let (policy, _, warnings) = read(&[(name, value), ("max-connections", "9")]);
        assert_eq!(warnings, [format!("{name}: {reason}")]);
        let connections = CircuitBreaker { connections: Some(9), ..CircuitBreaker::default() };
        let rest = Policy { circuit_breaker: connections, ..Policy::default() };
        assert_eq!(policy, rest, "{name} falls back and nothing else does");
    }
    let (_, _, warnings) = read(&[("balancr", "round_robin")]);
    assert!(warnings[0].starts_with("balancr: unknown setting; known: adaptive-"));
}

#[test]
fn requests_are_told_apart_by_header_cookie_or_address() {
    let cookie = |name: &str, secs: Option<u64>| HashOn::Cookie {
        name: name.to_owned(),
        ttl: secs.map(Duration::from_secs),
    };
    let cases = [
        ("header:X-Session-Id", HashOn::Header("x-session-id".to_owned())),
        ("cookie:JSESSIONID", cookie("JSESSIONID", None)),
        ("cookie:portolan:1h", cookie("portolan", Some(3600))),
        ("source-ip", HashOn::SourceIp),
        ("path", HashOn::Path),
    ];
    for (text, expected) in cases {
        let (policy, _, warnings) = read(&[("hash-on", text)]);
        assert_eq!((policy.hash_on, policy.balancer), (Some(expected), None), "{text}");
        assert_eq!(warnings, [""; 0], "{text}");
    }
}

#[test]
fn what_has_no_effect_beside_another_setting_is_said() {
    let (policy, _, warnings) = read(&[("balancer", "random"), ("hash-on", "source-ip")]);
    assert_eq!(warnings, ["hash-on: has no effect with portolan.dev/balancer random"]);
    assert_eq!((policy.balancer, policy.hash_on), (Some(Balancer::Random), None));

    let (policy, _, warnings) =
        read(&[("outlier-consecutive-errors", "5"), ("outlier-minimum-hosts", "3")]);
    let reason =
        "has no effect without portolan.dev/outlier-failure-percent or outlier-success-rate-stdev";
    assert_eq!(warnings, [format!("outlier-minimum-hosts: {reason}")]);
    let outlier = policy.outlier_detection.expect("by consecutive errors");
    assert_eq!(outlier.failure_percentage, None);
}

#[test]
fn failures_are_judged_by_share_alone_from_few_endpoints_and_requests_on() {
    let (policy, _, warnings) = read(&[("outlier-failure-percent", "50")]);
    assert_eq!(warnings, [""; 0]);
    let outlier = policy.outlier_detection.expect("by share");
    let judged = FailurePercentage { threshold: 50, minimum_hosts: 2, request_volume: 20 };
    assert_eq!((outlier.consecutive_errors, outlier.failure_percentage), (None, Some(judged)));
}

#[test]
fn no_attempts_are_no_retries() {
    assert_eq!(read(&[("retry-attempts", "0"), ("retry-on", "5xx")]).0.retries, None);
    assert_eq!(read(&[("retry-on", "5xx")]).0.retries.map(|r| r.attempts), Some(2));
}

#[test]
fn status_codes_and_their_word_go_together() {
    use RetryOn::{ConnectFailure, RefusedStream, ServerError, StatusCodes, Unavailable};
    let given = |annotations: &[(&str, &str)]| {
        let (policy, _, warnings) = read(annotations);
        (policy.retries.map(|r| (r.on, r.status_codes)), warnings)
    };
    let hedged = |given: &[(&str, &str)]| {
        let (policy, _, warnings) = read(given);
        (policy.retries.is_some_and(|retries| retries.hedge), warnings)
    };
    let (attempts, each) = (("retry-attempts", "1"), ("retry-per-try-timeout", "1s"));
    let warned = |text: &str| vec![format!("retry-hedge: {text}")];
    assert_eq!(hedged(&[attempts, each]), (false, vec![]));
    assert_eq!(hedged(&[attempts, each, ("retry-hedge", "on")]), (true, vec![]));
    let without = warned("has no effect without portolan.dev/retry-per-try-timeout");
    assert_eq!(hedged(&[attempts, ("retry-hedge", "on")]), (false, without));
    let unread = warned("\"often\" is not on or off");
    assert_eq!(hedged(&[attempts, each, ("retry-hedge", "often")]), (false, unread));
    let (codes, word) = (("retry-status-codes", "409"), "retriable-status-codes");
    let default = vec![ConnectFailure, RefusedStream, Unavailable, StatusCodes];
    assert_eq!(given(&[codes]), (Some((default, vec![409])), vec![]), "the list says it all");
    let both = (Some((vec![ServerError, StatusCodes], vec![409])), vec![]);
    assert_eq!(given(&[("retry-on", "5xx"), codes]), both);
    let warning = format!("retry-on: {word} has no effect without portolan.dev/retry-status-codes");
    let without = (Some((vec![ServerError], vec![])), vec![warning.clone()]);
    assert_eq!(given(&[("retry-on", "5xx,retriable-status-codes")]), without);
    assert_eq!(given(&[("retry-on", word)]), (None, vec![warning]));
}

#[test]
fn settings_of_a_balancer_are_for_those_that_have_a_use_for_them() {
    let start = ("slow-start", "30s");
    let (choices, factor) = (("balancer-choices", "3"), ("hash-balance-percent", "150"));
    // The balancer, what it has a use for of these three, in this order.
    let cases = [
        (None, [true, true, true]),
        (Some("peak_ewma"), [true, true, false]),
        (Some("least_request"), [true, true, false]),
        (Some("round_robin"), [true, false, false]),
        (Some("client_side_weighted_round_robin"), [true, false, false]),
        (Some("ring_hash"), [false, false, true]),
        (Some("maglev"), [false, false, true]),
        (Some("pick_first"), [false, false, false]),
        (Some("random"), [false, false, false]),
    ];
    for (balancer, used) in cases {
        let named = balancer.map(|word| ("balancer", word));
        let given: Vec<_> = [start, choices, factor].into_iter().chain(named).collect();
        let (policy, _, warnings) = read(&given);
        let tuning = policy.tuning;
        let got = [
            tuning.slow_start.is_some(),
            tuning.choices.is_some(),
            tuning.hash_balance_factor.is_some(),
        ];
        assert_eq!(got, used, "{balancer:?}");
        let unused = used.iter().filter(|used| !**used).count();
        assert_eq!(warnings.len(), unused, "{balancer:?}: {warnings:?}");
        let reason = "has no effect with this balancer";
        assert!(warnings.iter().all(|warning| warning.ends_with(reason)), "{warnings:?}");
    }
    let given = [start, ("slow-start-aggression", "2"), ("slow-start-min-percent", "5")];
    let whole = read(&given).0.tuning.slow_start;
    let window = Duration::from_secs(30);
    let of = |milli, percent| {
        let aggression_milli = NonZeroU32::new(milli).expect("above 0");
        Some(SlowStart { window, aggression_milli, min_weight_percent: percent })
    };
    assert_eq!((whole, read(&[start]).0.tuning.slow_start), (of(2000, 5), of(1000, 10)));
}

#[test]
fn retries_are_limited_by_number_or_by_budget() {
    let budget = |percent, minimum| Some(RetryBudget { percent, minimum });
    let (share, least) = (("retry-budget-percent", "25"), ("retry-budget-min", "10"));
    for (given, expected) in [
        (vec![share], budget(25, 3)),
        (vec![least], budget(20, 10)),
        (vec![share, least], budget(25, 10)),
        (vec![("retry-budget-percent", "0")], budget(0, 3)),
    ] {
        let (policy, _, warnings) = read(&given);
        assert_eq!((policy.retry_budget, warnings.len()), (expected, 0), "{given:?}");
    }
    let (policy, _, warnings) = read(&[share, ("max-retries", "5")]);
    let reason = "has no effect with portolan.dev/retry-budget-percent";
    assert_eq!(warnings, [format!("max-retries: {reason}")]);
    assert_eq!(policy.circuit_breaker, CircuitBreaker::default());
}

#[test]
fn adaptive_concurrency_has_a_default_for_all_of_it() {
    let (policy, _, warnings) = read(&[("adaptive-concurrency", "on")]);
    assert_eq!(warnings, [""; 0]);
    let adaptive = policy.adaptive_concurrency.expect("on");
    assert_eq!((adaptive.min, adaptive.max), (3, 1000));
    let (policy, _, _) = read(&[("adaptive-concurrency", "on"), ("adaptive-concurrency-max", "2")]);
    let adaptive = policy.adaptive_concurrency.expect("on");
    assert_eq!((adaptive.min, adaptive.max), (2, 2), "no more than the most");
    assert_eq!(read(&[("adaptive-concurrency", "off")]).0.adaptive_concurrency, None);
}
