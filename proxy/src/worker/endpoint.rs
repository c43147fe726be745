//! One endpoint on one worker: its connections, its load, and what is thought of it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::balance::{Load, Outcome as LoadOutcome};
use crate::health::host::HostHealth;
use crate::health::outcome::Outcome;
use crate::metrics::EndpointMetrics;
use crate::upstream::{h1, h2};

/// An endpoint that refused a connection is passed over for this long while others are there;
/// doubles with each further failure up to [`MAX_AVOID`].
const AVOID: Duration = Duration::from_secs(1);
const MAX_AVOID: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) h1: h1::Pool,
    pub(crate) h2: h2::Pool,
    pub(crate) load: Load,
    metrics: RefCell<Arc<EndpointMetrics>>,
    health: RefCell<Option<Arc<HostHealth>>>,
    was_healthy: Cell<bool>,
    gone: Cell<bool>,
    failures: Cell<u32>,
    avoid_until: Cell<Option<Instant>>,
}

/// Counts towards an endpoint's load while it lives, and says once what became of it.
#[derive(Debug)]
pub(crate) struct InFlight {
    endpoint: Rc<Endpoint>,
    metrics: Arc<EndpointMetrics>,
    since: Instant,
    /// Latency and outcome were told.
    observed: bool,
}

impl Endpoint {
    pub(super) fn new(address: SocketAddr, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            address,
            h1: h1::Pool::default(),
            h2: h2::Pool::default(),
            load: Load::new(now),
            metrics: RefCell::default(),
            health: RefCell::default(),
            was_healthy: Cell::new(true),
            gone: Cell::new(false),
            failures: Cell::new(0),
            avoid_until: Cell::new(None),
        })
    }

    pub(crate) fn begin(self: &Rc<Self>) -> InFlight {
        let since = Instant::now();
        self.load.begin(since);
        let metrics = Arc::clone(&self.metrics.borrow());
        metrics.requests.add(1);
        metrics.active.add(1);
        InFlight { endpoint: Rc::clone(self), metrics, since, observed: false }
    }

    /// Whether the endpoint has left: its connections are not worth keeping.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.get()
    }

    /// It took a connection.
    pub(crate) fn on_connected(&self) {
        self.failures.set(0);
        self.avoid_until.set(None);
    }

    /// It did not take a connection: others are preferred for a while.
    pub(crate) fn on_connect_failed(&self) {
        let failures = self.failures.get();
        self.failures.set(failures.saturating_add(1));
        let wait = AVOID.saturating_mul(1 << failures.min(10)).min(MAX_AVOID);
        self.avoid_until.set(Some(Instant::now() + wait));
    }

    /// Tells outlier detection how a request ended, if somebody watches.
    pub(crate) fn report(&self, worker: usize, outcome: Outcome) {
        if outcome != Outcome::Success {
            self.metrics.borrow().failures.add(1);
        }
        if let Some(health) = &*self.health.borrow() {
            health.report(worker, outcome);
        }
    }

    /// Counts here from now on.
    pub(super) fn set_metrics(&self, metrics: Arc<EndpointMetrics>) {
        self.h1.set_metrics(Arc::clone(&metrics));
        *self.metrics.borrow_mut() = metrics;
    }

    pub(super) fn set_health(&self, health: Option<Arc<HostHealth>>) {
        *self.health.borrow_mut() = health;
    }

    /// Whether checks and outlier detection let it be used. One that comes back begins anew.
    pub(super) fn is_healthy(&self) -> bool {
        let healthy = self.health.borrow().as_ref().is_none_or(|health| health.is_available());
        if !self.was_healthy.replace(healthy) && healthy {
            self.load.rejoin(Instant::now());
        }
        healthy
    }

    pub(super) fn is_avoided(&self, now: Instant) -> bool {
        self.avoid_until.get().is_some_and(|until| now < until)
    }

    pub(super) fn sweep(&self, idle_timeout: Duration) {
        self.h1.sweep(idle_timeout);
        self.h2.sweep(idle_timeout);
    }

    pub(super) fn retire(&self) {
        self.gone.set(true);
        self.h1.clear();
        self.h2.clear();
    }
}

impl InFlight {
    /// The endpoint answered, or failed to.
    pub(crate) fn observe(&mut self, outcome: LoadOutcome) {
        if !std::mem::replace(&mut self.observed, true) {
            let now = Instant::now();
            let load = &self.endpoint.load;
            load.observe(now, now.duration_since(self.since), outcome);
            // This request is in flight: what is read is what was just observed.
            let rtt = Duration::try_from_secs_f64(load.rtt(now).unwrap_or(0.0) / 1e9);
            let rtt = rtt.unwrap_or_default();
            self.metrics.ewma_micros.set(u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
        }
    }

    /// When it began.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.observe(LoadOutcome::Abandoned);
        self.endpoint.load.end();
        self.metrics.active.sub(1);
    }
}
