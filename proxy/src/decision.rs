//! Decision records: why a request went where it did, for the last ones that failed and for a sample
//! of the others.
//!
//! Owns what stands in a record, how many there are and how many are made in a second. A record is
//! made when its request has ended; the path of a request that has none costs a comparison.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portolan_model::Generation;
use portolan_model::traffic::{ResourceName, falls_in};
use serde::Serialize;

use crate::access::Stamp;

/// Records that a worker makes in a second; one more is not made (`proxy_decisions_dropped`).
const MAX_PER_SECOND: u32 = 100;
/// Endpoints up to which a record names all that there were.
pub(crate) const MAX_CANDIDATES: usize = 64;
/// Bytes of a value that a client chooses.
const MAX_TEXT: usize = 512;

/// Of which requests there are records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionRecords {
    /// How many of those that failed are kept; the oldest goes. 0: none.
    pub failed: usize,
    /// How many of the others are kept; the oldest goes. 0: none.
    pub good: usize,
    /// How many of a million of the others have one.
    pub sample_per_million: u32,
}

impl Default for DecisionRecords {
    fn default() -> Self {
        Self { failed: 128, good: 32, sample_per_million: 1_000 }
    }
}

/// Why a request went where it did. Times are milliseconds from its head.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// When it ended: RFC 3339, UTC.
    pub time: String,
    /// `x-request-id`.
    pub request_id: String,
    /// Whether it failed: the proxy answered it (but for redirects and answers that a route gives),
    /// the client left, its status is 5xx, or its gRPC status stands for a failure.
    pub failed: bool,
    /// The listener it came to.
    pub listener: ResourceName,
    /// `HTTP/1.1` and so on.
    pub protocol: &'static str,
    /// The client's address.
    pub client: SocketAddr,
    /// Who the client has proven to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Its method.
    pub method: String,
    /// The host it asks for.
    pub authority: String,
    /// Its path, without the query.
    pub path: String,
    /// The status of the response, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The gRPC status, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u32>,
    /// Why the proxy answered it or ended it ([`crate::Reason`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// The same with what it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The snapshot by which it was routed, where the control plane counts them.
    pub generation: Option<Generation>,
    /// The route that took it; `None`: none did, or it did not come so far.
    pub route: Option<RouteTaken>,
    /// The cluster of its last try.
    pub cluster: Option<ResourceName>,
    /// How that balances.
    pub balancer: Option<&'static str>,
    /// Its tries, in order.
    pub tries: Vec<Try>,
    /// The cluster's endpoints as they were when it had ended; none if there are too many to name.
    pub candidates: Vec<Candidate>,
    /// How many endpoints there were.
    pub endpoints: usize,
    /// What took how long.
    pub times: Times,
}

/// A route.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteTaken {
    /// Its virtual host.
    pub virtual_host: Arc<str>,
    /// Its condition on the path; `*` ends a prefix, `~` begins an expression.
    pub path: String,
    /// What people call it, if they do.
    pub name: Option<Arc<str>>,
}

/// A try at an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Try {
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// When it began.
    pub began_ms: f64,
    /// How long opening a connection took; `None`: a kept one was used, or none was had.
    pub connect_ms: Option<f64>,
    /// How long it took, to the head of the response or to its failure; `None`: it was ended first.
    pub took_ms: Option<f64>,
    /// What became of it.
    pub outcome: String,
}

/// An endpoint that might have been picked.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its priority; 0 is preferred.
    pub priority: u32,
    /// Its zone.
    pub zone: String,
    /// Requests that it has of this worker.
    pub in_flight: u32,
    /// Its expected latency.
    pub ewma_ms: Option<f64>,
    /// Whether it was tried.
    pub tried: bool,
    /// Why it is passed over; `None`: it could be picked.
    pub passed_over: Option<String>,
}

/// What took how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Times {
    /// To the first try.
    pub first_try_ms: Option<f64>,
    /// To the end of the request's body.
    pub sent_ms: Option<f64>,
    /// To the head of the response.
    pub head_ms: Option<f64>,
    /// To the end.
    pub total_ms: f64,
}

/// The records of all workers.
#[derive(Debug, Default)]
pub(crate) struct Decisions {
    wanted: DecisionRecords,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    failed: VecDeque<Arc<Decision>>,
    good: VecDeque<Arc<Decision>>,
}

