//! A cluster as one worker sees it: its endpoints with their load and pools, and who is next.
//!
//! Owns what must survive a change of configuration: an endpoint that stays keeps its load, its
//! connections and its turn. One that leaves gets nothing new, loses its idle connections, and its
//! requests in flight end by themselves.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::{Cluster, EndpointSet};
use tokio::time::Instant;

use crate::balance::{Picker, Rng};
use crate::metrics::Counter;
use crate::upstream::{h1, h2};

/// An endpoint that refused a connection is passed over for this long while others are there;
/// doubles with each further failure up to [`MAX_AVOID`].
const AVOID: Duration = Duration::from_secs(1);
const MAX_AVOID: Duration = Duration::from_secs(30);

/// Retries in flight are allowed up to this share of a cluster's requests in flight (a fifth) …
const BUDGET_SHARE: u32 = 5;
/// … and always up to this many.
const BUDGET_MIN: u32 = 3;

/// One endpoint on one worker.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) address: SocketAddr,
    pub(crate) h1: h1::Pool,
    pub(crate) h2: h2::Pool,
    in_flight: Cell<u32>,
    gone: Cell<bool>,
    failures: Cell<u32>,
    avoid_until: Cell<Option<Instant>>,
}

/// Counts towards an endpoint's load while it lives.
#[derive(Debug)]
pub(crate) struct InFlight(Rc<Endpoint>);

/// A cluster's requests and retries in flight; survives changes of the cluster.
#[derive(Debug, Default)]
struct Load {
    active: Cell<u32>,
    retrying: Cell<u32>,
}

/// A request in flight, whichever endpoint has it.
#[derive(Debug)]
pub(crate) struct ActiveRequest(Rc<Load>);

/// A retry in flight, within the budget.
#[derive(Debug)]
pub(crate) struct Retry(Rc<Load>);

pub(crate) struct ClusterState {
    pub(crate) config: Arc<Cluster>,
    pub(crate) requests: Arc<Counter>,
    set: Option<Arc<EndpointSet>>,
    members: Vec<Rc<Endpoint>>,
    picker: RefCell<Picker>,
    load: Rc<Load>,
}

impl ClusterState {
    pub(crate) fn new(
        config: &Arc<Cluster>,
        set: Option<&Arc<EndpointSet>>,
        requests: Arc<Counter>,
        rng: &RefCell<Rng>,
    ) -> Self {
        let (members, weights) = members(set, |_| None);
        let picker =
            Picker::new(config.balancing.balancer, &weights, None, |_| None, &mut rng.borrow_mut());
        Self {
            config: Arc::clone(config),
            requests,
            set: set.cloned(),
            members,
            picker: RefCell::new(picker),
            load: Rc::default(),
        }
    }

    /// The state after a change; endpoints that left are retired.
    pub(crate) fn next(
        old: &Self,
        config: &Arc<Cluster>,
        set: Option<&Arc<EndpointSet>>,
        rng: &RefCell<Rng>,
    ) -> Self {
        let index: HashMap<SocketAddr, usize> =
            old.members.iter().enumerate().map(|(i, e)| (e.address, i)).collect();
        let (members, weights) =
            members(set, |address| index.get(&address).map(|i| Rc::clone(&old.members[*i])));
        let kept = |i: usize| members.get(i).and_then(|e| index.get(&e.address)).copied();
        let picker = Picker::new(
            config.balancing.balancer,
            &weights,
            Some(&old.picker.borrow()),
            kept,
            &mut rng.borrow_mut(),
        );
        let stays: std::collections::HashSet<_> = members.iter().map(|e| e.address).collect();
        old.members.iter().filter(|e| !stays.contains(&e.address)).for_each(|e| e.retire());
        Self {
            config: Arc::clone(config),
            requests: Arc::clone(&old.requests),
            set: set.cloned(),
            members,
            picker: RefCell::new(picker),
            load: Rc::clone(&old.load),
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
    pub(crate) fn pick(&self, rng: &RefCell<Rng>, tried: &[SocketAddr]) -> Option<Rc<Endpoint>> {
        let fresh = |i: usize| !tried.contains(&self.members[i].address);
        let load = |i: usize| self.members[i].in_flight.get();
        let now = Instant::now();
        let mut picker = self.picker.borrow_mut();
        let rng = &mut *rng.borrow_mut();
        let picked = picker
            .pick(rng, load, |i| fresh(i) && !self.members[i].is_avoided(now))
            .or_else(|| picker.pick(rng, load, fresh))?;
        Some(Rc::clone(&self.members[picked]))
    }

    pub(crate) fn begin(&self) -> ActiveRequest {
        self.requests.add(1);
        add(&self.load.active, 1);
        ActiveRequest(Rc::clone(&self.load))
    }

    /// Leave to retry; `None` over the budget.
    pub(crate) fn retry(&self) -> Option<Retry> {
        let budget = (self.load.active.get() / BUDGET_SHARE).max(BUDGET_MIN);
        (self.load.retrying.get() < budget).then(|| {
            add(&self.load.retrying, 1);
            Retry(Rc::clone(&self.load))
        })
    }

    pub(crate) fn sweep(&self, idle_timeout: Duration) {
        let idle_timeout = self.config.upstream.idle_timeout.unwrap_or(idle_timeout);
        for endpoint in &self.members {
            endpoint.h1.sweep(idle_timeout);
            endpoint.h2.sweep(idle_timeout);
        }
    }
}

fn members(
    set: Option<&Arc<EndpointSet>>,
    kept: impl Fn(SocketAddr) -> Option<Rc<Endpoint>>,
) -> (Vec<Rc<Endpoint>>, Vec<u32>) {
    let first = set.and_then(|set| set.endpoints.first().map(|t| set.priority(t)));
    set.into_iter()
        .flat_map(|set| set.endpoints.iter().filter(move |t| Some(set.priority(t)) == first))
        .map(|t| (kept(t.address).unwrap_or_else(|| Endpoint::new(t.address)), t.weight))
        .unzip()
}

impl Endpoint {
    fn new(address: SocketAddr) -> Rc<Self> {
        Rc::new(Self {
            address,
            h1: h1::Pool::default(),
            h2: h2::Pool::default(),
            in_flight: Cell::new(0),
            gone: Cell::new(false),
            failures: Cell::new(0),
            avoid_until: Cell::new(None),
        })
    }

    pub(crate) fn begin(self: &Rc<Self>) -> InFlight {
        add(&self.in_flight, 1);
        InFlight(Rc::clone(self))
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

    fn is_avoided(&self, now: Instant) -> bool {
        self.avoid_until.get().is_some_and(|until| now < until)
    }

    fn retire(&self) {
        self.gone.set(true);
        self.h1.clear();
        self.h2.clear();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        sub(&self.0.in_flight, 1);
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        sub(&self.0.active, 1);
    }
}

impl Drop for Retry {
    fn drop(&mut self) {
        sub(&self.0.retrying, 1);
    }
}

pub(crate) fn add(cell: &Cell<u32>, n: u32) {
    cell.set(cell.get().saturating_add(n));
}

pub(crate) fn sub(cell: &Cell<u32>, n: u32) {
    cell.set(cell.get().saturating_sub(n));
}
