//! AccessPolicies -> who may do what at each port of a service, and the status of each policy.

use std::collections::BTreeMap;
use std::sync::Arc;

use portolan_model::{AccessList, AppProtocol, ServiceAccess, ServiceKey};

use super::draft::{AccessDraft, PolicyTargetDraft};
use super::policies;
use super::resolve::Resolver;
use super::status::{Condition, ParentStatus, Status};
use crate::object::Kind;

type Ports = BTreeMap<ServiceKey, BTreeMap<u16, Vec<AccessList>>>;

/// Compiles all policies.
pub(super) fn compile(
    policies: &[&AccessDraft],
    resolver: &mut Resolver<'_>,
) -> (BTreeMap<ServiceKey, Arc<ServiceAccess>>, Vec<Status>) {
    let (mut ports, mut statuses) = (Ports::new(), Vec::with_capacity(policies.len()));
    for policy in policies {
        let parents = policy.targets.iter().map(|target| ParentStatus {
            parent: policies::parent(&policy.meta, target),
            is_ours: true,
            conditions: place(policy, target, &mut ports, resolver),
        });
        let parents = parents.collect();
        statuses.push(policies::status(Kind::AccessPolicy, &policy.meta, Vec::new(), parents));
    }
    let access = ports
        .into_iter()
        .map(|(service, ports)| (service.clone(), Arc::new(ServiceAccess { service, ports })));
    (access.collect(), statuses)
}

/// Puts a policy in force at a target, and says whether it is.
fn place(
    policy: &AccessDraft,
    target: &PolicyTargetDraft,
    ports: &mut Ports,
    resolver: &mut Resolver<'_>,
) -> Vec<Condition> {
    let refuse = |reason, text: String| vec![Condition::no("Accepted", reason, text)];
    let namespace = &policy.meta.namespace;
    let (service, wanted) = match policies::place(&policy.meta, target, resolver) {
        Ok(place) => place,
        Err(refused) => return vec![refused],
    };
    let list = AccessList {
        name: format!("{namespace}/{}", policy.meta.name).into(),
        denies: policy.denies,
        log_only: policy.log_only,
        entries: policy.entries.clone(),
    };
    let known = ports.entry(service.key.clone()).or_default();
    let (mut open, mut of_bytes) = (Vec::new(), Vec::new());
    for port in wanted {
        known.entry(port.port).or_default().push(list.clone());
        if !service.policy.inbound.contains_key(&port.port) {
            open.push(port.port.to_string());
        }
        let speaks_http =
            matches!(port.app_protocol, Some(AppProtocol::Http1 | AppProtocol::Http2));
        if !speaks_http && policy.entries.iter().any(portolan_model::AccessEntry::is_of_http) {
            of_bytes.push(port.port.to_string());
        }
    }
    if !open.is_empty() {
        let text = format!(
            "no proxy stands in front of port {}: the Service has no portolan.dev/app-port; gRPC servers \
             that say that they serve it go by it",
            open.join(", ")
        );
        return refuse("NotEnforced", text);
    }
    let mut conditions = vec![Condition::yes("Accepted", "Accepted")];
    if !of_bytes.is_empty() {
        let effect = if policy.denies { "are passed over" } else { "allow nothing" };
        let text = format!(
            "methods and paths mean nothing at port {}, which carries bytes: they {effect}",
            of_bytes.join(", ")
        );
        let partly = Condition::no("PartiallyInvalid", "UnsupportedValue", text);
        conditions.push(Condition { holds: true, ..partly });
    }
    conditions
}
