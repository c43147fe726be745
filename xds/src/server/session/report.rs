//! What is known of a client, by type and by resource.

use std::sync::Arc;

use serde::{Serialize, Serializer};

use super::Refusal;
use super::state::TypeState;
use crate::catalog::{Catalog, Name};
use crate::resource::{ResourceType, version_text};
use crate::viewer::Viewer;

/// What is known of a client for one type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeStatus {
    /// Whether it subscribed to everything.
    pub wildcard: bool,
    /// How many names it asked for.
    pub names: usize,
    /// Version of what it was sent; of nothing, 0.
    #[serde(serialize_with = "as_text")]
    pub sent: u64,
    /// Version of what it took.
    #[serde(serialize_with = "as_text")]
    pub acked: u64,
    /// How many resources it refuses in their present version.
    pub refused: usize,
    /// The client's words about one of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nacked: Option<Arc<str>>,
    /// When a response was last sent, in milliseconds since the Unix epoch; 0 for never.
    pub sent_at_ms: u64,
    /// When one was last taken.
    pub acked_at_ms: u64,
    /// When one was last refused.
    pub nacked_at_ms: u64,
}

/// What is known of one resource of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourceReport {
    /// Type.
    pub kind: ResourceType,
    /// Name.
    pub name: Name,
    /// State.
    pub state: ResourceState,
    /// Version of what the client was sent.
    pub sent: Option<u64>,
    /// Version of what it took.
    pub acked: Option<u64>,
    /// What it refused, if it did.
    pub refusal: Option<Refusal>,
    /// When the client last took something of this type, in milliseconds since the Unix epoch.
    pub updated_at_ms: u64,
}

/// How a resource of a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ResourceState {
    /// Asked for; nothing was sent yet.
    Requested,
    /// Asked for; there is none.
    Missing,
    /// On its way.
    Sent,
    /// Taken.
    Acked,
    /// Refused: the client goes on with what it had.
    Nacked,
}

impl TypeStatus {
    /// When a response was last answered, one way or the other.
    #[must_use]
    pub fn answered_at_ms(&self) -> u64 {
        self.acked_at_ms.max(self.nacked_at_ms)
    }
}

fn as_text<S: Serializer>(version: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    match version {
        0 => serializer.serialize_str(""),
        version => serializer.serialize_str(&version_text(*version)),
    }
}

impl TypeState {
    pub(super) fn status(&self) -> TypeStatus {
        let words = self.refused.values().next().map(|refusal| refusal.words.clone());
        let unanswered = self.times.sent > 0 && self.times.acked == 0;
        TypeStatus {
            wildcard: self.subscription.as_ref().is_some_and(|s| s.wildcard),
            names: self.names(),
            sent: self.sent.version(),
            acked: if unanswered { 0 } else { self.acked.version() },
            refused: self.refused.len(),
            nacked: words,
            sent_at_ms: self.times.sent,
            acked_at_ms: self.times.acked,
            nacked_at_ms: self.times.nacked,
        }
    }

    pub(super) fn report(
        &self,
        kind: ResourceType,
        catalog: &Catalog,
        viewer: &Viewer,
    ) -> Vec<ResourceReport> {
        let Some(subscription) = &self.subscription else { return Vec::new() };
        let mut names: Vec<&Name> =
            subscription.names.iter().chain(self.sent.names()).chain(self.refused.keys()).collect();
        names.sort();
        names.dedup();
        let report = |name: &Name| {
            let version = |encoded: &crate::resource::Encoded| encoded.version;
            let (sent, acked) =
                (self.sent.get(name).map(version), self.acked.get(name).map(version));
            let refusal = self.refused.get(name).cloned();
            let exists = || catalog.lookup_for(kind, name, viewer).is_some();
            let state = match (&refusal, sent, acked) {
                (Some(_), ..) => ResourceState::Nacked,
                (None, Some(sent), acked) if acked == Some(sent) => ResourceState::Acked,
                (None, Some(_), _) => ResourceState::Sent,
                (None, None, _) if exists() => ResourceState::Requested,
                (None, None, _) => ResourceState::Missing,
            };
            let updated_at_ms = self.times.acked;
            ResourceReport { kind, name: name.clone(), state, sent, acked, refusal, updated_at_ms }
        };
        names.into_iter().map(report).collect()
    }
}
