//! `health_checks` and `outlier_detection` -> [`HealthCheck`] and [`Outlier`].

use std::sync::Arc;
use std::time::Duration;

use portolan_model::policy::{FailurePercentage, HealthCheck, Probe};
use portolan_model::traffic::{Outlier, SuccessRate};
use portolan_proto::envoy::cluster::OutlierDetection;
use portolan_proto::envoy::core::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use portolan_proto::envoy::core::{HealthCheck as EnvoyHealthCheck, RequestMethod};
use portolan_proto::envoy::protobuf::UInt32Value;

use super::{duration, positive, refuse, within};

/// Envoy's defaults of outlier detection: failures in a row, endpoints and requests that have to be
/// there for success rates and for shares of failures, standard deviations, share of failures.
const IN_A_ROW: u32 = 5;
const SUCCESS_RATE: SuccessRate =
    SuccessRate { stdev_factor_milli: 1900, minimum_hosts: 5, request_volume: 100 };
const FAILURES: FailurePercentage =
    FailurePercentage { threshold: 85, minimum_hosts: 5, request_volume: 50 };
const MAX_PERCENT: u32 = 10;
const INTERVAL: Duration = Duration::from_secs(10);
const BASE_EJECTION: Duration = Duration::from_secs(30);
const MAX_EJECTION: Duration = Duration::from_secs(300);

/// The host that the check which is taken names, if it names one.
pub(super) fn host(checks: &[EnvoyHealthCheck]) -> Option<Arc<str>> {
    let host = checks.iter().find_map(|check| match &check.health_checker {
        Some(HealthChecker::TcpHealthCheck(_)) => Some(""),
        Some(HealthChecker::HttpHealthCheck(http)) => Some(http.host.as_str()),
        Some(HealthChecker::GrpcHealthCheck(grpc)) => Some(grpc.authority.as_str()),
        Some(HealthChecker::CustomHealthCheck(_)) | None => None,
    });
    host.filter(|host| !host.is_empty()).map(Into::into)
}

/// The first of the checks whose kind is known here.
///
/// # Errors
/// When none is, or the first field of it that is malformed or not supported.
pub(super) fn check(checks: &[EnvoyHealthCheck]) -> Result<Option<HealthCheck>, String> {
    for (i, check) in checks.iter().enumerate() {
        let field = format!("health_checks[{i}]");
        let probe = match &check.health_checker {
            Some(HealthChecker::TcpHealthCheck(tcp)) => tcp_probe(&field, tcp)?,
            Some(HealthChecker::HttpHealthCheck(http)) => http_probe(&field, http)?,
            Some(HealthChecker::GrpcHealthCheck(grpc)) => grpc_probe(&field, grpc)?,
            Some(HealthChecker::CustomHealthCheck(_)) | None => continue,
        };
        return convert_check(&field, check, probe).map(Some);
    }
    if checks.is_empty() {
        return Ok(None);
    }
    Err("health_checks: none is by TCP, HTTP or gRPC".to_owned())
}

fn convert_check(
    field: &str,
    check: &EnvoyHealthCheck,
    probe: Probe,
) -> Result<HealthCheck, String> {
    refuse(&format!("{field}.alt_port"), check.alt_port.is_some())?;
    let time = |name: &str, value| {
        let field = format!("{field}.{name}");
        match value {
            Some(value) => positive(&field, Some(value), Duration::ZERO),
            None => Err(format!("{field}: missing")),
        }
    };
    let count = |name: &str, value: Option<&UInt32Value>| match value {
        Some(value) => Ok(value.value.max(1)),
        None => Err(format!("{field}.{name}: missing")),
    };
    Ok(HealthCheck {
        probe,
        interval: time("interval", check.interval.as_ref())?,
        timeout: time("timeout", check.timeout.as_ref())?,
        healthy_threshold: count("healthy_threshold", check.healthy_threshold.as_ref())?,
        unhealthy_threshold: count("unhealthy_threshold", check.unhealthy_threshold.as_ref())?,
    })
}

fn tcp_probe(field: &str, tcp: &TcpHealthCheck) -> Result<Probe, String> {
    let field = format!("{field}.tcp_health_check");
    refuse(&format!("{field}.send"), tcp.send.is_some())?;
    refuse(&format!("{field}.receive"), !tcp.receive.is_empty())?;
    refuse(&format!("{field}.proxy_protocol_config"), tcp.proxy_protocol_config.is_some())?;
    Ok(Probe::Tcp)
}

fn http_probe(field: &str, http: &HttpHealthCheck) -> Result<Probe, String> {
    let field = format!("{field}.http_health_check");
    if !http.path.starts_with('/') {
        return Err(format!("{field}.path: {:?} does not begin with /", http.path));
    }
    let get = [RequestMethod::MethodUnspecified, RequestMethod::Get].map(i32::from);
    refuse(&format!("{field}.method"), !get.contains(&http.method))?;
    refuse(&format!("{field}.send"), http.send.is_some())?;
    refuse(&format!("{field}.receive"), !http.receive.is_empty())?;
    refuse(&format!("{field}.request_headers_to_add"), !http.request_headers_to_add.is_empty())?;
    let only_200 = http.expected_statuses.iter().all(|r| (r.start, r.end) == (200, 201));
    refuse(&format!("{field}.expected_statuses"), !only_200)?;
    refuse(&format!("{field}.service_name_matcher"), http.service_name_matcher.is_some())?;
    Ok(Probe::Http(http.path.clone()))
}

