//! What a server may know and say, by the letter of the protocol document: the requests it has read
//! and the responses it has written are checked against it as they go by.

use std::collections::{BTreeMap, BTreeSet};

use portolan_xds::catalog::{Catalog, Name};
use portolan_xds::resource::ResourceType::{self, Cluster, Endpoints};
use portolan_xds::server::session::{
    InterestChange, MAX_RESPONSE_BYTES, Names, Outcome, Request, Resources, Response, Variant,
};
use portolan_xds::viewer::Viewer;

use super::client::contents;
use super::known::{Known, MAX_TRIES};

/// One stream.
#[derive(Debug)]
pub(crate) struct Mirror {
    variant: Variant,
    only: Option<ResourceType>,
    viewer: Viewer,
    pub(crate) types: BTreeMap<ResourceType, Known>,
    interest: BTreeSet<(ResourceType, Name)>,
    interest_in_all: BTreeSet<ResourceType>,
}

impl Mirror {
    pub(crate) fn new(variant: Variant, only: Option<ResourceType>, viewer: Viewer) -> Self {
        Self {
            variant,
            only,
            viewer,
            types: BTreeMap::new(),
            interest: BTreeSet::new(),
            interest_in_all: BTreeSet::new(),
        }
    }

    /// A request was read; what the server made of it.
    pub(crate) fn on_request(&mut self, request: &Request, outcome: &Outcome) {
        let kind = self.only.or_else(|| ResourceType::from_type_url(&request.type_url));
        let kind = kind.expect("clients ask for what is served");
        let first = !self.types.contains_key(&kind);
        let known = self.types.entry(kind).or_default();
        let current = request.nonce == known.nonce && !request.nonce.is_empty();
        known.owed |= first;
        if self.variant == Variant::Sotw && !first && request.nonce != known.nonce {
            assert_eq!(*outcome, Outcome::Stale(kind));
            if let Names::Exactly(names) = &request.names {
                known.cross(names);
            }
            return;
        }
        let full = self.variant == Variant::Sotw && kind.is_full_set();
        let answered = if current && !first { known.outstanding.take() } else { None };
        match (answered, &request.error) {
            (Some(response), None) => {
                assert_eq!(*outcome, Outcome::Acked(kind));
                known.ack(kind, self.variant, &response);
            }
            (Some(response), Some(words)) => {
                let Outcome::Nacked(nack) = outcome else { panic!("{outcome:?}") };
                let blamed = known.nack(full, &response, words);
                let names: BTreeSet<Name> = nack.names.iter().cloned().collect();
                assert!(names.is_superset(&blamed), "{names:?} blamed, {words}");
                if full {
                    // Of what it has the client may refuse what it asked for again.
                    let listed = contents(&response).into_iter();
                    known.refused.extend(listed.filter(|(name, _)| names.contains(name)));
                } else if words != "refused" && known.tries <= MAX_TRIES {
                    assert_eq!(names, blamed, "{words}");
                }
            }
            (None, _) => {
                let subscribed = matches!(outcome, Outcome::Subscribed(k) if *k == kind);
                let stale = matches!(outcome, Outcome::Stale(k) if *k == kind);
                assert!(subscribed || stale, "{outcome:?}");
            }
        }
        match &request.names {
            Names::Exactly(names) => {
                known.resumes = u64::from_str_radix(&request.version, 16).ok().filter(|_| first);
                known.set(kind, names);
            }
            Names::Change { subscribe, unsubscribe, held } => {
                if first {
                    let version = |text: &str| u64::from_str_radix(text, 16).expect("hex");
                    let held = held.iter();
                    known.has = held.map(|(n, v)| (Name::from(&**n), version(v))).collect();
                }
                known.change(kind, first, subscribe, unsubscribe);
            }
        }
    }

    /// The session changed what it is to be woken for: it has to be what is subscribed to.
    pub(crate) fn on_interest(&mut self, changes: Vec<InterestChange>) {
        for change in changes {
            match change {
                InterestChange::Add(kind, name) => drop(self.interest.insert((kind, name))),
                InterestChange::Remove(kind, name) => drop(self.interest.remove(&(kind, name))),
                InterestChange::AddAll(kind) => drop(self.interest_in_all.insert(kind)),
                InterestChange::RemoveAll(kind) => drop(self.interest_in_all.remove(&kind)),
            }
        }
        let all = self.types.iter().filter(|(_, known)| known.wildcard).map(|(kind, _)| *kind);
        assert_eq!(self.interest_in_all, all.collect());
        let names = self
            .types
            .iter()
            .flat_map(|(kind, known)| known.names.iter().map(|name| (*kind, name.clone())));
        assert_eq!(self.interest, names.collect());
    }

    /// Whether a change is one to be woken for.
    pub(crate) fn is_concerned(&self, key: &(ResourceType, Name)) -> bool {
        self.interest.contains(key) || self.interest_in_all.contains(&key.0)
    }

    /// The stream ended: nothing is to be left.
    pub(crate) fn on_end(mut self, changes: Vec<InterestChange>) {
        self.types.clear();
        self.on_interest(changes);
    }

