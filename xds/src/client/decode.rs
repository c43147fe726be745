//! Envoy messages -> values of the traffic model, checked. What is not supported is refused with
//! the field and the reason, never half-applied.

pub mod cluster;
pub mod endpoints;
pub mod generation;
pub mod listener;
pub mod route;

use std::collections::{BTreeMap, BTreeSet};

use portolan_model::traffic::ResourceName;
use portolan_proto::envoy::protobuf::{Any, Duration};
use prost::{Message, Name};

/// Resources of one response.
#[derive(Debug)]
pub struct Decoded<T> {
    /// Those that are good.
    pub good: Vec<T>,
    /// Names of the good ones.
    pub named: BTreeSet<ResourceName>,
    /// Those that are not, by name.
    pub refused: BTreeMap<ResourceName, Refused>,
    /// Why, a line each.
    pub errors: Vec<String>,
}

/// What is known of a refused resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Which one it is.
    Named,
    /// Not even that.
    Nameless,
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
        refused: BTreeMap::new(),
        errors: Vec::new(),
    };
    for resource in resources {
        match decode(resource) {
            Ok((name, _)) if decoded.named.contains(&name) => {
                decoded.errors.push(format!("{name}: stands twice in the response"));
            }
            Ok((name, value)) => {
                decoded.named.insert(name);
                decoded.good.push(value);
            }
            Err(error) => {
                let known = if error.name.is_empty() { Refused::Nameless } else { Refused::Named };
                decoded.errors.push(error.to_string());
                decoded.refused.insert(error.name.into(), known);
            }
        }
    }
    decoded
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

/// A duration that is not negative.
fn duration(field: &str, value: &Duration) -> Result<std::time::Duration, String> {
    let seconds = u64::try_from(value.seconds);
    let nanos = u32::try_from(value.nanos).ok().filter(|n| *n < 1_000_000_000);
    match (seconds, nanos) {
        (Ok(seconds), Some(nanos)) => Ok(std::time::Duration::new(seconds, nanos)),
        _ => Err(format!("{field}: {}.{:09}s is not a duration", value.seconds, value.nanos)),
    }
}
