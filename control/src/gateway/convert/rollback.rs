//! Annotations of a route -> when its backends lose their weight.

use std::time::Duration;

use super::super::draft::RollbackDraft;
use super::annotations::number;
use super::duration;

const SWITCH: &str = "rollback";
/// The annotations, in order.
pub(super) const NAMES: [&str; 6] = [
    SWITCH,
    "rollback-attempt",
    "rollback-latency-margin-percent",
    "rollback-min-requests",
    "rollback-success-margin-percent",
    "rollback-window",
];
/// Longest time within which a backend is judged, and longest text of an attempt.
const MAX_WINDOW: Duration = Duration::from_secs(3600);
const MAX_ATTEMPT: usize = 253;

/// Takes in annotations.
#[derive(Debug)]
pub(super) struct Reader {
    draft: RollbackDraft,
    is_on: bool,
    /// The switch is there; so are others.
    is_said: bool,
    settings: bool,
}

impl Default for Reader {
    fn default() -> Self {
        let draft = RollbackDraft {
            success_margin: 5,
            latency_margin: None,
            min_requests: 100,
            window: Duration::from_secs(60),
            attempt: None,
        };
        Self { draft, is_on: false, is_said: false, settings: false }
    }
}

impl Reader {
    /// Takes one; `None` if it is none of these.
    pub(super) fn take(&mut self, name: &str, text: &str) -> Option<Result<(), String>> {
        let draft = &mut self.draft;
        let read = match name {
            SWITCH => {
                self.is_on = text == "on";
                let known = self.is_on || text == "off";
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
                draft.attempt = Some(text.into()).filter(|_| text.len() <= MAX_ATTEMPT);
                let longer = || format!("longer than {MAX_ATTEMPT} octets");
                draft.attempt.as_ref().map(|_| ()).ok_or_else(longer)
            }
            _ => return None,
        };
        self.is_said |= name == SWITCH;
        self.settings |= name != SWITCH;
        Some(read)
    }

    /// The switch, if it is missing beside what means nothing without it.
    pub(super) fn alone(&self) -> Option<&'static str> {
        (self.settings && !self.is_said).then_some(SWITCH)
    }

    /// What they ask for.
    pub(super) fn end(self) -> Option<RollbackDraft> {
        self.is_on.then_some(self.draft)
    }
}
