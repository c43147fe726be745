//! How many connections may be open, over all listeners of streams, and of one client.

use std::net::IpAddr;
use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::DnsMetrics;

/// Places for connections.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    /// Connections of each client; only those that have some.
    clients: DashMap<IpAddr, usize>,
    client_limit: usize,
    metrics: Arc<DnsMetrics>,
}

/// A place, given up when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Arc<Admission>,
    client: IpAddr,
    _place: OwnedSemaphorePermit,
}

impl Admission {
    /// So many places over all, and for one client (RFC 7766 §6.2.2).
    pub(crate) fn new(places: usize, client_limit: usize, metrics: Arc<DnsMetrics>) -> Self {
        let places = Arc::new(Semaphore::new(places));
        Self { places, clients: DashMap::new(), client_limit, metrics }
    }

    /// A place for a connection of a client; `None`, and counted, when all are taken, or all of
    /// this client's.
    pub(crate) fn admit(self: &Arc<Self>, client: IpAddr) -> Option<Admitted> {
        let place = self.places.clone().try_acquire_owned().ok();
        let mut count = self.clients.entry(client).or_insert(0);
        let Some(place) = place.filter(|_| *count < self.client_limit) else {
            drop(count);
            self.clients.remove_if(&client, |_, count| *count == 0);
            self.metrics.refused.inc();
            return None;
        };
        *count += 1;
        drop(count);
        self.metrics.connections.inc();
        Some(Admitted { admission: self.clone(), client, _place: place })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.metrics.connections.dec();
        let clients = &self.admission.clients;
        if let Some(mut count) = clients.get_mut(&self.client) {
            *count = count.saturating_sub(1);
        }
        clients.remove_if(&self.client, |_, count| *count == 0);
    }
}
