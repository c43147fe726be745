//! Owns the truth: objects, the resource version they share, and the history that watches and later
//! pages of lists are served from. Refuses to answer from what was compacted.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use super::fields::Owners;
use super::kinds::Kind;
use super::select::Filter;
use super::wire::{Page, Refusal, meta, now};

/// Changes that are kept; older ones are forgotten as by [`Store::compact`].
const HISTORY: usize = 65_536;
/// Unfinished lists whose snapshot is kept; older ones are forgotten.
const SNAPSHOTS: usize = 64;
const EXPIRED_PAGE: &str = "The provided continue parameter is too old to display a consistent \
    list result. You must start a new list without the continue parameter.";

/// Namespace and name; the former empty for what is cluster-scoped.
type Key = (String, String);

/// An object, and who set which of its fields.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) object: Arc<Value>,
    pub(super) owners: Owners,
}

/// One step of the truth. `old` is none for what was created, `new` for what was deleted.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) kind: &'static Kind,
    pub(super) version: u64,
    old: Option<Arc<Value>>,
    new: Option<Arc<Value>>,
}

#[derive(Debug)]
struct Snapshot {
    id: u64,
    kind: &'static Kind,
    version: u64,
    /// Whether the number of remaining items is told; it is not where selectors were used.
    is_counted: bool,
    items: Arc<[Arc<Value>]>,
}

/// Everything the server holds.
#[derive(Debug)]
pub(super) struct Store {
    version: u64,
    objects: BTreeMap<&'static str, BTreeMap<Key, Stored>>,
    history: VecDeque<Arc<Change>>,
    /// Changes up to this version are forgotten.
    floor: u64,
    snapshots: VecDeque<Snapshot>,
    next_id: u64,
}

