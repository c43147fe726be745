//! An endpoint set that clients in different places get differently.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use portolan_model::{Place, ServiceKey, Snapshot};

use crate::resource::{Encoded, endpoints};

/// Places whose encoding is kept; those of further ones are made for each that asks.
const MAX_PLACES: usize = 1024;

/// The set before it is known who asks. Made anew with every change of the service.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    service: ServiceKey,
    port: u16,
    made: Arc<Mutex<BTreeMap<Zoned, Encoded>>>,
}

/// Node and zone.
type Zoned = (Option<Arc<str>>, Option<Arc<str>>);

impl Placed {
    pub(super) fn new(service: ServiceKey, port: u16) -> Self {
        Self { service, port, made: Arc::default() }
    }

    /// The set as a client in this place gets it; `None` for one that says nothing of its place.
    pub(super) fn lookup(&self, snapshot: &Snapshot, place: &Place) -> Option<Encoded> {
        if *place == Place::default() {
            return None;
        }
        let entry = snapshot.lookup(&self.service)?;
        let port = entry.service.tcp_port(self.port)?;
        let place = entry.place_key(&completed(snapshot, place));
        let key = (place.node.clone(), place.zone.clone());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoded) = made.get(&key) {
            return Some(encoded.clone());
        }
        let encoded = endpoints::encode_at(entry, port, &place);
        if made.len() < MAX_PLACES {
            made.insert(key, encoded.clone());
        }
        Some(encoded)
    }
}

/// The place with the zone of its node, if it names none itself.
fn completed(snapshot: &Snapshot, place: &Place) -> Place {
    let mut place = place.clone();
    if place.zone.is_none() {
        let node = place.node.as_deref().and_then(|name| snapshot.node(name));
        place.zone = node.and_then(|node| node.zone.clone());
    }
    place
}
