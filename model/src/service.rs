//! A service: what is asked for by name, apart from who answers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::name::{DnsName, ServiceKey};

/// A service as clients see it. Immutable; a change makes a new value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Its identity.
    pub key: ServiceKey,
    /// How clients reach it.
    pub kind: ServiceKind,
    /// Its ports, in the order of the object. Port numbers are unique per protocol.
    pub ports: Vec<ServicePort>,
    /// Whether endpoints that are not ready are to be answered as well
    /// (`spec.publishNotReadyAddresses`).
    pub publish_not_ready: bool,
    /// How the proxy picks among its endpoints; `None` leaves it to the control plane's default.
    pub balancer: Option<Balancer>,
}

/// How clients reach a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ServiceKind {
    /// One or two virtual addresses (one per IP family).
    ClusterIp(Vec<IpAddr>),
    /// `clusterIP: None`: names lead to the endpoints themselves.
    Headless,
    /// `type: ExternalName`: a CNAME to a name elsewhere.
    ExternalName(DnsName),
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServicePort {
    /// Its name; endpoints are matched to it by this name. `None` when it is the only port.
    pub name: Option<Arc<str>>,
    /// Transport.
    pub protocol: Protocol,
    /// The service's own port number, 1 to 65535.
    pub port: u16,
    /// What is spoken on it (`appProtocol`).
    pub app_protocol: Option<AppProtocol>,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP (the default in Kubernetes).
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Application protocol of a port, as far as it changes what Portolan does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AppProtocol {
    /// HTTP/1.1 (`http`, `kubernetes.io/ws`).
    Http1,
    /// HTTP/2 over cleartext with prior knowledge (`kubernetes.io/h2c`, `grpc`).
    Http2,
    /// Bytes (`tcp`).
    Tcp,
    /// Some other word, kept as given and treated as unknown.
    Other(Arc<str>),
}

/// How one endpoint is picked for a request or connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Balancer {
    /// In turn.
    RoundRobin,
    /// The one with fewer requests in flight of two drawn at random (power of two choices).
    LeastRequest,
}

impl Service {
    /// The virtual addresses; empty unless the service is of kind `ClusterIp`.
    #[must_use]
    pub fn cluster_ips(&self) -> &[IpAddr] {
        match &self.kind {
            ServiceKind::ClusterIp(ips) => ips,
            ServiceKind::Headless | ServiceKind::ExternalName(_) => &[],
        }
    }

    /// The port with this number that carries TCP.
    #[must_use]
    pub fn tcp_port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port && p.protocol == Protocol::Tcp)
    }
}

impl ServicePort {
    /// The name endpoints are matched by: an unnamed port matches the unnamed endpoint port.
    #[must_use]
    pub fn endpoint_port_name(&self) -> &str {
        self.name.as_deref().unwrap_or("")
    }
}

impl Protocol {
    /// The label DNS uses for it: `_tcp`, `_udp`, `_sctp` (RFC 2782).
    #[must_use]
    pub fn dns_label(self) -> &'static str {
        match self {
            Self::Tcp => "_tcp",
            Self::Udp => "_udp",
            Self::Sctp => "_sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

impl AppProtocol {
    /// Reads the word of `spec.ports[].appProtocol` (KEP-3726 for the `kubernetes.io/` ones).
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        match word {
            "http" | "kubernetes.io/ws" => Self::Http1,
            "kubernetes.io/h2c" | "grpc" | "h2c" => Self::Http2,
            "tcp" => Self::Tcp,
            other => Self::Other(other.into()),
        }
    }
}

impl Balancer {
    /// Reads the word used in config and annotations.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "round_robin" => Some(Self::RoundRobin),
            "least_request" => Some(Self::LeastRequest),
            _ => None,
        }
    }
}
