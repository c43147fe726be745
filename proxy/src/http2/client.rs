//! The client of one connection.

use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, Open, Role};
use super::driver::Driver;
use super::error::Error;
use super::handle::{RecvHead, SendStream, Shared};
use super::settings::Settings;

/// Opens streams. Once the last such handle is dropped, the connection ends after its last stream.
#[derive(Debug)]
pub(crate) struct Client {
    shared: Rc<Shared>,
}

/// A client on `io` and its driver, which is to be run on the same thread until it ends.
pub(crate) fn client<S>(io: S, settings: &Settings) -> (Client, impl Future<Output = ()> + use<S>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shared = Shared::new(Connection::new(Role::Client, settings));
    shared.clients.set(1);
    let mut driver = Driver::new(io, shared.clone(), Bytes::new());
    let run = async move {
        // Why it ended is told to every stream and by `Client::failure`.
        let _ = poll_fn(|cx| driver.poll(cx, &mut |_| {})).await;
    };
    (Client { shared }, run)
}

impl Client {
    /// Waits for room for one more stream under the peer's limit and ours.
    ///
    /// # Errors
    /// The connection takes no more streams.
    pub(crate) fn poll_ready(&self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        self.shared.with(|connection| connection.poll_room(cx))
    }

    /// Begins a stream; `end` when the request has no body.
    ///
    /// # Errors
    /// There is no room, or the connection takes no more streams.
    pub(crate) fn open(
        &self,
        request: &Open<'_>,
        end: bool,
    ) -> Result<(SendStream, RecvHead), Error> {
        let opened = self.shared.with(|connection| {
            let none = connection.failure().unwrap_or(Error::NoRoom);
            connection.open(request, end).ok_or(none)
        })?;
        let send = SendStream::new(self.shared.clone(), opened);
        Ok((send, RecvHead::new(self.shared.clone(), opened)))
    }

    /// The connection takes new streams, if not just now.
    pub(crate) fn is_usable(&self) -> bool {
        self.shared.look(Connection::is_usable)
    }

    /// Streams open.
    pub(crate) fn active(&self) -> usize {
        self.shared.look(Connection::active)
    }

    /// Streams that can be opened now.
    pub(crate) fn room(&self) -> usize {
        self.shared.look(Connection::room)
    }

    /// The peer takes extended CONNECT (RFC 8441); unknown before its SETTINGS came.
    #[cfg(test)]
    pub(crate) fn allows_connect_protocol(&self) -> bool {
        self.shared.look(Connection::allows_connect_protocol)
    }

    /// No new streams; the connection ends after the last.
    pub(crate) fn drain(&self) {
        self.shared.with(Connection::drain);
    }

    /// Why the connection ended, if it did.
    #[cfg(test)]
    pub(crate) fn failure(&self) -> Option<Error> {
        self.shared.look(Connection::failure)
    }
}

impl Clone for Client {
    fn clone(&self) -> Self {
        self.shared.clients.set(self.shared.clients.get() + 1);
        Self { shared: self.shared.clone() }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let left = self.shared.clients.get() - 1;
        self.shared.clients.set(left);
        if left == 0 {
            self.drain();
        }
    }
}
