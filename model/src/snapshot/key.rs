//! What a publish can change, by name.

use std::fmt;
use std::sync::Arc;

use crate::gateway::GatewayKey;
use crate::name::ServiceKey;

/// Something a publish can change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Whether there is a namespace of this name.
    Namespace(Arc<str>),
    /// A node.
    Node(Arc<str>),
    /// A pod, by namespace and name.
    Pod(Arc<str>, Arc<str>),
    /// A service and its slices.
    Service(ServiceKey),
    /// A Gateway.
    Gateway(GatewayKey),
    /// The routes of a service.
    Routes(ServiceKey),
    /// TLS to the endpoints of a service.
    BackendTls(ServiceKey),
    /// Who may do what at the endpoints of a service.
    Access(ServiceKey),
}

impl Key {
    /// The service that it is about, if it is something that belongs to one.
    #[must_use]
    pub fn beside(&self) -> Option<&ServiceKey> {
        match self {
            Self::Routes(key) | Self::BackendTls(key) | Self::Access(key) => Some(key),
            Self::Service(_)
            | Self::Namespace(_)
            | Self::Node(_)
            | Self::Pod(..)
            | Self::Gateway(_) => None,
        }
    }

    /// All that may belong to a service.
    #[must_use]
    pub fn all_beside(service: &ServiceKey) -> [Self; 3] {
        let key = || service.clone();
        [Self::Routes(key()), Self::BackendTls(key()), Self::Access(key())]
    }

    /// The service with its slices, if it is one; what belongs to a service beside these is not.
    #[must_use]
    pub fn service(&self) -> Option<&ServiceKey> {
        match self {
            Self::Service(key) => Some(key),
            Self::Namespace(_)
            | Self::Node(_)
            | Self::Pod(..)
            | Self::Gateway(_)
            | Self::Routes(_)
            | Self::BackendTls(_)
            | Self::Access(_) => None,
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Node(name) => write!(f, "node {name}"),
            Self::Pod(namespace, name) => write!(f, "pod {namespace}/{name}"),
            Self::Service(key) => key.fmt(f),
            Self::Gateway(key) => write!(f, "gateway {key}"),
            Self::Routes(key) => write!(f, "routes of {key}"),
            Self::BackendTls(key) => write!(f, "TLS to {key}"),
            Self::Access(key) => write!(f, "access to {key}"),
        }
    }
}
