//! The proxy's own bounds. What it routes comes from xDS, not from here.

use std::num::NonZeroUsize;
use std::time::Duration;

pub use crate::access::{AccessFormat, AccessLog, AccessTo};
pub use crate::balance::Place;
pub use crate::decision::DecisionRecords;

/// Bounds of a proxy; each says what happens at the bound and which metric shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Where the proxy runs, for zone-aware routing; `None`: zones do not matter.
    pub place: Option<Place>,
    /// Worker threads. Default: the parallelism available to the process.
    pub workers: NonZeroUsize,
    /// Connections open at a time, per worker and listener. One more is reset at once
    /// (`proxy_connections_refused`).
    pub max_connections: usize,
    /// Requests in flight at a time, per worker. One more is answered 503 `overloaded`
    /// (`proxy_local_answers`).
    pub max_requests: u32,
    /// Idle HTTP/1.1 connections kept per endpoint and worker. One more is closed.
    pub pool_idle_per_endpoint: usize,
    /// Idle upstream connections are closed after this long.
    pub pool_idle_timeout: Duration,
    /// Limit on a whole request for routes that set none; `None` for no limit. At the limit the
    /// answer is 504 `timeout`, or a response under way is cut off.
    pub request_timeout: Option<Duration>,
    /// A client's connection without a request in flight is closed gracefully after this long.
    pub idle_timeout: Duration,
    /// The first bytes of a connection, and each HTTP/1.1 request head, must arrive within this;
    /// the connection is closed otherwise. hyper counts the time between two HTTP/1.1 requests
    /// too, so keep-alive lasts for the smaller of this and `idle_timeout`.
    pub header_timeout: Duration,
    /// A TCP stream on which no byte moves either way is reset after this long.
    pub tcp_idle_timeout: Duration,
    /// A TCP stream is reset at this age, whatever moves on it; `None` for no limit. It has no end
    /// of its own to be asked for, and one that is cut must not look whole.
    pub tcp_max_age: Option<Duration>,
    /// Bytes a request or response head may take; a larger request is answered 431, a larger
    /// response 502.
    pub max_header_bytes: u32,
    /// Streams open at a time per HTTP/2 connection of a client; told to the client in SETTINGS.
    pub max_concurrent_streams: u32,
    /// Clusters with up to this many endpoints have metrics for each of them; those of larger
    /// clusters are counted together. 0: none has.
    pub endpoint_metrics: usize,
    /// A record for each request and stream; `None`: none is written.
    pub access_log: Option<AccessLog>,
    /// Of which requests there is a record of why they went where they did.
    pub decisions: DecisionRecords,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            place: None,
            workers: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            max_connections: 16_384,
            max_requests: 65_536,
            pool_idle_per_endpoint: 128,
            pool_idle_timeout: Duration::from_secs(60),
            request_timeout: None,
            idle_timeout: Duration::from_mins(5),
            header_timeout: Duration::from_mins(1),
            tcp_idle_timeout: Duration::from_hours(1),
            tcp_max_age: None,
            max_header_bytes: 64 * 1024,
            max_concurrent_streams: 256,
            endpoint_metrics: 64,
            access_log: None,
            decisions: DecisionRecords::default(),
        }
    }
}
