//! The listeners of a Gateway: which of them can be had side by side, and what is said of each.

use std::collections::BTreeMap;

use super::attach::kinds;
use super::draft::{GatewayDraft, ListenerDraft};
use super::status::{Condition, ListenerStatus};

/// A listener's part in the Gateway.
pub(super) struct Judged {
    /// Whether it is in force.
    pub(super) valid: bool,
    /// What is said of it.
    pub(super) status: ListenerStatus,
}

/// What speaks the same on the wire, so that listeners of both can share a port.
fn family(protocol: &str) -> Option<&'static str> {
    match protocol {
        "HTTP" => Some("HTTP"),
        "TCP" => Some("TCP"),
        _ => None,
    }
}

/// Judges each listener; how many routes each has is put in later.
pub(super) fn judge(gateway: &GatewayDraft) -> Vec<Judged> {
    let mut ports: BTreeMap<u16, Vec<&ListenerDraft>> = BTreeMap::new();
    for listener in &gateway.listeners {
        ports.entry(listener.port).or_default().push(listener);
    }
    gateway
        .listeners
        .iter()
        .map(|listener| {
            let beside = ports.get(&listener.port).map(Vec::as_slice).unwrap_or_default();
            one(listener, beside)
        })
        .collect()
}

fn one(listener: &ListenerDraft, beside: &[&ListenerDraft]) -> Judged {
    let conflict = conflict(listener, beside);
    let (good, bad) = kinds(listener);
    let supported = family(&listener.protocol).is_some();
    let valid = conflict.is_none() && supported && !good.is_empty();
    let accepted = match (&conflict, supported) {
        (Some((reason, text)), _) => Condition::no("Accepted", reason, text.clone()),
        (None, false) => {
            let text = format!("protocol {} is not supported", listener.protocol);
            Condition::no("Accepted", "UnsupportedProtocol", text)
        }
        (None, true) => Condition::yes("Accepted", "Accepted"),
    };
    let conflicted = match &conflict {
        Some((reason, text)) => {
            Condition { holds: true, ..Condition::no("Conflicted", reason, text.clone()) }
        }
        None => Condition::no("Conflicted", "NoConflicts", ""),
    };
    let resolved = if bad.is_empty() {
        Condition::yes("ResolvedRefs", "ResolvedRefs")
    } else {
        let text = format!("no routes of these kinds can attach: {}", bad.join(", "));
        Condition::no("ResolvedRefs", "InvalidRouteKinds", text)
    };
    let programmed = if valid {
        Condition::yes("Programmed", "Programmed")
    } else {
        Condition::no("Programmed", "Invalid", "it is not in force")
    };
    let status = ListenerStatus {
        name: listener.name.clone(),
        port: listener.port,
        protocol: listener.protocol.clone(),
        hostname: listener.hostname.clone(),
        kinds: good,
        routes: 0,
        conditions: vec![accepted, conflicted, resolved, programmed],
    };
    Judged { valid, status }
}

/// None of those that cannot be had together is in force (`Gateway.spec.listeners`).
fn conflict(listener: &ListenerDraft, beside: &[&ListenerDraft]) -> Option<(&'static str, String)> {
    let others = beside.iter().filter(|other| other.name != listener.name);
    others.into_iter().find_map(|other| {
        let (name, port) = (&other.name, listener.port);
        if family(&other.protocol) != family(&listener.protocol) {
            let text = format!("listener {name} speaks {} on port {port}", other.protocol);
            Some(("ProtocolConflict", text))
        } else if other.hostname == listener.hostname {
            Some((
                "HostnameConflict",
                format!("listener {name} has the same hostname on port {port}"),
            ))
        } else {
            None
        }
    })
}
