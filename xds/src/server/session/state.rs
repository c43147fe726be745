//! One type on one stream: what the client asked for, what it was sent, what is due.

use std::collections::BTreeSet;

use imbl::OrdMap;
use portolan_model::Place;
use serde::Serialize;

use crate::catalog::{Catalog, Name};
use crate::resource::{Encoded, ResourceType};

/// State of one type on a stream.
#[derive(Debug, Default)]
pub(super) struct TypeState {
    /// `None` until the first request of the type.
    pub(super) subscription: Option<Subscription>,
    /// Each resource as last sent, whether or not the client took it: one that was refused is not
    /// sent again until it changes. A wildcard's map shares its nodes with the catalog's.
    pub(super) sent: OrdMap<Name, Encoded>,
    pub(super) due: Due,
    /// Nonce of the newest response; requests with another one are stale.
    pub(super) nonce: String,
    pub(super) answered: bool,
    pub(super) status: TypeStatus,
}

#[derive(Debug, Default)]
pub(super) struct Subscription {
    wildcard: bool,
    names: BTreeSet<Name>,
}

/// What may have to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Due {
    #[default]
    Nothing,
    /// These names have to be compared with what was sent.
    Names(BTreeSet<Name>),
    /// All have to be.
    All,
    /// As `All`, and a response is owed even if there is nothing in it.
    Answer,
}

/// What is known of a client for one type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TypeStatus {
    /// Whether it subscribed to everything.
    pub wildcard: bool,
    /// How many names it asked for.
    pub names: usize,
    /// Version of the newest response.
    pub sent: String,
    /// Version of the newest response it took.
    pub acked: String,
    /// The client's words, if it refused the newest response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nacked: Option<String>,
}

/// Whether resources that left the catalog are taken out of a full set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removals {
    /// Not yet: wait, unless something else makes the response due.
    Held,
    /// Yes.
    Done,
}

/// A response of one type.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) resources: Vec<Encoded>,
    pub(super) version: String,
    /// Names of a full set that the client had in another version.
    pub(super) updated: Vec<Name>,
    /// Names of a full set that it did not have.
    pub(super) added: Vec<Name>,
}

impl TypeState {
    pub(super) fn subscribe(&mut self, kind: ResourceType, names: Vec<String>) {
        let names: BTreeSet<Name> = names.into_iter().map(Name::from).collect();
        // "Empty means wildcard" for LDS and CDS, and so does "*" ("How the client specifies what
        // resources to return"). Once names were given, an empty list means none.
        let had_names = self.subscription.as_ref().is_some_and(|s| !s.names.is_empty());
        let legacy = names.is_empty() && kind.is_full_set() && !had_names;
        let wildcard = legacy || names.contains("*");
        let new = Subscription { wildcard, names };
        let first = self.subscription.is_none();
        let changed = self
            .subscription
            .as_ref()
            .is_none_or(|old| old.wildcard != new.wildcard || old.names != new.names);
        if changed {
            if !new.wildcard {
                self.sent = new
                    .names
                    .iter()
                    .filter_map(|n| Some((n.clone(), self.sent.get(n)?.clone())))
                    .collect();
            }
            if first && kind.is_full_set() {
                self.due = Due::Answer;
            } else {
                self.due.raise_all();
            }
        }
        self.status.wildcard = wildcard;
        self.status.names = new.names.len();
        self.subscription = Some(new);
    }

    /// Whether the client asked for this name.
    pub(super) fn is_subscribed(&self, name: &Name) -> bool {
        self.subscription.as_ref().is_some_and(|s| s.wildcard || s.names.contains(name))
    }

    pub(super) fn note(&mut self, name: Name) {
        let Some(subscription) = &self.subscription else { return };
        if !(subscription.wildcard || subscription.names.contains(&name)) {
            return;
        }
        match &mut self.due {
            Due::Nothing => self.due = Due::Names(BTreeSet::from([name])),
            Due::Names(names) => {
                names.insert(name);
            }
            Due::All | Due::Answer => {}
        }
    }

    /// Has these sent again although they did not change.
    pub(super) fn resend(&mut self, names: Vec<Name>) {
        for name in names {
            if self.sent.remove(&name).is_some() {
                self.note(name);
            }
        }
    }

