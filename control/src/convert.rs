//! Typed Kubernetes object -> model value, or the field that forbids it. Pure.

mod annotations;
mod import;
mod node;
mod pod;
mod port;
pub mod service;
pub mod slice;
mod traffic;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::gateway;
use crate::gateway::draft::GatewayApiDraft;
use crate::object::{Fault, Object};
use portolan_model::{InvalidName, Node, Pod, Protocol};

pub use annotations::PREFIX as ANNOTATION_PREFIX;
pub use import::ServiceImport;
pub use service::{AddressRequest, KindDraft, ServiceDraft};
pub use slice::SliceDraft;

/// A converted object, not yet part of the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Draft {
    /// A namespace: its name and labels.
    Namespace(Arc<str>, BTreeMap<String, String>),
    /// A node.
    Node(Arc<Node>),
    /// A pod; without addresses while it has none, and once it has ended.
    Pod(Arc<Pod>),
    /// A service whose cluster IPs may still have to be found.
    Service(Box<ServiceDraft>),
    /// A slice and the service it names.
    Slice(SliceDraft),
    /// An object of the Gateway API.
    GatewayApi(Arc<GatewayApiDraft>),
}

/// Converts an object; the faults beside a draft are settings that are not in force.
///
/// # Errors
/// The first field for which the object as a whole is refused.
pub fn convert(object: &Object) -> Result<(Draft, Vec<Fault>), Fault> {
    match object {
        Object::Namespace(namespace) => {
            let name = namespace.metadata.name.as_deref().unwrap_or_default();
            check_label("metadata.name", name)?;
            let labels = namespace.metadata.labels.clone().unwrap_or_default();
            Ok((Draft::Namespace(name.into(), labels), Vec::new()))
        }
        Object::Node(node) => {
            node::convert(node).map(|(node, faults)| (Draft::Node(Arc::new(node)), faults))
        }
        Object::Pod(pod) => {
            pod::convert(pod).map(|(pod, faults)| (Draft::Pod(Arc::new(pod)), faults))
        }
        Object::Service(service) => service::convert(service)
            .map(|(draft, faults)| (Draft::Service(Box::new(draft)), faults)),
        Object::ServiceImport(import) => {
            import::convert(import).map(|draft| (Draft::Service(Box::new(draft)), Vec::new()))
        }
        Object::EndpointSlice(slice) => {
            slice::convert(slice).map(|(draft, faults)| (Draft::Slice(draft), faults))
        }
        Object::GatewayClass(class) => of_gateway_api(gateway::convert::class(class)),
        Object::Gateway(gateway) => of_gateway_api(gateway::convert::gateway(gateway)),
        Object::HttpRoute(route) => {
            let faults = gateway::convert::annotation_faults(&route.metadata, false);
            of_gateway_api(gateway::convert::http(route)).map(|(draft, _)| (draft, faults))
        }
        Object::GrpcRoute(route) => {
            let faults = gateway::convert::annotation_faults(&route.metadata, true);
            of_gateway_api(gateway::convert::grpc(route)).map(|(draft, _)| (draft, faults))
        }
        Object::TcpRoute(route) => of_gateway_api(gateway::convert::tcp(route)),
        Object::TlsRoute(route) => of_gateway_api(gateway::convert::tls(route)),
        Object::ReferenceGrant(grant) => of_gateway_api(gateway::convert::grant(grant)),
        Object::BackendTlsPolicy(policy) => of_gateway_api(gateway::convert::policy(policy)),
        Object::AccessPolicy(policy) => of_gateway_api(gateway::convert::access(policy)),
        Object::Secret(secret) => gateway::convert::secret(secret)
            .map(|(draft, faults)| (Draft::GatewayApi(Arc::new(draft)), faults)),
        Object::ConfigMap(map) => of_gateway_api(gateway::convert::authorities(map)),
    }
}

fn of_gateway_api(draft: Result<GatewayApiDraft, Fault>) -> Result<(Draft, Vec<Fault>), Fault> {
    draft.map(|draft| (Draft::GatewayApi(Arc::new(draft)), Vec::new()))
}

/// Checks `namespace/name` of an object.
fn check_names(namespace: &str, name: &str) -> Result<(), Fault> {
    check_label("metadata.namespace", namespace)?;
    check_label("metadata.name", name)
}

pub(crate) fn check_label(field: &str, label: &str) -> Result<(), Fault> {
    portolan_model::name::validate_label(label).map_err(invalid_name(field))
}

/// Checks a name of an object that may hold dots. Kubernetes bounds its length as a whole and not
/// that of its labels: the slice of a service with a long name has a longer one.
pub(crate) fn check_subdomain(field: &str, name: &str) -> Result<(), Fault> {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let ends = label.bytes().next().zip(label.bytes().last());
        ends.is_some_and(|(first, last)| alphanumeric(first) && alphanumeric(last))
            && label.bytes().all(|b| alphanumeric(b) || b == b'-')
    };
    if name.len() <= portolan_model::name::MAX_NAME && name.split('.').all(label) {
        return Ok(());
    }
    let mut shown = format!("{name:?}");
    shown.truncate(shown.floor_char_boundary(300));
    let reason = format!(
        "{shown} is not a name: at most 253 of a-z, 0-9, '-' and '.', with a letter or digit at the \
         start and end and around each '.'"
    );
    Err(Fault::rejected(field, reason))
}

/// Reads a list of IP addresses.
fn addresses(field: &str, texts: Option<&[String]>) -> Result<Vec<IpAddr>, Fault> {
    let texts = texts.unwrap_or_default().iter().enumerate();
    texts
        .map(|(i, text)| {
            text.parse().map_err(|_| {
                let reason = format!("{text:?} is not an IP address");
                Fault::rejected(format!("{field}[{i}]"), reason)
            })
        })
        .collect()
}

/// Reads a port number that must be in 1..=65535.
pub(crate) fn port_number(field: &str, number: i32) -> Result<u16, Fault> {
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
