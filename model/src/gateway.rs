//! Gateways and the routes of services (Gateway API), resolved: what listens where, and where each
//! request goes. The values are those a proxy acts on; names of clusters are those of
//! [`crate::traffic::cluster_name`].

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::ServiceKey;
use crate::traffic::{NameKind, Route, Secret, Share, VirtualHost};

/// A Gateway's identity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GatewayKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A Gateway: the ports it listens on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Its identity.
    pub key: GatewayKey,
    /// The addresses it asks for (`spec.addresses`); empty: whatever the proxy has.
    pub addresses: Vec<IpAddr>,
    /// Its ports, in ascending order.
    pub ports: BTreeMap<u16, GatewayPort>,
    /// The certificates of its ports by `namespace/name` of their Secrets, and the authorities of their
    /// clients. They are neither shown nor saved.
    #[serde(skip)]
    pub certificates: BTreeMap<Arc<str>, Arc<Secret>>,
}

/// A cluster that there never is: what is sent there is refused.
pub const NOWHERE: &str = "nowhere";

/// What is done with what arrives on a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GatewayPort {
    /// HTTP/1.1 and HTTP/2 in the clear.
    Http(Vec<Arc<VirtualHost>>),
    /// Bytes, to one of these clusters for each connection. Never empty.
    Tcp(Vec<Share>),
    /// Within TLS, told apart by the name that the client asks for.
    Tls(GatewayTls),
}

/// What is done with what arrives on a port within TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayTls {
    /// HTTP/1.1 and HTTP/2; empty: there is none.
    pub chains: Vec<GatewayChain>,
    /// Where bytes go.
    pub names: Vec<GatewaySni>,
}

/// Where a client goes that asks for a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewaySni {
    /// The name, exact or `*.suffix`; `None`: any, and none.
    pub name: Option<Arc<str>>,
    /// To one of these clusters; to none, if there are none.
    pub clusters: Vec<Share>,
    /// Names of its certificates in [`Gateway::certificates`]; empty: TLS is not ended here.
    pub certificates: Vec<Arc<str>>,
    /// Name of the authorities that a client's certificate must end in; `None`: it needs none.
    pub clients: Option<Arc<str>>,
}

/// What a client that asks for a name is answered with, and where its requests go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayChain {
    /// The name, exact or `*.suffix`; `None`: any, and none.
    pub name: Option<Arc<str>>,
    /// Its hosts, and those that other listeners of the port are for.
    pub hosts: Vec<Arc<VirtualHost>>,
    /// Names of its certificates in [`Gateway::certificates`]. Never empty.
    pub certificates: Vec<Arc<str>>,
    /// Name of the authorities that a client's certificate must end in; `None`: it needs none.
    pub clients: Option<Arc<str>>,
}

/// The routes that stand in the place of "all to its endpoints" for requests to a service (Gateway
/// API for service mesh, GEP-1426). There are some of its own namespace or of others, or of both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRoutes {
    /// The service that requests are for.
    pub service: ServiceKey,
    /// Routes of the service's own namespace by port, in the order they are tried ("producer routes").
    pub ports: BTreeMap<u16, Vec<Route>>,
    /// The same of other namespaces, for clients there and nobody else ("consumer routes"). Never empty
    /// for a namespace.
    pub consumers: BTreeMap<Arc<str>, BTreeMap<u16, Vec<Route>>>,
}

/// TLS to the endpoints of a service (Gateway API `BackendTLSPolicy`, GEP-1897), for all who go
/// there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendTls {
    /// The service.
    pub service: ServiceKey,
    /// By port what comes first; `None` where it cannot be had, so that nothing may go there.
    pub ports: BTreeMap<u16, Option<PortTls>>,
}

/// TLS to the endpoints of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortTls {
    /// The name that endpoints are asked for.
    pub server_name: Arc<str>,
    /// What an endpoint's certificate is for: one of these. Never empty.
    pub names: Vec<(NameKind, Arc<str>)>,
    /// Authorities, PEM; `None`: those of the system that whoever goes there runs on.
    pub authorities: Option<Arc<str>>,
}

impl ServiceRoutes {
    /// None yet.
    #[must_use]
    pub fn of(service: ServiceKey) -> Self {
        Self { service, ports: BTreeMap::new(), consumers: BTreeMap::new() }
    }

    /// The routes of a port for clients in a namespace: those of its own where it has some, which are not
    /// merged with the service's; `None` where all goes to the endpoints.
    #[must_use]
    pub fn at(&self, client: Option<&str>, port: u16) -> Option<&[Route]> {
        let own = client.and_then(|client| self.consumers.get(client)?.get(&port));
        own.or_else(|| self.ports.get(&port)).map(Vec::as_slice)
    }
}

impl GatewayPort {
    /// Whether TLS ends there.
    #[must_use]
    pub fn ends_tls(&self) -> bool {
        match self {
            Self::Tls(tls) => {
                !tls.chains.is_empty() || tls.names.iter().any(|own| !own.certificates.is_empty())
            }
            Self::Http(_) | Self::Tcp(_) => false,
        }
    }
}

impl GatewayKey {
    /// Of these names, which are not looked at.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Reads `namespace/name`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        let valid = |part: &str| !part.is_empty() && !part.contains(['/', ':', '#', ' ']);
        (valid(namespace) && valid(name)).then(|| Self::new(namespace, name))
    }
}

impl fmt::Display for GatewayKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
