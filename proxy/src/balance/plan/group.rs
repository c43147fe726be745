//! Endpoints among which one rule picks: those of a locality, a zone or a whole priority.

use std::rc::Rc;

use portolan_model::Balancer;

use super::{Context, Core, Tables};
use crate::balance::View;
use crate::balance::choice::Choice;
use crate::balance::draw::Draw;
use crate::balance::hash::{self, Table};
use crate::balance::number::float;
use crate::balance::rng::Rng;
use crate::balance::round_robin::{RoundRobin, Wait};

#[derive(Debug)]
pub(crate) struct Group {
    /// Places in the set of endpoints.
    pub(crate) members: Vec<u32>,
    /// In thousandths.
    pub(crate) weights: Vec<u64>,
    /// For a hash: who of the members may serve. A table holds all of a priority, so that it stays
    /// while health changes. Empty: all.
    usable: Vec<bool>,
    /// For a hash: what the usable members weigh together.
    usable_weight: u64,
    rule: Option<Rule>,
}

/// A rule and what it remembers.
#[derive(Debug)]
enum Rule {
    Turns(RoundRobin),
    Draw(Draw),
    LeastRequest(Choice),
    PeakEwma(Choice),
    Hash(Rc<Table>),
    /// The place of the one that is used.
    First(usize),
}

impl Group {
    pub(crate) fn new(members: Vec<u32>, weights: Vec<u64>) -> Self {
        Self { members, weights, usable: Vec::new(), usable_weight: 0, rule: None }
    }

    /// All of a priority, of whom some may serve.
    pub(crate) fn partly(members: Vec<u32>, weights: Vec<u64>, usable: Vec<bool>) -> Self {
        let usable_weight = weights.iter().zip(&usable).filter(|(_, u)| **u).map(|(w, _)| w).sum();
        Self { members, weights, usable, usable_weight, rule: None }
    }

    /// Makes the rule, which takes up what endpoints had to wait before.
    pub(crate) fn prepare(
        &mut self,
        core: &Core,
        tables: &mut Tables,
        before: impl Fn(u32) -> Option<Wait>,
        rng: &mut Rng,
    ) {
        let weights = &self.weights;
        let choices = core.balancing.choices;
        self.rule = Some(match core.balancing.balancer {
            Balancer::RoundRobin | Balancer::ClientSideWeightedRoundRobin => {
                let before = |at: usize| self.members.get(at).and_then(|member| before(*member));
                Rule::Turns(RoundRobin::new(weights, before, rng))
            }
            Balancer::Random => Rule::Draw(Draw::new(weights)),
            Balancer::LeastRequest => Rule::LeastRequest(Choice::new(weights, choices)),
            Balancer::PeakEwma => Rule::PeakEwma(Choice::new(weights, choices)),
            Balancer::RingHash | Balancer::Maglev => {
                let keys = self.members.iter().map(|member| core.hash_key(*member));
                let endpoints: Vec<(String, u64)> = keys.zip(weights.iter().copied()).collect();
                Rule::Hash(tables.get(core.shape(), &endpoints))
            }
            Balancer::PickFirst => {
                let current = self.members.iter().position(|member| before(*member).is_some());
                Rule::First(current.unwrap_or(0))
            }
        });
    }

    /// A member that need not be avoided; `None` when there is none.
    pub(crate) fn pick<V: View + ?Sized>(
        &mut self,
        context: &Context<'_, V>,
        tables: &mut Tables,
        rng: &mut Rng,
    ) -> Option<usize> {
        if self.rule.is_none() {
            self.prepare(context.core, tables, |_| None, rng);
        }
        let members = &self.members;
        let member = |at: usize| members.get(at).map_or(usize::MAX, |member| *member as usize);
        let allowed = |at: usize| context.ask.avoid.is_none_or(|avoid| !avoid(member(at)));
        let load = |at: usize| context.view.load(member(at));
        let at = match self.rule.as_mut()? {
            Rule::Turns(turns) => turns.pick(allowed),
            Rule::Draw(draw) => draw.allowed(rng, allowed),
            Rule::LeastRequest(choice) => choice.pick(rng, allowed, |at, per_weight| {
                load(at).map_or(0.0, |load| f64::from(load.in_flight()) * per_weight)
            }),
            Rule::PeakEwma(choice) => choice.pick(rng, allowed, |at, per_weight| {
                let (now, unknown) = (context.ask.now, context.unknown);
                load(at).map_or(0.0, |load| load.cost(now, unknown, per_weight))
            }),
            Rule::First(current) => {
                let from = *current;
                let found = (from..members.len()).chain(0..from).find(|at| allowed(*at));
                *current = found.unwrap_or(from);
                found
            }
            Rule::Hash(table) => {
                let hash = context.ask.hash.unwrap_or_else(|| rng.next());
                let usable = |at: usize| self.usable.get(at).copied().unwrap_or(true);
                let fits = |at: usize| {
                    let weight = self.weights.get(at).copied().unwrap_or(0);
                    fits(context, load(at).map_or(0, |l| l.in_flight()), weight, self.usable_weight)
                };
                table.pick(hash, |at| usable(at) && allowed(at), fits)
            }
        }?;
        members.get(at).map(|member| *member as usize)
    }

    /// What each member has still to wait; for pick first, who is used.
    pub(crate) fn waits(&self) -> Vec<(u32, Wait)> {
        let waits = match &self.rule {
            Some(Rule::Turns(turns)) => turns.waits(),
            Some(Rule::First(current)) => vec![(*current, 0)],
            _ => Vec::new(),
        };
        let member = |(at, wait): (usize, Wait)| self.members.get(at).map(|m| (*m, wait));
        waits.into_iter().filter_map(member).collect()
    }
}

/// Whether one more request keeps an endpoint within its bound, if there is one.
fn fits<V: View + ?Sized>(
    context: &Context<'_, V>,
    in_flight: u32,
    weight: u64,
    usable_weight: u64,
) -> bool {
    let Some(percent) = context.core.balancing.hash_balance_factor else { return true };
    let share = float(weight) / float(usable_weight.max(1));
    in_flight < hash::bound(percent.max(100), context.view.in_flight(), share)
}
