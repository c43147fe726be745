//! The task of one stream: moves requests, changes and responses between the wire and the session.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use portolan_model::{Changes, Generation, Place};
use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::protobuf::value::Kind;
use portolan_runtime::Lifecycle;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status, Streaming};

use super::ServerLimits;
use super::admission::Admission;
use super::admit::Peer;
use super::authorize::{Authorization, Identity};
use super::clients::{Client, ClientHandle, Clients, Inquiry};
use super::interest::Interest;
use super::outbox::Outbox;
use super::refusals::Refusals;
use super::session::{MAX_NAME_BYTES, Outcome, Session, Violation};
use super::wire::Open;
use crate::capability::{Agent, Capabilities};
use crate::catalog::{Catalog, Changed, Name};
use crate::issuer::Issuer;
use crate::metrics::ServerMetrics;
use crate::resource::ResourceType;
use crate::viewer::{Gateways, Own, Viewer, parse_serves};
use crate::{GATEWAYS, IDENTITY, NAMESPACE, NODE_NAME, OWN_IDENTITY, SERVES};

/// How long routes are held back for a client that does not ask for the endpoints of a new cluster.
const HOLD_LIMIT: Duration = Duration::from_secs(5);

/// What all streams share.
#[derive(Debug)]
pub(super) struct Streams {
    /// Held while a catalog is put in force and its changes are told, so that a stream sees all of
    /// a publish or nothing of it: routes without their clusters would come too early.
    pub(super) publishing: RwLock<()>,
    pub(super) catalog: Arc<ArcSwap<Catalog>>,
    pub(super) clients: Clients,
    pub(super) interest: Interest,
    pub(super) metrics: ServerMetrics,
    pub(super) limits: ServerLimits,
    pub(super) refusals: Refusals,
    pub(super) authorization: Option<Authorization>,
    /// What this process itself shows where it comes by its own way.
    pub(super) internal: Option<Arc<str>>,
    pub(super) admission: Admission,
    /// What issues certificates to clients, if anything does.
    pub(super) issuer: Option<Arc<Issuer>>,
    /// Whether clients on this machine are believed who they say they are.
    pub(super) trusts_local: bool,
    pub(super) lifecycle: Lifecycle,
}

impl Streams {
    /// The newest catalog, with what of it a client has not been shown.
    fn newest(&self, client: &Client) -> (Generation, Changes<(ResourceType, Name)>, Arc<Catalog>) {
        let _whole = self.publishing.read().unwrap_or_else(PoisonError::into_inner);
        (self.clients.announced(), client.take_marked(), self.catalog.load_full())
    }

    /// Puts a catalog in force, and tells the streams that what changed concerns.
    pub(super) fn put_in_force(&self, catalog: Catalog, changed: &Changed) {
        let generation = catalog.generation();
        for kind in ResourceType::ALL {
            self.metrics.resources(kind, catalog.wildcard(kind).len());
        }
        self.metrics.oversized(catalog.oversized().len());
        let _whole = self.publishing.write().unwrap_or_else(PoisonError::into_inner);
        self.catalog.store(Arc::new(catalog));
        let told = self.interest.wake(changed);
        self.metrics.told(told, self.interest.len());
        self.clients.announce(generation);
    }
}

/// One client's stream.
pub(super) struct Stream<T> {
    requests: Streaming<T>,
    outbox: Outbox,
    session: Session,
    client: ClientHandle,
    inquiries: mpsc::Receiver<Inquiry>,
    streams: Arc<Streams>,
    /// Who the client is, apart from what it says of itself.
    proven: Viewer,
    /// Whether it is believed whatever service account it says it is.
    names_itself: bool,
    /// Whether it has said who it is.
    named: bool,
    /// Until when routes are held back.
    hold: Option<Instant>,
    /// When the client is next told that what it holds lives on.
    alive: Option<Instant>,
}

/// What a stream waits for.
enum Event<T> {
    /// A request, or the end of them.
    Request(Option<Box<T>>),
    /// Something changed, or there is room for a response.
    Look,
    /// Somebody asks for the state of its resources.
    Inquiry(Inquiry),
    /// The client does not ask for the endpoints of a new cluster.
    HeldTooLong,
    /// What the client holds is about to run out.
    Alive,
    /// The process is asked to stop.
    Draining,
}

