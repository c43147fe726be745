//! The gRPC backend: the Echo service with server reflection (v1) and the standard health service.

mod echo;

use std::io;
use std::net::TcpListener;

use hyper_util::service::TowerToHyperService;
use portolan_proto::demo::v1::echo_server::{EchoServer, SERVICE_NAME};
use portolan_runtime::Lifecycle;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use self::echo::Echo;
use crate::Identity;
use crate::accept::{MAX_CONNECTIONS, accept};
use crate::connection::serve_http2;

/// Largest request message, in bytes.
const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// Serves on a bound socket until the process drains. Its health turns to `NOT_SERVING` the
/// moment draining begins.
///
/// # Errors
/// When the socket cannot be used.
pub async fn serve(
    listener: TcpListener,
    identity: Identity,
    lifecycle: Lifecycle,
) -> Result<(), io::Error> {
    let address = listener.local_addr()?;
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(SERVICE_NAME, ServingStatus::Serving).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(portolan_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        // Our other services are not served here.
        .with_service_name(SERVICE_NAME)
        .with_service_name(tonic_health::pb::health_server::SERVICE_NAME)
        .with_service_name(tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME)
        .build_v1()
        .map_err(io::Error::other)?;
    let echo = EchoServer::new(Echo::new(identity.endpoint, address))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let routes = Routes::new(echo).add_service(health).add_service(reflection).prepare();

    let serving = accept(listener, &lifecycle, MAX_CONNECTIONS, |stream| {
        serve_http2(stream, TowerToHyperService::new(routes.clone()), lifecycle.clone())
    });
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        served = &mut serving => return served,
        () = report_drain(reporter, &lifecycle) => {}
    }
    serving.await
}

/// Tells those who watch, then ends their streams: a watch would never end by itself.
async fn report_drain(mut reporter: HealthReporter, lifecycle: &Lifecycle) {
    lifecycle.draining().await;
    for service in ["", SERVICE_NAME] {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
        reporter.clear_service_status(service).await;
    }
}
