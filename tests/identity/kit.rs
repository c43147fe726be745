//! A control plane with an issuer, a proxy for each client, and one in front of an application.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::backend::Backend;
use crate::support::envoy::Envoy;
use crate::support::{PATIENCE, Process, free_address, free_port, replace};

/// Who asks.
pub(crate) const CART: Option<&str> = Some("shop/cart");
pub(crate) const OTHER: Option<&str> = Some("shop/other");

/// Whose proxy it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    Portolan,
    Envoy,
}

/// A proxy.
enum Running {
    Portolan(Process),
    Envoy(#[expect(dead_code, reason = "it runs for as long as it is held")] Envoy),
}

/// Where proxies have their certificates from.
pub(crate) enum From<'a> {
    /// The control plane, which issues them for so many seconds.
    Issuer(u64),
    /// Elsewhere: the settings for the proxy of an account.
    Elsewhere(&'a dyn Fn(&str) -> Vec<String>),
}

/// Everything that runs.
pub(crate) struct World {
    control: Process,
    /// By the account of the client; `None` has none.
    clients: Vec<(Option<&'static str>, Running, SocketAddr)>,
    server: Running,
    inbound: SocketAddr,
    folder: tempfile::TempDir,
    _app: Backend,
}

/// An answer; a status of 0 stands for none.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) endpoint: String,
    /// What the application was told of the client's certificate.
    pub(crate) cert: String,
    pub(crate) body: String,
}

const MANIFESTS: &str = "apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: shop
  annotations:
    portolan.dev/mtls: MODE
    portolan.dev/service-accounts: web
    portolan.dev/app-port: 'APP'
    portolan.dev/protocol: http
    portolan.dev/connection-max-requests: '1'
spec: {clusterIP: None, ports: [{port: 80, targetPort: INBOUND}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: INBOUND}]
endpoints: [{addresses: [ADDRESS]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec:
  gatewayClassName: portolan
  addresses: [{value: 127.0.0.1}]
  listeners: [{name: http, port: EDGE, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge, namespace: shop}
spec: {parentRefs: [{name: edge}], rules: [{backendRefs: [{name: web, port: 80}]}]}
";

impl World {
    /// Starts it all; `None` where an Envoy is asked for and there is none.
    pub(crate) async fn start(
        client: Front,
        server: Front,
        mode: &str,
        lifetime: u64,
    ) -> Option<Self> {
        Self::start_as(client, server, mode, From::Issuer(lifetime), Some("shop/web")).await
    }

    /// The same, the proxy in front of the application being of this account, or of none.
    pub(crate) async fn start_as(
        client: Front,
        server: Front,
        mode: &str,
        from: From<'_>,
        account: Option<&str>,
    ) -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(10);
        let envoy = match client == Front::Envoy || server == Front::Envoy {
            false => None,
            true => Some(Envoy::find()?),
        };
        let app = Backend::start("app").await;
        // An address of its own: an Envoy listens at all of them.
        let host = std::net::Ipv4Addr::new(127, 0, 9, NEXT.fetch_add(1, Ordering::Relaxed));
        let (inbound, edge) = (SocketAddr::new(host.into(), free_port()), free_address());
        let folder = tempfile::tempdir().expect("a folder");
        let text = MANIFESTS
            .replace("MODE", mode)
            .replace("APP", &app.address.port().to_string())
            .replace("INBOUND", &inbound.port().to_string())
            .replace("ADDRESS", &host.to_string())
            .replace("EDGE", &edge.port().to_string());
        std::fs::create_dir(folder.path().join("manifests")).expect("made");
        std::fs::write(folder.path().join("manifests/shop.yaml"), text).expect("written");
        let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
        let mut settings = vec!["proxy.http=127.0.0.1:0".to_owned()];
        if let From::Issuer(lifetime) = from {
            settings.push(format!("identity.issuer_folder={}", path("issuer")));
            settings.push(format!("identity.lifetime_secs={lifetime}"));
            settings.push("identity.local_clients=trusted".to_owned());
        }
        let manifests = path("manifests");
        let mut args = vec!["control", "--manifests", &manifests, "--log", "warn"];
        args.extend(["--admin", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0"]);
        args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let mut control = Process::start(&args);
        control.reach(1).await;
        let xds = control.address("xds").to_string();
        let start = |front: Front, account: Option<&str>, more: &[String]| match front {
            Front::Portolan => {
                let mut args: Vec<String> =
                    ["proxy", "--xds", &xds, "--admin", "127.0.0.1:0", "--log", "error"]
                        .map(str::to_owned)
                        .to_vec();
                let identity = account.into_iter().flat_map(|account| match from {
                    From::Issuer(_) => vec![format!("proxy.service_account={account}")],
                    From::Elsewhere(settings) => settings(account),
                });
                args.extend(identity.flat_map(|setting| ["--set".to_owned(), setting]));
                args.extend(more.iter().cloned());
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                Running::Portolan(Process::start(&args))
            }
            Front::Envoy => {
                let account = account.expect("it has one");
                let mut args = vec!["--server", &xds, "--node-id", account];
                args.extend(["--service-account", account]);
                args.extend(more.iter().map(String::as_str));
                let config = folder.path().join(format!("{}.yaml", account.replace('/', "-")));
                Running::Envoy(Envoy::start(envoy.as_ref().expect("found"), &args, &config))
            }
        };
        let serves = match server {
            Front::Portolan => vec![
                "--set".to_owned(),
                "proxy.serves=shop/web".to_owned(),
                "--set".to_owned(),
                format!("proxy.inbound_address={host}"),
            ],
            Front::Envoy => vec!["--serves".to_owned(), "shop/web".to_owned()],
        };
        let server = start(server, account, &serves);
        let mut clients = Vec::new();
        let accounts: &[Option<&'static str>] =
            if client == Front::Envoy { &[CART] } else { &[CART, OTHER, None] };
        for account in accounts {
            let gateway = ["--gateway".to_owned(), "shop/edge".to_owned()];
            let more: &[String] = if client == Front::Envoy { &gateway } else { &[] };
            let mut running = start(client, *account, more);
            let at = match &mut running {
                Running::Portolan(process) => process.address("proxy http http"),
                Running::Envoy(_) => edge,
            };
            clients.push((*account, running, at));
        }
        Some(Self { control, clients, server, inbound, folder, _app: app })
    }

    pub(crate) fn control(&mut self) -> &mut Process {
        &mut self.control
    }

    /// Ends the control plane.
    pub(crate) fn end_control(&mut self) {
        self.control.signal("KILL");
        self.control.wait();
    }

    pub(crate) fn server(&mut self) -> &mut Process {
        match &mut self.server {
            Running::Portolan(process) => process,
            Running::Envoy(_) => panic!("it is an Envoy"),
        }
    }

    /// Where the proxy in front of the application listens.
    pub(crate) fn inbound(&self) -> SocketAddr {
        self.inbound
    }

    /// Asks through the proxy of an account. The path is sent as it is.
    pub(crate) async fn ask(&self, account: Option<&str>, method: &str, path: &str) -> Answer {
        let found = self.clients.iter().find(|(known, ..)| *known == account);
        let (.., at) = found.expect("a client");
        fetch(*at, method, path).await
    }

    /// Asks until there is an answer of this status.
    pub(crate) async fn until(
        &self,
        account: Option<&str>,
        method: &str,
        path: &str,
        status: u16,
    ) -> Answer {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.ask(account, method, path).await;
            if answer.status == status {
                return answer;
            }
            assert!(Instant::now() < deadline, "{account:?} {method} {path}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn edit(&self, change: impl FnOnce(String) -> String) {
        let file = self.folder.path().join("manifests/shop.yaml");
        let before = std::fs::read_to_string(&file).expect("readable");
        let after = change(before.clone());
        assert_ne!(before, after, "a change");
        replace(&file, &after);
    }

    /// Puts one text in the place of another.
    pub(crate) fn annotate(&self, before: &str, after: &str) {
        self.edit(|text| text.replace(before, after));
    }

    pub(crate) fn add(&self, manifest: &str) {
        self.edit(|text| format!("{text}{manifest}"));
    }

    pub(crate) fn remove(&self, manifest: &str) {
        self.edit(|text| text.replace(manifest, ""));
    }
}

/// A request in the clear to `web.shop` over a connection of its own.
async fn fetch(at: SocketAddr, method: &str, path: &str) -> Answer {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: web.shop\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    let mut bytes = Vec::new();
    let exchange = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(request.as_bytes()).await?;
        stream.read_to_end(&mut bytes).await
    };
    // A connection that is refused may be reset.
    let _ended = tokio::time::timeout(Duration::from_secs(10), exchange).await;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let field = |name: &str| {
        let found = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        found.unwrap_or_default().trim().to_owned()
    };
    Answer {
        status: text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0),
        endpoint: field("x-endpoint"),
        cert: field("x-got-cert"),
        body: text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default(),
    }
}

/// The status that a request in the clear gets; 0 for none.
pub(crate) async fn plain(at: SocketAddr, path: &str) -> u16 {
    fetch(at, "GET", path).await.status
}

/// Whether TLS with a server comes to an answer, whoever the server is.
pub(crate) async fn handshakes(at: SocketAddr, client: &Arc<ClientConfig>) -> bool {
    let Ok(stream) = TcpStream::connect(at).await else { return false };
    let name = ServerName::try_from("web.shop").expect("a name");
    let Ok(mut stream) = TlsConnector::from(Arc::clone(client)).connect(name, stream).await else {
        return false;
    };
    let request = b"GET / HTTP/1.1\r\nHost: web.shop\r\nConnection: close\r\n\r\n";
    let mut answer = Vec::new();
    let sent = stream.write_all(request).await;
    sent.is_ok() && stream.read_to_end(&mut answer).await.is_ok() && !answer.is_empty()
}
