//! The xDS server: makes the catalog from each snapshot and serves it over gRPC.

mod admission;
mod admit;
pub mod authorize;
mod body;
pub mod clients;
mod connections;
mod csds;
mod discovery;
mod interest;
mod outbox;
pub mod progress;
pub mod raw;
pub mod refusals;
pub mod session;
mod stream;
mod tls;
pub mod wire;

use std::net::TcpListener;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use futures_util::future::OptionFuture;
use imbl::OrdMap;
use portolan_model::Generation;
use portolan_proto::envoy::status::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use portolan_runtime::certificate::CertificateError;
use portolan_runtime::{Gate, Lifecycle, Metrics, Subscriber};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::{InterceptorLayer, Routes};
use tonic::transport::Server;

use crate::catalog::{Catalog, Name};
use crate::config::ResourceConfig;
use crate::issuer::{AUTHORITIES, Issuer, OWN};
use crate::load::LoadReports;
use crate::metrics::ServerMetrics;
use crate::plain::ask::Zones;
use crate::plain::metrics::PlainMetrics;
use crate::plain::{PlainApi, PlainLimits};
use crate::resource::{Encoded, ResourceType};
use crate::secrets::SecretSet;
use admission::Admission;
use authorize::Authorization;
use clients::Clients;
use connections::{Acceptor, Remote};
use csds::Csds;
pub use discovery::ADS;
use interest::Interest;
use progress::Progress;
use raw::{Commands, RawResources};
use refusals::Refusals;
use stream::Streams;
use tls::ServerTls;
pub use tls::TlsFiles;

/// Streams open at once on one connection; a client waits before it opens more. As many as RFC 9113
/// §6.5.2 advises at least.
const MAX_STREAMS_PER_CONNECTION: u32 = 100;

/// Limits of the server.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Connections open at once; more are closed at once.
    pub connections: usize,
    /// Streams open at once; more are refused with `RESOURCE_EXHAUSTED`.
    pub streams: usize,
    /// Streams let in per second, and at once; more wait for their turn, up to 20 s.
    pub streams_per_sec: u32,
    /// Names a stream may be subscribed to at once.
    pub names: usize,
    /// Largest request, in bytes.
    pub request_bytes: usize,
    /// How often an idle connection is probed, how long the answer may take, and how long a new
    /// connection may be without a stream.
    pub keepalive: Duration,
    /// How long clients may use endpoints without hearing of them; zero for as long as they like.
    pub endpoints_ttl: Duration,
}

/// The server before it runs.
#[derive(Debug)]
pub struct XdsServer {
    resources: ResourceConfig,
    config: ServerConfig,
    tls: Option<ServerTls>,
    /// A way in for this process alone, and the token it shows there.
    internal: Option<(TcpListener, Arc<str>)>,
    /// What issues certificates to clients, and whether those on this machine are believed who they say
    /// they are.
    issuer: Option<(Arc<Issuer>, bool)>,
    /// Certificates of listeners, as they change.
    secrets: Option<watch::Receiver<SecretSet>>,
    load: Option<LoadReports>,
    progress: Progress,
    refusals: Refusals,
    raw: RawResources,
    commands: Commands,
    metrics: ServerMetrics,
    plain_metrics: PlainMetrics,
}

/// What the server is to do, besides its resources.
#[derive(Clone, Debug, Default)]
pub struct ServerConfig {
    /// Its limits.
    pub limits: ServerLimits,
    /// TLS, if it is to speak it.
    pub tls: Option<TlsFiles>,
    /// What clients have to prove; `None`: nothing, and all see everything.
    pub authorization: Option<Authorization>,
}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The socket cannot be used.
    #[error("xDS socket: {0}")]
    Socket(#[from] std::io::Error),
    /// gRPC gave up.
    #[error("xDS server: {0}")]
    Transport(#[from] tonic::transport::Error),
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            streams: 10_000,
            streams_per_sec: 1_000,
            names: 100_000,
            request_bytes: 16 * 1024 * 1024,
            keepalive: Duration::from_secs(20),
            endpoints_ttl: Duration::ZERO,
        }
    }
}

