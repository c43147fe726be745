//! What a service wants of whoever balances it and Kubernetes has no field for.
//!
//! Values only: `control` reads them from annotations, `xds` says them in the words of Envoy's API.

mod retries;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::traffic::{AdaptiveConcurrency, ProxyHeader, SlowStart, SuccessRate};
pub use retries::{BackOff, RETRIABLE_STATUSES, Retries, RetryOn};

/// The policy of a service; what is `None` is left to the defaults of whoever balances.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// How an endpoint is picked.
    pub balancer: Option<Balancer>,
    /// By what ring hash tells requests apart.
    pub hash_on: Option<HashOn>,
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
    /// How many retries there may be beside requests, in the place of a number.
    pub retry_budget: Option<RetryBudget>,
    /// Whether requests in flight are held to what latency allows.
    pub adaptive_concurrency: Option<AdaptiveConcurrency>,
    /// Settings of the balancer.
    pub tuning: Tuning,
    /// What connections to endpoints are like.
    pub connections: Connections,
    /// Whether endpoints and their clients prove to each other who they are.
    pub mutual_tls: Option<MutualTls>,
    /// By port: where proxies in front of endpoints listen, and where they find the application.
    #[serde(default)]
    pub inbound: BTreeMap<u16, Inbound>,
}

/// How endpoints and their clients prove to each other who they are: by SPIFFE ids, between the proxies
/// on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MutualTls {
    /// Whether clients have to.
    pub mode: TlsMode,
    /// The service accounts of endpoints; empty: any of the service's namespace.
    pub accounts: Vec<Account>,
}

/// Whether clients have to prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TlsMode {
    /// Those that can do so do; the others are served in the clear.
    Permissive,
    /// They have to.
    Strict,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Its namespace; `None`: that of whatever names it.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
}

/// The two sides of a proxy in front of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inbound {
    /// Where it listens: the endpoint's port.
    pub listens: u16,
    /// Where the application does, at the loopback address.
    pub app: u16,
}

/// Settings of a balancer; each is of use to some of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tuning {
    /// Whether endpoints that are new begin with less.
    pub slow_start: Option<SlowStart>,
    /// Least request and peak EWMA: endpoints drawn, of which the better one is taken, 2 to 10.
    pub choices: Option<u32>,
    /// Ring hash and Maglev: the most an endpoint gets, in percent of the mean, 100 or more.
    pub hash_balance_factor: Option<u32>,
    /// Healthy endpoints, in percent, below which health is not minded.
    pub panic_threshold: Option<u32>,
}

/// What connections to endpoints are like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connections {
    /// One without a request is closed after this long.
    pub idle_timeout: Option<Duration>,
    /// One takes nothing new after this long.
    pub max_age: Option<Duration>,
    /// One takes no more requests than this.
    pub max_requests: Option<NonZeroU32>,
    /// Whether a PROXY header goes first.
    pub send_proxy: Option<ProxyHeader>,
}

/// Retries in flight beside requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Of requests in flight, in percent.
    pub percent: u32,
    /// So many are always allowed.
    pub minimum: u32,
}

/// How one endpoint is picked for a request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balancer {
    /// In turn.
    RoundRobin,
    /// The one with fewer requests in flight of two drawn at random (power of two choices).
    LeastRequest,
    /// By a hash of the request on a ring of endpoints, so that what has the same hash keeps its
    /// endpoint while that is there (gRFC A42).
    RingHash,
    /// In turn, weighted by the load that endpoints report with their answers (ORCA, gRFC A58).
    ClientSideWeightedRoundRobin,
    /// All of it to one that takes a connection (gRFC A62).
    PickFirst,
    /// Drawn at random.
    Random,
    /// The one of two drawn at random that is expected to answer sooner: the peak-sensitive moving
    /// average of its round trips times its requests in flight (Finagle's peak EWMA).
    PeakEwma,
    /// By a hash of the request in a table of fixed size that endpoints share evenly (Maglev, Eisenbud
    /// and others 2016).
    Maglev,
}

/// What of a request goes into the hash by which ring hash picks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HashOn {
    /// The values of this header, its name in lower case.
    Header(String),
    /// A cookie.
    Cookie {
        /// Its name.
        name: String,
        /// For how long a proxy gives one to a client that has none; `None`: it gives none.
        ttl: Option<Duration>,
    },
    /// The client's address; to a gRPC client, which has none, its channel.
    SourceIp,
    /// The path without the query.
    Path,
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
    /// That many answers of 500 or above in a row.
    pub consecutive_errors: Option<u32>,
    /// That many answers of 502, 503 or 504 in a row.
    pub consecutive_gateway_errors: Option<u32>,
    /// That many failures in a row that were seen on the way there; these then do not count as
    /// answers.
    pub consecutive_local_errors: Option<u32>,
    /// That share of answers within an interval.
    pub failure_percentage: Option<FailurePercentage>,
    /// A rate of success within an interval that is far below the others'.
    pub success_rate: Option<SuccessRate>,
    /// Time between two looks at who may come back.
    pub interval: Duration,
    /// How long an endpoint is left out the first time; grows with each.
    pub ejection_time: Duration,
    /// The longest an endpoint is left out.
    pub max_ejection_time: Option<Duration>,
    /// Up to so much is added at random.
    pub ejection_jitter: Option<Duration>,
    /// Most endpoints left out at once, in percent, 0 to 100.
    pub max_percent: u32,
}

