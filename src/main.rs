//! The `portolan` binary: command line, configuration, and the wiring of the roles. Knows every
//! crate and holds no logic of theirs.

mod ask;
mod bootstrap;
mod call;
mod check;
mod cli;
mod config;
mod corefile;
mod demo;
mod exit;
mod explain;
mod feed;
mod get;
mod guard;
mod import;
mod raw;
mod roles;
mod traces;
mod wait;
mod why;

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;

/// Gives back what loading a cluster took: with the C library's, half of it stays with the process
/// (docs/performance.md).
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help to standard output and usage errors to standard error.
            let _closed = error.print();
            return if error.use_stderr() { exit::usage() } else { ExitCode::SUCCESS };
        }
    };
    match cli.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("portolan: {error:#}");
            exit::code_of(&error)
        }
    }
}
