//! Proxies whose certificates are not the control plane's: from files, as cert-manager leaves them, and from
//! an agent that speaks SDS, as SPIRE's does.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portolan_proto::envoy::core::{DataSource, data_source::Specifier};
use portolan_proto::envoy::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use portolan_proto::envoy::protobuf::Any;
use portolan_proto::envoy::secret::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use portolan_proto::envoy::tls::secret::Type;
use portolan_proto::envoy::tls::{CertificateValidationContext, Secret, TlsCertificate};
use prost::{Message, Name};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::certificates::Authority;
use crate::kit::{CART, From, Front, OTHER, World, plain};
use crate::support::{PATIENCE, replace};

fn spiffe(account: &str) -> String {
    let (namespace, name) = account.split_once('/').expect("two parts");
    format!("spiffe://cluster.local/ns/{namespace}/sa/{name}")
}

/// Files of an account below a folder.
fn files(folder: &Path, account: &str) -> [PathBuf; 3] {
    let name = account.replace('/', "-");
    ["chain", "key", "ca"].map(|what| folder.join(format!("{name}-{what}.pem")))
}

fn write(folder: &Path, account: &str, authority: &Authority) {
    let issued = authority.issue(&[&spiffe(account)]);
    let [chain, key, ca] = files(folder, account);
    replace(&ca, &authority.pem());
    replace(&chain, &issued.chain);
    replace(&key, &issued.key);
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_on_disk_are_followed_whether_there_is_a_control_plane_or_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("mesh");
    let settings = |account: &str| {
        write(folder.path(), account, &authority);
        let [chain, key, ca] = files(folder.path(), account).map(|path| path.display().to_string());
        vec![
            format!("proxy.identity_certificate={chain}"),
            format!("proxy.identity_key={key}"),
            format!("proxy.identity_authorities={ca}"),
        ]
    };
    let from = From::Elsewhere(&settings);
    let world =
        World::start_as(Front::Portolan, Front::Portolan, "strict", from, Some("shop/web")).await;
    let mut world = world.expect("ours");
    let answer = world.until(CART, "GET", "/", 200).await;
    assert_eq!(answer.cert, format!("URI={}", spiffe("shop/cart")), "{answer:?}");
    world.until(OTHER, "GET", "/", 200).await;
    assert_eq!(plain(world.inbound(), "/").await, 0, "strict");
    assert_eq!(world.ask(None, "GET", "/").await.endpoint, "", "who has none is not served");

    // What cannot be used is passed over, and counted.
    let failed = "portolan_xds_client_own_certificates_failed_total";
    let [chain, ..] = files(folder.path(), "shop/web");
    replace(&chain, "no certificate");
    let deadline = Instant::now() + PATIENCE;
    while world.server().metric(failed).await != Some(1.0) {
        assert!(Instant::now() < deadline, "it is counted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.ask(CART, "GET", "/").await.status, 200);

    // Renewed while nobody tells the proxies anything.
    world.end_control();
    let taken = "portolan_xds_client_own_certificates_total";
    for round in 1..4 {
        write(folder.path(), "shop/web", &authority);
        let deadline = Instant::now() + PATIENCE;
        while world.server().metric(taken).await.is_none_or(|taken| taken < f64::from(round + 1)) {
            assert_eq!(world.ask(CART, "GET", "/").await.status, 200, "{round}");
            assert!(Instant::now() < deadline, "round {round}");
        }
        assert_eq!(world.ask(CART, "GET", "/").await.status, 200, "{round}");
    }
    // Other authorities: the server's certificate does not end in them.
    let [.., ca] = files(folder.path(), "shop/cart");
    replace(&ca, &Authority::new("theirs").pem());
    world.until(CART, "GET", "/", 503).await;
    world.until(OTHER, "GET", "/", 200).await;
}

/// An agent: what it has of one account, and what its clients said.
#[derive(Clone)]
struct Agent {
    secrets: watch::Sender<(u64, Vec<Any>)>,
    said: Arc<Mutex<Vec<DiscoveryRequest>>>,
}

fn inline(text: &str) -> Option<DataSource> {
    let specifier = Some(Specifier::InlineBytes(text.as_bytes().to_vec()));
    Some(DataSource { specifier, ..DataSource::default() })
}

fn secret(name: &str, content: Type) -> Any {
    let secret = Secret { name: name.to_owned(), r#type: Some(content) };
    Any { type_url: Secret::type_url(), value: secret.encode_to_vec() }
}

/// What an agent of SPIRE has: the certificate under `default`, the authorities under `ROOTCA`.
fn secrets(authority: &Authority, account: &str) -> Vec<Any> {
    let issued = authority.issue(&[&spiffe(account)]);
    let pair = TlsCertificate {
        certificate_chain: inline(&issued.chain),
        private_key: inline(&issued.key),
        ..TlsCertificate::default()
    };
    let trusted =
        CertificateValidationContext { trusted_ca: inline(&authority.pem()), ..Default::default() };
    vec![
        secret("default", Type::TlsCertificate(pair)),
        secret("ROOTCA", Type::ValidationContext(trusted)),
    ]
}

impl Agent {
    fn start(path: &Path, first: Vec<Any>) -> Self {
        let agent = Self { secrets: watch::channel((1, first)).0, said: Arc::default() };
        let listener = UnixListener::bind(path).expect("a socket");
        let service = SecretDiscoveryServiceServer::new(agent.clone());
        let served = tonic::transport::Server::builder().add_service(service);
        tokio::spawn(served.serve_with_incoming(UnixListenerStream::new(listener)));
        agent
    }

    fn put(&self, secrets: Vec<Any>) {
        self.secrets.send_modify(|(version, current)| {
            *version += 1;
            *current = secrets;
        });
    }

    /// Whether a client has answered the newest version: with its error, if it refused.
    async fn answered(&self) -> Option<String> {
        let version = self.secrets.borrow().0.to_string();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.said.lock().expect("no panic").clone();
            if let Some(answer) = said.iter().find(|said| said.response_nonce == version) {
                return answer.error_detail.as_ref().map(|error| error.message.clone());
            }
            assert!(Instant::now() < deadline, "no answer to {version}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SecretDiscoveryService for Agent {
    type StreamSecretsStream = Responses<DiscoveryResponse>;
    type DeltaSecretsStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (sender, receiver) = mpsc::channel(1);
        let (agent, mut requests) = (self.clone(), request.into_inner());
        let mut current = agent.secrets.subscribe();
        current.mark_changed();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    said = requests.message() => match said {
                        Ok(Some(said)) => agent.said.lock().expect("no panic").push(said),
                        _ => return,
                    },
                    Ok(()) = current.changed() => {
                        let (version, resources) = current.borrow_and_update().clone();
                        let response = DiscoveryResponse {
                            version_info: version.to_string(),
                            nonce: version.to_string(),
                            type_url: Secret::type_url(),
                            resources,
                            ..DiscoveryResponse::default()
                        };
                        if sender.send(Ok(response)).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("state of the world alone"))
    }

    async fn fetch_secrets(
        &self,
        _: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("streams alone"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_an_agent_are_taken_as_they_come() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = Authority::new("mesh");
    let socket = |account: &str| folder.path().join(format!("{}.sock", account.replace('/', "-")));
    let agents: Vec<(&str, Agent)> = ["shop/cart", "shop/other", "shop/web"]
        .into_iter()
        .map(|account| (account, Agent::start(&socket(account), secrets(&authority, account))))
        .collect();
    let settings =
        |account: &str| vec![format!("proxy.identity_agent=unix://{}", socket(account).display())];
    let from = From::Elsewhere(&settings);
    let world =
        World::start_as(Front::Portolan, Front::Portolan, "strict", from, Some("shop/web")).await;
    let world = world.expect("ours");
    let answer = world.until(CART, "GET", "/", 200).await;
    assert_eq!(answer.cert, format!("URI={}", spiffe("shop/cart")), "{answer:?}");
    world.until(OTHER, "GET", "/", 200).await;
    let agent = |account: &str| {
        let found = agents.iter().find(|(known, _)| *known == account);
        &found.expect("an agent").1
    };
    let web = agent("shop/web");
    assert_eq!(web.answered().await, None);
    let first = web.said.lock().expect("no panic")[0].clone();
    assert_eq!(first.resource_names, ["default", "ROOTCA"]);

    // Renewed under load.
    for _ in 0..5 {
        web.put(secrets(&authority, "shop/web"));
        assert_eq!(web.answered().await, None);
        for _ in 0..10 {
            assert_eq!(world.ask(CART, "GET", "/").await.status, 200);
        }
    }
    // What is no secret, or of another name, is refused by name; what was good stays.
    let mut odd = secrets(&authority, "shop/web");
    odd[0] = secret(
        "other",
        Type::ValidationContext(CertificateValidationContext {
            trusted_ca: inline(&authority.pem()),
            ..Default::default()
        }),
    );
    web.put(odd);
    let refused = web.answered().await.expect("refused");
    assert!(refused.starts_with("other: "), "{refused}");
    assert_eq!(world.ask(CART, "GET", "/").await.status, 200);
    // Authorities of others: the server's certificate does not end in them any more.
    let theirs = Authority::new("theirs");
    agent("shop/cart").put(secrets(&theirs, "shop/cart"));
    world.until(CART, "GET", "/", 503).await;
    world.until(OTHER, "GET", "/", 200).await;
}
