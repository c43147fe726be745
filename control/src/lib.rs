//! The control loop: sources of Kubernetes objects -> conversion -> index -> publish.
//!
//! This crate alone knows Kubernetes' object formats. It owns the one writer of the snapshot and
//! the rule that one bad object rejects itself alone while what was good stays in force.

pub mod addresses;
pub mod coalesce;
pub mod convert;
pub mod document;
#[cfg(test)]
mod fixture;
pub mod folder;
pub mod gateway;
pub mod holds;
pub mod index;
mod intern;
pub mod kubernetes;
pub mod loads;
pub mod manifests;
pub mod object;
pub mod order;
mod outlet;
pub mod rejection;
pub mod removal;
pub mod report;
pub mod saved;
pub mod view;

pub use addresses::ServiceRanges;
pub use coalesce::Pace;
pub use folder::{Folder, FolderError};
pub use holds::{Holds, HoldsEnd};
pub use kubernetes::{Connect, Kubernetes};
pub use rejection::{Origin, Rejection, Severity};
pub use removal::GuardLimits;
pub use saved::SavedFile;
