//! The control loop: sources of Kubernetes objects -> conversion -> index -> publish.
//!
//! This crate alone knows Kubernetes' object formats. It owns the one writer of the snapshot and
//! the rule that one bad object rejects itself alone while what was good stays in force.

pub mod addresses;
pub mod convert;
pub mod document;
pub mod folder;
pub mod index;
pub mod manifests;
pub mod object;
pub mod rejection;
pub mod report;

pub use addresses::ServiceRanges;
pub use folder::{Folder, FolderError};
pub use rejection::{Origin, Rejection, Severity};
