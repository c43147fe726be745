//! Resources that a client holds, with the version of the whole.

use imbl::OrdMap;

use crate::catalog::Name;
use crate::resource::Encoded;

/// Resources by name. A copy shares its nodes, and so does one taken from the catalog.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    map: OrdMap<Name, Encoded>,
    /// Sum of the versions: it does not depend on the order, and a change costs itself.
    sum: u64,
}

impl Held {
    pub(super) fn get(&self, name: &str) -> Option<&Encoded> {
        self.map.get(name)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    pub(super) fn insert(&mut self, name: Name, encoded: Encoded) {
        self.sum = self.sum.wrapping_add(encoded.version);
        if let Some(old) = self.map.insert(name, encoded) {
            self.sum = self.sum.wrapping_sub(old.version);
        }
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        let old = self.map.remove(name);
        if let Some(old) = &old {
            self.sum = self.sum.wrapping_sub(old.version);
        }
        old.is_some()
    }

    /// Puts back what another one has of a name.
    pub(super) fn restore(&mut self, name: &Name, from: &Self) {
        match from.get(name) {
            Some(old) => self.insert(name.clone(), old.clone()),
            None => drop(self.remove(name)),
        }
    }

    /// Takes a map of the same content, to share its nodes.
    pub(super) fn share(&mut self, map: OrdMap<Name, Encoded>) {
        self.map = map;
    }

    /// The version of the whole.
    pub(super) fn version(&self) -> u64 {
        self.sum
    }

    pub(super) fn map(&self) -> &OrdMap<Name, Encoded> {
        &self.map
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &Name> {
        self.map.keys()
    }
}
