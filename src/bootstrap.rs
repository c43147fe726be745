//! `portolan bootstrap`: what a client has to be given to find this control plane, for gRPC and for
//! Envoy. Making it is pure; nothing is connected to.

mod envoy;
mod grpc;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use portolan_model::ServiceKey;
use serde_json::{Map, Value, json};

use crate::cli::{BootstrapCommand, BootstrapOutput, ClientArgs};
use crate::config::Config;
use crate::exit::cannot_start;

/// Key of a client's Kubernetes node in the metadata of its xDS node.
const NODE_NAME: &str = portolan_xds::NODE_NAME;
/// Key of the namespace that its requests come from.
const NAMESPACE: &str = portolan_xds::NAMESPACE;
/// Key of the Gateways that it serves.
const GATEWAYS: &str = portolan_xds::GATEWAYS;
/// Keys of the services in front of whose endpoints it stands, and of who it asks to be.
const SERVES: &str = portolan_xds::SERVES;
const IDENTITY: &str = portolan_xds::IDENTITY;
const OWN_IDENTITY: &str = portolan_xds::OWN_IDENTITY;

/// What both kinds of client have to know.
#[derive(Clone, Debug)]
struct Client {
    server: Server,
    node_id: String,
    zone: Option<String>,
    node_name: Option<String>,
    namespace: Option<String>,
    /// The Gateways it serves.
    gateways: Vec<String>,
    /// The services in front of whose endpoints it stands.
    serves: Vec<ServiceKey>,
    /// The service account that it asks to be.
    service_account: Option<String>,
    tls: Option<Tls>,
    /// What it proves itself with to others than the control plane.
    own: Option<Own>,
}

/// Files with a certificate of a client's own.
#[derive(Clone, Debug)]
struct Own {
    certificate: String,
    key: String,
    authorities: String,
}

/// Where the control plane is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

/// Files for TLS with the control plane.
#[derive(Clone, Debug)]
struct Tls {
    authorities: String,
    /// The client's own chain and key.
    certificate: Option<(String, String)>,
}

/// Prints the bootstrap.
pub(crate) fn run(command: &BootstrapCommand) -> anyhow::Result<ExitCode> {
    let text = match command {
        BootstrapCommand::Grpc(args) => {
            let mut client = client(&args.client, "grpc").map_err(cannot_start)?;
            client.serves.clone_from(&args.serves);
            client.own = match (&args.identity_cert, &args.identity_key, &args.identity_ca) {
                (Some(certificate), Some(key), Some(authorities)) => Some(Own {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    authorities: authorities.clone(),
                }),
                // The command line knows that they go together.
                _ => None,
            };
            let token = args.token_file.as_deref();
            format!("{:#}\n", grpc::bootstrap(&client, token).map_err(cannot_start)?)
        }
        BootstrapCommand::Envoy(args) => {
            let mut client = client(&args.client, "envoy").map_err(cannot_start)?;
            client.gateways.clone_from(&args.gateway);
            client.serves.clone_from(&args.serves);
            client.service_account.clone_from(&args.service_account);
            let options = envoy::Options {
                admin: (!args.no_admin).then_some(args.admin),
                delta: args.delta,
                load_reports: args.load_reports,
            };
            let value = envoy::bootstrap(&client, &options);
            match args.output {
                BootstrapOutput::Json => format!("{value:#}\n"),
                BootstrapOutput::Yaml => serde_saphyr::to_string(&value)?,
            }
        }
    };
    match std::io::stdout().write_all(text.as_bytes()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// The client of these arguments. Its node is named after the host where nothing names it: in
/// Kubernetes that is the pod.
fn client(args: &ClientArgs, kind: &str) -> anyhow::Result<Client> {
    let server = match &args.server {
        Some(text) => Server::parse(text).map_err(|reason| anyhow!("--server {text}: {reason}"))?,
        None => Server::of(&args.settings().load()?)?,
    };
    let tls = match (&args.tls_ca, &args.tls_cert, &args.tls_key) {
        (None, ..) => None,
        (Some(authorities), chain, key) => Some(Tls {
            authorities: authorities.clone(),
            // The command line knows that one needs the other.
            certificate: chain.clone().zip(key.clone()),
        }),
    };
    let host = || std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
    let node_id = args.node_id.clone().or_else(host).unwrap_or_else(|| kind.to_owned());
    Ok(Client {
        server,
        node_id,
        zone: args.zone.clone(),
        node_name: args.node_name.clone(),
        namespace: args.namespace.clone(),
        gateways: Vec::new(),
        serves: Vec::new(),
        service_account: None,
        tls,
        own: None,
    })
}

impl Client {
    /// The node as xDS has it (`envoy.config.core.v3.Node`), as JSON.
    fn node(&self) -> Map<String, Value> {
        let mut node = Map::from_iter([("id".to_owned(), json!(self.node_id))]);
        if let Some(zone) = &self.zone {
            node.insert("locality".to_owned(), json!({ "zone": zone }));
        }
        let mut metadata = Map::new();
        if let Some(name) = &self.node_name {
            metadata.insert(NODE_NAME.to_owned(), json!(name));
        }
        if let Some(namespace) = &self.namespace {
            metadata.insert(NAMESPACE.to_owned(), json!(namespace));
        }
        if !self.gateways.is_empty() {
            metadata.insert(GATEWAYS.to_owned(), json!(self.gateways.join(",")));
        }
        if !self.serves.is_empty() {
            let serves: Vec<String> = self.serves.iter().map(ToString::to_string).collect();
            metadata.insert(SERVES.to_owned(), json!(serves.join(",")));
        }
        if let Some(account) = &self.service_account {
            metadata.insert(IDENTITY.to_owned(), json!(account));
        }
        if self.own.is_some() {
            metadata.insert(OWN_IDENTITY.to_owned(), json!("yes"));
        }
        if !metadata.is_empty() {
            node.insert("metadata".to_owned(), metadata.into());
        }
        node
    }
}

impl Server {
    /// Parses `HOST:PORT`, with an IPv6 address in brackets.
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Self::at(address);
        }
        let form = || "expected HOST:PORT".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(form)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        if host.is_empty() || !host.chars().all(fits) {
            return Err(form());
        }
        let port = port.parse().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| "expected a port in 1..=65535".to_owned())?;
        Ok(Self { host: Host::Name(host.to_owned()), port })
    }

    /// The server of this configuration, as one finds it on the same host.
    fn of(config: &Config) -> anyhow::Result<Self> {
        let address = config.xds.address;
        match Self::at(address) {
            Ok(server) => Ok(server),
            Err(reason) => bail!("xds.address {address}: {reason}: name the server with --server"),
        }
    }

    fn at(address: SocketAddr) -> Result<Self, String> {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        match address.port() {
            0 => Err("port 0 is none to connect to".to_owned()),
            port => Ok(Self { host: Host::Ip(ip), port }),
        }
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests;
