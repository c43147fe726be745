//! Rows as columns for people.

use std::io::{self, Write};

use serde_json::Value;

use super::proxy;
use crate::cli::GetWhat;

/// A column: its heading, what stands in it, and whether only `-o wide` has it.
struct Column {
    heading: &'static str,
    wide: bool,
    text: fn(&Value) -> String,
}

const SERVICES: &[Column] = &[
    Column { heading: "NAMESPACE", wide: false, text: |row| text(&row["namespace"]) },
    Column { heading: "NAME", wide: false, text: |row| text(&row["name"]) },
    Column { heading: "TYPE", wide: false, text: service_type },
    Column { heading: "CLUSTER-IP", wide: false, text: |row| list(&row["clusterIps"]) },
    Column { heading: "PORTS", wide: false, text: service_ports },
    Column { heading: "READY", wide: false, text: ready },
    Column { heading: "EXTERNAL", wide: true, text: external },
    Column { heading: "AFFINITY", wide: true, text: affinity },
    Column { heading: "TRAFFIC", wide: true, text: traffic },
    Column { heading: "POLICY", wide: true, text: policy },
];

const ENDPOINTS: &[Column] = &[
    Column { heading: "NAMESPACE", wide: false, text: |row| text(&row["namespace"]) },
    Column { heading: "SERVICE", wide: false, text: endpoint_service },
    Column { heading: "ADDRESS", wide: false, text: |row| text(&row["address"]) },
    Column { heading: "PORTS", wide: false, text: |row| list(&row["ports"]) },
    Column { heading: "STATE", wide: false, text: state },
    Column { heading: "ZONE", wide: false, text: |row| text(&row["zone"]) },
    Column { heading: "NODE", wide: false, text: |row| text(&row["node"]) },
    Column { heading: "TARGET", wide: true, text: |row| text(&row["pod"]) },
    Column { heading: "HOSTNAME", wide: true, text: |row| text(&row["hostname"]) },
    Column { heading: "HINTS", wide: true, text: hints },
    Column { heading: "SLICE", wide: true, text: |row| text(&row["slice"]) },
];

const REJECTED: &[Column] = &[
    Column { heading: "SEVERITY", wide: false, text: |row| text(&row["severity"]) },
    Column { heading: "ORIGIN", wide: false, text: |row| text(&row["origin"]) },
    Column { heading: "OBJECT", wide: false, text: |row| text(&row["object"]) },
    Column { heading: "FIELD", wide: false, text: |row| text(&row["field"]) },
    Column { heading: "REASON", wide: false, text: |row| text(&row["reason"]) },
];

const LOAD: &[Column] = &[
    Column { heading: "SERVICE", wide: false, text: |row| text(&row["cluster"]) },
    Column { heading: "ZONE", wide: false, text: |row| text(&row["zone"]) },
    Column { heading: "REQUESTS/S", wide: false, text: |row| rate(&row["requestsPerSec"]) },
    Column { heading: "ERRORS", wide: false, text: error_share },
    Column { heading: "IN-PROGRESS", wide: false, text: |row| text(&row["inProgress"]) },
    Column { heading: "DROPS/S", wide: false, text: |row| rate(&row["dropsPerSec"]) },
    Column { heading: "REPORTERS", wide: false, text: |row| text(&row["reporters"]) },
    Column { heading: "AGE", wide: true, text: |row| format!("{}s", row["ageSecs"]) },
    Column { heading: "DROPPED-FOR", wide: true, text: |row| rates(&row["dropCategories"], rate) },
    Column {
        heading: "ENDPOINTS-SAY",
        wide: true,
        text: |row| rates(&row["metrics"], |metric| rate(&metric["mean"])),
    },
];

const CLIENTS: &[Column] = &[
    Column { heading: "NODE", wide: false, text: client_node },
    Column { heading: "AGENT", wide: false, text: |row| text(&row["agent"]) },
    Column { heading: "PROTOCOL", wide: false, text: |row| text(&row["protocol"]) },
    Column { heading: "GENERATION", wide: false, text: |row| row["generation"].to_string() },
    Column { heading: "STATE", wide: false, text: client_state },
    Column { heading: "REFUSED", wide: false, text: client_refused },
    Column { heading: "PEER", wide: true, text: |row| text(&row["peer"]) },
    Column { heading: "IDENTITY", wide: true, text: |row| text(&row["identity"]) },
    Column { heading: "SUBSCRIBED", wide: true, text: client_subscribed },
];

