//! Hot restart: a process that starts takes over the listening sockets of the one that runs.
//!
//! The two share the sockets themselves, so that what waits in their backlogs is lost by neither.
//! Owns the Unix socket they meet at, what they say there (`message`), and that the old one goes
//! on as if nothing had been until the new one has said that it serves. Refuses to know what the
//! sockets are for: whoever has them offers them, whoever takes them asks by purpose and address.

mod channel;
mod message;
mod offer;
mod predecessor;

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use message::{Label, MessageError, Purpose};
pub use offer::{Fixed, Offer};
pub use predecessor::Predecessor;

/// Sockets that one process hands to another at most.
const MAX_SOCKETS: usize = 65_536;

/// Why a restart did not come about, or not in full.
#[derive(Debug, thiserror::Error)]
pub enum RestartError {
    /// The socket file cannot be used.
    #[error("restart socket {}: {source}", path.display())]
    Socket {
        /// Where it is, or should be.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is a file of another kind in its place.
    #[error("restart socket {}: there is a file that is not a socket", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The other process belongs to somebody else.
    #[error("the process at the restart socket runs as user {uid}")]
    Stranger {
        /// Whose it is.
        uid: u32,
    },
    /// The running process does not hand over now.
    #[error("the running process refuses a restart: {reason}")]
    Refused {
        /// In its words.
        reason: String,
    },
    /// What the other one says is not understood.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The other one says something else than what is next.
    #[error("the other process said {what} out of turn")]
    OutOfTurn {
        /// The kind of message.
        what: &'static str,
    },
    /// What was handed over is not what was said of it.
    #[error("handed-over socket for {label}: {reason}")]
    NotAsSaid {
        /// What it was said to be.
        label: Label,
        /// What is wrong.
        reason: String,
    },
    /// Sockets got lost on the way, or came unasked.
    #[error("{told} sockets were announced, {came} came")]
    Count {
        /// By the message.
        told: usize,
        /// With it.
        came: usize,
    },
    /// The other process is gone.
    #[error("the other process closed the connection")]
    Gone,
    /// It did not answer in time.
    #[error("the other process did not answer in time")]
    Silent,
    /// The connection failed.
    #[error("restart connection: {0}")]
    Io(#[from] io::Error),
}

/// A socket with what it is for.
#[derive(Debug)]
pub struct Socket {
    /// As the process said that had it before.
    pub label: Label,
    /// Listening, non-blocking.
    pub listener: TcpListener,
}

/// What a process in office asks of the role that has the sockets.
#[derive(Debug)]
pub enum Request {
    /// Copies of all descriptors, or why there are none.
    Offer(oneshot::Sender<Result<Vec<(Label, OwnedFd)>, String>>),
    /// The sockets of these groups live on elsewhere: the drain that follows leaves alone what
    /// waits in their backlogs.
    Leave(BTreeSet<u64>, oneshot::Sender<()>),
}

/// A role's part in restarts.
#[derive(Debug)]
pub struct Part {
    /// Whom it takes sockets from, if there is a process to succeed.
    pub predecessor: Option<Predecessor>,
    /// What is asked of it once it is in office.
    pub requests: mpsc::Receiver<Request>,
    /// Cancelled by the role when it has succeeded, or when there was nobody to.
    pub in_office: CancellationToken,
}

/// What is in the socket file's place must not be something else: it is about to be replaced.
fn check_place(path: &Path) -> Result<(), RestartError> {
    // A file that is not there, or not to be seen, is for whoever connects or binds to report.
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            Err(RestartError::NotASocket { path: path.to_owned() })
        }
        _ => Ok(()),
    }
}
