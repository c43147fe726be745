//! A cluster's balancing as the admin page shows it.

use std::net::SocketAddr;

use serde::Serialize;
use tokio::time::Instant;

use super::plan::{Core, Kind, Plan, Tier};
use super::{Balance, View};

/// How one worker balances to a cluster.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Description {
    /// The rule's word.
    pub(crate) balancer: &'static str,
    pub(crate) priorities: Vec<PriorityView>,
    pub(crate) endpoints: Vec<EndpointView>,
    /// Parts by label that were made.
    pub(crate) subsets: usize,
    pub(crate) counters: CountersView,
}

/// What a priority gets, in percent of all load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PriorityView {
    pub(crate) priority: u32,
    pub(crate) endpoints: u32,
    pub(crate) healthy: u32,
    pub(crate) degraded: u32,
    /// To healthy endpoints; to all in panic.
    pub(crate) percent: u32,
    pub(crate) percent_degraded: u32,
    pub(crate) panic: bool,
}

/// An endpoint in the plan for requests that ask for no labels.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct EndpointView {
    pub(crate) address: SocketAddr,
    pub(crate) priority: u32,
    pub(crate) zone: String,
    pub(crate) healthy: bool,
    /// Its weight at present, with slow start or by its own reports; `None` when it serves nothing.
    pub(crate) weight: Option<f64>,
    pub(crate) in_flight: u32,
    /// Expected latency in milliseconds.
    pub(crate) ewma_ms: Option<f64>,
    /// Share of its priority's load by health, in percent of all.
    pub(crate) percent: u32,
}

/// Picks since the cluster is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CountersView {
    /// In panic.
    pub(crate) panic: u64,
    /// Away from the own zone, since that has too few endpoints.
    pub(crate) cross_zone: u64,
    /// Away from the own zone, since that was loaded.
    pub(crate) spilled: u64,
    /// By the fallback of subsets.
    pub(crate) subset_fallback: u64,
    /// Refused: no such subset.
    pub(crate) no_subset: u64,
    /// Refused: more subsets than are kept.
    pub(crate) subsets_full: u64,
    /// Nobody was left.
    pub(crate) none: u64,
    /// Plans made.
    pub(crate) plans: u64,
}

impl Balance {
    /// How it balances now.
    pub(crate) fn describe<V: View + ?Sized>(&mut self, view: &V, now: Instant) -> Description {
        self.refresh(view, now);
        let (core, plan) = (&self.core, &self.whole);
        let priorities = plan.levels.iter().map(|(priority, level, share)| PriorityView {
            priority: *priority,
            endpoints: level.total,
            healthy: level.healthy,
            degraded: level.degraded,
            percent: share.healthy,
            percent_degraded: share.degraded,
            panic: share.panic,
        });
        Description {
            balancer: core.balancing.balancer.word(),
            priorities: priorities.collect(),
            endpoints: endpoints(core, plan, view, now),
            subsets: self.subsets.as_ref().map_or(0, super::subset::Index::len),
            counters: self.counters(),
        }
    }
}

fn endpoints<V: View + ?Sized>(
    core: &Core,
    plan: &Plan,
    view: &V,
    now: Instant,
) -> Vec<EndpointView> {
    let mut found: Vec<Option<(f64, u32)>> = vec![None; core.set.endpoints.len()];
    for tier in &plan.tiers {
        for (member, weight) in tier.groups.iter().flat_map(weights) {
            let serves = tier_serves(core, tier, view, member);
            if let Some(slot) = found.get_mut(member).filter(|slot| slot.is_none() && serves) {
                *slot = Some((weight, tier.share));
            }
        }
    }
    let describe = |(at, target): (usize, &portolan_model::traffic::Target)| {
        let load = view.load(at);
        EndpointView {
            address: target.address,
            priority: core.set.priority(target),
            zone: core.set.locality(target).map_or_else(String::new, |l| l.zone.to_string()),
            healthy: view.healthy(at),
            weight: found.get(at).copied().flatten().map(|(weight, _)| weight),
            in_flight: load.map_or(0, super::Load::in_flight),
            ewma_ms: load.and_then(|load| load.rtt(now)).map(|nanos| nanos / 1e6),
            percent: found.get(at).copied().flatten().map_or(0, |(_, share)| share),
        }
    };
    core.set.endpoints.iter().enumerate().map(describe).collect()
}

fn weights(group: &super::plan::group::Group) -> impl Iterator<Item = (usize, f64)> {
    let unit = 1000.0;
    let each = group.members.iter().zip(&group.weights);
    each.map(move |(member, weight)| (*member as usize, super::number::float(*weight) / unit))
}

/// A table of hashes holds everybody; whom the tier is for is told by health.
fn tier_serves<V: View + ?Sized>(core: &Core, tier: &Tier, view: &V, member: usize) -> bool {
    use portolan_model::traffic::Health;
    if !core.is_hashed() || tier.kind == Kind::Panic {
        return true;
    }
    let health = core.set.endpoints.get(member).map(|target| target.health);
    let wanted = if tier.kind == Kind::Healthy { Health::Healthy } else { Health::Degraded };
    health == Some(wanted) && view.healthy(member)
}
