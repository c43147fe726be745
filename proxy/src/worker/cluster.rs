//! A cluster as one worker sees it: its endpoints with their load and pools, and who is next.
//!
//! Owns what must survive a change of configuration: an endpoint that stays keeps its load, its
//! connections and its turn. One that leaves gets nothing new, loses its idle connections, and its
//! requests in flight end by themselves.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::{Cluster, EndpointSet, Health};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::candidates::missing_label;
use super::endpoint::Endpoint;
use super::shared::Shared;
use crate::balance::describe::Description;
use crate::balance::{Ask, Balance, Load, View};
use crate::health::cluster::ClusterHealth;
use crate::limit::Limiter;
use crate::limit::breaker::{Permit, Resource};
use crate::limit::gradient::{Gradient, Sampled};
use crate::metrics::ClusterMetrics;
use crate::tls::Dialer;

/// What a request brings to picking an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choice<'a> {
    /// What hashed balancers pick by.
    pub(crate) hash: Option<u64>,
    /// Labels the endpoint must have.
    pub(crate) labels: Option<&'a BTreeMap<String, String>>,
    /// The endpoint that its client has, which is taken for as long as it serves.
    pub(crate) kept: Option<SocketAddr>,
}

pub(crate) struct ClusterState {
    pub(crate) config: Arc<Cluster>,
    pub(crate) metrics: Arc<ClusterMetrics>,
    pub(crate) limiter: Arc<Limiter>,
    gradient: Option<Arc<Gradient>>,
    pub(super) set: Option<Arc<EndpointSet>>,
    /// By their place in the set.
    pub(super) members: Vec<Rc<Endpoint>>,
    balance: RefCell<Balance>,
    health: Option<Arc<ClusterHealth>>,
    /// The version of `health` the balancer knows.
    seen: Cell<u64>,
    in_flight: Rc<Cell<u32>>,
    /// How its endpoints are dialled where TLS comes first.
    pub(crate) dialer: Rc<Dialer>,
    /// Told when a connection may have become free.
    pub(crate) freed: Rc<Notify>,
    worker: usize,
}

/// A connection to an endpoint, counted while it lives.
#[derive(Debug)]
pub(crate) struct Slot {
    _permit: Permit,
    freed: Rc<Notify>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.freed.notify_waiters();
    }
}

/// A request in flight to a cluster, whichever endpoint has it.
pub(crate) struct ActiveRequest {
    in_flight: Rc<Cell<u32>>,
    sampled: Option<Sampled>,
    _permit: Permit,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// As many requests are in flight as the circuit breaker allows.
    Breaker,
    /// As many as adaptive concurrency allows.
    Adaptive,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Breaker => "as many requests in flight as its limit allows",
            Self::Adaptive => "as many requests in flight as its latency allows",
        })
    }
}

impl fmt::Debug for ActiveRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveRequest").finish_non_exhaustive()
    }
}

/// The members as the balancer reads them.
struct Members<'a> {
    members: &'a [Rc<Endpoint>],
    in_flight: u32,
}

impl View for Members<'_> {
    fn load(&self, at: usize) -> Option<&Load> {
        self.members.get(at).map(|endpoint| &endpoint.load)
    }

    fn healthy(&self, at: usize) -> bool {
        self.members.get(at).is_some_and(|endpoint| endpoint.is_healthy())
    }

    fn in_flight(&self) -> u32 {
        self.in_flight
    }
}

impl ClusterState {
    pub(crate) fn new(
        shared: &Shared,
        config: &Arc<Cluster>,
        set: Option<&Arc<EndpointSet>>,
        old: Option<&Self>,
    ) -> Self {
        let (seed, _) = shared.random();
        let empty = || Arc::new(EndpointSet::flat(Arc::clone(&config.endpoints), []));
        let endpoints = set.cloned().unwrap_or_else(empty);
        let health = shared.health.cluster(&config.name);
        // Connections begun in another way are for nobody any more.
        let same = old.filter(|old| old.config.upstream.tls == config.upstream.tls);
        let kept: HashMap<SocketAddr, &Rc<Endpoint>> =
            same.iter().flat_map(|old| &old.members).map(|e| (e.address, e)).collect();
        let now = Instant::now();
        let metrics = shared.metrics.cluster(&config.name);
        let (count, most) = (endpoints.endpoints.len(), shared.config.endpoint_metrics);
        let members: Vec<Rc<Endpoint>> = (endpoints.endpoints.iter())
            .map(|target| {
                let endpoint = kept.get(&target.address).map(|kept| Rc::clone(kept));
                let endpoint = endpoint.unwrap_or_else(|| Endpoint::new(target.address, now));
                endpoint.set_metrics(metrics.endpoint(target.address, count, most));
                endpoint.set_health(health.as_ref().and_then(|h| h.host(target.address)));
                endpoint
            })
            .collect();
        let before = old.map(|old| old.balance.borrow());
        let place = shared.config.place.clone();
        let balance = Balance::new(&config.balancing, &endpoints, before.as_deref(), place, seed)
            .counting(Arc::clone(&metrics.balance));
        drop(before);
        if let Some(old) = old {
            let stays: HashSet<SocketAddr> = members.iter().map(|e| e.address).collect();
            let goes = |e: &&Rc<Endpoint>| same.is_none() || !stays.contains(&e.address);
            old.members.iter().filter(goes).for_each(|e| e.retire());
            metrics.keep(&stays);
        }
        let limiter = shared.limiters.cluster(config);
        Self {
            gradient: limiter.gradient(),
            limiter,
            metrics,
            set: set.cloned(),
            members,
            balance: RefCell::new(balance),
            seen: Cell::new(health.as_ref().map_or(0, |health| health.version())),
            health,
            dialer: old.map(|old| Rc::clone(&old.dialer)).unwrap_or_default(),
            in_flight: old.map(|old| Rc::clone(&old.in_flight)).unwrap_or_default(),
            freed: old.map(|old| Rc::clone(&old.freed)).unwrap_or_default(),
            worker: shared.number,
            config: Arc::clone(config),
        }
    }