const GATEWAYS: &[Column] = &[
    Column { heading: "NAMESPACE", wide: false, text: |row| text(&row["namespace"]) },
    Column { heading: "NAME", wide: false, text: |row| text(&row["name"]) },
    Column { heading: "CLASS", wide: false, text: |row| text(&row["class"]) },
    Column { heading: "LISTENER", wide: false, text: |row| text(&row["listener"]) },
    Column { heading: "PORT", wide: false, text: |row| text(&row["port"]) },
    Column { heading: "PROTOCOL", wide: false, text: |row| text(&row["protocol"]) },
    Column { heading: "HOSTNAME", wide: false, text: |row| text(&row["hostname"]) },
    Column { heading: "ROUTES", wide: false, text: |row| text(&row["routes"]) },
    Column {
        heading: "ACCEPTED",
        wide: false,
        text: |row| condition(&row["listenerConditions"], "Accepted"),
    },
    Column {
        heading: "PROGRAMMED",
        wide: false,
        text: |row| condition(&row["listenerConditions"], "Programmed"),
    },
    Column { heading: "WHY", wide: false, text: |row| why(row, "listenerConditions") },
];

const REQUESTS: &[Column] = &[
    Column { heading: "TIME", wide: false, text: |row| text(&row["time"]) },
    Column { heading: "ID", wide: false, text: |row| text(&row["requestId"]) },
    Column { heading: "METHOD", wide: false, text: |row| text(&row["method"]) },
    Column { heading: "HOST", wide: false, text: |row| text(&row["authority"]) },
    Column { heading: "PATH", wide: false, text: |row| text(&row["path"]) },
    Column { heading: "STATUS", wide: false, text: |row| text(&row["status"]) },
    Column { heading: "REASON", wide: false, text: |row| text(&row["reason"]) },
    Column { heading: "CLUSTER", wide: false, text: |row| text(&row["cluster"]) },
    Column { heading: "TRIES", wide: false, text: |row| number_of(&row["tries"]) },
    Column { heading: "MS", wide: false, text: |row| text(&row["times"]["totalMs"]) },
    Column { heading: "CLIENT", wide: true, text: |row| text(&row["client"]) },
    Column { heading: "LISTENER", wide: true, text: |row| text(&row["listener"]) },
    Column { heading: "ROUTE", wide: true, text: |row| text(&row["route"]["name"]) },
    Column { heading: "GENERATION", wide: true, text: |row| text(&row["generation"]) },
    Column { heading: "DETAIL", wide: true, text: |row| text(&row["detail"]) },
];

const ROUTES: &[Column] = &[
    Column { heading: "KIND", wide: false, text: |row| text(&row["kind"]) },
    Column { heading: "NAMESPACE", wide: false, text: |row| text(&row["namespace"]) },
    Column { heading: "NAME", wide: false, text: |row| text(&row["name"]) },
    Column { heading: "HOSTNAMES", wide: false, text: |row| list(&row["hostnames"]) },
    Column { heading: "PARENT", wide: false, text: |row| text(&row["parent"]) },
    Column {
        heading: "ACCEPTED",
        wide: false,
        text: |row| condition(&row["conditions"], "Accepted"),
    },
    Column {
        heading: "RESOLVED-REFS",
        wide: false,
        text: |row| condition(&row["conditions"], "ResolvedRefs"),
    },
    Column { heading: "WHY", wide: false, text: |row| why(row, "conditions") },
];

const PROXY: &[Column] = &[
    Column { heading: "CLUSTER", wide: false, text: |row| text(&row["cluster"]) },
    Column { heading: "ADDRESS", wide: false, text: |row| text(&row["address"]) },
    Column { heading: "PRIORITY", wide: false, text: |row| text(&row["priority"]) },
    Column { heading: "LOAD", wide: false, text: |row| proxy::percent(&row["load"]) },
    Column { heading: "WEIGHT", wide: false, text: |row| text(&row["weight"]) },
    Column { heading: "IN-FLIGHT", wide: false, text: |row| text(&row["inFlight"]) },
    Column { heading: "LATENCY-MS", wide: false, text: |row| proxy::number(&row["ewmaMs"]) },
    Column { heading: "STATE", wide: false, text: proxy::state },
    Column { heading: "BALANCER", wide: true, text: |row| text(&row["balancer"]) },
    Column { heading: "ZONE", wide: true, text: |row| text(&row["zone"]) },
    Column { heading: "NOW", wide: true, text: |row| proxy::number(&row["effectiveWeight"]) },
    Column { heading: "EJECTIONS", wide: true, text: |row| text(&row["health"]["ejections"]) },
];

/// Writes rows of one kind.
pub(super) struct Table {
    columns: Vec<&'static Column>,
    /// Each row begins with what became of it.
    event: bool,
    widths: Vec<usize>,
}

impl Table {
    pub(super) fn new(what: GetWhat, wide: bool) -> Self {
        let all = match what {
            GetWhat::Services => SERVICES,
            GetWhat::Endpoints => ENDPOINTS,
            GetWhat::Rejected => REJECTED,
            GetWhat::Clients => CLIENTS,
            GetWhat::Load => LOAD,
            GetWhat::Gateways => GATEWAYS,
            GetWhat::Routes => ROUTES,
            GetWhat::Proxy => PROXY,
            GetWhat::Requests => REQUESTS,
        };
        let columns = all.iter().filter(|column| wide || !column.wide).collect();
        Self { columns, event: false, widths: Vec::new() }
    }

