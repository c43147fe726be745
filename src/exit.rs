//! Exit codes: 0 fine, 1 something failed while running, 2 it could not start as asked.

use std::process::ExitCode;

/// The command line, the configuration or the machine does not allow what was asked.
pub(crate) fn usage() -> ExitCode {
    ExitCode::from(2)
}

/// Marks an error as one of starting: exit code 2.
#[derive(Debug)]
pub(crate) struct CannotStart(anyhow::Error);

impl std::fmt::Display for CannotStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for CannotStart {}

/// Turns an error into one of starting.
pub(crate) fn cannot_start(error: impl Into<anyhow::Error>) -> anyhow::Error {
    CannotStart(error.into()).into()
}

/// The exit code for an error that reached `main`.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    if error.is::<CannotStart>() { usage() } else { ExitCode::FAILURE }
}
