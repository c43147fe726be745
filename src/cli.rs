//! The command line.

mod bootstrap;
mod get;
mod operate;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::config::reader::Texts;
use crate::config::{self, Config, print};
use crate::exit::cannot_start;
use crate::roles::Roles;
use crate::{call, check, demo, explain, guard, import, raw, roles, wait};
pub(crate) use bootstrap::{BootstrapCommand, BootstrapOutput, ClientArgs};
pub(crate) use get::{GetArgs, GetOutput, GetWhat};
pub(crate) use operate::{
    GuardArgs, GuardCommand, RawArgs, RawCommand, WaitArgs, WhyArgs, WhyOutput,
};

/// Service discovery, cluster DNS and load balancing from one numbered snapshot.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, arg_required_else_help = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run all roles: control, dns and proxy.
    Run(Settings),
    /// Run the control role: watch manifests and serve xDS.
    Control(Settings),
    /// Run the dns role: watch manifests and answer names; or ask or prepare one.
    #[command(args_conflicts_with_subcommands = true)]
    Dns(DnsArgs),
    /// Run the proxy role, configured by a control plane over xDS.
    Proxy(ProxySettings),
    /// Check a folder or file of manifests and say what would be refused.
    Check(CheckArgs),
    /// Run everything on the example shop with backends inside this process.
    Demo(DemoArgs),
    /// Call a gRPC method of a server with reflection, or list its methods.
    Call(CallArgs),
    /// Show what a running control plane knows: services, endpoints, rejected, clients,
    /// load, gateways, routes, proxy, requests.
    Get(GetArgs),
    /// Say why a request went where it did: one that failed lately, or that was sampled.
    Why(WhyArgs),
    /// Wait until every connected client has a generation, and name those that do not.
    Wait(WaitArgs),
    /// Put xDS resources into a running control plane by hand.
    Raw(RawArgs),
    /// Print what a client has to be given to find the control plane.
    #[command(subcommand)]
    Bootstrap(BootstrapCommand),
    /// Show what a running control plane holds back because too much was gone at once.
    Guard(GuardArgs),
    /// Show the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every setting with the value in force, as TOML.
    Print(Settings),
}

/// Settings by flag; each beats its environment variable, which beats the file.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Settings {
    /// Values of last resort among the flags: the demo's own.
    #[arg(skip)]
    defaults: Vec<(&'static str, String)>,
    /// Configuration file: TOML, or YAML by its ending.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder or file of Kubernetes manifests.
    #[arg(long, short, value_name = "PATH")]
    manifests: Option<String>,
    /// Watch a Kubernetes API: that of the pod it runs in, else of the kubeconfig.
    #[arg(long, conflicts_with = "manifests")]
    kubernetes: bool,
    /// Watch the Kubernetes API of this kubeconfig.
    #[arg(long, value_name = "FILE", conflicts_with = "manifests")]
    kubeconfig: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// DNS zone of the cluster.
    #[arg(long, value_name = "NAME")]
    zone: Option<String>,
    /// Where DNS is served (UDP and TCP); repeat for several.
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    /// Where xDS is served.
    #[arg(long, value_name = "ADDRESS")]
    xds_listen: Option<String>,
    /// Where metrics and health are served.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<String>,
    /// Where the proxy accepts HTTP; repeat for several.
    #[arg(long, value_name = "ADDRESS")]
    http: Vec<String>,
    /// Where the proxy accepts TCP and for which service; repeat for several.
    #[arg(long, value_name = "ADDRESS=NAMESPACE/SERVICE:PORT")]
    tcp: Vec<String>,
    /// Which log lines are written, such as `warn` or `info,portolan_xds=debug`.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Any other setting, by the name `portolan config print` shows; repeat for several.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Args)]
struct DnsArgs {
    #[command(subcommand)]
    command: Option<DnsCommand>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Subcommand)]
enum DnsCommand {
    /// Say step by step how a running server's answer comes about.
    Explain(ExplainArgs),
    /// Print the settings that a CoreDNS Corefile comes to, and what has no counterpart.
    ImportCorefile(ImportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The name, in full.
    pub(crate) name: String,
    /// The record type.
    #[arg(default_value = "A", value_name = "TYPE")]
    pub(crate) rtype: String,
    /// The address of the client, such as a pod's.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(crate) from: std::net::IpAddr,
    /// Admin address of the server, as HOST:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    #[arg(env = "PORTOLAN_ADMIN_ADDRESS")]
    pub(crate) admin: String,
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The Corefile; `-` for standard input.
    pub(crate) file: PathBuf,
    /// Exit code 1 when something has no counterpart.
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Debug, Args)]
struct ProxySettings {
    /// Control plane, as HOST:PORT or http://HOST:PORT.
    #[arg(long, value_name = "ADDRESS")]
    xds: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Folder or file.
    pub(crate) path: PathBuf,
    /// Exit code 1 for warnings too.
    #[arg(long)]
    pub(crate) strict: bool,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Where to put the example's manifests (to edit while it runs); a temporary folder if unset.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) settings: Settings,
}

