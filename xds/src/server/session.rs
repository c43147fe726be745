//! One xDS stream as a pure state machine, for both variants of the protocol: requests and changes
//! of the catalog in, responses out.
//!
//! The shell calls [`Session::on_request`] and [`Session::on_changes`], and takes responses with
//! [`Session::next_response`] whenever the client can take one. What is due is computed then, from
//! the newest catalog, and of each type one response at most is on its way unanswered: a slow
//! client gets the latest state and no queue builds up.
//!
//! Source: the xDS protocol document ("xDS REST and gRPC protocol"), sections named at the lines.

mod compose;
mod held;
mod refusal;
mod report;
mod request;
mod state;
mod subscription;

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::{Changes, Generation};

use crate::catalog::{Catalog, Name};
use crate::resource::{Encoded, ResourceType, version_text};
use crate::viewer::Viewer;
use compose::{Content, Removals};
use imbl::OrdMap;
pub use refusal::{Nack, Refusal};
pub use report::{ResourceReport, ResourceState, TypeStatus};
pub use request::{Names, Outcome, Request, Violation};
use state::TypeState;

/// Longest name, in octets.
pub const MAX_NAME_BYTES: usize = 1024;
/// Most bytes of resources in a response that can be split. gRPC in C++ and Node refuses messages
/// over 4 MiB.
pub const MAX_RESPONSE_BYTES: usize = 4_089_446;

/// The variant of the protocol a stream speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Variant {
    /// State of the world: a request says all that is wanted.
    #[default]
    Sotw,
    /// Incremental ("Incremental xDS"): requests and responses say what differs.
    Delta,
}

/// A response that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Variant it is to be written in.
    pub variant: Variant,
    /// Type.
    pub kind: ResourceType,
    /// Version: a hash of the names and contents the client will then hold.
    pub version: String,
    /// Nonce: `<generation>-<count>` in hexadecimal.
    pub nonce: String,
    /// Resources, shared with the catalog.
    pub resources: Resources,
    /// Delta: names that are gone, or never were.
    pub removed: Vec<Name>,
    /// Names that were asked for and cannot be had, with why (gRFC A88).
    pub errors: Vec<(Name, String)>,
}

/// The resources of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resources {
    /// These.
    Some(Vec<(Name, Encoded)>),
    /// A full set, whose nodes are shared with the catalog's.
    All(OrdMap<Name, Encoded>),
    /// Signs of life: these may be used for so many seconds more ("Time-to-live").
    Alive(Vec<(Name, Encoded)>),
}

impl Resources {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Self::Some(list) | Self::Alive(list) => list.len(),
            Self::All(map) => map.len(),
        }
    }
}

/// A change of what the client is to be woken for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterestChange {
    /// This name as well.
    Add(ResourceType, Name),
    /// No longer.
    Remove(ResourceType, Name),
    /// Whatever of the type changes.
    AddAll(ResourceType),
    /// No longer.
    RemoveAll(ResourceType),
}

/// State of a stream.
#[derive(Debug)]
pub struct Session {
    variant: Variant,
    /// The one type of a stream that is not aggregated.
    only: Option<ResourceType>,
    viewer: Viewer,
    max_names: usize,
    types: [Option<Box<TypeState>>; ResourceType::ALL.len()],
    count: u64,
    /// Clusters the client was sent and has not asked the endpoints of yet. Until it has, routes
    /// to them, and the removal of what they replace, are held back: Envoy would route to a
    /// cluster that is still warming.
    warming: BTreeSet<Name>,
    interest: Vec<InterestChange>,
}

impl Session {
    /// A new stream: aggregated, or of one type; `max_names` names may be subscribed to at once.
    #[must_use]
    pub fn new(variant: Variant, only: Option<ResourceType>, max_names: usize) -> Self {
        Self {
            variant,
            only,
            viewer: Viewer::default(),
            max_names,
            types: Default::default(),
            count: 0,
            warming: BTreeSet::new(),
            interest: Vec::new(),
        }
    }

