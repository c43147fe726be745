//! Endpoints: who answers for a service, as EndpointSlices list them.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::service::Protocol;

/// One EndpointSlice, stripped to what is used: endpoints that share the same ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Name of the slice within the service's namespace.
    pub name: Arc<str>,
    /// The cluster its endpoints are in, for a slice of a service that several clusters share
    /// (label `multicluster.kubernetes.io/source-cluster`).
    pub cluster: Option<Arc<str>>,
    /// The ports every endpoint of this slice serves.
    pub ports: Vec<SlicePort>,
    /// The endpoints, sorted by address.
    pub endpoints: Vec<Endpoint>,
}

/// A port that endpoints of a slice listen on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// Name that ties it to the service's port; empty for the unnamed port.
    pub name: Arc<str>,
    /// Transport.
    pub protocol: Protocol,
    /// Port number on the endpoint, 1 to 65535.
    pub port: u16,
}

/// One address that serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its address; an object that lists several addresses makes several of these values.
    pub address: IpAddr,
    /// Whether it may be sent traffic.
    pub conditions: Conditions,
    /// Its own host name under the service's name, a DNS label.
    pub hostname: Option<Arc<str>>,
    /// The node it runs on.
    pub node: Option<Arc<str>>,
    /// Name of the pod behind it, in the service's namespace.
    pub pod: Option<Arc<str>>,
    /// The zone it runs in.
    pub zone: Option<Arc<str>>,
    /// For which clients it is meant; `None`: for all.
    pub hints: Option<Arc<Hints>>,
}

/// Clients an endpoint is meant for (KEP-2433, KEP-4444), as the slice controller worked it out.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hints {
    /// Those in these zones (`hints.forZones`).
    pub zones: Vec<Arc<str>>,
    /// Those on these nodes (`hints.forNodes`).
    pub nodes: Vec<Arc<str>>,
}

/// State of an endpoint (KEP-1672).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conditions {
    /// May be sent new traffic; a missing value in the object means true.
    pub ready: bool,
    /// Answers, whether or not it is terminating; a missing value means the value of `ready`.
    pub serving: bool,
    /// On its way out; a missing value means false.
    pub terminating: bool,
}

impl Endpoint {
    /// A ready endpoint of which nothing but its address is known.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        let conditions = Conditions::READY;
        let (hostname, node, pod, zone, hints) = (None, None, None, None, None);
        Self { address, conditions, hostname, node, pod, zone, hints }
    }
}

impl Conditions {
    /// Ready, serving, not terminating.
    pub const READY: Self = Self { ready: true, serving: true, terminating: false };
}
