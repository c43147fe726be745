//! What clients refuse at present, for whoever looks after the objects behind it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_model::ServiceKey;
use serde::Serialize;
use tokio::sync::watch;

use super::clients::{Client, Clients};
use super::session::Nack;
use crate::catalog::{Name, owner};
use crate::resource::ResourceType;

/// What connected clients refuse. Cheap to clone. Bounded: an entry for each type of each stream.
#[derive(Clone, Debug)]
pub struct Refusals {
    refused: Arc<Mutex<BTreeMap<(u64, ResourceType), Refused>>>,
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Refused {
    client: Arc<Client>,
    names: Vec<Name>,
    words: Arc<str>,
}

/// A resource that a client refuses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedResource {
    /// Type, as `cds`.
    pub kind: &'static str,
    /// Name.
    pub name: Name,
    /// The service behind it, if there is one.
    #[serde(serialize_with = "as_text")]
    pub service: Option<ServiceKey>,
    /// The client's node id, else its address.
    pub client: String,
    /// The client's words.
    pub words: Arc<str>,
}

fn as_text<S: serde::Serializer>(key: &Option<ServiceKey>, s: S) -> Result<S::Ok, S::Error> {
    match key {
        Some(key) => s.collect_str(key),
        None => s.serialize_none(),
    }
}

impl Default for Refusals {
    fn default() -> Self {
        Self { refused: Arc::default(), changed: watch::channel(()).0 }
    }
}

impl Refusals {
    /// Takes in a refusal; a newer one of the same type replaces it.
    pub(super) fn note(&self, client: &Arc<Client>, nack: &Nack) {
        let (names, words) = (nack.names.clone(), nack.words.clone());
        let refused = Refused { client: client.clone(), names, words };
        self.with(|map| drop(map.insert((client.id(), nack.kind), refused)));
    }

    /// The client took everything of a type.
    pub(super) fn settle(&self, client: &Arc<Client>, kind: ResourceType) {
        self.take_out(|(id, of)| *id == client.id() && *of == kind);
    }

    /// The client is gone.
    pub(super) fn forget(&self, client: &Arc<Client>) {
        self.take_out(|(id, _)| *id == client.id());
    }

    /// Everything that is refused, in order.
    #[must_use]
    pub fn list(&self, clients: &Clients) -> Vec<RefusedResource> {
        let announced = clients.announced();
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<RefusedResource> = refused
            .iter()
            .flat_map(|((_, kind), refused)| {
                let status = refused.client.status(announced);
                let client = if status.node.is_empty() { status.peer } else { status.node };
                refused.names.iter().map(move |name| RefusedResource {
                    kind: kind.name(),
                    name: name.clone(),
                    service: owner(name).and_then(|owner| owner.key()),
                    client: client.clone(),
                    words: refused.words.clone(),
                })
            })
            .collect();
        list.sort();
        list
    }

    /// Told when the list changes.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    fn take_out(&self, matches: impl Fn(&(u64, ResourceType)) -> bool) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let before = refused.len();
        refused.retain(|key, _| !matches(key));
        let changed = refused.len() != before;
        drop(refused);
        if changed {
            self.changed.send_replace(());
        }
    }

    fn with(&self, change: impl FnOnce(&mut BTreeMap<(u64, ResourceType), Refused>)) {
        change(&mut self.refused.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_replace(());
    }
}
