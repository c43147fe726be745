//! Annotations under `portolan.dev/` -> policy. A bad value costs its own setting alone.

use std::collections::BTreeMap;
use std::time::Duration;

use portolan_model::policy::{
    Balancer, CircuitBreaker, FailurePercentage, HashOn, HealthCheck, OutlierDetection, Policy,
    Probe, Retries, RetryOn, Timeouts,
};
use portolan_model::{AppProtocol, Protocol, ServicePort};

use crate::object::Fault;

/// Prefix of the annotations that hold what Kubernetes has no field for.
pub const PREFIX: &str = "portolan.dev/";

/// Longest time any setting may name.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// Most tries after the first.
const MAX_ATTEMPTS: u32 = 10;
/// Tries after the first where only the reasons are given.
const DEFAULT_ATTEMPTS: u32 = 2;

/// Endpoints that must have had enough requests before their failures are judged. Fewer than
/// Envoy's and gRPC's five, for the many services of two or three endpoints.
const MINIMUM_HOSTS: u32 = 2;
/// Requests in an interval below which an endpoint is not judged. Fewer than their fifty, since
/// every gRPC client counts its own alone.
const REQUEST_VOLUME: u32 = 20;

/// Most things that are said of one object, and longest reason in bytes.
const MAX_WARNINGS: usize = 32;
const MAX_REASON: usize = 1000;

/// Settings that are known, for the message about one that is not.
const KNOWN: &[&str] = &[
    "balancer",
    "connect-timeout",
    "hash-on",
    "health-check",
    "health-check-healthy-threshold",
    "health-check-interval",
    "health-check-timeout",
    "health-check-unhealthy-threshold",
    "idle-timeout",
    "max-connections",
    "max-pending-requests",
    "max-requests",
    "max-retries",
    "outlier-consecutive-errors",
    "outlier-ejection-time",
    "outlier-failure-percent",
    "outlier-interval",
    "outlier-max-percent",
    "outlier-minimum-hosts",
    "outlier-request-volume",
    "protocol",
    "request-timeout",
    "retry-attempts",
    "retry-on",
    "retry-per-try-timeout",
];

/// What stands behind `protocol`, and behind `protocol.<port>` for one port by name or number.
const PROTOCOL: &str = "protocol";
const PROTOCOL_OF_PORT: &str = "protocol.";

/// Reads the policy, and the protocols that override those of the ports.
pub(super) fn convert<'a>(
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
    ports: &mut [ServicePort],
    warnings: &mut Vec<Fault>,
) -> Policy {
    let mut settings = Settings { values: BTreeMap::new(), warnings };
    for (name, value) in annotations {
        if let Some(setting) = name.strip_prefix(PREFIX) {
            settings.values.insert(setting, value);
        }
    }
    if settings.values.is_empty() {
        return Policy::default();
    }
    settings.refuse_unknown();
    settings.protocols(ports);
    let (balancer, hash_on) = settings.balancing();
    Policy {
        balancer,
        hash_on,
        timeouts: Timeouts {
            connect: settings.take("connect-timeout", duration),
            request: settings.take("request-timeout", duration),
            idle: settings.take("idle-timeout", duration),
        },
        retries: settings.retries(),
        health_check: settings.health_check(ports),
        outlier_detection: settings.outlier_detection(),
        circuit_breaker: CircuitBreaker {
            connections: settings.take("max-connections", count),
            pending_requests: settings.take("max-pending-requests", count),
            requests: settings.take("max-requests", count),
            retries: settings.take("max-retries", count),
        },
    }
}

struct Settings<'a, 'w> {
    values: BTreeMap<&'a str, &'a str>,
    warnings: &'w mut Vec<Fault>,
}