impl<T: Open> Stream<T> {
    pub(super) fn new(
        requests: Streaming<T>,
        outbox: Outbox,
        session: Session,
        client: ClientHandle,
        inquiries: mpsc::Receiver<Inquiry>,
        streams: Arc<Streams>,
    ) -> Self {
        Self {
            requests,
            outbox,
            session,
            client,
            inquiries,
            streams,
            proven: Viewer::default(),
            names_itself: false,
            named: false,
            hold: None,
            alive: None,
        }
    }

    /// Serves until either side ends it.
    pub(super) async fn run(mut self, peer: Peer) {
        let Peer { viewer: proven, identity, names_itself, .. } = peer;
        self.names_itself = names_itself;
        self.streams.metrics.streams.inc();
        self.session.on_viewer(proven.clone());
        self.proven = proven;
        if let Some(identity) = identity {
            self.client.identify(identity);
        }
        let result = self.serve().await;
        self.streams.metrics.streams.dec();
        if let Err(status) = result {
            // A client that goes away, and our own drain, are ordinary ends. What is over the limit
            // of a message is out of range, and a broken frame internal, to tonic.
            let is_violation = matches!(
                status.code(),
                Code::ResourceExhausted | Code::InvalidArgument | Code::OutOfRange | Code::Internal
            );
            if is_violation {
                self.streams.metrics.violations.inc();
                tracing::warn!(client = %self.client, reason = status.message(), "xDS stream ended");
            } else {
                tracing::debug!(client = %self.client, %status, "xDS stream ended");
            }
            self.outbox.end(status);
        }
    }

    async fn serve(&mut self) -> Result<(), Status> {
        loop {
            self.push();
            match self.next_event().await? {
                Event::Request(Some(request)) => self.on_request(*request)?,
                Event::Request(None) => return Ok(()),
                Event::Look if self.outbox.is_closed() => return Ok(()),
                Event::Look => {}
                Event::Inquiry(answer) => {
                    let report = self.session.report(&self.streams.catalog.load());
                    // Whoever asked may have gone.
                    let _gone = answer.send(report);
                }
                Event::HeldTooLong => self.session.release(),
                Event::Alive => {
                    self.session.keep_alive();
                    self.alive = None;
                }
                Event::Draining => {
                    return Err(Status::unavailable("the control plane is shutting down"));
                }
            }
        }
    }

    async fn next_event(&mut self) -> Result<Event<T>, Status> {
        let (hold, alive) = (self.hold, self.alive);
        let at = |time: Option<Instant>| sleep_until(time.unwrap_or_else(Instant::now));
        Ok(tokio::select! {
            request = self.requests.message() => Event::Request(request?.map(Box::new)),
            () = self.client.client().wake.notified() => Event::Look,
            () = self.outbox.taken() => Event::Look,
            Some(inquiry) = self.inquiries.recv() => Event::Inquiry(inquiry),
            () = at(hold), if hold.is_some() => Event::HeldTooLong,
            () = at(alive), if alive.is_some() => Event::Alive,
            () = self.streams.lifecycle.draining() => Event::Draining,
        })
    }

    /// Sends what is due while there is room. The catalog is let go of before anything is waited
    /// for: a stream that sleeps keeps no old one.
    fn push(&mut self) {
        let (announced, marked, catalog) = self.streams.newest(self.client.client());
        self.session.on_changes(&marked);
        while self.outbox.is_free() {
            let Some(response) = self.session.next_response(&catalog, now_ms()) else { break };
            self.streams.metrics.response(response.kind);
            tracing::trace!(
                client = %self.client,
                kind = response.kind.name(),
                nonce = response.nonce,
                resources = response.resources.count(),
                removed = response.removed.len(),
                "xDS response"
            );
            self.outbox.put(response);
        }
        let now = Instant::now();
        let settled = self.session.is_settled();
        self.client.update(&self.session, announced, settled);
        self.hold =
            self.session.is_holding().then(|| self.hold.unwrap_or_else(|| now + HOLD_LIMIT));
        let ttl = self.streams.limits.endpoints_ttl;
        if !ttl.is_zero() && self.session.holds_limited() {
            self.alive = self.alive.or_else(|| Some(now + ttl / 3));
        }
    }

