//! Whether a client's connection has requests in flight, and since when it has none.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::worker::cluster::{add, sub};

#[derive(Debug)]
pub(crate) struct Activity {
    active: Cell<u32>,
    since: Cell<Instant>,
    timeout: Duration,
}

/// Keeps a connection from being idle while it lives.
#[derive(Debug)]
pub(crate) struct Busy(Rc<Activity>);

impl Activity {
    pub(crate) fn new(timeout: Duration) -> Rc<Self> {
        Rc::new(Self { active: Cell::new(0), since: Cell::new(Instant::now()), timeout })
    }

    pub(crate) fn begin(self: &Rc<Self>) -> Busy {
        add(&self.active, 1);
        Busy(Rc::clone(self))
    }

    /// Completes when there was no request for the timeout.
    pub(crate) async fn idle(&self) {
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
        tokio::join!(release, activity.idle());
        assert!(start.elapsed() >= Duration::from_secs(35), "{:?}", start.elapsed());
    }
}
