//! The words every part of Portolan shares: services, endpoints, the snapshot and what changed.
//!
//! Pure values and pure functions. This crate does no I/O, starts no task, reads no clock and
//! knows neither Kubernetes nor xDS nor DNS wire formats; those turn into or out of these values
//! at the edges (`control`, `xds`, `dns`, `proxy`).

pub mod access;
pub mod endpoint;
pub mod entry;
pub mod gateway;
pub mod name;
pub mod node;
pub mod place;
pub mod pod;
pub mod policy;
pub mod publication;
pub mod service;
pub mod snapshot;
pub mod traffic;

pub use access::{AccessEntry, AccessList, IdentityMatch, PathPattern, ServiceAccess};
pub use endpoint::{Conditions, Endpoint, Hints, Slice, SlicePort};
pub use entry::ServiceEntry;
pub use gateway::{
    BackendTls, Gateway, GatewayChain, GatewayKey, GatewayPort, GatewaySni, GatewayTls, PortTls,
    ServiceRoutes,
};
pub use name::{DnsName, InvalidName, Scope, ServiceKey};
pub use node::Node;
pub use place::Place;
pub use pod::Pod;
pub use policy::{Balancer, Policy};
pub use publication::{Changes, Publication};
pub use service::{AppProtocol, Protocol, Service, ServiceKind, ServicePort, Traffic};
pub use snapshot::{Generation, Key, Snapshot};
