//! Balancing as a whole: distributions with fixed seeds, simulations, and the fleet they run on.

mod hashing;
mod rules;
mod simulation;
mod speed;
mod spread;
mod subsets;

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};

use portolan_model::Balancer;
use portolan_model::traffic::{Health, Locality, LocalityMode, Target};

use super::number::count;
use super::*;

pub(super) const SEED: u64 = 42;

/// Endpoints in one process, with a clock that is moved by hand.
pub(super) struct Fleet {
    pub(super) set: Arc<EndpointSet>,
    pub(super) loads: Vec<Load>,
    pub(super) healthy: Vec<Cell<bool>>,
    pub(super) now: Cell<Instant>,
}

impl View for Fleet {
    fn load(&self, at: usize) -> Option<&Load> {
        self.loads.get(at)
    }

    fn healthy(&self, at: usize) -> bool {
        self.healthy.get(at).is_some_and(Cell::get)
    }

    fn in_flight(&self) -> u32 {
        self.loads.iter().map(Load::in_flight).sum()
    }
}

pub(super) fn address(number: usize) -> SocketAddr {
    let [_, b, c, d] = small(number).to_be_bytes();
    (Ipv4Addr::new(10, b, c, d), 80).into()
}

pub(super) fn target(number: usize, locality: u32, weight: u32) -> Target {
    Target { address: address(number), weight, locality, health: Health::Healthy, labels: None }
}

pub(super) fn locality(zone: &str, priority: u32, weight: Option<u32>) -> Locality {
    Locality { zone: zone.into(), priority, weight, ..Locality::default() }
}

pub(super) fn rule(balancer: Balancer) -> Balancing {
    Balancing { locality: LocalityMode::Flat, ..Balancing::of(balancer) }
}

impl Fleet {
    pub(super) fn of(localities: Vec<Locality>, targets: Vec<Target>) -> Self {
        let now = Instant::now();
        let loads = targets.iter().map(|_| Load::new(now)).collect();
        let healthy = targets.iter().map(|_| Cell::new(true)).collect();
        let set = Arc::new(EndpointSet::new("test".into(), localities, targets));
        // Old enough for nobody to be new.
        Self { set, loads, healthy, now: Cell::new(now + Duration::from_secs(100_000)) }
    }

    pub(super) fn flat(weights: &[u32]) -> Self {
        let targets = weights.iter().enumerate().map(|(n, weight)| target(n, 0, *weight));
        Self::of(vec![Locality::default()], targets.collect())
    }

    pub(super) fn balance(&self, balancing: &Balancing) -> Balance {
        Balance::new(balancing, &self.set, None, None, SEED)
    }

    pub(super) fn pick(&self, balance: &mut Balance) -> Option<usize> {
        self.pick_for(balance, None, None)
    }

    pub(super) fn pick_for(
        &self,
        balance: &mut Balance,
        hash: Option<u64>,
        avoid: Option<&dyn Fn(usize) -> bool>,
    ) -> Option<usize> {
        let labels = BTreeMap::new();
        balance.pick(&Ask { hash, labels: &labels, avoid, now: self.now.get() }, self)
    }

    /// How often each endpoint is picked, nothing being in flight.
    pub(super) fn counts(&self, balance: &mut Balance, picks: usize) -> Vec<usize> {
        let mut counts = vec![0; self.loads.len()];
        for _ in 0..picks {
            counts[self.pick(balance).expect("somebody serves")] += 1;
        }
        counts
    }

    pub(super) fn advance(&self, time: Duration) {
        self.now.set(self.now.get() + time);
    }

    pub(super) fn set_healthy(&self, balance: &Balance, at: usize, healthy: bool) {
        self.healthy[at].set(healthy);
        balance.on_health_changed();
    }
}

/// Holds counts against expected shares: the sum of squares over the expected count must not be
/// further out than chance allows once in many thousands of runs.
pub(super) fn assert_shares(about: &str, counts: &[usize], shares: &[f64]) {
    assert_eq!(counts.len(), shares.len(), "{about}");
    let (total, all): (f64, f64) = (count(counts.iter().sum()), shares.iter().sum());
    let mut chi = 0.0;
    let mut freedom = -1.0;
    for (counted, share) in counts.iter().zip(shares) {
        let expected = total * share / all;
        if expected == 0.0 {
            assert_eq!(*counted, 0, "{about}: {counts:?}");
            continue;
        }
        chi += (count(*counted) - expected).powi(2) / expected;
        freedom += 1.0;
    }
    let bound = freedom + 4.5 * f64::sqrt(2.0 * freedom) + 10.0;
    assert!(chi <= bound, "{about}, seed {SEED}: chi² {chi} > {bound}: {counts:?} for {shares:?}");
}
