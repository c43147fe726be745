//! Annotations of a route -> when its backends lose their weight.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::draft::RollbackDraft;
use super::duration;
use crate::object::Fault;
use crate::rejection::Severity;

/// What they begin with.
const PREFIX: &str = "portolan.dev/";
const SWITCH: &str = "rollback";
/// Longest time within which a backend is judged, and longest text of an attempt.
const MAX_WINDOW: Duration = Duration::from_secs(3600);
const MAX_ATTEMPT: usize = 253;

/// What the annotations cannot be read as.
pub fn faults(metadata: &ObjectMeta) -> Vec<Fault> {
    read(metadata).1
}

/// What they ask for. What cannot be read falls back alone, and is named.
pub(super) fn read(metadata: &ObjectMeta) -> (Option<RollbackDraft>, Vec<Fault>) {
    let mut draft = RollbackDraft {
        success_margin: 5,
        latency_margin: None,
        min_requests: 100,
        window: Duration::from_secs(60),
        attempt: None,
    };
    let (mut is_on, mut is_said, mut settings, mut faults) = (false, false, false, Vec::new());
    for (name, text) in metadata.annotations.iter().flatten() {
        let Some(name) = name.strip_prefix(PREFIX) else { continue };
        let read = match name {
            SWITCH => {
                is_on = text == "on";
                let known = is_on || text == "off";
                known.then_some(()).ok_or_else(|| format!("{text:?} is not on or off"))
            }
            "rollback-success-margin-percent" => {
                number(text, 100).map(|margin| draft.success_margin = margin)
            }
            "rollback-latency-margin-percent" => {
                number(text, 10_000).map(|margin| draft.latency_margin = Some(margin))
            }
            "rollback-min-requests" => {
                number(text, 1_000_000).map(|count| draft.min_requests = count)
            }
            "rollback-window" => {
                duration("", text).map_err(|fault| fault.reason).and_then(|time| {
                    let fits = (Duration::from_secs(1)..=MAX_WINDOW).contains(&time);
                    let wrong = || format!("{text:?} is not within 1s and 1h");
                    fits.then(|| draft.window = time).ok_or_else(wrong)
                })
            }
            "rollback-attempt" => {
                draft.attempt = Some(text.as_str().into()).filter(|_| text.len() <= MAX_ATTEMPT);
                let longer = || format!("longer than {MAX_ATTEMPT} octets");
                draft.attempt.as_ref().map(|_| ()).ok_or_else(longer)
            }
            _ => Err("unknown setting; known: rollback, rollback-attempt, \
                      rollback-latency-margin-percent, rollback-min-requests, \
                      rollback-success-margin-percent, rollback-window"
                .to_owned()),
        };
        is_said |= name == SWITCH;
        settings |= name != SWITCH;
        if let Err(reason) = read {
            faults.push(warning(name, reason));
        }
    }
    if settings && !is_said && faults.is_empty() {
        faults.push(warning(SWITCH, "without it the others have no effect".to_owned()));
    }
    (is_on.then_some(draft), faults)
}

fn warning(name: &str, reason: String) -> Fault {
    let field = Some(format!("metadata.annotations[{PREFIX}{name}]"));
    Fault { field, reason, severity: Severity::Warning }
}

fn number(text: &str, most: u32) -> Result<u32, String> {
    let read = text.parse().ok().filter(|number| (1..=most).contains(number));
    read.ok_or_else(|| format!("{text:?} is not a whole number in 1..={most}"))
}
