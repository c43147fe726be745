//! Which endpoints are left out: for how they answer probes, and for how they answer requests.

use std::time::Duration;

use portolan_model::policy::{FailurePercentage, HealthCheck, OutlierDetection, Probe};
use portolan_model::traffic::SuccessRate;
use portolan_model::{AppProtocol, ServicePort};

use super::Settings;
use super::values::{count, duration, milli, number, probe};

/// Endpoints that must have had enough requests before their failures are judged. Fewer than
/// Envoy's and gRPC's five, for the many services of two or three endpoints.
const MINIMUM_HOSTS: u32 = 2;
/// Requests in an interval below which an endpoint is not judged. Fewer than their fifty, since
/// every gRPC client counts its own alone.
const REQUEST_VOLUME: u32 = 20;
/// The same for the spread of success rates, of which few endpoints have none that means anything
/// (Envoy's and gRPC's own).
const RATED_HOSTS: u32 = 5;
const RATED_VOLUME: u32 = 100;
/// The settings by which an endpoint may be left out.
const REASONS: &str = "outlier-consecutive-errors, -consecutive-gateway-errors, \
                       -consecutive-local-errors, -failure-percent or -success-rate-stdev";

impl Settings<'_, '_> {
    /// Whether endpoints are asked how they are.
    pub(super) fn health_check(&mut self, ports: &[ServicePort]) -> Option<HealthCheck> {
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

    /// When an endpoint is left out for what it answered.
    pub(super) fn outlier_detection(&mut self) -> Option<OutlierDetection> {
        let consecutive_errors = self.take("outlier-consecutive-errors", count);
        let consecutive_gateway_errors = self.take("outlier-consecutive-gateway-errors", count);
        let consecutive_local_errors = self.take("outlier-consecutive-local-errors", count);
        let threshold = self.take("outlier-failure-percent", |text| number(text, 1, 100));
        let stdev = self.take("outlier-success-rate-stdev", milli);
        let in_a_row = [consecutive_errors, consecutive_gateway_errors, consecutive_local_errors];
        if in_a_row.iter().all(Option::is_none) && threshold.is_none() && stdev.is_none() {
            self.without(REASONS, "outlier-");
            return None;
        }
        if threshold.is_none() && stdev.is_none() {
            for name in ["outlier-minimum-hosts", "outlier-request-volume"] {
                self.without("outlier-failure-percent or outlier-success-rate-stdev", name);
            }
        }
        let hosts = self.take("outlier-minimum-hosts", count);
        let volume = self.take("outlier-request-volume", count);
        let secs = Duration::from_secs;
        Some(OutlierDetection {
            consecutive_errors,
            consecutive_gateway_errors,
            consecutive_local_errors,
            failure_percentage: threshold.map(|threshold| FailurePercentage {
                threshold,
                minimum_hosts: hosts.unwrap_or(MINIMUM_HOSTS),
                request_volume: volume.unwrap_or(REQUEST_VOLUME),
            }),
            success_rate: stdev.map(|stdev| SuccessRate {
                stdev_factor_milli: stdev.get(),
                minimum_hosts: hosts.unwrap_or(RATED_HOSTS),
                request_volume: volume.unwrap_or(RATED_VOLUME),
            }),
            interval: self.take("outlier-interval", duration).unwrap_or(secs(10)),
            ejection_time: self.take("outlier-ejection-time", duration).unwrap_or(secs(30)),
            max_ejection_time: self.take("outlier-max-ejection-time", duration),
            ejection_jitter: self.take("outlier-ejection-jitter", duration),
            max_percent: self
                .take("outlier-max-percent", |text| number(text, 0, 100))
                .unwrap_or(10),
        })
    }
}
