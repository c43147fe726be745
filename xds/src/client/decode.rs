//! Envoy messages -> values of the traffic model, checked. What is not supported is refused with
//! the field and the reason, never half-applied.

mod access;
mod action;
mod answer;
mod asked;
mod balancing;
pub mod cluster;
mod condition;
mod edits;
pub mod endpoints;
pub mod generation;
mod health;
mod http;
mod http_filters;
mod labels;
mod limits;
pub mod listener;
mod retry;
pub mod route;
pub mod secret;
mod subset;
mod tls;

use std::borrow::Cow;
use std::collections::BTreeSet;

use portolan_model::traffic::ResourceName;
use portolan_proto::envoy::Percent;
use portolan_proto::envoy::discovery::Resource;
use portolan_proto::envoy::protobuf::{Any, Duration, UInt32Value};
use prost::{Message, Name};

/// Resources of one response.
#[derive(Debug)]
pub struct Decoded<T> {
    /// Those that are good.
    pub good: Vec<T>,
    /// Names of the good ones.
    pub named: BTreeSet<ResourceName>,
    /// Names of those that stay as they were: refused, or a sign of life without content. One
    /// that is empty could be any.
    pub unread: BTreeSet<ResourceName>,
    /// Why, a line each.
    pub errors: Vec<String>,
}

/// A resource that is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {reason}")]
pub struct DecodeError {
    /// Its name; empty if it could not be read.
    pub name: String,
    /// Field and reason.
    pub reason: String,
}

/// Decodes each resource; bad ones do not hold back good ones.
pub fn all<T>(
    resources: &[Any],
    decode: impl Fn(&Any) -> Result<(ResourceName, T), DecodeError>,
) -> Decoded<T> {
    let mut decoded = Decoded {
        good: Vec::with_capacity(resources.len()),
        named: BTreeSet::new(),
        unread: BTreeSet::new(),
        errors: Vec::new(),
    };
    for (i, resource) in resources.iter().enumerate() {
        let taken = match unwrap(resource) {
            Ok((name, Some(resource))) => {
                let taken = decode(&resource);
                // What cannot be read has at least the name that the wrapper says.
                taken.map_err(|e| if e.name.is_empty() { DecodeError { name, ..e } } else { e })
            }
            Ok((name, None)) => {
                decoded.unread.insert(name.into());
                continue;
            }
            Err(error) => Err(error),
        };
        match taken {
            Ok((name, _)) if decoded.named.contains(&name) => {
                decoded.errors.push(format!("{name}: stands twice in the response"));
            }
            Ok((name, value)) => {
                decoded.named.insert(name);
                decoded.good.push(value);
            }
            Err(error) => {
                decoded.errors.push(if error.name.is_empty() {
                    format!("resources[{i}]: {}", error.reason)
                } else {
                    error.to_string()
                });
                decoded.unread.insert(error.name.into());
            }
        }
    }
    decoded
}

/// What is inside of a `Resource`, with the name that this says, or the resource itself; `None` for
/// a sign of life without content. A time to live is not kept: the last good version stays in
/// force.
fn unwrap(any: &Any) -> Result<(String, Option<Cow<'_, Any>>), DecodeError> {
    if any.type_url != Resource::type_url() {
        return Ok((String::new(), Some(Cow::Borrowed(any))));
    }
    let wrapper: Resource = resource(any)?;
    Ok((wrapper.name, wrapper.resource.map(Cow::Owned)))
}

/// Reads the message inside an `Any` of this type.
fn message<M: Message + Name + Default>(any: &Any) -> Result<M, String> {
    if any.type_url != M::type_url() {
        return Err(format!("expected {}, found {:?}", M::type_url(), any.type_url));
    }
    M::decode(&*any.value).map_err(|e| format!("not a {}: {e}", M::NAME))
}

/// The same for a resource of its own, whose name is not known yet.
fn resource<M: Message + Name + Default>(any: &Any) -> Result<M, DecodeError> {
    message(any).map_err(|reason| DecodeError { name: String::new(), reason })
}

/// Attaches a resource's name to a reason.
fn named(name: &str) -> impl Fn(String) -> DecodeError + '_ {
    move |reason| DecodeError { name: name.to_owned(), reason }
}

/// Longest duration there is (`google.protobuf.Duration`), in seconds.
const MAX_SECONDS: u64 = 315_576_000_000;

/// A duration that is not negative.
pub(super) fn duration(field: &str, value: &Duration) -> Result<std::time::Duration, String> {
    let seconds = u64::try_from(value.seconds).ok().filter(|s| *s <= MAX_SECONDS);
    let nanos = u32::try_from(value.nanos).ok().filter(|n| *n < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Ok(std::time::Duration::new(seconds, nanos)),
        _ => Err(format!("{field}: {}.{:09}s is not a duration", value.seconds, value.nanos)),
    }
}

/// The same where nothing and zero both stand for none.
fn time(field: &str, value: Option<&Duration>) -> Result<Option<std::time::Duration>, String> {
    let value = value.map(|value| duration(field, value)).transpose()?;
    Ok(value.filter(|time| !time.is_zero()))
}

/// The same where zero is no value, with what stands for a field that is missing.
fn positive(
    field: &str,
    value: Option<&Duration>,
    default: std::time::Duration,
) -> Result<std::time::Duration, String> {
    match value.map(|value| duration(field, value)).transpose()? {
        Some(time) if time.is_zero() => Err(format!("{field}: is not above 0")),
        time => Ok(time.unwrap_or(default)),
    }
}

/// A percentage, rounded to a whole one.
fn percent(field: &str, value: Option<&Percent>, default: u32) -> Result<u32, String> {
    let Some(Percent { value }) = value else { return Ok(default) };
    // Not by a cast, which would make something of NaN as well.
    let whole = (0..=100_u32).find(|n| f64::from(*n) + 0.5 > *value);
    whole
        .filter(|_| (0.0..=100.0).contains(value))
        .ok_or_else(|| format!("{field}: {value} is not in 0..=100"))
}

/// A number within bounds, with what stands for a field that is missing.
fn within(
    field: &str,
    value: Option<&UInt32Value>,
    bounds: std::ops::RangeInclusive<u32>,
    default: u32,
) -> Result<u32, String> {
    let Some(UInt32Value { value }) = value else { return Ok(default) };
    if bounds.contains(value) {
        return Ok(*value);
    }
    Err(format!("{field}: {value} is not in {}..={}", bounds.start(), bounds.end()))
}

/// Refuses a field that asks for what nobody here does, where passing over it would change what the
/// resource means.
fn refuse(field: &str, asked: bool) -> Result<(), String> {
    if asked { Err(format!("{field}: not supported")) } else { Ok(()) }
}
