//! What the tests of this target share: manifests, the process on them, and clients that speak xDS by
//! hand, the same in both variants of the protocol and over every service.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::core::node::UserAgentVersionType;
use portolan_proto::envoy::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use portolan_proto::envoy::protobuf::Value;
use portolan_proto::envoy::protobuf::value::Kind as ValueKind;
use portolan_proto::envoy::rpc::Status as RpcStatus;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::support::{PATIENCE, Process, output};

pub(crate) const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub(crate) const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub(crate) const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub(crate) const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub(crate) const SDS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// A stream of the aggregated service.
pub(crate) const ADS: Method =
    Method("discovery.v3.AggregatedDiscoveryService", "AggregatedResources");

/// A discovery service below `envoy.service`, and what its methods are for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method(pub(crate) &'static str, pub(crate) &'static str);

/// The variants of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// State of the world.
    Sotw,
    /// Incremental.
    Delta,
}

/// One xDS stream.
pub(crate) struct Talk {
    side: Side,
    node: Node,
    /// Names last asked for, by type.
    names: BTreeMap<String, Vec<String>>,
}

enum Side {
    Sotw(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>),
    Delta(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>),
}

/// A response, the same for both variants.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) kind: String,
    version: String,
    nonce: String,
    pub(crate) resources: BTreeMap<String, Vec<u8>>,
    pub(crate) removed: Vec<String>,
}

/// What every resource of the types here begins with.
#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

impl Method {
    fn path(self, variant: Variant) -> http::uri::PathAndQuery {
        let Self(service, of) = self;
        let verb = match variant {
            Variant::Sotw => "Stream",
            Variant::Delta => "Delta",
        };
        format!("/envoy.service.{service}/{verb}{of}").parse().expect("a path")
    }
}

/// A channel to the control plane.
pub(crate) async fn channel(at: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{at}")).expect("an address");
    endpoint.connect_timeout(PATIENCE).connect().await.expect("it listens")
}

/// A node of an Envoy.
pub(crate) fn node(id: &str) -> Node {
    let version = UserAgentVersionType::UserAgentVersion("1.40.0".to_owned());
    Node {
        id: id.to_owned(),
        user_agent_name: "envoy".to_owned(),
        user_agent_version_type: Some(version),
        ..Node::default()
    }
}

/// A request that shows a token, if there is one.
pub(crate) fn with_token<T>(message: T, token: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value = format!("Bearer {token}").parse().expect("a header value");
        request.metadata_mut().insert("authorization", value);
    }
    request
}

impl Talk {
    pub(crate) async fn open(
        channel: &Channel,
        method: Method,
        variant: Variant,
        id: &str,
        token: Option<&str>,
    ) -> Result<Self, Status> {
        let mut grpc = Grpc::new(channel.clone());
        let ready = grpc.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = method.path(variant);
        let side = match variant {
            Variant::Sotw => {
                let (sender, receiver) = mpsc::channel(16);
                let request = with_token(ReceiverStream::new(receiver), token);
                let codec = ProstCodec::<DiscoveryRequest, DiscoveryResponse>::default();
                Side::Sotw(sender, grpc.streaming(request, path, codec).await?.into_inner())
            }
            Variant::Delta => {
                let (sender, receiver) = mpsc::channel(16);
                let request = with_token(ReceiverStream::new(receiver), token);
                let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
                Side::Delta(sender, grpc.streaming(request, path, codec).await?.into_inner())
            }
        };
        Ok(Self { side, node: node(id), names: BTreeMap::new() })
    }

    /// An aggregated stream of the state of the world, by whoever may come.
    pub(crate) async fn ads(channel: &Channel, id: &str) -> Self {
        Self::open(channel, ADS, Variant::Sotw, id, None).await.expect("let in")
    }

    /// Says something of itself with every request from now on.
    pub(crate) fn says(&mut self, key: &str, text: &str) {
        let value = Value { kind: Some(ValueKind::StringValue(text.to_owned())) };
        self.node.metadata.get_or_insert_default().fields.insert(key.to_owned(), value);
    }

    /// Asks for names of a type, for all without any.
    pub(crate) async fn ask(&mut self, kind: &str, names: &[&str]) {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.names.insert(kind.to_owned(), names);
        self.send(kind, None, None).await;
    }

    /// Takes a response.
    pub(crate) async fn ack(&mut self, reply: &Reply) {
        self.send(&reply.kind, Some(reply), None).await;
    }

    /// Refuses a response.
    pub(crate) async fn nack(&mut self, reply: &Reply, words: &str) {
        self.send(&reply.kind, Some(reply), Some(words)).await;
    }

    async fn send(&mut self, kind: &str, answers: Option<&Reply>, words: Option<&str>) {
        let names = self.names.get(kind).cloned().unwrap_or_default();
        let node = Some(self.node.clone());
        let type_url = kind.to_owned();
        let response_nonce = answers.map(|reply| reply.nonce.clone()).unwrap_or_default();
        let error_detail =
            words.map(|words| RpcStatus { code: 3, message: words.to_owned(), details: vec![] });
        match &self.side {
            Side::Sotw(sender, _) => {
                let version_info = answers.map(|reply| reply.version.clone()).unwrap_or_default();
                let request = DiscoveryRequest {
                    version_info,
                    node,
                    resource_names: names,
                    type_url,
                    response_nonce,
                    error_detail,
                    ..DiscoveryRequest::default()
                };
                // A stream that has ended says so when it is read.
                let _ended = sender.send(request).await;
            }
            Side::Delta(sender, _) => {
                let request = DeltaDiscoveryRequest {
                    node,
                    type_url,
                    resource_names_subscribe: if answers.is_some() { vec![] } else { names },
                    response_nonce,
                    error_detail,
                    ..DeltaDiscoveryRequest::default()
                };
                // As above.
                let _ended = sender.send(request).await;
            }
        }
    }

