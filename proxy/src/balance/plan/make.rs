//! Making a plan from endpoints, their health and their weights.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use portolan_model::Balancer;
use portolan_model::traffic::{Health, LocalityMode, Target};
use tokio::time::Instant;

use super::group::Group;
use super::{Core, Kind, Plan, Spread, Tables, Tier, Zones, zone};
use crate::balance::draw::Draw;
use crate::balance::number::{count, float, small, whole};
use crate::balance::orca;
use crate::balance::priority::{self, Level, Share};
use crate::balance::rng::Rng;
use crate::balance::round_robin::{RoundRobin, Wait};
use crate::balance::{Load, View};

/// Weight 1, in thousandths.
const UNIT: f64 = 1000.0;
/// Time between two looks at reported weights (gRFC A58 `weight_update_period`).
const REPORTS_REVIEW: Duration = Duration::from_secs(1);
/// Shortest and longest time between two looks at endpoints in slow start; a hundredth of the window
/// within these.
const WARM_REVIEW: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(1));
/// First and longest time between two looks at what endpoints without a latency count as.
const UNKNOWN_REVIEW: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));
/// Latency of an endpoint that has none while nobody has one, in nanoseconds.
const UNKNOWN: f64 = 1e7;

/// How an endpoint is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Healthy,
    Degraded,
    Unhealthy,
    Draining,
}

/// What the making of one plan has at hand.
struct Making<'a, V: ?Sized> {
    core: &'a Core,
    view: &'a V,
    now: Instant,
}

impl Plan {
    /// A plan about these endpoints that is still to be made, with what goes over from another one.
    pub(crate) fn about(members: Vec<u32>, carried: HashMap<u32, Wait>, tables: Tables) -> Self {
        Self {
            members,
            tiers: Vec::new(),
            levels: Vec::new(),
            tables,
            carried,
            generation: 0,
            made: None,
            review: None,
            unknown_review: None,
            unknown_wait: UNKNOWN_REVIEW.0,
            unknown: UNKNOWN,
        }
    }

    /// What goes over to another plan.
    pub(crate) fn waits(&self) -> HashMap<u32, Wait> {
        let groups = self.tiers.iter().flat_map(|tier| &tier.groups);
        let mut waits: HashMap<u32, Wait> = groups.flat_map(Group::waits).collect();
        for (member, wait) in &self.carried {
            waits.entry(*member).or_insert(*wait);
        }
        waits
    }

    /// Makes it anew from how endpoints are now.
    pub(crate) fn make<V: View + ?Sized>(
        &mut self,
        core: &Core,
        view: &V,
        now: Instant,
        generation: u64,
        rng: &mut Rng,
    ) {
        let waits = self.waits();
        let making = Making { core, view, now };
        (self.levels, self.tiers) = making.tiers(&self.members, rng);
        for tier in self.tiers.iter_mut().filter(|tier| tier.share > 0) {
            for group in &mut tier.groups {
                let before = |member: u32| waits.get(&member).copied();
                group.prepare(core, &mut self.tables, before, rng);
            }
        }
        self.carried = HashMap::new();
        self.generation = generation;
        self.made = Some(now);
        self.review = making.review(&self.members);
        self.unknown_wait = UNKNOWN_REVIEW.0;
        self.reckon_unknown(core, view, now);
    }

    /// What endpoints without a latency count as: the mean of those that have one.
    pub(crate) fn reckon_unknown<V: View + ?Sized>(&mut self, core: &Core, view: &V, now: Instant) {
        self.unknown_review = None;
        if core.balancing.balancer != Balancer::PeakEwma {
            return;
        }
        let loads = self.members.iter().filter_map(|member| view.load(*member as usize));
        let rtts: Vec<f64> = loads.filter_map(|load| load.rtt(now)).collect();
        if !rtts.is_empty() {
            self.unknown = rtts.iter().sum::<f64>() / count(rtts.len());
        }
        if rtts.len() < self.members.len() {
            self.unknown_review = Some(now + self.unknown_wait);
            self.unknown_wait = (self.unknown_wait * 2).min(UNKNOWN_REVIEW.1);
        }
    }
}

