//! What all policies have: targets, and a status for each of them.

use std::sync::Arc;

use portolan_model::{Protocol, Scope, Service, ServiceKey, ServicePort};

use super::draft::{Meta, ParentRef, PolicyTargetDraft};
use super::resolve::Resolver;
use super::status::{Condition, Of, ParentStatus, RouteStatus, Status};
use crate::object::Kind;

/// A target as a status names it.
pub(super) fn parent(meta: &Meta, target: &PolicyTargetDraft) -> ParentRef {
    ParentRef {
        group: target.group.clone(),
        kind: target.kind.clone(),
        namespace: meta.namespace.clone(),
        says_namespace: false,
        name: target.name.clone(),
        section: target.section.clone(),
        port: None,
    }
}

/// The Service that a target is, and its TCP ports that are meant.
///
/// # Errors
/// The condition that says that there is none.
pub(super) fn place<'a>(
    meta: &Meta,
    target: &PolicyTargetDraft,
    resolver: &mut Resolver<'a>,
) -> Result<(&'a Arc<Service>, Vec<&'a ServicePort>), Condition> {
    let refuse = |text: String| Err(Condition::no("Accepted", "TargetNotFound", text));
    let (namespace, name) = (&meta.namespace, &target.name);
    if (&*target.group, &*target.kind) != ("", "Service") {
        return refuse(format!("{} {namespace}/{name}: only Services are", target.kind));
    }
    let key = ServiceKey::new(namespace, name).map(|key| key.within(Scope::Cluster));
    let Some(service) = key.ok().and_then(|key| resolver.service(&key)) else {
        return refuse(format!("Service {namespace}/{name}: there is none"));
    };
    let tcp = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    let section = target.section.as_deref();
    let ports: Vec<&ServicePort> = tcp.filter(|port| is_meant(section, port)).collect();
    if ports.is_empty() {
        let section = section.unwrap_or_default();
        return refuse(format!("Service {namespace}/{name} has no such TCP port: {section}"));
    }
    Ok((service, ports))
}

/// Whether `sectionName` of a reference to a Service means a port: that of its name, or any if it says none.
pub(super) fn is_meant(section: Option<&str>, port: &ServicePort) -> bool {
    section.is_none() || port.name.as_deref() == section
}

/// The status of a policy.
pub(super) fn status(
    kind: Kind,
    meta: &Meta,
    hostnames: Vec<Arc<str>>,
    parents: Vec<ParentStatus>,
) -> Status {
    Status::new(kind, meta, Of::Route(RouteStatus { hostnames, parents }))
}
