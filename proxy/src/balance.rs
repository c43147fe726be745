//! Picking one endpoint of many. Pure: no clock, no I/O, randomness from a seed.
//!
//! [`Balance`] holds how one worker balances to one cluster: by priorities, localities, subsets and
//! one of eight rules. It knows endpoints as places in the cluster's [`EndpointSet`]; what they have
//! in flight, how they answer and how they are it reads through [`View`]. Owns the plans that picks
//! walk; refuses to judge health, to count requests, or to know what a request is but for [`Ask`].

mod choice;
pub(crate) mod describe;
mod draw;
pub(crate) mod hash;
mod load;
mod number;
pub(crate) mod orca;
mod plan;
mod priority;
mod rng;
mod round_robin;
mod subset;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::{Balancing, EndpointSet};
use tokio::time::Instant;

pub(crate) use describe::CountersView;
pub(crate) use load::Load;
pub(crate) use load::Outcome;
pub(crate) use rng::Rng;

use crate::metrics::tally::Tally;
use number::small;
use plan::{Context, Core, Plan, Tables, bump};
use subset::{Index, Part, Refusal};

/// Endpoints up to which a change of health counts with the very next pick. With more, plans are
/// made at most once in [`MAKE_EVERY`] per endpoint, so that flapping does not take all the time.
const SMALL: usize = 1_000;
const MAKE_EVERY: Duration = Duration::from_micros(1);

/// What a request asks of balancing.
pub(crate) struct Ask<'a> {
    /// What hashed balancers pick by; without one they pick at random.
    pub(crate) hash: Option<u64>,
    /// Labels that the endpoint must have, for clusters with subsets.
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// Endpoints to pass over, such as those that were tried; `None`: nobody.
    pub(crate) avoid: Option<&'a dyn Fn(usize) -> bool>,
    pub(crate) now: Instant,
}

/// A cluster's endpoints as their keeper sees them, by their place in the [`EndpointSet`].
pub(crate) trait View {
    /// An endpoint's load; `None` past the last one.
    fn load(&self, at: usize) -> Option<&Load>;

    /// Whether active checks and what it answered let it be used. Read when a plan is made: say so
    /// by [`Balance::on_health_changed`] when it changes.
    fn healthy(&self, at: usize) -> bool;

    /// Requests in flight to all of them on this worker.
    fn in_flight(&self) -> u32;
}

/// Where the proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its region; empty if not said.
    pub region: Arc<str>,
    /// Its zone.
    pub zone: Arc<str>,
    /// The part of all clients that is in this zone, in thousandths, if it is known.
    pub clients_milli: Option<u32>,
}

/// Picks that did not go the common way.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) panic: Tally,
    pub(crate) cross_zone: Tally,
    pub(crate) spilled: Tally,
    pub(crate) subset_fallback: Tally,
    pub(crate) no_subset: Tally,
    pub(crate) subsets_full: Tally,
    pub(crate) none: Tally,
    pub(crate) plans: Tally,
}

/// How one worker balances to one cluster.
#[derive(Debug)]
pub(crate) struct Balance {
    core: Core,
    whole: Plan,
    subsets: Option<Index>,
    rng: Rng,
    /// Grows when health changes; plans made before are made anew.
    generation: Cell<u64>,
    counters: Arc<Counters>,
}

impl Balance {
    /// Balancing over the endpoints of `set`. An endpoint that was there `before`, by its address,
    /// keeps its turn; tables of hashes that are the same are kept. `place` is where the proxy is, for
    /// zone aware routing.
    pub(crate) fn new(
        balancing: &Balancing,
        set: &Arc<EndpointSet>,
        before: Option<&Self>,
        place: Option<Place>,
        seed: u64,
    ) -> Self {
        let (mut carried, mut tables) = (HashMap::new(), Tables::default());
        if let Some(before) = before {
            let waits = before.whole.waits();
            let old = before.core.set.endpoints.iter().enumerate();
            let old: HashMap<SocketAddr, _> =
                old.filter_map(|(at, t)| Some((t.address, *waits.get(&small(at))?))).collect();
            let new = set.endpoints.iter().enumerate();
            carried = new.filter_map(|(at, t)| Some((small(at), *old.get(&t.address)?))).collect();
            tables = before.whole.tables.share();
        }
        let members = (0..set.endpoints.len()).map(small).collect();
        let index = Index::new(balancing.subsets.as_ref());
        let core = Core { balancing: balancing.clone(), set: Arc::clone(set), place };
        Self {
            core,
            whole: Plan::about(members, carried, tables),
            subsets: index,
            rng: Rng::seeded(seed),
            generation: Cell::new(1),
            counters: before.map(|before| Arc::clone(&before.counters)).unwrap_or_default(),
        }
    }

