//! Which names an address leads to, over all services, and the empty non-terminals on the way.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use portolan_model::ServiceKey;

use super::Map;
use crate::name::{WireName, label_starts};

/// The reverse index. Several services may claim an address; each claim is kept apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reverse {
    claims: Map<IpAddr, Arc<BTreeSet<(ServiceKey, WireName)>>>,
    /// Names between an apex of ours and a PTR owner, with the number of such owners below.
    above: Map<WireName, usize>,
}

impl Default for Reverse {
    fn default() -> Self {
        Self {
            claims: Map::with_hasher(RandomState::default()),
            above: Map::with_hasher(RandomState::default()),
        }
    }
}

impl Reverse {
    /// The names an address leads to, in order.
    pub(crate) fn names(&self, address: IpAddr) -> BTreeSet<WireName> {
        let claims = self.claims.get(&address).into_iter().flat_map(|claims| claims.iter());
        claims.map(|(_, name)| name.clone()).collect()
    }

    /// Whether some PTR owner in our zones is below this name.
    pub(crate) fn is_above(&self, name: &WireName) -> bool {
        self.above.contains_key(name)
    }

    pub(super) fn insert(&mut self, address: IpAddr, key: &ServiceKey, name: &WireName) {
        let mut claims = self.claims.get(&address).cloned().unwrap_or_default();
        Arc::make_mut(&mut claims).insert((key.clone(), name.clone()));
        self.claims.insert(address, claims);
    }

    pub(super) fn remove(&mut self, address: IpAddr, key: &ServiceKey, name: &WireName) {
        let Some(mut claims) = self.claims.get(&address).cloned() else { return };
        Arc::make_mut(&mut claims).remove(&(key.clone(), name.clone()));
        if claims.is_empty() {
            self.claims.remove(&address);
        } else {
            self.claims.insert(address, claims);
        }
    }

    /// Counts a new PTR owner; returns the names that thereby came to exist.
    pub(super) fn open(&mut self, owner: &WireName, apex: usize) -> Vec<WireName> {
        let mut new = Vec::new();
        for name in between(owner, apex) {
            let count = self.above.get(&name).copied().unwrap_or(0);
            self.above.insert(name.clone(), count + 1);
            if count == 0 {
                new.push(name);
            }
        }
        new
    }

    /// Counts a PTR owner out; returns the names that thereby ceased to exist.
    pub(super) fn close(&mut self, owner: &WireName, apex: usize) -> Vec<WireName> {
        let mut gone = Vec::new();
        for name in between(owner, apex) {
            match self.above.get(&name).copied() {
                Some(count) if count > 1 => {
                    self.above.insert(name, count - 1);
                }
                _ => {
                    self.above.remove(&name);
                    gone.push(name);
                }
            }
        }
        gone
    }
}

/// The names strictly between an owner and the apex that starts at `apex` in it.
pub(crate) fn between(owner: &WireName, apex: usize) -> Vec<WireName> {
    let depth = label_starts(owner.as_bytes()).take_while(|at| *at < apex).count();
    let ancestors = std::iter::successors(owner.parent(), WireName::parent);
    ancestors.take(depth.saturating_sub(1)).collect()
}
