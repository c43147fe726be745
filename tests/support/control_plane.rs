//! A scripted control plane that is not ours: ADS, state of the world, over the Envoy types.
//!
//! Owns what is served of each type and when, and a record of all that clients said: names, versions,
//! nonces, refusals. Decides nothing: what is not set is not answered. It runs in a runtime of its own,
//! so that it can die at once, with all its sockets, and come back at the same address.

#[path = "control_plane/bogus.rs"]
pub(crate) mod bogus;
#[path = "control_plane/gate.rs"]
pub(crate) mod gate;
#[path = "control_plane/resources.rs"]
pub(crate) mod resources;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use portolan_proto::envoy::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use portolan_proto::envoy::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use portolan_proto::envoy::protobuf::Any;
use resources::Resource;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::support::PATIENCE;

pub(crate) const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(crate) const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub(crate) const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub(crate) const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

pub(crate) const SDS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// Responses waiting to be written on one stream.
const WAITING: usize = 16;

/// One request of a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    /// Which stream since the start, from 1.
    pub(crate) stream: usize,
    pub(crate) kind: String,
    /// The last version it took.
    pub(crate) version: String,
    /// The response it answers; empty for the first request of a type on a stream.
    pub(crate) nonce: String,
    pub(crate) names: BTreeSet<String>,
    /// Why it refuses that response.
    pub(crate) error: Option<String>,
    /// The node's id, where it says so.
    pub(crate) node: Option<String>,
}

/// A control plane; ends when dropped.
pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    script: Arc<Script>,
    runtime: Option<Runtime>,
}

struct Script {
    state: Mutex<State>,
    /// Told of every change of the state.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    served: BTreeMap<String, Served>,
    /// Sent once on every stream that is open, whatever it asked for.
    pushes: Vec<DiscoveryResponse>,
    said: Vec<Said>,
    /// Streams opened so far.
    streams: usize,
    /// Number of the last stream that is ended from here.
    ended: usize,
    /// Requests are not read any more.
    deaf: bool,
    versions: u64,
    nonces: u64,
}

#[derive(Default)]
struct Served {
    version: String,
    /// Rises with every change, even to the same version.
    revision: u64,
    resources: Vec<Resource>,
}

impl ControlPlane {
    /// Starts one that serves nothing yet.
    pub(crate) async fn start() -> Self {
        let (changed, _) = watch::channel(0);
        let script = Arc::new(Script { state: Mutex::default(), changed });
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut plane = Self { address: free, script, runtime: None };
        plane.listen().await;
        plane
    }

