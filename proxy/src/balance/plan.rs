//! Whom to pick among, for a set of endpoints: tiers (healthy, degraded or all of a priority) with a
//! share of the load each, and in a tier one group of endpoints or several, by locality.
//!
//! Made whenever endpoints, their health or weights change; a pick only walks it. Owns the making
//! and the walk, the turns that go over from one plan to the next, and the spill between zones.

pub(crate) mod group;
mod make;
pub(crate) mod zone;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::Balancer;
use portolan_model::traffic::{Balancing, EndpointSet};
use tokio::time::Instant;

use super::draw::Draw;
use super::hash::{Shape, Table};
use super::priority::{Level, Share};
use super::rng::Rng;
use super::round_robin::{RoundRobin, Wait};
use super::{Ask, Counters, Load, Place, View};
use crate::metrics::tally::Tally;
use group::Group;

/// Own zone's requests in flight per endpoint (of mean weight) below which nothing spills.
const SPILL_FLOOR: f64 = 4.0;
/// How much busier the own zone must be than another so that a request goes there.
const SPILL_FACTOR: f64 = 2.0;
/// Tables kept for plans to come; a plan needs one per priority.
const MAX_TABLES: usize = 8;

/// What plans are made of.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) balancing: Balancing,
    pub(crate) set: Arc<EndpointSet>,
    pub(crate) place: Option<Place>,
}

/// What a pick has at hand.
pub(crate) struct Context<'a, V: ?Sized> {
    pub(crate) core: &'a Core,
    pub(crate) ask: &'a Ask<'a>,
    pub(crate) view: &'a V,
    pub(crate) counters: &'a Counters,
    /// Latency taken for endpoints that have none yet, in nanoseconds.
    pub(crate) unknown: f64,
}

/// Tables of hashes, kept while they are of use.
#[derive(Debug, Default)]
pub(crate) struct Tables(Vec<Rc<Table>>);

#[derive(Debug)]
pub(crate) struct Plan {
    /// Places in the set of endpoints that the plan is about.
    pub(crate) members: Vec<u32>,
    pub(crate) tiers: Vec<Tier>,
    pub(crate) levels: Vec<(u32, Level, Share)>,
    pub(crate) tables: Tables,
    /// Turns that go over to the plan when it is made.
    pub(crate) carried: HashMap<u32, Wait>,
    /// The state of health it was made from; 0 when it is still to be made.
    pub(crate) generation: u64,
    pub(crate) made: Option<Instant>,
    /// When weights may have changed with time alone.
    pub(crate) review: Option<Instant>,
    /// When the latency taken for unknown endpoints is reckoned anew.
    pub(crate) unknown_review: Option<Instant>,
    /// The time until then, which doubles from one to the next.
    pub(crate) unknown_wait: Duration,
    pub(crate) unknown: f64,
}

/// Endpoints of one priority that are as good as one another.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) kind: Kind,
    /// Of all load, in percent; with 0 the tier serves only when no other can.
    pub(crate) share: u32,
    pub(crate) groups: Vec<Group>,
    pub(crate) spread: Spread,
    /// Mean weight of an endpoint, in thousandths.
    pub(crate) mean: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Healthy,
    Degraded,
    /// Everybody, since too few are healthy.
    Panic,
}

/// How a group of a tier is chosen.
#[derive(Debug)]
pub(crate) enum Spread {
    /// There is one.
    One,
    /// By the localities' weights, in turn.
    Weights(RoundRobin),
    /// The own zone first: it is the first group, the other zones follow, then all of those together,
    /// then everybody.
    Zones(Zones),
}

#[derive(Debug)]
pub(crate) struct Zones {
    /// Requests that take part, in percent.
    pub(crate) percent: u32,
    /// Requests the own zone serves, of [`Zones::WHOLE`].
    pub(crate) own: u64,
    /// Zones for the rest.
    pub(crate) residual: Draw,
    /// The group of all other zones.
    pub(crate) others: usize,
    /// The group of everybody.
    pub(crate) everybody: usize,
}

impl Zones {
    pub(crate) const WHOLE: u64 = 1 << 32;
}

impl Core {
    /// What stands for an endpoint in tables of hashes.
    pub(crate) fn hash_key(&self, member: u32) -> String {
        let Some(target) = self.set.endpoints.get(member as usize) else { return String::new() };
        let named = target.labels.as_ref().and_then(|labels| labels.get("hash_key"));
        named.cloned().unwrap_or_else(|| target.address.to_string())
    }

    pub(crate) fn shape(&self) -> Shape {
        match self.balancing.balancer {
            Balancer::Maglev => Shape::Maglev(self.balancing.table),
            _ => Shape::Ring(self.balancing.ring.0, self.balancing.ring.1),
        }
    }

    pub(crate) fn is_hashed(&self) -> bool {
        matches!(self.balancing.balancer, Balancer::RingHash | Balancer::Maglev)
    }
}

impl<V: View + ?Sized> Context<'_, V> {
    /// Requests in flight at an endpoint, as if the mean weight (in thousandths) were 1.
    fn busy(&self, member: usize, mean: f64) -> f64 {
        let in_flight = self.view.load(member).map_or(0, Load::in_flight);
        let weight = self.core.set.endpoints.get(member).map_or(1, |target| target.weight);
        f64::from(in_flight) * mean / (1000.0 * f64::from(weight.max(1)))
    }
}

