//! Why there is no such name or no such record, in words, from the snapshot: what goes with a
//! negative answer as an extended error (RFC 8914), and what `portolan dns explain` says.

use portolan_model::{Scope, ServiceEntry, ServiceKey, ServiceKind, Snapshot};

use crate::config::PodMode;
use crate::edns::{Reason, ede};
use crate::name::{WireName, suffix_start, texts};
use crate::zone::Zones;

/// Why a lower-case wire name of our zones has no record of a type; with `exists`, it has others or
/// names below it.
pub(crate) fn of_negative(zones: &Zones, snapshot: &Snapshot, name: &[u8], exists: bool) -> Reason {
    let text = in_services(zones, snapshot, name, exists)
        .or_else(|| in_pods(zones, snapshot, name, exists))
        .unwrap_or_else(|| otherwise(name, exists));
    Reason::with(ede::OTHER, text)
}

fn in_services(zones: &Zones, snapshot: &Snapshot, name: &[u8], exists: bool) -> Option<String> {
    let (scope, start) = zones
        .all_svc()
        .find_map(|(scope, svc)| suffix_start(name, svc.as_bytes()).map(|start| (scope, start)))?;
    let labels = texts(&name[..start])?;
    let (namespace, rest) = labels.split_last()?;
    let has = snapshot.has_namespace(scope, namespace);
    let Some((service, below)) = rest.split_last() else {
        let word = if has { "exists and has no records of its own" } else { "does not exist" };
        return Some(format!("namespace {namespace} {word}"));
    };
    let kind = match scope {
        Scope::Cluster => "service",
        Scope::ClusterSet => "imported service",
    };
    let key = ServiceKey::new(namespace, service).ok().map(|key| key.within(scope));
    let Some(entry) = key.and_then(|key| snapshot.lookup(&key)) else {
        let nothing = if has { "" } else { ": there is no such namespace" };
        return Some(format!("{kind} {namespace}/{service} does not exist{nothing}"));
    };
    let detail = of_service(entry, below, exists);
    Some(format!("{kind} {namespace}/{service} exists, {detail}"))
}

fn of_service(entry: &ServiceEntry, below: &[&str], exists: bool) -> String {
    let endpoints = || {
        let (ready, listed) = entry.readiness();
        format!("{ready} of {listed} endpoints ready")
    };
    let has_ready =
        || entry.slices.iter().flat_map(|slice| &slice.endpoints).any(|e| entry.is_ready(e));
    match (&entry.service.kind, exists) {
        (ServiceKind::Headless, _) if !has_ready() => endpoints(),
        (_, true) => "without a record of this type at this name".to_owned(),
        (ServiceKind::Headless, false) => {
            let name = below.join(".");
            format!("none of its endpoints or ports is {name:?}; {}", endpoints())
        }
        (ServiceKind::ClusterIp(_) | ServiceKind::ExternalName(_), false) => {
            format!("it has no port {:?}", below.join("."))
        }
    }
}

fn in_pods(zones: &Zones, snapshot: &Snapshot, name: &[u8], exists: bool) -> Option<String> {
    let start = zones.pod.iter().find_map(|pod| suffix_start(name, pod.as_bytes()))?;
    if zones.pods == PodMode::Disabled && start > 0 {
        return Some("names of pods are switched off".to_owned());
    }
    let labels = texts(&name[..start])?;
    let namespace = labels.last()?;
    if !snapshot.has_namespace(Scope::Cluster, namespace) {
        return Some(format!("namespace {namespace} does not exist"));
    }
    Some(match (exists, labels.len(), zones.pods) {
        (true, 1, _) => format!("namespace {namespace} exists and has no records of its own"),
        (true, ..) => "the address is of the other family".to_owned(),
        (false, _, PodMode::Verified) => format!("no pod of {namespace} has that address"),
        (false, ..) => "the name spells no address".to_owned(),
    })
}

fn otherwise(name: &[u8], exists: bool) -> String {
    let reverse = [&b"\x07in-addr\x04arpa\x00"[..], b"\x03ip6\x04arpa\x00"];
    if reverse.iter().any(|zone| suffix_start(name, zone).is_some()) && !exists {
        return "no service or endpoint has that address".to_owned();
    }
    let word = if exists { "exists, without a record of this type" } else { "does not exist" };
    format!("the name {word}")
}

/// A name as people write it.
pub(crate) fn shown(name: &[u8]) -> String {
    WireName::from_wire(name).map_or_else(|| "?".to_owned(), |name| name.to_string())
}
