//! `portolan call`: the plain gRPC client on the command line.

use std::process::ExitCode;

use anyhow::Context;
use portolan_backends::call::{CallRequest, call};

use crate::cli::CallArgs;
use crate::exit::cannot_start;

/// Calls a method, or lists what can be called. A status other than OK is exit code 1.
pub(crate) fn run(args: CallArgs) -> anyhow::Result<ExitCode> {
    let deadline = args.deadline()?;
    let metadata = args
        .metadata
        .iter()
        .map(|pair| {
            pair.split_once(':')
                .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
                .with_context(|| format!("--metadata {pair:?}: expected NAME: VALUE"))
        })
        .collect::<anyhow::Result<Vec<_>>>()
        .map_err(cannot_start)?;
    let request = CallRequest {
        target: args.target,
        authority: args.authority,
        method: args.method,
        messages: args.messages,
        deadline,
        metadata,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(call(request, &mut std::io::stdout()))?;
    Ok(ExitCode::SUCCESS)
}
