//! What a server may know of one type of a client.

use std::collections::{BTreeMap, BTreeSet};

use portolan_xds::catalog::{Catalog, Name};
use portolan_xds::resource::ResourceType;
use portolan_xds::server::session::{Response, Variant};
use portolan_xds::viewer::Viewer;

use super::client::contents;

/// Refusals in a row after which a server may blame all that was new.
pub(super) const MAX_TRIES: u32 = 16;

/// One type of a stream.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) wildcard: bool,
    pub(super) names: BTreeSet<Name>,
    /// Whether names were ever given.
    pub(super) named: bool,
    pub(super) nonce: String,
    /// The response on its way.
    pub(super) outstanding: Option<Response>,
    /// What the client has, as far as it has said so.
    pub(super) has: BTreeMap<Name, u64>,
    /// State of the world: the version that the client says it has from an earlier stream.
    pub(super) resumes: Option<u64>,
    /// What it may be sent although it has it.
    pub(super) again: BTreeSet<Name>,
    /// What it asked for while it may have been under way.
    pub(super) asked_again: BTreeSet<Name>,
    /// What it refused.
    pub(super) refused: BTreeMap<Name, u64>,
    /// Names of these whose resource has been another, or none, since.
    pub(super) lapsed: BTreeSet<Name>,
    pub(super) tries: u32,
    /// An answer is owed even if there is nothing to say.
    pub(super) owed: bool,
    /// Whether it ever took anything on this stream.
    pub(super) has_taken: bool,
    /// What it may hold without the server's knowing: removals that were refused, and what it goes
    /// on with in place of what it refused.
    pub(super) unremoved: BTreeSet<Name>,
}

impl Known {
    pub(super) fn wants(&self, kind: ResourceType, name: &Name, catalog: &Catalog) -> bool {
        self.names.contains(name) || self.wildcard && catalog.wildcard(kind).contains_key(name)
    }

    /// The version of a name as it is now, if it was asked for and is there.
    pub(super) fn now(
        &self,
        kind: ResourceType,
        name: &Name,
        catalog: &Catalog,
        viewer: &Viewer,
    ) -> Option<u64> {
        let found = || catalog.lookup_for(kind, name, viewer).map(|encoded| encoded.version);
        self.wants(kind, name, catalog).then(found)?
    }

    /// All that is asked for and there.
    pub(super) fn truth(
        &self,
        kind: ResourceType,
        catalog: &Catalog,
        viewer: &Viewer,
    ) -> BTreeMap<Name, u64> {
        let all = self.wildcard.then(|| catalog.wildcard(kind).keys());
        let names = self.names.iter().chain(all.into_iter().flatten());
        let found = names.map(|name| (name, catalog.lookup_for(kind, name, viewer)));
        found.filter_map(|(name, found)| Some((name.clone(), found?.version))).collect()
    }

    /// What of this the client refuses, and does not have.
    pub(super) fn refused_of(&self, truth: &BTreeMap<Name, u64>) -> BTreeSet<Name> {
        let refused = self.refused.iter().filter(|(name, version)| {
            truth.get(*name) == Some(version) && self.has.get(*name) != Some(version)
        });
        refused.map(|(name, _)| name.clone()).collect()
    }

    /// Without the wildcard the client keeps only what it named.
    pub(super) fn forget_unnamed(&mut self) {
        let sent = self.outstanding.iter().flat_map(contents).map(|(name, _)| name);
        let all: BTreeSet<Name> = self.has.keys().cloned().chain(sent).collect();
        self.again.extend(all.into_iter().filter(|name| !self.names.contains(name)));
        self.has.retain(|name, _| self.names.contains(name));
        self.refused.retain(|name, _| self.names.contains(name));
    }

    /// Under a wildcard the client keeps it until it is told.
    pub(super) fn unname(&mut self, name: &Name) {
        if !self.wildcard {
            self.has.remove(name);
        }
        self.refused.remove(name);
        self.again.insert(name.clone());
    }

    pub(super) fn forget(&mut self, name: &Name) {
        self.has.remove(name);
        self.refused.remove(name);
        self.again.insert(name.clone());
    }

    pub(super) fn set(&mut self, kind: ResourceType, list: &[String]) {
        let mut names: BTreeSet<Name> = list.iter().map(|name| Name::from(&**name)).collect();
        self.named |= !names.is_empty();
        let wildcard = names.remove("*") || kind.is_full_set() && !self.named;
        self.owed |= self.wildcard != wildcard || self.names != names;
        let dropped = self.wildcard && !wildcard;
        self.wildcard = wildcard;
        let before = std::mem::replace(&mut self.names, names);
        let unnamed: Vec<Name> = before.difference(&self.names).cloned().collect();
        unnamed.iter().for_each(|name| self.unname(name));
        self.again.extend(self.names.difference(&before).cloned());
        if dropped {
            self.forget_unnamed();
        }
    }

