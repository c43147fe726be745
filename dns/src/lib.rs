//! Cluster DNS: Kubernetes DNS-Based Service Discovery 1.1.0 from the snapshot, on UDP and TCP.
//!
//! Two paths. The fast one (`question`, `table`, `fast`) answers one plain IN question out of
//! prebuilt bytes without allocating; all else goes to the slow one (`slow`) on hickory-proto, a
//! bounded queue away. Both take what they say from `records`. Refused here, on purpose: recursion,
//! forwarding, caching, zone transfers, DNSSEC and update.

pub mod config;
pub mod error;
pub mod fast;
#[doc(hidden)]
pub mod fuzzing;
pub mod metrics;
pub mod name;
pub mod question;
pub mod records;
pub mod server;
pub mod slow;
pub mod table;

mod edns;
mod node;
mod tcp;
mod udp;
mod wire;
mod zone;

pub use config::DnsConfig;
pub use error::DnsError;
pub use fast::{Outcome, Transport, respond};
pub use server::DnsServer;
pub use table::Table;

#[cfg(test)]
mod tests;
