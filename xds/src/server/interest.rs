//! Who is to be woken when a resource changes: work in proportion to what changed and who is
//! subscribed to it, not to how many are connected.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use dashmap::{DashMap, DashSet};

use super::clients::Client;
use super::session::InterestChange;
use crate::catalog::{Changed, Name};
use crate::resource::{ResourceType, server};

type Subscribers = HashMap<u64, Arc<Client>, foldhash::fast::RandomState>;

/// Subscriptions of all streams. Bounded by the names a stream may subscribe to, times streams.
#[derive(Debug, Default)]
pub(super) struct Interest {
    names: DashMap<(ResourceType, Name), Subscribers, foldhash::fast::RandomState>,
    /// Those of them that are listeners of gRPC servers, which change without being named.
    servers: DashSet<Name, foldhash::fast::RandomState>,
    all: [RwLock<Subscribers>; ResourceType::ALL.len()],
}

impl Interest {
    /// Takes in a change of what a client is subscribed to.
    pub(super) fn apply(&self, client: &Arc<Client>, change: InterestChange) {
        match change {
            InterestChange::Add(kind, name) => {
                let mut subscribers = self.names.entry((kind, name.clone())).or_default();
                subscribers.insert(client.id(), client.clone());
                // While the name is held: whoever leaves it takes both or none.
                if is_server(kind, &name) {
                    self.servers.insert(name);
                }
            }
            InterestChange::Remove(kind, name) => self.remove(client.id(), kind, name),
            InterestChange::AddAll(kind) => {
                self.with_all(kind, |all| drop(all.insert(client.id(), client.clone())));
            }
            InterestChange::RemoveAll(kind) => {
                self.with_all(kind, |all| drop(all.remove(&client.id())));
            }
        }
    }

    /// Tells every client that a change concerns to look. Returns how many were told, each counted
    /// once for each of its resources.
    pub(super) fn wake(&self, changed: &Changed) -> usize {
        let mut told = 0;
        let listener = |name: &Name| (ResourceType::Listener, name.clone());
        let all_servers = listener(&server::PREFIX.into());
        let servers: Vec<(ResourceType, Name)> = match changed.contains(&all_servers) {
            true => self.servers.iter().map(|name| listener(&name)).collect(),
            false => Vec::new(),
        };
        let named = || changed.iter().filter(|key| **key != all_servers);
        for key in named().chain(&servers) {
            if let Some(subscribers) = self.names.get(key) {
                subscribers.values().for_each(|client| client.mark([key]));
                told += subscribers.len();
            }
        }
        for kind in ResourceType::ALL {
            let of_kind = || named().filter(move |(k, _)| *k == kind);
            if of_kind().next().is_some() {
                let all = self.all[kind.index()].read().unwrap_or_else(PoisonError::into_inner);
                all.values().for_each(|client| client.mark(of_kind()));
                told += all.len();
            }
        }
        told
    }

    /// How many names somebody is subscribed to.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    fn remove(&self, id: u64, kind: ResourceType, name: Name) {
        let key = (kind, name);
        self.names.remove_if_mut(&key, |(kind, name), subscribers| {
            subscribers.remove(&id);
            if subscribers.is_empty() && is_server(*kind, name) {
                self.servers.remove(name);
            }
            subscribers.is_empty()
        });
    }

    fn with_all(&self, kind: ResourceType, act: impl FnOnce(&mut Subscribers)) {
        act(&mut self.all[kind.index()].write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Whether a name is that of a gRPC server's listener.
fn is_server(kind: ResourceType, name: &str) -> bool {
    kind == ResourceType::Listener && server::address(name).is_some()
}
