//! The proxy's part in a hot restart: sockets taken over from the process before, and handed to the
//! one after.
//!
//! Owns when the process before is told to go: once the configuration is in force and whole, or
//! has not become so within [`PATIENCE`]. Until then nothing is accepted from sockets taken over:
//! dying before that costs nobody a connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::OptionFuture;
use portolan_model::traffic::{Listener, TrafficConfig};
use portolan_runtime::restart::{Label, Part, Predecessor, Request};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a configuration that refers to something missing does not count.
const PATIENCE: Duration = Duration::from_secs(10);

/// What restarts ask of the supervisor.
#[derive(Debug)]
pub(super) struct Restarts {
    predecessor: Option<Predecessor>,
    requests: Option<mpsc::Receiver<Request>>,
    in_office: CancellationToken,
    /// When a configuration that is not whole is taken for what there is.
    patience: Option<Instant>,
}

/// What the supervisor is to do.
#[derive(Debug)]
pub(super) enum Due {
    /// What is in force counts, whole or not.
    Settle,
    /// The restart socket asks for this.
    Request(Request),
}

/// Sockets of the process before, by its groups.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    groups: BTreeMap<u64, (Label, Vec<TcpListener>)>,
}

impl Restarts {
    /// With the sockets that there are for the listeners.
    pub(super) fn new(part: Option<Part>) -> (Self, Inherited) {
        let (mut predecessor, requests, in_office) = match part {
            Some(part) => (part.predecessor, Some(part.requests), part.in_office),
            None => (None, None, CancellationToken::new()),
        };
        let inherited = predecessor.as_mut().map(Inherited::of).unwrap_or_default();
        (Self { predecessor, requests, in_office, patience: None }, inherited)
    }

    /// Completes when there is something to do.
    pub(super) async fn due(&mut self) -> Due {
        let patience = self.patience.filter(|_| self.predecessor.is_some());
        loop {
            let settle = OptionFuture::from(patience.map(tokio::time::sleep_until));
            let request = OptionFuture::from(self.requests.as_mut().map(mpsc::Receiver::recv));
            tokio::select! {
                Some(()) = settle => return Due::Settle,
                Some(request) = request => match request {
                    Some(request) => return Due::Request(request),
                    None => self.requests = None,
                },
                else => return std::future::pending().await,
            }
        }
    }

    /// Whether the configuration in force is still to be waited with.
    pub(super) fn waits(&mut self, config: &TrafficConfig) -> bool {
        if self.predecessor.is_none() || is_whole(config) {
            return false;
        }
        Instant::now() < *self.patience.get_or_insert_with(|| Instant::now() + PATIENCE)
    }

    /// Takes office: the process before is told to go, if there is one; this process goes on with
    /// those of its groups.
    pub(super) async fn succeed(&mut self, groups: Vec<u64>) {
        if let Some(predecessor) = self.predecessor.take() {
            match predecessor.succeed(groups).await {
                Ok(()) => tracing::info!("took over from the process before"),
                // Its sockets are here all the same.
                Err(error) => tracing::warn!(%error, "took over from a process that is silent"),
            }
        }
        self.in_office.cancel();
    }
}

impl Inherited {
    fn of(predecessor: &mut Predecessor) -> Self {
        let mut groups = BTreeMap::new();
        for socket in predecessor.take_listeners() {
            let group = groups.entry(socket.label.group);
            let (_, sockets) = group.or_insert_with(|| (socket.label.clone(), Vec::new()));
            sockets.push(socket.listener);
        }
        Self { groups }
    }

    /// Whether there are sockets for this listener.
    pub(super) fn covers(&self, listener: &Listener) -> bool {
        self.group(listener).is_some()
    }

    /// The sockets for this listener, if there are.
    pub(super) fn take(&mut self, listener: &Listener) -> Vec<TcpListener> {
        let taken = self.group(listener).and_then(|group| self.groups.remove(&group));
        taken.map(|(_, sockets)| sockets).unwrap_or_default()
    }

    /// Closes what none of these listeners is to have; the groups that are left.
    pub(super) fn keep<'a>(&mut self, wanted: impl Iterator<Item = &'a Arc<Listener>>) -> Vec<u64> {
        let kept: BTreeSet<u64> = wanted.filter_map(|listener| self.group(listener)).collect();
        self.groups.retain(|group, _| kept.contains(group));
        kept.into_iter().collect()
    }

    /// By the address that was asked for. Port 0 is any, and another for each listener.
    fn group(&self, listener: &Listener) -> Option<u64> {
        let any = listener.address.port() == 0;
        let fits = |label: &Label| {
            label.asked == listener.address
                && (!any || Predecessor::is_named(label, &listener.name))
        };
        self.groups.iter().find(|(_, (label, _))| fits(label)).map(|(group, _)| *group)
    }
}

/// Copies with what they are for, where `bound` knows the group and the listener of a binding.
pub(super) fn labelled(
    copies: Vec<crate::worker::Copied>,
    bound: impl Fn(u64) -> Option<(u64, Arc<Listener>)>,
) -> Vec<(Label, OwnedFd)> {
    let label = |copied: crate::worker::Copied| {
        let (group, listener) = bound(copied.binding)?;
        let label = Label {
            purpose: portolan_runtime::restart::Purpose::Listener,
            group,
            name: listener.name.to_string(),
            asked: listener.address,
            worker: u32::try_from(copied.worker).unwrap_or(u32::MAX),
        };
        Some((label, copied.socket))
    };
    copies.into_iter().filter_map(label).collect()
}

/// Whether there are listeners, and all that they and the clusters refer to is there.
fn is_whole(config: &TrafficConfig) -> bool {
    let mut routes = config.listeners.values().flat_map(|l| l.route_tables());
    let mut endpoints = config.clusters.values().map(|c| &c.endpoints);
    config.generation.is_some()
        || (!config.listeners.is_empty()
            && routes.all(|name| config.routes.contains_key(name))
            && endpoints.all(|name| config.endpoints.contains_key(name)))
}
