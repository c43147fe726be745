//! The proxy under control planes that are not ours: the real binary, told what to do by a scripted
//! one, and asked by clients from outside.

#![expect(
    clippy::disallowed_methods,
    reason = "a test's tasks end with its runtime; their handles are awaited where it matters"
)]

mod support;

#[path = "support/control_plane.rs"]
mod control_plane;

#[path = "support/certificates.rs"]
mod certificates;

#[path = "foreign/backend.rs"]
#[expect(dead_code, reason = "one thing is the rollback's alone")]
mod backend;
#[path = "foreign/kit.rs"]
mod kit;

#[path = "foreign/access.rs"]
mod access;
#[path = "foreign/balancing.rs"]
mod balancing;
#[path = "foreign/basics.rs"]
mod basics;
#[path = "foreign/changes.rs"]
mod changes;
#[path = "foreign/health.rs"]
mod health;
#[path = "foreign/limits.rs"]
mod limits;
#[path = "foreign/order.rs"]
mod order;
#[path = "foreign/outage.rs"]
mod outage;
#[path = "foreign/refusals.rs"]
mod refusals;
#[path = "foreign/routes.rs"]
mod routes;
#[path = "foreign/rubbish.rs"]
mod rubbish;
#[path = "foreign/tls.rs"]
mod tls;