impl<'a> Settings<'a, '_> {
    fn refuse_unknown(&mut self) {
        let known = |name: &str| KNOWN.contains(&name) || name.starts_with(PROTOCOL_OF_PORT);
        let unknown: Vec<&str> = self.values.keys().copied().filter(|n| !known(n)).collect();
        for name in unknown {
            self.warn(name, format!("unknown setting; known: {}", KNOWN.join(", ")));
            self.values.remove(name);
        }
    }

    /// Bound: what a stranger wrote can neither fill the log nor the memory.
    fn warn(&mut self, name: &str, reason: impl Into<String>) {
        if self.warnings.len() >= MAX_WARNINGS {
            return;
        }
        let mut reason: String = reason.into();
        reason.truncate(reason.floor_char_boundary(MAX_REASON));
        self.warnings.push(Fault::warning(format!("metadata.annotations[{PREFIX}{name}]"), reason));
    }

    /// The value of a setting, read by this function; `None` when it is not given, or is bad.
    fn take<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.values.remove(name)?;
        match read(text.trim()) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.warn(name, reason);
                None
            }
        }
    }

    /// Says of settings that hang on another one that they have no effect without it.
    fn without(&mut self, main: &str, prefix: &str) {
        let idle: Vec<&str> =
            self.values.keys().copied().filter(|name| name.starts_with(prefix)).collect();
        for name in idle {
            self.values.remove(name);
            self.warn(name, format!("has no effect without {PREFIX}{main}"));
        }
    }

    /// The balancer, and what it hashes by: of use to ring hash alone.
    fn balancing(&mut self) -> (Option<Balancer>, Option<HashOn>) {
        let balancer = self.take("balancer", |text| word(text, &Balancer::WORDS));
        let hash_on = self.take("hash-on", hash_on);
        match (balancer, hash_on) {
            (Some(other), Some(_)) if other != Balancer::RingHash => {
                let word = other.word();
                self.warn("hash-on", format!("has no effect with {PREFIX}balancer {word}"));
                (balancer, None)
            }
            both => both,
        }
    }

    fn retries(&mut self) -> Option<Retries> {
        let reasons = self.take("retry-on", retry_on);
        let attempts = self.take("retry-attempts", |text| number(text, 0, MAX_ATTEMPTS));
        if reasons.is_none() && attempts.is_none() {
            self.without("retry-attempts", "retry-");
            return None;
        }
        let per_try_timeout = self.take("retry-per-try-timeout", duration);
        let on = reasons.unwrap_or_else(|| {
            vec![RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Unavailable]
        });
        let attempts = attempts.unwrap_or(DEFAULT_ATTEMPTS);
        (attempts > 0).then_some(Retries { attempts, on, per_try_timeout })
    }

    fn health_check(&mut self, ports: &[ServicePort]) -> Option<HealthCheck> {
        let http2 = ports.iter().any(|p| p.app_protocol == Some(AppProtocol::Http2));
        let probe = |text: &str| match probe(text)? {
            Probe::Grpc if !http2 => Err("no port speaks HTTP/2, which gRPC needs".to_owned()),
            probe => Ok(probe),
        };
        let Some(probe) = self.take("health-check", probe) else {
            self.without("health-check", "health-check-");
            return None;
        };
        let secs = Duration::from_secs;
        Some(HealthCheck {
            probe,
            interval: self.take("health-check-interval", duration).unwrap_or(secs(10)),
            timeout: self.take("health-check-timeout", duration).unwrap_or(secs(2)),
            healthy_threshold: self.take("health-check-healthy-threshold", count).unwrap_or(2),
            unhealthy_threshold: self.take("health-check-unhealthy-threshold", count).unwrap_or(3),
        })
    }

    fn outlier_detection(&mut self) -> Option<OutlierDetection> {
        let consecutive_errors = self.take("outlier-consecutive-errors", count);
        let percent = |text: &str| number(text, 1, 100);
        let threshold = self.take("outlier-failure-percent", percent);
        if consecutive_errors.is_none() && threshold.is_none() {
            self.without("outlier-consecutive-errors or outlier-failure-percent", "outlier-");
            return None;
        }
        if threshold.is_none() {
            for name in ["outlier-minimum-hosts", "outlier-request-volume"] {
                self.without("outlier-failure-percent", name);
            }
        }
        let failure_percentage = threshold.map(|threshold| FailurePercentage {
            threshold,
            minimum_hosts: self.take("outlier-minimum-hosts", count).unwrap_or(MINIMUM_HOSTS),
            request_volume: self.take("outlier-request-volume", count).unwrap_or(REQUEST_VOLUME),
        });
        let secs = Duration::from_secs;
        Some(OutlierDetection {
            consecutive_errors,
            failure_percentage,
            interval: self.take("outlier-interval", duration).unwrap_or(secs(10)),
            ejection_time: self.take("outlier-ejection-time", duration).unwrap_or(secs(30)),
            max_percent: self
                .take("outlier-max-percent", |text| number(text, 0, 100))
                .unwrap_or(10),
        })
    }

    /// The protocol of all TCP ports, then of single ones.
    fn protocols(&mut self, ports: &mut [ServicePort]) {
        if let Some(protocol) = self.take(PROTOCOL, protocol) {
            for port in ports.iter_mut().filter(|p| p.protocol == Protocol::Tcp) {
                port.app_protocol = Some(protocol.clone());
            }
        }
        let single: Vec<&'a str> =
            self.values.keys().copied().filter(|n| n.starts_with(PROTOCOL_OF_PORT)).collect();
        for name in single {
            let wanted = &name[PROTOCOL_OF_PORT.len()..];
            let is_it = |port: &ServicePort| {
                port.name.as_deref() == Some(wanted) || port.port.to_string() == wanted
            };
            match ports.iter_mut().find(|port| port.protocol == Protocol::Tcp && is_it(port)) {
                Some(port) => {
                    if let Some(protocol) = self.take(name, protocol) {
                        port.app_protocol = Some(protocol);
                    }
                }
                None => {
                    self.values.remove(name);
                    self.warn(name, format!("there is no TCP port {wanted:?}"));
                }
            }
        }
    }
}

fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("{text:?} is not one of {}", known.join(", "))
    })
}

fn retry_on(text: &str) -> Result<Vec<RetryOn>, String> {
    let mut reasons: Vec<RetryOn> = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let reason = word(item, &RetryOn::WORDS)?;
        if !reasons.contains(&reason) {
            reasons.push(reason);
        }
    }
    if reasons.is_empty() { Err("names no reason".to_owned()) } else { Ok(reasons) }
}

fn hash_on(text: &str) -> Result<HashOn, String> {
    let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
    match kind {
        "source-ip" if rest.is_empty() => Ok(HashOn::SourceIp),
        "header" if is_token(rest) => Ok(HashOn::Header(rest.to_ascii_lowercase())),
        "cookie" => {
            let (name, ttl) = match rest.split_once(':') {
                Some((name, ttl)) => (name, Some(duration(ttl)?)),
                None => (rest, None),
            };
            let cookie = HashOn::Cookie { name: name.to_owned(), ttl };
            if is_token(name) {
                Ok(cookie)
            } else {
                Err(format!("{name:?} is no name of a cookie"))
            }
        }
        _ => {
            Err(format!("{text:?} is not header:NAME, cookie:NAME, cookie:NAME:TIME or source-ip"))
        }
    }
}

/// A name of a header or cookie (RFC 9110 §5.6.2, RFC 6265 §4.1.1).
fn is_token(text: &str) -> bool {
    let of_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(of_token)
}

fn probe(text: &str) -> Result<Probe, String> {
    match text.split_once(':') {
        None if text == "tcp" => Ok(Probe::Tcp),
        None if text == "grpc" => Ok(Probe::Grpc),
        Some(("http", path))
            if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic()) =>
        {
            Ok(Probe::Http(path.to_owned()))
        }
        _ => Err(format!("{text:?} is not tcp, grpc or http:/path")),
    }
}

fn protocol(text: &str) -> Result<AppProtocol, String> {
    match text {
        "http" | "http2" | "grpc" | "tcp" => {
            Ok(AppProtocol::from_word(if text == "http2" { "kubernetes.io/h2c" } else { text }))
        }
        other => Err(format!("{other:?} is not http, http2, grpc or tcp")),
    }
}

