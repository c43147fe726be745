//! Idle HTTP/1.1 connections to one endpoint.
//!
//! A connection has no task of its own: whoever uses it polls it. Owns the idle ones, bounded in
//! number (the caller's bound) and age ([`Pool::sweep`]).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use portolan_model::traffic::Upstream;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::http1::Connection;
use crate::limit::breaker::Permit;

/// A connection that can take a request.
pub(crate) struct Kept {
    pub(crate) connection: Connection,
    opened: Instant,
    /// When it was last put away.
    since: Instant,
    /// Requests it has had.
    requests: u32,
    _permit: Permit,
}

/// Idle connections, the one used last first.
#[derive(Default)]
pub(crate) struct Pool(RefCell<VecDeque<Kept>>);

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.0.borrow().len()).finish()
    }
}

impl Kept {
    /// A fresh connection.
    pub(crate) fn new((stream, permit): (TcpStream, Permit)) -> Self {
        let now = Instant::now();
        let connection = Connection::new(stream, b"");
        Self { connection, opened: now, since: now, requests: 0, _permit: permit }
    }
}

impl Pool {
    /// An idle connection that is still open as far as can be known; closed ones are dropped on
    /// the way.
    pub(crate) fn take(&self, limits: &Upstream) -> Option<Kept> {
        loop {
            let mut kept = self.0.borrow_mut().pop_back()?;
            let old = limits.max_age.is_some_and(|most| kept.opened.elapsed() >= most);
            if !old && kept.connection.is_quiet() {
                return Some(kept);
            }
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
        let mut pool = self.0.borrow_mut();
        let room = pool.len() < max;
        if room {
            pool.push_back(kept);
        }
        room
    }

    /// Drops what has been idle for longer than `timeout`, and what the endpoint closed.
    pub(crate) fn sweep(&self, timeout: Duration) {
        let now = Instant::now();
        self.0.borrow_mut().retain_mut(|kept| {
            now.duration_since(kept.since) < timeout && kept.connection.is_quiet()
        });
    }

    pub(crate) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}
