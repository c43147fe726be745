//! Whether a client's connection has requests in flight, and since when it has none.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::worker::cluster::{add, sub};

#[derive(Debug)]
pub(crate) struct Activity {
    active: Cell<u32>,
    requests: Cell<u32>,
    since: Cell<Instant>,
    timeout: Duration,
    enough: Notify,
}

/// Keeps a connection from being idle while it lives.
#[derive(Debug)]
pub(crate) struct Busy(Rc<Activity>);

impl Activity {
    pub(crate) fn new(timeout: Duration) -> Rc<Self> {
        Rc::new(Self {
            active: Cell::new(0),
            requests: Cell::new(0),
            since: Cell::new(Instant::now()),
            timeout,
            enough: Notify::new(),
        })
    }

    pub(crate) fn begin(self: &Rc<Self>) -> Busy {
        add(&self.active, 1);
        add(&self.requests, 1);
        Busy(Rc::clone(self))
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u32 {
        self.requests.get()
    }

    /// The connection has had what it may have.
    pub(crate) fn end(&self) {
        self.enough.notify_one();
    }

    /// Completes when there was no request for the timeout, or there were enough.
    pub(crate) async fn over(&self) {
        tokio::select! {
            () = self.idle() => {}
            () = self.enough.notified() => {}
        }
    }

    async fn idle(&self) {
        loop {
            let now = Instant::now();
            let since = if self.active.get() > 0 { now } else { self.since.get() };
            let until = since + self.timeout;
            if now >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        sub(&self.0.active, 1);
        self.0.since.set(Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_after_its_last_request() {
        let start = Instant::now();
        let activity = Activity::new(Duration::from_secs(10));
        let busy = activity.begin();
        let release = async {
            tokio::time::sleep(Duration::from_secs(25)).await;
            drop(busy);
        };
        tokio::join!(release, activity.over());
        assert!(start.elapsed() >= Duration::from_secs(35), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_had_enough_is_over_at_once() {
        let activity = Activity::new(Duration::from_secs(10));
        activity.end();
        let start = Instant::now();
        activity.over().await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
