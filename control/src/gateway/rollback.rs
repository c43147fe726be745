//! Which backends of a route are worse than their sibling, and have lost their weight for it. Pure: loads
//! and the time are told.
//!
//! Of the backends of a rule the one with the largest weight is the sibling of all others. A backend
//! that was rolled back stays so until the backends of its rule, or what the route asks for here, are
//! others; it is not kept anywhere else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use portolan_model::traffic::ResourceName;

use super::Name;
use super::draft::{BackendDraft, RollbackDraft, RouteDraft};
use super::status::Condition;
use crate::loads::{Load, Loads};
use crate::object::Kind;

/// Type of the condition that tells of it.
const CONDITION: &str = "portolan.dev/RolledBack";
/// Most rules that are watched; those past it say so.
const MAX_SPLITS: usize = 1000;
/// Most loads that are kept apart; of a long window several become one.
const MAX_TOLD: u32 = 60;
/// After a change so many loads are about what was before: that of the interval it was made in, and the
/// one after, since clients count in intervals of their own.
const LAG: u8 = 2;

/// A rule of a route.
pub(super) type RuleId = (Kind, Name, usize);

/// A rule whose backends are compared.
#[derive(Clone, Debug)]
pub(super) struct Split {
    pub(super) id: RuleId,
    /// What people call the rule within its route.
    pub(super) called: Arc<str>,
    /// What the route asks for.
    pub(super) wanted: RollbackDraft,
    /// Its backends as they are written.
    pub(super) backends: Vec<BackendDraft>,
    /// The cluster of each, where it can be used.
    pub(super) clusters: Vec<Option<ResourceName>>,
}

/// A backend without its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RolledBack {
    /// Why, in a word of the condition.
    pub(super) reason: &'static str,
    /// Why, for people.
    pub(super) text: String,
}

/// What is watched, and what came of it.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// Whether any loads are told.
    pub(super) is_told: bool,
    watched: BTreeMap<RuleId, Watched>,
    /// Rules past the bound.
    left_out: BTreeSet<RuleId>,
    /// Loads of the clusters of all rules, the oldest first.
    told: VecDeque<(Instant, Loads)>,
}

#[derive(Debug)]
struct Watched {
    split: Split,
    /// Loads that are still about what it was before.
    lag: u8,
    /// Since when what is told is about it as it is.
    since: Option<Instant>,
    rolled: BTreeMap<usize, RolledBack>,
}

/// What is known of a rule that asks for this and has these backends: under its number, or under
/// another one, if rules were put in or taken out.
fn known<'a>(
    watched: &'a BTreeMap<RuleId, Watched>,
    id: &RuleId,
    wanted: &RollbackDraft,
    backends: &[BackendDraft],
) -> Option<&'a Watched> {
    let same = |known: &&Watched| known.split.wanted == *wanted && known.split.backends == backends;
    let (kind, name, _) = id;
    let route = (*kind, name.clone(), 0)..=(*kind, name.clone(), usize::MAX);
    let others = || watched.range(route).map(|(_, known)| known).find(same);
    watched.get(id).filter(same).or_else(others)
}

impl Judge {
    /// Backends of a rule that have lost their weight, by their place, if the rule is as it was then.
    pub(super) fn rolled(&self, route: &RouteDraft, rule: usize) -> BTreeMap<usize, RolledBack> {
        let (Some(wanted), Some(now)) = (&route.rollback, route.rules.get(rule)) else {
            return BTreeMap::new();
        };
        let name = (Arc::clone(&route.meta.namespace), Arc::clone(&route.meta.name));
        let found = known(&self.watched, &(route.kind, name, rule), wanted, &now.backends);
        found.map(|watched| watched.rolled.clone()).unwrap_or_default()
    }

    /// Watches these rules and no others; whether something else is to be said of some for it.
    pub(super) fn watch(&mut self, splits: Vec<Split>) -> bool {
        let before = std::mem::take(&mut self.watched);
        let left_out = splits.iter().skip(MAX_SPLITS).map(|split| split.id.clone()).collect();
        for split in splits.into_iter().take(MAX_SPLITS) {
            let kept = known(&before, &split.id, &split.wanted, &split.backends);
            let (lag, since, rolled) = match kept {
                Some(known) => (known.lag, known.since, known.rolled.clone()),
                None => (LAG, None, BTreeMap::new()),
            };
            self.watched.insert(split.id.clone(), Watched { split, lag, since, rolled });
        }
        let differs = self.left_out != left_out;
        self.left_out = left_out;
        differs
    }

