//! Idle HTTP/1.1 connections to one endpoint.
//!
//! A connection has no task of its own: whoever uses it polls it. Owns the idle ones, bounded in
//! number (the caller's bound) and age ([`Pool::sweep`]).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::Upstream;
use tokio::time::Instant;

use crate::http1::Connection;
use crate::metrics::EndpointMetrics;
use crate::stream::Stream;
use crate::worker::cluster::Slot;

/// A connection that can take a request.
pub(crate) struct Kept {
    pub(crate) connection: Connection,
    opened: Instant,
    /// When it was last put away.
    since: Instant,
    /// Requests it has had.
    requests: u32,
    _slot: Slot,
}

/// Idle connections, the one used last first.
#[derive(Default)]
pub(crate) struct Pool {
    kept: RefCell<VecDeque<Kept>>,
    /// Where they are counted, and as how many.
    metrics: RefCell<Arc<EndpointMetrics>>,
    counted: Cell<u64>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.kept.borrow().len()).finish()
    }
}

impl Kept {
    /// A fresh connection.
    pub(crate) fn new((stream, slot): (Stream, Slot)) -> Self {
        let now = Instant::now();
        let connection = Connection::new(stream, b"");
        Self { connection, opened: now, since: now, requests: 0, _slot: slot }
    }
}

impl Pool {
    /// An idle connection that is still open as far as can be known; closed ones are dropped on
    /// the way.
    pub(crate) fn take(&self, limits: &Upstream) -> Option<Kept> {
        let mut pool = self.kept.borrow_mut();
        let quiet = loop {
            match pool.pop_back() {
                Some(mut kept) => {
                    let old = limits.max_age.is_some_and(|most| kept.opened.elapsed() >= most);
                    if !old && kept.connection.is_quiet() {
                        break Some(kept);
                    }
                }
                None => break None,
            }
        };
        self.count(&pool);
        quiet
    }

    /// Counts here from now on.
    pub(crate) fn set_metrics(&self, metrics: Arc<EndpointMetrics>) {
        let old = self.metrics.replace(metrics);
        old.idle.sub(self.counted.take());
        self.count(&self.kept.borrow());
    }

    fn count(&self, pool: &VecDeque<Kept>) {
        let now = u64::try_from(pool.len()).unwrap_or(0);
        let before = self.counted.replace(now);
        if now != before {
            self.metrics.borrow().idle.add(now.wrapping_sub(before));
        }
    }

    /// Keeps a connection unless `max` are kept already, or it has had what it may have; says
    /// whether there was room.
    pub(crate) fn put(&self, mut kept: Kept, limits: &Upstream, max: usize) -> bool {
        kept.requests = kept.requests.saturating_add(1);
        kept.since = Instant::now();
        let spent = limits.max_requests.is_some_and(|most| kept.requests >= most.get())
            || limits.max_age.is_some_and(|most| kept.since.duration_since(kept.opened) >= most);
        // What came unasked after the response belongs to no request.
        if spent || !kept.connection.is_between_messages() {
            return true;
        }
        let mut pool = self.kept.borrow_mut();
        let room = pool.len() < max;
        if room {
            pool.push_back(kept);
            self.count(&pool);
        }
        room
    }

    /// Drops what has been idle for longer than `timeout`, and what the endpoint closed.
    pub(crate) fn sweep(&self, timeout: Duration) {
        let now = Instant::now();
        let mut pool = self.kept.borrow_mut();
        pool.retain_mut(|kept| {
            now.duration_since(kept.since) < timeout && kept.connection.is_quiet()
        });
        self.count(&pool);
    }

    pub(crate) fn clear(&self) {
        let mut pool = self.kept.borrow_mut();
        pool.clear();
        self.count(&pool);
    }
}
