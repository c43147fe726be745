//! Small backends to stand behind Portolan in the demo and in tests, the example folder that
//! lists them, and a plain gRPC client. Every answer says which endpoint gave it. Nothing here
//! balances, retries or resolves names: that is what Portolan is for.

mod accept;
pub mod call;
mod connection;
pub mod grpc;
pub mod http;
pub mod shop;
pub mod tcp;

use std::time::Duration;

pub use shop::Shop;

/// Longest delay a client may ask a backend for.
const MAX_DELAY: Duration = Duration::from_secs(10);

/// Who a backend says it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The service it stands behind, such as `web`.
    pub service: String,
    /// Its own name, such as `web-1`.
    pub endpoint: String,
}

impl Identity {
    /// A backend of `service` called `endpoint`.
    #[must_use]
    pub fn new(service: impl Into<String>, endpoint: impl Into<String>) -> Self {
        Self { service: service.into(), endpoint: endpoint.into() }
    }
}
