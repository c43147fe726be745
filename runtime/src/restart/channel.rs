//! A connection between two processes: messages with sockets beside them (`SCM_RIGHTS`, unix(7)).
//!
//! Reads no byte past a message, so that the sockets that come are those of the message.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::RestartError;
use super::message::{self, HEADER, MAX_BATCH, Message};

/// Longest wait for a message that is due, or for room to write one.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    /// # Errors
    /// [`RestartError::Stranger`] when the process at the other end is neither of this user nor
    /// root's (`SO_PEERCRED`).
    pub(super) fn new(stream: UnixStream) -> Result<Self, RestartError> {
        let uid = stream.peer_cred()?.uid();
        if uid == 0 || uid == rustix::process::geteuid().as_raw() {
            Ok(Self(stream))
        } else {
            Err(RestartError::Stranger { uid })
        }
    }

    /// Writes a message, and sockets with its first byte.
    pub(super) async fn send(
        &self,
        message: &Message,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), RestartError> {
        let bytes = message.encode();
        let send = async {
            let mut sent = 0;
            while let Some(left) = bytes.get(sent..).filter(|left| !left.is_empty()) {
                let sockets = if sent == 0 { sockets } else { &[] };
                let writable = Interest::WRITABLE;
                sent += self.0.async_io(writable, || send_once(&self.0, left, sockets)).await?;
            }
            Ok(())
        };
        timeout(PATIENCE, send).await.map_err(|_| RestartError::Silent)?
    }

    /// The next message and the sockets that came with it, as long as it takes.
    pub(super) async fn receive(&self) -> Result<(Message, Vec<OwnedFd>), RestartError> {
        let mut sockets = Vec::new();
        let mut header = [0; HEADER];
        self.fill(&mut header, &mut sockets).await?;
        let mut payload = vec![0; message::payload_len(&header)?];
        // What has begun is to come in full.
        let rest = self.fill(&mut payload, &mut sockets);
        timeout(PATIENCE, rest).await.map_err(|_| RestartError::Silent)??;
        let message = message::decode(&header, &payload)?;
        let told = if let Message::Sockets(labels) = &message { labels.len() } else { 0 };
        if told != sockets.len() {
            return Err(RestartError::Count { told, came: sockets.len() });
        }
        Ok((message, sockets))
    }

    /// The same, when the message is due.
    pub(super) async fn receive_soon(&self) -> Result<(Message, Vec<OwnedFd>), RestartError> {
        timeout(PATIENCE, self.receive()).await.map_err(|_| RestartError::Silent)?
    }

    async fn fill(&self, into: &mut [u8], sockets: &mut Vec<OwnedFd>) -> Result<(), RestartError> {
        let mut filled = 0;
        while let Some(left) = into.get_mut(filled..).filter(|left| !left.is_empty()) {
            let readable = Interest::READABLE;
            match self.0.async_io(readable, || receive_once(&self.0, left, sockets)).await {
                Ok(0) => return Err(RestartError::Gone),
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(RestartError::Gone);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn send_once(stream: &UnixStream, bytes: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_BATCH))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("too many sockets for one message"));
    }
    let sent = rustix::net::sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut beside,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    );
    Ok(sent?)
}

fn receive_once(
    stream: &UnixStream,
    into: &mut [u8],
    sockets: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_BATCH))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        stream,
        &mut [IoSliceMut::new(into)],
        &mut beside,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            sockets.extend(came);
        }
    }
    // More than we have room for, or than this process may have open.
    if received.flags.contains(ReturnFlags::CTRUNC) || sockets.len() > MAX_BATCH {
        return Err(io::Error::other("sockets were lost on the way (file descriptor limit?)"));
    }
    Ok(received.bytes)
}
