//! The side of the new process: asks the running one for its sockets, and tells it when to go.

use std::collections::BTreeSet;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;

use socket2::SockRef;
use tokio::net::UnixStream;

use super::channel::Channel;
use super::message::{self, MAX_KEEP, Message};
use super::{Label, MAX_SOCKETS, Purpose, RestartError, Socket};

/// The process that runs, and the sockets that it shares with this one. Nothing is accepted from
/// them, and dropping this changes nothing for it.
#[derive(Debug)]
pub struct Predecessor {
    channel: Channel,
    sockets: Vec<Socket>,
    kept: BTreeSet<u64>,
}

impl Predecessor {
    /// The process at this path, if there is one: a socket file that nobody listens at is that of
    /// a process that died.
    ///
    /// # Errors
    /// When there is one but it does not hand over.
    pub async fn connect(path: &Path) -> Result<Option<Self>, RestartError> {
        super::check_place(path)?;
        let stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) if nobody(&error) => return Ok(None),
            Err(source) => return Err(RestartError::Socket { path: path.to_owned(), source }),
        };
        let channel = Channel::new(stream)?;
        // One that refuses need not have read this.
        let sent = channel.send(&Message::Hello(std::process::id()), &[]).await;
        let mut sockets = Vec::new();
        loop {
            match channel.receive_soon().await {
                Ok((Message::Sockets(labels), came)) => {
                    for (label, socket) in labels.into_iter().zip(came) {
                        sockets.push(checked(label, socket)?);
                    }
                }
                Ok((Message::Complete(count), _)) => {
                    let came = sockets.len();
                    let told = usize::try_from(count).unwrap_or(usize::MAX);
                    if told != came {
                        return Err(RestartError::Count { told, came });
                    }
                    return Ok(Some(Self { channel, sockets, kept: BTreeSet::new() }));
                }
                Ok((Message::Refused(reason), _)) => return Err(RestartError::Refused { reason }),
                Ok((other, _)) => return Err(RestartError::OutOfTurn { what: other.word() }),
                Err(error) => return Err(sent.err().unwrap_or(error)),
            }
            if sockets.len() > MAX_SOCKETS {
                return Err(RestartError::Count { told: MAX_SOCKETS, came: sockets.len() });
            }
        }
    }

    /// The one socket for this purpose, if it was bound for the same address.
    pub fn take(&mut self, purpose: Purpose, asked: SocketAddr) -> Option<TcpListener> {
        let wanted = |s: &Socket| s.label.purpose == purpose && s.label.asked == asked;
        let at = self.sockets.iter().position(wanted)?;
        let socket = self.sockets.swap_remove(at);
        self.kept.insert(socket.label.group);
        Some(socket.listener)
    }

    /// All sockets of the proxy's listeners, group by group.
    pub fn take_listeners(&mut self) -> Vec<Socket> {
        let mut listeners: Vec<Socket> =
            self.sockets.extract_if(.., |s| s.label.purpose == Purpose::Listener).collect();
        listeners.sort_by_key(|socket| (socket.label.group, socket.label.worker));
        listeners
    }

    /// Whether this name is the one a label carries.
    #[must_use]
    pub fn is_named(label: &Label, name: &str) -> bool {
        label.name == message::told(name)
    }

    /// Tells the other to go; this process goes on with what it took and with these groups. What
    /// was not taken must be closed before, so that the other can close it as its last owner,
    /// with nobody left waiting in it.
    ///
    /// # Errors
    /// When the other did not say that it goes: it is gone already, or hangs.
    pub async fn succeed(self, groups: impl IntoIterator<Item = u64>) -> Result<(), RestartError> {
        let Self { channel, sockets, mut kept } = self;
        drop(sockets);
        kept.extend(groups);
        let kept: Vec<u64> = kept.into_iter().collect();
        for some in kept.chunks(MAX_KEEP) {
            channel.send(&Message::Keep(some.to_vec()), &[]).await?;
        }
        channel.send(&Message::Drain, &[]).await?;
        match channel.receive_soon().await? {
            (Message::Draining, _) => Ok(()),
            (Message::Refused(reason), _) => Err(RestartError::Refused { reason }),
            (other, _) => Err(RestartError::OutOfTurn { what: other.word() }),
        }
    }
}

fn nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// A socket that is what was said of it.
fn checked(label: Label, socket: OwnedFd) -> Result<Socket, RestartError> {
    let listener = TcpListener::from(socket);
    let check = || -> Result<(), String> {
        let listens = SockRef::from(&listener).is_listener().map_err(|e| e.to_string())?;
        let at = listener.local_addr().map_err(|e| e.to_string())?;
        let port = label.asked.port() == 0 || label.asked.port() == at.port();
        if !listens || at.ip() != label.asked.ip() || !port {
            return Err(format!("is at {at}, listening: {listens}"));
        }
        listener.set_nonblocking(true).map_err(|e| e.to_string())
    };
    match check() {
        Ok(()) => Ok(Socket { label, listener }),
        Err(reason) => Err(RestartError::NotAsSaid { label, reason }),
    }
}