    /// LDS and CDS: everything subscribed to, if anything of it changed.
    pub(super) fn full_set(
        &mut self,
        kind: ResourceType,
        catalog: &Catalog,
        removals: Removals,
    ) -> Option<Content> {
        let set = self.wanted(kind, catalog)?;
        let candidates: Vec<Name> = match &self.due {
            Due::Nothing => return None,
            Due::Names(names) => names.iter().cloned().collect(),
            Due::All | Due::Answer => set.keys().chain(self.sent.keys()).cloned().collect(),
        };
        let (written, removed) = self.compare(&set, &candidates);
        if self.due != Due::Answer && written.is_empty() {
            if removed.is_empty() {
                self.due = Due::Nothing;
                return None;
            }
            if removals == Removals::Held {
                return None;
            }
        }
        let (updated, added) = written.into_iter().partition(|n| self.sent.contains_key(n));
        let mut set = set;
        if removals == Removals::Held && !removed.is_empty() {
            // What leaves stays in this response; the removal itself is still due after it.
            for name in &removed {
                if let Some(old) = self.sent.get(name) {
                    set.insert(name.clone(), old.clone());
                }
            }
            self.due = Due::Names(removed.into_iter().collect());
        } else {
            self.due = Due::Nothing;
        }
        let version = version(set.values());
        let resources = set.values().cloned().collect();
        self.sent = set;
        Some(Content { resources, version, updated, added })
    }

    /// Everything of a type that the client is subscribed to.
    fn wanted(&self, kind: ResourceType, catalog: &Catalog) -> Option<OrdMap<Name, Encoded>> {
        let subscription = self.subscription.as_ref()?;
        let mut set = OrdMap::new();
        if subscription.wildcard {
            set = catalog.wildcard(kind).clone();
        }
        for name in &subscription.names {
            if let Some(encoded) = catalog.lookup(kind, name) {
                set.insert(name.clone(), encoded.clone());
            }
        }
        Some(set)
    }

    /// Of the candidates, those the client lacks in this version, and those it has for nothing.
    fn compare(
        &self,
        set: &OrdMap<Name, Encoded>,
        candidates: &[Name],
    ) -> (BTreeSet<Name>, Vec<Name>) {
        let (mut written, mut removed) = (BTreeSet::new(), Vec::new());
        for name in candidates {
            match (set.get(name), self.sent.get(name)) {
                (Some(new), Some(old)) if new.version == old.version => {}
                (Some(_), _) => {
                    written.insert(name.clone());
                }
                (None, Some(_)) => removed.push(name.clone()),
                (None, None) => {}
            }
        }
        (written, removed)
    }

    /// RDS, EDS and the generation: what changed of it. A resource that is gone cannot be said in
    /// this variant of the protocol; the client drops it with whatever referred to it.
    pub(super) fn partial(
        &mut self,
        kind: ResourceType,
        catalog: &Catalog,
        place: &Place,
    ) -> Option<Content> {
        let subscription = self.subscription.as_ref()?;
        let due = std::mem::take(&mut self.due);
        let candidates: Vec<Name> = match due {
            Due::Nothing => return None,
            Due::Names(names) => names.into_iter().collect(),
            Due::All | Due::Answer if subscription.wildcard => {
                catalog.wildcard(kind).keys().cloned().collect()
            }
            Due::All | Due::Answer => subscription.names.iter().cloned().collect(),
        };
        let mut resources = Vec::new();
        for name in candidates {
            match catalog.lookup_at(kind, &name, place) {
                Some(new) if self.sent.get(&name).is_none_or(|old| old.version != new.version) => {
                    self.sent.insert(name, new.clone());
                    resources.push(new);
                }
                Some(_) => {}
                None => {
                    self.sent.remove(&name);
                }
            }
        }
        if resources.is_empty() {
            return None;
        }
        let version = version(self.sent.values());
        Some(Content { resources, version, updated: Vec::new(), added: Vec::new() })
    }
}

impl Due {
    pub(super) fn raise_all(&mut self) {
        if *self != Self::Answer {
            *self = Self::All;
        }
    }
}

/// The version of a set of resources: a sum of hashes, so that it does not depend on the order.
fn version<'a>(resources: impl Iterator<Item = &'a Encoded>) -> String {
    format!("{:016x}", resources.fold(0u64, |sum, r| sum.wrapping_add(r.version)))
}
