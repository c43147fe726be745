//! A group of endpoints that serve the same: how one is picked, and what is asked of the way there.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ClientTls, ResourceName};
use crate::policy::{Balancer, CircuitBreaker, HealthCheck};

/// A group of endpoints that serve the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Resource name.
    pub name: ResourceName,
    /// Name of its endpoint set (EDS `service_name`, else the cluster's name).
    pub endpoints: ResourceName,
    /// How to pick.
    pub balancing: Balancing,
    /// What connections to endpoints are like.
    pub upstream: Upstream,
    /// Whether endpoints are asked how they are.
    pub health_check: Option<HealthCheck>,
    /// The `Host` (`:authority`) that health checks name; `None`: the cluster's name, as Envoy has it.
    pub health_host: Option<Arc<str>>,
    /// When an endpoint is left out for what it answered.
    pub outlier: Option<Outlier>,
    /// How much may be under way at once.
    pub limits: Limits,
    /// Whether the number of requests in flight is held to what latency allows.
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// Whether the control plane is told what becomes of its requests (LRS).
    pub reports_load: bool,
}

/// What a cluster has seen so far; numbers that only grow, but for the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClusterTotals {
    /// Requests and streams begun.
    pub issued: u64,
    /// Requests that ended with an answer that is no error of the server.
    pub good: u64,
    /// Requests that ended with status 5xx, or a gRPC status that is an error of the server.
    pub bad: u64,
    /// Requests whose answer was timed.
    pub timed: u64,
    /// From the request's head to the answer's, these together, in microseconds.
    pub micros: u64,
    /// Requests and streams under way.
    pub active: u64,
}

/// How one endpoint of a cluster is picked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Balancing {
    /// By what rule.
    pub balancer: Balancer,
    /// Least request and peak EWMA: endpoints drawn, of which the better one is taken; at least 2.
    pub choices: u32,
    /// Ring hash: fewest and most points on the ring.
    pub ring: (u64, u64),
    /// Maglev: places in the table, a prime.
    pub table: u32,
    /// Hashed balancers: no endpoint gets more than this share of the mean load, in percent over
    /// 100; `None` for no bound (Envoy `hash_balance_factor`).
    pub hash_balance_factor: Option<u32>,
    /// Whether endpoints that are new begin with less.
    pub slow_start: Option<SlowStart>,
    /// How a locality is picked before an endpoint of it.
    pub locality: LocalityMode,
    /// Healthy endpoints of a priority, in percent, below which health is not minded.
    pub panic_threshold: u32,
    /// Parts of the cluster that requests may ask for by label.
    pub subsets: Option<Subsets>,
}

/// How localities share what comes to their priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum LocalityMode {
    /// They do not matter: every endpoint by its own weight.
    Flat,
    /// By their weights, as far as their endpoints are healthy.
    Weighted,
    /// What is in the proxy's own zone first, and of the rest only as much as that zone has too
    /// little of (Envoy `ZoneAwareLbConfig`).
    ZoneAware {
        /// Requests that take part, in percent.
        percent: u32,
        /// Endpoints below which zones do not matter.
        min_size: u32,
    },
}

/// Endpoints that are new begin with less (Envoy `SlowStartConfig`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlowStart {
    /// How long an endpoint counts as new.
    pub window: Duration,
    /// Exponent of the growth is 1000 over this: 1000 is a straight line.
    pub aggression_milli: NonZeroU32,
    /// The least share, in percent of the full weight.
    pub min_weight_percent: u32,
}

/// Parts of a cluster by label (Envoy `LbSubsetConfig`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subsets {
    /// Sets of labels by which parts are made.
    pub selectors: Vec<SubsetKeys>,
    /// What to do with a request whose part is empty or unknown.
    pub fallback: Fallback,
}

/// Labels that together make a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubsetKeys {
    /// The labels' names.
    pub keys: Vec<String>,
    /// Overrides [`Subsets::fallback`].
    pub fallback: Option<Fallback>,
}

/// What is done with a request whose part is empty or unknown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Fallback {
    /// It fails.
    Fail,
    /// Any endpoint serves.
    Any,
    /// Endpoints with these labels serve.
    Labels(BTreeMap<String, String>),
}

/// What connections to endpoints are like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// What is spoken.
    pub protocol: UpstreamProtocol,
    /// Limit on establishing a connection.
    pub connect_timeout: Duration,
    /// A connection without a request is closed after this long; `None`: the proxy's own setting.
    pub idle_timeout: Option<Duration>,
    /// A connection takes nothing new after this long.
    pub max_age: Option<Duration>,
    /// A connection takes no more requests than this.
    pub max_requests: Option<NonZeroU32>,
    /// Whether a PROXY header goes first.
    pub send_proxy: Option<ProxyHeader>,
    /// Whether TLS comes before anything else but that.
    pub tls: Option<Arc<ClientTls>>,
}