    fn on_request(&mut self, request: T) -> Result<(), Status> {
        let (request, node) = request.open();
        // Envoy says who it is in every request: the first counts.
        if let Some(node) = node.filter(|_| !self.named) {
            self.named = true;
            self.client.name(&node);
            if self.names_itself {
                let said = text(&node, IDENTITY).and_then(Identity::parse);
                let own = said.map(|said| self.streams.own(&said)).transpose()?;
                self.proven.own = Own(own.flatten());
            }
            self.session.on_viewer(viewer(&self.proven, &node));
        }
        let outcome = self.session.on_request(request, now_ms()).map_err(|violation| {
            let text = violation.to_string();
            match violation {
                Violation::ForeignType { .. } => Status::invalid_argument(text),
                _ => Status::resource_exhausted(text),
            }
        })?;
        tracing::trace!(client = %self.client, ?outcome, "xDS request");
        for change in self.session.take_interest() {
            tracing::trace!(client = %self.client, ?change, "xDS subscription");
            self.streams.interest.apply(self.client.client(), change);
        }
        match outcome {
            Outcome::Acked(kind) => {
                self.streams.metrics.ack(kind);
                if !self.session.refuses(kind) {
                    self.streams.refusals.settle(self.client.client(), kind);
                }
            }
            Outcome::Nacked(nack) => {
                self.streams.metrics.nack(nack.kind);
                let (kind, words) = (nack.kind.name(), &nack.words);
                if !nack.repeated {
                    let names = nack.names.join(", ");
                    tracing::warn!(client = %self.client, kind, names, %words, "client refused");
                }
                self.streams.refusals.note(self.client.client(), &nack);
            }
            Outcome::Subscribed(_) | Outcome::Stale(_) | Outcome::UnknownType => {}
        }
        Ok(())
    }
}

impl<T> Drop for Stream<T> {
    fn drop(&mut self) {
        for change in self.session.end() {
            self.streams.interest.apply(self.client.client(), change);
        }
        self.streams.refusals.forget(self.client.client());
    }
}

/// The time in milliseconds since the Unix epoch.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The client as it says it is, within what it proved.
fn viewer(proven: &Viewer, node: &Node) -> Viewer {
    let features = &node.client_features;
    let ttl = features.iter().any(|feature| feature == "xds.config.supports-resource-ttl");
    let capabilities = Capabilities::of(&Agent::from(node));
    let gateways = text(node, GATEWAYS).map(Gateways::parse).unwrap_or_default();
    let said = node.metadata.as_ref().is_some_and(|said| said.fields.contains_key(SERVES));
    let (serves, more) = text(node, SERVES).map(parse_serves).unwrap_or((Arc::default(), said));
    let has_other = text(node, OWN_IDENTITY).is_some();
    let may_see = |said: &&str| {
        proven.namespaces.as_ref().is_none_or(|namespaces| namespaces.contains(*said))
    };
    let account = || text(node, IDENTITY)?.split_once('/').map(|(namespace, _)| namespace);
    let said = known(text(node, NAMESPACE)).or_else(|| known(account())).filter(may_see);
    Viewer {
        place: place(node),
        namespace: said.map(Into::into).or_else(|| proven.namespace.clone()),
        gateways,
        serves,
        serves_more: more,
        has_other,
        ttl,
        capabilities,
        ..proven.clone()
    }
}

/// What a client says under a key of its metadata.
fn text<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    match &node.metadata.as_ref()?.fields.get(key)?.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

/// Where a client says it is: the zone of its locality, and its node by the key that Istio's
/// proxies use too.
fn place(node: &Node) -> Place {
    let zone = node.locality.as_ref().map(|locality| locality.zone.as_str());
    let name = text(node, NODE_NAME);
    Place { node: known(name).map(Into::into), zone: known(zone).map(Into::into) }
}

/// A name, if it is one and not too long to be any.
fn known(said: Option<&str>) -> Option<&str> {
    said.filter(|said| !said.is_empty() && said.len() <= MAX_NAME_BYTES)
}