    pub(crate) fn is_same(&self, config: &Arc<Cluster>, set: Option<&Arc<EndpointSet>>) -> bool {
        let same_set = match (&self.set, set) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new) || old == new,
            (None, None) => true,
            _ => false,
        };
        same_set && (Arc::ptr_eq(&self.config, config) || self.config == *config)
    }

    pub(crate) fn retire(&self) {
        self.members.iter().for_each(|endpoint| endpoint.retire());
    }

    /// The endpoint for a request that `tried` have failed: one that has not, and that took its
    /// last connection if there is such a one. `None` when there is none left.
    pub(crate) fn pick(&self, choice: Choice<'_>, tried: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
        let kept = choice.kept.filter(|kept| !tried.contains(kept));
        if let Some(kept) = kept.and_then(|kept| self.serving(kept, choice.labels)) {
            return Some(kept);
        }
        let now = Instant::now();
        let mut balance = self.balance.borrow_mut();
        if let Some(health) = &self.health {
            let version = health.version();
            if self.seen.replace(version) != version {
                balance.on_health_changed();
            }
        }
        let view = Members { members: &self.members, in_flight: self.in_flight.get() };
        let is_tried = |at: usize| {
            !tried.is_empty() && self.members.get(at).is_some_and(|e| tried.contains(&e.address))
        };
        let is_avoided =
            |at: usize| is_tried(at) || self.members.get(at).is_some_and(|e| e.is_avoided(now));
        let mut ask = Ask {
            hash: choice.hash,
            labels: choice.labels.unwrap_or(&NO_LABELS),
            avoid: Some(&is_avoided),
            now,
        };
        let picked = balance.pick(&ask, &view).or_else(|| {
            ask.avoid = Some(&is_tried);
            balance.pick(&ask, &view)
        })?;
        self.members.get(picked).cloned()
    }

    /// The endpoint of this address, if it serves: it has these labels, the control plane has not taken
    /// it out, nor has a check or an ejection, and it took its last connection.
    pub(crate) fn serving(
        &self,
        address: SocketAddr,
        labels: Option<&BTreeMap<String, String>>,
    ) -> Option<Rc<Endpoint>> {
        let targets = &self.set.as_ref()?.endpoints;
        let at = targets.iter().position(|target| target.address == address)?;
        let (target, endpoint) = (targets.get(at)?, self.members.get(at)?);
        let serves = matches!(target.health, Health::Healthy | Health::Degraded)
            && labels.is_none_or(|labels| missing_label(target, labels).is_none())
            && endpoint.is_healthy()
            && !endpoint.is_avoided(Instant::now());
        serves.then(|| Rc::clone(endpoint))
    }

    /// Counts a request, unless there are as many as may be.
    pub(crate) fn begin(&self) -> Result<ActiveRequest, Closed> {
        let permit = self.limiter.breaker.acquire(Resource::Requests, self.worker);
        let permit = permit.ok_or(Closed::Breaker)?;
        let sampled = match &self.gradient {
            Some(gradient) => Some(gradient.try_begin(self.worker).ok_or(Closed::Adaptive)?),
            None => None,
        };
        self.metrics.requests.add(1);
        self.in_flight.set(self.in_flight.get().saturating_add(1));
        Ok(ActiveRequest { in_flight: Rc::clone(&self.in_flight), sampled, _permit: permit })
    }

    /// Leave to retry; `None` over the budget.
    pub(crate) fn retry(&self) -> Option<Permit> {
        self.limiter.breaker.retry(self.worker)
    }

    /// Leave to open a connection; `None` at the limit.
    pub(crate) fn connection(&self) -> Option<Slot> {
        let permit = self.limiter.breaker.acquire(Resource::Connections, self.worker)?;
        Some(Slot { _permit: permit, freed: Rc::clone(&self.freed) })
    }

    /// Leave to wait for a connection; `None` when as many do as may.
    pub(crate) fn pending(&self) -> Option<Permit> {
        self.limiter.breaker.acquire(Resource::Pending, self.worker)
    }

    pub(crate) fn sweep(&self, idle_timeout: Duration) {
        let idle_timeout = self.config.upstream.idle_timeout.unwrap_or(idle_timeout);
        self.members.iter().for_each(|endpoint| endpoint.sweep(idle_timeout));
    }

    /// How many endpoints it has.
    pub(crate) fn size(&self) -> usize {
        self.members.len()
    }

    /// How it balances at this moment.
    pub(crate) fn describe(&self) -> Description {
        let view = Members { members: &self.members, in_flight: self.in_flight.get() };
        self.balance.borrow_mut().describe(&view, Instant::now())
    }
}

impl ActiveRequest {
    /// The endpoint answered: the round trip counts.
    pub(crate) fn on_answered(&mut self) {
        if let Some(sampled) = self.sampled.take() {
            sampled.record();
        }
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }
}

pub(crate) fn add(cell: &Cell<u32>, n: u32) {
    cell.set(cell.get().saturating_add(n));
}

pub(crate) fn sub(cell: &Cell<u32>, n: u32) {
    cell.set(cell.get().saturating_sub(n));
}
