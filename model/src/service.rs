//! A service: what is asked for by name, apart from who answers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{DnsName, ServiceKey};
use crate::policy::Policy;

/// A service as clients see it. Immutable; a change makes a new value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Who may reach it besides the pods of the cluster, and which endpoints they get.
    pub traffic: Traffic,
    /// What Kubernetes has no field for.
    pub policy: Policy,
}

/// Ways in from outside the cluster, and which endpoints a client is to be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// How far it is exposed (`spec.type`).
    pub exposure: Exposure,
    /// Addresses routed to the nodes by other means (`spec.externalIPs`).
    pub external_ips: Vec<IpAddr>,
    /// Addresses a load balancer was given (`status.loadBalancer.ingress[].ip`), or asked for
    /// (`spec.loadBalancerIP`) while it has none.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Host names of load balancers (`status.loadBalancer.ingress[].hostname`).
    pub load_balancer_hosts: Vec<DnsName>,
    /// For how many seconds a client address stays with its endpoint
    /// (`sessionAffinity: ClientIP`); `None` without affinity.
    pub affinity_secs: Option<u32>,
    /// Which endpoints clients within the cluster get (`spec.internalTrafficPolicy`, KEP-2086).
    pub internal: TrafficPolicy,
    /// Which endpoints clients from outside get (`spec.externalTrafficPolicy`).
    pub external: TrafficPolicy,
    /// Which endpoints are preferred (`spec.trafficDistribution`, KEP-4444, KEP-3015).
    pub distribution: Option<Distribution>,
    /// Port at which nodes say whether they have an endpoint (`spec.healthCheckNodePort`).
    pub health_check_node_port: Option<u16>,
    /// Another proxy serves it (label `service.kubernetes.io/service-proxy-name`): it keeps its
    /// names and gets no cluster of ours.
    pub proxy_name: Option<Arc<str>>,
}

/// How far a service is exposed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exposure {
    /// Within the cluster alone.
    #[default]
    ClusterIP,
    /// At a port of every node as well.
    NodePort,
    /// At a load balancer as well.
    LoadBalancer,
}

/// Which endpoints may be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All of them.
    #[default]
    Cluster,
    /// Those on the client's own node alone.
    Local,
}

/// Which endpoints are preferred, all others being the fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distribution {
    /// Those in the client's zone (`PreferClose`, and its newer name `PreferSameZone`).
    PreferSameZone,
    /// Those on the client's node, then those in its zone (`PreferSameNode`).
    PreferSameNode,
}

/// How clients reach a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; endpoints are matched to it by this name. `None` when it is the only port.
    pub name: Option<Arc<str>>,
    /// Transport.
    pub protocol: Protocol,
    /// The service's own port number, 1 to 65535.
    pub port: u16,
    /// What is spoken on it (`appProtocol`).
    pub app_protocol: Option<AppProtocol>,
    /// The port of every node that leads here, for `NodePort` and `LoadBalancer`.
    pub node_port: Option<u16>,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

impl Service {
    /// A service with nothing but its ports: no policy, reached from within the cluster.
    #[must_use]
    pub fn new(key: ServiceKey, kind: ServiceKind, ports: Vec<ServicePort>) -> Self {
        let (traffic, policy) = (Traffic::default(), Policy::default());
        Self { key, kind, ports, publish_not_ready: false, traffic, policy }
    }

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
    /// A port that says no more than its number; an empty name is none.
    #[must_use]
    pub fn new(name: &str, protocol: Protocol, port: u16) -> Self {
        let name = (!name.is_empty()).then(|| name.into());
        Self { name, protocol, port, app_protocol: None, node_port: None }
    }

    /// The same with what is spoken on it.
    #[must_use]
    pub fn speaking(mut self, protocol: AppProtocol) -> Self {
        self.app_protocol = Some(protocol);
        self
    }

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
