//! Parts of a cluster by label (Envoy, "Load balancer subsets"): which part a request asks for.
//!
//! Owns the index of parts, made at the first request that needs it and bounded; each part has a plan
//! of its own.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

use portolan_model::traffic::{EndpointSet, Fallback, Subsets};

use super::number::small;
use super::plan::{Plan, Tables};

/// Most parts of a cluster. Endpoints whose part comes after have none: requests for one that is
/// not there fail then, as it cannot be told from one that does not exist.
pub(crate) const MAX_SUBSETS: usize = 1024;

#[derive(Debug)]
pub(crate) struct Index {
    config: Subsets,
    /// Whether endpoints were looked at.
    built: bool,
    /// Whether there are more parts than fit.
    pub(crate) full: bool,
    parts: HashMap<String, usize>,
    plans: Vec<Plan>,
    /// Where the plan of each fallback to labels is: by selector, the last one for the default.
    fallbacks: Vec<Option<usize>>,
    /// For making keys without allocation.
    key: String,
}

/// Where a request is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// By any endpoint of the cluster.
    Whole,
    /// By the endpoints of a part.
    Of(usize),
    /// Nowhere.
    Nowhere(Refusal),
}

/// Why a request is served nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No endpoint has the labels.
    NoSuchPart,
    /// There are more parts than are kept.
    TooMany,
}

impl Index {
    /// `None` when requests do not ask by label.
    pub(crate) fn new(config: Option<&Subsets>) -> Option<Self> {
        let config = config?.clone();
        let fallbacks = vec![None; config.selectors.len() + 1];
        let (parts, plans, key) = (HashMap::new(), Vec::new(), String::new());
        Some(Self { config, built: false, full: false, parts, plans, fallbacks, key })
    }

    pub(crate) fn plan(&mut self, at: usize) -> Option<&mut Plan> {
        self.plans.get_mut(at)
    }

    /// The number of parts.
    pub(crate) fn len(&self) -> usize {
        self.plans.len()
    }

    /// The part for a request with these labels, and whether it is a fallback.
    pub(crate) fn find(
        &mut self,
        labels: &BTreeMap<String, String>,
        set: &EndpointSet,
    ) -> (Part, bool) {
        self.build(set);
        let asks = |keys: &[String]| {
            keys.len() == labels.len() && keys.iter().all(|key| labels.contains_key(key))
        };
        let selector = self.config.selectors.iter().position(|s| asks(&s.keys));
        let selector = selector.filter(|_| !labels.is_empty());
        if let Some(selector) = selector {
            write_key(&mut self.key, selector, labels.values());
            if let Some(at) = self.parts.get(self.key.as_str()) {
                return (Part::Of(*at), false);
            }
            if self.full {
                return (Part::Nowhere(Refusal::TooMany), false);
            }
        }
        let own = selector.and_then(|s| self.config.selectors.get(s)?.fallback.as_ref());
        let at = if own.is_some() { selector } else { None };
        let part = match own.unwrap_or(&self.config.fallback) {
            Fallback::Any => Part::Whole,
            Fallback::Fail => Part::Nowhere(Refusal::NoSuchPart),
            Fallback::Labels(_) => {
                let fallback = self.fallbacks.get(at.unwrap_or(self.config.selectors.len()));
                let found = fallback.copied().flatten();
                found.map_or(Part::Nowhere(Refusal::NoSuchPart), Part::Of)
            }
        };
        (part, true)
    }

    fn build(&mut self, set: &EndpointSet) {
        if std::mem::replace(&mut self.built, true) {
            return;
        }
        let mut lists: Vec<Vec<u32>> = Vec::new();
        let selectors = self.config.selectors.iter().map(|selector| selector.fallback.as_ref());
        for (at, fallback) in selectors.chain([Some(&self.config.fallback)]).enumerate() {
            let Some(Fallback::Labels(labels)) = fallback else { continue };
            let members: Vec<u32> = members(set, |has| has_all(has, labels)).collect();
            if !members.is_empty() && at < self.fallbacks.len() {
                self.fallbacks[at] = Some(lists.len());
                lists.push(members);
            }
        }
        for (at, selector) in self.config.selectors.iter().enumerate() {
            // In the order of the map that requests come with.
            let mut keys: Vec<&String> = selector.keys.iter().collect();
            keys.sort();
            for (member, target) in set.endpoints.iter().enumerate() {
                let Some(labels) = &target.labels else { continue };
                let values: Option<Vec<&String>> = keys.iter().map(|k| labels.get(*k)).collect();
                let Some(values) = values else { continue };
                write_key(&mut self.key, at, values.into_iter());
                if let Some(list) = self.parts.get(self.key.as_str()) {
                    lists[*list].push(small(member));
                } else if lists.len() < MAX_SUBSETS {
                    self.parts.insert(self.key.clone(), lists.len());
                    lists.push(vec![small(member)]);
                } else {
                    self.full = true;
                }
            }
        }
        let plan = |list| Plan::about(list, HashMap::new(), Tables::default());
        self.plans = lists.into_iter().map(plan).collect();
    }
}

/// The number of the selector and the values of its labels, each with its length in front, so that no
/// two lists of values give the same key.
fn write_key<'a>(key: &mut String, selector: usize, values: impl Iterator<Item = &'a String>) {
    key.clear();
    let mut failed = write!(key, "{selector}").is_err();
    for value in values {
        failed |= write!(key, ",{}:{value}", value.len()).is_err();
    }
    debug_assert!(!failed, "a string takes whatever is written to it");
}

fn members(
    set: &EndpointSet,
    matches: impl Fn(Option<&BTreeMap<String, String>>) -> bool,
) -> impl Iterator<Item = u32> {
    let all = set.endpoints.iter().enumerate();
    all.filter(move |(_, target)| matches(target.labels.as_deref())).map(|(at, _)| small(at))
}

fn has_all(has: Option<&BTreeMap<String, String>>, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| has.and_then(|has| has.get(key)) == Some(value))
}
