//! One state-of-the-world stream as a pure state machine: requests and catalogs in, responses out.
//!
//! The shell calls [`Session::on_request`] and [`Session::on_catalog`], and takes responses with
//! [`Session::next_response`] whenever the client can take one. What is due is computed then, from
//! the newest catalog: a slow client gets the latest state and no queue builds up.
//!
//! Source: the xDS protocol document ("xDS REST and gRPC protocol"), sections named at the lines.

mod state;

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::{Changes, Generation, Place};

use crate::catalog::{Catalog, Name};
use crate::resource::{Encoded, ResourceType};
pub use state::TypeStatus;
use state::{Content, Removals, TypeState};

/// Most names a stream may subscribe to per type.
pub const MAX_NAMES: usize = 200_000;
/// Longest name, in octets.
pub const MAX_NAME_BYTES: usize = 1024;
/// How much of a client's NACK message is kept, in characters.
const MAX_NACK_CHARS: usize = 1024;

/// A request, decoded.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Type URL.
    pub type_url: String,
    /// Names subscribed to; empty for a wildcard (LDS, CDS).
    pub names: Vec<String>,
    /// Nonce of the response it answers; empty in the first request of a type.
    pub nonce: String,
    /// The client's words when it refuses a response.
    pub error: Option<String>,
}

/// A response that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Type.
    pub kind: ResourceType,
    /// Version: a hash of the names and contents the client will then hold.
    pub version: String,
    /// Nonce: `<generation>-<count>` in hexadecimal.
    pub nonce: String,
    /// Resources, shared with the catalog.
    pub resources: Vec<Encoded>,
}

/// What a request meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// First request of its type, or a change of names with a current nonce.
    Subscribed,
    /// The client took a response.
    Acked(ResourceType),
    /// The client refused a response, for this reason.
    Nacked(ResourceType, String),
    /// It answered a response that another one has replaced; ignored.
    Stale(ResourceType),
    /// A type that is not served; ignored, as other types on the stream are fine.
    UnknownType,
}

/// A request that ends its stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Too many names.
    #[error("{count} names of type {kind} requested, the limit is {MAX_NAMES}")]
    TooManyNames {
        /// Type.
        kind: &'static str,
        /// How many.
        count: usize,
    },
    /// A name that is too long.
    #[error("a name of type {kind} is {length} octets long, the limit is {MAX_NAME_BYTES}")]
    NameTooLong {
        /// Type.
        kind: &'static str,
        /// Its length.
        length: usize,
    },
}

/// State of a stream.
#[derive(Debug, Default)]
pub struct Session {
    types: [TypeState; ResourceType::ALL.len()],
    seen: Generation,
    count: u64,
    /// Where the client says it is.
    place: Place,
    /// Clusters the client was sent and has not asked the endpoints of yet. Until it has, routes
    /// to them, and the removal of what they replace, are held back: Envoy would route to a
    /// cluster that is still warming.
    warming: BTreeSet<Name>,
}

impl Session {
    /// Takes in a request.
    ///
    /// # Errors
    /// [`Violation`] when a limit is passed; the stream is to end.
    pub fn on_request(&mut self, request: Request) -> Result<Outcome, Violation> {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else {
            return Ok(Outcome::UnknownType);
        };
        check_limits(kind, &request.names)?;
        let state = &mut self.types[kind.index()];
        let first = state.subscription.is_none();
        // "The server should not process a request with a stale nonce" ("ACK and resource type
        // instance version"). A first request may carry a nonce from an earlier stream.
        if !first && request.nonce != state.nonce {
            return Ok(Outcome::Stale(kind));
        }
        let outcome = match (first, request.error) {
            (true, _) => Outcome::Subscribed,
            (false, Some(reason)) => {
                let reason: String = reason.chars().take(MAX_NACK_CHARS).collect();
                state.status.nacked = Some(reason.clone());
                Outcome::Nacked(kind, reason)
            }
            (false, None) if !state.answered => {
                state.status.nacked = None;
                state.status.acked = state.status.sent.clone();
                Outcome::Acked(kind)
            }
            (false, None) => Outcome::Subscribed,
        };
        state.answered = true;
        state.subscribe(kind, request.names);
        match (kind, &outcome) {
            (ResourceType::Endpoints, _) => {
                self.warming.retain(|name| !state.is_subscribed(name));
            }
            // It will not ask for the endpoints of what it refused.
            (ResourceType::Cluster, Outcome::Nacked(..)) => self.warming.clear(),
            _ => {}
        }
        Ok(outcome)
    }

