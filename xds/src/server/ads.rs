//! The tonic shell of the ADS method: one task per stream, all protocol in the session.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use portolan_model::Place;
use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::discovery::DiscoveryRequest;
use portolan_proto::envoy::protobuf::value::Kind;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Status, Streaming};

use super::clients::{ClientHandle, Clients};
use super::session::{MAX_NAME_BYTES, Outcome, Response, Session};
use super::wire::{ResponseCodec, open};
use crate::NODE_NAME;
use crate::catalog::Catalog;
use crate::metrics::ServerMetrics;
use portolan_runtime::Lifecycle;

/// How long routes are held back for a client that does not ask for the endpoints of a new cluster.
const HOLD_LIMIT: Duration = Duration::from_secs(5);
/// Responses a stream may have waiting for its client. What else is due is computed when there is
/// room again, from the newest catalog.
const RESPONSES_WAITING: usize = 4;
const SOTW_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// The service, cloned per connection.
#[derive(Clone, Debug)]
pub struct Ads {
    pub(super) catalog: watch::Receiver<Arc<Catalog>>,
    pub(super) clients: Clients,
    pub(super) metrics: ServerMetrics,
    pub(super) lifecycle: Lifecycle,
    pub(super) max_request_bytes: usize,
}

impl NamedService for Ads {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<Body>> for Ads {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let ads = self.clone();
        Box::pin(async move {
            if request.uri().path() != SOTW_PATH {
                let text = format!("{} is not served", request.uri().path());
                return Ok(Status::unimplemented(text).into_http());
            }
            let limit = Some(ads.max_request_bytes);
            let mut grpc = Grpc::new(ResponseCodec).apply_max_message_size_config(limit, None);
            Ok(grpc.streaming(Method(ads), request).await)
        })
    }
}

struct Method(Ads);

impl StreamingService<DiscoveryRequest> for Method {
    type Response = Response;
    type ResponseStream = ReceiverStream<Result<Response, Status>>;
    type Future = BoxFuture<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: Request<Streaming<DiscoveryRequest>>) -> Self::Future {
        let ads = self.0.clone();
        Box::pin(async move {
            let peer = request.remote_addr().map(|a| a.to_string()).unwrap_or_default();
            let Some(client) = ads.clients.admit(peer) else {
                ads.metrics.refused.inc();
                return Err(Status::resource_exhausted("too many streams"));
            };
            let (sender, receiver) = mpsc::channel(RESPONSES_WAITING);
            let stream = Stream {
                requests: request.into_inner(),
                responses: sender,
                catalog: ads.catalog.clone(),
                session: Session::default(),
                client,
                metrics: ads.metrics.clone(),
                lifecycle: ads.lifecycle.clone(),
            };
            ads.clients.run(stream.run());
            Ok(tonic::Response::new(ReceiverStream::new(receiver)))
        })
    }
}

/// What a stream waits for.
enum Event {
    /// A request, or the end of them.
    Request(Option<Box<DiscoveryRequest>>),
    /// A newer catalog, or no more of them.
    Catalog(bool),
    /// Room for a response, or nobody to read it.
    Room(bool),
    /// The client does not ask for the endpoints of a new cluster.
    HeldTooLong,
}

/// One client's stream.
struct Stream {
    requests: Streaming<DiscoveryRequest>,
    responses: mpsc::Sender<Result<Response, Status>>,
    catalog: watch::Receiver<Arc<Catalog>>,
    session: Session,
    client: ClientHandle,
    metrics: ServerMetrics,
    lifecycle: Lifecycle,
}

impl Stream {
    async fn run(mut self) {
        self.metrics.streams.inc();
        let result = self.serve().await;
        self.metrics.streams.dec();
        if let Err(status) = result {
            // A client that goes away, and our own drain, are ordinary ends.
            if status.code() == tonic::Code::ResourceExhausted {
                tracing::warn!(client = %self.client, reason = status.message(), "xDS stream ended");
            } else {
                tracing::debug!(client = %self.client, %status, "xDS stream ended");
            }
            // The client may be gone already: then there is nobody to tell.
            let _gone = self.responses.try_send(Err(status));
        }
    }

    async fn serve(&mut self) -> Result<(), Status> {
        let mut catalog = self.catalog.borrow_and_update().clone();
        self.session.on_catalog(&catalog);
        let mut hold: Option<Instant> = None;
        loop {
            if let Err(status) = self.push(&catalog) {
                return status;
            }
            hold = self
                .session
                .is_holding()
                .then(|| hold.unwrap_or_else(|| Instant::now() + HOLD_LIMIT));
            // With room in the channel everything due has been sent. Without it, wait for room.
            let full = self.responses.capacity() == 0;
            let event = tokio::select! {
                request = self.requests.message() => Event::Request(request?.map(Box::new)),
                changed = self.catalog.changed() => Event::Catalog(changed.is_ok()),
                room = self.responses.reserve(), if full => Event::Room(room.is_ok()),
                () = sleep_until(hold.unwrap_or_else(Instant::now)), if hold.is_some() => {
                    Event::HeldTooLong
                }
                () = self.responses.closed() => return Ok(()),
                () = self.lifecycle.draining() => Event::Catalog(false),
            };
            match event {
                Event::Request(Some(request)) => self.on_request(*request)?,
                Event::Request(None) | Event::Room(false) => return Ok(()),
                Event::Catalog(false) => {
                    return Err(Status::unavailable("the control plane is shutting down"));
                }
                Event::Catalog(true) => {
                    catalog = self.catalog.borrow_and_update().clone();
                    self.session.on_catalog(&catalog);
                }
                Event::HeldTooLong => self.session.release(),
                Event::Room(true) => {}
            }
        }
    }

    /// Sends what is due while there is room.
    fn push(&mut self, catalog: &Catalog) -> Result<(), Result<(), Status>> {
        loop {
            let Ok(permit) = self.responses.try_reserve() else {
                return if self.responses.is_closed() { Err(Ok(())) } else { Ok(()) };
            };
            let Some(response) = self.session.next_response(catalog) else {
                self.client.update(&self.session);
                return Ok(());
            };
            self.metrics.response(response.kind);
            permit.send(Ok(response));
        }
    }

    fn on_request(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        let (request, node) = open(request);
        if let Some(node) = node {
            self.client.name(&node);
            self.session.on_place(place(&node));
        }
        let outcome = self.session.on_request(request).map_err(|violation| {
            self.metrics.violations.inc();
            Status::resource_exhausted(violation.to_string())
        })?;
        match outcome {
            Outcome::Acked(kind) => self.metrics.ack(kind),
            Outcome::Nacked(kind, reason) => {
                self.metrics.nack(kind);
                tracing::warn!(
                    client = %self.client,
                    kind = kind.name(),
                    reason,
                    "client refused a response"
                );
            }
            Outcome::Subscribed | Outcome::Stale(_) | Outcome::UnknownType => {}
        }
        Ok(())
    }
}

/// Where a client says it is: the zone of its locality, and its node by the key that Istio's
/// proxies use too.
fn place(node: &Node) -> Place {
    let zone = node.locality.as_ref().map(|locality| locality.zone.as_str());
    let name = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(NODE_NAME));
    let name = name.and_then(|value| match &value.kind {
        Some(Kind::StringValue(name)) => Some(name.as_str()),
        _ => None,
    });
    let known = |text: Option<&str>| {
        text.filter(|t| !t.is_empty() && t.len() <= MAX_NAME_BYTES).map(Into::into)
    };
    Place { node: known(name), zone: known(zone) }
}
