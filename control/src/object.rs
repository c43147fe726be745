//! A plain value -> a typed Kubernetes object, or a named rejection.
//!
//! Hand-written objects are read as strictly as
//! `kubectl apply --validate=strict` does: an unknown key is refused. An object that carries a
//! `resourceVersion` has been through an API server that may be newer than this program: there an
//! unknown key is only reported.

mod kind;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::convert::ServiceImport;
use crate::gateway::api;
use crate::rejection::Severity;

pub use kind::{Kind, ObjectId};

/// The type of the Secrets that are used.
pub const TLS_SECRET: &str = "kubernetes.io/tls";

/// A typed object.
#[derive(Clone, Debug)]
pub enum Object {
    /// A namespace.
    Namespace(Box<Namespace>),
    /// A node.
    Node(Box<Node>),
    /// A pod.
    Pod(Box<Pod>),
    /// An import of a service that a set of clusters shares.
    ServiceImport(Box<ServiceImport>),
    /// A service.
    Service(Box<Service>),
    /// An endpoint slice.
    EndpointSlice(Box<EndpointSlice>),
    /// Who runs the Gateways of a class.
    GatewayClass(Box<api::GatewayClass>),
    /// Ports to listen on.
    Gateway(Box<api::Gateway>),
    /// Where requests of HTTP go.
    HttpRoute(Box<api::HttpRoute>),
    /// Where calls of gRPC go.
    GrpcRoute(Box<api::GrpcRoute>),
    /// Where connections go.
    TcpRoute(Box<api::TcpRoute>),
    /// Where connections within TLS go.
    TlsRoute(Box<api::TlsRoute>),
    /// Who may refer to objects of a namespace.
    ReferenceGrant(Box<api::ReferenceGrant>),
    /// TLS to the endpoints of a service.
    BackendTlsPolicy(Box<api::BackendTlsPolicy>),
    /// Who may do what at the endpoints of a service.
    AccessPolicy(Box<api::AccessPolicy>),
    /// A certificate and its key.
    Secret(Box<api::Secret>),
    /// Certificate authorities.
    ConfigMap(Box<api::ConfigMap>),
}

impl Object {
    /// Whether it is an endpoint slice that no service can use: it names none, or lists host names;
    /// or a ConfigMap without authorities. An API server has them for others; such a slice in a
    /// manifest is a mistake.
    #[must_use]
    pub fn is_nobodys(&self) -> bool {
        match self {
            Self::EndpointSlice(slice) => !crate::convert::slice::is_of_a_service(slice),
            Self::ConfigMap(map) => !map.data.contains_key("ca.crt"),
            _ => false,
        }
    }
}

/// What a value turned out to be.
#[derive(Debug)]
pub enum Decoded {
    /// An object of a kind that is used, and the fields of it that are not in force.
    Object(ObjectId, Object, Vec<Fault>),
    /// An object of a kind that is not used (`apiVersion/kind`).
    Unused(String),
    /// Refused. `None` when it does not say which object it is.
    Refused(Option<ObjectId>, Fault),
}

/// A refusal before its place is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field.
    pub field: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// What it costs.
    pub severity: Severity,
}

impl Fault {
    /// The object is refused because of this field.
    pub fn rejected(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: Some(field.into()), reason: reason.into(), severity: Severity::Rejected }
    }

    /// The object is in force, this field is not.
    pub fn warning(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: Some(field.into()), reason: reason.into(), severity: Severity::Warning }
    }
}

/// Reads one value.
#[must_use]
pub fn decode(value: &Value) -> Decoded {
    let Value::Object(_) = value else {
        return Decoded::Refused(
            None,
            whole("a document must be an object with kind and metadata"),
        );
    };
    let word = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
    let (version, kind_word) = (word("apiVersion"), word("kind"));
    if kind_word.is_empty() {
        return Decoded::Refused(None, Fault::rejected("kind", "missing"));
    }
    if version.is_empty() {
        return Decoded::Refused(None, Fault::rejected("apiVersion", "missing"));
    }
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    let used =
        Kind::ALL.into_iter().find(|k| k.as_str() == kind_word && k.group_version().0 == group);
    let used = used.filter(|kind| match kind {
        // Of the many types of Secrets one is of use, and of ConfigMaps those with authorities.
        Kind::Secret => word("type") == TLS_SECRET,
        Kind::ConfigMap => value.pointer("/data/ca.crt").is_some(),
        _ => true,
    });
    let Some(kind) = used else {
        let slash = if group.is_empty() { "" } else { "/" };
        return Decoded::Unused(format!("{group}{slash}{version}/{kind_word}"));
    };
    let id = match identity(kind, value) {
        Ok(id) => id,
        Err(fault) => return Decoded::Refused(None, fault),
    };
    let expected = kind.group_version().1;
    if version != expected && !kind.other_versions().contains(&version) {
        let reason = format!("version {version:?} of {kind_word} is not read, {expected:?} is");
        return Decoded::Refused(Some(id), Fault::rejected("apiVersion", reason));
    }
    let reason = "unknown field";
    let served = value.pointer("/metadata/resourceVersion").is_some();
    match typed(kind, value) {
        Ok((object, unknown)) => match unknown.first() {
            Some(field) if !served => {
                Decoded::Refused(Some(id), Fault::rejected(field.clone(), reason))
            }
            _ => {
                let warnings = unknown.into_iter().map(|f| Fault::warning(f, reason)).collect();
                Decoded::Object(id, object, warnings)
            }
        },
        Err(fault) => Decoded::Refused(Some(id), fault),
    }
}