    /// Counts here from now on.
    pub(crate) fn counting(self, counters: Arc<Counters>) -> Self {
        Self { counters, ..self }
    }

    /// Picks an endpoint; `None` when there is none that need not be avoided. Whom the plan has for
    /// the request goes first, then any other tier's (a lower priority's, a degraded one).
    pub(crate) fn pick<V: View + ?Sized>(&mut self, ask: &Ask<'_>, view: &V) -> Option<usize> {
        let core = &self.core;
        let plan = match &mut self.subsets {
            None => &mut self.whole,
            Some(index) => {
                let (part, fallback) = index.find(ask.labels, &core.set);
                if fallback {
                    bump(&self.counters.subset_fallback);
                }
                match part {
                    Part::Whole => &mut self.whole,
                    Part::Of(at) => index.plan(at)?,
                    Part::Nowhere(refusal) => {
                        bump(match refusal {
                            Refusal::NoSuchPart => &self.counters.no_subset,
                            Refusal::TooMany => &self.counters.subsets_full,
                        });
                        return None;
                    }
                }
            }
        };
        let generation = self.generation.get();
        bring_up(plan, core, view, ask.now, generation, &mut self.rng, &self.counters);
        let unknown = plan.unknown;
        let context = Context { core, ask, view, counters: &self.counters, unknown };
        let picked = plan.pick(&context, &mut self.rng);
        if picked.is_none() {
            bump(&self.counters.none);
        }
        picked
    }

    /// The health of an endpoint changed, or it came back and is new: plans are made anew.
    pub(crate) fn on_health_changed(&self) {
        self.generation.set(self.generation.get().wrapping_add(1).max(1));
    }

    /// What happened so far.
    pub(crate) fn counters(&self) -> CountersView {
        let counters = &self.counters;
        CountersView {
            panic: counters.panic.get(),
            cross_zone: counters.cross_zone.get(),
            spilled: counters.spilled.get(),
            subset_fallback: counters.subset_fallback.get(),
            no_subset: counters.no_subset.get(),
            subsets_full: counters.subsets_full.get(),
            none: counters.none.get(),
            plans: counters.plans.get(),
        }
    }

    fn refresh<V: View + ?Sized>(&mut self, view: &V, now: Instant) {
        let generation = self.generation.get();
        let plan = &mut self.whole;
        bring_up(plan, &self.core, view, now, generation, &mut self.rng, &self.counters);
    }
}

/// Makes a plan anew if it is due.
fn bring_up<V: View + ?Sized>(
    plan: &mut Plan,
    core: &Core,
    view: &V,
    now: Instant,
    generation: u64,
    rng: &mut Rng,
    counters: &Counters,
) {
    let stale = plan.generation != generation && !is_too_soon(plan, now);
    if stale || plan.review.is_some_and(|at| now >= at) {
        bump(&counters.plans);
        plan.make(core, view, now, generation, rng);
    } else if plan.unknown_review.is_some_and(|at| now >= at) {
        plan.reckon_unknown(core, view, now);
    }
}

/// Whether a large plan was made only just now.
fn is_too_soon(plan: &Plan, now: Instant) -> bool {
    let Some(made) = plan.made.filter(|_| plan.members.len() > SMALL) else { return false };
    now.saturating_duration_since(made) < MAKE_EVERY * small(plan.members.len())
}

impl Place {
    /// 0 to 1.
    fn clients(&self) -> Option<f64> {
        self.clients_milli.map(|milli| f64::from(milli.min(1000)) / 1000.0)
    }
}
