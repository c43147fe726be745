//! Why a proxy ends other than by draining. What fails for one client or one listener is not here.

use std::io;

/// A reason for the whole proxy to end.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The system gave no thread for a worker.
    #[error("cannot start worker {worker}: {source}")]
    Start {
        /// Its number.
        worker: usize,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The access log cannot be written.
    #[error("cannot write the access log to {to}: {source}")]
    AccessLog {
        /// Where it was to go.
        to: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A worker ended although nothing had asked it to.
    #[error("worker {worker} ended unasked")]
    WorkerEnded {
        /// Its number.
        worker: usize,
    },
}
