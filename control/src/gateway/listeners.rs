//! The listeners of a Gateway: which of them can be had side by side, and what is said of each.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_model::traffic::Secret;

use super::attach::kinds;
use super::draft::{GatewayDraft, ListenerDraft};
use super::resolve::{Resolver, Unresolved};
use super::status::{Condition, GatewayStatus, ListenerStatus, Of, Status, find};
use crate::object::Kind;

/// A certificate, and its name.
type Certificate = (Arc<str>, Arc<Secret>);

/// A listener's part in the Gateway.
pub(super) struct Judged {
    /// Whether it is in force.
    pub(super) valid: bool,
    /// What is said of it.
    pub(super) status: ListenerStatus,
    /// Its certificates, by name.
    pub(super) certificates: Vec<Certificate>,
    /// The authorities that clients' certificates must end in, if they need one.
    pub(super) clients: Option<Certificate>,
}

/// What begins in the same way, so that listeners of both can share a port: within TLS clients say which one
/// they are for.
fn family(listener: &ListenerDraft) -> Option<&'static str> {
    match &*listener.protocol {
        "HTTP" => Some("HTTP"),
        "HTTPS" | "TLS" => Some("TLS"),
        "TCP" => Some("TCP"),
        _ => None,
    }
}

/// Judges each listener; how many routes each has is put in later.
pub(super) fn judge(gateway: &GatewayDraft, resolver: &mut Resolver<'_>) -> Vec<Judged> {
    let mut ports: BTreeMap<u16, Vec<&ListenerDraft>> = BTreeMap::new();
    for listener in &gateway.listeners {
        ports.entry(listener.port).or_default().push(listener);
    }
    gateway
        .listeners
        .iter()
        .map(|listener| {
            let beside = ports.get(&listener.port).map(Vec::as_slice).unwrap_or_default();
            one(gateway, listener, beside, resolver)
        })
        .collect()
}

