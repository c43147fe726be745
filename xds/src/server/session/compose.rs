//! What of one type is due to the client, computed from the newest catalog.

use std::collections::BTreeSet;

use imbl::ordmap::DiffItem;

use super::held::Held;
use super::state::{Changed, Due, TypeState};
use super::{MAX_RESPONSE_BYTES, Resources, Variant};
use crate::catalog::{Catalog, Name};
use crate::resource::{Encoded, ResourceType};
use crate::viewer::Viewer;

/// Most bytes of names that are gone, or never were, in a response.
const MAX_NAMES_BYTES: usize = 1024 * 1024;
/// Names in a response of which it is said why there is nothing of them.
const MAX_ERRORS: usize = 256;

/// Whether resources that left the catalog are taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removals {
    /// Not yet: something may still lead to them.
    Held,
    /// Yes.
    Done,
}

/// A response of one type.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) resources: Resources,
    pub(super) removed: Vec<Name>,
    pub(super) errors: Vec<(Name, String)>,
    pub(super) changed: Changed,
    /// Names that the client had in another version.
    pub(super) updated: Vec<Name>,
    /// Names that it did not have.
    pub(super) added: Vec<Name>,
}

/// What is asked of whom, by whom.
struct Asked<'a> {
    kind: ResourceType,
    variant: Variant,
    catalog: &'a Catalog,
    viewer: &'a Viewer,
}

/// What comparing found.
#[derive(Default)]
struct Found {
    written: Vec<(Name, Encoded)>,
    removed: Vec<Name>,
    missing: Vec<Name>,
    /// Whose refusal means nothing any more: gone, or back at what the client holds.
    moot: Vec<Name>,
}

impl Removals {
    /// How removals are dealt with where a type's turn comes.
    pub(super) fn of(kind: ResourceType) -> Self {
        match kind {
            ResourceType::Cluster | ResourceType::Endpoints => Self::Held,
            _ => Self::Done,
        }
    }
}

impl TypeState {
    /// The response that is due, if any can be sent now.
    pub(super) fn compose(
        &mut self,
        kind: ResourceType,
        variant: Variant,
        catalog: &Catalog,
        viewer: &Viewer,
        removals: Removals,
    ) -> Option<Content> {
        if self.is_outstanding() || !self.is_asked() || !self.due.is_any() {
            return None;
        }
        let asked = Asked { kind, variant, catalog, viewer };
        let mut due = std::mem::take(&mut self.due);
        if removals == Removals::Held {
            self.due.held = std::mem::take(&mut due.held);
        }
        let mut found = self.compare(&asked, &due);
        if removals == Removals::Held {
            self.due.held.extend(found.removed.drain(..));
            for (name, _) in &found.written {
                self.due.held.remove(name);
            }
            self.due.again = due.again.intersection(&self.due.held).cloned().collect();
        }
        found.moot.iter().for_each(|name| {
            self.refused.remove(name);
        });
        if self.is_resumed(&mut found) {
            return None;
        }
        let content = match (variant, kind.is_full_set()) {
            (Variant::Sotw, true) => self.full_set(&asked, found, due.answer),
            (Variant::Sotw, false) => self.partial(&asked, found, &due),
            (Variant::Delta, _) => self.delta(&asked, found, &due),
        };
        self.share(&asked);
        let alive = due.alive && (variant == Variant::Delta || viewer.knows_ttl());
        match content {
            Some(content) => {
                self.due.alive |= alive;
                Some(content)
            }
            None if alive => Some(self.signs_of_life()),
            None => None,
        }
    }

    /// Compares what may have changed with what the client holds.
    fn compare(&self, asked: &Asked<'_>, due: &Due) -> Found {
        let mut found = Found::default();
        for name in self.candidates(asked, due) {
            let new = self.wanted(asked, &name);
            let old = self.sent.get(&name);
            let refused = self.refused.get(&name).map(|refusal| refusal.version);
            let again = due.again.contains(&name);
            match (new, old) {
                (Some(new), _) if Some(new.version) == refused => {}
                (Some(new), Some(old)) if new.version == old.version && !again => {
                    found.moot.push(name);
                }
                (Some(new), _) => found.written.push((name, new)),
                (None, Some(_)) => found.removed.push(name),
                (None, None) => {
                    found.moot.push(name.clone());
                    // In place of what it refused it may go on with one it took of a response that
                    // it refused for another; the next full set says that it is gone.
                    let again = again || asked.variant == Variant::Delta && refused.is_some();
                    if again || self.is_named(&name) && !self.missing.contains(&name) {
                        found.missing.push(name);
                    }
                }
            }
        }
        found
    }

