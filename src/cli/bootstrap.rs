//! The command line of `portolan bootstrap`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use portolan_model::ServiceKey;

use super::Settings;

#[derive(Debug, Subcommand)]
pub(crate) enum BootstrapCommand {
    /// For gRPC clients and servers: the file that GRPC_XDS_BOOTSTRAP names.
    Grpc(GrpcBootstrapArgs),
    /// For Envoy: its configuration file.
    Envoy(EnvoyBootstrapArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GrpcBootstrapArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// File with a token that calls to the control plane carry (gRFC A97).
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<String>,
    /// Services that its servers serve, such as shop/web, so that these go by their policies; repeat for
    /// several.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = ServiceKey::parse)]
    pub(crate) serves: Vec<ServiceKey>,
    /// PEM file of the certificate chain by which it proves who it is to other clients and servers.
    #[arg(long, value_name = "FILE", requires_all = ["identity_key", "identity_ca"])]
    pub(crate) identity_cert: Option<String>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE", requires_all = ["identity_cert", "identity_ca"])]
    pub(crate) identity_key: Option<String>,
    /// PEM file of the authorities that their certificates end in.
    #[arg(long, value_name = "FILE", requires_all = ["identity_cert", "identity_key"])]
    pub(crate) identity_ca: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct EnvoyBootstrapArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Where Envoy's admin port is to be.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
    pub(crate) admin: SocketAddr,
    /// No admin port.
    #[arg(long, conflicts_with = "admin")]
    pub(crate) no_admin: bool,
    /// The delta variant of xDS.
    #[arg(long)]
    pub(crate) delta: bool,
    /// Gateways that it serves, such as shop/web; repeat for several, or `*` for all.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) gateway: Vec<String>,
    /// Services in front of whose endpoints it stands, such as shop/web; repeat for several.
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = ServiceKey::parse)]
    pub(crate) serves: Vec<ServiceKey>,
    /// Service account that it asks to be, such as shop/web, where it need not prove it.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) service_account: Option<String>,
    /// Report load, for `portolan get load`.
    #[arg(long)]
    pub(crate) load_reports: bool,
    /// How to print it.
    #[arg(long, short, value_enum, default_value_t = BootstrapOutput::Yaml)]
    pub(crate) output: BootstrapOutput,
}

/// Who the client is, and where and how it reaches the control plane.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The control plane, as HOST:PORT; else where the configuration has it.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) server: Option<String>,
    /// Id of the client, unique among all; else the host's name.
    #[arg(long, value_name = "ID")]
    pub(crate) node_id: Option<String>,
    /// The zone it runs in; else that of its node.
    #[arg(long, value_name = "ZONE")]
    pub(crate) zone: Option<String>,
    /// The Kubernetes node it runs on.
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// The namespace its requests come from, whose own routes on Services they go by.
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// TLS with the control plane; PEM file of the authorities its certificate may end in.
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_ca: Option<String>,
    /// PEM file of the client's own certificate chain.
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub(crate) tls_cert: Option<String>,
    /// PEM file of its private key.
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_cert"])]
    pub(crate) tls_key: Option<String>,
    /// Configuration file of the control plane: TOML, or YAML by its ending.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A setting of the control plane; repeat for several.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// How a bootstrap is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BootstrapOutput {
    /// YAML.
    Yaml,
    /// JSON.
    Json,
}

impl ClientArgs {
    /// The settings that say where the control plane is.
    pub(crate) fn settings(&self) -> Settings {
        let (config, set) = (self.config.clone(), self.set.clone());
        Settings { config, set, ..Settings::default() }
    }
}
