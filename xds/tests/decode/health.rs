//! Health checks and outlier detection.

use std::time::Duration;

use portolan_model::policy::{FailurePercentage, HealthCheck, Probe};
use portolan_model::traffic::{Outlier, SuccessRate};
use portolan_proto::envoy::cluster::{Cluster, OutlierDetection};
use portolan_proto::envoy::core::HealthCheck as Check;
use portolan_proto::envoy::core::health_check::{
    CustomHealthCheck, GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck,
};

use crate::clusters::{eds, taken};
use crate::{number, secs, yes};

fn check(checker: HealthChecker) -> Check {
    Check {
        interval: secs(5),
        timeout: secs(1),
        healthy_threshold: number(2),
        unhealthy_threshold: number(3),
        health_checker: Some(checker),
        ..Check::default()
    }
}

fn http(path: &str) -> HttpHealthCheck {
    HttpHealthCheck { path: path.into(), ..HttpHealthCheck::default() }
}

fn of_checks(health_checks: Vec<Check>) -> Result<Option<HealthCheck>, String> {
    taken(&Cluster { health_checks, ..eds() }).map(|cluster| cluster.health_check)
}

#[test]
fn the_first_check_whose_kind_is_known_is_taken() {
    let custom = || check(HealthChecker::CustomHealthCheck(CustomHealthCheck::default()));
    let tcp = || check(HealthChecker::TcpHealthCheck(TcpHealthCheck::default()));
    let grpc = || check(HealthChecker::GrpcHealthCheck(GrpcHealthCheck::default()));
    let of = |probe| HealthCheck {
        probe,
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    };
    let by_http = check(HealthChecker::HttpHealthCheck(http("/healthz")));
    for (checks, expected) in [
        (vec![], None),
        (vec![tcp()], Some(Probe::Tcp)),
        (vec![grpc(), tcp()], Some(Probe::Grpc)),
        (vec![custom(), by_http, tcp()], Some(Probe::Http("/healthz".into()))),
    ] {
        assert_eq!(of_checks(checks), Ok(expected.map(of)));
    }
    let zero = Check { healthy_threshold: number(0), ..tcp() };
    assert_eq!(of_checks(vec![zero]).map(|c| c.map(|c| c.healthy_threshold)), Ok(Some(1)));

    let field = "health_checks[0]";
    let sends = TcpHealthCheck { send: Some(Payload::default()), ..TcpHealthCheck::default() };
    let posts = HttpHealthCheck { method: 4, ..http("/") };
    let named = GrpcHealthCheck { service_name: "one".into(), ..GrpcHealthCheck::default() };
    for (bad, reason) in [
        (custom(), "health_checks: none is by TCP, HTTP or gRPC".to_owned()),
        (Check { interval: None, ..tcp() }, format!("{field}.interval: missing")),
        (Check { timeout: secs(0), ..tcp() }, format!("{field}.timeout: is not above 0")),
        (
            Check { unhealthy_threshold: None, ..tcp() },
            format!("{field}.unhealthy_threshold: missing"),
        ),
        (Check { alt_port: number(1), ..tcp() }, format!("{field}.alt_port: not supported")),
        (
            check(HealthChecker::TcpHealthCheck(sends)),
            format!("{field}.tcp_health_check.send: not supported"),
        ),
        (
            check(HealthChecker::HttpHealthCheck(http("healthz"))),
            format!("{field}.http_health_check.path: \"healthz\" does not begin with /"),
        ),
        (
            check(HealthChecker::HttpHealthCheck(posts)),
            format!("{field}.http_health_check.method: not supported"),
        ),
        (
            check(HealthChecker::GrpcHealthCheck(named)),
            format!("{field}.grpc_health_check.service_name: not supported"),
        ),
    ] {
        assert_eq!(of_checks(vec![bad]), Err(format!("c: {reason}")));
    }
}

fn of_outlier(said: OutlierDetection) -> Result<Option<Outlier>, String> {
    taken(&Cluster { outlier_detection: Some(said), ..eds() }).map(|cluster| cluster.outlier)
}