    fn is_named(&self, name: &Name) -> bool {
        self.subscription.as_ref().is_some_and(|s| s.names.contains(name))
    }

    /// The resource as it is now, if the client is subscribed to it.
    fn wanted(&self, asked: &Asked<'_>, name: &Name) -> Option<Encoded> {
        let subscription = self.subscription.as_ref()?;
        let in_all =
            || subscription.wildcard && asked.catalog.wildcard(asked.kind).contains_key(name);
        if !subscription.names.contains(name) && !in_all() {
            return None;
        }
        asked.catalog.lookup_for(asked.kind, name, asked.viewer)
    }

    fn candidates(&self, asked: &Asked<'_>, due: &Due) -> BTreeSet<Name> {
        let mut names: BTreeSet<Name> = due.names.union(&due.held).cloned().collect();
        if !due.all {
            return names;
        }
        let Some(subscription) = &self.subscription else { return names };
        names.extend(subscription.names.iter().chain(self.refused.keys()).cloned());
        let all = asked.catalog.wildcard(asked.kind);
        if !subscription.wildcard {
            names.extend(self.sent.names().cloned());
        } else if asked.catalog.is_same_for_all(asked.kind, asked.viewer) {
            // Nodes that both maps share are passed over.
            let differs = self.sent.map().diff(all).map(|item| match item {
                DiffItem::Add(name, _) | DiffItem::Remove(name, _) => name.clone(),
                DiffItem::Update { new: (name, _), .. } => name.clone(),
            });
            names.extend(differs);
        } else {
            names.extend(all.keys().chain(self.sent.names()).cloned());
        }
        names
    }

    /// State of the world: whether the client says by its version that it has all of this from an
    /// earlier stream.
    fn is_resumed(&mut self, found: &mut Found) -> bool {
        let Some(version) = self.resumed.take() else { return false };
        let versions = found.written.iter().map(|(_, encoded)| encoded.version);
        let sum = versions.fold(0u64, u64::wrapping_add);
        if found.written.is_empty() || !found.missing.is_empty() || sum != version {
            return false;
        }
        for (name, encoded) in found.written.drain(..) {
            self.sent.insert(name, encoded);
        }
        self.acked = self.sent.clone();
        true
    }

    /// State of the world, LDS and CDS: everything subscribed to, if anything of it changed.
    fn full_set(&mut self, asked: &Asked<'_>, found: Found, answer: bool) -> Option<Content> {
        let Found { written, removed, missing, .. } = found;
        if written.is_empty() && removed.is_empty() && missing.is_empty() && !answer {
            return None;
        }
        let changed = self.changed(&written, &removed);
        let (mut updated, mut added) = (Vec::new(), Vec::new());
        for (name, encoded) in written {
            match self.sent.get(&name) {
                Some(old) if old.version == encoded.version => {}
                Some(_) => updated.push(name.clone()),
                None => added.push(name.clone()),
            }
            self.hold(name, encoded);
        }
        self.drop_all(&removed);
        let mut errors = self.tell_missing(asked, missing);
        if !asked.viewer.knows_errors() {
            errors.clear();
        }
        let resources = Resources::All(self.sent.map().clone());
        Some(Content { resources, removed: Vec::new(), errors, changed, updated, added })
    }

    /// State of the world, all other types: what changed of it. A resource that is gone cannot be
    /// said in this variant; the client drops it with whatever referred to it.
    fn partial(&mut self, asked: &Asked<'_>, found: Found, due: &Due) -> Option<Content> {
        let Found { written, removed, missing, .. } = found;
        self.drop_all(&removed);
        let written = self.fitting(written, &due.again);
        let errors = if asked.viewer.knows_errors() {
            self.tell_missing(asked, missing)
        } else {
            Vec::new()
        };
        if written.is_empty() && errors.is_empty() {
            return None;
        }
        let changed = self.changed(&written, &[]);
        for (name, encoded) in &written {
            self.hold(name.clone(), encoded.clone());
        }
        Some(Content {
            resources: Resources::Some(written),
            removed: Vec::new(),
            errors,
            changed,
            updated: Vec::new(),
            added: Vec::new(),
        })
    }

