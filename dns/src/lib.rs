//! Cluster DNS: Kubernetes DNS-Based Service Discovery 1.1.0 from the snapshot, and everything else
//! from upstreams, on UDP, TCP, TLS, HTTPS and QUIC.
//!
//! Two paths. The fast one (`question`, `table`, `cache`, `fast`) answers one plain IN question out
//! of prebuilt or kept bytes without allocating; all else goes to the slow one (`slow`, `resolve`),
//! a bounded queue away. Both take what they say of the cluster from `records`. Refused here, on
//! purpose: recursion of our own, zone transfers, DNSSEC validation and update.

pub mod answer;
pub mod cache;
pub mod config;
pub mod context;
pub mod error;
pub mod explain;
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

mod access;
mod admission;
mod cookie;
mod edns;
mod encrypted;
mod forward;
mod front;
mod hosts;
mod node;
mod querylog;
mod rcode;
mod reason;
mod resolve;
mod rewrite;
mod search;
mod shares;
mod stream;
mod udp;
mod wire;
mod zone;

pub use config::DnsConfig;
pub use context::{Asker, Context, Rules};
pub use error::DnsError;
pub use explain::{Explainer, Explanation};
pub use fast::{Answered, Outcome, Transport, respond};
pub use server::DnsServer;
pub use table::Table;

#[cfg(test)]
mod tests;