/// What Envoy makes of a message that says nothing.
fn standard() -> Outlier {
    Outlier {
        consecutive_errors: Some(5),
        consecutive_gateway_errors: None,
        consecutive_local_errors: None,
        success_rate: Some(SuccessRate {
            stdev_factor_milli: 1900,
            minimum_hosts: 5,
            request_volume: 100,
        }),
        failure_percentage: None,
        interval: Duration::from_secs(10),
        base_ejection: Duration::from_secs(30),
        max_ejection: Duration::from_secs(300),
        ejection_jitter: Duration::ZERO,
        max_percent: 10,
    }
}

#[test]
fn outliers_are_what_envoy_takes_them_for() {
    let none = OutlierDetection::default;
    let whole = OutlierDetection {
        consecutive_5xx: number(7),
        consecutive_gateway_failure: number(8),
        enforcing_consecutive_gateway_failure: number(100),
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: number(9),
        enforcing_success_rate: number(0),
        failure_percentage_threshold: number(60),
        enforcing_failure_percentage: number(100),
        failure_percentage_minimum_hosts: number(2),
        failure_percentage_request_volume: number(20),
        interval: secs(1),
        base_ejection_time: secs(400),
        max_ejection_time_jitter: secs(3),
        max_ejection_percent: number(50),
        ..none()
    };
    let failures = FailurePercentage { threshold: 60, minimum_hosts: 2, request_volume: 20 };
    let expected = Outlier {
        consecutive_errors: Some(7),
        consecutive_gateway_errors: Some(8),
        consecutive_local_errors: Some(9),
        success_rate: None,
        failure_percentage: Some(failures),
        interval: Duration::from_secs(1),
        base_ejection: Duration::from_secs(400),
        max_ejection: Duration::from_secs(400),
        ejection_jitter: Duration::from_secs(3),
        max_percent: 50,
    };
    let by_default = FailurePercentage { threshold: 85, minimum_hosts: 5, request_volume: 50 };
    let share = OutlierDetection { enforcing_failure_percentage: number(100), ..none() };
    #[rustfmt::skip]
    let cases = [
        ("nothing said", none(), Some(standard())),
        ("all of it", whole, Some(expected)),
        ("off", OutlierDetection { enforcing_consecutive_5xx: number(0), ..none() },
            Some(Outlier { consecutive_errors: None, ..standard() })),
        ("zero in a row", OutlierDetection { consecutive_5xx: number(0), ..none() },
            Some(Outlier { consecutive_errors: None, ..standard() })),
        ("a count that is not enforced", OutlierDetection { consecutive_gateway_failure: number(3), ..none() },
            Some(standard())),
        ("local ones not told apart", OutlierDetection { consecutive_local_origin_failure: number(3), ..none() },
            Some(standard())),
        ("a share", share, Some(Outlier { failure_percentage: Some(by_default), ..standard() })),
        ("nobody may go", OutlierDetection { max_ejection_percent: number(0), ..none() }, None),
        ("one may go", OutlierDetection { max_ejection_percent: number(0), always_eject_one_host: yes(), ..none() },
            Some(Outlier { max_percent: 0, ..standard() })),
    ];
    for (about, said, expected) in cases {
        assert_eq!(of_outlier(said), Ok(expected), "{about}");
    }
    assert_eq!(taken(&eds()).map(|cluster| cluster.outlier), Ok(None));
    let chance = OutlierDetection { enforcing_consecutive_5xx: number(50), ..none() };
    let reason = "c: outlier_detection.enforcing_consecutive_5xx: 50 is neither 0 nor 100";
    assert_eq!(of_outlier(chance), Err(reason.to_owned()));
    let much = OutlierDetection { max_ejection_percent: number(101), ..none() };
    let reason = "c: outlier_detection.max_ejection_percent: 101 is not in 0..=100";
    assert_eq!(of_outlier(much), Err(reason.to_owned()));
}
