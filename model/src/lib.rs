//! The words every part of Portolan shares: services, endpoints, the snapshot and what changed.
//!
//! Pure values and pure functions. This crate does no I/O, starts no task, reads no clock and
//! knows neither Kubernetes nor xDS nor DNS wire formats; those turn into or out of these values
//! at the edges (`control`, `xds`, `dns`, `proxy`).

pub mod endpoint;
pub mod name;
pub mod publication;
pub mod service;
pub mod snapshot;
pub mod traffic;

pub use endpoint::{Conditions, Endpoint, Slice, SlicePort};
pub use name::{DnsName, InvalidName, ServiceKey};
pub use publication::{Changes, History, Publication};
pub use service::{AppProtocol, Balancer, Protocol, Service, ServiceKind, ServicePort};
pub use snapshot::{Generation, ServiceEntry, Snapshot};
