//! The life of a process: who owns its tasks, how it drains, when it is ready, how snapshots reach
//! the roles, and what its admin port shows. Knows nothing of DNS, xDS or proxying.

pub mod admin;
pub mod bind;
pub mod causes;
pub mod certificate;
pub mod lifecycle;
pub mod pause;
pub mod publish;
pub mod readiness;
pub mod restart;
pub mod tasks;
pub mod telemetry;

pub use certificate::{Certificate, CertificateError, CertificateFiles};
pub use lifecycle::Lifecycle;
pub use publish::{Publisher, Subscriber, Update};
pub use readiness::{Gate, Readiness, Staleness};
pub use tasks::{BoxError, Tasks};
pub use telemetry::Metrics;