impl XdsServer {
    /// A server of these resources.
    ///
    /// # Errors
    /// Certificates that cannot be read.
    pub fn new(
        resources: ResourceConfig,
        config: ServerConfig,
        metrics: &Metrics,
    ) -> Result<Self, CertificateError> {
        let tls = config.tls.as_ref().map(ServerTls::open).transpose()?;
        let clients = Clients::new(config.limits.streams);
        let progress = Progress { catalog: Arc::default(), clients };
        let (raw, commands) = raw::channel();
        let plain_metrics = PlainMetrics::new(metrics);
        let metrics = ServerMetrics::new(metrics);
        let refusals = Refusals::default();
        Ok(Self {
            resources,
            config,
            tls,
            internal: None,
            issuer: None,
            secrets: None,
            load: None,
            progress,
            refusals,
            raw,
            commands,
            metrics,
            plain_metrics,
        })
    }

    /// Opens a way in for this process alone, where clients need neither TLS nor an identity but
    /// this token.
    #[must_use]
    pub fn with_internal(mut self, listener: TcpListener, token: Arc<str>) -> Self {
        self.internal = Some((listener, token));
        self
    }

    /// Issues certificates to clients that have proven who they are; with `trusts_local`, to those on
    /// this machine of which nothing is asked as whom they say they are.
    #[must_use]
    pub fn with_issuer(mut self, issuer: Arc<Issuer>, trusts_local: bool) -> Self {
        self.issuer = Some((issuer, trusts_local));
        self
    }

    /// Serves these certificates by SDS.
    #[must_use]
    pub fn with_secrets(mut self, mut secrets: watch::Receiver<SecretSet>) -> Self {
        // Those that are there already are news, too.
        secrets.mark_changed();
        self.secrets = Some(secrets);
        self
    }

    /// Takes load reports (LRS).
    #[must_use]
    pub fn with_load_reports(mut self, reports: LoadReports) -> Self {
        self.load = Some(reports);
        self
    }

    /// A handle on who is connected.
    #[must_use]
    pub fn clients(&self) -> Clients {
        self.progress.clients.clone()
    }

    /// A handle on how far they are.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// A handle on what clients refuse.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        self.refusals.clone()
    }

    /// A handle by which resources are put in by hand.
    #[must_use]
    pub fn raw(&self) -> RawResources {
        self.raw.clone()
    }

    /// Serves on a bound socket until draining, then ends every stream with `UNAVAILABLE`: clients
    /// keep what they have and connect again.
    ///
    /// # Errors
    /// When the socket or the gRPC server fails.
    pub async fn run(
        self,
        listener: TcpListener,
        snapshots: Subscriber,
        gate: Gate,
        lifecycle: Lifecycle,
    ) -> Result<(), ServerError> {
        let limits = &self.config.limits;
        let streams = Arc::new(Streams {
            publishing: RwLock::default(),
            catalog: self.progress.catalog.clone(),
            clients: self.progress.clients.clone(),
            interest: Interest::default(),
            metrics: self.metrics.clone(),
            limits: limits.clone(),
            refusals: self.refusals.clone(),
            authorization: self.config.authorization.clone(),
            internal: self.internal.as_ref().map(|(_, token)| token.clone()),
            admission: Admission::new(limits.streams_per_sec),
            issuer: self.issuer.as_ref().map(|(issuer, _)| issuer.clone()),
            trusts_local: self.issuer.as_ref().is_some_and(|(_, trusts)| *trusts),
            lifecycle: lifecycle.clone(),
        });
        let (sender, accepted) = connections::channel();
        let acceptor = |listener: TcpListener, internal: bool| {
            Ok::<_, std::io::Error>(Acceptor {
                listener: tokio::net::TcpListener::from_std(listener)?,
                tls: self.tls.clone().filter(|_| !internal),
                internal,
                limit: limits.connections,
                keepalive: limits.keepalive,
                metrics: self.metrics.clone(),
            })
        };
        let plain = self.plain(&snapshots, &streams);
        let public = acceptor(listener, false)?;
        let internal = self.internal.map(|(listener, _)| acceptor(listener, true)).transpose()?;
        let router = discovery::route(Routes::default().into_axum_router(), &streams);
        let server = Server::builder()
            // Each ping costs its stream some 50 µs: at 5,000 of them one in 20 s was most of what they
            // cost while idle. The system's own probes find a dead peer sooner.
            .http2_keepalive_interval(Some(limits.keepalive * 3))
            .http2_keepalive_timeout(Some(limits.keepalive))
            .max_concurrent_streams(Some(MAX_STREAMS_PER_CONNECTION))
            .layer(InterceptorLayer::new(connections::note_use))
            .add_routes(Routes::from(router))
            .add_optional_service(self.load.as_ref().map(|load| load.service(lifecycle.clone())))
            .add_service(ClientStatusDiscoveryServiceServer::new(Csds(streams.clone())));
        let served = plain
            .add_to(server)
            .await
            .serve_with_incoming_shutdown(ReceiverStream::new(accepted), lifecycle.draining());
        let following = async {
            if let Some(tls) = &self.tls {
                tls.follow(&lifecycle).await;
            }
        };
        let accepting = async {
            let internal = internal.map(|internal| internal.run(sender.clone(), lifecycle.clone()));
            let public = public.run(sender.clone(), lifecycle.clone());
            tokio::join!(public, OptionFuture::from(internal));
            drop(sender);
        };
        let renewals = self.issuer.as_ref().map(|(issuer, _)| issuer.changes());
        let issuing = async {
            if let Some((issuer, _)) = &self.issuer {
                issuer.clone().run(lifecycle.clone()).await;
            }
        };
        let news = News { snapshots, secrets: self.secrets, commands: self.commands, renewals };
        let publishing = publish(&self.resources, news, &streams, &gate);
        let (served, ..) =
            tokio::join!(served, publishing, accepting, following, issuing, plain.run());
        self.progress.clients.drained().await;
        Ok(served?)
    }
}

