//! `portolan why`: asks a running proxy why a request went where it did, and says it in words.

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use serde_json::Value;

use crate::cli::{GetArgs, GetOutput, GetWhat, WhyArgs, WhyOutput};
use crate::get;

/// Shows the decision record of a request.
pub(crate) fn run(args: &WhyArgs) -> anyhow::Result<ExitCode> {
    let records = records(args)?;
    let wanted = |record: &&Value| args.id.is_some() || record["failed"] == true;
    let Some(record) = records.iter().rfind(wanted) else {
        match &args.id {
            Some(id) => bail!(
                "no record of {id:?}: those that failed last have one, and a sample of the others \
                 (proxy.decisions.*); `portolan get requests` lists them"
            ),
            None => bail!("no record of a request that failed"),
        }
    };
    let mut out = std::io::stdout().lock();
    match args.output {
        WhyOutput::Text => write!(out, "{}", text(record))?,
        WhyOutput::Json => writeln!(out, "{}", serde_json::to_string_pretty(record)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The records whose id begins so, or all; the oldest first.
fn records(args: &WhyArgs) -> anyhow::Result<Vec<Value>> {
    let asked = GetArgs {
        what: GetWhat::Requests,
        name: args.id.clone(),
        namespace: None,
        output: GetOutput::Json,
        watch: false,
        admin: args.admin.clone(),
    };
    get::changes(&asked)?.map(get::object).collect()
}

/// A record for people.
fn text(record: &Value) -> String {
    let word = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.escape_debug().to_string(),
        other => other.to_string(),
    };
    let mut lines = Vec::new();
    let grpc = &record["grpcStatus"];
    let mut answer = match &record["status"] {
        Value::Null => "no response".to_owned(),
        status => word(status),
    };
    if !grpc.is_null() {
        answer += &format!(", gRPC status {grpc}");
    }
    if !record["reason"].is_null() {
        answer += &format!(", {}", word(&record["reason"]));
    }
    let (method, authority) = (word(&record["method"]), word(&record["authority"]));
    lines.push(format!("{method} {authority}{}: {answer}", word(&record["path"])));
    let mut line = |name: &str, text: String| {
        if !text.is_empty() {
            lines.push(format!("{name:<12}{text}"));
        }
    };
    line("why", word(&record["detail"]));
    line("request id", word(&record["requestId"]));
    line("ended", word(&record["time"]));
    let (client, protocol) = (word(&record["client"]), word(&record["protocol"]));
    line("client", format!("{client} over {protocol}, at listener {}", word(&record["listener"])));
    line("identity", word(&record["identity"]));
    line("generation", word(&record["generation"]));
    line("route", route(&record["route"], word));
    let balanced = match &record["balancer"] {
        Value::Null => String::new(),
        balancer => format!(", {} of {} endpoints", word(balancer), record["endpoints"]),
    };
    match &record["cluster"] {
        Value::Null => {}
        cluster => line("cluster", format!("{}{balanced}", word(cluster))),
    }
    let tries = record["tries"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (at, one) in tries.iter().enumerate() {
        line(&format!("try {}", at + 1), attempt(one, word));
    }
    let candidates = record["candidates"].as_array().map(Vec::as_slice).unwrap_or_default();
    for one in candidates {
        line("endpoint", candidate(one, word));
    }
    line("times", times(&record["times"]));
    lines.join("\n") + "\n"
}

fn route(route: &Value, word: impl Fn(&Value) -> String) -> String {
    if route.is_null() {
        return "none".to_owned();
    }
    let name = match &route["name"] {
        Value::Null => String::new(),
        name => format!("{}: ", word(name)),
    };
    format!("{name}virtual host {}, path {}", word(&route["virtualHost"]), word(&route["path"]))
}

fn attempt(one: &Value, word: impl Fn(&Value) -> String) -> String {
    let connected = match &one["connectMs"] {
        Value::Null => String::new(),
        ms => format!(", a connection in {ms} ms"),
    };
    let took = match &one["tookMs"] {
        Value::Null => String::new(),
        ms => format!(", {ms} ms"),
    };
    let (endpoint, outcome) = (word(&one["endpoint"]), word(&one["outcome"]));
    format!("{endpoint} at {} ms{connected}{took}: {outcome}", one["beganMs"])
}

fn candidate(one: &Value, word: impl Fn(&Value) -> String) -> String {
    let place = match one["zone"].as_str() {
        None | Some("") => String::new(),
        Some(zone) => format!(", zone {}", zone.escape_debug()),
    };
    let latency = match &one["ewmaMs"] {
        Value::Null => String::new(),
        ms => format!(", answers in {ms} ms"),
    };
    let state = match (&one["passedOver"], one["tried"] == true) {
        (Value::Null, true) => "tried".to_owned(),
        (Value::Null, false) => "could be picked".to_owned(),
        (why, true) => format!("tried; now passed over: {}", word(why)),
        (why, false) => format!("passed over: {}", word(why)),
    };
    let (address, in_flight) = (word(&one["address"]), &one["inFlight"]);
    format!("{address}{place}, {in_flight} in flight{latency}: {state}")
}

/// Where the time went, as far as the request came.
fn times(times: &Value) -> String {
    let steps = [
        ("firstTryMs", "first try"),
        ("sentMs", "request sent"),
        ("headMs", "head of the response"),
        ("totalMs", "end"),
    ];
    let known = steps.iter().filter(|(key, _)| !times[key].is_null());
    let said: Vec<String> = known.map(|(key, what)| format!("{what} {} ms", times[key])).collect();
    said.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_told_line_by_line() {
        let record = json!({
            "method": "GET", "authority": "web.shop", "path": "/cart", "status": 503,
            "reason": "connect_failed", "detail": "web.shop: no endpoint took a connection",
            "requestId": "r-1", "time": "2026-01-02T03:04:05.678Z", "client": "127.0.0.1:5",
            "protocol": "HTTP/1.1", "listener": "http", "generation": 7, "endpoints": 2,
            "route": { "name": null, "virtualHost": "shop/web:80", "path": "*" },
            "cluster": "shop/web:80", "balancer": "round_robin",
            "tries": [{
                "endpoint": "10.0.0.1:80", "beganMs": 0.1, "connectMs": null, "tookMs": 0.4,
                "outcome": "no connection: refused",
            }],
            "candidates": [{
                "address": "10.0.0.2:80", "zone": "a", "inFlight": 0, "ewmaMs": null,
                "tried": false, "passedOver": "it took no connection just now",
            }],
            "times": { "firstTryMs": 0.1, "sentMs": null, "headMs": null, "totalMs": 0.6 },
        });
        let expected = "\
GET web.shop/cart: 503, connect_failed
why         web.shop: no endpoint took a connection
request id  r-1
ended       2026-01-02T03:04:05.678Z
client      127.0.0.1:5 over HTTP/1.1, at listener http
generation  7
route       virtual host shop/web:80, path *
cluster     shop/web:80, round_robin of 2 endpoints
try 1       10.0.0.1:80 at 0.1 ms, 0.4 ms: no connection: refused
endpoint    10.0.0.2:80, zone a, 0 in flight: passed over: it took no connection just now
times       first try 0.1 ms, end 0.6 ms
";
        assert_eq!(text(&record), expected);
    }

    #[test]
    fn what_a_client_wrote_breaks_no_line() {
        let record = json!({ "method": "GET", "authority": "a\u{1b}[2J\nb", "path": "/" });
        assert!(text(&record).starts_with("GET a\\u{1b}[2J\\nb/: no response\n"));
    }
}
