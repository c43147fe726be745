//! `portolan raw`: both ends of putting xDS resources in by hand.

use std::process::ExitCode;

use anyhow::Context;
use portolan_runtime::admin::{Admin, Parameters};
use portolan_xds::server::raw::RawResources;
use serde::Serialize;
use serde_json::Value;

use crate::ask;
use crate::cli::{RawArgs, RawCommand};
use crate::exit::cannot_start;

/// A resource that was put in, as it is shown.
#[derive(Serialize)]
struct Shown {
    kind: &'static str,
    name: String,
    version: String,
    bytes: usize,
}

/// Adds what puts resources in, takes them out and lists them.
pub(crate) fn add(admin: Admin, raw: RawResources) -> Admin {
    let (put, remove, clear, list) = (raw.clone(), raw.clone(), raw.clone(), raw);
    admin
        .with_upload("raw-put", move |parameters, body| {
            let raw = put.clone();
            async move {
                let [kind, name] = texts(&parameters, ["type", "name"], &["ttl_secs"])?;
                let ttl = parameters.get("ttl_secs").map_or(Ok(0), |text| text.parse::<u32>());
                let ttl = ttl.map_err(|error| format!("ttl_secs: {error}"))?;
                raw.put(&kind, &name, &body, ttl).await.map_err(|error| error.to_string())
            }
        })
        .with_action("raw-remove", move |parameters| {
            let raw = remove.clone();
            async move {
                let [kind, name] = texts(&parameters, ["type", "name"], &[])?;
                raw.remove(&kind, &name).await.map_err(|error| error.to_string())
            }
        })
        .with_action("raw-clear", move |parameters| {
            let raw = clear.clone();
            async move {
                let [] = texts(&parameters, [], &[])?;
                raw.clear().await.map_err(|error| error.to_string())
            }
        })
        .with_ask("raw", move |_| {
            let raw = list.clone();
            async move {
                let list = raw.list().await.map_err(|error| error.to_string())?;
                let shown = list.into_iter().map(|resource| Shown {
                    kind: resource.kind.name(),
                    name: resource.name.to_string(),
                    version: resource.version,
                    bytes: resource.bytes,
                });
                Ok(shown.collect::<Vec<_>>())
            }
        })
}

/// The parameters that have to be there; others than these and `more` are refused.
fn texts<const N: usize>(
    parameters: &Parameters,
    wanted: [&str; N],
    more: &[&str],
) -> Result<[String; N], String> {
    let is_known = |key: &str| wanted.contains(&key) || more.contains(&key);
    if let Some(key) = parameters.keys().find(|key| !is_known(key.as_str())) {
        return Err(format!("{key}: unknown parameter"));
    }
    if let Some(missing) = wanted.iter().find(|key| !parameters.contains_key(**key)) {
        return Err(format!("{missing}: missing"));
    }
    Ok(wanted.map(|key| parameters.get(key).cloned().unwrap_or_default()))
}

/// Puts a resource in, takes one out, or lists them.
pub(crate) fn run(args: &RawArgs) -> anyhow::Result<ExitCode> {
    let admin = &args.admin;
    match &args.command {
        RawCommand::List => {
            let response = ask::get(admin, "/ask/raw").call();
            for resource in read(admin, response)?.as_array().into_iter().flatten() {
                let text = |key: &str| resource[key].as_str().unwrap_or("-").to_owned();
                let (kind, name, version) = (text("kind"), text("name"), text("version"));
                println!("{kind}   {name}   {version}   {} bytes", resource["bytes"]);
            }
        }
        RawCommand::Put { kind, name, file, ttl_secs } => {
            let bytes = std::fs::read(file)
                .with_context(|| format!("cannot read {}", file.display()))
                .map_err(cannot_start)?;
            let request = ask::post(admin, "/do/raw-put").query("type", kind).query("name", name);
            let request = request.query("ttl_secs", ttl_secs.to_string());
            read(admin, request.send(&bytes[..]))?;
        }
        RawCommand::Remove { kind, name } => {
            let request =
                ask::post(admin, "/do/raw-remove").query("type", kind).query("name", name);
            read(admin, request.send_empty())?;
        }
        RawCommand::Clear => {
            read(admin, ask::post(admin, "/do/raw-clear").send_empty())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read(
    admin: &str,
    response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
) -> anyhow::Result<Value> {
    ask::read(admin, response, Some("takes no resources: set xds.raw_resources"))
}
