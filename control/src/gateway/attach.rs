//! Which listeners a route attaches to (Gateway API, "Attaching Routes to Gateways").

use std::collections::BTreeMap;
use std::sync::Arc;

use super::api::GROUP;
use super::draft::{From, GatewayDraft, GroupKind, ListenerDraft, ParentRef, RouteDraft};
use super::host::{self, Host};
use super::status::Condition;
use crate::object::Kind;

/// Labels of namespaces.
pub(super) type NamespaceLabels = BTreeMap<Arc<str>, BTreeMap<String, String>>;
/// The label that every namespace has (KEP-2161).
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A listener that takes a route, by its place in the Gateway, and the hosts that it does so for.
pub(super) struct Attached {
    pub(super) listener: usize,
    pub(super) hosts: Vec<Host>,
}

/// The listeners of a Gateway that take a route.
///
/// # Errors
/// The condition that says why there are none.
pub(super) fn attach(
    route: &RouteDraft,
    parent: &ParentRef,
    gateway: &GatewayDraft,
    namespaces: &NamespaceLabels,
) -> Result<Vec<Attached>, Condition> {
    let refuse = |reason, message: String| Err(Condition::no("Accepted", reason, message));
    let named = |listener: &ListenerDraft| {
        parent.section.as_ref().is_none_or(|section| *section == listener.name)
            && parent.port.is_none_or(|port| port == listener.port)
    };
    let candidates: Vec<usize> =
        (0..gateway.listeners.len()).filter(|i| named(&gateway.listeners[*i])).collect();
    if candidates.is_empty() {
        let text = format!("Gateway {} has no such listener", gateway.meta.name);
        return refuse("NoMatchingParent", text);
    }
    let allowed: Vec<usize> = candidates
        .into_iter()
        .filter(|i| allows(&gateway.listeners[*i], gateway, route, namespaces))
        .collect();
    if allowed.is_empty() {
        let (kind, namespace) = (route.kind.as_str(), &route.meta.namespace);
        let text = format!("no listener takes a {kind} from namespace {namespace}");
        return refuse("NotAllowedByListeners", text);
    }
    let attached: Vec<Attached> = allowed
        .into_iter()
        .filter_map(|listener| {
            let hosts = hosts(&gateway.listeners[listener], route);
            (!hosts.is_empty()).then_some(Attached { listener, hosts })
        })
        .collect();
    if attached.is_empty() {
        let text = "no hostname of the route is one of a listener".to_owned();
        return refuse("NoMatchingListenerHostname", text);
    }
    Ok(attached)
}

fn allows(
    listener: &ListenerDraft,
    gateway: &GatewayDraft,
    route: &RouteDraft,
    namespaces: &NamespaceLabels,
) -> bool {
    let kind = (GROUP, route.kind.as_str());
    let takes = kinds(listener).0.iter().any(|(group, name)| (&**group, &**name) == kind);
    let namespace = &route.meta.namespace;
    takes
        && match &listener.from {
            From::None => false,
            From::Same => *namespace == gateway.meta.namespace,
            From::All => true,
            From::Selector(selector) => {
                let known = namespaces.get(namespace);
                // Of one whose labels are not known, its name is, and that alone.
                let mut labels = known.cloned().unwrap_or_default();
                labels.insert(NAME_LABEL.to_owned(), namespace.to_string());
                (known.is_some() || selector.asks_only(NAME_LABEL)) && selector.takes(&labels)
            }
        }
}

/// The kinds of routes that a listener takes, and those it asks for that it cannot.
pub(super) fn kinds(listener: &ListenerDraft) -> (Vec<GroupKind>, Vec<String>) {
    let fitting: &[Kind] = match &*listener.protocol {
        "HTTP" | "HTTPS" => &[Kind::HttpRoute, Kind::GrpcRoute],
        "TCP" => &[Kind::TcpRoute],
        "TLS" if listener.ends_tls() => &[Kind::TlsRoute, Kind::TcpRoute],
        "TLS" => &[Kind::TlsRoute],
        _ => &[],
    };
    let fits = |group: &str, name: &str| {
        group == GROUP && fitting.iter().any(|kind| kind.as_str() == name)
    };
    if listener.kinds.is_empty() {
        let all = fitting.iter().map(|kind| (GROUP.into(), kind.as_str().into()));
        return (all.collect(), Vec::new());
    }
    let (good, bad): (Vec<_>, Vec<_>) =
        listener.kinds.iter().cloned().partition(|(group, name)| fits(group, name));
    (good, bad.into_iter().map(|(group, name)| format!("{name}.{group}")).collect())
}

fn hosts(listener: &ListenerDraft, route: &RouteDraft) -> Vec<Host> {
    if route.hostnames.is_empty() {
        return vec![listener.hostname.clone()];
    }
    let mut hosts: Vec<Host> = Vec::new();
    for own in &route.hostnames {
        let met = host::intersection(&listener.hostname, &Some(Arc::clone(own)));
        hosts.extend(met.filter(|met| !hosts.contains(met)));
    }
    hosts
}
