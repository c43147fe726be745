//! How many connections may be open, over all listeners of streams, and of one client.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::DnsMetrics;
use crate::shares::{Share, Shares};

/// Places for connections.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    clients: Shares,
    metrics: Arc<DnsMetrics>,
}

/// A place, given up when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    metrics: Arc<DnsMetrics>,
    _share: Share,
    _place: OwnedSemaphorePermit,
}

impl Admission {
    /// So many places over all, and for one client (RFC 7766 §6.2.2).
    pub(crate) fn new(places: usize, client_limit: usize, metrics: Arc<DnsMetrics>) -> Self {
        let places = Arc::new(Semaphore::new(places));
        Self { places, clients: Shares::of(client_limit), metrics }
    }

    /// A place for a connection of a client; `None`, and counted, when all are taken, or all of
    /// this client's.
    pub(crate) fn admit(&self, client: IpAddr) -> Option<Admitted> {
        let place = self.places.clone().try_acquire_owned().ok();
        let Some((place, share)) =
            place.and_then(|place| Some((place, self.clients.take(client)?)))
        else {
            self.metrics.refused.inc();
            return None;
        };
        self.metrics.connections.inc();
        Some(Admitted { metrics: self.metrics.clone(), _share: share, _place: place })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}
