//! What all policies have: targets, and a status for each of them.

use std::sync::Arc;

use super::draft::{Meta, ParentRef, PolicyTargetDraft};
use super::status::{Of, ParentStatus, RouteStatus, Status};
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

/// The status of a policy.
pub(super) fn status(
    kind: Kind,
    meta: &Meta,
    hostnames: Vec<Arc<str>>,
    parents: Vec<ParentStatus>,
) -> Status {
    Status::new(kind, meta, Of::Route(RouteStatus { hostnames, parents }))
}
