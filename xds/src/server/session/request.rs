//! What clients ask, the same for both variants of the protocol, and what it meant.

use super::{MAX_NAME_BYTES, Nack};
use crate::resource::ResourceType;

/// A request, decoded.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Type URL; may be empty on a stream of one type.
    pub type_url: String,
    /// What it says of names.
    pub names: Names,
    /// State of the world: version of the last response the client took.
    pub version: String,
    /// Nonce of the response it answers; empty when it answers none.
    pub nonce: String,
    /// The client's words when it refuses a response.
    pub error: Option<String>,
}

/// What a request says of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// State of the world: these and no others.
    Exactly(Vec<String>),
    /// Incremental.
    Change {
        /// These as well.
        subscribe: Vec<String>,
        /// No longer these.
        unsubscribe: Vec<String>,
        /// Name and version of what the client holds from an earlier stream; counts in the first
        /// request of a type.
        held: Vec<(String, String)>,
    },
}

/// What a request meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// First request of its type, or a change of names.
    Subscribed(ResourceType),
    /// The client took a response.
    Acked(ResourceType),
    /// The client refused a response.
    Nacked(Nack),
    /// It answered a response that another one has replaced, or none; ignored.
    Stale(ResourceType),
    /// A type that is not served; ignored, as other types on the stream are fine.
    UnknownType,
}

/// A request that ends its stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Too many names.
    #[error("{count} names subscribed to, the limit is {limit}")]
    TooManyNames {
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// A name that is too long.
    #[error("a name of type {kind} is {length} octets long, the limit is {MAX_NAME_BYTES}")]
    NameTooLong {
        /// Type.
        kind: &'static str,
        /// Its length.
        length: usize,
    },
    /// Another type on a stream of one type.
    #[error("type {found:?} on a stream of {expected} alone")]
    ForeignType {
        /// The stream's type.
        expected: &'static str,
        /// What was asked for, cut.
        found: String,
    },
}

impl Default for Names {
    fn default() -> Self {
        Self::Exactly(Vec::new())
    }
}

impl Request {
    /// Checks names before anything is made of them.
    pub(super) fn check(&self, kind: ResourceType, max_names: usize) -> Result<(), Violation> {
        let lists: [&[String]; 2] = match &self.names {
            Names::Exactly(names) => [names, &[]],
            Names::Change { subscribe, unsubscribe, .. } => [subscribe, unsubscribe],
        };
        let count = lists[0].len();
        if count > max_names {
            return Err(Violation::TooManyNames { count, limit: max_names });
        }
        let mut lengths = lists.into_iter().flatten().map(String::len);
        match lengths.find(|length| *length > MAX_NAME_BYTES) {
            Some(length) => Err(Violation::NameTooLong { kind: kind.name(), length }),
            None => Ok(()),
        }
    }
}

impl Violation {
    pub(super) fn foreign(expected: ResourceType, found: &str) -> Self {
        let found = found.chars().take(128).collect();
        Self::ForeignType { expected: expected.name(), found }
    }
}
