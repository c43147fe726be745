//! The xDS client of our proxy: keeps one ADS stream to a control plane and turns what comes into
//! the proxy's configuration. Works with any conforming control plane.
//!
//! When the control plane is away the last configuration stays in force (static stability) and
//! the connection is tried again, with growing and jittered pauses.

pub mod connect;
pub mod decode;
mod load;
mod own;
pub mod session;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::TrafficConfig;
use portolan_proto::envoy::core::node::UserAgentVersionType;
use portolan_proto::envoy::core::{Locality, Node};
use portolan_proto::envoy::discovery::DiscoveryRequest;
use portolan_proto::envoy::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use portolan_proto::envoy::protobuf::value::Kind;
use portolan_proto::envoy::protobuf::{Struct, Value};
use portolan_runtime::pause::jittered;
use portolan_runtime::{Lifecycle, Metrics};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::metrics::ClientMetrics;
use crate::{GATEWAYS, IDENTITY, NAMESPACE, NODE_NAME, OWN_IDENTITY, SERVES};
use connect::Target;
pub use connect::{ClientTls, Token};
pub use load::LoadSource;
use own::Follower;
pub use own::{InvalidSource, OwnSecrets, OwnSource};
use session::Session;

/// Requests handed over to be written: room for the first ones of a stream. What does not fit
/// waits in the [`Outbox`].
const REQUESTS_WAITING: usize = 16;
/// Largest response taken, in bytes.
pub(crate) const MAX_RESPONSE_BYTES: usize = 256 * 1024 * 1024;
/// How long a configuration whose parts refer to something still missing is held back.
const HOLD_INCOMPLETE: Duration = Duration::from_millis(500);
/// How long the first one is held back while listeners or clusters are missing altogether (Envoy's
/// `initial_fetch_timeout`).
const HOLD_FIRST: Duration = Duration::from_secs(15);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LIMIT: Duration = Duration::from_secs(10);
/// A stream that lasted this long starts the pauses anew.
const BACKOFF_RESET: Duration = Duration::from_secs(30);

/// Settings of the client.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Address of the control plane, such as `http://127.0.0.1:15010`.
    pub control: String,
    /// Id of this proxy among all.
    pub node_id: String,
    /// The zone this proxy runs in.
    pub zone: Option<String>,
    /// The Kubernetes node it runs on.
    pub node_name: Option<String>,
    /// The namespace that its requests come from.
    pub namespace: Option<String>,
    /// TLS with the control plane, for an address that begins with `https`.
    pub tls: ClientTls,
    /// The Gateways it serves: `*`, or names such as `shop/web` between commas.
    pub gateways: Option<String>,
    /// The services in front of whose endpoints it stands: names such as `shop/web` between commas.
    pub serves: Option<String>,
    /// Where it listens there; `None`: at all addresses.
    pub inbound_address: Option<IpAddr>,
    /// The service account that it asks to be, where it need not prove it.
    pub service_account: Option<String>,
    /// What it proves its identity with, besides a certificate.
    pub token: Option<Token>,
    /// Where its certificate towards other proxies is from; `None`: the control plane.
    pub own: Option<OwnSource>,
}