/// What is spoken to a cluster's endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum UpstreamProtocol {
    /// HTTP/1.1, except for gRPC requests, which need HTTP/2 (and bytes as they are on TCP).
    Auto,
    /// HTTP/1.1, always.
    Http1,
    /// HTTP/2 with prior knowledge, always.
    Http2,
    /// What the client speaks (Envoy `use_downstream_protocol_config`).
    Downstream,
}

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProxyHeader {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// When an endpoint is left out for what it answered (Envoy `OutlierDetection`); each way of
/// detecting is off when `None`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outlier {
    /// So many failures in a row: answers of 500 or above, resets, failed connections, gRPC statuses
    /// that stand for these.
    pub consecutive_errors: Option<u32>,
    /// So many answers of 502, 503 or 504 (and their like) in a row.
    pub consecutive_gateway_errors: Option<u32>,
    /// So many failures in a row that the proxy saw itself: connect, timeout, reset. When set, those
    /// count here alone, and no longer among the others (Envoy `split_external_local_origin_errors`).
    pub consecutive_local_errors: Option<u32>,
    /// Success rate far below the others'.
    pub success_rate: Option<SuccessRate>,
    /// A share of failures.
    pub failure_percentage: Option<crate::policy::FailurePercentage>,
    /// Time between two looks.
    pub interval: Duration,
    /// How long an endpoint is left out the first time; grows by as much with each.
    pub base_ejection: Duration,
    /// The longest an endpoint is left out.
    pub max_ejection: Duration,
    /// Up to so much is added at random, so that many do not come back at once.
    pub ejection_jitter: Duration,
    /// Most endpoints left out at once, in percent; one always may be.
    pub max_percent: u32,
}

/// Success rate far below the others' (Envoy `success_rate_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SuccessRate {
    /// Standard deviations below the mean that are too many, times 1000.
    pub stdev_factor_milli: u32,
    /// Nobody is judged while fewer endpoints than this had enough requests.
    pub minimum_hosts: u32,
    /// Requests within an interval below which an endpoint is not judged.
    pub request_volume: u32,
}

/// How much may be under way to a cluster at once, over all workers of the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// What is `None` is not limited (the proxy's own bounds stand).
    pub breaker: CircuitBreaker,
    /// Retries in flight, in percent of requests in flight; stands beside `min_retries`, and
    /// in the place of `breaker.retries`.
    pub retry_budget_percent: u32,
    /// Retries in flight that are always allowed.
    pub min_retries: u32,
}

/// Requests in flight held to what latency allows: gradient of the lowest to the present round trip
/// time (Envoy `AdaptiveConcurrency`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdaptiveConcurrency {
    /// The least it is held to.
    pub min: u32,
    /// The most it is held to.
    pub max: u32,
    /// Time between two adjustments.
    pub interval: Duration,
    /// Time after which the lowest round trip is measured anew.
    pub min_rtt_interval: Duration,
    /// How much more than the lowest a round trip may take, in percent.
    pub tolerance_percent: u32,
}

/// Retries in flight allowed of requests in flight, in percent, and always.
const RETRY_BUDGET: (u32, u32) = (20, 3);

impl Cluster {
    /// A cluster that asks for nothing in particular.
    #[must_use]
    pub fn new(name: ResourceName, balancer: Balancer) -> Self {
        Self {
            endpoints: name.clone(),
            name,
            balancing: Balancing::of(balancer),
            upstream: Upstream::default(),
            health_check: None,
            health_host: None,
            outlier: None,
            limits: Limits::standard(),
            adaptive_concurrency: None,
            reports_load: false,
        }
    }

    /// Names of the secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &ResourceName> {
        self.upstream.tls.iter().flat_map(|tls| tls.secrets())
    }
}

impl Balancing {
    /// A rule with what Envoy has for the rest of it.
    #[must_use]
    pub fn of(balancer: Balancer) -> Self {
        Self {
            balancer,
            choices: 2,
            ring: (1024, 8 * 1024 * 1024),
            table: 65_537,
            hash_balance_factor: None,
            slow_start: None,
            locality: LocalityMode::Weighted,
            panic_threshold: 50,
            subsets: None,
        }
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            protocol: UpstreamProtocol::Auto,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: None,
            max_age: None,
            max_requests: None,
            send_proxy: None,
            tls: None,
        }
    }
}

impl Limits {
    /// No limit but on retries.
    #[must_use]
    pub fn standard() -> Self {
        let (retry_budget_percent, min_retries) = RETRY_BUDGET;
        Self { breaker: CircuitBreaker::default(), retry_budget_percent, min_retries }
    }
}
