//! Which names an address leads to, over all services, and the empty non-terminals on the way.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use portolan_model::ServiceKey;

use super::Map;
use crate::name::{WireName, label_starts};

/// A service's claim that an address leads to a name.
type Claim = (ServiceKey, WireName);

/// The reverse index. Several services may claim an address; each claim is kept apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reverse {
    /// Sorted; nearly all have one.
    claims: Map<IpAddr, Arc<[Claim]>>,
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
        let claim = (key.clone(), name.clone());
        let mut claims = self.claims_of(address);
        if let Err(at) = claims.binary_search(&claim) {
            claims.insert(at, claim);
            self.claims.insert(address, claims.into());
        }
    }

    pub(super) fn remove(&mut self, address: IpAddr, key: &ServiceKey, name: &WireName) {
        let mut claims = self.claims_of(address);
        claims.retain(|(k, n)| k != key || n != name);
        if claims.is_empty() {
            self.claims.remove(&address);
        } else {
            self.claims.insert(address, claims.into());
        }
    }

    fn claims_of(&self, address: IpAddr) -> Vec<Claim> {
        self.claims.get(&address).map(|claims| claims.to_vec()).unwrap_or_default()
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