    /// The next response, or how the stream ended.
    pub(crate) async fn next(&mut self) -> Result<Reply, Status> {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("an answer in time")
    }

    async fn read(&mut self) -> Result<Reply, Status> {
        let ended = || Status::cancelled("the stream ended");
        match &mut self.side {
            Side::Sotw(_, responses) => {
                let response = responses.message().await?.ok_or_else(ended)?;
                let resources = response.resources.into_iter().map(|any| {
                    let name = name_of(&any.value);
                    (name, any.value)
                });
                Ok(Reply {
                    kind: response.type_url,
                    version: response.version_info,
                    nonce: response.nonce,
                    resources: resources.collect(),
                    removed: Vec::new(),
                })
            }
            Side::Delta(_, responses) => {
                let response = responses.message().await?.ok_or_else(ended)?;
                let resources = response.resources.into_iter().map(|resource| {
                    (resource.name, resource.resource.map(|any| any.value).unwrap_or_default())
                });
                Ok(Reply {
                    kind: response.type_url,
                    version: response.system_version_info,
                    nonce: response.nonce,
                    resources: resources.collect(),
                    removed: response.removed_resources,
                })
            }
        }
    }

    /// Asks, and takes the answer.
    pub(crate) async fn get(&mut self, kind: &str, names: &[&str]) -> Result<Reply, Status> {
        self.ask(kind, names).await;
        let reply = self.next().await?;
        assert_eq!(reply.kind, kind);
        self.ack(&reply).await;
        Ok(reply)
    }

    /// Takes what comes until a response fits, and takes that.
    pub(crate) async fn until(&mut self, fits: impl Fn(&Reply) -> bool) -> Reply {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reply = self.next().await.expect("the stream goes on");
            self.ack(&reply).await;
            if fits(&reply) {
                return reply;
            }
            assert!(Instant::now() < deadline, "no such response; the last is {reply:?}");
        }
    }
}

impl Reply {
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        self.resources.keys().map(String::as_str).collect()
    }
}

fn name_of(resource: &[u8]) -> String {
    // The other fields are of other types than `Named` could say; only the first is read.
    let length = usize::from(resource.get(1).copied().unwrap_or_default());
    let first = resource.get(..length + 2).unwrap_or(resource);
    let named: Named =
        prost::Message::decode(first).expect("a name of up to 127 octets comes first");
    named.name
}

/// Writes a service with one port 80 and endpoints by address.
pub(crate) fn service(folder: &Path, namespace: &str, name: &str, octet: u8, endpoints: &[&str]) {
    let listed: String = endpoints.iter().map(|ip| format!("- addresses: [{ip}]\n")).collect();
    let listed = if listed.is_empty() { " []\n".to_owned() } else { format!("\n{listed}") };
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{clusterIP: 10.96.0.{octet}, ports: [{{port: 80}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: {name}-1, namespace: {namespace}, labels: \
         {{kubernetes.io/service-name: {name}}}}}\n\
         ports: [{{port: 8080}}]\nendpoints:{listed}"
    );
    crate::support::replace(&folder.join(format!("{namespace}-{name}.yaml")), &text);
}

/// A folder with `shop/web`, `shop/api` and `pay/api`.
pub(crate) fn shop() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    service(folder.path(), "shop", "web", 1, &["10.0.0.1", "10.0.0.2"]);
    service(folder.path(), "shop", "api", 2, &["10.0.1.1"]);
    service(folder.path(), "pay", "api", 3, &["10.0.2.1"]);
    folder
}

/// A control plane over a folder, ready; `more` are further arguments.
pub(crate) async fn control(folder: &Path, more: &[&str]) -> Process {
    let mut process = Process::start(&arguments(folder, more));
    process.reach(1).await;
    process
}

/// Arguments of a control plane over a folder.
pub(crate) fn arguments<'a>(folder: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let manifests = folder.to_str().expect("UTF-8");
    let mut args = vec!["control", "--manifests", manifests, "--http", "127.0.0.1:0"];
    args.extend(["--admin", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0"]);
    if !more.contains(&"--log") {
        args.extend(["--log", "error"]);
    }
    args.extend(more);
    args
}

/// Runs a command on a control plane: exit code, what it prints, what it says is wrong.
pub(crate) fn command(process: &mut Process, args: &[&str]) -> (Option<i32>, String, String) {
    let admin = process.address("admin").to_string();
    let output = output(&[args, &["--admin", &admin]].concat());
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Waits until a command's output fits.
pub(crate) async fn until_said(
    process: &mut Process,
    args: &[&str],
    fits: impl Fn(&str) -> bool,
) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, said, _) = command(process, args);
        if fits(&said) {
            return said;
        }
        assert!(Instant::now() < deadline, "{args:?} still says {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
