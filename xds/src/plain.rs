//! The plain gRPC API: endpoints of a service for clients that do not speak xDS
//! (`portolan.v1.Endpoints`), with server reflection and the standard health service.
//!
//! It shares the xDS server's socket, and gives the endpoints that xDS would give a client in the
//! same place.

pub mod ask;
mod ending;
pub mod hub;
pub mod metrics;
mod service;
pub mod view;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use portolan_model::Generation;
use portolan_proto::v1::endpoints_server::{EndpointsServer, SERVICE_NAME};
use portolan_runtime::{Lifecycle, Subscriber};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::server::Router;
use tonic::{Extensions, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use crate::server::ADS;
use ask::Zones;
use ending::Ending;
use hub::Hub;
use metrics::PlainMetrics;
use service::EndpointsService;

/// Largest request, in bytes: every field at its longest fits several times.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// The names that the health service knows; the empty one is the server as a whole.
const HEALTH_NAMES: [&str; 3] = ["", SERVICE_NAME, ADS];

/// Limits of the plain API.
#[derive(Clone, Debug)]
pub struct PlainLimits {
    /// Watches open at once; more are refused with `RESOURCE_EXHAUSTED`.
    pub watches: usize,
    /// After how long without a change a watch is sent a heartbeat, unless it asks for another.
    pub heartbeat: Duration,
    /// The shortest it may ask for.
    pub heartbeat_min: Duration,
    /// The longest it may ask for.
    pub heartbeat_max: Duration,
}

/// Who sends a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The request's metadata.
    pub metadata: &'a MetadataMap,
    /// What the transport and the layers before it know of the connection: peer address,
    /// certificates.
    pub extensions: &'a Extensions,
}

/// Decides whether a caller may know the endpoints of a namespace. Asked once per request: a watch
/// that has begun goes on.
pub type Authorize =
    dyn Fn(&Caller<'_>, &str) -> BoxFuture<'static, Result<(), Status>> + Send + Sync;

/// The API before it is served. Cheap to clone.
#[derive(Clone)]
pub struct PlainApi {
    service: EndpointsService,
    health: HealthReporter,
    /// Ends health watches and reflection.
    end: CancellationToken,
}

impl Default for PlainLimits {
    fn default() -> Self {
        Self {
            watches: 10_000,
            heartbeat: Duration::from_secs(30),
            heartbeat_min: Duration::from_secs(1),
            heartbeat_max: Duration::from_secs(3600),
        }
    }
}

impl PlainApi {
    /// The API over these snapshots. Everybody may ask for everything.
    #[must_use]
    pub fn new(
        snapshots: Subscriber,
        zones: Zones,
        limits: PlainLimits,
        metrics: PlainMetrics,
        lifecycle: Lifecycle,
    ) -> Self {
        let service = EndpointsService {
            snapshots,
            hub: Hub::new(metrics.services.clone()),
            zones: Arc::new(zones),
            room: Arc::new(Semaphore::new(limits.watches.min(Semaphore::MAX_PERMITS))),
            limits,
            authorize: Arc::new(|_, _| Box::pin(async { Ok(()) })),
            metrics,
            lifecycle,
        };
        Self { service, health: HealthReporter::new(), end: CancellationToken::new() }
    }

    /// The same, asking this for each request.
    #[must_use]
    pub fn with_authorization(mut self, authorize: Arc<Authorize>) -> Self {
        self.service.authorize = authorize;
        self
    }

    /// Adds the services to a server: `portolan.v1.Endpoints`, health, reflection (v1 and v1alpha).
    /// [`Self::run`] is to run beside it.
    pub async fn add_to<L>(&self, server: Router<L>) -> Router<L> {
        self.report(ServingStatus::NotServing).await;
        let health = HealthServer::new(HealthService::from_health_reporter(self.health.clone()));
        let endpoints =
            EndpointsServer::new(self.service.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
        let fine = "our own descriptors are whole";
        let reflection_v1 = reflection().build_v1().expect(fine);
        let reflection_alpha = reflection().build_v1alpha().expect(fine);
        server
            .add_service(endpoints)
            .add_service(Ending::new(health, self.end.clone()))
            .add_service(Ending::new(reflection_v1, self.end.clone()))
            .add_service(Ending::new(reflection_alpha, self.end.clone()))
    }

    /// Hands snapshots on to the watches, and keeps the health up to date, until draining. Health
    /// is `SERVING` from the first snapshot to the drain.
    pub async fn run(self) {
        let EndpointsService { hub, lifecycle, snapshots, .. } = &self.service;
        let mut snapshots = snapshots.clone();
        loop {
            let update = tokio::select! {
                update = snapshots.next() => update,
                () = lifecycle.draining() => None,
            };
            let Some(update) = update else { break };
            let is_first = hub.generation() == Generation(0);
            hub.apply(update);
            if is_first {
                self.report(ServingStatus::Serving).await;
            }
        }
        // Where the source has ended, what it said last stays in force.
        lifecycle.draining().await;
        self.report(ServingStatus::NotServing).await;
        self.end.cancel();
    }

    async fn report(&self, status: ServingStatus) {
        for name in HEALTH_NAMES {
            self.health.set_service_status(name, status).await;
        }
    }
}

impl fmt::Debug for PlainApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlainApi").field("limits", &self.service.limits).finish_non_exhaustive()
    }
}

/// What the server says of itself. The discovery services of xDS are not listed: that would take
/// the descriptors of all of Envoy's API.
fn reflection() -> tonic_reflection::server::Builder<'static> {
    use tonic_reflection::pb::{v1, v1alpha};
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(portolan_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(v1::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(v1alpha::FILE_DESCRIPTOR_SET)
        .with_service_name(SERVICE_NAME)
        .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
        .with_service_name(v1::server_reflection_server::SERVICE_NAME)
        .with_service_name(v1alpha::server_reflection_server::SERVICE_NAME)
}

/// How a stream ends when the control plane does.
fn shutting_down() -> Status {
    Status::unavailable("the control plane is shutting down")
}