    /// Takes the loads of an interval that ends now; whether a backend loses its weight for them.
    pub(super) fn on_loads(&mut self, mut loads: Loads, now: Instant) -> bool {
        let clusters = self.watched.values().flat_map(|w| w.split.clusters.iter().flatten());
        let clusters: BTreeSet<&ResourceName> = clusters.collect();
        loads.retain(|cluster, _| clusters.contains(cluster));
        let longest = self.watched.values().map(|watched| watched.split.wanted.window).max();
        let longest = longest.unwrap_or_default();
        // What is about a rule as it is now is not put to what was before.
        let is_new = |at: Instant| {
            self.watched.values().any(|watched| watched.since.is_none_or(|since| since >= at))
        };
        let is_near = |at: Instant| now.duration_since(at) < longest / MAX_TOLD;
        let last = self.told.back().is_some_and(|(at, _)| is_near(*at) && !is_new(*at));
        match self.told.back_mut().filter(|_| last) {
            Some((_, last)) => {
                for (cluster, load) in loads {
                    last.entry(cluster).or_default().add(&load);
                }
            }
            None => self.told.push_back((now, loads)),
        }
        while self.told.front().is_some_and(|(at, _)| now.duration_since(*at) >= longest) {
            self.told.pop_front();
        }
        let mut any = false;
        for watched in self.watched.values_mut() {
            let Some(since) = watched.since else {
                watched.lag -= 1;
                watched.since = (watched.lag == 0).then_some(now);
                continue;
            };
            let window = watched.split.wanted.window;
            let recent =
                self.told.iter().filter(|(at, _)| *at > since && now.duration_since(*at) < window);
            let recent: Vec<&Loads> = recent.map(|(_, loads)| loads).collect();
            any |= watched.judge(&recent);
        }
        any
    }

    /// What a route is told, if it asks for anything here.
    pub(super) fn condition(&self, route: &RouteDraft) -> Option<Condition> {
        route.rollback.as_ref()?;
        let no = |reason, text: &str| Some(Condition::no(CONDITION, reason, text));
        if !self.is_told {
            return no("NoLoadReports", "xds.load_reports is off: nobody knows how backends do");
        }
        let all = (0..route.rules.len()).flat_map(|rule| self.rolled(route, rule).into_values());
        let all: Vec<RolledBack> = all.collect();
        let Some(first) = all.first() else {
            let is_own = |(kind, name, _): &&RuleId| {
                *kind == route.kind
                    && (&name.0, &name.1) == (&route.meta.namespace, &route.meta.name)
            };
            return match self.left_out.iter().find(is_own) {
                None => no("Watching", ""),
                Some(_) => no("TooMany", "more rules ask for it than are watched"),
            };
        };
        let texts: Vec<&str> = all.iter().map(|rolled| rolled.text.as_str()).collect();
        let told = Condition::no(CONDITION, first.reason, texts.join("; "));
        Some(Condition { holds: true, ..told })
    }

    /// Everything that has lost its weight, by its route.
    pub(super) fn all(&self) -> impl Iterator<Item = (&RuleId, &RolledBack)> {
        self.watched.iter().flat_map(|(id, w)| w.rolled.values().map(move |rolled| (id, rolled)))
    }
}

impl Watched {
    /// Compares each backend with its sibling; whether one loses its weight.
    fn judge(&mut self, recent: &[&Loads]) -> bool {
        let Split { called, wanted, backends, clusters, .. } = &self.split;
        let usable = || {
            let both = backends.iter().zip(clusters).enumerate();
            both.filter_map(|(at, (backend, cluster))| {
                cluster.as_ref().filter(|_| backend.weight > 0).map(|c| (at, backend, c))
            })
        };
        // The first of those with the largest weight.
        let sibling = usable().min_by_key(|(_, backend, _)| std::cmp::Reverse(backend.weight));
        let Some((stays, _, sibling)) = sibling else { return false };
        let sum = |cluster: &ResourceName| {
            let mut sum = Load::default();
            recent.iter().filter_map(|loads| loads.get(cluster)).for_each(|load| sum.add(load));
            sum
        };
        let well = sum(sibling);
        let mut found = Vec::new();
        for (at, _, cluster) in usable() {
            if at == stays || cluster == sibling || self.rolled.contains_key(&at) {
                continue;
            }
            if let Some((reason, text)) = compare(wanted, cluster, &sum(cluster), sibling, &well) {
                found.push((at, RolledBack { reason, text: format!("{called}: {text}") }));
            }
        }
        let any = !found.is_empty();
        for (_, rolled) in &found {
            tracing::warn!(reason = rolled.reason, text = %rolled.text, "rolled back");
        }
        self.rolled.extend(found);
        any
    }
}

/// Why a backend falls behind its sibling, if it does.
fn compare(
    wanted: &RollbackDraft,
    cluster: &str,
    load: &Load,
    sibling: &str,
    well: &Load,
) -> Option<(&'static str, String)> {
    let enough = f64::from(wanted.min_requests);
    let (ended, ended_well) = (load.good + load.bad, well.good + well.bad);
    if ended >= enough && ended_well >= enough {
        let (rate, usual) = (100.0 * load.good / ended, 100.0 * well.good / ended_well);
        if rate + f64::from(wanted.success_margin) < usual {
            let text = format!(
                "{cluster}: {rate:.1} % of {ended:.0} requests ended well, {usual:.1} % of \
                 {ended_well:.0} at {sibling}"
            );
            return Some(("SuccessRate", text));
        }
    }
    let margin = wanted.latency_margin?;
    if load.timed >= enough && well.timed >= enough {
        let (mean, usual) = (load.millis / load.timed, well.millis / well.timed);
        if mean > usual * (1.0 + f64::from(margin) / 100.0) {
            let text = format!(
                "{cluster}: {mean:.1} ms to an answer over {:.0} requests, {usual:.1} ms over {:.0} \
                 at {sibling}",
                load.timed, well.timed
            );
            return Some(("Latency", text));
        }
    }
    None
}

#[cfg(test)]
mod tests;
