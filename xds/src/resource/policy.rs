//! A service's policy in the words of a cluster: health checks, outlier detection, circuit breakers,
//! adaptive concurrency.

use portolan_model::policy::{HealthCheck, OutlierDetection, Policy, Probe};
use portolan_model::traffic::AdaptiveConcurrency;
use portolan_model::{AppProtocol, ServicePort};
use portolan_proto::envoy::Percent;
use portolan_proto::envoy::adaptive_concurrency::adaptive_concurrency::ConcurrencyControllerConfig;
use portolan_proto::envoy::adaptive_concurrency::gradient_controller_config::{
    ConcurrencyLimitCalculationParams, MinimumRttCalculationParams,
};
use portolan_proto::envoy::adaptive_concurrency::{
    AdaptiveConcurrency as EnvoyAdaptiveConcurrency, GradientControllerConfig,
};
use portolan_proto::envoy::cluster::circuit_breakers::Thresholds;
use portolan_proto::envoy::cluster::circuit_breakers::thresholds::RetryBudget;
use portolan_proto::envoy::cluster::{self as cds, CircuitBreakers};
use portolan_proto::envoy::core::HealthCheck as EnvoyHealthCheck;
use portolan_proto::envoy::core::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use portolan_proto::envoy::http_codec::CodecClientType;
use portolan_proto::envoy::protobuf::{Any, BoolValue, UInt32Value};

use super::{duration, pack};

/// The active health check of a port; gRPC clients pass it over. `host` is the name the service is
/// asked by. A port that does not speak HTTP/2 gets none by gRPC: Envoy would refuse its cluster.
pub(super) fn health_check(
    check: &HealthCheck,
    port: &ServicePort,
    host: &str,
) -> Option<EnvoyHealthCheck> {
    let http2 = port.app_protocol == Some(AppProtocol::Http2);
    let codec = if http2 { CodecClientType::Http2 } else { CodecClientType::Http1 };
    let checker = match &check.probe {
        Probe::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
        Probe::Http(path) => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            // By default Envoy sends the cluster's name, which is no host name.
            host: host.to_owned(),
            path: path.clone(),
            codec_client_type: codec.into(),
            ..HttpHealthCheck::default()
        }),
        Probe::Grpc if !http2 => return None,
        Probe::Grpc => HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            authority: host.to_owned(),
            ..GrpcHealthCheck::default()
        }),
    };
    Some(EnvoyHealthCheck {
        timeout: Some(duration(check.timeout)),
        interval: Some(duration(check.interval)),
        healthy_threshold: number(check.healthy_threshold),
        unhealthy_threshold: number(check.unhealthy_threshold),
        health_checker: Some(checker),
        ..EnvoyHealthCheck::default()
    })
}

/// By errors in a row, by their share, by the rate of success, or several. gRPC clients know the
/// latter two alone (gRFC A50). What is not asked for is turned off: by default Envoy judges by
/// errors in a row and by the spread of success rates, and gRPC by the latter.
pub(super) fn outlier_detection(outlier: &OutlierDetection) -> cds::OutlierDetection {
    let in_a_row = outlier.consecutive_errors;
    let (gateway, local) = (outlier.consecutive_gateway_errors, outlier.consecutive_local_errors);
    let (share, rate) = (outlier.failure_percentage, outlier.success_rate);
    let off_unless = |on: bool| if on { None } else { number(0) };
    cds::OutlierDetection {
        consecutive_5xx: in_a_row.and_then(number),
        enforcing_consecutive_5xx: off_unless(in_a_row.is_some()),
        consecutive_gateway_failure: gateway.and_then(number),
        enforcing_consecutive_gateway_failure: gateway.and_then(|_| number(100)),
        split_external_local_origin_errors: local.is_some(),
        consecutive_local_origin_failure: local.and_then(number),
        // Which is by the spread of rates as well.
        enforcing_local_origin_success_rate: local.and_then(|_| number(0)),
        failure_percentage_threshold: share.and_then(|s| number(s.threshold)),
        failure_percentage_minimum_hosts: share.and_then(|s| number(s.minimum_hosts)),
        failure_percentage_request_volume: share.and_then(|s| number(s.request_volume)),
        enforcing_failure_percentage: share.and_then(|_| number(100)),
        enforcing_success_rate: off_unless(rate.is_some()),
        success_rate_stdev_factor: rate.and_then(|r| number(r.stdev_factor_milli)),
        success_rate_minimum_hosts: rate.and_then(|r| number(r.minimum_hosts)),
        success_rate_request_volume: rate.and_then(|r| number(r.request_volume)),
        interval: Some(duration(outlier.interval)),
        base_ejection_time: Some(duration(outlier.ejection_time)),
        max_ejection_time: outlier.max_ejection_time.map(duration),
        max_ejection_time_jitter: outlier.ejection_jitter.map(duration),
        max_ejection_percent: number(outlier.max_percent),
        // One of three is more than ten percent: Envoy would then eject nobody, where gRPC ejects
        // as long as less than that share is out (gRFC A50).
        always_eject_one_host: Some(BoolValue { value: outlier.max_percent > 0 }),
        ..cds::OutlierDetection::default()
    }
}

/// What is not set stays at the client's default; `None` when nothing is.
pub(super) fn circuit_breakers(policy: &Policy) -> Option<CircuitBreakers> {
    let (breaker, budget) = (&policy.circuit_breaker, policy.retry_budget);
    let thresholds = Thresholds {
        max_connections: breaker.connections.and_then(number),
        max_pending_requests: breaker.pending_requests.and_then(number),
        max_requests: breaker.requests.and_then(number),
        max_retries: breaker.retries.and_then(number),
        retry_budget: budget.map(|budget| RetryBudget {
            budget_percent: percent(budget.percent),
            min_retry_concurrency: number(budget.minimum),
            ..RetryBudget::default()
        }),
        ..Thresholds::default()
    };
    (breaker.is_set() || budget.is_some())
        .then(|| CircuitBreakers { thresholds: vec![thresholds], ..CircuitBreakers::default() })
}

/// Requests in flight held to what latency allows, in the message of Envoy's filter.
pub(super) fn adaptive_concurrency(wanted: &AdaptiveConcurrency) -> Any {
    let limit = ConcurrencyLimitCalculationParams {
        max_concurrency_limit: number(wanted.max),
        concurrency_update_interval: Some(duration(wanted.interval)),
        min_concurrency_limit: number(wanted.min),
    };
    let rtt = MinimumRttCalculationParams {
        interval: Some(duration(wanted.min_rtt_interval)),
        buffer: percent(wanted.tolerance_percent),
        ..MinimumRttCalculationParams::default()
    };
    pack(&EnvoyAdaptiveConcurrency {
        concurrency_controller_config: Some(ConcurrencyControllerConfig::GradientControllerConfig(
            GradientControllerConfig {
                concurrency_limit_params: Some(limit),
                min_rtt_calc_params: Some(rtt),
                ..GradientControllerConfig::default()
            },
        )),
        ..EnvoyAdaptiveConcurrency::default()
    })
}

#[expect(clippy::unnecessary_wraps, reason = "the fields of Envoy's messages are optional")]
pub(super) fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

#[expect(clippy::unnecessary_wraps, reason = "the fields of Envoy's messages are optional")]
pub(super) fn percent(value: u32) -> Option<Percent> {
    Some(Percent { value: value.into() })
}
