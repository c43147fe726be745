//! Which listener is bound where, and what is done about those that are not.
//!
//! Owns the sockets until a worker has them. An unchanged listener is never touched; one that
//! cannot be bound is logged, counted and tried again without a limit on tries, at least every
//! [`MAX_DELAY`]. It stands in nobody else's way, and the sockets it had before go on serving.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use portolan_model::traffic::{Listener, ListenerKind, ResourceName};
use portolan_runtime::bind::{self, Sharing};
use portolan_runtime::restart::Label;
use socket2::SockRef;
use tokio::time::Instant;

use super::takeover::{self, Inherited};
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
    /// Sockets of listeners that are no more, at addresses that new ones want.
    orphans: Vec<Bound>,
    next: u64,
    /// Of the process before, until this one takes them over.
    inherited: Inherited,
    /// Whether it may.
    in_office: bool,
}

/// A listener as it is wanted, and what of it is there.
#[derive(Debug)]
struct Slot {
    wanted: Arc<Listener>,
    /// Sockets that are open: for what is wanted or, while that fails, for what was before.
    bound: Option<Bound>,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Bound {
    binding: u64,
    /// The binding that its sockets were opened for. A new process knows them by that.
    group: u64,
    address: SocketAddr,
    listener: Arc<Listener>,
}

/// The sockets of a [`Bound`].
#[derive(Clone, Copy, Debug)]
struct Held {
    binding: u64,
    group: u64,
    address: SocketAddr,
}

#[derive(Debug)]
struct Failure {
    error: String,
    tries: u32,
    again: Instant,
}

impl Bindings {
    pub(super) fn new(inherited: Inherited) -> Self {
        Self { inherited, ..Self::default() }
    }

    /// From now on sockets of the process before are used; those of them that none of these
    /// listeners is to have are closed. The groups that stay.
    pub(super) fn take_office(&mut self, wanted: &OrdMap<ResourceName, Arc<Listener>>) -> Vec<u64> {
        self.in_office = true;
        self.inherited.keep(wanted.values())
    }

    /// Copies of the descriptors of all sockets, for the process after.
    pub(super) async fn offer(&self, threads: &Threads) -> Result<Vec<(Label, OwnedFd)>, String> {
        let bound = |binding: u64| {
            let mut bound = self.slots.values().filter_map(|slot| slot.bound.as_ref());
            let bound = bound.find(|bound| bound.binding == binding)?;
            Some((bound.group, Arc::clone(&bound.listener)))
        };
        let copies = threads.copy().await.map_err(|e| format!("cannot copy a socket: {e}"))?;
        Ok(takeover::labelled(copies, bound))
    }

    /// What waits in the sockets of these groups is the process after's.
    pub(super) async fn leave(&self, groups: &BTreeSet<u64>, threads: &Threads) {
        let bound = self.slots.values().filter_map(|slot| slot.bound.as_ref());
        let left = bound.filter(|bound| groups.contains(&bound.group)).map(|bound| bound.binding);
        threads.leave(left.collect()).await;
    }

    /// Closes the sockets of listeners that are no more; but where a new one wants the address it
    /// will have the sockets, so that what is on its way to them is not lost.
    pub(super) async fn close_removed(
        &mut self,
        wanted: &OrdMap<ResourceName, Arc<Listener>>,
        threads: &Threads,
    ) {
        let gone = self.slots.extract_if(.., |name, _| !wanted.contains_key(name));
        let gone: Vec<Bound> = gone.filter_map(|(_, slot)| slot.bound).collect();
        let is_wanted = |bound: &Bound| {
            let new = wanted.iter().filter(|(name, _)| !self.slots.contains_key(*name));
            bound.listener.address.port() != 0
                && new.into_iter().any(|(_, listener)| listener.address == bound.listener.address)
        };
        let (orphans, closing): (Vec<_>, Vec<_>) = gone.into_iter().partition(is_wanted);
        self.orphans.extend(orphans);
        for bound in closing {
            threads.close(bound.binding).await;
        }
    }

    /// Opens sockets for listeners that are new or changed; the old ones of a changed listener
    /// close after that (both may be bound at once, so none is missing in between). One that
    /// cannot be bound as it is wanted now goes on as it was.
    pub(super) async fn open_changed(
        &mut self,
        wanted: &OrdMap<ResourceName, Arc<Listener>>,
        threads: &Threads,
        metrics: &ProxyMetrics,
    ) {
        let changed: Vec<&ResourceName> = wanted
            .iter()
            .filter(|(_, l)| self.may_open(l) && self.want(l))
            .map(|(name, _)| name)
            .collect();
        for name in changed {
            self.open(name, threads, metrics).await;
        }
        for orphan in std::mem::take(&mut self.orphans) {
            threads.close(orphan.binding).await;
        }
    }