    /// A request that a response has crossed: it is not processed, but names were given, and what
    /// it does not name the client has dropped.
    pub(super) fn cross(&mut self, list: &[String]) {
        self.named |= !list.is_empty();
        let asks = |name: &str| list.iter().any(|n| n == name || n == "*");
        let sent = self.outstanding.iter().flat_map(contents).map(|(name, _)| name);
        let known = self.names.iter().chain(self.has.keys()).cloned().chain(sent);
        let dropped: BTreeSet<Name> = known.filter(|name| !asks(name)).collect();
        dropped.iter().for_each(|name| self.forget(name));
    }

    pub(super) fn change(
        &mut self,
        kind: ResourceType,
        first: bool,
        subscribe: &[String],
        unsubscribe: &[String],
    ) {
        for name in unsubscribe {
            if name == "*" {
                self.wildcard = false;
                self.forget_unnamed();
            } else if self.names.remove(&**name) {
                self.unname(&Name::from(&**name));
                self.owed |= self.wildcard;
            }
        }
        self.wildcard |= first && subscribe.is_empty() && kind.is_full_set();
        for name in subscribe {
            self.owed = true;
            if name == "*" {
                self.wildcard = true;
                continue;
            }
            let name = Name::from(&**name);
            if !first {
                self.forget(&name);
                self.asked_again.insert(name.clone());
            }
            self.names.insert(name);
        }
    }

    pub(super) fn ack(&mut self, kind: ResourceType, variant: Variant, response: &Response) {
        self.tries = 0;
        self.has_taken = true;
        for (name, version) in contents(response) {
            if self.has.get(&name) != Some(&version) {
                self.refused.remove(&name);
            }
        }
        if variant == Variant::Sotw && kind.is_full_set() {
            let listed = contents(response);
            self.unremoved.retain(|name| listed.iter().any(|(listed, _)| listed == name));
            self.has.clear();
        }
        self.has.extend(contents(response));
        for name in &response.removed {
            self.has.remove(name);
        }
        let (named, wildcard) = (&self.names, self.wildcard);
        self.has.retain(|name, _| wildcard || named.contains(name));
    }

    /// The names that are to blame.
    pub(super) fn nack(&mut self, full: bool, response: &Response, words: &str) -> BTreeSet<Name> {
        self.tries += 1;
        let mut new = contents(response);
        if full {
            new.retain(|(name, version)| self.has.get(name) != Some(version));
        }
        let named = |name: &Name| words.split([' ', ';']).any(|word| word == format!("{name}:"));
        let some: Vec<(Name, u64)> = new.iter().filter(|(name, _)| named(name)).cloned().collect();
        let all = some.is_empty() || self.tries > MAX_TRIES;
        let blamed = if all { new } else { some };
        if all {
            let gone: Vec<Name> = if full {
                let listed: BTreeSet<Name> =
                    contents(response).into_iter().map(|(name, _)| name).collect();
                self.has.keys().filter(|name| !listed.contains(*name)).cloned().collect()
            } else {
                response.removed.clone()
            };
            for name in gone {
                self.has.remove(&name);
                self.unremoved.insert(name);
            }
        }
        let names: BTreeSet<Name> = blamed.iter().map(|(name, _)| name.clone()).collect();
        if full {
            // It may go on with one from an earlier stream, which only a full set takes out.
            self.unremoved.extend(names.iter().cloned());
        }
        // What was asked for again meanwhile is sent again.
        let asked = |name: &Name| self.wildcard || self.names.contains(name);
        let counts = |name: &Name| asked(name) && !self.asked_again.contains(name);
        let blamed: Vec<_> = blamed.into_iter().filter(|(name, _)| counts(name)).collect();
        // What was due again meanwhile may come again.
        let due = blamed.iter().filter(|(name, _)| self.again.contains(name));
        let due: BTreeSet<Name> = due.map(|(name, _)| name.clone()).collect();
        // What else was in it the client may have taken or not.
        let listed = contents(response).into_iter().map(|(name, _)| name);
        self.again.extend(listed.chain(response.removed.iter().cloned()));
        for (name, _) in &blamed {
            self.again.remove(name);
        }
        for (name, version) in blamed {
            self.lapsed.remove(&name);
            self.lapsed.extend(due.get(&name).cloned());
            self.refused.insert(name, version);
        }
        names
    }
}
