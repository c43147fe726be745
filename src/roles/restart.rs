//! Wires hot restarts: whom this process succeeds, what it shares with it, and whom it lets succeed.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

use portolan_runtime::bind::{self, Sharing};
use portolan_runtime::restart::{Fixed, Offer, Part, Predecessor, Purpose, RestartError};
use portolan_runtime::{Lifecycle, Tasks};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Roles;
use crate::config::Config;
use crate::exit::cannot_start;

/// Requests of the restart socket that wait for the proxy; there is one restart at a time.
const REQUESTS: usize = 1;

/// A process on its way into office, or in it from the start.
pub(super) struct Restart {
    path: Option<PathBuf>,
    predecessor: Option<Predecessor>,
    /// Cancelled when there is nobody to succeed, or the proxy has.
    in_office: CancellationToken,
    /// Cancelled when another process serves in this one's place.
    succeeded: CancellationToken,
    /// Cancelled when the next process can ask for the sockets, if one ever can.
    offered: CancellationToken,
    /// Cancelled when the admin port is another process's.
    admin_left: CancellationToken,
    fixed: Vec<Fixed>,
}

impl Restart {
    /// Asks the process that runs, if there is one and this one is to take over.
    pub(super) async fn begin(config: &Config, roles: Roles) -> anyhow::Result<Self> {
        let path = config.proxy.restart_socket.clone().filter(|_| roles.proxy);
        let found = match &path {
            Some(path) => Predecessor::connect(path).await,
            None => Ok(None),
        };
        let predecessor = match found {
            Ok(predecessor) => predecessor,
            Err(
                error @ (RestartError::Socket { .. }
                | RestartError::NotASocket { .. }
                | RestartError::Stranger { .. }
                | RestartError::Refused { .. }),
            ) => return Err(cannot_start(error)),
            Err(error) => {
                tracing::error!(%error, "cannot take over; starting as if nobody ran");
                None
            }
        };
        let in_office = CancellationToken::new();
        if predecessor.is_none() {
            in_office.cancel();
        }
        let (admin_left, succeeded) = (CancellationToken::new(), CancellationToken::new());
        let offered = CancellationToken::new();
        if path.is_none() {
            offered.cancel();
        }
        Ok(Self { path, predecessor, in_office, succeeded, offered, admin_left, fixed: Vec::new() })
    }

    /// Whether there is a process that still serves.
    pub(super) fn succeeds(&self) -> bool {
        !self.in_office.is_cancelled()
    }

    /// Cancelled when this process serves.
    pub(super) fn in_office(&self) -> CancellationToken {
        self.in_office.clone()
    }

    /// Cancelled when another process serves in this one's place.
    pub(super) fn succeeded(&self) -> CancellationToken {
        self.succeeded.clone()
    }

    /// The socket of the process before, or a new one.
    pub(super) fn listen(
        &mut self,
        address: SocketAddr,
        purpose: Purpose,
    ) -> anyhow::Result<TcpListener> {
        let word = if purpose == Purpose::Admin { "admin" } else { "xds" };
        let inherited = self.predecessor.as_mut().and_then(|p| p.take(purpose, address));
        let listener = match inherited {
            Some(listener) => listener,
            None => bind::tcp(address, word, Sharing::Exclusive).map_err(cannot_start)?,
        };
        if self.path.is_some() {
            let left = match purpose {
                Purpose::Admin => self.admin_left.clone(),
                // These close with the drain.
                Purpose::Xds | Purpose::Listener => CancellationToken::new(),
            };
            let copy = Fixed::copy(&listener, purpose, address, left);
            self.fixed.push(copy.map_err(cannot_start)?);
        }
        Ok(listener)
    }

    /// The proxy's part, once all other sockets are there; starts the task at the restart socket.
    pub(super) fn part(&mut self, tasks: &mut Tasks, lifecycle: &Lifecycle) -> Option<Part> {
        let path = self.path.take()?;
        let (sender, requests) = mpsc::channel(REQUESTS);
        let fixed = std::mem::take(&mut self.fixed);
        let (lifecycle, succeeded) = (lifecycle.clone(), self.succeeded.clone());
        let offered = self.offered.clone();
        let offer = Offer { path, fixed, requests: sender, lifecycle, succeeded, offered };
        let in_office = self.in_office.clone();
        tasks.spawn("restart-socket", offer.run(in_office.clone()));
        Some(Part { predecessor: self.predecessor.take(), requests, in_office })
    }

    /// Serves from when the process is in office, and can be succeeded, until another is: who is told that
    /// it is ready may start the next one.
    pub(super) fn while_in_office<E>(
        self,
        serving: impl Future<Output = Result<(), E>>,
        lifecycle: Lifecycle,
    ) -> impl Future<Output = Result<(), E>> {
        let Self { in_office, offered, admin_left, .. } = self;
        async move {
            let serving = async {
                in_office.cancelled().await;
                offered.cancelled().await;
                serving.await
            };
            tokio::select! {
                served = serving => return served,
                // What it has accepted it still answers.
                () = admin_left.cancelled() => {}
                () = lifecycle.aborted() => return Ok(()),
            }
            lifecycle.aborted().await;
            Ok(())
        }
    }
}
