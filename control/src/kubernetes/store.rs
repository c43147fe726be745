//! The objects of an API server as lists and watches tell of them, and the index kept in line.
//!
//! Pure: events in, index operations out. The rules:
//! 1. Nothing counts as known before every kind that is watched has been listed in full.
//! 2. A list that is made anew replaces what is known of its kind at its end and at once; until
//!    then, and if it breaks off, all stays as it was. Only what is gone from it is taken out.
//! 3. An object that cannot be read or is refused keeps its last good version.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::item::Read;
use crate::convert::Draft;
use crate::index::Index;
use crate::intern::Interner;
use crate::object::{Fault, Kind, ObjectId};
use crate::rejection::{Origin, Rejection, Subject};
use crate::report::Counts;

/// What a watch of one kind tells.
#[derive(Clone, Debug)]
pub enum Event {
    /// A list of the kind begins.
    ListBegins,
    /// An object of that list.
    Listed(Box<Read>),
    /// The list is complete.
    ListEnds,
    /// An object is new or has changed.
    Applied(Box<Read>),
    /// An object is gone.
    Deleted(ObjectId),
    /// The API does not have the kind at all.
    Unserved,
}

/// What is known.
#[derive(Debug)]
pub struct Store {
    /// Those that are watched.
    watched: Vec<Kind>,
    kinds: BTreeMap<Kind, KindState>,
    drafts: HashMap<ObjectId, Arc<Draft>>,
    /// Objects that are refused, or have settings that are not in force.
    faults: BTreeMap<ObjectId, Faulty>,
    counts: Counts,
    interner: Interner,
}

/// An object with faults.
#[derive(Debug)]
struct Faulty {
    uid: Option<String>,
    faults: Vec<Fault>,
}

#[derive(Debug, Default)]
struct KindState {
    /// Listed in full at least once.
    synced: bool,
    listing: Option<Listing>,
}

/// A list under way.
#[derive(Debug, Default)]
struct Listing {
    /// Objects that stand as they did.
    same: HashSet<ObjectId>,
    /// Those that are new or differ, as they were listed last: a streamed list may tell of one twice.
    differ: BTreeMap<ObjectId, Read>,
}

impl Store {
    /// Nothing, of these kinds.
    #[must_use]
    pub fn of(watched: Vec<Kind>) -> Self {
        Self {
            watched,
            kinds: BTreeMap::new(),
            drafts: HashMap::new(),
            faults: BTreeMap::new(),
            counts: Counts::default(),
            interner: Interner::default(),
        }
    }

    /// Takes in an event.
    pub fn on_event(&mut self, kind: Kind, event: Event, index: &mut Index) {
        match event {
            Event::ListBegins => self.state(kind).listing = Some(Listing::default()),
            Event::Listed(read) => self.on_listed(kind, *read),
            Event::ListEnds => {
                let listing = self.state(kind).listing.take().unwrap_or_default();
                self.replace(kind, listing, index);
            }
            Event::Unserved => {
                self.state(kind).listing = None;
                self.replace(kind, Listing::default(), index);
            }
            Event::Applied(read) => self.apply(*read, index),
            Event::Deleted(id) => self.delete(&id, index),
        }
    }

    /// The kinds that are watched.
    #[must_use]
    pub fn watched(&self) -> &[Kind] {
        &self.watched
    }

    /// Whether every kind that is watched has been listed in full.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.watched.iter().all(|kind| self.has_synced(*kind))
    }

    /// Whether a kind has been listed in full.
    #[must_use]
    pub fn has_synced(&self, kind: Kind) -> bool {
        self.kinds.get(&kind).is_some_and(|state| state.synced)
    }

    /// How many objects are in force.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts.clone()
    }

    /// What is refused, in order of the objects.
    #[must_use]
    pub fn rejections(&self, origin: &Origin) -> Vec<Rejection> {
        let all = self.faults.iter();
        all.flat_map(|(id, faulty)| {
            faulty.faults.iter().map(|fault| Rejection {
                subject: Some(Subject { id: id.clone(), uid: faulty.uid.clone() }),
                ..fault.clone().at(origin.clone(), Some(id))
            })
        })
        .collect()
    }

    fn state(&mut self, kind: Kind) -> &mut KindState {
        self.kinds.entry(kind).or_default()
    }

    /// Objects that did not change are not kept twice: a list of a quiet cluster costs no memory.
    fn on_listed(&mut self, kind: Kind, read: Read) {
        let same = match &read.outcome {
            Ok(Some((draft, faults))) => {
                let known = self.faults.get(&read.id).map_or(&[][..], |f| &f.faults);
                *faults == known && self.drafts.get(&read.id).is_some_and(|old| **old == *draft)
            }
            Ok(None) | Err(_) => false,
        };
        let listing = self.state(kind).listing.get_or_insert_default();
        if same {
            listing.differ.remove(&read.id);
            listing.same.insert(read.id);
        } else {
            listing.differ.insert(read.id.clone(), read);
        }
    }

    /// Makes what is known of a kind what a complete list says.
    fn replace(&mut self, kind: Kind, listing: Listing, index: &mut Index) {
        self.state(kind).synced = true;
        let Listing { mut same, differ } = listing;
        same.extend(differ.keys().cloned());
        let known = self.drafts.keys().chain(self.faults.keys());
        let mut gone: Vec<ObjectId> =
            known.filter(|id| id.kind == kind && !same.contains(id)).cloned().collect();
        gone.sort();
        gone.dedup();
        drop(same);
        for id in gone {
            self.delete(&id, index);
        }
        for read in differ.into_values() {
            self.apply(read, index);
        }
    }

    fn apply(&mut self, read: Read, index: &mut Index) {
        let Read { id, uid, outcome } = read;
        let (draft, faults) = match outcome {
            Ok(Some((draft, faults))) => (self.interner.draft(draft), faults),
            Ok(None) => {
                self.delete(&id, index);
                return;
            }
            Err(fault) => {
                self.faults.insert(id, Faulty { uid, faults: vec![fault] });
                return;
            }
        };
        let old = self.drafts.get(&id).cloned();
        let unchanged = old.as_deref() == Some(&draft);
        if !unchanged && let Err(fault) = index.apply(old.as_deref(), &draft) {
            self.faults.insert(id, Faulty { uid, faults: vec![fault] });
            return;
        }
        if faults.is_empty() {
            self.faults.remove(&id);
        } else {
            self.faults.insert(id.clone(), Faulty { uid, faults });
        }
        if old.is_none() {
            self.counts.add(id.kind, 1);
        }
        if !unchanged {
            self.drafts.insert(id, Arc::new(draft));
        }
    }

    fn delete(&mut self, id: &ObjectId, index: &mut Index) {
        self.faults.remove(id);
        if let Some(draft) = self.drafts.remove(id) {
            index.delete(&draft);
            self.counts.remove_one(id.kind);
        }
    }
}
