//! Who is connected: admission up to a limit, what each client waits to hear of, what it has, and
//! its state for whoever asks.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portolan_model::{Changes, Generation};
use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::core::node::UserAgentVersionType;
use serde::Serialize;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::session::{ResourceReport, Session, TypeStatus, Variant};
use crate::catalog::Name;
use crate::resource::ResourceType;

/// Longest node id that is kept, in characters.
const MAX_NODE_ID: usize = 256;
/// Names that changed and a client was not shown yet; with more, all of its are compared.
const MAX_DIRTY: usize = 1024;
/// Inquiries that wait for a stream's answer.
const INQUIRIES: usize = 4;

/// The connected clients. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clients(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    next: AtomicU64,
    connected: Mutex<BTreeMap<u64, Arc<Client>>>,
    streams: TaskTracker,
    /// Newest generation of which every client it concerns has been told to look.
    announced: AtomicU64,
    /// Some client took something, or went.
    moved: Notify,
}

/// One connected client.
#[derive(Debug)]
pub struct Client {
    id: u64,
    peer: String,
    variant: Variant,
    only: Option<ResourceType>,
    since_ms: u64,
    about: Mutex<About>,
    progress: Mutex<Progress>,
    pub(super) wake: Notify,
    inquiries: mpsc::Sender<Inquiry>,
}

/// Asks a stream for the state of each of its resources.
pub(super) type Inquiry = oneshot::Sender<Vec<ResourceReport>>;

#[derive(Debug, Default)]
struct About {
    node: String,
    agent: String,
    identity: Option<Arc<str>>,
    /// Written with every response and answer: its room is used again.
    types: Vec<(&'static str, TypeStatus)>,
}

/// What a client has still to be shown, and the generation it has.
#[derive(Debug, Default)]
struct Progress {
    all: bool,
    names: Vec<(ResourceType, Name)>,
    /// Something is to be sent, is on its way, or was refused.
    pending: bool,
    /// Newest generation it had in full while nothing was pending.
    synced: Generation,
}

/// A client's place among the connected; dropping it gives the place up.
#[derive(Debug)]
pub struct ClientHandle {
    client: Arc<Client>,
    clients: Clients,
}

/// What is known of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientStatus {
    /// Number of its stream, since the process started.
    pub stream: u64,
    /// Address it came from.
    pub peer: String,
    /// Its node id.
    pub node: String,
    /// Name and version of its software.
    pub agent: String,
    /// Who it proved to be, if it had to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Arc<str>>,
    /// `ads`, or the one type of its stream; and the variant.
    pub protocol: String,
    /// When its stream began, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Newest generation whose content it has taken in full.
    pub generation: Generation,
    /// Whether something is to be sent, is on its way, or was refused.
    pub pending: bool,
    /// Its state by type.
    pub types: BTreeMap<&'static str, TypeStatus>,
}

impl Clients {
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Shared {
            limit,
            next: AtomicU64::new(1),
            connected: Mutex::default(),
            streams: TaskTracker::new(),
            announced: AtomicU64::new(0),
            moved: Notify::new(),
        }))
    }

    /// A place for a new client, unless all are taken; and where its inquiries arrive.
    pub(super) fn admit(
        &self,
        peer: String,
        variant: Variant,
        only: Option<ResourceType>,
        since_ms: u64,
    ) -> Option<(ClientHandle, mpsc::Receiver<Inquiry>)> {
        let mut connected = self.0.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if connected.len() >= self.0.limit {
            return None;
        }
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (inquiries, receiver) = mpsc::channel(INQUIRIES);
        let client = Arc::new(Client {
            id,
            peer,
            variant,
            only,
            since_ms,
            about: Mutex::default(),
            progress: Mutex::default(),
            wake: Notify::new(),
            inquiries,
        });
        connected.insert(id, client.clone());
        Some((ClientHandle { client, clients: self.clone() }, receiver))
    }

    /// Starts a stream's task; [`Self::drained`] waits for it.
    pub(super) fn run(&self, stream: impl Future<Output = ()> + Send + 'static) {
        self.0.streams.spawn(stream);
    }

    /// Completes when no stream is left.
    pub(super) async fn drained(&self) {
        self.0.streams.close();
        self.0.streams.wait().await;
    }

    /// Notes that every client that a generation concerns was told to look.
    pub(super) fn announce(&self, generation: Generation) {
        self.0.announced.store(generation.0, Ordering::Release);
        self.0.moved.notify_waiters();
    }

    /// Newest generation of which every client it concerns was told to look.
    #[must_use]
    pub fn announced(&self) -> Generation {
        Generation(self.0.announced.load(Ordering::Acquire))
    }

    /// Every connected client.
    #[must_use]
    pub fn connected(&self) -> Vec<Arc<Client>> {
        let connected = self.0.connected.lock().unwrap_or_else(PoisonError::into_inner);
        connected.values().cloned().collect()
    }

    /// The state of every connected client.
    #[must_use]
    pub fn status(&self) -> Vec<ClientStatus> {
        let announced = self.announced();
        self.connected().iter().map(|client| client.status(announced)).collect()
    }

    /// Completes when some client took something or went, or a generation was announced.
    pub(super) fn moved(&self) -> Notified<'_> {
        self.0.moved.notified()
    }
}