    /// Incremental: what was written, and what is gone or never was.
    fn delta(&mut self, asked: &Asked<'_>, found: Found, due: &Due) -> Option<Content> {
        let Found { written, removed, missing, .. } = found;
        if written.is_empty() && removed.is_empty() && missing.is_empty() && !due.answer {
            return None;
        }
        let written = self.fitting(written, &due.again);
        let removed = self.fitting_names(removed, &due.again);
        let missing = self.fitting_names(missing, &due.again);
        let gone: Vec<Name> = removed.iter().chain(&missing).cloned().collect();
        let changed = self.changed(&written, &gone);
        let (mut updated, mut added) = (Vec::new(), Vec::new());
        for (name, encoded) in &written {
            let list = if self.sent.contains(name) { &mut updated } else { &mut added };
            list.push(name.clone());
            self.hold(name.clone(), encoded.clone());
        }
        self.drop_all(&removed);
        let errors = self.tell_missing(asked, missing);
        let resources = Resources::Some(written);
        Some(Content { resources, removed: gone, errors, changed, updated, added })
    }

    /// As much of it as fits into a response; the rest stays due.
    fn fitting(
        &mut self,
        mut written: Vec<(Name, Encoded)>,
        again: &BTreeSet<Name>,
    ) -> Vec<(Name, Encoded)> {
        let mut size = 0;
        let mut fits = |(name, encoded): &(Name, Encoded)| {
            size += name.len() + encoded.any.len() + 64;
            size <= MAX_RESPONSE_BYTES
        };
        let count = written.iter().take_while(|item| fits(item)).count().max(1);
        if count < written.len() {
            let rest = written.split_off(count);
            let rest = rest.into_iter().map(|(name, _)| name);
            let (again, rest): (BTreeSet<Name>, BTreeSet<Name>) =
                rest.partition(|name| again.contains(name));
            self.due.names.extend(rest);
            again.iter().for_each(|name| self.due.say_again(name));
        }
        written
    }

    /// The same for names alone.
    fn fitting_names(&mut self, mut names: Vec<Name>, again: &BTreeSet<Name>) -> Vec<Name> {
        let mut size = 0;
        let mut fits = |name: &Name| {
            size += name.len() + 8;
            size <= MAX_NAMES_BYTES
        };
        let count = names.iter().take_while(|name| fits(name)).count();
        for name in names.split_off(count) {
            if again.contains(&name) {
                self.due.say_again(&name);
            } else {
                self.due.names.insert(name);
            }
        }
        names
    }

    fn changed(&self, written: &[(Name, Encoded)], removed: &[Name]) -> Changed {
        let from_nothing = self.times.sent == 0 && self.sent.map().is_empty();
        if from_nothing && removed.is_empty() {
            return Changed::All(Held::default());
        }
        let written = written.iter().map(|(name, _)| name);
        Changed::Names(written.chain(removed).cloned().collect())
    }

    fn hold(&mut self, name: Name, encoded: Encoded) {
        self.missing.remove(&name);
        self.sent.insert(name, encoded);
    }

    fn drop_all(&mut self, names: &[Name]) {
        for name in names {
            self.sent.remove(name);
            self.refused.remove(name);
            if self.is_named(name) {
                self.missing.insert(name.clone());
            }
        }
    }

    fn tell_missing(&mut self, asked: &Asked<'_>, missing: Vec<Name>) -> Vec<(Name, String)> {
        let why = |name: &Name| asked.catalog.why_missing(asked.kind, name, asked.viewer);
        let named: Vec<Name> = missing.into_iter().filter(|name| self.is_named(name)).collect();
        let told = named.iter().take(MAX_ERRORS);
        let errors = told.map(|name| (name.clone(), why(name))).collect();
        self.missing.extend(named);
        errors
    }

    /// Lets the map share its nodes with the catalog's where both have come to be the same.
    fn share(&mut self, asked: &Asked<'_>) {
        let wildcard = self.subscription.as_ref().is_some_and(|s| s.wildcard);
        let all = asked.catalog.wildcard(asked.kind);
        let as_is = self.due.held.is_empty() && self.due.names.is_empty();
        if wildcard
            && as_is
            && self.refused.is_empty()
            && asked.catalog.is_same_for_all(asked.kind, asked.viewer)
            && self.sent.map().len() == all.len()
        {
            self.sent.share(all.clone());
        }
    }

    fn signs_of_life(&self) -> Content {
        let limited = self.sent.map().iter().filter(|(_, encoded)| encoded.ttl_secs > 0);
        let list = limited.map(|(name, encoded)| (name.clone(), encoded.clone())).collect();
        Content {
            resources: Resources::Alive(list),
            removed: Vec::new(),
            errors: Vec::new(),
            changed: Changed::Names(Vec::new()),
            updated: Vec::new(),
            added: Vec::new(),
        }
    }
}
