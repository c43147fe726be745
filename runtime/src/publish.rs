//! How snapshots reach the roles: one publisher, any number of subscribers, newest wins.
//!
//! A slow subscriber costs nothing but its own delay: it is handed the newest snapshot together
//! with the union of what changed since the one it had (see [`portolan_model::publication`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use portolan_model::{Changes, Generation, Key, Publication, Snapshot};
use tokio::sync::watch;

/// The writing end.
#[derive(Debug)]
pub struct Publisher(watch::Sender<Publication>);

/// A reading end with its own place in the history.
#[derive(Clone, Debug)]
pub struct Subscriber {
    receiver: watch::Receiver<Publication>,
    seen: Generation,
}

/// What a subscriber is handed.
#[derive(Clone, Debug)]
pub struct Update {
    /// The newest snapshot.
    pub snapshot: Arc<Snapshot>,
    /// What differs from the last update; [`Changes::Everything`] on the first.
    pub changes: Changes,
}

/// A publisher and its first subscriber. Nothing is published yet (generation 0).
#[must_use]
pub fn channel() -> (Publisher, Subscriber) {
    let (sender, receiver) = watch::channel(Publication::default());
    (Publisher(sender), Subscriber { receiver, seen: Generation(0) })
}

impl Publisher {
    /// Publishes `content` as the next generation and returns its number.
    pub fn publish(&self, content: &Snapshot, changed: BTreeSet<Key>) -> Generation {
        let mut generation = Generation(0);
        self.0.send_modify(|publication| {
            *publication = publication.next(content, changed);
            generation = publication.generation();
        });
        generation
    }
}

impl Subscriber {
    /// Waits for a generation newer than the last one handed out; `None` once the publisher is
    /// gone and its last publication was handed out.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            let publication = self.receiver.borrow_and_update().clone();
            match publication.changes_since(self.seen) {
                Changes::Nothing => self.receiver.changed().await.ok()?,
                changes => {
                    self.seen = publication.generation();
                    return Some(Update { snapshot: publication.snapshot().clone(), changes });
                }
            }
        }
    }

    /// The newest snapshot, without waiting.
    #[must_use]
    pub fn newest(&self) -> Arc<Snapshot> {
        self.receiver.borrow().snapshot().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_subscriber_gets_the_newest_and_all_it_missed() {
        let (publisher, mut subscriber) = channel();
        let key = |n: &str| Key::Node(n.into());
        publisher.publish(&Snapshot::default(), [key("a")].into());
        let first = subscriber.next().await.expect("published");
        assert_eq!(first.changes, Changes::Everything);

        publisher.publish(&Snapshot::default(), [key("b")].into());
        publisher.publish(&Snapshot::default(), [key("c")].into());
        let second = subscriber.next().await.expect("published");
        assert_eq!(second.snapshot.generation(), Generation(3));
        assert_eq!(second.changes, Changes::Keys([key("b"), key("c")].into()));

        drop(publisher);
        assert!(subscriber.next().await.is_none());
    }
}
