//! Where the requests of a rule go.

use super::super::api::{BackendRef, Filter};
use super::super::draft::{BackendDraft, MatchDraft, TargetRef};
use super::at_most;
use super::filters::{self, Site};
use crate::convert::{check_label, check_subdomain, port_number};
use crate::object::Fault;

/// Most backends of a rule, and most weight of one (CRD).
const MAX_BACKENDS: usize = 16;
const MAX_WEIGHT: i32 = 1_000_000;

/// Converts backends; with the first filter of theirs that is not done here.
pub(super) fn convert(
    field: &str,
    said: &[BackendRef],
    namespace: &str,
    matches: &[MatchDraft],
) -> Result<(Vec<BackendDraft>, Option<String>), Fault> {
    at_most(field, said.len(), MAX_BACKENDS)?;
    let (mut backends, mut unsupported) = (Vec::new(), None);
    for (i, said) in said.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let weight = said.weight.unwrap_or(1);
        if !(0..=MAX_WEIGHT).contains(&weight) {
            let reason = format!("{weight} is not in 0..={MAX_WEIGHT}");
            return Err(Fault::rejected(format!("{field}.weight"), reason));
        }
        let filters: &[Filter] = &said.filters;
        let own = filters::convert(
            &format!("{field}.filters"),
            filters,
            Site::Backend,
            namespace,
            matches,
        )?;
        unsupported = unsupported.or(own.unsupported);
        backends.push(BackendDraft {
            target: target(&field, said, namespace)?,
            weight: u32::try_from(weight).unwrap_or(0),
            edits: own.edits,
        });
    }
    Ok((backends, unsupported))
}

/// What a reference points at.
pub(super) fn target(field: &str, said: &BackendRef, namespace: &str) -> Result<TargetRef, Fault> {
    check_subdomain(&format!("{field}.name"), &said.name)?;
    if let Some(namespace) = &said.namespace {
        check_label(&format!("{field}.namespace"), namespace)?;
    }
    let port = |port| port_number(&format!("{field}.port"), port);
    Ok(TargetRef {
        group: said.group.as_deref().unwrap_or_default().into(),
        kind: said.kind.as_deref().unwrap_or("Service").into(),
        namespace: said.namespace.as_deref().unwrap_or(namespace).into(),
        name: said.name.as_str().into(),
        port: said.port.map(port).transpose()?,
    })
}
