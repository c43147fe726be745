//! What runs the cases: a folder with the manifests of all of them, the real binary on it, our own
//! proxy or a real Envoy in front, and a client that asks.
//!
//! Each case has a namespace of its own (`$NS`, and `$NS-other`), with services `v1`, `v2` and `v3`
//! on port 8080 (whose endpoints' ports are `$V1`, `$V2` and `$V3`), and a port of its own (`$PORT`), on
//! which its Gateway listens unless it brings another.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::backend::Backend;
use crate::cases::Case;
use crate::support::envoy::Envoy;
use crate::support::{PATIENCE, Process, free_port};

/// The services of each namespace.
const SERVICES: [&str; 3] = ["v1", "v2", "v3"];

/// Who serves the Gateways.
pub(crate) enum Front {
    /// Our own proxy, in the process of the control plane.
    Portolan,
    /// An Envoy.
    Envoy,
}

/// Everything that runs.
pub(crate) struct World {
    pub(crate) process: Process,
    pub(crate) backends: Vec<Backend>,
    address: IpAddr,
    /// By the number of the case.
    pub(crate) ports: Vec<u16>,
    /// Where the manifests are, a file for each case.
    pub(crate) folder: tempfile::TempDir,
    envoy: Option<Envoy>,
}

impl World {
    /// Starts it all; `None` where an Envoy is asked for and there is none.
    pub(crate) async fn start(front: Front, cases: &[Case]) -> Option<Self> {
        // Both may run at the same time.
        let address: IpAddr = match front {
            Front::Portolan => [127, 0, 0, 1].into(),
            Front::Envoy => [127, 0, 0, 2].into(),
        };
        let envoy_path = match front {
            Front::Portolan => None,
            Front::Envoy => Some(Envoy::find()?),
        };
        let mut backends = Vec::new();
        for name in SERVICES {
            backends.push(Backend::start(name).await);
        }
        let ports: Vec<u16> = cases.iter().map(|_| free_port()).collect();
        let folder = tempfile::tempdir().expect("a folder");
        for (i, case) in cases.iter().enumerate() {
            let text = manifests(i, case, address, ports[i], &backends);
            std::fs::write(folder.path().join(format!("{i:03}.yaml")), text).expect("written");
        }
        let path = folder.path().to_str().expect("UTF-8").to_owned();
        let mut process = match front {
            Front::Portolan => Process::run(folder.path(), &[]),
            Front::Envoy => Process::start(
                &[
                    &["control", "--manifests", &path, "--log", "warn"][..],
                    &["--admin", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0"],
                ]
                .concat(),
            ),
        };
        process.reach(1).await;
        let envoy = envoy_path.map(|path| {
            let xds = process.address("xds").to_string();
            let bootstrap = ["--server", &xds, "--node-id", "gateway", "--gateway", "*"];
            Envoy::start(&path, &bootstrap, &folder.path().with_extension("envoy.yaml"))
        });
        let world = Self { process, backends, address, ports, folder, envoy };
        for (i, case) in cases.iter().enumerate() {
            if !case.asks.is_empty() && !case.is_silent {
                world.until_listening(i, case.name).await;
            }
        }
        Some(world)
    }

    /// Whether a real Envoy is in front.
    pub(crate) fn is_envoy(&self) -> bool {
        self.envoy.is_some()
    }

    /// Where a case is asked; `mesh` for one of a service, by the listener for all of them.
    pub(crate) fn at(&mut self, case: usize, mesh: bool) -> SocketAddr {
        if mesh {
            return self.process.address("proxy http http");
        }
        SocketAddr::new(self.address, self.ports[case])
    }

    async fn until_listening(&self, case: usize, name: &str) {
        let at = SocketAddr::new(self.address, self.ports[case]);
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(at).await.is_err() {
            assert!(Instant::now() < deadline, "{name}: nobody listens at {at}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Rows of a feed of `portolan get`.
    pub(crate) async fn rows(&mut self, what: &str) -> Vec<Value> {
        let (_, text) = self.process.admin(&format!("/get/{what}")).await;
        let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        rows.map(|mut row| row["object"].take()).collect()
    }
}

/// All manifests of a case.
pub(crate) fn manifests(
    number: usize,
    case: &Case,
    address: IpAddr,
    port: u16,
    backends: &[Backend],
) -> String {
    let namespace = format!("case-{number}");
    let mut text = String::new();
    for namespace in [namespace.clone(), format!("{namespace}-other")] {
        text += &format!(
            "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{of: \
             {namespace}}}}}\n"
        );
        for (name, backend) in SERVICES.iter().zip(backends) {
            let target = backend.address.port();
            text += &format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: \
                 {namespace}}}\nspec: {{clusterIP: None, ports: [{{name: http, port: 8080, \
                 targetPort: {target}}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: \
                 EndpointSlice\nmetadata: {{name: {name}-1, namespace: {namespace}, labels: \
                 {{kubernetes.io/service-name: {name}}}}}\naddressType: IPv4\nports: [{{name: http, \
                 port: {target}}}]\nendpoints: [{{addresses: [127.0.0.1]}}]\n"
            );
        }
    }
    if !case.manifests.contains("kind: Gateway}") {
        text += "---\n{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: \
                 gw, namespace: $NS}, spec: {gatewayClassName: portolan, addresses: [{value: \
                 $ADDRESS}], listeners: [{name: http, port: $PORT, protocol: HTTP}]}}\n";
    }
    text += case.manifests;
    for (name, backend) in SERVICES.iter().zip(backends) {
        let port = format!("${}", name.to_uppercase());
        text = text.replace(&port, &backend.address.port().to_string());
    }
    text.replace("$NS", &namespace)
        .replace("$ADDRESS", &address.to_string())
        .replace("$PORT", &port.to_string())
}

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// What a client got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: hyper::HeaderMap,
    /// What the backend says that it got.
    pub(crate) got: Value,
}

/// Asks as a case writes it: `GET host/path`, and fields behind bars. `GRPC` is a call of gRPC.
pub(crate) async fn ask(at: SocketAddr, text: &str, version: Version) -> Answer {
    let stream = TcpStream::connect(at).await.unwrap_or_else(|e| panic!("{text}: {at}: {e}"));
    ask_over(stream, text, version).await.unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// The same over a connection; what failed, in words.
pub(crate) async fn ask_over<S>(stream: S, text: &str, version: Version) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut parts = text.split(" | ");
    let line = parts.next().expect("a line");
    let (method, target) = line.split_once(' ').expect("a method");
    let (host, path) = target.split_at(target.find('/').expect("a path"));
    let grpc = method == "GRPC";
    let mut request = Request::builder().method(if grpc { "POST" } else { method });
    let mut body = Full::default();
    for part in parts {
        let (name, value) = part.split_once(": ").expect("a field");
        if name == "body" {
            body = Full::new(Bytes::copy_from_slice(value.as_bytes()));
        } else {
            request = request.header(name, value);
        }
    }
    if grpc {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    let stream = TokioIo::new(stream);
    let sent = async {
        if version == Version::Http2 || grpc {
            let request = request.uri(format!("http://{host}{path}")).body(body).expect("valid");
            let shake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
            let (mut sender, connection) = shake.map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            sender.send_request(request).await.map_err(|e| format!("{e:?}"))
        } else {
            let request = request.uri(path).header("host", host).body(body).expect("valid");
            let shake = hyper::client::conn::http1::handshake(stream).await;
            let (mut sender, connection) = shake.map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            sender.send_request(request).await.map_err(|e| format!("{e:?}"))
        }
    };
    let response = tokio::time::timeout(Duration::from_secs(10), sent).await;
    let (head, body) = response.map_err(|_| "no answer".to_owned())??.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let got = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, got })
}

impl Answer {
    /// A field of the answer.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Which backend answered.
    pub(crate) fn backend(&self) -> &str {
        self.header("x-backend").unwrap_or_default()
    }

    /// Whether it is what a case expects, in words if not: a status, a backend, `path=`, `host=`,
    /// a field that the backend got (`name=value`) or did not (`!name`), and fields of the answer
    /// the same with `<` before them.
    pub(crate) fn check(&self, expected: &str) -> Result<(), String> {
        for word in expected.split(' ') {
            let (word, not) = word.strip_prefix('!').map_or((word, false), |word| (word, true));
            let (word, of_answer) = word.strip_prefix('<').map_or((word, false), |w| (w, true));
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            let found: Vec<String> = if of_answer {
                let all = self.headers.get_all(name).iter();
                all.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
            } else if let Some(status) = name.parse::<u16>().ok().filter(|_| !word.contains('=')) {
                if self.status != status {
                    return Err(format!("status {}, expected {status}", self.status));
                }
                continue;
            } else if not || word.contains('=') {
                match name {
                    "path" | "host" | "body" | "method" => {
                        self.got[name].as_str().map(str::to_owned).into_iter().collect()
                    }
                    name => {
                        let all = self.got["headers"][name].as_array().cloned().unwrap_or_default();
                        all.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
                    }
                }
            } else {
                if self.backend() != word {
                    return Err(format!("backend {:?}, expected {word}", self.backend()));
                }
                continue;
            };
            let found = found.join(",");
            if not && !found.is_empty() {
                return Err(format!("{name}: {found:?}, expected none"));
            }
            if !not && found != value {
                return Err(format!("{name}: {found:?}, expected {value:?}"));
            }
        }
        Ok(())
    }
}