/// Reads an object of a known kind that an API server has accepted: it may be newer than this
/// program, so unknown keys mean nothing.
///
/// # Errors
/// The field that cannot be read.
pub fn decode_served(kind: Kind, value: &Value) -> Result<Object, Fault> {
    typed(kind, value).map(|(object, _unknown)| object)
}

/// An object of a kind, and the keys of it that are not known.
fn typed(kind: Kind, value: &Value) -> Result<(Object, Vec<String>), Fault> {
    Ok(match kind {
        Kind::Namespace => read(value).map(|(o, u)| (Object::Namespace(Box::new(o)), u))?,
        Kind::Node => read(value).map(|(o, u)| (Object::Node(Box::new(o)), u))?,
        Kind::Pod => read(value).map(|(o, u)| (Object::Pod(Box::new(o)), u))?,
        Kind::Service => read(value).map(|(o, u)| (Object::Service(Box::new(o)), u))?,
        Kind::ServiceImport => read(value).map(|(o, u)| (Object::ServiceImport(Box::new(o)), u))?,
        Kind::EndpointSlice => read(value).map(|(o, u)| (Object::EndpointSlice(Box::new(o)), u))?,
        Kind::GatewayClass => read(value).map(|(o, u)| (Object::GatewayClass(Box::new(o)), u))?,
        Kind::Gateway => read(value).map(|(o, u)| (Object::Gateway(Box::new(o)), u))?,
        Kind::HttpRoute => read(value).map(|(o, u)| (Object::HttpRoute(Box::new(o)), u))?,
        Kind::GrpcRoute => read(value).map(|(o, u)| (Object::GrpcRoute(Box::new(o)), u))?,
        Kind::TcpRoute => read(value).map(|(o, u)| (Object::TcpRoute(Box::new(o)), u))?,
        Kind::TlsRoute => read(value).map(|(o, u)| (Object::TlsRoute(Box::new(o)), u))?,
        Kind::ReferenceGrant => {
            read(value).map(|(o, u)| (Object::ReferenceGrant(Box::new(o)), u))?
        }
        Kind::BackendTlsPolicy => {
            read(value).map(|(o, u)| (Object::BackendTlsPolicy(Box::new(o)), u))?
        }
        Kind::AccessPolicy => read(value).map(|(o, u)| (Object::AccessPolicy(Box::new(o)), u))?,
        Kind::Secret => read(value).map(|(o, u)| (Object::Secret(Box::new(o)), u))?,
        Kind::ConfigMap => read(value).map(|(o, u)| (Object::ConfigMap(Box::new(o)), u))?,
    })
}

fn whole(reason: &str) -> Fault {
    Fault { field: None, reason: reason.to_owned(), severity: Severity::Rejected }
}

fn identity(kind: Kind, value: &Value) -> Result<ObjectId, Fault> {
    let read = |key: &str| -> Result<Option<String>, Fault> {
        match value.get("metadata").and_then(|m| m.get(key)) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if !text.is_empty() => Ok(Some(text.clone())),
            Some(other) => Err(Fault::rejected(
                format!("metadata.{key}"),
                format!("expected a non-empty string, found {other}"),
            )),
        }
    };
    let name = read("name")?.ok_or_else(|| Fault::rejected("metadata.name", "missing"))?;
    let namespace = if kind.is_namespaced() {
        read("namespace")?.unwrap_or_else(|| "default".to_owned())
    } else {
        String::new()
    };
    Ok(ObjectId { kind, namespace, name })
}

fn read<T: DeserializeOwned>(value: &Value) -> Result<(T, Vec<String>), Fault> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let object = serde_ignored::deserialize(tracked, |path| unknown.push(dotted(&path)))
        .map_err(|e: serde_json::Error| Fault::rejected(track.path().to_string(), e.to_string()))?;
    Ok((object, unknown))
}

/// `spec.ports[0].port` from serde_ignored's `spec.ports.0.port` (which also marks options).
fn dotted(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", dotted(parent)),
        Path::Map { parent, key } => match dotted(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => dotted(parent),
    }
}
