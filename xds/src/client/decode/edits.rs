//! Header changes of the four levels that may ask for them -> [`HeaderEdit`]s in the order in which
//! they are made.

use std::sync::Arc;

use portolan_model::traffic::{Edits, HeaderEdit};
use portolan_proto::envoy::core::HeaderValueOption;
use portolan_proto::envoy::core::header_value_option::HeaderAppendAction;

/// Most changes of one level, of requests or of answers.
const MAX_EDITS: usize = 256;

/// The changes that one level asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    request: Vec<HeaderEdit>,
    response: Vec<HeaderEdit>,
}

/// What a level says: fields to add and to remove, of requests and of answers.
pub(super) struct Said<'a> {
    pub(super) add: [&'a [HeaderValueOption]; 2],
    pub(super) remove: [&'a [String]; 2],
}

/// The levels around a route, the route table's first.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) table: &'a Level,
    pub(super) host: &'a Level,
    /// The most specific level comes last and wins.
    pub(super) specific_wins: bool,
}

impl Level {
    /// Converts what a level says; `prefix` names it.
    ///
    /// # Errors
    /// The first field that is malformed or not supported.
    pub(super) fn of(prefix: &str, said: &Said<'_>) -> Result<Self, String> {
        let [request, response] = ["request", "response"];
        let one = |at: usize, kind| {
            edits(&format!("{prefix}{kind}_headers"), said.add[at], said.remove[at])
        };
        Ok(Self { request: one(0, request)?, response: one(1, response)? })
    }
}

impl Around<'_> {
    /// All changes of a route, or of a share of it, in order: the share's, then by default the most
    /// specific first, so that the table's win (Envoy `most_specific_header_mutations_wins`, which
    /// leaves the share's where they are).
    pub(super) fn with(&self, route: &Level, share: &Level) -> Edits {
        let levels = if self.specific_wins {
            [share, self.table, self.host, route]
        } else {
            [share, route, self.host, self.table]
        };
        let all = |of: fn(&Level) -> &[HeaderEdit]| {
            levels.iter().flat_map(|level| of(level)).cloned().collect()
        };
        Edits {
            request: all(|level| &level.request),
            response: all(|level| &level.response),
            ..Edits::default()
        }
    }
}

/// `None` where nothing is changed.
pub(super) fn shared(edits: Edits) -> Option<Arc<Edits>> {
    (!edits.is_empty()).then(|| Arc::new(edits))
}

/// What is to be removed goes first, as in Envoy.
fn edits(
    field: &str,
    add: &[HeaderValueOption],
    remove: &[String],
) -> Result<Vec<HeaderEdit>, String> {
    let count = add.len() + remove.len();
    if count > MAX_EDITS {
        return Err(format!("{field}: {count} changes are more than {MAX_EDITS}"));
    }
    let mut edits = Vec::with_capacity(count);
    for (i, removed) in remove.iter().enumerate() {
        edits.push(HeaderEdit::Remove(name(&format!("{field}_to_remove[{i}]"), removed)?));
    }
    for (i, said) in add.iter().enumerate() {
        edits.extend(added(&format!("{field}_to_add[{i}]"), said)?);
    }
    Ok(edits)
}

/// `None` for an empty value that is not to be kept.
#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
fn added(field: &str, said: &HeaderValueOption) -> Result<Option<HeaderEdit>, String> {
    let Some(header) = &said.header else { return Err(format!("{field}.header: missing")) };
    let name = name(&format!("{field}.header.key"), &header.key)?;
    let value = match std::str::from_utf8(&header.raw_value) {
        Ok("") => header.value.as_str(),
        Ok(raw) => raw,
        Err(_) => return Err(format!("{field}.header.raw_value: not UTF-8")),
    };
    let value = value_of(&format!("{field}.header.value"), value)?;
    if value.is_empty() && !said.keep_empty_value {
        return Ok(None);
    }
    let action = match said.append {
        Some(append) if !append.value => HeaderAppendAction::OverwriteIfExistsOrAdd,
        Some(_) => HeaderAppendAction::AppendIfExistsOrAdd,
        None => HeaderAppendAction::try_from(said.append_action)
            .map_err(|_| format!("{field}.append_action: {} is none", said.append_action))?,
    };
    Ok(Some(match action {
        HeaderAppendAction::AppendIfExistsOrAdd => HeaderEdit::Add(name, value),
        HeaderAppendAction::AddIfAbsent => HeaderEdit::AddIfAbsent(name, value),
        HeaderAppendAction::OverwriteIfExistsOrAdd => HeaderEdit::Set(name, value),
        HeaderAppendAction::OverwriteIfExists => HeaderEdit::Replace(name, value),
    }))
}

/// A field name that may be changed, in lower case.
fn name(field: &str, said: &str) -> Result<Arc<str>, String> {
    if !HeaderEdit::is_name(said) {
        return Err(format!("{field}: {said:?} is no field name that can be changed"));
    }
    let name = said.to_ascii_lowercase();
    if !HeaderEdit::may_change(&name) {
        return Err(format!("{field}: {name} is not to be changed"));
    }
    Ok(name.into())
}

/// A field's value. Envoy's variables (`%REQ(x)%`) are not known here; `%%` is a percent sign.
fn value_of(field: &str, said: &str) -> Result<Arc<str>, String> {
    if said.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(format!("{field}: {said:?} has control characters"));
    }
    if !said.contains('%') {
        return Ok(trimmed(said).into());
    }
    let parts: Vec<&str> = said.split("%%").collect();
    if parts.iter().any(|part| part.contains('%')) {
        return Err(format!("{field}: {said:?}: variables are not supported"));
    }
    Ok(trimmed(&parts.join("%")).into())
}

/// RFC 9110 §5.5: blanks around a value are not of it.
fn trimmed(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}
