//! The command lines of what acts on a running control plane: `portolan wait`,
//! `raw` and `guard`; and of `portolan why`, which asks a proxy.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The generation; without it and --service the one that is newest now.
    #[arg(long, value_name = "NUMBER", conflicts_with = "service")]
    pub(crate) generation: Option<u64>,
    /// The newest state of this service, as NAMESPACE/NAME.
    #[arg(long, value_name = "SERVICE")]
    pub(crate) service: Option<String>,
    /// Longest wait in seconds.
    #[arg(long, default_value_t = 60.0)]
    pub(crate) timeout: f64,
    /// Admin address of the control plane, as HOST:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    #[arg(env = "PORTOLAN_ADMIN_ADDRESS")]
    pub(crate) admin: String,
}

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The request's `x-request-id`, or the beginning of it; the last of several.
    #[arg(value_name = "REQUEST-ID", required_unless_present = "last_failed")]
    pub(crate) id: Option<String>,
    /// The request that failed last.
    #[arg(long, conflicts_with = "id")]
    pub(crate) last_failed: bool,
    /// How to show it.
    #[arg(long, short, value_enum, default_value_t = WhyOutput::Text)]
    pub(crate) output: WhyOutput,
    /// Admin address of the proxy, as HOST:PORT.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    #[arg(env = "PORTOLAN_ADMIN_ADDRESS")]
    pub(crate) admin: String,
}

/// How `portolan why` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WhyOutput {
    /// Lines for people.
    Text,
    /// The record as it is.
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct RawArgs {
    #[command(subcommand)]
    pub(crate) command: RawCommand,
    /// Admin address of the control plane, as HOST:PORT.
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    #[arg(env = "PORTOLAN_ADMIN_ADDRESS")]
    pub(crate) admin: String,
}

#[derive(Debug, Args)]
pub(crate) struct GuardArgs {
    #[command(subcommand)]
    pub(crate) command: Option<GuardCommand>,
    /// Admin address of the control plane, as HOST:PORT.
    #[arg(long, global = true, value_name = "ADDRESS", default_value = "127.0.0.1:15000")]
    #[arg(env = "PORTOLAN_ADMIN_ADDRESS")]
    pub(crate) admin: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RawCommand {
    /// List what was put in.
    List,
    /// Put a resource in, in place of one of this name.
    Put {
        /// Type: a type URL, or cds, eds, leds, sds, lds, ecds, srds, rds, vhds, rtds.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Name.
        name: String,
        /// File with the encoded message, or an encoded google.protobuf.Any around it.
        file: PathBuf,
        /// For how many seconds clients use it without hearing of it; 0 for ever.
        #[arg(long, default_value_t = 0)]
        ttl_secs: u32,
    },
    /// Take a resource out again.
    Remove {
        /// Type.
        #[arg(value_name = "TYPE")]
        kind: String,
        /// Name.
        name: String,
    },
    /// Take all of them out.
    Clear,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GuardCommand {
    /// Let it go: publish what the source has of a service, or of all.
    Release(ReleaseArgs),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ReleaseArgs {
    /// The service, as NAMESPACE/NAME.
    pub(crate) service: Option<String>,
    /// All that is held back.
    #[arg(long)]
    pub(crate) all: bool,
}