    /// Takes in a request; `now` is the time in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// [`Violation`] when a rule or limit is passed; the stream is to end.
    pub fn on_request(&mut self, request: Request, now: u64) -> Result<Outcome, Violation> {
        let kind = match (self.only, ResourceType::from_type_url(&request.type_url)) {
            (None, Some(kind)) => kind,
            (Some(only), found) if found == Some(only) || request.type_url.is_empty() => only,
            (Some(only), _) => return Err(Violation::foreign(only, &request.type_url)),
            (None, None) => return Ok(Outcome::UnknownType),
        };
        request.check(kind, self.max_names)?;
        let state = self.types[kind.index()].get_or_insert_default();
        let first = !state.is_asked();
        // "The server should not process a request with a stale nonce" ("ACK and resource type
        // instance version"). A first request may carry a nonce from an earlier stream. In the
        // incremental variant names stand apart from nonces, and count all the same.
        let current = request.nonce == state.nonce;
        if !first && !current && self.variant == Variant::Sotw {
            state.on_stale(kind, &request.names);
            return Ok(Outcome::Stale(kind));
        }
        let answers = !first && current && !request.nonce.is_empty();
        let outcome = match (answers, &request.names) {
            (true, _) => state.answer(kind, request.error, now),
            (false, Names::Change { subscribe, unsubscribe, .. })
                if !first && subscribe.is_empty() && unsubscribe.is_empty() =>
            {
                return Ok(Outcome::Stale(kind));
            }
            (false, _) => Outcome::Subscribed(kind),
        };
        state.subscribe(kind, request.names, &request.version, &mut self.interest);
        let count: usize = self.types.iter().flatten().map(|state| state.names()).sum();
        if count > self.max_names {
            return Err(Violation::TooManyNames { count, limit: self.max_names });
        }
        match (kind, &outcome) {
            (ResourceType::Endpoints, _) => self.settle_warming(),
            // It will not ask for the endpoints of what it refused.
            (ResourceType::Cluster, Outcome::Nacked(_)) => self.warming.clear(),
            _ => {}
        }
        Ok(outcome)
    }

    /// Takes in who the client is: what depends on it is compared anew.
    pub fn on_viewer(&mut self, viewer: Viewer) {
        if self.viewer != viewer {
            self.viewer = viewer;
            self.types.iter_mut().flatten().for_each(|state| state.due.raise_all());
        }
    }

    /// Takes in what a newer catalog changed: notes what this client may have to be sent.
    pub fn on_changes(&mut self, changes: &Changes<(ResourceType, Name)>) {
        match changes {
            Changes::Nothing => {}
            Changes::Everything => {
                self.types.iter_mut().flatten().for_each(|state| state.due.raise_all());
            }
            Changes::Keys(keys) => {
                for (kind, name) in keys {
                    if let Some(state) = &mut self.types[kind.index()] {
                        state.note(name);
                    }
                }
            }
        }
    }

    /// What the client is to be woken for, since this was last called.
    pub fn take_interest(&mut self) -> Vec<InterestChange> {
        std::mem::take(&mut self.interest)
    }

    /// The next response due, in make-before-break order; `None` when the client is up to date,
    /// has answers of its own to give first, or nothing was published yet. All changes up to
    /// `catalog` were given to [`Self::on_changes`].
    pub fn next_response(&mut self, catalog: &Catalog, now: u64) -> Option<Response> {
        if catalog.generation() == Generation(0) {
            return None;
        }
        // What leaves is taken out only once nothing leads to it any more: additions first, and
        // the removal after all other types ("Eventual consistency considerations").
        let mut blocked = false;
        for kind in ResourceType::ALL {
            let leads = kind > ResourceType::Secret;
            if leads && (blocked || self.is_holding()) {
                return None;
            }
            if kind == ResourceType::Generation {
                for kind in [ResourceType::Endpoints, ResourceType::Cluster] {
                    let response = self.due_response(kind, catalog, Removals::Done, now);
                    if response.is_some() {
                        return response;
                    }
                    blocked |= self.is_blocked(kind);
                }
                if blocked {
                    return None;
                }
            }
            let removals = Removals::of(kind);
            let response = self.due_response(kind, catalog, removals, now);
            if response.is_some() {
                return response;
            }
            blocked |= self.is_blocked(kind);
        }
        None
    }