impl Tables {
    /// The same tables for another plan.
    pub(crate) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    #[cfg(test)]
    pub(crate) fn first(&self) -> *const Table {
        self.0.first().map_or(std::ptr::null(), Rc::as_ptr)
    }

    /// The table over these endpoints: one that is there, or a new one in the oldest one's place.
    pub(crate) fn get(&mut self, shape: Shape, endpoints: &[(String, u64)]) -> Rc<Table> {
        let made_of = Table::made_of(shape, endpoints);
        if let Some(table) = self.0.iter().find(|table| table.is_made_of(made_of)) {
            return Rc::clone(table);
        }
        if self.0.len() >= MAX_TABLES {
            self.0.remove(0);
        }
        let table = Rc::new(Table::new(shape, endpoints));
        self.0.push(Rc::clone(&table));
        table
    }
}

impl Plan {
    /// An endpoint that need not be avoided; `None` when there is none left in any tier.
    pub(crate) fn pick<V: View + ?Sized>(
        &mut self,
        context: &Context<'_, V>,
        rng: &mut Rng,
    ) -> Option<usize> {
        let chosen = self.choose(context.ask.hash, rng);
        let tables = &mut self.tables;
        if let Some(picked) = self.tiers.get_mut(chosen)?.pick(context, tables, rng) {
            return Some(picked);
        }
        // Whom that tier has is avoided: better another priority's than a failure.
        let others = self.tiers.iter_mut().enumerate().filter(|(at, _)| *at != chosen);
        let mut others = others.map(|(_, tier)| tier);
        others.find_map(|tier| tier.pick(context, tables, rng))
    }

    /// The tier that serves, by their shares: by the hash if there is one, so that it keeps its
    /// priority as well.
    fn choose(&self, hash: Option<u64>, rng: &mut Rng) -> usize {
        if self.tiers.first().is_none_or(|tier| tier.share >= 100) {
            return 0;
        }
        let point = u32::try_from(hash.map_or_else(|| rng.below(100), |h| h % 100)).unwrap_or(0);
        let mut sum = 0;
        let found = self.tiers.iter().position(|tier| {
            sum += tier.share;
            point < sum
        });
        found.unwrap_or(0)
    }
}

impl Tier {
    fn pick<V: View + ?Sized>(
        &mut self,
        context: &Context<'_, V>,
        tables: &mut Tables,
        rng: &mut Rng,
    ) -> Option<usize> {
        if self.kind == Kind::Panic {
            bump(&context.counters.panic);
        }
        let chosen = match &mut self.spread {
            Spread::One => return self.groups.first_mut()?.pick(context, tables, rng),
            Spread::Weights(turns) => turns.pick(|_| true)?,
            Spread::Zones(zones) => zones.choose(context.counters, rng),
        };
        let group = self.groups.get_mut(chosen)?;
        let Some(picked) = group.pick(context, tables, rng) else {
            let others = self.groups.iter_mut().enumerate().filter(|(at, _)| *at != chosen);
            let mut others = others.map(|(_, group)| group);
            return others.find_map(|group| group.pick(context, tables, rng));
        };
        match &self.spread {
            Spread::Zones(zones) if chosen == 0 => {
                let others = zones.others;
                Some(self.spill(context, tables, rng, picked, others).unwrap_or(picked))
            }
            _ => Some(picked),
        }
    }

    /// Another zone's endpoint, when the own zone is loaded.
    ///
    /// Least request and peak EWMA have just found the best of (usually) two of the own zone's
    /// endpoints. If even that one has [`SPILL_FLOOR`] requests in flight, the best of two from
    /// elsewhere is looked at; it gets the request if the own one is [`SPILL_FACTOR`] times as busy as
    /// that one would be with it. Both are counted per weight. Every request is judged by itself: as
    /// soon as the other zones are half as busy as the own one, no more spills than keeps it so, and
    /// nothing has to be measured or to wear off.
    fn spill<V: View + ?Sized>(
        &mut self,
        context: &Context<'_, V>,
        tables: &mut Tables,
        rng: &mut Rng,
        own: usize,
        others: usize,
    ) -> Option<usize> {
        let balancer = context.core.balancing.balancer;
        if !matches!(balancer, Balancer::LeastRequest | Balancer::PeakEwma) {
            return None;
        }
        let busy = context.busy(own, self.mean);
        if busy < SPILL_FLOOR {
            return None;
        }
        let elsewhere = self.groups.get_mut(others)?.pick(context, tables, rng)?;
        let there = context.busy(elsewhere, self.mean);
        (busy > SPILL_FACTOR * (there + 1.0)).then(|| {
            bump(&context.counters.spilled);
            elsewhere
        })
    }
}

impl Zones {
    fn choose(&self, counters: &Counters, rng: &mut Rng) -> usize {
        if self.percent < 100 && rng.below(100) >= u64::from(self.percent) {
            return self.everybody;
        }
        if self.own >= Self::WHOLE || rng.below(Self::WHOLE) < self.own {
            return 0;
        }
        bump(&counters.cross_zone);
        // The own zone is no place of this table.
        self.residual.any(rng) + 1
    }
}

pub(crate) fn bump(counter: &Tally) {
    counter.add(1);
}
