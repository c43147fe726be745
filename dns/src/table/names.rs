//! The names of a table: a persistent map whose entries hold name and node in one piece, so that a
//! lookup among many names waits for memory as rarely as it can.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::Map;
use crate::name::WireName;
use crate::node::Node;

/// Octets of a name that are kept beside its node: nearly all names of a cluster are shorter.
const INLINE: usize = 64;

/// Names and what stands there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Names(Map<Key, Arc<Entry>>);

/// A name and its node; the name first, as it is looked at first.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: SmallVec<[u8; INLINE]>,
    node: Node,
}

/// An entry as the key of itself: its name alone counts.
#[derive(Clone, Debug)]
struct Key(Arc<Entry>);

impl Default for Names {
    fn default() -> Self {
        Self(Map::with_hasher(RandomState::default()))
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0.name
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name.as_slice().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Key {}

impl Names {
    /// Puts a node in place of what stood at a name.
    pub(super) fn insert(&mut self, name: &WireName, node: Node) {
        let entry = Arc::new(Entry { name: SmallVec::from_slice(name.as_bytes()), node });
        // The old key would keep the old entry alive.
        self.remove(name);
        self.0.insert(Key(entry.clone()), entry);
    }

    /// Takes a name out.
    pub(super) fn remove(&mut self, name: &WireName) {
        self.0.remove(name.as_bytes());
    }

    /// What stands at a lower-case wire name.
    pub(super) fn lookup(&self, name: &[u8]) -> Option<&Node> {
        self.0.get(name).map(|entry| &entry.node)
    }

    /// Whether there is such a name.
    pub(super) fn contains(&self, name: &WireName) -> bool {
        self.0.contains_key(name.as_bytes())
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