    /// Whether the client has taken all there is for it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        !self.is_holding() && self.types.iter().flatten().all(|state| state.is_settled())
    }

    /// Whether the client refuses a resource of a type in its present version.
    #[must_use]
    pub fn refuses(&self, kind: ResourceType) -> bool {
        self.types[kind.index()].as_ref().is_some_and(|state| !state.refused.is_empty())
    }

    /// Ends the stream: what the client need not be woken for any longer.
    pub fn end(&mut self) -> Vec<InterestChange> {
        for (kind, state) in ResourceType::ALL.into_iter().zip(&mut self.types) {
            if let Some(state) = state.take() {
                state.drop_interest(kind, &mut self.interest);
            }
        }
        self.take_interest()
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

    /// Has the client told that what it holds for a limited time may be used for longer.
    pub fn keep_alive(&mut self) {
        self.types.iter_mut().flatten().for_each(|state| state.keep_alive());
    }

    /// Whether the client holds anything for a limited time.
    #[must_use]
    pub fn holds_limited(&self) -> bool {
        self.types.iter().flatten().any(|state| state.holds_limited())
    }

    /// State of each type the client has asked for.
    #[must_use]
    pub fn status(&self) -> BTreeMap<&'static str, TypeStatus> {
        self.statuses().collect()
    }

    /// The same, in push order.
    pub(super) fn statuses(&self) -> impl Iterator<Item = (&'static str, TypeStatus)> {
        ResourceType::ALL.into_iter().zip(&self.types).filter_map(|(kind, state)| {
            let state = state.as_ref().filter(|state| state.is_asked())?;
            Some((kind.name(), state.status()))
        })
    }

    /// State of each resource the client has asked for.
    #[must_use]
    pub fn report(&self, catalog: &Catalog) -> Vec<ResourceReport> {
        let states = ResourceType::ALL.into_iter().zip(&self.types);
        states
            .filter_map(|(kind, state)| Some((kind, state.as_ref()?)))
            .flat_map(|(kind, state)| state.report(kind, catalog, &self.viewer))
            .collect()
    }

    fn is_blocked(&self, kind: ResourceType) -> bool {
        self.types[kind.index()].as_ref().is_some_and(|state| state.is_blocked())
    }

    fn settle_warming(&mut self) {
        if let Some(endpoints) = &self.types[ResourceType::Endpoints.index()] {
            self.warming.retain(|name| !endpoints.is_subscribed(name));
        }
    }

    fn due_response(
        &mut self,
        kind: ResourceType,
        catalog: &Catalog,
        removals: Removals,
        now: u64,
    ) -> Option<Response> {
        let variant = self.variant;
        let state = self.types[kind.index()].as_mut()?;
        let content = state.compose(kind, variant, catalog, &self.viewer, removals)?;
        self.count += 1;
        let nonce = format!("{:x}-{:x}", catalog.generation().0, self.count);
        let version = version_text(state.version());
        state.on_sent(nonce.clone(), content.changed, now);
        let Content { resources, removed, errors, updated, added, .. } = content;
        if kind == ResourceType::Cluster {
            self.on_clusters_sent(updated, added);
        }
        Some(Response { variant, kind, version, nonce, resources, removed, errors })
    }

    /// A cluster that changed warms anew: Envoy waits for its endpoints even when those did not
    /// change. One that is new has to be asked the endpoints of.
    fn on_clusters_sent(&mut self, updated: Vec<Name>, added: Vec<Name>) {
        let [clusters, endpoints] = [ResourceType::Cluster, ResourceType::Endpoints];
        let held = self.types[clusters.index()].as_ref();
        self.warming.retain(|name| held.is_some_and(|state| state.holds(name)));
        let Some(endpoints) = &mut self.types[endpoints.index()] else { return };
        // One that was taken out and is back may have had its endpoints given up by the client,
        // whose request to say so is still on its way.
        endpoints.resend(updated.into_iter().chain(added.iter().cloned()));
        if endpoints.is_asked() {
            let waits = added.into_iter().filter(|name| !endpoints.is_subscribed(name));
            self.warming.extend(waits);
        }
    }
}
