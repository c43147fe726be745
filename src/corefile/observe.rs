//! What tells about the server: logs, health, readiness, metrics.

use std::net::SocketAddr;

use super::importer::{Importer, Scope};
use super::parse::{At, Directive};
use super::values::seconds;

/// The logs of all blocks.
#[derive(Debug, Default)]
pub(super) struct Logged {
    /// Where one stands, and whether it is of more than errors.
    logs: Vec<(At, bool)>,
    /// Whether some block has none.
    partly: bool,
}

/// `log [NAMES…] [FORMAT] { class CLASSES… }`.
pub(super) fn import_log(importer: &mut Importer, scope: &Scope, log: &Directive) {
    let at = log.at();
    let mut names = log.args.as_slice();
    if let [rest @ .., last] = names
        && last.contains('{')
    {
        names = rest;
        importer.note(&at, "the format is our own");
    }
    if !names.is_empty() && importer.scope(&at, names, scope) != scope.zones {
        importer.note(&at, "names of all zones are logged");
    }
    let mut all = !log.body.iter().any(|p| p.name == "class");
    for property in &log.body {
        let at = log.at_property(property);
        if property.name != "class" {
            importer.note(&at, "no such property known here");
            continue;
        }
        let has = |class: &str| property.args.iter().any(|a| a == class);
        all |= has("all") || has("success");
        if !has("all") && has("success") {
            importer.note(&at, "answers of all classes are logged");
        } else if !has("all") && has("denial") {
            importer.note(&at, "NXDOMAIN and empty answers are not logged");
        }
    }
    importer.logged.logs.push((at, all));
}

/// Remembers a block without a log.
pub(super) fn end_block(importer: &mut Importer, directives: &[Directive]) {
    importer.logged.partly |= !directives.iter().any(|d| d.name == "log");
}

/// Settles what all logs decide together.
pub(super) fn finish(importer: &mut Importer) {
    let Logged { logs, partly } = std::mem::take(&mut importer.logged);
    if logs.is_empty() {
        return;
    }
    let all = logs.iter().any(|(_, all)| *all);
    let word = if all { "all" } else { "errors" };
    let _set_once = importer.settings.set("dns.query_log", word.into());
    if let Some((at, _)) = logs.first().filter(|_| partly) {
        importer.note(at, "queries of the blocks without a log are logged too");
    }
    for (at, own) in logs {
        if own != all {
            importer.note(&at, "dns.query_log is one for all blocks: \"all\"");
        }
    }
}

/// `errors { … }`.
pub(super) fn import_errors(importer: &mut Importer, errors: &Directive) {
    for property in &errors.body {
        let at = errors.at_property(property);
        importer.note(&at, "left out: how errors are logged is built in");
    }
}

/// `health [ADDRESS] { lameduck DURATION }`.
pub(super) fn import_health(importer: &mut Importer, health: &Directive) {
    let address = health.args.first().map_or(":8080", String::as_str);
    let text = format!("/health on {address} is /livez on admin.address");
    importer.note(&health.at(), text);
    for property in &health.body {
        let at = health.at_property(property);
        match (property.name.as_str(), property.words().as_slice()) {
            ("lameduck", [time]) => match seconds(time) {
                Some(secs) => importer.set(&at, "dns.lameduck_secs", secs),
                None => {
                    importer.note(&at, format!("left out: {time:?} is not a length of time"));
                }
            },
            _ => importer.note(&at, "no such property known here"),
        }
    }
}

/// `ready [ADDRESS] { monitor … }`.
pub(super) fn import_ready(importer: &mut Importer, ready: &Directive) {
    let address = ready.args.first().map_or(":8181", String::as_str);
    let text = format!("/ready on {address} is /readyz on admin.address");
    importer.note(&ready.at(), text);
    for property in &ready.body {
        let at = ready.at_property(property);
        match property.words().as_slice() {
            ["continuously"] if property.name == "monitor" => {}
            _ => importer.note(&at, "readiness is always watched"),
        }
    }
}

/// `prometheus [ADDRESS]`.
pub(super) fn import_prometheus(importer: &mut Importer, prometheus: &Directive) {
    let at = prometheus.at();
    let text = prometheus.args.first().map_or("localhost:9153", String::as_str);
    let host = |rest: &str| match text.strip_suffix(rest) {
        Some("") => Some(format!("0.0.0.0{rest}")),
        Some("localhost") => Some(format!("127.0.0.1{rest}")),
        _ => None,
    };
    let port = text.rfind(':').and_then(|at| text.get(at..)).and_then(host);
    let address: Result<SocketAddr, _> = port.unwrap_or_else(|| text.to_owned()).parse();
    match address {
        Ok(address) => importer.set(&at, "admin.address", address.to_string()),
        Err(_) => importer.note(&at, format!("left out: {text:?} is not an IP address and port")),
    }
    for property in &prometheus.body {
        let at = prometheus.at_property(property);
        importer.note(&at, "left out: there are no metrics of Go's runtime");
    }
}
