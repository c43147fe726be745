//! What a service wants of whoever balances it and Kubernetes has no field for.
//!
//! Values only: `control` reads them from annotations, `xds` says them in the words of Envoy's API.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The policy of a service; what is `None` is left to the defaults of whoever balances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// How an endpoint is picked.
    pub balancer: Option<Balancer>,
    /// Limits in time.
    pub timeouts: Timeouts,
    /// When a request is sent again.
    pub retries: Option<Retries>,
    /// Whether endpoints are asked how they are.
    pub health_check: Option<HealthCheck>,
    /// When an endpoint is left out for what it answered.
    pub outlier_detection: Option<OutlierDetection>,
    /// How much may be under way at once.
    pub circuit_breaker: CircuitBreaker,
}

/// How one endpoint is picked for a request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balancer {
    /// In turn.
    RoundRobin,
    /// The one with fewer requests in flight of two drawn at random (power of two choices).
    LeastRequest,
}

/// Limits in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeouts {
    /// On establishing a connection to an endpoint.
    pub connect: Option<Duration>,
    /// On a whole request, all tries together.
    pub request: Option<Duration>,
    /// On silence in a request's streams.
    pub idle: Option<Duration>,
}

/// When a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Retries {
    /// Tries after the first, 1 to 10.
    pub attempts: u32,
    /// What is a reason to try again.
    pub on: Vec<RetryOn>,
    /// Limit on each try.
    pub per_try_timeout: Option<Duration>,
}

/// A reason to try a request again, by Envoy's word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryOn {
    /// No connection could be made.
    ConnectFailure,
    /// The endpoint refused the stream before it began.
    RefusedStream,
    /// The connection ended without an answer.
    Reset,
    /// An answer of 502, 503 or 504.
    GatewayError,
    /// An answer of 500 or above.
    #[serde(rename = "5xx")]
    ServerError,
    /// gRPC status CANCELLED.
    Cancelled,
    /// gRPC status DEADLINE_EXCEEDED.
    DeadlineExceeded,
    /// gRPC status INTERNAL.
    Internal,
    /// gRPC status RESOURCE_EXHAUSTED.
    ResourceExhausted,
    /// gRPC status UNAVAILABLE.
    Unavailable,
}

/// How endpoints are asked how they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// What is asked.
    pub probe: Probe,
    /// Time between two probes.
    pub interval: Duration,
    /// Limit on an answer.
    pub timeout: Duration,
    /// Good answers in a row that make an endpoint healthy.
    pub healthy_threshold: u32,
    /// Bad answers in a row that make it unhealthy.
    pub unhealthy_threshold: u32,
}

/// What a health check asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Probe {
    /// That a connection can be made.
    Tcp,
    /// That a GET of this path is answered with 200.
    Http(String),
    /// `grpc.health.v1.Health/Check` of the server as a whole.
    Grpc,
}

/// When an endpoint is left out for what it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// Answers of 500 or above in a row.
    pub consecutive_errors: u32,
    /// Time between two looks at who may come back.
    pub interval: Duration,
    /// How long an endpoint is left out the first time; grows with each.
    pub ejection_time: Duration,
    /// Most endpoints left out at once, in percent, 0 to 100.
    pub max_percent: u32,
}

/// How much may be under way to a service at once, per proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// Connections.
    pub connections: Option<u32>,
    /// Requests that wait for a connection.
    pub pending_requests: Option<u32>,
    /// Requests in flight.
    pub requests: Option<u32>,
    /// Retries in flight.
    pub retries: Option<u32>,
}

impl Balancer {
    /// Every balancer with its word, as used in config and annotations.
    pub const WORDS: [(&str, Self); 2] =
        [("least_request", Self::LeastRequest), ("round_robin", Self::RoundRobin)];
}

impl RetryOn {
    /// Every reason with its word.
    pub const WORDS: [(&str, Self); 10] = [
        ("connect-failure", Self::ConnectFailure),
        ("refused-stream", Self::RefusedStream),
        ("reset", Self::Reset),
        ("gateway-error", Self::GatewayError),
        ("5xx", Self::ServerError),
        ("cancelled", Self::Cancelled),
        ("deadline-exceeded", Self::DeadlineExceeded),
        ("internal", Self::Internal),
        ("resource-exhausted", Self::ResourceExhausted),
        ("unavailable", Self::Unavailable),
    ];

    /// Envoy's word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, reason)| *reason == self);
        found.map_or("", |(word, _)| word)
    }
}

impl CircuitBreaker {
    /// Whether it limits anything.
    #[must_use]
    pub fn is_set(&self) -> bool {
        *self != Self::default()
    }
}