fn one(
    gateway: &GatewayDraft,
    listener: &ListenerDraft,
    beside: &[&ListenerDraft],
    resolver: &mut Resolver<'_>,
) -> Judged {
    let conflict = conflict(listener, beside);
    let (good, bad) = kinds(listener);
    let unsupported = family(listener).is_none().then(|| {
        ("UnsupportedProtocol", format!("protocol {} is not supported", listener.protocol))
    });
    let mut found = Clients::default();
    let mut unresolved = None;
    let mut certificates = Vec::new();
    if listener.ends_tls() {
        found = clients(gateway, listener.port, resolver);
        match self::certificates(gateway, listener, resolver) {
            Ok(good) => certificates = good,
            Err(why) => unresolved = Some(why),
        }
    }
    let unsupported = unsupported.or(found.refused);
    let valid =
        conflict.is_none() && unsupported.is_none() && !good.is_empty() && unresolved.is_none();
    let accepted = match (&conflict, unsupported) {
        (Some((reason, text)), _) => Condition::no("Accepted", reason, text.clone()),
        (None, Some((reason, text))) => Condition::no("Accepted", reason, text),
        (None, None) => Condition::yes("Accepted", "Accepted"),
    };
    let conflicted = match &conflict {
        Some((reason, text)) => {
            Condition { holds: true, ..Condition::no("Conflicted", reason, text.clone()) }
        }
        None => Condition::no("Conflicted", "NoConflicts", ""),
    };
    let resolved = if let Some(why) = unresolved.or(found.unresolved) {
        Condition::no("ResolvedRefs", why.reason, why.message)
    } else if bad.is_empty() {
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
    Judged { valid, status, certificates, clients: found.authorities }
}

/// What a port's clients have to prove.
#[derive(Default)]
struct Clients {
    /// The authorities that their certificates must end in, if they need one.
    authorities: Option<Certificate>,
    /// The first of the authorities that cannot be had. The others are in force: who has a certificate of
    /// the one that is missing is not let in.
    unresolved: Option<Unresolved>,
    /// Why the listener cannot be had, reason and text.
    refused: Option<(&'static str, String)>,
}

/// What a port's clients have to prove (`spec.tls.frontend`).
fn clients(gateway: &GatewayDraft, port: u16, resolver: &mut Resolver<'_>) -> Clients {
    let mut found = Clients::default();
    let own = gateway.clients_of_ports.get(&port).unwrap_or(&gateway.clients);
    let Some(own) = own else { return found };
    if let Some(what) = &own.unsupported {
        found.refused = Some(("UnsupportedValue", what.clone()));
        return found;
    }
    let mut pem = String::new();
    for target in &own.authorities {
        match resolver.clients_authorities(gateway, target) {
            Ok(good) => {
                pem.push_str(&good);
                pem.push('\n');
            }
            Err(why) => _ = found.unresolved.get_or_insert(why),
        }
    }
    if pem.is_empty() {
        let text = "none of the authorities of its clients' certificates can be had".to_owned();
        found.refused = Some(("NoValidCACertificate", text));
        return found;
    }
    // The colon makes it a name that no Secret has.
    let name = format!("clients:{port}").into();
    found.authorities = Some((name, Arc::new(Secret::Authorities(pem.into_bytes().into()))));
    found
}

/// The certificates of a listener that ends TLS; or why it cannot.
fn certificates(
    gateway: &GatewayDraft,
    listener: &ListenerDraft,
    resolver: &mut Resolver<'_>,
) -> Result<Vec<Certificate>, Unresolved> {
    let refuse = |reason, message: &str| Err(Unresolved { reason, message: message.to_owned() });
    let Some(tls) = &listener.tls else {
        return refuse("InvalidCertificateRef", "it has no tls");
    };
    if tls.passthrough {
        return refuse("InvalidCertificateRef", "HTTPS cannot be passed through");
    }
    if let Some(what) = &tls.unsupported {
        return refuse("UnsupportedValue", what);
    }
    if tls.certificates.is_empty() {
        return refuse("InvalidCertificateRef", "it has no certificateRefs");
    }
    tls.certificates.iter().map(|target| resolver.certificate(gateway, target)).collect()
}

/// None of those that cannot be had together is in force (`Gateway.spec.listeners`).
fn conflict(listener: &ListenerDraft, beside: &[&ListenerDraft]) -> Option<(&'static str, String)> {
    // Ports of UDP are not those of TCP.
    let is_udp = |listener: &ListenerDraft| &*listener.protocol == "UDP";
    let others = beside
        .iter()
        .filter(|other| other.name != listener.name && is_udp(other) == is_udp(listener));
    others.into_iter().find_map(|other| {
        let (name, port) = (&other.name, listener.port);
        if family(other) != family(listener) {
            let spoken = family(other).unwrap_or(&other.protocol);
            let text = format!("listener {name} speaks {spoken} on port {port}");
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

/// What becomes of a Gateway with such listeners.
pub(super) fn of_all(draft: &GatewayDraft, listeners: Vec<ListenerStatus>) -> Status {
    let bad = |status: &&ListenerStatus| {
        find(&status.conditions, "Programmed").is_some_and(|condition| !condition.holds)
    };
    let invalid: Vec<&str> = listeners.iter().filter(bad).map(|status| &*status.name).collect();
    let text = format!("listeners that are not in force: {}", invalid.join(", "));
    let accepted = if !draft.unusable.is_empty() {
        Condition::no("Accepted", "UnsupportedAddress", draft.unusable.join("; "))
    } else if listeners.is_empty() {
        Condition::no("Accepted", "ListenersNotValid", "it has no listeners")
    } else if invalid.len() == listeners.len() {
        Condition::no("Accepted", "ListenersNotValid", text)
    } else if invalid.is_empty() {
        Condition::yes("Accepted", "Accepted")
    } else {
        Condition { message: text, ..Condition::yes("Accepted", "ListenersNotValid") }
    };
    let programmed = if accepted.holds {
        Condition::yes("Programmed", "Programmed")
    } else {
        Condition::no("Programmed", "Invalid", "it is not accepted")
    };
    let addresses = if programmed.holds { draft.addresses.clone() } else { Vec::new() };
    let of = Of::Gateway(GatewayStatus {
        class: draft.class.clone(),
        conditions: vec![accepted, programmed],
        addresses,
        listeners,
    });
    Status::new(Kind::Gateway, &draft.meta, of)
}
