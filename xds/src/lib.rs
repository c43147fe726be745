//! xDS v3: the server that pushes the snapshot to proxies, and the client inside our own proxy.
//!
//! This crate (with `proto`) alone knows tonic and prost. The protocol is in pure state machines
//! ([`server::session`], [`client::session`]); the tonic shells around them only move bytes.

pub mod capability;
pub mod catalog;
pub mod client;
pub mod config;
pub mod fuzzing;
pub mod issuer;
pub mod load;
pub mod metrics;
pub mod plain;
pub mod resource;
pub mod secrets;
pub mod server;
pub mod viewer;

/// Key of a client's Kubernetes node in the metadata of its xDS node.
pub const NODE_NAME: &str = "NODE_NAME";
/// Key of the namespace that a client's requests come from in the metadata of its xDS node.
pub const NAMESPACE: &str = "NAMESPACE";
/// Key in a node's metadata of the services in front of whose endpoints it stands: names such as
/// `shop/web` between commas.
pub const SERVES: &str = "portolan.dev/serves";
/// Key in a node's metadata of the service account that it asks to be, such as `shop/web`.
pub const IDENTITY: &str = "portolan.dev/identity";
/// Key in a node's metadata that says that it proves who it is with a certificate of its own, and
/// needs none from here.
pub const OWN_IDENTITY: &str = "portolan.dev/own-identity";
/// Key in a node's metadata of the Gateways that it serves: `*`, or names between commas.
pub const GATEWAYS: &str = "portolan.dev/gateways";

pub use capability::{Agent, Capabilities, ClientKind, Dialect, Feature};
pub use client::{ClientConfig, ClientTls, LoadSource, OwnSource, Token, XdsClient};
pub use config::{
    CertificateSpec, ListenerOptions, ListenerSpec, ListenerTarget, ListenerTls, ResourceConfig,
};
pub use issuer::{Issuer, IssuerConfig};
pub use load::{LoadConfig, LoadReports, LoadRow};
pub use plain::{PlainApi, PlainLimits};
pub use secrets::{SecretSet, Secrets};
pub use server::{ServerConfig, ServerLimits, TlsFiles, XdsServer};
