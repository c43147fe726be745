//! Sockets to accept on, and what is done with what arrives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{Access, ResourceName, ServerTls, Share, TlsChain};
use crate::policy::HashOn;

/// A socket to accept on and what to do with what arrives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listener {
    /// Resource name.
    pub name: ResourceName,
    /// Address to bind; port 0 lets the system choose.
    pub address: SocketAddr,
    /// What is spoken.
    pub kind: ListenerKind,
    /// Whether a PROXY header comes first.
    pub accept_proxy: AcceptProxy,
    /// TLS with whoever connects; `None`: none.
    pub tls: Option<ServerTls>,
}

/// Whether connections begin with a PROXY header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AcceptProxy {
    /// They do not; what looks like one is data.
    #[default]
    No,
    /// They may.
    Optional,
    /// They must.
    Required,
}

/// What is asked of HTTP connections from clients (Envoy `HttpConnectionManager`); what is `None`
/// is left to the proxy's own settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpOptions {
    /// A connection without a request is closed after this long.
    pub idle_timeout: Option<Duration>,
    /// A request on which nothing moves for this long is ended.
    pub stream_idle_timeout: Option<Duration>,
    /// A request's head must be there within this.
    pub header_timeout: Option<Duration>,
    /// A connection takes nothing new after this long.
    pub max_age: Option<Duration>,
    /// A connection takes no more requests than this.
    pub max_requests: Option<u32>,
    /// The client's `X-Forwarded-*` and `X-Request-Id` are believed: it is a proxy of ours.
    pub trust_forwarded: bool,
    /// Upgrades that are let through beside WebSocket, in lower case; `connect` for CONNECT.
    pub upgrades: Vec<String>,
    /// Paths are normalized before anything is decided by them (RFC 3986 §6.2.2: dot segments,
    /// escapes of unreserved characters), and go on so; one that cannot be is answered with 400.
    pub normalize_path: bool,
    /// Slashes in a row in a path become one, after normalization.
    pub merge_slashes: bool,
    /// What is done with `%2F` and `%5C` in a path, before normalization.
    pub escaped_slashes: EscapedSlashes,
    /// Whether the port is taken off the host, before routing and for the endpoint.
    pub strip_port: StripPort,
    /// What is done with field names that have an underscore.
    pub underscores: Underscores,
    /// What requests have to pass before they are routed, in order.
    pub access: Vec<Access>,
    /// What is said to endpoints of the client's certificate (`x-forwarded-client-cert`).
    pub client_cert: ClientCertField,
    /// Requests of gRPC-Web become requests of gRPC, and are answered in the form they came in.
    pub grpc_web: bool,
}

impl HttpOptions {
    /// Nothing is asked: the default, as a constant.
    pub const NONE: Self = Self {
        idle_timeout: None,
        stream_idle_timeout: None,
        header_timeout: None,
        max_age: None,
        max_requests: None,
        trust_forwarded: false,
        upgrades: Vec::new(),
        normalize_path: false,
        merge_slashes: false,
        escaped_slashes: EscapedSlashes::Keep,
        strip_port: StripPort::No,
        underscores: Underscores::Allow,
        access: Vec::new(),
        client_cert: ClientCertField::Remove,
        grpc_web: false,
    };
}

/// What is done with slashes that stand escaped in a path (`%2F`, `%5C`, of either case).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum EscapedSlashes {
    /// They stay.
    #[default]
    Keep,
    /// The request is answered with 400.
    Reject,
    /// The client is sent to the path without the escapes, with 307 (gRPC requests are refused).
    Redirect,
    /// The escapes are undone, and the request goes on.
    Unescape,
}

/// Whether the port is taken off a request's host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum StripPort {
    /// It stays.
    #[default]
    No,
    /// If it is that of the listener.
    Matching,
    /// Whatever it is.
    Any,
}

/// What is done with field names that have an underscore, which some endpoints take for a dash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Underscores {
    /// They pass.
    #[default]
    Allow,
    /// The request is answered with 400, or its stream reset.
    Reject,
    /// They are left out.
    Drop,
}

/// What is said to endpoints of the client's certificate (Envoy `forward_client_cert_details`), in
/// `x-forwarded-client-cert`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientCertField {
    /// Nothing, and what the client says of it is removed.
    #[default]
    Remove,
    /// What the client says passes if it has proven itself.
    Keep,
    /// What the client says passes.
    Pass,
    /// The URIs and DNS names of its certificate, and nothing that the client says.
    Set,
    /// The same, behind what the client says if it has proven itself.
    Append,
}

