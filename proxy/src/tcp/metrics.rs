//! Counters of TCP streams on one worker: how they ended, how long connecting took, and how their
//! bytes went.

use std::time::Duration;

use crate::http::local::Reason;
use crate::metrics::Counter;

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides ended theirs, and everything was passed on.
    Done,
    /// The client failed or reset; the endpoint was reset.
    Client,
    /// The endpoint failed or reset; the client was reset.
    Upstream,
    /// No byte moved for `tcp_idle_timeout`; both were reset.
    Idle,
    /// Older than `tcp_max_age`; both were reset.
    Age,
    /// The cluster is unknown; the client was reset.
    NoCluster,
    /// The cluster has no endpoint; the client was reset.
    NoEndpoints,
    /// No endpoint took a connection; the client was reset.
    ConnectFailed,
    /// The cluster has as many connections as it may; the client was reset.
    CircuitOpen,
    /// No valid PROXY protocol header where one was expected; the client was reset.
    ProxyProtocol,
    /// The client may not have it; it was reset.
    Denied,
}

/// Upper bounds of the buckets of connect times, in milliseconds; above the last is one more.
pub(crate) const CONNECT_BUCKETS_MS: [u32; 9] = [1, 2, 5, 10, 25, 100, 250, 1_000, 5_000];

/// Counters of one worker.
#[derive(Debug, Default)]
pub(crate) struct TcpMetrics {
    pub(crate) ends: [Counter; End::ALL.len()],
    /// Connections by the time they took, as in [`CONNECT_BUCKETS_MS`]; retries included.
    pub(crate) connects: [Counter; CONNECT_BUCKETS_MS.len() + 1],
    /// All those times together, in microseconds.
    pub(crate) connect_micros: Counter,
    /// Bytes moved through pipes, both ways.
    pub(crate) spliced: Counter,
    /// Pipes wanted and not had; the stream went on copying.
    pub(crate) denied: Counter,
}

impl End {
    /// All of them, in the order of their counters.
    pub(crate) const ALL: [Self; 11] = [
        Self::Done,
        Self::Client,
        Self::Upstream,
        Self::Idle,
        Self::Age,
        Self::NoCluster,
        Self::NoEndpoints,
        Self::ConnectFailed,
        Self::CircuitOpen,
        Self::ProxyProtocol,
        Self::Denied,
    ];

    /// The word in `portolan_proxy_tcp_ends_total{end}`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Client => "client_reset",
            Self::Upstream => "upstream_reset",
            Self::Idle => "idle",
            Self::Age => "max_age",
            Self::NoCluster => "no_cluster",
            Self::NoEndpoints => "no_endpoints",
            Self::ConnectFailed => "connect_failed",
            Self::CircuitOpen => "circuit_open",
            Self::ProxyProtocol => "proxy_protocol",
            Self::Denied => "denied",
        }
    }

    /// The same among the reasons of the whole proxy; `None` when it was not the proxy's doing.
    pub(crate) fn reason(self) -> Option<Reason> {
        match self {
            Self::Done | Self::Client | Self::Upstream => None,
            Self::Idle => Some(Reason::Timeout),
            Self::Age => Some(Reason::MaxAge),
            Self::CircuitOpen => Some(Reason::CircuitOpen),
            Self::NoCluster => Some(Reason::NoCluster),
            Self::NoEndpoints => Some(Reason::NoEndpoints),
            Self::ConnectFailed => Some(Reason::ConnectFailed),
            Self::ProxyProtocol => Some(Reason::ProxyHeader),
            Self::Denied => Some(Reason::Denied),
        }
    }
}

impl TcpMetrics {
    pub(crate) fn on_end(&self, end: End) {
        // `ALL` lists every end; a test says so.
        let index = End::ALL.iter().position(|e| *e == end).unwrap_or(0);
        self.ends[index].add(1);
    }

    pub(crate) fn on_connected(&self, took: Duration) {
        let within = |bound: &u32| took <= Duration::from_millis((*bound).into());
        let bucket = CONNECT_BUCKETS_MS.iter().position(within);
        self.connects[bucket.unwrap_or(CONNECT_BUCKETS_MS.len())].add(1);
        self.connect_micros.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_a_counter_and_a_word_of_its_own() {
        let words: std::collections::HashSet<_> = End::ALL.iter().map(|e| e.as_str()).collect();
        assert_eq!(words.len(), End::ALL.len());
        let metrics = TcpMetrics::default();
        End::ALL.iter().for_each(|end| metrics.on_end(*end));
        assert!(metrics.ends.iter().all(|counter| counter.get() == 1));
    }

    #[test]
    fn a_connect_time_is_counted_once_in_its_bucket() {
        let metrics = TcpMetrics::default();
        for (millis, bucket) in [(0, 0), (1, 0), (2, 1), (30, 5), (5_000, 8), (5_001, 9)] {
            let before = metrics.connects[bucket].get();
            metrics.on_connected(Duration::from_millis(millis));
            assert_eq!(metrics.connects[bucket].get(), before + 1, "{millis} ms");
        }
        assert_eq!(metrics.connects.iter().map(Counter::get).sum::<u64>(), 6);
        assert_eq!(metrics.connect_micros.get(), 10_034_000);
    }
}