    /// Completes when a failed listener is to be tried again.
    pub(super) async fn retry_due(&self) {
        match self.slots.values().filter_map(|slot| Some(slot.failure.as_ref()?.again)).min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Tries those again whose time has come.
    pub(super) async fn retry(&mut self, threads: &Threads, metrics: &ProxyMetrics) {
        let now = Instant::now();
        let due = |slot: &Slot| slot.failure.as_ref().is_some_and(|f| f.again <= now);
        let due: Vec<ResourceName> =
            self.slots.iter().filter(|(_, s)| due(s)).map(|(name, _)| Arc::clone(name)).collect();
        for name in due {
            self.open(&name, threads, metrics).await;
        }
    }

    pub(super) fn view(&self) -> BTreeMap<ResourceName, ListenerView> {
        self.slots.iter().map(|(name, slot)| (Arc::clone(name), slot.view())).collect()
    }

    /// Whether it does not have to wait for the sockets of the process before.
    fn may_open(&self, listener: &Listener) -> bool {
        self.in_office || !self.inherited.covers(listener)
    }

    /// Notes what is wanted; whether sockets have to be opened for it now.
    fn want(&mut self, listener: &Arc<Listener>) -> bool {
        let name = Arc::clone(&listener.name);
        let slot = self.slots.entry(name).or_insert_with(|| Slot::new(listener));
        let bound = slot.bound.as_ref().is_some_and(|bound| bound.listener == *listener);
        // One that failed as it is wanted now is tried again by its own clock.
        let waiting = slot.wanted == *listener && slot.failure.is_some();
        slot.wanted = Arc::clone(listener);
        if bound || !waiting {
            slot.failure = None;
        }
        !bound && !waiting
    }

    /// Opens what a slot wants; the sockets it had close once the new ones are there.
    async fn open(&mut self, name: &ResourceName, threads: &Threads, metrics: &ProxyMetrics) {
        let Some(listener) = self.slots.get(name).map(|slot| Arc::clone(&slot.wanted)) else {
            return;
        };
        let own = self.slots.get(name).and_then(|slot| slot.bound.as_ref());
        let mut candidates = own.into_iter().chain(&self.orphans);
        let held = candidates.find(|bound| bound.listener.address == listener.address);
        if let Some(held) = held.map(Bound::sockets) {
            return self.replace(&listener, held, threads, metrics).await;
        }
        let opened = self.bind(&listener, threads).await;
        let Some(slot) = self.slots.get_mut(name) else { return };
        match opened {
            Ok(bound) => {
                bind::announce(format!("proxy {} {name}", word(&listener.kind)), bound.address);
                slot.failure = None;
                if let Some(old) = slot.bound.replace(bound) {
                    threads.close(old.binding).await;
                }
            }
            Err(error) => slot.fail(error, metrics),
        }
    }

    /// Serves by another listener what comes to the sockets that are there. They stay open: what is
    /// on its way to them is not lost.
    async fn replace(
        &mut self,
        listener: &Arc<Listener>,
        held: Held,
        threads: &Threads,
        metrics: &ProxyMetrics,
    ) {
        self.next += 1;
        let binding = self.next;
        let Held { binding: old, group, address } = held;
        let replaced = threads.replace(old, binding, listener).await;
        let Some(slot) = self.slots.get_mut(&listener.name) else { return };
        match replaced {
            Ok(()) => {
                slot.failure = None;
                let listener = Arc::clone(listener);
                let before = slot.bound.replace(Bound { binding, group, address, listener });
                self.orphans.retain(|orphan| orphan.binding != old);
                // What it had elsewhere closes, as when it is bound anew.
                if let Some(before) = before.filter(|before| before.binding != old) {
                    threads.close(before.binding).await;
                }
            }
            Err(error) => slot.fail(error, metrics),
        }
    }

    /// One socket per worker, all on one port.
    async fn bind(&mut self, listener: &Arc<Listener>, threads: &Threads) -> Result<Bound, String> {
        let address = listener.address;
        // SO_REUSEPORT would let two listeners share an address and split its connections. One
        // that is on its way to another address is no obstacle: two may swap theirs.
        let twin = self.slots.values().find(|slot| {
            slot.wanted.name != listener.name
                && slot.bound.as_ref().is_some_and(|bound| {
                    bound.address == address && bound.listener.address == slot.wanted.address
                })
        });
        if let Some(twin) = twin {
            return Err(format!("listener {} has {address} already", twin.wanted.name));
        }
        let ours = self.slots.values().filter_map(|slot| slot.bound.as_ref());
        let held = ours.into_iter().any(|bound| overlap(bound.address, address));
        let inherited = self.inherited.take(listener);
        let (sockets, address) = match inherited.first() {
            Some(_) => complete(listener, inherited, threads.len())?,
            None => sockets(listener, threads.len(), held)?,
        };
        self.next += 1;
        let binding = self.next;
        match threads.open(binding, listener, sockets).await {
            Ok(()) => {
                Ok(Bound { binding, group: binding, address, listener: Arc::clone(listener) })
            }
            Err(error) => {
                threads.close(binding).await;
                Err(error)
            }
        }
    }
}

impl Bound {
    fn sockets(&self) -> Held {
        Held { binding: self.binding, group: self.group, address: self.address }
    }
}

impl Slot {
    fn new(listener: &Arc<Listener>) -> Self {
        Self { wanted: Arc::clone(listener), bound: None, failure: None }
    }

