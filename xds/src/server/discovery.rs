//! The discovery services over gRPC: which path speaks which variant of which types. One task per
//! stream, all protocol in the session.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use portolan_proto::envoy::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Status, Streaming};

use super::body::ResponseBody;
use super::outbox;
use super::session::{Session, Variant};
use super::stream::{Stream, Streams, now_ms};
use super::wire::{Open, ProstDecoder};
use crate::resource::ResourceType;

/// A method of a discovery service.
#[derive(Clone, Copy, Debug)]
struct Method {
    path: &'static str,
    variant: Variant,
    only: Option<ResourceType>,
}

const fn sotw(path: &'static str, only: Option<ResourceType>) -> Method {
    Method { path, variant: Variant::Sotw, only }
}

const fn delta(path: &'static str, only: Option<ResourceType>) -> Method {
    Method { path, variant: Variant::Delta, only }
}

/// Name of the aggregated service.
pub const ADS: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// Every method served. The unary `Fetch…` methods, which no client uses over gRPC, are not.
const METHODS: [Method; 19] = [
    sotw("/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources", None),
    delta("/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources", None),
    sotw(
        "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        Some(ResourceType::Cluster),
    ),
    delta(
        "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
        Some(ResourceType::Cluster),
    ),
    sotw(
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
        Some(ResourceType::Endpoints),
    ),
    delta(
        "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
        Some(ResourceType::Endpoints),
    ),
    sotw(
        "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
        Some(ResourceType::Listener),
    ),
    delta(
        "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
        Some(ResourceType::Listener),
    ),
    sotw("/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes", Some(ResourceType::Route)),
    delta("/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes", Some(ResourceType::Route)),
    delta(
        "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts",
        Some(ResourceType::VirtualHost),
    ),
    sotw(
        "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes",
        Some(ResourceType::ScopedRoute),
    ),
    delta(
        "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes",
        Some(ResourceType::ScopedRoute),
    ),
    sotw(
        "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
        Some(ResourceType::Secret),
    ),
    delta(
        "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
        Some(ResourceType::Secret),
    ),
    sotw(
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs",
        Some(ResourceType::ExtensionConfig),
    ),
    delta(
        "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs",
        Some(ResourceType::ExtensionConfig),
    ),
    sotw(
        "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
        Some(ResourceType::Runtime),
    ),
    delta(
        "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
        Some(ResourceType::Runtime),
    ),
];

/// Adds every discovery service to a router.
pub(super) fn route(router: Router, streams: &Arc<Streams>) -> Router {
    METHODS.into_iter().fold(router, |router, method| {
        router.route_service(method.path, Discovery { method, streams: streams.clone() })
    })
}

/// One method, cloned per connection.
#[derive(Clone, Debug)]
struct Discovery {
    method: Method,
    streams: Arc<Streams>,
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Service<http::Request<axum::body::Body>> for Discovery {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<axum::body::Body>) -> Self::Future {
        let Self { method, streams } = self.clone();
        Box::pin(async move {
            let opened = match method.variant {
                Variant::Sotw => open::<DiscoveryRequest>(method, &streams, request).await,
                Variant::Delta => open::<DeltaDiscoveryRequest>(method, &streams, request).await,
            };
            Ok(opened.unwrap_or_else(Status::into_http))
        })
    }
}

/// Opens a stream: admits the client, starts the task, answers with the body it writes to.
async fn open<T: Open>(
    method: Method,
    streams: &Arc<Streams>,
    request: http::Request<axum::body::Body>,
) -> Result<http::Response<Body>, Status> {
    let encoding = request.headers().get("grpc-encoding");
    if encoding.is_some_and(|encoding| encoding != "identity") {
        return Err(Status::unimplemented("requests have to be sent without compression"));
    }
    let (peer, body) = streams.admit(request).await?;
    let Method { variant, only, .. } = method;
    let admitted = streams.clients.admit(peer.address.clone(), variant, only, now_ms());
    let Some((client, inquiries)) = admitted else {
        streams.metrics.refused.inc();
        return Err(Status::resource_exhausted("too many streams"));
    };
    let decoder = ProstDecoder::<T>::of_names(streams.limits.names);
    let requests = Streaming::new_request(decoder, body, None, Some(streams.limits.request_bytes));
    let (outbox, inbox) = outbox::pair();
    let session = Session::new(variant, only, streams.limits.names);
    let stream = Stream::new(requests, outbox, session, client, inquiries, streams.clone());
    streams.clients.run(stream.run(peer));
    let mut response = http::Response::new(Body::new(ResponseBody::new(inbox)));
    let content_type = http::HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
    Ok(response)
}