    pub(super) fn with_event(mut self) -> Self {
        self.event = true;
        self
    }

    /// Writes all rows, each column as wide as it has to be.
    pub(super) fn write_all(&mut self, rows: &[Value], out: &mut dyn Write) -> io::Result<()> {
        let cells: Vec<Vec<String>> = rows.iter().map(|row| self.cells(row)).collect();
        let headings = self.headings();
        for line in std::iter::once(&headings).chain(&cells) {
            self.widen(line);
        }
        std::iter::once(&headings).chain(&cells).try_for_each(|line| self.line(line, out))
    }

    /// Writes a change; columns grow with what comes.
    pub(super) fn write_one(&mut self, change: &Value, out: &mut dyn Write) -> io::Result<()> {
        let mut cells = self.cells(&change["object"]);
        cells.insert(0, text(&change["type"]));
        if self.widths.is_empty() {
            let headings = self.headings();
            self.widen(&headings);
            self.widen(&cells);
            self.line(&headings, out)?;
        }
        self.widen(&cells);
        self.line(&cells, out)
    }

    fn headings(&self) -> Vec<String> {
        let event = self.event.then(|| "EVENT".to_owned());
        event.into_iter().chain(self.columns.iter().map(|c| c.heading.to_owned())).collect()
    }

    fn cells(&self, row: &Value) -> Vec<String> {
        // What a stranger wrote must not move the cursor of whoever reads it.
        let plain = |text: String| text.replace(|c: char| c.is_control(), "\u{fffd}");
        let shown =
            |column: &&Column| Some((column.text)(row)).filter(|text| !text.is_empty()).map(plain);
        self.columns.iter().map(|column| shown(column).unwrap_or_else(|| "-".to_owned())).collect()
    }

    fn widen(&mut self, cells: &[String]) {
        self.widths.resize(cells.len(), 0);
        for (width, cell) in self.widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }

    fn line(&self, cells: &[String], out: &mut dyn Write) -> io::Result<()> {
        let mut line = String::new();
        for (width, cell) in self.widths.iter().zip(cells) {
            line.push_str(&format!("{cell:width$}   "));
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// A value as people read it: nothing for null, text without quotes.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> String {
    let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
    items.iter().map(text).collect::<Vec<_>>().join(",")
}

fn service_type(row: &Value) -> String {
    let kind = text(&row["type"]);
    if row["clusterSet"] == true { format!("{kind} (clusterset)") } else { kind }
}

fn service_ports(row: &Value) -> String {
    let ports = row["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let port = |port: &Value| {
        let node = match text(&port["node_port"]) {
            number if number.is_empty() => number,
            number => format!(":{number}"),
        };
        format!("{}{node}/{}", port["port"], text(&port["protocol"]))
    };
    ports.iter().map(port).collect::<Vec<_>>().join(",")
}

fn ready(row: &Value) -> String {
    if row["type"] == "ExternalName" {
        return String::new();
    }
    format!("{}/{}", row["ready"], row["endpoints"])
}

fn external(row: &Value) -> String {
    let traffic = &row["traffic"];
    let lists = ["externalIps", "loadBalancerIps", "loadBalancerHosts"];
    let parts = std::iter::once(text(&row["externalName"]))
        .chain(lists.iter().map(|name| list(&traffic[name])));
    parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join(",")
}

fn affinity(row: &Value) -> String {
    match text(&row["traffic"]["affinitySecs"]) {
        secs if secs.is_empty() => secs,
        secs => format!("ClientIP {secs}s"),
    }
}

fn traffic(row: &Value) -> String {
    let traffic = &row["traffic"];
    let local =
        |name: &str, shown: &str| (traffic[name] == "Local").then(|| format!("{shown}=Local"));
    let parts = [
        local("internal", "internal"),
        local("external", "external"),
        Some(text(&traffic["distribution"])),
        Some(text(&traffic["proxyName"])).filter(|n| !n.is_empty()).map(|n| format!("proxy={n}")),
    ];
    parts.into_iter().flatten().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(",")
}

fn policy(row: &Value) -> String {
    let Some(policy) = row["policy"].as_object() else { return String::new() };
    let is_set = |value: &Value| match value {
        Value::Object(inner) => inner.values().any(|v| !v.is_null()),
        other => !other.is_null(),
    };
    let named = policy.iter().filter(|(_, value)| is_set(value)).map(|(name, value)| match value {
        Value::String(word) => format!("{name}={word}"),
        _ => name.clone(),
    });
    named.collect::<Vec<_>>().join(",")
}

fn endpoint_service(row: &Value) -> String {
    let service = text(&row["service"]);
    match text(&row["cluster"]) {
        cluster if cluster.is_empty() => service,
        cluster => format!("{service} (in {cluster})"),
    }
}

fn state(row: &Value) -> String {
    let mut words = vec!["ready", "serving", "terminating"];
    words.retain(|name| row[*name] == true);
    match words.as_slice() {
        [] => "not ready".to_owned(),
        ["ready", "serving"] => "ready".to_owned(),
        words => words.join(","),
    }
}

fn hints(row: &Value) -> String {
    let hints = &row["hints"];
    let part = |name: &str| {
        Some(list(&hints[name])).filter(|l| !l.is_empty()).map(|l| format!("{name}={l}"))
    };
    [part("zones"), part("nodes")].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

/// A number to two places.
fn rate(value: &Value) -> String {
    value.as_f64().map(|rate| format!("{rate:.2}")).unwrap_or_default()
}

fn error_share(row: &Value) -> String {
    row["errorPercent"].as_f64().map(|share| format!("{share:.2}%")).unwrap_or_default()
}

fn rates(value: &Value, shown: fn(&Value) -> String) -> String {
    let all = value.as_object().into_iter().flatten();
    all.map(|(name, value)| format!("{name}={}", shown(value))).collect::<Vec<_>>().join(",")
}

fn client_node(row: &Value) -> String {
    let node = text(&row["node"]);
    if node.is_empty() { text(&row["peer"]) } else { node }
}

fn client_state(row: &Value) -> String {
    let refused = client_types(row).any(|(_, status)| status["nacked"].is_string());
    match (refused, row["pending"].as_bool()) {
        (true, _) => "refuses",
        (false, Some(true)) => "pending",
        _ => "current",
    }
    .to_owned()
}

/// The client's words, by type.
fn client_refused(row: &Value) -> String {
    let words = |(kind, status): (&String, &Value)| {
        status["nacked"].as_str().map(|words| format!("{kind}: {words}"))
    };
    client_types(row).filter_map(words).collect::<Vec<_>>().join("; ")
}

fn client_subscribed(row: &Value) -> String {
    let count = |(kind, status): (&String, &Value)| match status["wildcard"].as_bool() {
        Some(true) => format!("{kind} *"),
        _ => format!("{kind} {}", status["names"]),
    };
    client_types(row).map(count).collect::<Vec<_>>().join(", ")
}

fn client_types(row: &Value) -> impl Iterator<Item = (&String, &Value)> {
    row["types"].as_object().into_iter().flatten()
}

fn number_of(list: &Value) -> String {
    list.as_array().map_or(0, Vec::len).to_string()
}

/// Whether a condition holds, or the word for why it does not.
fn condition(conditions: &Value, kind: &str) -> String {
    let found = conditions.as_array().into_iter().flatten().find(|one| one["type"] == kind);
    match found {
        Some(found) if found["status"] == "True" => "True".to_owned(),
        Some(found) => text(&found["reason"]),
        None => text(&Value::Null),
    }
}

/// What the conditions of an object, and those of a part of it, have to say for people.
fn why(row: &Value, part: &str) -> String {
    let lists = [&row["conditions"], &row[part]];
    let mut said: Vec<&str> = Vec::new();
    for condition in lists.into_iter().filter_map(Value::as_array).flatten() {
        let message = condition["message"].as_str().unwrap_or_default();
        if !message.is_empty() && !said.contains(&message) {
            said.push(message);
        }
    }
    said.join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn load_is_shown_in_rates_and_shares() {
        let full = json!({
            "cluster": "shop/web:80", "zone": "zone-a", "reporters": 2, "requestsPerSec": 120.5,
            "errorPercent": 0.4, "inProgress": 3, "dropsPerSec": 0.0, "ageSecs": 4,
            "dropCategories": {}, "metrics": {"cpu_utilization": {"mean": 0.25}},
        });
        let bare = json!({
            "cluster": "x", "zone": null, "reporters": 1, "requestsPerSec": 0.0,
            "errorPercent": null, "inProgress": 0, "dropsPerSec": 1.0, "ageSecs": 4,
            "dropCategories": {"lb": 1.0}, "metrics": {},
        });
        let mut out = Vec::new();
        let rows = [full, bare];
        Table::new(GetWhat::Load, true).write_all(&rows, &mut out).expect("written");
        let text = String::from_utf8(out).expect("UTF-8");
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1..],
            [
                "shop/web:80 zone-a 120.50 0.40% 3 0.00 2 4s - cpu_utilization=0.25",
                "x - 0.00 - 0 1.00 1 4s lb=1.00 -",
            ]
            .map(|line| line.split(' ').collect::<Vec<_>>())
        );
        assert_eq!(lines[0].len(), lines[1].len());
    }
}