    /// Takes in where the client is: endpoint sets that depend on it are compared anew.
    pub fn on_place(&mut self, place: Place) {
        if self.place != place {
            self.place = place;
            self.types[ResourceType::Endpoints.index()].due.raise_all();
        }
    }

    /// Takes in a newer catalog: notes what this client may have to be sent.
    pub fn on_catalog(&mut self, catalog: &Catalog) {
        match catalog.changes_since(self.seen) {
            Changes::Nothing => {}
            Changes::Everything => {
                for state in &mut self.types {
                    state.due.raise_all();
                }
            }
            Changes::Keys(keys) => {
                for (kind, name) in keys {
                    self.types[kind.index()].note(name);
                }
            }
        }
        self.seen = catalog.generation();
    }

    /// The next response due, in make-before-break order; `None` when the client is up to date or
    /// nothing was published yet. `catalog` is the one last given to [`Self::on_catalog`].
    pub fn next_response(&mut self, catalog: &Catalog) -> Option<Response> {
        if catalog.generation() == Generation(0) {
            return None;
        }
        // Clusters that left are taken out only once no route leads to them any more: additions
        // first, and the removal after all other types ("Eventual consistency considerations").
        let clusters = ResourceType::Cluster;
        if let Some(response) = self.due_response(clusters, catalog, Removals::Held) {
            return Some(response);
        }
        for kind in ResourceType::ALL {
            if kind > ResourceType::Endpoints && self.is_holding() {
                return None;
            }
            let response = match kind {
                ResourceType::Cluster => None,
                ResourceType::Generation => self
                    .due_response(clusters, catalog, Removals::Done)
                    .or_else(|| self.due_response(kind, catalog, Removals::Done)),
                _ => self.due_response(kind, catalog, Removals::Done),
            };
            if response.is_some() {
                return response;
            }
        }
        None
    }

    /// Whether responses are held back until the client asks for the endpoints of new clusters.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        !self.warming.is_empty()
    }

    /// Holds nothing back any longer: the client had its time.
    pub fn release(&mut self) {
        self.warming.clear();
    }

    /// State of each type the client has asked for.
    #[must_use]
    pub fn status(&self) -> BTreeMap<&'static str, TypeStatus> {
        ResourceType::ALL
            .into_iter()
            .zip(&self.types)
            .filter(|(_, state)| state.subscription.is_some())
            .map(|(kind, state)| (kind.name(), state.status.clone()))
            .collect()
    }

    fn due_response(
        &mut self,
        kind: ResourceType,
        catalog: &Catalog,
        removals: Removals,
    ) -> Option<Response> {
        let state = &mut self.types[kind.index()];
        let Content { resources, version, updated, added } = if kind.is_full_set() {
            state.full_set(kind, catalog, removals)?
        } else {
            state.partial(kind, catalog, &self.place)?
        };
        self.count += 1;
        let nonce = format!("{:x}-{:x}", catalog.generation().0, self.count);
        state.nonce.clone_from(&nonce);
        state.answered = false;
        state.status.sent.clone_from(&version);
        if kind == ResourceType::Cluster {
            // A cluster that changed warms anew: Envoy waits for its endpoints even when those
            // did not change.
            let clusters: BTreeSet<Name> = self.types[kind.index()].sent.keys().cloned().collect();
            let endpoints = &mut self.types[ResourceType::Endpoints.index()];
            endpoints.resend(updated);
            self.warming.retain(|name| clusters.contains(name));
            if endpoints.subscription.is_some() {
                let waits = added.into_iter().filter(|name| !endpoints.is_subscribed(name));
                self.warming.extend(waits);
            }
        }
        Some(Response { kind, version, nonce, resources })
    }
}

fn check_limits(kind: ResourceType, names: &[String]) -> Result<(), Violation> {
    let kind = kind.name();
    if names.len() > MAX_NAMES {
        return Err(Violation::TooManyNames { kind, count: names.len() });
    }
    match names.iter().map(String::len).find(|length| *length > MAX_NAME_BYTES) {
        Some(length) => Err(Violation::NameTooLong { kind, length }),
        None => Ok(()),
    }
}