    /// The server looks at what is due. Where the client's version is that of all there is for its
    /// wildcard, it has that: there is nothing else it can have.
    pub(crate) fn on_look(&mut self, catalog: &Catalog) {
        for (kind, known) in &mut self.types {
            let now = |name: &Name| known.now(*kind, name, catalog, &self.viewer);
            let lapsed = known.refused.iter().filter(|(name, v)| now(name) != Some(**v));
            let lapsed: Vec<Name> = lapsed.map(|(name, _)| name.clone()).collect();
            // That it is gone cannot be said by all; once it is back it has to be.
            let silent = self.variant == Variant::Sotw && !kind.is_full_set();
            let gone = known.has.keys().filter(|name| silent && now(name).is_none());
            let gone: Vec<Name> = gone.cloned().collect();
            known.lapsed.extend(lapsed);
            known.again.extend(gone);
            let Some(version) = known.resumes else { continue };
            if kind.is_full_set() && known.wildcard && known.names.is_empty() {
                let truth = known.truth(*kind, catalog, &self.viewer);
                if truth.values().fold(0, |sum: u64, v| sum.wrapping_add(*v)) == version {
                    known.has = truth;
                    known.resumes = None;
                }
            }
        }
    }

    /// A response was written, from this catalog.
    pub(crate) fn on_response(&mut self, response: &Response, catalog: &Catalog) {
        let (kind, full) = (response.kind, self.variant == Variant::Sotw);
        let full = full && response.kind.is_full_set();
        let known = self.types.get_mut(&kind).expect("only what was asked for is sent");
        assert_eq!(known.outstanding, None, "one at a time is on its way");
        assert_ne!(known.nonce, response.nonce, "a nonce of its own");
        check_size(response, full);
        if let Resources::Alive(list) = &response.resources {
            assert!(self.variant == Variant::Delta || self.viewer.ttl, "it does not know of it");
            for (name, encoded) in list {
                assert!(encoded.ttl_secs > 0, "{name} lives for ever");
                assert_eq!(known.has.get(name), Some(&encoded.version), "{name}: not what it has");
            }
            known.nonce.clone_from(&response.nonce);
            known.outstanding = Some(response.clone());
            return;
        }
        let sent = contents(response);
        let names: BTreeSet<&Name> = sent.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), sent.len(), "a name twice in {response:?}");
        for (name, version) in &sent {
            let now = known.now(kind, name, catalog, &self.viewer);
            let had = known.has.get(name) == Some(version);
            // A full set goes on with the last version that was good, and with a cluster that
            // routes may still lead to.
            let kept = now.is_none() && kind == Cluster || known.refused.get(name).copied() == now;
            let fine = now == Some(*version) || full && had && kept;
            assert!(fine, "{kind:?} {name}: {version} in place of {now:?}");
            let refused = known.refused.get(name) == Some(version) && !known.lapsed.contains(name);
            assert!(had || !refused, "{name} was refused");
            let due = full || !had || known.again.contains(name);
            assert!(due, "{kind:?} {name}: the client has it");
        }
        for name in &response.removed {
            assert_eq!(known.now(kind, name, catalog, &self.viewer), None, "{name} is there");
            assert!(!names.contains(name), "{name} is both written and removed");
        }
        for (name, _) in &response.errors {
            assert!(known.names.contains(name), "{name} was not asked for");
            assert_eq!(known.now(kind, name, catalog, &self.viewer), None, "{name} is there");
        }
        if self.variant == Variant::Sotw {
            assert!(response.removed.is_empty(), "this variant cannot say it");
            assert!(
                response.errors.is_empty() || self.viewer.knows_errors(),
                "it does not read them"
            );
        }
        if full {
            for (name, version) in known.truth(kind, catalog, &self.viewer) {
                let refused = known.refused.get(&name) == Some(&version);
                assert!(names.contains(&name) || refused, "{kind:?} {name} is left out");
                let lost = known.has.contains_key(&name) && !names.contains(&name);
                assert!(!lost, "{kind:?} {name}: the last version that was good is left out");
            }
        } else {
            let says = !sent.is_empty() || !response.removed.is_empty();
            let says = says || !response.errors.is_empty();
            assert!(says || known.owed, "{kind:?}: nothing in it, and none was owed");
        }
        for name in names {
            known.again.remove(name);
            known.asked_again.remove(name);
        }
        (known.owed, known.resumes) = (false, None);
        known.nonce.clone_from(&response.nonce);
        let has = std::mem::take(&mut known.has);
        known.outstanding = Some(response.clone());
        if kind == Cluster
            && let Some(endpoints) = self.types.get_mut(&Endpoints)
        {
            // A cluster that changes warms anew, and waits for its endpoints.
            let differs = |name: &Name, version: u64| has.get(name) != Some(&version);
            let changed = sent.into_iter().filter(|(name, v)| !full || differs(name, *v));
            endpoints.again.extend(changed.map(|(name, _)| name));
        }
        self.types.entry(kind).or_default().has = has;
    }
}

fn check_size(response: &Response, full: bool) {
    let Resources::Some(list) = &response.resources else { return };
    let bytes: usize = list.iter().map(|(name, encoded)| name.len() + encoded.any.len()).sum();
    assert!(full || list.len() <= 1 || bytes <= MAX_RESPONSE_BYTES, "{bytes} bytes in one");
}
