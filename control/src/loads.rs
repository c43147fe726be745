//! What clients report of the clusters they send requests to, as the control loop is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

/// Loads that may wait for the loop; more are dropped, since a loop that is so far behind judges by
/// those that wait.
const WAITING: usize = 16;

/// What ended at a cluster within one interval, over all clients that report.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that ended well.
    pub good: f64,
    /// Requests that ended in an error.
    pub bad: f64,
    /// Requests whose answer was timed.
    pub timed: f64,
    /// The times of these together, in milliseconds: from the request to the head of its answer.
    pub millis: f64,
}

/// Loads of an interval, by cluster.
pub type Loads = BTreeMap<Arc<str>, Load>;

/// Where loads are told.
#[derive(Clone, Debug)]
pub struct LoadsSender(mpsc::Sender<Loads>);

/// Where the loop hears of them.
#[derive(Debug, Default)]
pub struct LoadsEnd(Option<mpsc::Receiver<Loads>>);

/// A way for loads from who gathers them to the loop.
#[must_use]
pub fn channel() -> (LoadsSender, LoadsEnd) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (LoadsSender(sender), LoadsEnd(Some(receiver)))
}

impl Load {
    /// Adds another interval.
    pub fn add(&mut self, other: &Self) {
        self.good += other.good;
        self.bad += other.bad;
        self.timed += other.timed;
        self.millis += other.millis;
    }
}

impl LoadsSender {
    /// Tells the loads of an interval; whether there was room.
    pub fn tell(&self, loads: Loads) -> bool {
        self.0.try_send(loads).is_ok()
    }
}

impl LoadsEnd {
    /// Whether loads are told at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The next ones; never, if nobody tells any.
    pub(crate) async fn next(&mut self) -> Loads {
        if let Some(receiver) = &mut self.0
            && let Some(loads) = receiver.recv().await
        {
            return loads;
        }
        self.0 = None;
        std::future::pending().await
    }
}