impl XdsServer {
    /// The API for clients that do not speak xDS, on the same socket and for the same clients.
    fn plain(&self, snapshots: &Subscriber, streams: &Arc<Streams>) -> PlainApi {
        let zones = Zones {
            cluster: self.resources.zone.clone(),
            cluster_set: self.resources.cluster_set_zone.clone(),
        };
        let limits = PlainLimits { watches: streams.limits.streams, ..PlainLimits::default() };
        let (metrics, lifecycle) = (self.plain_metrics.clone(), streams.lifecycle.clone());
        let plain = PlainApi::new(snapshots.clone(), zones, limits, metrics, lifecycle);
        let streams = streams.clone();
        plain.with_authorization(Arc::new(move |caller, namespace| {
            let remote = caller.extensions.get::<Remote>().cloned();
            let headers = caller.metadata.clone().into_headers();
            let (streams, namespace) = (streams.clone(), namespace.to_owned());
            Box::pin(async move { streams.may_see(remote.as_ref(), &headers, &namespace).await })
        }))
    }
}

/// What makes a new catalog.
struct News {
    snapshots: Subscriber,
    secrets: Option<watch::Receiver<SecretSet>>,
    commands: Commands,
    /// Of certificates of clients.
    renewals: Option<watch::Receiver<u64>>,
}

/// Turns news into catalogs until draining.
async fn publish(resources: &ResourceConfig, mut news: News, streams: &Streams, gate: &Gate) {
    loop {
        let old = streams.catalog.load_full();
        let (catalog, changed, done) = tokio::select! {
            update = news.snapshots.next() => {
                let Some(update) = update else { return };
                let (catalog, changed) = old.next(&update.snapshot, &update.changes, resources);
                (catalog, changed, None)
            }
            Some(secrets) = next_secrets(&mut news.secrets) => {
                let (catalog, changed) = old.with_secrets(secrets);
                (catalog, changed, None)
            }
            () = renewed(&mut news.renewals) => {
                let own = [OWN, AUTHORITIES].map(|name| (ResourceType::Secret, name.into()));
                (Catalog::clone(&old), own.into(), None)
            }
            Some(command) = news.commands.next() => {
                let (catalog, changed, done) = command.apply(&old);
                (catalog, changed, Some(done))
            }
            () = streams.lifecycle.draining() => return,
        };
        drop(old);
        let generation = catalog.generation();
        streams.put_in_force(catalog, &changed);
        match done {
            Some(done) => done.tell(),
            None if generation > Generation(0) => gate.applied(generation),
            None => {}
        }
    }
}

/// Completes once certificates of clients were renewed; never where nobody issues any.
async fn renewed(renewals: &mut Option<watch::Receiver<u64>>) {
    let Some(receiver) = renewals else { return std::future::pending().await };
    if receiver.changed().await.is_err() {
        *renewals = None;
        std::future::pending::<()>().await;
    }
}

/// The certificates of listeners once they are there or changed; never again once nobody follows
/// them.
async fn next_secrets(
    secrets: &mut Option<watch::Receiver<SecretSet>>,
) -> Option<OrdMap<Name, Encoded>> {
    let receiver = secrets.as_mut()?;
    if receiver.changed().await.is_err() {
        *secrets = None;
        return None;
    }
    let set = receiver.borrow_and_update().clone();
    Some(set.iter().map(|(name, encoded)| (name.clone(), encoded.clone())).collect())
}