/// The client before it runs.
#[derive(Debug)]
pub struct XdsClient {
    target: Target,
    tls: ClientTls,
    token: Option<Token>,
    node: Node,
    metrics: ClientMetrics,
    sender: watch::Sender<Arc<TrafficConfig>>,
    inbound_address: Option<IpAddr>,
    load: Option<LoadSource>,
    own: Option<(Follower, watch::Receiver<OwnSecrets>)>,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum InvalidClient {
    /// The address of the control plane.
    #[error("the control plane: {0}")]
    Control(#[from] InvalidControl),
    /// Where its certificate is from.
    #[error(transparent)]
    Own(#[from] InvalidSource),
}

/// An address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("address {address:?}: {reason}")]
pub struct InvalidControl {
    address: String,
    reason: String,
}

impl XdsClient {
    /// A client and the place where it puts the configuration, empty at first.
    ///
    /// # Errors
    /// When the address is not a URI, or the proxy's own certificate cannot be had.
    pub fn new(
        config: &ClientConfig,
        metrics: &Metrics,
    ) -> Result<(Self, watch::Receiver<Arc<TrafficConfig>>), InvalidClient> {
        let invalid = |reason: String| InvalidControl { address: config.control.clone(), reason };
        let target = Target::new(&config.control).map_err(|e| invalid(e.to_string()))?.far();
        let (sender, receiver) = watch::channel(Arc::default());
        let own = config.own.as_ref().map(|source| Follower::open(source, metrics)).transpose()?;
        let metrics = ClientMetrics::new(metrics);
        let (tls, token) = (config.tls.clone(), config.token.clone());
        let (node, inbound_address) = (node(config), config.inbound_address);
        let load = None;
        let client = Self { target, tls, token, node, metrics, sender, inbound_address, load, own };
        Ok((client, receiver))
    }

    /// Reports load where clusters ask for it.
    #[must_use]
    pub fn with_load(mut self, source: LoadSource) -> Self {
        self.load = Some(source);
        self
    }

    /// Keeps the configuration up to date until draining.
    ///
    /// # Errors
    /// Never: a control plane that is away or sends rubbish is waited for.
    pub async fn run(self, lifecycle: Lifecycle) -> Result<(), std::convert::Infallible> {
        tokio::select! {
            ended = self.follow(&lifecycle) => ended,
            () = self.follow_own(&lifecycle) => Ok(()),
            () = self.report_load() => Ok(()),
        }
    }

    /// Follows where the proxy's certificate is from.
    async fn follow_own(&self, lifecycle: &Lifecycle) {
        if let Some((source, _)) = &self.own {
            source.run(lifecycle).await;
        }
        std::future::pending::<()>().await;
    }

    async fn follow(&self, lifecycle: &Lifecycle) -> Result<(), std::convert::Infallible> {
        let mut session = Session::listening_at(self.inbound_address);
        let mut own = self.own.as_ref().map(|(_, secrets)| secrets.clone());
        if let Some(own) = &mut own {
            session.set_own(&own.borrow_and_update());
        }
        let mut pause = BACKOFF_FIRST;
        loop {
            let started = Instant::now();
            let status = tokio::select! {
                status = self.stream(&mut session, own.as_mut()) => status,
                () = lifecycle.draining() => return Ok(()),
            };
            self.metrics.connected.set(0);
            tracing::warn!(
                control = %self.target,
                %status,
                retry_ms = pause.as_millis(),
                "no control plane; the last configuration stays in force"
            );
            if started.elapsed() >= BACKOFF_RESET {
                pause = BACKOFF_FIRST;
            }
            let over = tokio::time::sleep(jittered(pause));
            tokio::select! {
                () = self.beside_own(&mut session, own.as_mut(), over) => {}
                () = lifecycle.draining() => return Ok(()),
            }
            pause = (pause * 2).min(BACKOFF_LIMIT);
        }
    }

    /// Waits for something while the proxy's certificate is followed: it may be renewed, or run out,
    /// while a control plane takes its time.
    async fn beside_own<T>(
        &self,
        session: &mut Session,
        mut own: Option<&mut watch::Receiver<OwnSecrets>>,
        awaited: impl Future<Output = T>,
    ) -> T {
        let mut awaited = pin!(awaited);
        loop {
            tokio::select! {
                done = &mut awaited => return done,
                () = own::changed(own.as_deref_mut()) => self.renew(session, own.as_deref_mut()),
            }
        }
    }

    /// One stream, to its end; returns why it ended.
    async fn stream(
        &self,
        session: &mut Session,
        own: Option<&mut watch::Receiver<OwnSecrets>>,
    ) -> Status {
        self.metrics.connects.inc();
        let mut hold = None;
        let ended = self.try_stream(session, own, &mut hold).await;
        // Nothing more comes for now: what there is, is better than what was before.
        if hold.is_some() && session.is_begun() {
            self.publish(session);
        }
        match ended {
            Ok(()) => Status::unavailable("the control plane closed the stream"),
            Err(status) => status,
        }
    }

    /// `hold`: until when what came is held back, if it is.
    async fn try_stream(
        &self,
        session: &mut Session,
        mut own: Option<&mut watch::Receiver<OwnSecrets>>,
        hold: &mut Option<Instant>,
    ) -> Result<(), Status> {
        let connected = self.target.connect(&self.tls);
        let (channel, ended) = self.beside_own(session, own.as_deref_mut(), connected).await?;
        let bearer = connect::bearer(self.token.as_ref())?;
        let mut client = AggregatedDiscoveryServiceClient::with_interceptor(channel, bearer)
            .max_decoding_message_size(MAX_RESPONSE_BYTES);
        let (requests, receiver) = mpsc::channel(REQUESTS_WAITING);
        let mut outbox = Outbox { waiting: VecDeque::new(), node: Some(self.node.clone()) };
        outbox.put(session.start());
        while let Ok(permit) = requests.try_reserve()
            && let Some(request) = outbox.take()
        {
            permit.send(request);
        }
        let opened = ended.or(client.stream_aggregated_resources(ReceiverStream::new(receiver)));
        let response = self.beside_own(session, own.as_deref_mut(), opened).await?;
        let mut responses = response.into_inner();
        self.metrics.connected.set(1);
        tracing::info!(control = %self.target, "connected to the control plane");
        loop {
            let deadline = hold.unwrap_or_else(Instant::now);
            let message = tokio::select! {
                message = responses.message() => message?,
                // What a control plane does not read must not keep us from reading.
                permit = requests.reserve(), if !outbox.waiting.is_empty() => {
                    let closed = |_| Status::unavailable("the control plane closed the stream");
                    let permit = permit.map_err(closed)?;
                    if let Some(request) = outbox.take() {
                        permit.send(request);
                    }
                    continue;
                }
                () = own::changed(own.as_deref_mut()) => {
                    self.renew(session, own.as_deref_mut());
                    continue;
                }
                () = tokio::time::sleep_until(deadline), if hold.is_some() => {
                    *hold = None;
                    self.publish(session);
                    continue;
                }
            };
            let Some(response) = message else { return Ok(()) };
            let step = session.on_response(response);
            if let Some(kind) = step.kind {
                self.metrics.response(kind);
                if !step.errors.is_empty() {
                    self.metrics.rejected(kind);
                    let errors = step.errors.join("; ");
                    tracing::warn!(kind = kind.name(), errors, "refused xDS resources");
                }
            }
            outbox.put(step.requests);
            if session.is_complete() {
                *hold = None;
                self.sender.send_replace(Arc::new(session.config().clone()));
            } else {
                let wait = if session.is_begun() { HOLD_INCOMPLETE } else { HOLD_FIRST };
                let until = Instant::now() + wait;
                *hold = Some(hold.map_or(until, |earlier| earlier.min(until)));
            }
        }
    }

    /// Puts another certificate of the proxy's in force, with what came last.
    fn renew(&self, session: &mut Session, own: Option<&mut watch::Receiver<OwnSecrets>>) {
        let Some(own) = own else { return };
        session.set_own(&own.borrow_and_update());
        if session.is_begun() {
            self.publish(session);
        }
    }

    /// Puts what came in force, as far as what it refers to is there.
    fn publish(&self, session: &Session) {
        let config = session.in_force(&self.sender.borrow());
        self.sender.send_replace(Arc::new(config));
    }
}

/// Requests that wait to be handed over: of each type the newest, which says all that an older one
/// would. So there are never more than there are types, whatever a control plane reads.
struct Outbox {
    waiting: VecDeque<DiscoveryRequest>,
    /// Goes with the first request of a stream.
    node: Option<Node>,
}

impl Outbox {
    fn put(&mut self, requests: Vec<DiscoveryRequest>) {
        for request in requests {
            match self.waiting.iter_mut().find(|older| older.type_url == request.type_url) {
                Some(older) => *older = request,
                None => self.waiting.push_back(request),
            }
        }
    }

    fn take(&mut self) -> Option<DiscoveryRequest> {
        let request = self.waiting.pop_front()?;
        Some(DiscoveryRequest { node: self.node.take(), ..request })
    }
}

fn node(config: &ClientConfig) -> Node {
    let zone = config.zone.clone().unwrap_or_default();
    let name = |name: &String| Value { kind: Some(Kind::StringValue(name.clone())) };
    let known = "yes".to_owned();
    let said = [
        (NODE_NAME, config.node_name.as_ref()),
        (NAMESPACE, config.namespace.as_ref()),
        (GATEWAYS, config.gateways.as_ref()),
        (SERVES, config.serves.as_ref()),
        (IDENTITY, config.service_account.as_ref()),
        (OWN_IDENTITY, config.own.as_ref().map(|_| &known)),
    ];
    let fields = said.into_iter().filter_map(|(key, said)| Some((key.to_owned(), name(said?))));
    let fields = fields.collect();
    Node {
        metadata: Some(Struct { fields }),
        cluster: "portolan".to_owned(),
        locality: Some(Locality { zone, ..Locality::default() }),
        ..called(&config.node_id)
    }
}

/// A client of this kind and version.
fn called(id: &str) -> Node {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Node {
        id: id.to_owned(),
        user_agent_name: "portolan".to_owned(),
        user_agent_version_type: Some(UserAgentVersionType::UserAgentVersion(version)),
        ..Node::default()
    }
}