/// A share of failures by which an endpoint is left out (gRFC A50 knows no other way but by the
/// spread of success rates).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailurePercentage {
    /// Failures of all answers in an interval from which it is left out, in percent, 1 to 100.
    pub threshold: u32,
    /// Nobody is judged while fewer endpoints than this had enough requests.
    pub minimum_hosts: u32,
    /// Requests within an interval below which an endpoint is not judged.
    pub request_volume: u32,
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

impl Policy {
    /// How an endpoint is picked, and for ring hash by what; all that a service says of it taken
    /// together. What it names comes first, then what to hash by, then its `sessionAffinity`
    /// (`client_affinity`), then the default.
    #[must_use]
    pub fn balancing(
        &self,
        client_affinity: bool,
        default: Balancer,
    ) -> (Balancer, Option<&HashOn>) {
        const SOURCE_IP: &HashOn = &HashOn::SourceIp;
        let affine = self.hash_on.is_some() || client_affinity;
        let implied = if affine { Balancer::RingHash } else { default };
        match self.balancer.unwrap_or(implied) {
            hashed @ (Balancer::RingHash | Balancer::Maglev) => {
                (hashed, Some(self.hash_on.as_ref().unwrap_or(SOURCE_IP)))
            }
            other => (other, None),
        }
    }
}

impl Balancer {
    /// Every balancer with its word, as used in config and annotations; the default first.
    pub const WORDS: [(&str, Self); 8] = [
        ("peak_ewma", Self::PeakEwma),
        ("least_request", Self::LeastRequest),
        ("round_robin", Self::RoundRobin),
        ("ring_hash", Self::RingHash),
        ("maglev", Self::Maglev),
        ("client_side_weighted_round_robin", Self::ClientSideWeightedRoundRobin),
        ("pick_first", Self::PickFirst),
        ("random", Self::Random),
    ];

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        let found = Self::WORDS.iter().find(|(_, balancer)| *balancer == self);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_try_to_try_up_to_the_longest() {
        let ms = Duration::from_millis;
        let back_off = BackOff { base: ms(25), max: ms(250) };
        for (n, most) in [(1, 25), (2, 75), (3, 175), (4, 250), (40, 250)] {
            let (mut least, mut longest, mut sum) = (ms(most), ms(0), ms(0));
            for i in 0..10_000_u64 {
                let pause = back_off.pause(n, i * 7_919_017);
                least = least.min(pause);
                longest = longest.max(pause);
                sum += pause;
            }
            assert!(least < ms(1) && longest <= ms(most) && longest > ms(most) * 9 / 10, "{n}");
            let mean = sum / 10_000;
            assert!(mean > ms(most) * 4 / 10 && mean < ms(most) * 6 / 10, "{n}: {mean:?}");
        }
        let none = BackOff { base: ms(0), max: ms(0) };
        assert_eq!(none.pause(3, u64::MAX), ms(0));
    }

    #[test]
    fn what_a_service_names_goes_before_what_its_affinity_implies() {
        use Balancer::{LeastRequest, RingHash, RoundRobin};
        let header = || Some(HashOn::Header("x-user".to_owned()));
        let ip = Some(HashOn::SourceIp);
        #[rustfmt::skip]
        let cases = [
            ("nothing said", None, None, false, LeastRequest, (LeastRequest, None)),
            ("the client keeps its endpoint", None, None, true, LeastRequest, (RingHash, ip.clone())),
            ("a hash means a ring", None, header(), false, LeastRequest, (RingHash, header())),
            ("a hash says more than affinity", None, header(), true, LeastRequest, (RingHash, header())),
            ("a ring without a hash", Some(RingHash), None, false, LeastRequest, (RingHash, ip.clone())),
            ("a ring by default", None, None, false, RingHash, (RingHash, ip)),
            ("another balancer with affinity", Some(RoundRobin), None, true, RingHash, (RoundRobin, None)),
            ("another balancer with a hash", Some(RoundRobin), header(), false, RingHash, (RoundRobin, None)),
        ];
        for (about, balancer, hash_on, affinity, default, expected) in cases {
            let policy = Policy { balancer, hash_on, ..Policy::default() };
            let (balancer, hash_on) = policy.balancing(affinity, default);
            assert_eq!((balancer, hash_on.cloned()), expected, "{about}");
        }
    }
}
