//! The access log: one record for each HTTP request and each TCP stream.
//!
//! A worker writes its records into a buffer of its own (`log`), another thread writes what is
//! there to where it goes (`writer`). Owns which records there are, how they look and the bound on
//! those that wait; past it records are dropped and counted. Never makes a request wait.

mod log;
mod record;
mod stamp;
mod writer;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

pub(crate) use log::{Log, LogMetrics, Pen};
pub(crate) use record::Record;
pub(crate) use stamp::Stamp;
pub(crate) use writer::Writing;

/// What is written for each request and stream, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where it goes.
    pub to: AccessTo,
    /// How a record looks.
    pub format: AccessFormat,
    /// How many of a million successes are written. Failures (5xx, gRPC statuses that stand for
    /// one, resets, what the proxy answered itself) always are.
    pub sample_per_million: u32,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessTo {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to; opened anew on SIGHUP and when it was renamed or removed.
    File(PathBuf),
}

/// How a record looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessFormat {
    /// A line of words and quoted texts.
    Text,
    /// A line that is a JSON object.
    Json,
}

impl fmt::Display for AccessTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}
