//! CSDS: the state of each connected client, per resource, as this server knows it
//! (`envoy.service.status.v3`).

use std::sync::Arc;

use portolan_proto::envoy::admin::{ClientResourceStatus, UpdateFailureState};
use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::matcher::string_matcher::MatchPattern;
use portolan_proto::envoy::matcher::{NodeMatcher, StringMatcher};
use portolan_proto::envoy::protobuf::{Any, Timestamp};
use portolan_proto::envoy::status::client_config::GenericXdsConfig;
use portolan_proto::envoy::status::client_status_discovery_service_server::ClientStatusDiscoveryService;
use portolan_proto::envoy::status::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::clients::Client;
use super::connections::Remote;
use super::session::{ResourceReport, ResourceState};
use super::stream::Streams;
use crate::catalog::Catalog;
use crate::resource::{ResourceType, version_text};

/// Clients told of in one response; who wants more names fewer of them.
const MAX_CLIENTS: usize = 500;
/// From this many on the resources themselves are left out.
const MAX_WITH_CONTENTS: usize = 20;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Csds(pub(super) Arc<Streams>);

#[tonic::async_trait]
impl ClientStatusDiscoveryService for Csds {
    type StreamClientStatusStream = ReceiverStream<Result<ClientStatusResponse, Status>>;

    async fn stream_client_status(
        &self,
        request: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        self.authorize(&request).await?;
        let mut requests = request.into_inner();
        let (sender, receiver) = mpsc::channel(1);
        let csds = self.clone();
        self.0.clients.run(async move {
            loop {
                let request = tokio::select! {
                    request = requests.next() => request,
                    () = csds.0.lifecycle.draining() => return,
                };
                let Some(Ok(request)) = request else { return };
                if sender.send(csds.answer(&request).await).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        self.authorize(&request).await?;
        self.answer(request.get_ref()).await.map(Response::new)
    }
}

impl Csds {
    /// Only who may see everything is told of others.
    async fn authorize<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let remote = request.extensions().get::<Remote>();
        let headers = request.metadata().clone().into_headers();
        if self.0.sees_all(remote, &headers).await? {
            return Ok(());
        }
        Err(Status::permission_denied("only a client that may see all namespaces may ask"))
    }

    async fn answer(&self, request: &ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
        let mut wanted = Vec::new();
        for client in self.0.clients.connected() {
            let status = client.status(self.0.clients.announced());
            if matches(&request.node_matchers, &status.node)? {
                wanted.push((client, status));
            }
        }
        if wanted.len() > MAX_CLIENTS {
            let text = format!(
                "{} clients match, the limit is {MAX_CLIENTS}: narrow node_matchers",
                wanted.len()
            );
            return Err(Status::resource_exhausted(text));
        }
        let contents = !request.exclude_resource_contents && wanted.len() <= MAX_WITH_CONTENTS;
        let catalog = self.0.catalog.load_full();
        let mut config = Vec::with_capacity(wanted.len());
        for (client, status) in wanted {
            // One whose stream has just ended is left out.
            let Some(resources) = Client::resources(&client).await else { continue };
            let reports = resources.iter().map(|report| told(report, &catalog, contents));
            let node = Node { id: status.node, user_agent_name: status.agent, ..Node::default() };
            config.push(ClientConfig {
                node: Some(node),
                generic_xds_configs: reports.collect(),
                client_scope: format!("stream {} {}", status.stream, status.protocol),
                ..ClientConfig::default()
            });
        }
        Ok(ClientStatusResponse { config })
    }
}

/// Whether a node is asked for: by any of the matchers, or by there being none.
fn matches(matchers: &[NodeMatcher], node: &str) -> Result<bool, Status> {
    if matchers.is_empty() {
        return Ok(true);
    }
    for matcher in matchers {
        if !matcher.node_metadatas.is_empty() {
            return Err(Status::invalid_argument("node_matchers: node_metadatas is not supported"));
        }
        match &matcher.node_id {
            None => return Ok(true),
            Some(pattern) if is_match(pattern, node)? => return Ok(true),
            Some(_) => {}
        }
    }
    Ok(false)
}

fn is_match(matcher: &StringMatcher, text: &str) -> Result<bool, Status> {
    let fold = |text: &str| {
        if matcher.ignore_case { text.to_lowercase() } else { text.to_owned() }
    };
    let text = fold(text);
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(exact)) => Ok(text == fold(exact)),
        Some(MatchPattern::Prefix(prefix)) => Ok(text.starts_with(&fold(prefix))),
        Some(MatchPattern::Suffix(suffix)) => Ok(text.ends_with(&fold(suffix))),
        Some(MatchPattern::Contains(part)) => Ok(text.contains(&fold(part))),
        _ => Err(Status::invalid_argument(
            "node_matchers: node_id: only exact, prefix, suffix and contains are supported",
        )),
    }
}

fn told(report: &ResourceReport, catalog: &Catalog, contents: bool) -> GenericXdsConfig {
    let (client, config) = match report.state {
        ResourceState::Requested => (ClientResourceStatus::Requested, ConfigStatus::NotSent),
        ResourceState::Missing => (ClientResourceStatus::DoesNotExist, ConfigStatus::NotSent),
        ResourceState::Sent => (ClientResourceStatus::Requested, ConfigStatus::Stale),
        ResourceState::Acked => (ClientResourceStatus::Acked, ConfigStatus::Synced),
        ResourceState::Nacked => (ClientResourceStatus::Nacked, ConfigStatus::Error),
    };
    let error_state = report.refusal.as_ref().map(|refusal| UpdateFailureState {
        last_update_attempt: Some(timestamp(refusal.at)),
        details: refusal.words.to_string(),
        version_info: version_text(refusal.version),
        ..UpdateFailureState::default()
    });
    // What the client has is the catalog's only where the version is the same. Keys are nobody else's.
    let encoded = catalog
        .lookup(report.kind, &report.name)
        .filter(|_| report.kind != ResourceType::Secret)
        .filter(|encoded| contents && report.acked == Some(encoded.version));
    GenericXdsConfig {
        type_url: report.kind.type_url().to_owned(),
        name: report.name.to_string(),
        version_info: report.acked.map(version_text).unwrap_or_default(),
        xds_config: encoded.and_then(|encoded| Any::decode(&*encoded.any).ok()),
        last_updated: (report.updated_at_ms > 0).then(|| timestamp(report.updated_at_ms)),
        config_status: config.into(),
        client_status: client.into(),
        error_state,
        is_static_resource: false,
    }
}

fn timestamp(ms: u64) -> Timestamp {
    let nanos = i32::try_from(ms % 1000).unwrap_or(0) * 1_000_000;
    Timestamp { seconds: i64::try_from(ms / 1000).unwrap_or(i64::MAX), nanos }
}
