//! The command line of `portolan get`.

use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// What to show.
    #[arg(value_enum)]
    pub(crate) what: GetWhat,
    /// Only what has this name.
    pub(crate) name: Option<String>,
    /// Only this namespace; all without it.
    #[arg(long, short)]
    pub(crate) namespace: Option<String>,
    /// How to show it.
    #[arg(long, short, value_enum, default_value_t = GetOutput::Table)]
    pub(crate) output: GetOutput,
    /// Go on showing what changes.
    #[arg(long, short)]
    pub(crate) watch: bool,
    /// Admin address of the control plane, as HOST:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    #[arg(env = "PORTOLAN_ADMIN_ADDRESS")]
    pub(crate) admin: String,
}

/// What `portolan get` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GetWhat {
    /// Services with their addresses, ports and how many endpoints are ready.
    #[value(alias = "service", alias = "svc")]
    Services,
    /// Endpoints of services.
    #[value(alias = "endpoint", alias = "ep")]
    Endpoints,
    /// Objects and settings that are not in force, and why.
    Rejected,
    /// Connected xDS clients, what each has and what it refuses.
    #[value(alias = "client")]
    Clients,
    /// Requests to services as clients report them, over the last interval.
    Load,
    /// Gateways and their listeners (Gateway API), and what became of them.
    #[value(alias = "gateway", alias = "gtw")]
    Gateways,
    /// Routes of the Gateway API, and what became of them at each of their parents.
    #[value(alias = "route")]
    Routes,
    /// Endpoints as the proxy of this process balances to them.
    Proxy,
    /// Requests of the proxy of this process that failed last, and a sample of the others; a name is
    /// the beginning of an id.
    #[value(alias = "request")]
    Requests,
}

/// How `portolan get` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GetOutput {
    /// Columns.
    Table,
    /// More columns.
    Wide,
    /// JSON: a List, or with --watch a document per change.
    Json,
    /// YAML: a List, or with --watch a document per change.
    Yaml,
}