impl Client {
    /// Number of its stream.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The state of each resource it asked for; `None` when its stream is at its end, or has
    /// several such inquiries to answer already.
    pub async fn resources(&self) -> Option<Vec<ResourceReport>> {
        let (sender, receiver) = oneshot::channel();
        self.inquiries.try_send(sender).ok()?;
        receiver.await.ok()
    }

    /// What is known of it, the newest generation being `announced`.
    #[must_use]
    pub fn status(&self, announced: Generation) -> ClientStatus {
        let (generation, pending) = self.generation(announced);
        let about = self.about.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = self.only.map_or("ads", ResourceType::name);
        let variant = match self.variant {
            Variant::Sotw => "sotw",
            Variant::Delta => "delta",
        };
        ClientStatus {
            stream: self.id,
            peer: self.peer.clone(),
            node: about.node.clone(),
            agent: about.agent.clone(),
            identity: about.identity.clone(),
            protocol: format!("{kind} {variant}"),
            since_ms: self.since_ms,
            generation,
            pending,
            types: about.types.iter().cloned().collect(),
        }
    }

    /// The newest generation it has, and whether it lacks something newer. One that nothing is
    /// pending for has whatever was announced.
    fn generation(&self, announced: Generation) -> (Generation, bool) {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = if progress.pending { progress.synced } else { announced };
        (generation, progress.pending)
    }

    /// Has it look at resources.
    pub(super) fn mark<'a>(&self, keys: impl IntoIterator<Item = &'a (ResourceType, Name)>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.pending = true;
        for key in keys {
            if progress.names.len() >= MAX_DIRTY {
                progress.all = true;
                break;
            }
            progress.names.push(key.clone());
        }
        drop(progress);
        self.wake.notify_one();
    }

    /// What it has to look at, since this was last called.
    pub(super) fn take_marked(&self) -> Changes<(ResourceType, Name)> {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let names = std::mem::take(&mut progress.names);
        match (std::mem::take(&mut progress.all), names.is_empty()) {
            (true, _) => Changes::Everything,
            (false, true) => Changes::Nothing,
            (false, false) => Changes::Keys(names.into_iter().collect()),
        }
    }
}

impl ClientHandle {
    /// The client.
    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Takes in who the client proved to be.
    pub(super) fn identify(&self, identity: Arc<str>) {
        self.with(|about| about.identity = Some(identity));
    }

    /// Takes in who the client says it is. Envoy says so in every request: the first counts.
    pub(super) fn name(&self, node: &Node) {
        let agent = format!("{} {}", node.user_agent_name, version(node));
        self.with(|about| {
            about.node = cut(&node.id);
            about.agent = cut(agent.trim_end());
        });
    }

    /// Notes how far it is: whether everything up to `announced` was taken.
    pub(super) fn update(&self, session: &Session, announced: Generation, settled: bool) {
        let has_asked = self.with(|about| {
            about.types.clear();
            about.types.extend(session.statuses());
            !about.types.is_empty()
        });
        let mut progress = self.client.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let nothing_new = progress.names.is_empty() && !progress.all;
        progress.pending = !(settled && nothing_new);
        let before = progress.synced;
        // One that asked for nothing yet lacks nothing, but once it asks it has nothing either.
        if settled && nothing_new && has_asked {
            progress.synced = announced;
        }
        let moved = progress.synced != before;
        drop(progress);
        if moved {
            self.clients.0.moved.notify_waiters();
        }
    }

    fn with<R>(&self, change: impl FnOnce(&mut About) -> R) -> R {
        change(&mut self.client.about.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_NODE_ID).collect()
}

/// The version of a client's software, as far as it says it.
pub(super) fn version(node: &Node) -> String {
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
            .version
            .as_ref()
            .map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch))
            .unwrap_or_default(),
        None => String::new(),
    }
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        let clients = &self.clients.0;
        let mut connected = clients.connected.lock().unwrap_or_else(PoisonError::into_inner);
        connected.remove(&self.client.id);
        drop(connected);
        clients.moved.notify_waiters();
    }
}

impl fmt::Display for ClientHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = self.client.about.lock().unwrap_or_else(PoisonError::into_inner);
        match about.node.as_str() {
            "" => f.write_str(&self.client.peer),
            node => write!(f, "{node} ({})", self.client.peer),
        }
    }
}
