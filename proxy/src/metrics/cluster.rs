//! Counters of one cluster on one worker, and those of its endpoints.
//!
//! Looked up once for each state of a cluster and kept with it. Owns the bound on endpoints with
//! counters of their own; refuses labels that a request could choose.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::tally::{Histogram, Tally};
use crate::balance::Counters;
use crate::http::local::Reason;

/// gRPC statuses that have a name, and one for all others.
pub(crate) const GRPC_STATUSES: usize = 18;

/// gRPC statuses that are errors of the server: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
/// UNAVAILABLE and DATA_LOSS. They are those that Envoy maps to a status of 5xx.
const SERVER_ERRORS: [u32; 6] = [2, 4, 12, 13, 14, 15];

/// How a retry ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retried {
    /// It brought the response.
    Success,
    /// It failed as well.
    Failure,
    /// It was not made for want of budget.
    OverBudget,
}

impl Retried {
    pub(crate) const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::OverBudget];

    /// The word in `portolan_proxy_cluster_retries_total{outcome}`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::OverBudget => "over_budget",
        }
    }
}

/// Counters of one cluster on one worker; its thread is the only writer.
#[derive(Debug, Default)]
pub(crate) struct ClusterMetrics {
    /// Requests and streams.
    pub(crate) requests: Tally,
    /// Requests that ended without an error of the server, and with one; nothing of those that the client
    /// left.
    pub(crate) good: Tally,
    pub(crate) bad: Tally,
    /// Requests by the first digit of the status; index 0 for those without one.
    pub(crate) responses: [Tally; 6],
    /// gRPC requests by their status.
    pub(crate) grpc: [Tally; GRPC_STATUSES],
    /// From a request's head to the end of its response.
    pub(crate) duration: Histogram,
    /// From a request's head to the head of the endpoint's response.
    pub(crate) head: Histogram,
    /// Bytes of bodies and streams from clients.
    pub(crate) bytes_in: Tally,
    /// Bytes of bodies and streams to clients.
    pub(crate) bytes_out: Tally,
    pub(crate) retries: [Tally; Retried::ALL.len()],
    /// Answers the proxy made itself, and what it cut or reset.
    pub(crate) local: [Tally; Reason::ALL.len()],
    pub(crate) connects: Tally,
    pub(crate) connect_failures: Tally,
    /// Picks that did not go the common way.
    pub(crate) balance: Arc<Counters>,
    endpoints: Mutex<BTreeMap<SocketAddr, Arc<EndpointMetrics>>>,
    /// Of endpoints that have none of their own.
    others: Arc<EndpointMetrics>,
}

/// Counters of one endpoint of one cluster on one worker.
#[derive(Debug, Default)]
pub(crate) struct EndpointMetrics {
    /// Tries: requests and streams, retries included.
    pub(crate) requests: Tally,
    /// Tries that count as failures of the endpoint.
    pub(crate) failures: Tally,
    pub(crate) active: Tally,
    /// Expected latency in microseconds, when one was last observed; 0 before.
    pub(crate) ewma_micros: Tally,
    /// Idle HTTP/1.1 connections.
    pub(crate) idle: Tally,
}

impl ClusterMetrics {
    /// The counters of an endpoint of a cluster that has so many: its own up to `most`.
    pub(crate) fn endpoint(
        &self,
        address: SocketAddr,
        of: usize,
        most: usize,
    ) -> Arc<EndpointMetrics> {
        if of > most {
            return Arc::clone(&self.others);
        }
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(endpoints.entry(address).or_default())
    }

    /// Forgets endpoints that left; what they have in flight is counted nowhere.
    pub(crate) fn keep(&self, addresses: &HashSet<SocketAddr>) {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        endpoints.retain(|address, _| addresses.contains(address));
    }

    /// Reads every endpoint's counters; `None` is the address of the others together.
    pub(crate) fn each_endpoint(&self, mut read: impl FnMut(Option<SocketAddr>, &EndpointMetrics)) {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        for (address, metrics) in &*endpoints {
            read(Some(*address), metrics);
        }
        if self.others.requests.get() > 0 {
            read(None, &self.others);
        }
    }

    /// A request ended: with this status, or 0 for none.
    pub(crate) fn on_request(&self, status: u16, took: Duration, head: Option<Duration>) {
        let class = usize::from(status / 100);
        self.responses.get(class).unwrap_or(&self.responses[0]).add(1);
        self.duration.record(took);
        if let Some(head) = head {
            self.head.record(head);
        }
    }

    pub(crate) fn on_bytes(&self, bytes_in: u64, bytes_out: u64) {
        self.bytes_in.add(bytes_in);
        self.bytes_out.add(bytes_out);
    }

    /// A request ended: whether that was for want of a working server.
    pub(crate) fn on_ended(&self, status: u16, grpc: Option<u32>) {
        let is_bad = status >= 500 || grpc.is_some_and(|status| SERVER_ERRORS.contains(&status));
        match status {
            0 => {}
            _ if is_bad => self.bad.add(1),
            _ => self.good.add(1),
        }
    }

    pub(crate) fn on_grpc(&self, status: u32) {
        let index = usize::try_from(status).unwrap_or(usize::MAX).min(GRPC_STATUSES - 1);
        self.grpc[index].add(1);
    }

    pub(crate) fn on_retried(&self, retried: Retried) {
        let index = Retried::ALL.iter().position(|r| *r == retried).unwrap_or(0);
        self.retries[index].add(1);
    }

    pub(crate) fn on_local(&self, reason: Reason) {
        self.local[reason.index()].add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 80))
    }

    fn seen(metrics: &ClusterMetrics) -> Vec<(Option<SocketAddr>, u64)> {
        let mut seen = Vec::new();
        metrics.each_endpoint(|address, metrics| seen.push((address, metrics.requests.get())));
        seen
    }

    #[test]
    fn endpoints_of_a_large_cluster_are_counted_together() {
        let metrics = ClusterMetrics::default();
        metrics.endpoint(address(1), 2, 2).requests.add(1);
        for n in 1..4 {
            metrics.endpoint(address(n), 3, 2).requests.add(1);
        }
        assert_eq!(seen(&metrics), [(Some(address(1)), 1), (None, 3)]);
        metrics.keep(&HashSet::new());
        assert_eq!(seen(&metrics), [(None, 3)]);
    }

    #[test]
    fn statuses_there_are_not_are_counted_as_others() {
        let metrics = ClusterMetrics::default();
        for (status, class) in [(0, 0), (101, 1), (200, 2), (599, 5), (600, 0), (u16::MAX, 0)] {
            let before = metrics.responses[class].get();
            metrics.on_request(status, Duration::ZERO, None);
            assert_eq!(metrics.responses[class].get(), before + 1, "{status}");
        }
        for (status, index) in [(0, 0), (16, 16), (17, 17), (u32::MAX, 17)] {
            let before = metrics.grpc[index].get();
            metrics.on_grpc(status);
            assert_eq!(metrics.grpc[index].get(), before + 1, "{status}");
        }
    }
}
