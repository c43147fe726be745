//! The xDS server: makes the catalog from each snapshot and serves it over gRPC.

pub mod ads;
pub mod clients;
pub mod session;
pub mod wire;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use portolan_runtime::{Gate, Lifecycle, Metrics, Subscriber};
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::catalog::Catalog;
use crate::config::ResourceConfig;
use crate::metrics::ServerMetrics;
use crate::resource::ResourceType;
use ads::Ads;
use clients::Clients;

/// Limits of the server.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    /// Streams open at once; more are refused with `RESOURCE_EXHAUSTED`.
    pub streams: usize,
    /// Largest request, in bytes.
    pub request_bytes: usize,
    /// How often an idle connection is probed, and how long the answer may take.
    pub keepalive: Duration,
}

/// The server before it runs.
#[derive(Debug)]
pub struct XdsServer {
    resources: ResourceConfig,
    limits: ServerLimits,
    clients: Clients,
    metrics: ServerMetrics,
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
            streams: 10_000,
            request_bytes: 16 * 1024 * 1024,
            keepalive: Duration::from_secs(20),
        }
    }
}

impl XdsServer {
    /// A server of these resources.
    #[must_use]
    pub fn new(resources: ResourceConfig, limits: ServerLimits, metrics: &Metrics) -> Self {
        let clients = Clients::new(limits.streams);
        Self { resources, limits, clients, metrics: ServerMetrics::new(metrics) }
    }

    /// A handle on who is connected.
    #[must_use]
    pub fn clients(&self) -> Clients {
        self.clients.clone()
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
        let (sender, receiver) = watch::channel(Arc::new(Catalog::default()));
        let ads = Ads {
            catalog: receiver,
            clients: self.clients.clone(),
            metrics: self.metrics.clone(),
            lifecycle: lifecycle.clone(),
            max_request_bytes: self.limits.request_bytes,
        };
        // The builder's own TCP settings do not reach sockets it is handed.
        let incoming = TcpIncoming::from(tokio::net::TcpListener::from_std(listener)?)
            .with_nodelay(Some(true));
        let served = Server::builder()
            .http2_keepalive_interval(Some(self.limits.keepalive))
            .http2_keepalive_timeout(Some(self.limits.keepalive))
            .add_service(ads)
            .serve_with_incoming_shutdown(incoming, lifecycle.draining());
        let publishing = self.publish(snapshots, &sender, &gate, &lifecycle);
        let (served, ()) = tokio::join!(served, publishing);
        self.clients.drained().await;
        Ok(served?)
    }

    /// Turns snapshots into catalogs until draining.
    async fn publish(
        &self,
        mut snapshots: Subscriber,
        sender: &watch::Sender<Arc<Catalog>>,
        gate: &Gate,
        lifecycle: &Lifecycle,
    ) {
        loop {
            let update = tokio::select! {
                update = snapshots.next() => update,
                () = lifecycle.draining() => return,
            };
            let Some(update) = update else { return };
            let catalog = sender.borrow().next(&update.snapshot, &update.changes, &self.resources);
            for kind in ResourceType::ALL {
                self.metrics.resources(kind, catalog.wildcard(kind).len());
            }
            let generation = catalog.generation();
            sender.send_replace(Arc::new(catalog));
            gate.applied(generation);
        }
    }
}
