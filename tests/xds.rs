//! The xDS server through the front door: the real binary on manifests or a scripted API server,
//! asked by clients that speak xDS by hand.

mod support;

#[path = "xds/kit.rs"]
mod kit;

#[path = "xds/csds.rs"]
mod csds;
#[path = "xds/identities.rs"]
mod identities;
#[path = "xds/progress.rs"]
mod progress;
#[path = "xds/raw.rs"]
mod raw;
#[path = "xds/services.rs"]
mod services;
#[path = "xds/storm.rs"]
mod storm;
#[path = "xds/tls.rs"]
mod tls;
#[path = "xds/tokens.rs"]
mod tokens;