    fn fail(&mut self, error: String, metrics: &ProxyMetrics) {
        let tries = self.failure.as_ref().map_or(0, |failure| failure.tries);
        let again = Instant::now() + delay(tries);
        metrics.bind_failures.add(1);
        let before = self.bound.as_ref().map(|bound| tracing::field::display(bound.address));
        tracing::error!(listener = %self.wanted.name, address = %self.wanted.address, error, before,
            "cannot bind a listener; it is tried again");
        self.failure = Some(Failure { error, tries: tries.saturating_add(1), again });
    }

    fn view(&self) -> ListenerView {
        let serving = self.bound.as_ref().map_or(&self.wanted, |bound| &bound.listener);
        ListenerView {
            asked: self.wanted.address,
            bound: self.bound.as_ref().map(|bound| bound.address),
            error: self.failure.as_ref().map(|failure| failure.error.clone()),
            kind: serving.kind.clone(),
        }
    }
}

/// Whether two sockets at these addresses would be in each other's way.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let wildcard = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && (a.ip() == b.ip() || (wildcard && a.is_ipv4() == b.is_ipv4()))
}

fn word(kind: &ListenerKind) -> &'static str {
    match kind {
        ListenerKind::Http { .. } => "http",
        ListenerKind::Tcp { .. } => "tcp",
        ListenerKind::ByName { .. } => "tls",
        ListenerKind::Detect { .. } => "detect",
    }
}

/// Opens a socket per worker. `held` says that sockets of this very proxy are at the address.
fn sockets(
    listener: &Listener,
    workers: usize,
    held: bool,
) -> Result<(Vec<TcpListener>, SocketAddr), String> {
    let mut address = listener.address;
    let mut sockets = Vec::with_capacity(workers);
    let purpose = format_args!("proxy {} {}", word(&listener.kind), listener.name);
    // The workers' sockets share the address with SO_REUSEPORT, and would silently share it with
    // another process that does the same: whoever is there already fails this one.
    if !held {
        drop(bind::tcp(address, purpose, Sharing::Exclusive).map_err(|e| e.to_string())?);
    }
    for _ in 0..workers {
        let socket = bind::tcp(address, purpose, Sharing::Shared).map_err(|e| e.to_string())?;
        at_once(&socket)?;
        // With port 0 the first socket picks the port and the others join it.
        address = socket.local_addr().map_err(|e| e.to_string())?;
        sockets.push(socket);
    }
    Ok((sockets, address))
}

/// Adds sockets to those taken over until there is one per worker. Where that fails, the workers
/// without one have what the others hand on.
fn complete(
    listener: &Listener,
    mut sockets: Vec<TcpListener>,
    workers: usize,
) -> Result<(Vec<TcpListener>, SocketAddr), String> {
    let first = sockets.first().map_or(Ok(listener.address), TcpListener::local_addr);
    let address = first.map_err(|e| e.to_string())?;
    while sockets.len() < workers {
        let purpose = format_args!("proxy {} {}", word(&listener.kind), listener.name);
        match bind::tcp(address, purpose, Sharing::Shared) {
            Ok(socket) => sockets.push(socket),
            Err(error) => {
                tracing::warn!(%error, "fewer sockets than workers after a restart");
                break;
            }
        }
    }
    sockets.iter().try_for_each(at_once)?;
    Ok((sockets, address))
}

/// What is written leaves at once. Connections have it from the socket they come in by.
fn at_once(socket: &TcpListener) -> Result<(), String> {
    SockRef::from(socket).set_tcp_nodelay(true).map_err(|e| e.to_string())
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
