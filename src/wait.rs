//! `portolan wait`: both ends, the running control plane's and the command's.

use std::process::ExitCode;
use std::time::Duration;

use portolan_model::{Generation, ServiceKey};
use portolan_runtime::admin::{Admin, Parameters, only};
use portolan_xds::server::progress::{Progress, Reached, Target};
use serde_json::Value;

use crate::ask;
use crate::cli::WaitArgs;
use crate::exit::cannot_start;

/// Longest time that a control plane keeps somebody waiting at a time.
const MAX_SECS: u64 = 30;

/// Adds `/ask/wait`.
pub(crate) fn add(admin: Admin, progress: Progress) -> Admin {
    admin.with_ask("wait", move |parameters| answer(progress.clone(), parameters))
}

async fn answer(progress: Progress, parameters: Parameters) -> Result<Reached, String> {
    only(&parameters, &["generation", "service", "secs"])?;
    let number = |key: &str| {
        let text = parameters.get(key)?;
        Some(text.parse::<u64>().map_err(|error| format!("{key}: {text:?}: {error}")))
    };
    let target = match (number("generation").transpose()?, parameters.get("service")) {
        (Some(generation), None) => Target::Generation(Generation(generation)),
        (None, Some(service)) => {
            let key = ServiceKey::parse(service).map_err(|error| format!("service: {error}"))?;
            Target::Service(key)
        }
        (None, None) => Target::Newest,
        (Some(_), Some(_)) => return Err("generation or service, not both".to_owned()),
    };
    let secs = number("secs").transpose()?.unwrap_or(0).min(MAX_SECS);
    let reached = progress.wait(target, Duration::from_secs(secs)).await;
    reached.map_err(|error| error.to_string())
}

/// Waits; exit code 1 when some client lacks it at the end, and names those.
pub(crate) fn run(args: &WaitArgs) -> anyhow::Result<ExitCode> {
    let limit = Duration::try_from_secs_f64(args.timeout)
        .map_err(|error| cannot_start(anyhow::anyhow!("--timeout {}: {error}", args.timeout)))?;
    let started = std::time::Instant::now();
    let mut target = match (args.generation, &args.service) {
        (Some(generation), _) => Some(("generation", generation.to_string())),
        (None, Some(service)) => Some(("service", service.clone())),
        (None, None) => None,
    };
    loop {
        let left = limit.saturating_sub(started.elapsed());
        let secs = left.as_secs_f64().ceil().min(30.0).to_string();
        let reached = look(&args.admin, target.as_ref(), &secs)?;
        let number = |key: &str| reached[key].as_u64().unwrap_or_default();
        let (generation, newest) = (number("generation"), number("newest"));
        if number("lacking") == 0 && newest >= generation {
            println!("generation {generation}: all {} clients have it", number("clients"));
            return Ok(ExitCode::SUCCESS);
        }
        if left.is_zero() {
            tell(&reached, generation, newest);
            return Ok(ExitCode::FAILURE);
        }
        // What was newest when this began is waited for, not what is newest by then.
        target = Some(("generation", generation.to_string()));
    }
}

fn tell(reached: &Value, generation: u64, newest: u64) {
    if newest < generation {
        eprintln!("generation {generation} is not there yet: the newest is {newest}");
    }
    let count = |key: &str| reached[key].as_u64().unwrap_or_default();
    let (lacking, clients) = (count("lacking"), count("clients"));
    eprintln!("generation {generation}: {lacking} of {clients} clients do not have it:");
    // What a stranger wrote must not move the cursor of whoever reads it.
    let text = |value: &Value| -> String {
        let text = value.as_str().unwrap_or("-");
        text.replace(|c: char| c.is_control(), "\u{fffd}")
    };
    for client in reached["named"].as_array().into_iter().flatten() {
        let (name, reason) = (text(&client["client"]), text(&client["reason"]));
        eprintln!("  {name} has {}: {reason}", client["generation"]);
    }
}

fn look(address: &str, target: Option<&(&str, String)>, secs: &str) -> anyhow::Result<Value> {
    let mut request = ask::get(address, "/ask/wait").query("secs", secs);
    if let Some((key, value)) = target {
        request = request.query(key, value);
    }
    ask::read(address, request.call(), None)
}
