//! Rows of Gateways and routes, from the statuses of a report.

use std::sync::Arc;

use serde::Serialize;

use super::Filter;
use crate::gateway::draft::ParentRef;
use crate::gateway::status::{Condition, Of, Status, find};
use crate::report::Report;

/// A listener of a Gateway; of a Gateway without any a row with none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayRow {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: Arc<str>,
    /// The listener.
    pub listener: Option<Arc<str>>,
    /// The listener's port.
    pub port: Option<u16>,
    /// What is spoken.
    pub protocol: Option<Arc<str>>,
    /// The names that the listener is for.
    pub hostname: Option<Arc<str>>,
    /// Routes that are attached.
    pub routes: usize,
    /// What became of the Gateway.
    pub conditions: Vec<Condition>,
    /// What became of the listener.
    pub listener_conditions: Vec<Condition>,
}

/// A route at one of its parents; of a route without any a row with none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteRow {
    /// Its kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The hosts it is for.
    pub hostnames: Vec<Arc<str>>,
    /// The parent, as `Gateway shop/web`, with the listener or the port if the route says one.
    pub parent: Option<String>,
    /// What became of it there.
    pub conditions: Vec<Condition>,
}

/// The Gateways of a report.
#[must_use]
pub fn gateways(report: &Report, filter: &Filter) -> Vec<GatewayRow> {
    asked(report, filter)
        .filter_map(|status| match &status.of {
            Of::Gateway(gateway) => Some((status, gateway)),
            Of::Class(_) | Of::Route(_) => None,
        })
        .flat_map(|(status, gateway)| {
            let whole = GatewayRow {
                namespace: status.id.namespace.clone(),
                name: status.id.name.clone(),
                class: gateway.class.clone(),
                listener: None,
                port: None,
                protocol: None,
                hostname: None,
                routes: 0,
                conditions: gateway.conditions.clone(),
                listener_conditions: Vec::new(),
            };
            if gateway.listeners.is_empty() {
                return vec![whole];
            }
            let one = |listener: &crate::gateway::status::ListenerStatus| GatewayRow {
                listener: Some(listener.name.clone()),
                port: Some(listener.port),
                protocol: Some(listener.protocol.clone()),
                hostname: listener.hostname.clone(),
                routes: listener.routes,
                listener_conditions: listener.conditions.clone(),
                ..whole.clone()
            };
            gateway.listeners.iter().map(one).collect()
        })
        .collect()
}

/// The routes of a report.
#[must_use]
pub fn routes(report: &Report, filter: &Filter) -> Vec<RouteRow> {
    asked(report, filter)
        .filter_map(|status| match &status.of {
            Of::Route(route) => Some((status, route)),
            Of::Class(_) | Of::Gateway(_) => None,
        })
        .flat_map(|(status, route)| {
            let whole = RouteRow {
                kind: status.id.kind.as_str(),
                namespace: status.id.namespace.clone(),
                name: status.id.name.clone(),
                hostnames: route.hostnames.clone(),
                parent: None,
                conditions: Vec::new(),
            };
            if route.parents.is_empty() {
                return vec![whole];
            }
            let one = |at: &crate::gateway::status::ParentStatus| RouteRow {
                parent: Some(parent(&at.parent)),
                conditions: at.conditions.clone(),
                ..whole.clone()
            };
            route.parents.iter().map(one).collect()
        })
        .collect()
}

/// Objects of the Gateway API that are not in force as they are written, with the condition that says
/// so.
pub(crate) fn not_in_force(statuses: &[Status]) -> Vec<(&Status, Condition)> {
    let bad = |conditions: &[Condition]| -> Vec<Condition> {
        let wanted = ["Accepted", "ResolvedRefs", "Programmed"];
        let failing = |condition: &&Condition| {
            wanted.contains(&condition.kind) != condition.holds && condition.kind != "Conflicted"
        };
        conditions.iter().filter(failing).cloned().collect()
    };
    let mut found = Vec::new();
    for status in statuses {
        let conditions = match &status.of {
            Of::Class(conditions) => bad(conditions),
            Of::Gateway(gateway) => {
                let of_listeners = gateway.listeners.iter().flat_map(|listener| {
                    bad(&listener.conditions).into_iter().map(|condition| Condition {
                        message: format!("listener {}: {}", listener.name, condition.message),
                        ..condition
                    })
                });
                let own = bad(&gateway.conditions);
                own.into_iter().chain(of_listeners).collect()
            }
            Of::Route(route) => {
                route.parents.iter().flat_map(|parent| bad(&parent.conditions)).collect()
            }
        };
        // What is not accepted is not programmed either, and needs not be said twice.
        let mut said: Vec<Condition> = Vec::new();
        for condition in conditions {
            let follows = condition.kind == "Programmed" && find(&said, "Accepted").is_some();
            if !follows && !said.contains(&condition) {
                said.push(condition);
            }
        }
        found.extend(said.into_iter().map(|condition| (status, condition)));
    }
    found
}

fn parent(parent: &ParentRef) -> String {
    let ParentRef { kind, namespace, name, section, port, .. } = parent;
    let mut text = format!("{kind} {namespace}/{name}");
    if let Some(section) = section {
        text.push_str(&format!(" {section}"));
    }
    if let Some(port) = port {
        text.push_str(&format!(":{port}"));
    }
    text
}

fn asked<'a>(report: &'a Report, filter: &'a Filter) -> impl Iterator<Item = &'a Status> {
    let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
    report.statuses.iter().filter(move |status| {
        fits(&filter.namespace, &status.id.namespace) && fits(&filter.name, &status.id.name)
    })
}