/// What is asked of TCP streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpOptions {
    /// A stream on which nothing moves for this long is reset.
    pub idle_timeout: Option<Duration>,
    /// A stream is closed after this long.
    pub max_age: Option<Duration>,
    /// What a hashed balancer tells streams by; only [`HashOn::SourceIp`] means anything.
    pub hash_on: Option<HashOn>,
    /// What connections have to pass, in order.
    pub access: Vec<Access>,
}

/// What a listener does with a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ListenerKind {
    /// HTTP/1.1 and HTTP/2 with prior knowledge, routed by this route table.
    Http {
        /// Name of the route table.
        routes: ResourceName,
        /// What is asked of the connections.
        options: HttpOptions,
    },
    /// Bytes, for each connection to one of these clusters, as often as their weights say.
    Tcp {
        /// The clusters: never empty, and never all without weight.
        clusters: Vec<Share>,
        /// What is asked of the streams.
        options: TcpOptions,
    },
    /// Bytes within TLS, to a cluster by the name that the client asks for (SNI, RFC 6066 §3). TLS goes
    /// on as it comes unless the listener has TLS of its own; what does not begin with TLS is not served.
    ByName {
        /// Where clients go, by name: the narrowest that fits.
        chains: Vec<SniChain>,
        /// What is asked of the streams.
        options: TcpOptions,
    },
    /// What the first bytes say: HTTP by this route table, or bytes to this cluster.
    Detect {
        /// Name of the route table.
        routes: ResourceName,
        /// Name of the cluster.
        cluster: ResourceName,
        /// What is asked of HTTP connections.
        http: HttpOptions,
        /// What is asked of other streams.
        tcp: TcpOptions,
    },
}

/// Where clients go that ask for some names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SniChain {
    /// Names, exact or `*.suffix`, in lower case; empty: any, and none.
    pub names: Vec<Arc<str>>,
    /// The clusters, for each connection one, as often as their weights say.
    pub clusters: Vec<Share>,
}

impl Listener {
    /// Whether it lets in other clients than another one does, or fewer: then what that one let in is
    /// no thing to fall back to.
    #[must_use]
    pub fn admits_otherwise(&self, other: &Self) -> bool {
        let demands = |tls: &ServerTls| {
            let of = |chain: &TlsChain| (chain.clients.clone(), chain.client_names.clone());
            let all: Vec<_> = tls.chains.iter().map(of).collect();
            // Where they are not the same for all it matters by which name a client comes to which.
            let same = all.windows(2).all(|two| two[0] == two[1]);
            let named = tls.chains.iter().filter(|_| !same);
            (all, named.map(|chain| chain.names.clone()).collect::<Vec<_>>())
        };
        let by_tls = match (&self.tls, &other.tls) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(own), Some(other)) => {
                (!own.permissive && other.permissive) || demands(own) != demands(other)
            }
        };
        by_tls || self.access() != other.access()
    }

    /// What requests, streams, and streams beside them have to pass.
    fn access(&self) -> [&[Access]; 3] {
        let [requests, streams] = self.kind.access();
        let beside = self.tls.as_ref().and_then(|tls| tls.beside.as_ref());
        [requests, streams, beside.map_or(&[], |beside| &beside.options.access)]
    }

    /// Names of the route tables that its requests go by.
    pub fn route_tables(&self) -> impl Iterator<Item = &ResourceName> {
        let of_chains = self.tls.iter().flat_map(|tls| tls.chains.iter());
        self.kind.routes().into_iter().chain(of_chains.filter_map(|chain| chain.routes.as_ref()))
    }

    /// Names of the secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &ResourceName> {
        self.tls.iter().flat_map(ServerTls::secrets)
    }
}

impl ListenerKind {
    /// What requests, and what streams, have to pass.
    fn access(&self) -> [&[Access]; 2] {
        match self {
            Self::Http { options, .. } => [&options.access, &[]],
            Self::Tcp { options, .. } | Self::ByName { options, .. } => [&[], &options.access],
            Self::Detect { http, tcp, .. } => [&http.access, &tcp.access],
        }
    }

    /// Name of the route table, where there is one; requests within TLS may have another
    /// ([`TlsChain::routes`]).
    #[must_use]
    pub fn routes(&self) -> Option<&ResourceName> {
        match self {
            Self::Http { routes, .. } | Self::Detect { routes, .. } => Some(routes),
            Self::Tcp { .. } | Self::ByName { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_asked_is_the_default() {
        assert_eq!(HttpOptions::NONE, HttpOptions::default());
    }
}
