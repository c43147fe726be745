//! A client of Portolan's plain API (`portolan.v1.Endpoints`): the endpoints of a service, once or
//! as they change, and a tonic channel that is balanced over them.
//!
//! What was known of a service stays in force while the control plane is away, however long that
//! is (static stability); the client connects again by itself, with growing, jittered pauses.
//!
//! ```no_run
//! use futures_util::StreamExt;
//! use portolan_client::Client;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("http://127.0.0.1:15010").await?.with_zone("eu-1a");
//!
//! // Once.
//! let set = client.resolve("web.shop:80").await?;
//! println!("{} endpoints in generation {}", set.endpoints.len(), set.generation);
//!
//! // As they change.
//! let mut sets = client.watch("web.shop:80");
//! while let Some(set) = sets.next().await {
//!     for endpoint in set?.endpoints.values() {
//!         println!("{}", endpoint.address);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A service is named as in a pod, `web.shop` or `web.shop.svc.cluster.local`, or `shop/web`, each
//! with `:` and a port's number or name behind it or without (then it is port 80 if the service has
//! it, else its first).
#![cfg_attr(feature = "channel", doc = include_str!("channel.md"))]

#[cfg(feature = "channel")]
mod channel;
mod set;
mod watch;

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use portolan_proto::v1;
use portolan_proto::v1::endpoints_client::EndpointsClient;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Status};

#[cfg(feature = "channel")]
pub use channel::plain_http;
pub use set::{Absence, Endpoint, EndpointSet, InvalidResponse, Port};
pub use v1::absent::Reason;

/// How often a watch asks to hear from the control plane when nothing changes.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the answer to [`Client::resolve`] may take: it is given at once, or there is none.
const RESOLVE_LIMIT: Duration = Duration::from_secs(15);
/// How often an idle connection is probed, and how long the answer may take.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Largest answer to [`Client::resolve`], in bytes. What a watch is sent is far smaller.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// A client of a control plane. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    stub: EndpointsClient<Channel>,
    identity: v1::Client,
    heartbeat: Duration,
    metadata: MetadataMap,
}

/// A control plane that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not a URI.
    #[error("control plane address {address:?}: {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers there.
    #[error("cannot connect to the control plane at {address}: {source}")]
    Connect {
        /// The address.
        address: String,
        /// What the transport said.
        source: tonic::transport::Error,
    },
}

impl Client {
    /// Connects to a control plane at an address such as `http://127.0.0.1:15010`. Once connected,
    /// it connects again by itself.
    ///
    /// # Errors
    /// [`ConnectError`] when the address is not a URI, or nobody answers there within 5 s.
    pub async fn connect(address: impl Into<String>) -> Result<Self, ConnectError> {
        let address = address.into();
        let channel = target(&address)?.connect().await;
        channel.map(Self::over).map_err(|source| ConnectError::Connect { address, source })
    }

    /// The same, connecting with the first request.
    ///
    /// # Errors
    /// [`ConnectError::Address`] when the address is not a URI.
    pub fn lazy(address: impl Into<String>) -> Result<Self, ConnectError> {
        Ok(Self::over(target(&address.into())?.connect_lazy()))
    }

    /// A client over a channel of your own: with TLS, say, or over several control planes.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self {
            stub: EndpointsClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES),
            identity: v1::Client::default(),
            heartbeat: HEARTBEAT,
            metadata: MetadataMap::new(),
        }
    }

    /// Says what it calls itself in the control plane's log.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.identity.id = id.into();
        self
    }

    /// Says on which Kubernetes node it runs: some services prefer, or allow, endpoints there.
    #[must_use]
    pub fn with_node(mut self, node: impl Into<String>) -> Self {
        self.identity.node = node.into();
        self
    }

    /// Says in which zone it runs: some services prefer endpoints there.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<String>) -> Self {
        self.identity.zone = zone.into();
        self
    }

    /// Sends this metadata with every request, such as a token.
    #[must_use]
    pub fn with_metadata(mut self, metadata: MetadataMap) -> Self {
        self.metadata = metadata;
        self
    }

    /// How often a watch asks to hear from the control plane when nothing changes, in whole seconds
    /// from 1 to 3600; 10 s unless said. After three of these without a word it connects anew.
    #[must_use]
    pub fn with_heartbeat(mut self, heartbeat: Duration) -> Self {
        self.heartbeat = heartbeat.clamp(Duration::from_secs(1), Duration::from_secs(3600));
        self
    }

    /// The endpoints of a service as they are now.
    ///
    /// # Errors
    /// The control plane's status: `NOT_FOUND` for a service or port that does not exist,
    /// `INVALID_ARGUMENT` for a name that is none, `UNAVAILABLE` where it cannot be reached, knows
    /// nothing yet, or is silent for 15 s; `INTERNAL` when the answer makes no sense.
    pub async fn resolve(&self, service: impl Into<String>) -> Result<EndpointSet, Status> {
        let request = v1::ResolveRequest {
            service: service.into(),
            client: Some(self.identity.clone()),
            ..v1::ResolveRequest::default()
        };
        let mut stub = self.stub.clone();
        let resolved = timeout(RESOLVE_LIMIT, stub.resolve(self.request(request))).await;
        let response = resolved.map_err(watch::silent)??.into_inner();
        EndpointSet::try_from(response).map_err(|e| Status::internal(e.to_string()))
    }

    /// The endpoints of a service, now and whenever they change, without end. A service that does
    /// not exist is an empty set that says so ([`EndpointSet::absence`]).
    ///
    /// While the control plane is away nothing comes: the last set stays in force. Only a request
    /// that is refused before the first set came (a name that is none, missing rights) is an error,
    /// which ends the stream. Sets that nobody waits for are passed over, so that the next one is
    /// the newest.
    pub fn watch(
        &self,
        service: impl Into<String>,
    ) -> BoxStream<'static, Result<EndpointSet, Status>> {
        watch::watch(self.clone(), service.into()).boxed()
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        *request.metadata_mut() = self.metadata.clone();
        request
    }
}

fn target(address: &str) -> Result<tonic::transport::Endpoint, ConnectError> {
    let target = tonic::transport::Endpoint::from_shared(address.to_owned()).map_err(|e| {
        ConnectError::Address { address: address.to_owned(), reason: e.to_string() }
    })?;
    Ok(target
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_while_idle(true))
}
