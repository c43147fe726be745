//! What subscribers are handed: the newest value and what changed lately.
//!
//! A subscriber that fell behind gets the union of the changes it missed. History is bounded:
//! one that missed more than [`HISTORY`] publishes is told to take everything anew.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::snapshot::{Generation, Key, Snapshot};

/// How many publishes a subscriber may miss before it has to start anew.
pub const HISTORY: usize = 64;
/// How many keys the history holds at most; past this the oldest publishes are forgotten.
pub const HISTORY_KEYS: usize = 65_536;

/// The keys that recent publishes touched, newest last. One entry per generation.
#[derive(Clone, Debug, Default)]
struct History {
    recent: VecDeque<Arc<BTreeSet<Key>>>,
}

/// The newest snapshot together with the keys that recent publishes touched.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    snapshot: Arc<Snapshot>,
    history: History,
}

/// What a subscriber has to look at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes<K = Key> {
    /// It is current.
    Nothing,
    /// These were written or taken out since.
    Keys(BTreeSet<K>),
    /// It is new, or has missed more than the history holds.
    Everything,
}

impl History {
    /// Adds what one publish touched.
    fn push(&mut self, changed: BTreeSet<Key>) {
        self.recent.push_back(Arc::new(changed));
        let mut keys: usize = self.recent.iter().map(|set| set.len()).sum();
        while self.recent.len() > HISTORY || keys > HISTORY_KEYS {
            match self.recent.pop_front() {
                Some(set) => keys -= set.len(),
                None => break,
            }
        }
    }

    /// What changed between `seen` and `current`, the generation of the newest entry.
    /// A subscriber that has seen generation 0 has seen nothing.
    fn changes_between(&self, seen: Generation, current: Generation) -> Changes {
        if seen == current {
            return Changes::Nothing;
        }
        let missed = current.0.checked_sub(seen.0).and_then(|n| usize::try_from(n).ok());
        match missed {
            Some(missed) if seen != Generation(0) && missed <= self.recent.len() => {
                let skip = self.recent.len() - missed;
                Changes::Keys(
                    self.recent.iter().skip(skip).flat_map(|set| set.iter().cloned()).collect(),
                )
            }
            _ => Changes::Everything,
        }
    }
}

impl Publication {
    /// The newest snapshot.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Its generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.snapshot.generation()
    }

    /// The publication that follows this one.
    #[must_use]
    pub fn next(&self, content: &Snapshot, changed: BTreeSet<Key>) -> Self {
        let mut history = self.history.clone();
        history.push(changed);
        Self { snapshot: Arc::new(content.at(self.generation().next())), history }
    }

    /// What changed for a subscriber that last saw `seen`.
    #[must_use]
    pub fn changes_since(&self, seen: Generation) -> Changes {
        self.history.changes_between(seen, self.generation())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        Key::Node(format!("node-{n}").into())
    }

    #[test]
    fn a_subscriber_behind_gets_the_union_of_what_it_missed() {
        let mut publication = Publication::default();
        for n in 1..=5 {
            publication = publication.next(&Snapshot::default(), [key(n)].into());
        }
        assert_eq!(publication.generation(), Generation(5));
        assert_eq!(publication.changes_since(Generation(5)), Changes::Nothing);
        assert_eq!(
            publication.changes_since(Generation(3)),
            Changes::Keys([key(4), key(5)].into())
        );
        assert_eq!(publication.changes_since(Generation(0)), Changes::Everything);
        assert_eq!(publication.changes_since(Generation(9)), Changes::Everything);
    }

    #[test]
    fn history_is_bounded_in_publishes_and_in_keys() {
        let mut publication = Publication::default();
        for n in 0..HISTORY + 3 {
            publication = publication.next(&Snapshot::default(), [key(n)].into());
        }
        assert_eq!(publication.changes_since(Generation(2)), Changes::Everything);
        assert!(matches!(publication.changes_since(Generation(3)), Changes::Keys(_)));

        let many: BTreeSet<Key> = (0..=HISTORY_KEYS).map(key).collect();
        let before = publication.generation();
        publication = publication.next(&Snapshot::default(), many);
        assert_eq!(publication.changes_since(before), Changes::Everything);
    }
}