fn count(text: &str) -> Result<u32, String> {
    number(text, 1, 1_000_000_000)
}

fn number(text: &str, least: u32, most: u32) -> Result<u32, String> {
    let number: Option<u32> = text.parse().ok();
    number
        .filter(|n| (least..=most).contains(n))
        .ok_or_else(|| format!("{text:?} is not a whole number in {least}..={most}"))
}

/// A number with a unit: `250ms`, `1.5s`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let secs = match unit {
        "ms" => Some(0.001),
        "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let value = secs
        .zip(number.parse::<f64>().ok())
        .and_then(|(secs, number)| Duration::try_from_secs_f64(number * secs).ok());
    match value {
        Some(value) if !value.is_zero() && value <= MAX_DURATION => Ok(value),
        Some(_) => Err(format!("{text:?} is not above 0 and at most 24h")),
        None => Err(format!("{text:?} is not a time such as 250ms, 1.5s, 2m or 1h")),
    }
}

#[cfg(test)]
mod tests {
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
        let policy = convert(annotations.iter(), &mut ports, &mut warnings);
        let prefix = format!("metadata.annotations[{PREFIX}");
        let said = warnings.iter().map(|w| {
            let field = w.field.as_deref().unwrap_or_default();
            let name = field.strip_prefix(&prefix).and_then(|f| f.strip_suffix(']'));
            format!("{}: {}", name.expect("an annotation of ours"), w.reason)
        });
        (policy, ports, said.collect())
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
            ("retry-on", "5xx, unavailable,5xx"),
            ("retry-per-try-timeout", "1s"),
            ("health-check", "http:/healthz?deep=1"),
            ("health-check-interval", "5s"),
            ("health-check-timeout", "1s"),
            ("health-check-healthy-threshold", "1"),
            ("health-check-unhealthy-threshold", "4"),
            ("outlier-consecutive-errors", "7"),
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
                on: vec![RetryOn::ServerError, RetryOn::Unavailable],
                per_try_timeout: Some(ms(1000)),
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
                failure_percentage: Some(FailurePercentage {
                    threshold: 60,
                    minimum_hosts: 5,
                    request_volume: 50,
                }),
                interval: ms(3000),
                ejection_time: ms(3_600_000),
                max_percent: 50,
            }),
            circuit_breaker: CircuitBreaker {
                connections: Some(100),
                pending_requests: Some(200),
                requests: Some(300),
                retries: Some(4),
            },
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
                "\"rr\" is not one of least_request, round_robin, ring_hash, client_side_weighted_round_robin, pick_first, random",
            ),
            (
                "hash-on",
                "header",
                "\"header\" is not header:NAME, cookie:NAME, cookie:NAME:TIME or source-ip",
            ),
            (
                "hash-on",
                "header:x user",
                "\"header:x user\" is not header:NAME, cookie:NAME, cookie:NAME:TIME or source-ip",
            ),
            (
                "hash-on",
                "source-ip:4",
                "\"source-ip:4\" is not header:NAME, cookie:NAME, cookie:NAME:TIME or source-ip",
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
                "\"always\" is not one of connect-failure, refused-stream, reset, gateway-error, 5xx, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable",
            ),
            ("retry-on", " , ", "names no reason"),
            ("retry-per-try-timeout", "1s", "has no effect without portolan.dev/retry-attempts"),
            ("health-check", "http:no", "\"http:no\" is not tcp, grpc or http:/path"),
            ("health-check", "http:/a b", "\"http:/a b\" is not tcp, grpc or http:/path"),
            ("health-check-timeout", "1s", "has no effect without portolan.dev/health-check"),
            ("outlier-consecutive-errors", "0", "\"0\" is not a whole number in 1..=1000000000"),
            (
                "outlier-max-percent",
                "5",
                "has no effect without portolan.dev/outlier-consecutive-errors or outlier-failure-percent",
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
        assert!(warnings[0].starts_with("balancr: unknown setting; known: balancer, connect-"));
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
        let reason = "has no effect without portolan.dev/outlier-failure-percent";
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
}
