//! The side of the process in office: listens at the restart socket, hands out copies of its
//! sockets, and goes once its successor serves.
//!
//! One restart at a time; whoever else comes is refused. A successor that dies or gives up before
//! it says that it serves changes nothing.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::channel::Channel;
use super::message::{MAX_BATCH, Message};
use super::{Label, MAX_SOCKETS, MessageError, Purpose, Request, RestartError};
use crate::lifecycle::Lifecycle;

/// Wait after the system failed to hand a connection over.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that is not the role's own: offered with the role's, as a group of its own.
#[derive(Debug)]
pub struct Fixed {
    label: Label,
    socket: OwnedFd,
    left: CancellationToken,
}

impl Fixed {
    /// A copy of the descriptor, to be offered. `left` is cancelled when it lives on elsewhere.
    ///
    /// # Errors
    /// When there is no descriptor left for the copy.
    pub fn copy(
        listener: &TcpListener,
        purpose: Purpose,
        asked: SocketAddr,
        left: CancellationToken,
    ) -> io::Result<Self> {
        // Roles count from 1.
        let group = match purpose {
            Purpose::Xds => u64::MAX - 1,
            Purpose::Admin | Purpose::Listener => u64::MAX,
        };
        let label = Label { purpose, group, name: String::new(), asked, worker: 0 };
        Ok(Self { label, socket: listener.as_fd().try_clone_to_owned()?, left })
    }
}

/// What a process in office offers, where, and to whose end.
#[derive(Debug)]
pub struct Offer {
    /// The restart socket.
    pub path: PathBuf,
    /// The sockets that no role has.
    pub fixed: Vec<Fixed>,
    /// Asks the role for its own.
    pub requests: mpsc::Sender<Request>,
    /// Drained once a successor serves.
    pub lifecycle: Lifecycle,
    /// Cancelled just before that.
    pub succeeded: CancellationToken,
    /// Cancelled once a successor can ask, or none ever will.
    pub offered: CancellationToken,
}

type Session<'a> = Pin<Box<dyn Future<Output = Result<(), RestartError>> + Send + 'a>>;

