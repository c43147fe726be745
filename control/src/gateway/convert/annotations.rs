//! Annotations of a route: what the Gateway API has no words for.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use portolan_model::traffic;

use super::super::draft::RollbackDraft;
use super::{limits, rollback};
use crate::object::Fault;
use crate::rejection::Severity;

/// What they begin with.
const PREFIX: &str = "portolan.dev/";
/// Whether a try that has had its time goes on beside the next one.
const HEDGE: &str = "retry-hedge";

/// What they ask for.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// When backends lose their weight.
    pub(super) rollback: Option<RollbackDraft>,
    /// What is put in on purpose.
    pub(super) fault: Option<Arc<traffic::Fault>>,
    /// How often the route may be taken.
    pub(super) rate_limit: Option<Arc<traffic::RateLimit>>,
    /// Whether a try that has had its time goes on beside the next one.
    pub(super) hedge: Option<bool>,
}

/// What the annotations of a route, of HTTP or of gRPC, cannot be read as.
pub fn faults(metadata: &ObjectMeta, grpc: bool) -> Vec<Fault> {
    read(metadata, grpc).1
}

/// What they ask for. What cannot be read falls back alone, and is named.
pub(super) fn read(metadata: &ObjectMeta, grpc: bool) -> (Said, Vec<Fault>) {
    let (mut rollback, mut limits) = (rollback::Reader::default(), limits::Reader::new(grpc));
    let (mut faults, mut hedge) = (Vec::new(), None);
    for (name, text) in metadata.annotations.iter().flatten() {
        let Some(name) = name.strip_prefix(PREFIX) else { continue };
        let own = || (name == HEDGE).then(|| on(text).map(|on| hedge = Some(on)));
        let read = rollback.take(name, text).or_else(|| limits.take(name, text)).or_else(own);
        if let Err(reason) = read.unwrap_or_else(|| Err(unknown())) {
            faults.push(warning(name, reason));
        }
    }
    // What could not be read may be what seems to be missing.
    if faults.is_empty() {
        let alone = rollback.alone().into_iter().chain(limits.alone());
        let without = || "without it the others have no effect".to_owned();
        faults.extend(alone.map(|name| warning(name, without())));
    }
    let (fault, rate_limit) = limits.end();
    (Said { rollback: rollback.end(), fault, rate_limit, hedge }, faults)
}

fn unknown() -> String {
    let known = [&limits::NAMES[..], &[HEDGE], &rollback::NAMES[..]].concat();
    format!("unknown setting; known: {}", known.join(", "))
}

fn warning(name: &str, reason: String) -> Fault {
    let field = Some(format!("metadata.annotations[{PREFIX}{name}]"));
    Fault { field, reason, severity: Severity::Warning }
}

/// Yes or no.
fn on(text: &str) -> Result<bool, String> {
    let read = text.parse();
    read.map_err(|_| format!("{text:?} is not true or false"))
}

/// A whole number from 1 on.
pub(super) fn number(text: &str, most: u32) -> Result<u32, String> {
    let read = text.parse().ok().filter(|number| (1..=most).contains(number));
    read.ok_or_else(|| format!("{text:?} is not a whole number in 1..={most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_and_wrong_is_not_said_to_be_missing() {
        for (delay, named) in [(Some("long"), "fault-delay"), (None, "fault-delay")] {
            let said = [("fault-delay-percent", Some("1")), ("fault-delay", delay)];
            let said = said
                .iter()
                .filter_map(|(name, text)| Some((format!("{PREFIX}{name}"), (*text)?.to_owned())));
            let metadata =
                ObjectMeta { annotations: Some(said.collect()), ..ObjectMeta::default() };
            let faults = faults(&metadata, false);
            assert_eq!(faults.len(), 1, "{delay:?}: {faults:?}");
            let field = format!("metadata.annotations[{PREFIX}{named}]");
            assert_eq!(faults[0].field, Some(field), "{delay:?}");
            assert_eq!(faults[0].reason.contains("without it"), delay.is_none(), "{delay:?}");
        }
    }
}
