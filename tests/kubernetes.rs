//! The control loop on a Kubernetes API: a scripted server with every fault at every step, random
//! histories, and the same meaning as manifests have.

mod support;

#[path = "kubernetes/world.rs"]
mod world;

#[path = "kubernetes/events.rs"]
mod events;
#[path = "kubernetes/faults.rs"]
mod faults;
#[path = "kubernetes/front_door.rs"]
mod front_door;
#[path = "kubernetes/gateway_api.rs"]
mod gateway_api;
#[path = "kubernetes/meaning.rs"]
mod meaning;
#[path = "kubernetes/removal.rs"]
mod removal;
#[path = "kubernetes/simulation.rs"]
mod simulation;
#[path = "kubernetes/startup.rs"]
mod startup;
