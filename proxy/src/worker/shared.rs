//! What all tasks of one worker share: the configuration, the clusters' state, the counters.
//!
//! Single-threaded: cells, no locks. No borrow outlives a call.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use portolan_model::Generation;
use portolan_model::traffic::{ResourceName, RouteTable, TrafficConfig};
use tokio_util::task::TaskTracker;

use super::Common;
use super::cluster::ClusterState;
use super::crew::Crew;
use crate::access::{Log, Pen};
use crate::balance::Rng;
use crate::balance::describe::Description;
use crate::config::ProxyConfig;
use crate::decision::{Budget, Decisions};
use crate::health::Board;
use crate::limit::Limiters;
use crate::metrics::WorkerMetrics;
use crate::tls::Terminators;
use crate::trace::Tracer;

pub(crate) struct Shared {
    /// The worker's number.
    pub(crate) number: usize,
    pub(crate) config: Arc<ProxyConfig>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) health: Arc<Board>,
    pub(crate) limiters: Arc<Limiters>,
    pub(crate) terminators: Arc<Terminators>,
    pub(crate) decisions: Arc<Decisions>,
    /// What makes spans, if there are any.
    pub(crate) tracer: Option<Tracer>,
    /// Leave for decision records.
    pub(crate) records: Budget,
    pub(crate) crew: Arc<Crew>,
    /// What writes the access log, if there is one.
    pub(crate) pen: Option<Pen>,
    pub(crate) rng: RefCell<Rng>,
    /// HTTP/2 connections and streams: bounded by `max_connections` times
    /// `max_concurrent_streams`, ended by the end of the runtime at the latest.
    pub(crate) tasks: TaskTracker,
    /// Requests in flight.
    requests: Cell<u32>,
    traffic: RefCell<Arc<TrafficConfig>>,
    /// Clusters that were asked for; never more than the configuration has.
    clusters: RefCell<HashMap<ResourceName, Rc<ClusterState>>>,
}

impl Shared {
    pub(crate) fn new(
        number: usize,
        config: Arc<ProxyConfig>,
        metrics: Arc<WorkerMetrics>,
        common: Common,
        crew: Arc<Crew>,
        log: Option<Arc<Log>>,
    ) -> Self {
        let Common { health, limiters, terminators, decisions, tracer } = common;
        let seed = seed(number);
        let pen = log.map(|log| Pen::new(log, number));
        Self {
            number,
            config,
            metrics,
            health,
            limiters,
            terminators,
            decisions,
            tracer,
            records: Budget::default(),
            crew,
            pen,
            rng: RefCell::new(Rng::seeded(seed)),
            tasks: TaskTracker::new(),
            requests: Cell::new(0),
            traffic: RefCell::default(),
            clusters: RefCell::default(),
        }
    }

    /// Routes and balances by this configuration from now on.
    pub(crate) fn configure(&self, config: Arc<TrafficConfig>) {
        let mut clusters = self.clusters.borrow_mut();
        clusters.retain(|name, state| {
            let Some(cluster) = config.clusters.get(name) else {
                state.retire();
                return false;
            };
            let set = config.endpoints.get(&cluster.endpoints);
            if !state.is_same(cluster, set) {
                *state = Rc::new(ClusterState::new(self, cluster, set, Some(state)));
            }
            true
        });
        drop(clusters);
        if let Some(pen) = &self.pen {
            pen.set_generation(config.generation);
        }
        *self.traffic.borrow_mut() = config;
    }

    /// What it routes by.
    pub(crate) fn generation(&self) -> Option<Generation> {
        self.traffic.borrow().generation
    }

    /// Reads what it runs by.
    pub(crate) fn with_traffic<T>(&self, read: impl FnOnce(&TrafficConfig) -> T) -> T {
        read(&self.traffic.borrow())
    }

    /// Reads a route table, if there is one of that name.
    pub(crate) fn with_routes<T>(
        &self,
        name: &ResourceName,
        read: impl FnOnce(&Arc<RouteTable>) -> Option<T>,
    ) -> Option<T> {
        read(self.traffic.borrow().routes.get(name)?)
    }

    /// Counts a request while what is returned lives.
    pub(crate) fn begin_request(self: &Rc<Self>) -> Counted {
        super::cluster::add(&self.requests, 1);
        Counted(Rc::clone(self))
    }

    /// Whether there are as many requests as the worker takes; the one that asks is counted.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.requests.get() > self.config.max_requests
    }

    /// Bits that differ from request to request; nothing secret.
    pub(crate) fn random(&self) -> (u64, u64) {
        let mut rng = self.rng.borrow_mut();
        (rng.next(), rng.next())
    }

    /// The state of a cluster; `None` when the configuration has no such cluster.
    pub(crate) fn cluster(&self, name: &ResourceName) -> Option<Rc<ClusterState>> {
        if let Some(state) = self.clusters.borrow().get(name) {
            return Some(Rc::clone(state));
        }
        let traffic = self.traffic.borrow();
        let cluster = traffic.clusters.get(name)?;
        let set = traffic.endpoints.get(&cluster.endpoints);
        let state = Rc::new(ClusterState::new(self, cluster, set, None));
        self.clusters.borrow_mut().insert(Arc::clone(name), Rc::clone(&state));
        Some(state)
    }

    /// How each cluster that was asked for is balanced at this moment.
    pub(crate) fn describe(&self) -> BTreeMap<ResourceName, Description> {
        let clusters = self.clusters.borrow();
        clusters.iter().map(|(name, state)| (Arc::clone(name), state.describe())).collect()
    }

    /// Closes idle upstream connections that are too old or were closed by the endpoint.
    pub(crate) fn sweep(&self) {
        for cluster in self.clusters.borrow().values() {
            cluster.sweep(self.config.pool_idle_timeout);
        }
    }
}

/// Counts as a request of the worker while it lives.
pub(crate) struct Counted(Rc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        super::cluster::sub(&self.0.requests, 1);
    }
}

/// Differs between workers and between processes, so that they do not pick in step.
fn seed(number: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(number)
}