/// Leave of one worker for a number of records in each second.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    second: Cell<u64>,
    made: Cell<u32>,
}

impl Decisions {
    pub(crate) fn new(wanted: DecisionRecords) -> Self {
        Self { wanted, kept: Mutex::default() }
    }

    /// Whether there is to be a record; `random` is asked only when that decides.
    pub(crate) fn wants(&self, failed: bool, random: impl FnOnce() -> u64) -> bool {
        let DecisionRecords { failed: most_failed, good, sample_per_million: sample } = self.wanted;
        if failed { most_failed > 0 } else { good > 0 && sample > 0 && falls_in(sample, random()) }
    }

    pub(crate) fn add(&self, decision: Decision) {
        let most = if decision.failed { self.wanted.failed } else { self.wanted.good };
        let decision = Arc::new(decision);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = if decision.failed { &mut kept.failed } else { &mut kept.good };
        kept.push_back(decision);
        while kept.len() > most {
            kept.pop_front();
        }
    }

    /// All there are, the oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<Decision>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = kept.failed.iter().chain(&kept.good).cloned().collect();
        drop(kept);
        all.sort_by(|one, other| one.time.cmp(&other.time));
        all
    }
}

impl Budget {
    /// Whether another record may be made at this time.
    pub(crate) fn take(&self, now: SystemTime) -> bool {
        let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if self.second.replace(second) != second {
            self.made.set(0);
        }
        let made = self.made.get();
        self.made.set(made.saturating_add(1));
        made < MAX_PER_SECOND
    }
}

/// The text of a time.
pub(crate) fn stamp(now: SystemTime) -> String {
    String::from_utf8_lossy(Stamp::default().at(now)).into_owned()
}

/// A value that a client chooses, bounded.
pub(crate) fn text(value: &[u8]) -> String {
    let bounded = value.get(..MAX_TEXT).unwrap_or(value);
    String::from_utf8_lossy(bounded).into_owned()
}

/// Milliseconds to three places.
pub(crate) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(id: usize, failed: bool) -> Decision {
        Decision {
            identity: None,
            time: format!("{id:04}"),
            request_id: id.to_string(),
            failed,
            listener: "http".into(),
            protocol: "HTTP/1.1",
            client: SocketAddr::from(([127, 0, 0, 1], 1)),
            method: "GET".to_owned(),
            authority: "web".to_owned(),
            path: "/".to_owned(),
            status: Some(200),
            grpc_status: None,
            reason: None,
            detail: None,
            generation: None,
            route: None,
            cluster: None,
            balancer: None,
            tries: Vec::new(),
            candidates: Vec::new(),
            endpoints: 0,
            times: Times::default(),
        }
    }

    #[test]
    fn the_last_are_kept_and_the_good_push_out_no_failure() {
        let wanted = DecisionRecords { failed: 2, good: 3, sample_per_million: 1_000_000 };
        let decisions = Decisions::new(wanted);
        for id in 0..10 {
            decisions.add(decision(id, id < 4));
        }
        let ids: Vec<String> = decisions.all().iter().map(|d| d.request_id.clone()).collect();
        assert_eq!(ids, ["2", "3", "7", "8", "9"]);
    }

    #[test]
    fn failures_are_wanted_and_of_the_others_a_sample() {
        let of = |failed, good, sample_per_million| {
            Decisions::new(DecisionRecords { failed, good, sample_per_million })
        };
        let never = || unreachable!("nobody asks");
        assert!(of(1, 0, 0).wants(true, never));
        assert!(!of(0, 1, 1_000_000).wants(true, never));
        assert!(!of(1, 0, 1_000_000).wants(false, never));
        assert!(!of(1, 1, 0).wants(false, never));
        assert!(of(1, 1, 1_000).wants(false, || 3_000_999));
        assert!(!of(1, 1, 1_000).wants(false, || 1_000));
    }

    #[test]
    fn in_a_second_no_more_are_made_than_the_bound() {
        let (budget, now) = (Budget::default(), UNIX_EPOCH + Duration::from_secs(5));
        let made = (0..500).filter(|_| budget.take(now)).count();
        assert_eq!(made, MAX_PER_SECOND as usize);
        assert!(budget.take(now + Duration::from_secs(1)));
    }
}