    /// Dies without a word: every socket is closed.
    pub(crate) fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Comes back at its address, serving what is set.
    pub(crate) async fn listen(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let (address, script) = (self.address, Arc::clone(&self.script));
        runtime.spawn(async move {
            let deadline = Instant::now() + PATIENCE;
            let listener = loop {
                // The sockets of a life before may take a moment to close.
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(error) => assert!(Instant::now() < deadline, "{address}: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            sender.send(listener.local_addr().expect("bound")).expect("waited for");
            let service = AggregatedDiscoveryServiceServer::new(Service(script))
                .max_decoding_message_size(64 * 1024 * 1024);
            let incoming = TcpListenerStream::new(listener);
            let served = tonic::transport::Server::builder().add_service(service);
            served.serve_with_incoming(incoming).await.expect("it serves");
        });
        self.address = receiver.await.expect("it listens");
        self.runtime = Some(runtime);
    }

    /// Serves these resources of a type from now on, in a version of its own, which is returned.
    pub(crate) fn set(&self, kind: &str, resources: Vec<Resource>) -> String {
        let version = {
            let mut state = self.script.state();
            state.versions += 1;
            format!("v{}", state.versions)
        };
        self.set_as(kind, &version, resources);
        version
    }

    /// The same in this version.
    pub(crate) fn set_as(&self, kind: &str, version: &str, resources: Vec<Resource>) {
        self.script.change(|state| {
            let served = state.served.entry(kind.to_owned()).or_default();
            served.revision += 1;
            version.clone_into(&mut served.version);
            served.resources = resources;
        });
    }

    /// Answers nothing of a type any more.
    pub(crate) fn withhold(&self, kind: &str) {
        self.script.change(|state| {
            state.served.remove(kind);
        });
    }

    /// Sends a response once on every open stream; the nonce is made here.
    pub(crate) fn push(&self, kind: &str, version: &str, resources: Vec<Any>) {
        self.script.change(|state| {
            state.nonces += 1;
            state.pushes.push(DiscoveryResponse {
                version_info: version.to_owned(),
                resources,
                type_url: kind.to_owned(),
                nonce: format!("pushed-{}", state.nonces),
                ..DiscoveryResponse::default()
            });
        });
    }

    /// Ends every open stream with a status.
    pub(crate) fn end_streams(&self) {
        self.script.change(|state| state.ended = state.streams);
    }

    /// Reads no request any more, on whatever stream.
    pub(crate) fn stop_reading(&self) {
        self.script.change(|state| state.deaf = true);
    }

    /// Streams opened so far.
    pub(crate) fn streams(&self) -> usize {
        self.script.state().streams
    }

    /// Everything that was said so far.
    pub(crate) fn said(&self) -> Vec<Said> {
        self.script.state().said.clone()
    }

    /// Waits until a client said something that fits.
    pub(crate) async fn until(&self, what: &str, fits: impl Fn(&Said) -> bool) -> Said {
        self.until_within(PATIENCE, what, fits).await
    }

    /// The same with a limit of its own.
    pub(crate) async fn until_within(
        &self,
        limit: Duration,
        what: &str,
        fits: impl Fn(&Said) -> bool,
    ) -> Said {
        let mut changed = self.script.changed.subscribe();
        let deadline = Instant::now() + limit;
        let mut seen = 0;
        loop {
            {
                let state = self.script.state();
                if let Some(said) = state.said.iter().skip(seen).find(|said| fits(said)) {
                    return said.clone();
                }
                seen = state.said.len();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, changed.changed()).await.is_err() {
                panic!("nobody said {what}; the last was {:#?}", self.said().last());
            }
        }
    }

    /// Waits until a version of a type is taken.
    pub(crate) async fn acked(&self, kind: &str, version: &str) -> Said {
        let what = format!("ACK of {version} of {kind}");
        let fits = |said: &Said| {
            said.kind == kind
                && said.version == version
                && said.error.is_none()
                && !said.nonce.is_empty()
        };
        self.until(&what, fits).await
    }

    /// Waits until a version of a type is refused: the nonces are made of versions.
    pub(crate) async fn nacked(&self, kind: &str, version: &str) -> Said {
        let what = format!("NACK of {version} of {kind}");
        let fits = |said: &Said| {
            said.kind == kind && said.error.is_some() && said.nonce.starts_with(&nonce(version, ""))
        };
        self.until(&what, fits).await
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop();
    }
}

fn nonce(version: &str, number: impl std::fmt::Display) -> String {
    format!("{version}#{number}")
}

impl Script {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panicked with it")
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_modify(|n| *n += 1);
    }
}

/// What one stream was sent.
struct Sent {
    number: usize,
    /// Names asked for, and the revision sent last, by type.
    kinds: BTreeMap<String, (BTreeSet<String>, u64)>,
    pushes: usize,
}

impl Sent {
    fn take(&mut self, request: DiscoveryRequest, script: &Script) {
        let names: BTreeSet<String> = request.resource_names.into_iter().collect();
        let known = self.kinds.entry(request.type_url.clone());
        let known = known.or_insert_with(|| (names.clone(), 0));
        if known.0 != names {
            *known = (names.clone(), 0);
        }
        let said = Said {
            stream: self.number,
            kind: request.type_url,
            version: request.version_info,
            nonce: request.response_nonce,
            names,
            error: request.error_detail.map(|status| status.message),
            node: request.node.map(|node| node.id),
        };
        script.change(|state| state.said.push(said));
    }

    /// What is to be sent now; `None` to end the stream.
    fn due(&mut self, state: &mut State) -> Option<Vec<DiscoveryResponse>> {
        if state.ended >= self.number {
            return None;
        }
        let mut due = state.pushes[self.pushes..].to_vec();
        self.pushes = state.pushes.len();
        for (kind, (names, revision)) in &mut self.kinds {
            let Some(served) = state.served.get(kind) else { continue };
            if served.revision == *revision {
                continue;
            }
            *revision = served.revision;
            let wildcard = kind == CDS || kind == LDS;
            let asked = |resource: &&Resource| wildcard || names.contains(&resource.name);
            let resources: Vec<Any> =
                served.resources.iter().filter(asked).map(|r| r.any.clone()).collect();
            if resources.is_empty() && !wildcard && !served.resources.is_empty() {
                continue;
            }
            state.nonces += 1;
            due.push(DiscoveryResponse {
                version_info: served.version.clone(),
                resources,
                type_url: kind.clone(),
                nonce: nonce(&served.version, state.nonces),
                ..DiscoveryResponse::default()
            });
        }
        Some(due)
    }
}

struct Service(Arc<Script>);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(WAITING);
        tokio::spawn(serve(Arc::clone(&self.0), request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("state of the world alone"))
    }
}

async fn serve(
    script: Arc<Script>,
    mut requests: Streaming<DiscoveryRequest>,
    sender: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    let mut changed = script.changed.subscribe();
    let mut sent = Sent { number: 0, kinds: BTreeMap::new(), pushes: 0 };
    script.change(|state| {
        state.streams += 1;
        sent.number = state.streams;
        sent.pushes = state.pushes.len();
    });
    loop {
        let deaf = script.state().deaf;
        tokio::select! {
            message = requests.message(), if !deaf => match message {
                Ok(Some(request)) => sent.take(request, &script),
                Ok(None) | Err(_) => return,
            },
            result = changed.changed() => if result.is_err() { return },
        }
        let due = sent.due(&mut script.state());
        let Some(due) = due else {
            // The client may be gone already.
            let _gone = sender.send(Err(Status::unavailable("ended by the script"))).await;
            return;
        };
        for response in due {
            if sender.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }
}