impl Change {
    /// What a watch with this filter is told of it.
    pub(super) fn seen_by(&self, filter: &Filter) -> Option<(&'static str, Arc<Value>)> {
        let old = self.old.as_ref().filter(|object| filter.matches(object));
        let new = self.new.as_ref().filter(|object| filter.matches(object));
        match (old, new) {
            (None, Some(new)) => Some(("ADDED", Arc::clone(new))),
            (Some(_), Some(new)) => Some(("MODIFIED", Arc::clone(new))),
            (Some(old), None) => {
                // It leaves at this version, with the state it last had.
                let mut gone = Value::clone(old);
                gone["metadata"]["resourceVersion"] = self.version.to_string().into();
                Some(("DELETED", Arc::new(gone)))
            }
            (None, None) => None,
        }
    }
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            version: 1,
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            floor: 1,
            snapshots: VecDeque::new(),
            next_id: 1,
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// A number that no one else gets.
    pub(super) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Stored> {
        self.objects.get(kind.kind)?.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// The objects of a kind, by namespace and name.
    pub(super) fn all(&self, kind: &Kind) -> impl Iterator<Item = &Arc<Value>> {
        self.objects.get(kind.kind).into_iter().flatten().map(|(_, stored)| &stored.object)
    }

    /// Creates or replaces an object, which must be named, and stamps it.
    pub(super) fn put(
        &mut self,
        kind: &'static Kind,
        object: Value,
        owners: Owners,
    ) -> Arc<Change> {
        let mut object = object;
        let key = (meta(&object, "namespace").to_owned(), meta(&object, "name").to_owned());
        let id = self.fresh_id();
        self.version += 1;
        let stored = self.objects.entry(kind.kind).or_default();
        let old = stored.get(&key).map(|stored| Arc::clone(&stored.object));
        object["kind"] = kind.kind.into();
        object["apiVersion"] = kind.api_version().into();
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        for field in ["uid", "creationTimestamp"] {
            if meta(&object, field).is_empty() {
                let value = match (&old, field) {
                    (Some(old), _) => meta(old, field).to_owned(),
                    (None, "uid") => format!("00000000-0000-4000-8000-{id:012x}"),
                    (None, _) => now(),
                };
                object["metadata"][field] = value.into();
            }
        }
        let new = Arc::new(object);
        stored.insert(key, Stored { object: Arc::clone(&new), owners });
        self.record(kind, old, Some(new))
    }

    pub(super) fn remove(
        &mut self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
    ) -> Option<Arc<Change>> {
        let key = (namespace.to_owned(), name.to_owned());
        let old = self.objects.get_mut(kind.kind)?.remove(&key)?;
        self.version += 1;
        Some(self.record(kind, Some(old.object), None))
    }

    fn record(
        &mut self,
        kind: &'static Kind,
        old: Option<Arc<Value>>,
        new: Option<Arc<Value>>,
    ) -> Arc<Change> {
        let change = Arc::new(Change { kind, version: self.version, old, new });
        self.history.push_back(Arc::clone(&change));
        if self.history.len() > HISTORY {
            let oldest = self.history.pop_front().expect("not empty");
            self.floor = oldest.version;
        }
        change
    }

    /// Forgets every change and every unfinished list.
    pub(super) fn compact(&mut self) {
        self.floor = self.version;
        self.history.clear();
        self.snapshots.clear();
    }

    /// What happened after a version, oldest first. Errors with 410 if some of it is forgotten.
    pub(super) fn since(
        &self,
        version: u64,
        kind: &Kind,
    ) -> Result<impl Iterator<Item = &Arc<Change>>, Refusal> {
        if version < self.floor {
            let message = format!("too old resource version: {version} ({})", self.floor);
            return Err(Refusal::expired(message));
        }
        let newer = self.history.partition_point(|change| change.version <= version);
        let kind = kind.kind;
        Ok(self.history.range(newer..).filter(move |change| change.kind.kind == kind))
    }

    /// The first page of a list, or all of it for a limit of 0.
    pub(super) fn list(
        &mut self,
        kind: &'static Kind,
        filter: &Filter,
        limit: usize,
    ) -> Page<Vec<Arc<Value>>> {
        let items = self.all(kind).filter(|object| filter.matches(object)).cloned();
        let items: Vec<Arc<Value>> = items.collect();
        if limit == 0 || items.len() <= limit {
            return Page { items, version: self.version, next: None, remaining: None };
        }
        let (id, version) = (self.fresh_id(), self.version);
        let is_counted = !filter.has_selectors();
        self.snapshots.push_back(Snapshot { id, kind, version, is_counted, items: items.into() });
        if self.snapshots.len() > SNAPSHOTS {
            self.snapshots.pop_front();
        }
        self.snapshots.back().expect("just pushed").page(0, limit)
    }

    /// A later page of the same state of the world. Errors with 410 if that was forgotten.
    pub(super) fn list_on(
        &self,
        kind: &Kind,
        token: &str,
        limit: usize,
    ) -> Result<Page<Vec<Arc<Value>>>, Refusal> {
        let numbers = token.split_once('.').and_then(|(id, offset)| {
            Some((id.parse::<u64>().ok()?, offset.parse::<usize>().ok()?))
        });
        let Some((id, offset)) = numbers else {
            return Err(Refusal::bad_request("continue key is not valid"));
        };
        let snapshot = self.snapshots.iter().find(|s| s.id == id && s.kind == kind);
        match snapshot {
            Some(snapshot) => Ok(snapshot.page(offset, limit)),
            None => Err(Refusal::expired(EXPIRED_PAGE)),
        }
    }
}

impl Snapshot {
    fn page(&self, offset: usize, limit: usize) -> Page<Vec<Arc<Value>>> {
        let rest = self.items.get(offset..).unwrap_or_default();
        let limit = if limit == 0 { rest.len() } else { limit.min(rest.len()) };
        let remaining = rest.len() - limit;
        let next = (remaining > 0).then(|| format!("{}.{}", self.id, offset + limit));
        Page {
            items: rest[..limit].to_vec(),
            version: self.version,
            remaining: (next.is_some() && self.is_counted).then_some(remaining),
            next,
        }
    }
}

/// The object as scripts and requests may leave it: with metadata, in this namespace.
pub(super) fn placed(mut object: Value, kind: &Kind, namespace: &str) -> Value {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    let metadata = object["metadata"].as_object_mut().expect("just made sure");
    if kind.is_namespaced {
        metadata.insert("namespace".to_owned(), namespace.into());
    } else {
        metadata.remove("namespace");
    }
    object
}
