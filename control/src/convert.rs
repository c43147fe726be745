//! Typed Kubernetes object -> model value, or the field that forbids it. Pure.

pub mod service;
pub mod slice;

use crate::object::{Fault, Object};
use portolan_model::{InvalidName, Protocol};

pub use service::{AddressRequest, KindDraft, ServiceDraft};
pub use slice::SliceDraft;

/// A converted object, not yet part of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Draft {
    /// A service whose cluster IPs may still have to be found.
    Service(ServiceDraft),
    /// A slice and the service it names.
    Slice(SliceDraft),
}

/// Converts an object; the faults beside a draft are settings that are not in force.
///
/// # Errors
/// The first field for which the object as a whole is refused.
pub fn convert(object: &Object) -> Result<(Draft, Vec<Fault>), Fault> {
    match object {
        Object::Service(service) => {
            service::convert(service).map(|(draft, faults)| (Draft::Service(draft), faults))
        }
        Object::EndpointSlice(slice) => {
            slice::convert(slice).map(|(draft, faults)| (Draft::Slice(draft), faults))
        }
    }
}

/// Checks `namespace/name` of an object.
fn check_names(namespace: &str, name: &str) -> Result<(), Fault> {
    portolan_model::name::validate_label(namespace)
        .map_err(|e| Fault::rejected("metadata.namespace", e.to_string()))?;
    portolan_model::name::validate_label(name)
        .map_err(|e| Fault::rejected("metadata.name", e.to_string()))
}

/// Reads a port number that must be in 1..=65535.
fn port_number(field: &str, number: i32) -> Result<u16, Fault> {
    u16::try_from(number)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| Fault::rejected(field, format!("{number} is not in 1..=65535")))
}

/// Reads a transport protocol; a missing one is TCP.
fn protocol(field: &str, word: Option<&str>) -> Result<Protocol, Fault> {
    match word.unwrap_or("TCP") {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        other => Err(Fault::rejected(field, format!("{other:?} is not TCP, UDP or SCTP"))),
    }
}

fn invalid_name(field: &str) -> impl Fn(InvalidName) -> Fault + '_ {
    move |e| Fault::rejected(field, e.to_string())
}
