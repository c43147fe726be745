//! `portolan guard`: both ends, what a running control plane holds back and the command for it.

use std::process::ExitCode;

use anyhow::Context;
use portolan_control::Holds;
use portolan_control::holds::{Released, Which};
use portolan_model::ServiceKey;
use portolan_runtime::admin::{Admin, Parameters, only};
use serde_json::Value;

use crate::ask;
use crate::cli::{GuardArgs, GuardCommand};
use crate::exit::cannot_start;

/// Adds the page `guard` and the action `guard-release` of a control plane.
pub(crate) fn add(admin: Admin, holds: Holds) -> Admin {
    let listed = holds.clone();
    admin
        .with_page("guard", move || listed.list())
        .with_action("guard-release", move |parameters| release(holds.clone(), parameters))
}

async fn release(holds: Holds, parameters: Parameters) -> Result<Released, String> {
    only(&parameters, &["service", "all"])?;
    let which = match (parameters.get("service"), parameters.get("all").map(String::as_str)) {
        (Some(service), None) => {
            let key = ServiceKey::parse(service).map_err(|e| format!("service: {e}"))?;
            Which::One(key)
        }
        (None, Some("true")) => Which::All,
        _ => return Err("expected service=NAMESPACE/NAME or all=true".to_owned()),
    };
    holds.release(which).await.map_err(|error| error.to_string())
}

/// Shows what is held back, or releases it.
pub(crate) fn run(args: &GuardArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        None => list(&args.admin),
        Some(GuardCommand::Release(what)) => {
            let (key, value) = match &what.service {
                Some(service) => {
                    ServiceKey::parse(service)
                        .with_context(|| format!("{service:?} is not NAMESPACE/NAME"))
                        .map_err(cannot_start)?;
                    ("service", service.as_str())
                }
                None => ("all", "true"),
            };
            let request = ask::post(&args.admin, "/do/guard-release").query(key, value);
            let answer = ask::read(&args.admin, request.send_empty(), None)?;
            for service in texts(&answer["released"]) {
                println!("{service} released");
            }
            println!("generation {}", answer["generation"]);
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn list(address: &str) -> anyhow::Result<ExitCode> {
    let rows = ask::read(address, ask::get(address, "/debug/guard").call(), None)?;
    let rows: Vec<[String; 4]> = rows.as_array().into_iter().flatten().map(cells).collect();
    if rows.is_empty() {
        eprintln!("nothing is held back");
        return Ok(ExitCode::SUCCESS);
    }
    let heading = ["SERVICE", "HELD", "LEFT", "REASON"].map(str::to_owned);
    let lines: Vec<&[String; 4]> = std::iter::once(&heading).chain(&rows).collect();
    let width = |n: usize| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2)];
    for [service, held, left, reason] in lines {
        let [a, b, c] = widths;
        println!("{service:a$}   {held:b$}   {left:c$}   {reason}");
    }
    Ok(ExitCode::SUCCESS)
}

fn cells(row: &Value) -> [String; 4] {
    let secs = |value: &Value| value.as_u64().map_or("-".to_owned(), |secs| format!("{secs}s"));
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    [text(&row["service"]), secs(&row["heldSecs"]), secs(&row["leftSecs"]), text(&row["reason"])]
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}
