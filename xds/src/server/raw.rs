//! Resources put in by hand: any type and name, as bytes. A way out for operators, and what public
//! test suites of xDS servers need of a server.

use std::sync::Arc;

use bytes::Bytes;
use portolan_proto::envoy::protobuf::Any;
use prost::Message;
use tokio::sync::{mpsc, oneshot};

use crate::catalog::{Catalog, Changed, Name};
use crate::resource::{Encoded, ResourceType};

use super::session::MAX_NAME_BYTES;

/// Commands that wait for the next catalog.
const WAITING: usize = 64;
/// Most resources put in by hand.
pub const MAX_RESOURCES: usize = 10_000;
/// Largest resource, in bytes.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// A handle by which resources are put in. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RawResources(mpsc::Sender<Command>);

/// What waits to be carried out.
#[derive(Debug)]
pub(super) struct Commands(mpsc::Receiver<Command>);

/// One command, and who waits for it.
#[derive(Debug)]
pub(super) struct Command {
    ask: Ask,
    answer: oneshot::Sender<Result<Vec<RawResource>, RawError>>,
}

#[derive(Debug)]
enum Ask {
    Change(Vec<(ResourceType, Name, Option<Encoded>)>),
    Clear,
    List,
}

/// A resource that was put in by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawResource {
    /// Type.
    pub kind: ResourceType,
    /// Name.
    pub name: Name,
    /// Version, as clients are told it.
    pub version: String,
    /// Size, in bytes.
    pub bytes: usize,
}

/// Why a resource was not put in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// A type that is not served.
    #[error("type {0:?} is not served")]
    Type(String),
    /// A name that cannot be one.
    #[error("name: {0} octets; a name has 1 to {MAX_NAME_BYTES}")]
    Name(usize),
    /// Bytes that are no resource of the type.
    #[error("{kind} {name}: {reason}")]
    Bytes {
        /// Type.
        kind: &'static str,
        /// Name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// Too many.
    #[error("there may be {MAX_RESOURCES} resources put in by hand")]
    Full,
    /// Nothing of this name was put in.
    #[error("{kind} {name}: was not put in by hand")]
    Unknown {
        /// Type.
        kind: &'static str,
        /// Name.
        name: String,
    },
    /// The server is at its end.
    #[error("the server is stopping")]
    Stopping,
}

pub(super) fn channel() -> (RawResources, Commands) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (RawResources(sender), Commands(receiver))
}

impl RawResources {
    /// Puts a resource in, in place of one of this name. `kind` is a type URL or a short name such
    /// as `cds`; `bytes` the encoded message, or an encoded `google.protobuf.Any` around it;
    /// `ttl_secs` for how long clients may use it unheard, 0 for ever. Returns when every client
    /// it concerns has been told.
    ///
    /// # Errors
    /// [`RawError`].
    pub async fn put(
        &self,
        kind: &str,
        name: &str,
        bytes: &[u8],
        ttl_secs: u32,
    ) -> Result<(), RawError> {
        let (kind, name) = key(kind, name)?;
        let encoded = encode(kind, &name, bytes)?.with_ttl(ttl_secs);
        self.ask(Ask::Change(vec![(kind, name, Some(encoded))])).await.map(drop)
    }

    /// Takes a resource out.
    ///
    /// # Errors
    /// [`RawError`].
    pub async fn remove(&self, kind: &str, name: &str) -> Result<(), RawError> {
        let (kind, name) = key(kind, name)?;
        self.ask(Ask::Change(vec![(kind, name, None)])).await.map(drop)
    }

    /// Takes all of them out.
    ///
    /// # Errors
    /// [`RawError::Stopping`].
    pub async fn clear(&self) -> Result<(), RawError> {
        self.ask(Ask::Clear).await.map(drop)
    }

    /// All of them.
    ///
    /// # Errors
    /// [`RawError::Stopping`].
    pub async fn list(&self) -> Result<Vec<RawResource>, RawError> {
        self.ask(Ask::List).await
    }

