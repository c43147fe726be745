//! The xDS resources that a snapshot makes: which there are, their names, their encoding.

mod balancing;
pub mod cluster;
pub mod endpoints;
pub mod gateway;
pub mod generation;
pub mod inbound;
pub mod listener;
pub mod peak_ewma;
mod policy;
pub(crate) mod rbac;
pub mod route;
pub mod secret;
pub mod server;
pub mod tls;

use std::fmt;
use std::sync::Arc;

pub(crate) use balancing::PATH;
use bytes::{Bytes, BytesMut};
pub use portolan_model::traffic::cluster_name;
use portolan_model::{DnsName, ServiceKey};
use portolan_proto::envoy::protobuf::{Any, Duration};
use prost::{Message, Name};

/// The types served, in the order they are pushed: make before break (xDS protocol, "Eventual
/// consistency considerations"), and the generation once all else was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LEDS: one endpoint of a locality that is a collection.
    LbEndpoint,
    /// SDS.
    Secret,
    /// LDS.
    Listener,
    /// ECDS: configuration of a filter by itself.
    ExtensionConfig,
    /// SRDS.
    ScopedRoute,
    /// RDS.
    Route,
    /// VHDS.
    VirtualHost,
    /// RTDS.
    Runtime,
    /// Portolan's own: which generation the client holds once it has this.
    Generation,
}

/// A resource as it is sent: encoded once, shared by every stream.
#[derive(Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The encoded `google.protobuf.Any`.
    pub any: Bytes,
    /// Hash of the content: the same content has the same version on every replica.
    pub version: u64,
    /// For how many seconds a client may use it without hearing of it again; 0: for ever.
    pub ttl_secs: u32,
}

impl ResourceType {
    /// All types in push order.
    pub const ALL: [Self; 11] = [
        Self::Cluster,
        Self::Endpoints,
        Self::LbEndpoint,
        Self::Secret,
        Self::Listener,
        Self::ExtensionConfig,
        Self::ScopedRoute,
        Self::Route,
        Self::VirtualHost,
        Self::Runtime,
        Self::Generation,
    ];

    /// The type URL.
    #[must_use]
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::LbEndpoint => "type.googleapis.com/envoy.config.endpoint.v3.LbEndpoint",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::ExtensionConfig => {
                "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
            }
            Self::ScopedRoute => {
                "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration"
            }
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Self::Generation => generation::TYPE_URL,
        }
    }

    /// The type of a URL.
    #[must_use]
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.type_url() == url)
    }

    /// The type of a short name, as [`Self::name`] gives it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Short name for metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoints => "eds",
            Self::LbEndpoint => "leds",
            Self::Secret => "sds",
            Self::Listener => "lds",
            Self::ExtensionConfig => "ecds",
            Self::ScopedRoute => "srds",
            Self::Route => "rds",
            Self::VirtualHost => "vhds",
            Self::Runtime => "rtds",
            Self::Generation => "generation",
        }
    }

    /// Position in [`Self::ALL`], for arrays by type.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Cluster => 0,
            Self::Endpoints => 1,
            Self::LbEndpoint => 2,
            Self::Secret => 3,
            Self::Listener => 4,
            Self::ExtensionConfig => 5,
            Self::ScopedRoute => 6,
            Self::Route => 7,
            Self::VirtualHost => 8,
            Self::Runtime => 9,
            Self::Generation => 10,
        }
    }

    /// In state-of-the-world LDS and CDS a response is the full set: what is absent is deleted.
    #[must_use]
    pub fn is_full_set(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is in it may be a private key.
        let length = self.any.len();
        f.debug_struct("Encoded").field("version", &self.version).field("length", &length).finish()
    }
}

impl Encoded {
    /// Encodes a message; `name` goes into the hash so that sets of resources can be told apart
    /// by the sum of their versions.
    #[must_use]
    pub fn new<M: Message + Name>(name: &str, message: &M) -> Self {
        Self::from_bytes(name, &M::type_url(), &message.encode_to_vec())
    }

    /// The same from an encoded message.
    #[must_use]
    pub fn from_bytes(name: &str, type_url: &str, message: &[u8]) -> Self {
        let any = Any { type_url: type_url.to_owned(), value: message.to_vec() };
        let mut buffer = BytesMut::with_capacity(any.encoded_len());
        any.encode_raw(&mut buffer);
        let seed = xxhash_rust::xxh3::xxh3_64(name.as_bytes());
        let version = xxhash_rust::xxh3::xxh3_64_with_seed(&buffer, seed);
        Self { any: buffer.freeze(), version, ttl_secs: 0 }
    }

    /// The same with a time to live, in seconds.
    #[must_use]
    pub fn with_ttl(self, ttl_secs: u32) -> Self {
        Self { ttl_secs, ..self }
    }

    /// The version as it is told to clients.
    #[must_use]
    pub fn version_text(&self) -> String {
        version_text(self.version)
    }
}

/// A version as it is told to clients: 16 hexadecimal digits.
#[must_use]
pub fn version_text(version: u64) -> String {
    format!("{version:016x}")
}

/// Wraps a message for a typed extension field.
fn pack<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

pub(crate) fn duration(value: std::time::Duration) -> Duration {
    let nanos = i32::try_from(value.subsec_nanos()).unwrap_or(0);
    Duration { seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX), nanos }
}

/// The full name of a service: `web.shop.svc.cluster.local`.
fn host_name(key: &ServiceKey, zone: &DnsName) -> String {
    format!("{}.{}.svc.{zone}", key.name(), key.namespace())
}

/// The name gRPC clients resolve with `xds:///<this>`, port included.
#[must_use]
pub fn target_name(key: &ServiceKey, port: u16, zone: &DnsName) -> Arc<str> {
    format!("{}:{port}", host_name(key, zone)).into()
}
