//! `portolan get`: asks a running control plane over its admin port, and shows the answer as
//! columns, JSON or YAML.

mod proxy;
mod table;

use std::io::{BufRead, BufReader, Write};
use std::process::ExitCode;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use crate::ask;
use crate::cli::{GetArgs, GetOutput, GetWhat};
use table::Table;

/// Shows what there is and, with `--watch`, what changes until either side ends it.
pub(crate) fn run(args: &GetArgs) -> anyhow::Result<ExitCode> {
    let mut lines = changes(args)?;
    let mut out = std::io::stdout().lock();
    match show(args, &mut lines, &mut out) {
        // Whoever read our output has seen enough.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

/// The changes of a feed, as they come.
pub(crate) fn changes(
    args: &GetArgs,
) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Value>> + use<>> {
    let what = match args.what {
        GetWhat::Services => "services",
        GetWhat::Endpoints => "endpoints",
        GetWhat::Rejected => "rejected",
        GetWhat::Clients => "clients",
        GetWhat::Load => "load",
        GetWhat::Gateways => "gateways",
        GetWhat::Routes => "routes",
        GetWhat::Proxy => "proxy",
        GetWhat::Requests => "requests",
    };
    let address = args.admin.clone();
    let whom = if args.what == GetWhat::Requests { "proxy" } else { "control plane" };
    let mut request = ask::get(&address, &format!("/get/{what}"));
    if args.watch {
        request = request.query("watch", "true");
    }
    for (key, value) in [("namespace", &args.namespace), ("name", &args.name)] {
        if let Some(value) = value {
            request = request.query(key, value);
        }
    }
    let mut response =
        request.call().with_context(|| format!("cannot ask the {whom} at {address}"))?;
    if !response.status().is_success() {
        let text = response.body_mut().read_to_string().unwrap_or_default();
        if args.what == GetWhat::Load && response.status() == 404 {
            bail!("the control plane at {address} takes no load reports: set xds.load_reports");
        }
        if matches!(args.what, GetWhat::Proxy | GetWhat::Requests) && response.status() == 404 {
            bail!("the process at {address} has no proxy");
        }
        bail!("the {whom} at {address} says {}: {}", response.status(), text.trim());
    }
    let lines = BufReader::new(response.into_body().into_reader()).lines();
    Ok(lines.map(move |line| {
        let line = line.with_context(|| format!("the answer of {address} broke off"))?;
        serde_json::from_str(&line).with_context(|| format!("{address} sent what is no JSON"))
    }))
}

fn show(
    args: &GetArgs,
    changes: &mut dyn Iterator<Item = anyhow::Result<Value>>,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    let wide = args.output == GetOutput::Wide;
    match (args.output, args.watch) {
        (GetOutput::Table | GetOutput::Wide, false) => {
            let rows: Vec<Value> = changes.map(object).collect::<anyhow::Result<_>>()?;
            if rows.is_empty() {
                eprintln!("nothing found");
                return Ok(());
            }
            Table::new(args.what, wide).write_all(&rows, out)?;
        }
        (GetOutput::Table | GetOutput::Wide, true) => {
            let mut table = Table::new(args.what, wide).with_event();
            for change in changes {
                table.write_one(&change?, out)?;
                out.flush()?;
            }
        }
        (GetOutput::Json, false) => {
            let list = list(changes)?;
            serde_json::to_writer_pretty(&mut *out, &list)?;
            writeln!(out)?;
        }
        (GetOutput::Yaml, false) => write!(out, "{}", serde_saphyr::to_string(&list(changes)?)?)?,
        (GetOutput::Json, true) => {
            for change in changes {
                writeln!(out, "{}", change?)?;
                out.flush()?;
            }
        }
        (GetOutput::Yaml, true) => {
            for change in changes {
                write!(out, "---\n{}", serde_saphyr::to_string(&change?)?)?;
                out.flush()?;
            }
        }
    }
    Ok(())
}

/// All rows as one document.
fn list(changes: &mut dyn Iterator<Item = anyhow::Result<Value>>) -> anyhow::Result<Value> {
    let items: Vec<Value> = changes.map(object).collect::<anyhow::Result<_>>()?;
    Ok(json!({ "kind": "List", "items": items }))
}

/// What a change is about.
pub(crate) fn object(change: anyhow::Result<Value>) -> anyhow::Result<Value> {
    Ok(change?.get_mut("object").map(Value::take).unwrap_or_default())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    let json = error.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
    io.map(std::io::Error::kind).or(json) == Some(std::io::ErrorKind::BrokenPipe)
}
