//! How many connections may be open, over all listeners of streams.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::DnsMetrics;

/// Places for connections.
#[derive(Debug)]
pub(crate) struct Admission {
    places: Arc<Semaphore>,
    metrics: Arc<DnsMetrics>,
}

/// A place, given up when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    metrics: Arc<DnsMetrics>,
    _place: OwnedSemaphorePermit,
}

impl Admission {
    pub(crate) fn new(places: usize, metrics: Arc<DnsMetrics>) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), metrics }
    }

    /// A place for a connection; `None`, and counted, when all are taken.
    pub(crate) fn admit(&self) -> Option<Admitted> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            self.metrics.refused.inc();
            return None;
        };
        self.metrics.connections.inc();
        Some(Admitted { metrics: self.metrics.clone(), _place: place })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}
