//! A service's policy in the words of a cluster: health checks, outlier detection, circuit breakers.

use portolan_model::policy::{CircuitBreaker, HealthCheck, OutlierDetection, Probe};
use portolan_model::{AppProtocol, ServicePort};
use portolan_proto::envoy::cluster::circuit_breakers::Thresholds;
use portolan_proto::envoy::cluster::{self as cds, CircuitBreakers};
use portolan_proto::envoy::core::HealthCheck as EnvoyHealthCheck;
use portolan_proto::envoy::core::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck,
};
use portolan_proto::envoy::http_codec::CodecClientType;
use portolan_proto::envoy::protobuf::{BoolValue, UInt32Value};

use super::duration;

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

/// By errors in a row, by their share, or both. gRPC clients know the share alone (gRFC A50).
/// What is not asked for is turned off: by default Envoy judges by errors in a row and by the
/// spread of success rates, and gRPC by the latter.
pub(super) fn outlier_detection(outlier: &OutlierDetection) -> cds::OutlierDetection {
    let in_a_row = outlier.consecutive_errors;
    let share = outlier.failure_percentage;
    cds::OutlierDetection {
        consecutive_5xx: in_a_row.and_then(number),
        enforcing_consecutive_5xx: if in_a_row.is_some() { None } else { number(0) },
        failure_percentage_threshold: share.and_then(|s| number(s.threshold)),
        failure_percentage_minimum_hosts: share.and_then(|s| number(s.minimum_hosts)),
        failure_percentage_request_volume: share.and_then(|s| number(s.request_volume)),
        enforcing_failure_percentage: share.and_then(|_| number(100)),
        enforcing_success_rate: number(0),
        interval: Some(duration(outlier.interval)),
        base_ejection_time: Some(duration(outlier.ejection_time)),
        max_ejection_percent: number(outlier.max_percent),
        // One of three is more than ten percent: Envoy would then eject nobody, where gRPC ejects
        // as long as less than that share is out (gRFC A50).
        always_eject_one_host: Some(BoolValue { value: outlier.max_percent > 0 }),
        ..cds::OutlierDetection::default()
    }
}

/// What is not set stays at the client's default; `None` when nothing is.
pub(super) fn circuit_breakers(breaker: &CircuitBreaker) -> Option<CircuitBreakers> {
    let thresholds = Thresholds {
        max_connections: breaker.connections.and_then(number),
        max_pending_requests: breaker.pending_requests.and_then(number),
        max_requests: breaker.requests.and_then(number),
        max_retries: breaker.retries.and_then(number),
        ..Thresholds::default()
    };
    breaker
        .is_set()
        .then(|| CircuitBreakers { thresholds: vec![thresholds], ..CircuitBreakers::default() })
}

#[expect(clippy::unnecessary_wraps, reason = "the fields of Envoy's messages are optional")]
fn number(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}
