//! Conformance of the dns role through the front door: the real binary on a folder of manifests,
//! asked by a client that is not ours. Every case is asked over UDP, TCP and TLS, with and without
//! EDNS, and the answers have to be the same; each names the section it is from.
//!
//! DNS-SD stands for Kubernetes DNS-Based Service Discovery 1.1.0.

mod support;

#[path = "dns_conformance/client.rs"]
mod client;
#[path = "dns_conformance/server.rs"]
mod server;

#[path = "dns_conformance/commands.rs"]
mod commands;
#[path = "dns_conformance/encrypted.rs"]
mod encrypted;
#[path = "dns_conformance/endpoints.rs"]
mod endpoints;
#[path = "dns_conformance/large.rs"]
mod large;
#[path = "dns_conformance/names.rs"]
mod names;
#[path = "dns_conformance/negative.rs"]
mod negative;
#[path = "dns_conformance/pods.rs"]
mod pods;
#[path = "dns_conformance/protocol.rs"]
mod protocol;
#[path = "dns_conformance/services.rs"]
mod services;
