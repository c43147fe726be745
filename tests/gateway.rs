//! The Gateway API from manifests to sockets: every case through our own proxy, and through a real
//! Envoy that the same control plane configures.

#![expect(
    clippy::disallowed_methods,
    reason = "a test's tasks end with its runtime; their handles are awaited where it matters"
)]

mod support;

#[path = "support/certificates.rs"]
mod certificates;

#[path = "gateway/backend.rs"]
mod backend;
#[path = "gateway/backend_tls.rs"]
mod backend_tls;
#[path = "gateway/cases.rs"]
mod cases;
#[path = "gateway/consumers.rs"]
mod consumers;
#[path = "gateway/frontend_tls.rs"]
mod frontend_tls;
#[path = "gateway/grpc_web.rs"]
mod grpc_web;
#[path = "gateway/hedging.rs"]
mod hedging;
#[path = "gateway/https.rs"]
mod https;
#[path = "gateway/kit.rs"]
mod kit;
#[path = "gateway/limits.rs"]
mod limits;
#[path = "gateway/one_port.rs"]
mod one_port;
#[path = "gateway/passthrough.rs"]
mod passthrough;
#[path = "gateway/rollouts.rs"]
mod rollouts;
#[path = "gateway/sessions.rs"]
mod sessions;
#[path = "gateway/stapling.rs"]
mod stapling;

use cases::{CASES, Case};
use kit::{Front, Version, World, ask};
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn our_proxy_does_what_the_gateway_api_says() {
    let mut world = World::start(Front::Portolan, CASES).await.expect("it is ours");
    let mut wrong = Vec::new();
    for (i, case) in CASES.iter().enumerate() {
        for version in [Version::Http1, Version::Http2] {
            wrong.extend(asked(&mut world, i, case, version).await);
        }
    }
    wrong.extend(statuses(&mut world).await);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn envoy_does_what_the_gateway_api_says() {
    let Some(mut world) = World::start(Front::Envoy, CASES).await else { return };
    let mut wrong = Vec::new();
    for (i, case) in CASES.iter().enumerate() {
        // Those of services are for proxies beside their clients.
        if !case.mesh {
            wrong.extend(asked(&mut world, i, case, Version::Http1).await);
        }
    }
    let clients = world.process.json("/debug/clients").await;
    let text = clients.to_string();
    assert!(text.contains("gateway"), "Envoy is connected: {text}");
    for client in clients.as_array().expect("a list") {
        let refused = &client["refused"];
        assert!(refused.as_array().is_none_or(Vec::is_empty), "Envoy refuses: {client}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Asks for all of a case; what is not as it should be.
async fn asked(world: &mut World, number: usize, case: &Case, version: Version) -> Vec<String> {
    let at = world.at(number, case.mesh);
    if case.is_silent {
        let found = tokio::net::TcpStream::connect(at).await;
        return found
            .is_ok()
            .then(|| format!("{}: somebody listens", case.name))
            .into_iter()
            .collect();
    }
    let mut wrong = Vec::new();
    for (request, expected) in case.asks {
        let filled = |text: &str| {
            text.replace("$NS", &format!("case-{number}"))
                .replace("$PORT", &at.port().to_string())
                .replace("$ID", &format!("{number}-{version:?}"))
        };
        let (request, expected) = (filled(request), filled(expected));
        let answer = ask(at, &request, version).await;
        if let Err(reason) = answer.check(&expected) {
            wrong.push(format!("{} [{version:?}]: {request}: {reason}", case.name));
        }
    }
    wrong
}

/// Compares what `portolan get` shows with the statuses of all cases.
async fn statuses(world: &mut World) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, case) in CASES.iter().enumerate() {
        wrong.extend(statuses_of(world, number, case.name, case.statuses).await);
    }
    wrong
}

/// The same of one case.
async fn statuses_of(
    world: &mut World,
    number: usize,
    name: &str,
    statuses: &[&str],
) -> Vec<String> {
    let (routes, gateways) = (world.rows("routes").await, world.rows("gateways").await);
    let mut wrong = Vec::new();
    let namespace = format!("case-{number}");
    for expected in statuses {
        let expected = expected.replace("$NS", &namespace);
        let expected = expected.replace("$PORT", &world.ports[number].to_string());
        let (subject, conditions) = expected.rsplit_once(": ").expect("conditions");
        let of_case = |row: &&Value| {
            let found = row["namespace"].as_str().unwrap_or_default();
            found == namespace || found == format!("{namespace}-other")
        };
        let rows = routes.iter().chain(&gateways).filter(of_case);
        let Some(row) = rows.clone().find(|row| name_of(row) == subject) else {
            let there: Vec<String> = rows.map(name_of).collect();
            wrong.push(format!("{name}: no row {subject:?}: {there:?}"));
            continue;
        };
        for condition in conditions.split_whitespace() {
            if !has(row, condition) {
                wrong.push(format!("{name}: {subject}: not {condition}: {row}"));
            }
        }
    }
    wrong
}

fn name_of(row: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
    if row.get("listener").is_some() {
        return format!("Gateway {} {}", text(&row["name"]), text(&row["listener"]));
    }
    format!("{} {} {}", text(&row["kind"]), text(&row["name"]), text(&row["parent"]))
}

/// Whether a row says `Accepted=True`, `ResolvedRefs=Reason` (which is False) or `routes=2`. Of a
/// listener its own conditions count.
fn has(row: &Value, condition: &str) -> bool {
    let (kind, value) = condition.split_once('=').expect("a value");
    if kind == "routes" {
        return row["routes"].as_u64() == value.parse().ok();
    }
    let list = row.get("listenerConditions").unwrap_or(&row["conditions"]);
    let found = list.as_array().into_iter().flatten().find(|one| one["type"] == kind);
    found.is_some_and(|found| match value {
        "True" => found["status"] == "True",
        reason => found["status"] == "False" && found["reason"] == reason,
    })
}