impl Offer {
    /// Listens at the path from when the process is `in_office` until it drains. Takes the place of
    /// the file that is there: its process is dead or has been succeeded.
    ///
    /// # Errors
    /// When the path cannot be used.
    pub async fn run(self, in_office: CancellationToken) -> Result<(), RestartError> {
        let waits = self.offered.clone().drop_guard();
        tokio::select! {
            () = in_office.cancelled() => {}
            () = self.lifecycle.draining() => return Ok(()),
        }
        let place = Place::bind(&self.path)?;
        drop(waits);
        let mut session: Option<Session<'_>> = None;
        while !self.lifecycle.is_draining() {
            tokio::select! {
                () = self.lifecycle.draining() => {}
                Some(ended) = OptionFuture::from(session.as_mut()) => {
                    session = None;
                    self.on_ended(ended);
                }
                accepted = place.listener.accept() => match accepted {
                    Ok((stream, _)) if session.is_none() => {
                        session = Some(Box::pin(self.session(stream)));
                    }
                    Ok((stream, _)) => refuse(stream, "another restart is under way").await,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept at the restart socket");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        Ok(())
    }

    fn on_ended(&self, ended: Result<(), RestartError>) {
        match ended {
            Ok(()) => {
                tracing::info!("a new process has taken over; draining");
                self.succeeded.cancel();
                self.lifecycle.drain();
            }
            Err(error) => tracing::warn!(%error, "a restart was given up; going on as before"),
        }
    }

    /// Returns when the other one serves.
    async fn session(&self, stream: UnixStream) -> Result<(), RestartError> {
        let channel = Channel::new(stream)?;
        let pid = match channel.receive_soon().await {
            Ok((Message::Hello(pid), _)) => pid,
            Ok((other, _)) => return Err(RestartError::OutOfTurn { what: other.word() }),
            Err(error) => {
                if let RestartError::Message(MessageError::Version { .. }) = &error {
                    // The version of this answer is what tells it.
                    channel.send(&Message::Refused(error.to_string()), &[]).await?;
                }
                return Err(error);
            }
        };
        let groups = match self.hand_over(&channel).await {
            Ok(groups) => groups,
            Err(error) => {
                channel.send(&Message::Refused(error.to_string()), &[]).await?;
                return Err(error);
            }
        };
        tracing::info!(pid, groups = groups.len(), "a new process is about to take over");
        let kept = kept(&channel, &groups).await?;
        channel.send(&Message::Draining, &[]).await?;
        self.leave(kept).await;
        Ok(())
    }

    /// Hands out copies of all sockets; the groups they are of. No copy stays here.
    async fn hand_over(&self, channel: &Channel) -> Result<BTreeSet<u64>, RestartError> {
        let (answer, answered) = oneshot::channel();
        let refused = |reason: String| RestartError::Refused { reason };
        let draining = || refused("it drains".to_owned());
        self.requests.send(Request::Offer(answer)).await.map_err(|_| draining())?;
        let copies = answered.await.map_err(|_| draining())?.map_err(refused)?;
        if copies.len() + self.fixed.len() > MAX_SOCKETS {
            return Err(refused(format!("it has more than {MAX_SOCKETS} sockets")));
        }
        let fixed = self.fixed.iter().map(|fixed| (&fixed.label, fixed.socket.as_fd()));
        let own = copies.iter().map(|(label, socket)| (label, socket.as_fd()));
        let (labels, sockets): (Vec<&Label>, Vec<BorrowedFd<'_>>) = fixed.chain(own).unzip();
        for (labels, sockets) in labels.chunks(MAX_BATCH).zip(sockets.chunks(MAX_BATCH)) {
            let labels = labels.iter().map(|label| (*label).clone()).collect();
            channel.send(&Message::Sockets(labels), sockets).await?;
        }
        let count = u32::try_from(labels.len()).unwrap_or(u32::MAX);
        channel.send(&Message::Complete(count), &[]).await?;
        Ok(labels.iter().map(|label| label.group).collect())
    }

    /// What the drain is to leave alone.
    async fn leave(&self, kept: BTreeSet<u64>) {
        self.fixed.iter().filter(|f| kept.contains(&f.label.group)).for_each(|f| f.left.cancel());
        let (done, left) = oneshot::channel();
        // A role that is gone has closed its sockets.
        if self.requests.send(Request::Leave(kept, done)).await.is_ok() {
            let _gone = left.await;
        }
    }
}

/// Waits until the other says that it serves, for as long as it lives; the groups it goes on with.
async fn kept(channel: &Channel, groups: &BTreeSet<u64>) -> Result<BTreeSet<u64>, RestartError> {
    let mut kept = BTreeSet::new();
    loop {
        match channel.receive().await?.0 {
            // What was never handed out is not remembered: the set has a bound.
            Message::Keep(some) => kept.extend(some.iter().filter(|group| groups.contains(group))),
            Message::Drain => return Ok(kept),
            other => return Err(RestartError::OutOfTurn { what: other.word() }),
        }
    }
}

async fn refuse(stream: UnixStream, reason: &str) {
    let refused = async { Channel::new(stream)?.send(&Message::Refused(reason.into()), &[]).await };
    let told: Result<(), RestartError> = refused.await;
    tracing::warn!(reason, error = told.err().map(tracing::field::display), "refused a restart");
}

/// The socket file, removed at the end if it still is this process's.
#[derive(Debug)]
struct Place {
    listener: UnixListener,
    path: Arc<Path>,
    /// Device and number of the file.
    file: (u64, u64),
}

impl Place {
    /// Bound beside its place and renamed into it, so that there is no moment without a file, nor
    /// one with wider rights.
    fn bind(path: &Path) -> Result<Self, RestartError> {
        super::check_place(path)?;
        let mut draft = path.as_os_str().to_owned();
        draft.push(format!(".{}", std::process::id()));
        let draft = PathBuf::from(draft);
        let bind = || -> io::Result<Self> {
            // Left behind by a process of the same number, in a container mostly.
            if std::fs::symlink_metadata(&draft).is_ok_and(|f| f.file_type().is_socket()) {
                std::fs::remove_file(&draft)?;
            }
            let listener = UnixListener::bind(&draft)?;
            std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o600))?;
            let found = std::fs::symlink_metadata(&draft)?;
            std::fs::rename(&draft, path)?;
            Ok(Self { listener, path: path.into(), file: (found.dev(), found.ino()) })
        };
        bind().map_err(|source| RestartError::Socket { path: path.to_owned(), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let found = std::fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.file) {
            // Left behind it would be taken for that of a dead process, which it is.
            let _left_behind = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
