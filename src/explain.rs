//! `portolan dns explain`: both ends, the running server's and the command's.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context, bail};
use portolan_dns::{Explainer, Explanation};
use portolan_runtime::admin::{Parameters, only};
use serde_json::Value;

use crate::ask;
use crate::cli::ExplainArgs;

/// What a running server answers.
pub(crate) async fn answer(
    explainer: Explainer,
    parameters: Parameters,
) -> Result<Explanation, String> {
    only(&parameters, &["name", "type", "from"])?;
    let name = parameters.get("name").ok_or("name: missing")?;
    let rtype = parameters.get("type").map_or("A", String::as_str);
    let from = parameters.get("from").map_or("127.0.0.1", String::as_str);
    let from: IpAddr = from.parse().map_err(|_| format!("from: {from:?} is not an address"))?;
    explainer.explain(name, rtype, from).await.map_err(|error| error.to_string())
}

/// Asks a running server and shows what it says.
pub(crate) fn run(args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let address = &args.admin;
    let mut response = ask::get(address, "/ask/dns")
        .query("name", &args.name)
        .query("type", &args.rtype)
        .query("from", args.from.to_string())
        .call()
        .with_context(|| format!("cannot ask the dns server at {address}"))?;
    let text = response.body_mut().read_to_string().unwrap_or_default();
    if !response.status().is_success() {
        bail!("the server at {address} says {}: {}", response.status(), text.trim());
    }
    let explanation: Value =
        serde_json::from_str(&text).with_context(|| format!("{address} sent what is no JSON"))?;
    for (n, step) in lines(&explanation, "steps").enumerate() {
        println!("{}. {step}", n + 1);
    }
    println!("answer:");
    for line in lines(&explanation, "answer") {
        println!("   {line}");
    }
    Ok(ExitCode::SUCCESS)
}

fn lines<'a>(explanation: &'a Value, part: &str) -> impl Iterator<Item = &'a str> {
    explanation[part].as_array().into_iter().flatten().filter_map(Value::as_str)
}
