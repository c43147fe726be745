//! Who is connected: admission up to a limit, the streams' tasks, and their state for the admin
//! page.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::core::node::UserAgentVersionType;
use serde::Serialize;
use tokio_util::task::TaskTracker;

use super::session::{Session, TypeStatus};

/// Longest node id that is kept, in characters.
const MAX_NODE_ID: usize = 256;

/// The connected clients. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clients {
    limit: usize,
    next: Arc<AtomicU64>,
    connected: Arc<Mutex<BTreeMap<u64, ClientStatus>>>,
    streams: TaskTracker,
}

/// A client's place among the connected; leaving it drops the place.
#[derive(Debug)]
pub struct ClientHandle {
    id: u64,
    peer: String,
    /// `node (peer)`, once the client has said its node.
    label: Option<String>,
    clients: Clients,
}

/// What is known of a client.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ClientStatus {
    /// Address it came from.
    pub peer: String,
    /// Its node id.
    pub node: String,
    /// Name and version of its software.
    pub agent: String,
    /// Its state by type.
    pub types: BTreeMap<&'static str, TypeStatus>,
}

impl Clients {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, next: Arc::default(), connected: Arc::default(), streams: TaskTracker::new() }
    }

    /// A place for a new client, unless all are taken.
    pub(super) fn admit(&self, peer: String) -> Option<ClientHandle> {
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if connected.len() >= self.limit {
            return None;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let status = ClientStatus { peer: peer.clone(), ..ClientStatus::default() };
        connected.insert(id, status);
        Some(ClientHandle { id, peer, label: None, clients: self.clone() })
    }

    /// Starts a stream's task; [`Self::drained`] waits for it.
    pub(super) fn run(&self, stream: impl Future<Output = ()> + Send + 'static) {
        self.streams.spawn(stream);
    }

    /// Completes when no stream is left.
    pub(super) async fn drained(&self) {
        self.streams.close();
        self.streams.wait().await;
    }

    /// The state of every connected client.
    #[must_use]
    pub fn status(&self) -> Vec<ClientStatus> {
        let connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        connected.values().cloned().collect()
    }
}

impl ClientHandle {
    /// Takes in who the client says it is. Envoy says so in every request: the first counts.
    pub(super) fn name(&mut self, node: &Node) {
        if self.label.is_some() {
            return;
        }
        let version = match &node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
            Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
                .version
                .as_ref()
                .map(|v| format!("{}.{}.{}", v.major_number, v.minor_number, v.patch))
                .unwrap_or_default(),
            None => String::new(),
        };
        let cut = |text: &str| text.chars().take(MAX_NODE_ID).collect::<String>();
        self.label = Some(format!("{} ({})", cut(&node.id), self.peer));
        let agent = cut(format!("{} {version}", node.user_agent_name).trim_end());
        self.with(|status| {
            status.node = cut(&node.id);
            status.agent = agent;
        });
    }

    pub(super) fn update(&self, session: &Session) {
        self.with(|status| status.types = session.status());
    }

    fn with(&self, change: impl FnOnce(&mut ClientStatus)) {
        let mut connected = self.clients.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = connected.get_mut(&self.id) {
            change(status);
        }
    }
}

impl Drop for ClientHandle {
    fn drop(&mut self) {
        let mut connected = self.clients.connected.lock().unwrap_or_else(PoisonError::into_inner);
        connected.remove(&self.id);
    }
}

impl fmt::Display for ClientHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label.as_ref().unwrap_or(&self.peer))
    }
}
