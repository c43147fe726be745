//! Which listener is bound where, and what is done about those that are not.
//!
//! Owns the sockets until a worker has them. An unchanged listener is never touched; one that
//! cannot be bound is logged, counted and tried again without a limit on tries, at most every
//! [`MAX_DELAY`]. It stands in nobody else's way.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use portolan_model::traffic::{Listener, ListenerKind, ResourceName};
use portolan_runtime::bind::{self, Sharing};
use tokio::time::Instant;

use super::threads::Threads;
use crate::metrics::ProxyMetrics;
use crate::state::ListenerView;

/// Wait before the second try; doubles from there.
const FIRST_DELAY: Duration = Duration::from_secs(1);

/// Longest wait between two tries.
const MAX_DELAY: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Bindings {
    slots: BTreeMap<ResourceName, Slot>,
    next: u64,
}

#[derive(Debug)]
struct Slot {
    listener: Arc<Listener>,
    state: State,
}

#[derive(Debug)]
enum State {
    Bound { binding: u64, address: SocketAddr },
    Failed { error: String, tries: u32, again: Instant },
}

impl Bindings {
    /// Closes the sockets of listeners that are no more.
    pub(super) async fn close_removed(
        &mut self,
        wanted: &OrdMap<ResourceName, Arc<Listener>>,
        threads: &Threads,
    ) {
        let gone = self.slots.extract_if(.., |name, _| !wanted.contains_key(name));
        for (_, slot) in gone.collect::<Vec<_>>() {
            slot.close(threads).await;
        }
    }

    /// Opens sockets for listeners that are new or changed; the old ones of a changed listener
    /// close after that (both may be bound at once, so none is missing in between).
    pub(super) async fn open_changed(
        &mut self,
        wanted: &OrdMap<ResourceName, Arc<Listener>>,
        threads: &Threads,
        metrics: &ProxyMetrics,
    ) {
        for (name, listener) in wanted {
            match self.slots.get(name) {
                Some(slot) if slot.listener == *listener => {}
                _ => self.open(Arc::clone(listener), 0, threads, metrics).await,
            }
        }
    }

    /// Completes when a failed listener is to be tried again.
    pub(super) async fn retry_due(&self) {
        match self.slots.values().filter_map(Slot::again).min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Tries those again whose time has come.
    pub(super) async fn retry(&mut self, threads: &Threads, metrics: &ProxyMetrics) {
        let now = Instant::now();
        let due: Vec<_> = (self.slots.values())
            .filter_map(|slot| match &slot.state {
                State::Failed { tries, again, .. } if *again <= now => {
                    Some((Arc::clone(&slot.listener), *tries))
                }
                _ => None,
            })
            .collect();
        for (listener, tries) in due {
            self.open(listener, tries, threads, metrics).await;
        }
    }

    pub(super) fn view(&self) -> BTreeMap<ResourceName, ListenerView> {
        self.slots.iter().map(|(name, slot)| (Arc::clone(name), slot.view())).collect()
    }

    async fn open(
        &mut self,
        listener: Arc<Listener>,
        tries: u32,
        threads: &Threads,
        metrics: &ProxyMetrics,
    ) {
        let name = Arc::clone(&listener.name);
        let state = match self.bind(&listener, threads).await {
            Ok((binding, address)) => {
                bind::announce(format!("proxy {} {name}", word(&listener.kind)), address);
                State::Bound { binding, address }
            }
            Err(error) => {
                let again = Instant::now() + delay(tries);
                metrics.bind_failures.add(1);
                tracing::error!(listener = %name, address = %listener.address, error,
                    "cannot bind a listener; it is tried again");
                State::Failed { error, tries: tries.saturating_add(1), again }
            }
        };
        if let Some(old) = self.slots.insert(name, Slot { listener, state }) {
            old.close(threads).await;
        }
    }

    /// One socket per worker, all on one port.
    async fn bind(
        &mut self,
        listener: &Arc<Listener>,
        threads: &Threads,
    ) -> Result<(u64, SocketAddr), String> {
        // SO_REUSEPORT would let two listeners share an address and split its connections.
        let twin = self.slots.values().find(|slot| {
            slot.listener.name != listener.name && slot.address() == Some(listener.address)
        });
        if let Some(twin) = twin {
            return Err(format!(
                "listener {} has {} already",
                twin.listener.name, listener.address
            ));
        }
        let (sockets, address) = sockets(listener, threads.len())?;
        self.next += 1;
        match threads.open(self.next, listener, sockets).await {
            Ok(()) => Ok((self.next, address)),
            Err(error) => {
                threads.close(self.next).await;
                Err(error)
            }
        }
    }
}

impl Slot {
    fn address(&self) -> Option<SocketAddr> {
        match &self.state {
            State::Bound { address, .. } => Some(*address),
            State::Failed { .. } => None,
        }
    }

    fn again(&self) -> Option<Instant> {
        match &self.state {
            State::Bound { .. } => None,
            State::Failed { again, .. } => Some(*again),
        }
    }

    async fn close(self, threads: &Threads) {
        if let State::Bound { binding, .. } = self.state {
            threads.close(binding).await;
        }
    }

    fn view(&self) -> ListenerView {
        let error = match &self.state {
            State::Bound { .. } => None,
            State::Failed { error, .. } => Some(error.clone()),
        };
        ListenerView {
            asked: self.listener.address,
            bound: self.address(),
            error,
            kind: self.listener.kind.clone(),
        }
    }
}

fn word(kind: &ListenerKind) -> &'static str {
    match kind {
        ListenerKind::Http { .. } => "http",
        ListenerKind::Tcp { .. } => "tcp",
    }
}

fn sockets(listener: &Listener, workers: usize) -> Result<(Vec<TcpListener>, SocketAddr), String> {
    let mut address = listener.address;
    let mut sockets = Vec::with_capacity(workers);
    let purpose = format_args!("proxy {} {}", word(&listener.kind), listener.name);
    // The workers' sockets share the address with SO_REUSEPORT, and would silently share it with
    // another process that does the same: whoever is there already fails this one.
    drop(bind::tcp(address, purpose, Sharing::Exclusive).map_err(|e| e.to_string())?);
    for _ in 0..workers {
        let socket = bind::tcp(address, purpose, Sharing::Shared).map_err(|e| e.to_string())?;
        // With port 0 the first socket picks the port and the others join it.
        address = socket.local_addr().map_err(|e| e.to_string())?;
        sockets.push(socket);
    }
    Ok((sockets, address))
}

/// Wait after a failure that `tries` others went before.
fn delay(tries: u32) -> Duration {
    FIRST_DELAY.saturating_mul(1 << tries.min(10)).min(MAX_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_between_two_tries_doubles_up_to_its_bound() {
        let secs: Vec<u64> = (0..8).map(|tries| delay(tries).as_secs()).collect();
        assert_eq!(secs, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(delay(u32::MAX), MAX_DELAY);
    }
}
