//! What shapes the resources besides the snapshot: the DNS zone, the proxies' listeners, defaults.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::{AcceptProxy, NameKind};
use portolan_model::{Balancer, DnsName, Scope, ServiceKey};
use portolan_runtime::CertificateFiles;

/// Settings of the resources served.
#[derive(Clone, Debug)]
pub struct ResourceConfig {
    /// The cluster's DNS zone; names of listeners and virtual hosts end in it.
    pub zone: DnsName,
    /// The zone of services that a set of clusters shares.
    pub cluster_set_zone: DnsName,
    /// For services that do not choose themselves.
    pub balancer: Balancer,
    /// For how many seconds a client may use endpoints without hearing of them; 0: for ever.
    pub endpoints_ttl_secs: u32,
    /// Sockets every proxy opens.
    pub listeners: Vec<ListenerSpec>,
    /// Where Gateways listen that ask for no address.
    pub gateway_address: IpAddr,
    /// Whether gRPC clients are asked to report load; Envoy asks itself, by its bootstrap.
    pub load_reports: bool,
    /// The trust domain of SPIFFE ids.
    pub trust_domain: String,
}

impl ResourceConfig {
    /// The zone of the services of a scope.
    #[must_use]
    pub fn zone(&self, scope: Scope) -> &DnsName {
        match scope {
            Scope::Cluster => &self.zone,
            Scope::ClusterSet => &self.cluster_set_zone,
        }
    }
}

/// A socket that proxies open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// Name of the listener.
    pub name: Arc<str>,
    /// Where to listen.
    pub address: SocketAddr,
    /// Where what arrives goes.
    pub target: ListenerTarget,
    /// TLS with whoever connects.
    pub tls: Option<ListenerTls>,
    /// What is asked of connections.
    pub options: ListenerOptions,
}

/// What is asked of the connections of a listener; what is `None` is left to the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListenerOptions {
    /// Whether a PROXY header comes first.
    pub accept_proxy: AcceptProxy,
    /// HTTP: whoever connects is a proxy of ours, whose `X-Forwarded-*` are believed.
    pub trust_forwarded: bool,
    /// A connection on which nothing moves (HTTP: without a request) is closed after this long.
    pub idle_timeout: Option<Duration>,
    /// HTTP: a request on which nothing moves for this long is ended.
    pub stream_idle_timeout: Option<Duration>,
    /// HTTP: a request's head must be there within this.
    pub header_timeout: Option<Duration>,
    /// A connection takes nothing new (TCP: is closed) after this long.
    pub max_age: Option<Duration>,
    /// HTTP: a connection takes no more requests than this.
    pub max_requests: Option<u32>,
    /// HTTP: upgrades that are let through beside WebSocket.
    pub upgrades: Vec<String>,
}

/// TLS of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// Name of the certificate, one of [`CertificateSpec`].
    pub certificate: Arc<str>,
    /// Whether clients need a certificate that ends in the authorities of the same
    /// [`CertificateSpec`].
    pub client_ca: bool,
    /// What clients' certificates must be for: one of these DNS names and URIs; empty: for anything.
    pub client_names: Vec<(NameKind, Arc<str>)>,
}

/// A certificate that listeners may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Chain and key.
    pub files: CertificateFiles,
    /// What its issuer says of it (OCSP), DER.
    pub ocsp: Option<PathBuf>,
    /// Authorities that certificates of clients may end in.
    pub trusted_ca: Option<PathBuf>,
}

/// Where a listener's traffic goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenerTarget {
    /// HTTP, to any service by the request's authority.
    Http,
    /// Bytes, to one port of one service.
    Tcp {
        /// The service.
        service: ServiceKey,
        /// The service's own port number.
        port: u16,
    },
    /// HTTP as above where that is what comes, and bytes to one port of one service where not.
    Detect {
        /// The service.
        service: ServiceKey,
        /// The service's own port number.
        port: u16,
    },
}