impl<V: View + ?Sized> Making<'_, V> {
    fn target(&self, member: u32) -> Option<&Target> {
        self.core.set.endpoints.get(member as usize)
    }

    fn state(&self, member: u32) -> State {
        let healthy = self.view.healthy(member as usize);
        match self.target(member).map_or(Health::Unhealthy, |target| target.health) {
            Health::Draining => State::Draining,
            Health::Healthy if healthy => State::Healthy,
            Health::Degraded if healthy => State::Degraded,
            _ => State::Unhealthy,
        }
    }

    fn tiers(&self, members: &[u32], rng: &mut Rng) -> (Vec<(u32, Level, Share)>, Vec<Tier>) {
        let mut priorities: BTreeMap<u32, Vec<(u32, State)>> = BTreeMap::new();
        for member in members {
            let priority = self.target(*member).map_or(0, |t| self.core.set.priority(t));
            priorities.entry(priority).or_default().push((*member, self.state(*member)));
        }
        let count = |members: &[(u32, State)], state| {
            small(members.iter().filter(|(_, s)| *s == state).count())
        };
        let levels: Vec<Level> = priorities
            .values()
            .map(|members| Level {
                total: small(members.len()),
                healthy: count(members, State::Healthy),
                degraded: count(members, State::Degraded),
            })
            .collect();
        let shares = priority::shares(
            &levels,
            self.core.set.overprovisioning,
            self.core.balancing.panic_threshold,
        );
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for (members, share) in priorities.values().zip(&shares) {
            if share.panic {
                let tier = self.tier(Kind::Panic, share.healthy, members, rng);
                first.extend(tier);
            } else {
                let tier = self.tier(Kind::Healthy, share.healthy, members, rng);
                first.extend(tier);
                let tier = self.tier(Kind::Degraded, share.degraded, members, rng);
                second.extend(tier);
            }
        }
        first.extend(second);
        let levels = priorities.keys().zip(levels).zip(shares);
        (levels.map(|((priority, level), share)| (*priority, level, share)).collect(), first)
    }

    /// A tier of the endpoints of a priority; `None` when it has none.
    fn tier(
        &self,
        kind: Kind,
        share: u32,
        members: &[(u32, State)],
        rng: &mut Rng,
    ) -> Option<Tier> {
        // In panic health is not minded, but who ends takes nothing new while there are others.
        let ending = members.iter().all(|(_, state)| *state == State::Draining);
        let serves = |state: State| match kind {
            Kind::Healthy => state == State::Healthy,
            Kind::Degraded => state == State::Degraded,
            Kind::Panic => ending || state != State::Draining,
        };
        let usable: Vec<u32> =
            members.iter().filter(|(_, s)| serves(*s)).map(|(m, _)| *m).collect();
        if usable.is_empty() {
            return None;
        }
        let sum: f64 = usable.iter().map(|m| self.base_weight(*m) * UNIT).sum();
        let mean = sum / count(usable.len());
        let (groups, spread) = if self.core.is_hashed() {
            let all: Vec<u32> = members.iter().map(|(member, _)| *member).collect();
            let usable = members.iter().map(|(_, state)| serves(*state)).collect();
            let weights = self.hash_weights(&all);
            (vec![Group::partly(all, weights, usable)], Spread::One)
        } else {
            self.spread(kind, usable, members, rng)
        };
        Some(Tier { kind, share, groups, spread, mean })
    }

    fn spread(
        &self,
        kind: Kind,
        usable: Vec<u32>,
        members: &[(u32, State)],
        rng: &mut Rng,
    ) -> (Vec<Group>, Spread) {
        let spread = match self.core.balancing.locality {
            _ if self.core.balancing.balancer == Balancer::PickFirst => None,
            LocalityMode::Flat => None,
            LocalityMode::Weighted => self.by_weight(kind, &usable, members, rng),
            LocalityMode::ZoneAware { .. } if kind == Kind::Panic => None,
            LocalityMode::ZoneAware { percent, min_size } => {
                self.by_zone(&usable, percent, min_size)
            }
        };
        spread.unwrap_or_else(|| (vec![self.group(usable)], Spread::One))
    }

    /// Localities by weight (Envoy, "Locality weighted load balancing"); `None` when no locality has a
    /// weight, and thus every endpoint counts by its own.
    fn by_weight(
        &self,
        kind: Kind,
        usable: &[u32],
        members: &[(u32, State)],
        rng: &mut Rng,
    ) -> Option<(Vec<Group>, Spread)> {
        let set = &self.core.set;
        let mut localities: BTreeMap<u32, (Vec<u32>, u32, f64)> = BTreeMap::new();
        for (member, _) in members {
            let (_, total, weight) = localities.entry(self.target(*member)?.locality).or_default();
            *total += 1;
            *weight += self.base_weight(*member);
        }
        for member in usable {
            localities.entry(self.target(*member)?.locality).or_default().0.push(*member);
        }
        let said = |locality: u32| set.localities.get(locality as usize).and_then(|l| l.weight);
        if localities.len() < 2 || localities.keys().all(|locality| said(*locality).is_none()) {
            return None;
        }
        let (mut groups, mut weights) = (Vec::new(), Vec::new());
        for (locality, (members, total, sum)) in localities {
            let available = if kind == Kind::Panic {
                1.0
            } else {
                let ratio = count(members.len()) / f64::from(total.max(1));
                (ratio * f64::from(set.overprovisioning) / 100.0).min(1.0)
            };
            let weight = whole(said(locality).map_or(sum, f64::from) * available * UNIT);
            if weight > 0 && !members.is_empty() {
                groups.push(self.group(members));
                weights.push(weight);
            }
        }
        let spread = Spread::Weights(RoundRobin::new(&weights, |_| None, rng));
        (!groups.is_empty()).then_some((groups, spread))
    }

    /// Zones, the own one first; `None` when zones do not matter.
    fn by_zone(&self, usable: &[u32], percent: u32, min: u32) -> Option<(Vec<Group>, Spread)> {
        let place = self.core.place.as_ref()?;
        let mut zones: BTreeMap<(&str, &str), Vec<u32>> = BTreeMap::new();
        for member in usable {
            let locality = self.core.set.locality(self.target(*member)?)?;
            zones.entry((&locality.region, &locality.zone)).or_default().push(*member);
        }
        let own = zones.remove(&(&*place.region, &*place.zone))?;
        if zones.is_empty() || usable.len() < min as usize {
            return None;
        }
        let others: Vec<u32> = zones.values().flatten().copied().collect();
        let mut lists = vec![own];
        lists.extend(zones.into_values());
        let weigh = |list: &Vec<u32>| list.iter().map(|member| self.base_weight(*member)).sum();
        let weights: Vec<f64> = lists.iter().map(weigh).collect();
        let shares = zone::shares(&weights, place.clients());
        let residual: Vec<u64> = shares.residual.iter().map(|r| whole(r * 1e6)).collect();
        let mut groups: Vec<Group> = Vec::new();
        let mut left = Vec::new();
        for (list, residual) in lists.into_iter().zip(residual) {
            // A zone without room of its own is reached through the group of all others alone.
            if groups.is_empty() || residual > 0 {
                if !groups.is_empty() {
                    left.push(residual);
                }
                groups.push(self.group(list));
            }
        }
        let (others_at, everybody) = (groups.len(), groups.len() + 1);
        groups.push(self.group(others));
        groups.push(self.group(usable.to_vec()));
        let own = whole(shares.own * float(Zones::WHOLE));
        let residual = Draw::new(&left);
        let zones = Zones { percent, own, residual, others: others_at, everybody };
        Some((groups, Spread::Zones(zones)))
    }

    fn group(&self, members: Vec<u32>) -> Group {
        let weights = match self.core.balancing.balancer {
            Balancer::ClientSideWeightedRoundRobin => {
                let reported = members.iter().map(|member| {
                    self.view.load(*member as usize).and_then(|l| l.orca_weight(self.now))
                });
                orca::weights(&reported.collect::<Vec<_>>())
            }
            _ => members.iter().map(|member| self.weight(*member)).collect(),
        };
        Group::new(members, weights)
    }

    /// In thousandths, less while the endpoint is new.
    fn weight(&self, member: u32) -> u64 {
        let warmth = self.warmth(member).unwrap_or(1.0);
        whole((self.base_weight(member) * warmth * UNIT).round()).max(1)
    }

    fn base_weight(&self, member: u32) -> f64 {
        f64::from(self.target(member).map_or(1, |target| target.weight.max(1)))
    }

    fn warmth(&self, member: u32) -> Option<f64> {
        let slow_start = self.core.balancing.slow_start.as_ref()?;
        let applies = matches!(
            self.core.balancing.balancer,
            Balancer::RoundRobin | Balancer::LeastRequest | Balancer::PeakEwma
        );
        let load: &Load = self.view.load(member as usize).filter(|_| applies)?;
        Some(load.warmth(slow_start, self.now))
    }

    /// Weights of endpoints whose hash is looked up in one table over all localities (Envoy does
    /// likewise): a locality's weight, if said, is shared by its endpoints.
    fn hash_weights(&self, members: &[u32]) -> Vec<u64> {
        let set = &self.core.set;
        let weighted = self.core.balancing.locality == LocalityMode::Weighted;
        let locality = |member: u32| self.target(member).map_or(0, |target| target.locality);
        let mut sums: HashMap<u32, f64> = HashMap::new();
        for member in members {
            *sums.entry(locality(*member)).or_default() += self.base_weight(*member);
        }
        let weigh = |member: &u32| {
            let at = locality(*member);
            let (own, sum) = (self.base_weight(*member), sums.get(&at).copied().unwrap_or(1.0));
            match set.localities.get(at as usize).and_then(|l| l.weight).filter(|_| weighted) {
                Some(weight) => whole(f64::from(weight) * own / sum * 1e6),
                None => whole(own * 1e6),
            }
        };
        members.iter().map(weigh).collect()
    }

    fn review(&self, members: &[u32]) -> Option<Instant> {
        if self.core.balancing.balancer == Balancer::ClientSideWeightedRoundRobin {
            return Some(self.now + REPORTS_REVIEW);
        }
        let window = self.core.balancing.slow_start.as_ref()?.window;
        let warming = members.iter().any(|m| self.warmth(*m).is_some_and(|warmth| warmth < 1.0));
        warming.then(|| self.now + (window / 100).clamp(WARM_REVIEW.0, WARM_REVIEW.1))
    }
}
