//! What a client is subscribed to of one type.

use std::collections::BTreeSet;

use super::InterestChange;
use crate::catalog::Name;
use crate::resource::ResourceType;

/// The name that means all.
pub(super) const ALL: &str = "*";

/// A subscription.
#[derive(Debug, Default)]
pub(super) struct Subscription {
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<Name>,
    /// Names were given at some time: from then on an empty list means none.
    named: bool,
}

/// What a request changed of it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// Names that were asked for, by the incremental variant whether or not they were before.
    pub(super) added: Vec<Name>,
    pub(super) removed: Vec<Name>,
    pub(super) wildcard_added: bool,
    pub(super) wildcard_removed: bool,
}

impl Subscription {
    /// Whether it is a wildcard and nothing else.
    pub(super) fn is_all_alone(&self) -> bool {
        self.wildcard && self.names.is_empty()
    }

    /// State of the world: what a list of names means, and whether it is a wildcard. "Empty means
    /// wildcard" for LDS and CDS, and so does "*" ("How the client specifies what resources to
    /// return"). Once names were given, an empty list means none.
    pub(super) fn read(&mut self, kind: ResourceType, names: &[String]) -> (BTreeSet<Name>, bool) {
        self.named |= !names.is_empty();
        let mut names: BTreeSet<Name> = names.iter().map(|name| Name::from(&**name)).collect();
        let wildcard = names.remove(ALL) || kind.is_full_set() && !self.named;
        (names, wildcard)
    }

    /// State of the world: whether a list of names means what it is already. Nothing is made of the
    /// names to find out.
    fn is_exactly(&self, kind: ResourceType, names: &[String]) -> bool {
        let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
        if !sorted.is_sorted() {
            sorted.sort_unstable();
        }
        sorted.dedup();
        let named = self.named || !names.is_empty();
        let all = sorted.contains(&ALL);
        let wildcard = all || kind.is_full_set() && !named;
        let others = sorted.into_iter().filter(|name| *name != ALL);
        named == self.named
            && wildcard == self.wildcard
            && others.eq(self.names.iter().map(|name| &**name))
    }

    /// State of the world: exactly these names.
    pub(super) fn set(&mut self, kind: ResourceType, names: &[String]) -> Difference {
        // Most requests are acknowledgements with the same names.
        if self.is_exactly(kind, names) {
            return Difference::default();
        }
        let (names, wildcard) = self.read(kind, names);
        let difference = Difference {
            added: names.difference(&self.names).cloned().collect(),
            removed: self.names.difference(&names).cloned().collect(),
            wildcard_added: wildcard && !self.wildcard,
            wildcard_removed: self.wildcard && !wildcard,
        };
        // What stays keeps its allocation.
        self.names.retain(|name| names.contains(name));
        self.names.extend(difference.added.iter().cloned());
        self.wildcard = wildcard;
        difference
    }

    /// Incremental: these too, and no longer those. Legacy: a first request of LDS or CDS without
    /// names is a wildcard.
    pub(super) fn change(
        &mut self,
        kind: ResourceType,
        first: bool,
        subscribe: Vec<String>,
        unsubscribe: &[String],
    ) -> Difference {
        let mut difference = Difference::default();
        let legacy = first && subscribe.is_empty() && kind.is_full_set();
        for name in unsubscribe {
            if name == ALL {
                difference.wildcard_removed |= std::mem::take(&mut self.wildcard);
            } else if let Some(name) = self.names.take(name.as_str()) {
                difference.removed.push(name);
            }
        }
        let before = self.wildcard;
        self.wildcard |= legacy;
        for name in subscribe {
            if name == ALL {
                self.wildcard = true;
                continue;
            }
            let name = Name::from(name);
            if !self.names.contains(&name) {
                self.names.insert(name.clone());
            }
            difference.added.push(name);
        }
        difference.wildcard_added = self.wildcard && !before;
        difference
    }
}

impl Difference {
    /// What the client is to be woken for.
    pub(super) fn interest(&self, kind: ResourceType, out: &mut Vec<InterestChange>) {
        let added = self.added.iter().map(|name| InterestChange::Add(kind, name.clone()));
        let removed = self.removed.iter().map(|name| InterestChange::Remove(kind, name.clone()));
        out.extend(removed.chain(added));
        match (self.wildcard_added, self.wildcard_removed) {
            (true, false) => out.push(InterestChange::AddAll(kind)),
            (false, true) => out.push(InterestChange::RemoveAll(kind)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every list of up to three of these words.
    fn lists() -> Vec<Vec<String>> {
        let words = ["b", "a", ALL];
        let mut lists = vec![Vec::new()];
        let mut longest = lists.clone();
        for _ in 0..3 {
            let longer = |list: &Vec<String>| {
                words.map(|word| list.iter().cloned().chain([word.to_owned()]).collect::<Vec<_>>())
            };
            longest = longest.iter().flat_map(longer).collect();
            lists.extend(longest.iter().cloned());
        }
        lists
    }

    #[test]
    fn the_same_names_are_known_without_making_anything_of_them() {
        for kind in [ResourceType::Cluster, ResourceType::Endpoints] {
            for first in lists() {
                for second in lists() {
                    let mut subscription = Subscription::default();
                    subscription.set(kind, &first);
                    let found = subscription.is_exactly(kind, &second);
                    let before = (subscription.names.clone(), subscription.wildcard);
                    let named = subscription.named;
                    let after = subscription.read(kind, &second);
                    let same = before == after && named == subscription.named;
                    assert_eq!(found, same, "{kind:?}: {first:?}, then {second:?}");
                }
            }
        }
    }
}