#[derive(Debug, Args)]
pub(crate) struct CallArgs {
    /// Server or proxy to connect to, as HOST:PORT.
    pub(crate) target: String,
    /// Method, as package.Service/Method; without it all methods are listed.
    pub(crate) method: Option<String>,
    /// Messages as JSON; several for a client stream. `{}` if none is given.
    pub(crate) messages: Vec<String>,
    /// The `:authority` to send, such as greeter.shop:50051.
    #[arg(long, value_name = "NAME")]
    pub(crate) authority: Option<String>,
    /// Metadata to send; repeat for several.
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    pub(crate) metadata: Vec<String>,
    /// Deadline in seconds.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) timeout: f64,
}

impl Cli {
    /// Carries out the command.
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(settings) => roles::run(&settings.load()?, Roles::ALL),
            Command::Control(settings) => roles::run(&settings.load()?, Roles::CONTROL),
            Command::Dns(DnsArgs { command, settings }) => match command {
                None => roles::run(&settings.load()?, Roles::DNS),
                Some(DnsCommand::Explain(args)) => explain::run(&args),
                Some(DnsCommand::ImportCorefile(args)) => import::run(&args),
            },
            Command::Proxy(ProxySettings { xds, mut settings }) => {
                if let Some(address) = xds {
                    let address =
                        if address.contains("://") { address } else { format!("http://{address}") };
                    settings.set.insert(0, format!("proxy.control={address}"));
                }
                roles::run(&settings.load()?, Roles::PROXY)
            }
            Command::Check(args) => check::run(&args),
            Command::Demo(args) => demo::run(&args),
            Command::Call(args) => call::run(args),
            Command::Get(args) => crate::get::run(&args),
            Command::Why(args) => crate::why::run(&args),
            Command::Wait(args) => wait::run(&args),
            Command::Raw(args) => raw::run(&args),
            Command::Bootstrap(command) => crate::bootstrap::run(&command),
            Command::Guard(args) => guard::run(&args),
            Command::Config(ConfigCommand::Print(settings)) => {
                let (_, shown) = settings.load_shown()?;
                print!("{}", print::to_toml(&shown));
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

impl CallArgs {
    /// The deadline, if it is a sensible one.
    pub(crate) fn deadline(&self) -> anyhow::Result<Duration> {
        Duration::try_from_secs_f64(self.timeout)
            .map_err(|e| cannot_start(anyhow::anyhow!("--timeout {}: {e}", self.timeout)))
    }
}

impl Settings {
    /// Sets a value that flags, environment and file all beat.
    pub(crate) fn default_to(&mut self, path: &'static str, value: impl Into<String>) {
        self.defaults.push((path, value.into()));
    }

    /// The configuration of flags, environment and file.
    pub(crate) fn load(&self) -> anyhow::Result<Config> {
        self.load_shown().map(|(config, _)| config)
    }

    fn load_shown(&self) -> anyhow::Result<(Config, Vec<config::reader::Shown>)> {
        let flags = self.flags().map_err(cannot_start)?;
        config::load(self.config.as_deref(), flags, &self.defaults).map_err(cannot_start)
    }

    fn flags(&self) -> anyhow::Result<Texts> {
        let mut texts = Texts::default();
        for pair in &self.set {
            let (key, value) = pair
                .split_once('=')
                .ok_or_else(|| anyhow::anyhow!("--set {pair}: expected KEY=VALUE"))?;
            texts.set(key.trim(), value.trim(), "--set");
        }
        if self.kubernetes || self.kubeconfig.is_some() {
            texts.set("control.kubernetes", "on", "--kubernetes");
        }
        let single = [
            ("control.kubeconfig", &self.kubeconfig, "--kubeconfig"),
            ("control.context", &self.context, "--context"),
            ("control.manifests", &self.manifests, "--manifests"),
            ("zone", &self.zone, "--zone"),
            ("xds.address", &self.xds_listen, "--xds-listen"),
            ("admin.address", &self.admin, "--admin"),
            ("log.filter", &self.log, "--log"),
        ];
        for (path, value, flag) in single {
            if let Some(value) = value {
                texts.set(path, value, flag);
            }
        }
        let several = [
            ("dns.addresses", &self.dns, "--dns"),
            ("proxy.http", &self.http, "--http"),
            ("proxy.tcp", &self.tcp, "--tcp"),
        ];
        for (path, values, flag) in several {
            if !values.is_empty() {
                texts.set(path, values.join(","), flag);
            }
        }
        Ok(texts)
    }
}
