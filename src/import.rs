//! `portolan dns import-corefile`: settings on standard output, what has no counterpart on standard
//! error.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::{Context, anyhow};

use crate::cli::ImportArgs;
use crate::corefile;
use crate::exit::cannot_start;

/// Reads the file and shows what it comes to.
pub(crate) fn run(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let shown = args.file.display();
    let text = if args.file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_octets| text)
    } else {
        std::fs::read_to_string(&args.file)
    };
    let text = text.with_context(|| format!("cannot read {shown}")).map_err(cannot_start)?;
    let import =
        corefile::import(&text).map_err(|error| cannot_start(anyhow!("{shown}: {error}")))?;
    print!("{}", import.toml);
    for note in &import.notes {
        eprintln!("{shown}: {note}");
    }
    let lost = args.strict && !import.notes.is_empty();
    Ok(if lost { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