fn grpc_probe(field: &str, grpc: &GrpcHealthCheck) -> Result<Probe, String> {
    let field = format!("{field}.grpc_health_check");
    refuse(&format!("{field}.service_name"), !grpc.service_name.is_empty())?;
    refuse(&format!("{field}.initial_metadata"), !grpc.initial_metadata.is_empty())?;
    Ok(Probe::Grpc)
}

/// With Envoy's defaults. `None` when nobody is ever left out.
///
/// # Errors
/// The first field that is malformed or not supported.
pub(super) fn outlier(said: Option<&OutlierDetection>) -> Result<Option<Outlier>, String> {
    let Some(said) = said else { return Ok(None) };
    let of = |name: &str| format!("outlier_detection.{name}");
    let max_percent = within(
        &of("max_ejection_percent"),
        said.max_ejection_percent.as_ref(),
        0..=100,
        MAX_PERCENT,
    )?;
    if max_percent == 0 && !said.always_eject_one_host.is_some_and(|v| v.value) {
        return Ok(None);
    }
    let row = |name: &str, count: Option<&UInt32Value>, enforcing, default| {
        let on = enforced(&of(&format!("enforcing_{name}")), enforcing, default)?;
        Ok::<_, String>(Some(count.map_or(IN_A_ROW, |v| v.value)).filter(|n| on && *n > 0))
    };
    let apart = said.split_external_local_origin_errors;
    let base =
        positive(&of("base_ejection_time"), said.base_ejection_time.as_ref(), BASE_EJECTION)?;
    let jitter = said.max_ejection_time_jitter.as_ref();
    let jitter = jitter.map(|j| duration(&of("max_ejection_time_jitter"), j)).transpose()?;
    Ok(Some(Outlier {
        consecutive_errors: row(
            "consecutive_5xx",
            said.consecutive_5xx.as_ref(),
            said.enforcing_consecutive_5xx.as_ref(),
            true,
        )?,
        consecutive_gateway_errors: row(
            "consecutive_gateway_failure",
            said.consecutive_gateway_failure.as_ref(),
            said.enforcing_consecutive_gateway_failure.as_ref(),
            false,
        )?,
        consecutive_local_errors: row(
            "consecutive_local_origin_failure",
            said.consecutive_local_origin_failure.as_ref(),
            said.enforcing_consecutive_local_origin_failure.as_ref(),
            true,
        )?
        .filter(|_| apart),
        success_rate: success_rate(said)?,
        failure_percentage: failures(said)?,
        interval: positive(&of("interval"), said.interval.as_ref(), INTERVAL)?,
        base_ejection: base,
        max_ejection: positive(
            &of("max_ejection_time"),
            said.max_ejection_time.as_ref(),
            MAX_EJECTION.max(base),
        )?,
        ejection_jitter: jitter.unwrap_or_default(),
        max_percent,
    }))
}

fn success_rate(said: &OutlierDetection) -> Result<Option<SuccessRate>, String> {
    let field = "outlier_detection.enforcing_success_rate";
    let on = enforced(field, said.enforcing_success_rate.as_ref(), true)?;
    let number = |value: Option<&UInt32Value>, default| value.map_or(default, |v| v.value);
    Ok(on.then(|| SuccessRate {
        stdev_factor_milli: number(
            said.success_rate_stdev_factor.as_ref(),
            SUCCESS_RATE.stdev_factor_milli,
        ),
        minimum_hosts: number(said.success_rate_minimum_hosts.as_ref(), SUCCESS_RATE.minimum_hosts),
        request_volume: number(
            said.success_rate_request_volume.as_ref(),
            SUCCESS_RATE.request_volume,
        ),
    }))
}

fn failures(said: &OutlierDetection) -> Result<Option<FailurePercentage>, String> {
    let field = "outlier_detection.enforcing_failure_percentage";
    let on = enforced(field, said.enforcing_failure_percentage.as_ref(), false)?;
    let field = "outlier_detection.failure_percentage_threshold";
    let threshold = said.failure_percentage_threshold.as_ref();
    let threshold = within(field, threshold, 0..=100, FAILURES.threshold)?;
    let number = |value: Option<&UInt32Value>, default| value.map_or(default, |v| v.value);
    Ok(on.then(|| FailurePercentage {
        threshold,
        minimum_hosts: number(
            said.failure_percentage_minimum_hosts.as_ref(),
            FAILURES.minimum_hosts,
        ),
        request_volume: number(
            said.failure_percentage_request_volume.as_ref(),
            FAILURES.request_volume,
        ),
    }))
}

/// A way of detecting is on or off here; by chance is not supported.
fn enforced(field: &str, percent: Option<&UInt32Value>, default: bool) -> Result<bool, String> {
    match percent.map(|v| v.value) {
        None => Ok(default),
        Some(0) => Ok(false),
        Some(100) => Ok(true),
        Some(other) => Err(format!("{field}: {other} is neither 0 nor 100")),
    }
}
