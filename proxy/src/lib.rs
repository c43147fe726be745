//! The data plane: listeners for TCP and HTTP that balance to the endpoints of a [`TrafficConfig`].
//!
//! One OS thread per worker, each with its own runtime, sockets, pools and counters; nothing is
//! shared between workers on the path of a request. Owns: accepting, detection, routing,
//! balancing, forwarding, retries, draining, and TLS with clients. Refuses: to know where its
//! configuration comes from (xDS), names (DNS) or Kubernetes.
//!
//! [`TrafficConfig`]: portolan_model::traffic::TrafficConfig

mod access;
mod admit;
mod balance;
mod config;
mod decision;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod http;
mod http1;
mod http2;
mod limit;
mod load;
mod message;
mod metrics;
mod protobuf;
mod proxy_protocol;
mod splice;
mod state;
mod stream;
mod supervisor;
mod tcp;
mod tls;
mod trace;
mod upstream;
mod worker;

use std::future::Future;
use std::sync::Arc;

use portolan_model::traffic::TrafficConfig;
use portolan_runtime::restart::Part;
use portolan_runtime::{Gate, Lifecycle, Metrics};
use tokio::sync::watch;

pub use config::{AccessFormat, AccessLog, AccessTo, DecisionRecords, Place, ProxyConfig};
pub use decision::{Candidate, Decision, RouteTaken, Times, Try};
pub use error::ProxyError;
pub use http::local::{REASON_HEADER, Reason};
pub use load::LoadHandle;
pub use state::{EndpointView, ListenerView, ProxyView, StateHandle};
pub use trace::{Span, SpanKind, Tracer, Value};

use metrics::ProxyMetrics;

/// A proxy that does not run yet.
#[derive(Debug)]
pub struct Proxy {
    config: Arc<ProxyConfig>,
    metrics: Arc<ProxyMetrics>,
    state: StateHandle,
    restart: Option<Part>,
    tracer: Option<Tracer>,
}

impl Proxy {
    /// Registers the metrics; binds nothing and starts no thread.
    #[must_use]
    pub fn new(config: ProxyConfig, metrics: &Metrics) -> Self {
        let counters = Arc::new(ProxyMetrics::new(config.workers.get()));
        metrics.register_collector(Box::new(Arc::clone(&counters)));
        Self {
            config: Arc::new(config),
            metrics: counters,
            state: StateHandle::default(),
            restart: None,
            tracer: None,
        }
    }

    /// Takes part in hot restarts: takes over the sockets of the process before, and hands its own
    /// to the one after.
    #[must_use]
    pub fn with_restart(mut self, part: Part) -> Self {
        self.restart = Some(part);
        self
    }

    /// Makes spans of requests.
    #[must_use]
    pub fn with_tracer(mut self, tracer: Tracer) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// What the proxy runs with, for the admin page `/debug/proxy`.
    #[must_use]
    pub fn state(&self) -> StateHandle {
        self.state.clone()
    }

    /// What its clusters have seen, for load reports.
    #[must_use]
    pub fn load(&self) -> LoadHandle {
        LoadHandle(Arc::clone(&self.metrics))
    }

    /// Serves every configuration `config` brings until the lifecycle drains and the last
    /// connection has ended, or it aborts. A configuration source that goes away is no reason to
    /// stop: the last configuration stays. `gate` hears of a generation once every worker runs
    /// with it and its listeners are bound or reported. Dropping the future stops the workers.
    ///
    /// # Errors
    /// [`ProxyError`] when a worker cannot be started or ends unasked. A listener that cannot be
    /// bound is no error: it is logged, counted, shown in the state and tried again.
    pub fn run(
        self,
        config: watch::Receiver<Arc<TrafficConfig>>,
        gate: Gate,
        lifecycle: Lifecycle,
    ) -> impl Future<Output = Result<(), ProxyError>> + Send {
        let Self { config: own, metrics, state, restart, tracer } = self;
        supervisor::run(own, metrics, state, config, gate, lifecycle, restart, tracer)
    }
}