    async fn ask(&self, ask: Ask) -> Result<Vec<RawResource>, RawError> {
        let (answer, receiver) = oneshot::channel();
        self.0.send(Command { ask, answer }).await.map_err(|_| RawError::Stopping)?;
        receiver.await.map_err(|_| RawError::Stopping)?
    }
}

impl Commands {
    /// The next command; `None` when nobody can give one any more.
    pub(super) async fn next(&mut self) -> Option<Command> {
        self.0.recv().await
    }
}

impl Command {
    /// The catalog after it, and what it changes; the answer is given when `done` is called.
    pub(super) fn apply(self, old: &Catalog) -> (Catalog, Changed, Done) {
        let list = || {
            let resource = |(kind, name, encoded): (ResourceType, &Name, &Encoded)| RawResource {
                kind,
                name: name.clone(),
                version: encoded.version_text(),
                bytes: encoded.any.len(),
            };
            old.extra().map(resource).collect::<Vec<_>>()
        };
        let (changes, answer) = match self.ask {
            Ask::List => (Vec::new(), Ok(list())),
            Ask::Clear => {
                let all = old.extra().map(|(kind, name, _)| (kind, name.clone(), None));
                (all.collect(), Ok(Vec::new()))
            }
            Ask::Change(changes) => match check(&changes, old) {
                Ok(()) => (changes, Ok(Vec::new())),
                Err(error) => (Vec::new(), Err(error)),
            },
        };
        let (catalog, changed) = old.with_extra(changes);
        (catalog, changed, Done { sender: self.answer, answer })
    }
}

/// An answer that is due once the catalog is in force.
#[derive(Debug)]
pub(super) struct Done {
    sender: oneshot::Sender<Result<Vec<RawResource>, RawError>>,
    answer: Result<Vec<RawResource>, RawError>,
}

impl Done {
    pub(super) fn tell(self) {
        // Whoever asked may have gone.
        let _gone = self.sender.send(self.answer);
    }
}

fn check(changes: &[(ResourceType, Name, Option<Encoded>)], old: &Catalog) -> Result<(), RawError> {
    let there = |kind: ResourceType, name: &Name| old.extra_of(kind).contains_key(name);
    let added = changes.iter().filter(|(kind, name, new)| new.is_some() && !there(*kind, name));
    if old.extra().count() + added.count() > MAX_RESOURCES {
        return Err(RawError::Full);
    }
    match changes.iter().find(|(kind, name, new)| new.is_none() && !there(*kind, name)) {
        Some((kind, name, _)) => {
            Err(RawError::Unknown { kind: kind.name(), name: name.to_string() })
        }
        None => Ok(()),
    }
}

fn key(kind: &str, name: &str) -> Result<(ResourceType, Name), RawError> {
    let found = ResourceType::from_type_url(kind).or_else(|| ResourceType::from_name(kind));
    let found = found.ok_or_else(|| RawError::Type(kind.chars().take(200).collect()))?;
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(RawError::Name(name.len()));
    }
    Ok((found, Arc::from(name)))
}

/// The resource of these bytes: they have to be a protobuf message. Its fields are not looked at:
/// a server under test has to be able to serve what clients refuse.
fn encode(kind: ResourceType, name: &Name, bytes: &[u8]) -> Result<Encoded, RawError> {
    let refuse =
        |reason: String| RawError::Bytes { kind: kind.name(), name: name.to_string(), reason };
    if bytes.len() > MAX_BYTES {
        return Err(refuse(format!("{} bytes, the limit is {MAX_BYTES}", bytes.len())));
    }
    if let Ok(any) = Any::decode(bytes)
        && any.type_url.starts_with("type.googleapis.com/")
    {
        if any.type_url != kind.type_url() {
            return Err(refuse(format!("the bytes are of type {}", any.type_url)));
        }
        return Ok(Encoded::from_bytes(name, kind.type_url(), &any.value));
    }
    // Decoding as a message without fields checks the form of every field.
    <() as Message>::decode(Bytes::copy_from_slice(bytes))
        .map_err(|error| refuse(format!("not a protobuf message: {error}")))?;
    Ok(Encoded::from_bytes(name, kind.type_url(), bytes))
}
