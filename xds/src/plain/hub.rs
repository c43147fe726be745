//! Who watches which service. One task feeds it from the snapshots; a watch wakes up for changes of
//! its own service alone, and finds the newest state however many it missed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portolan_model::{Changes, Generation, Key, Place, ServiceEntry, ServiceKey, Snapshot};
use portolan_runtime::Update;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;

/// The watched services. Cheap to clone. Holds as many services as there are watches, at most.
#[derive(Clone, Debug, Default)]
pub struct Hub {
    watched: Arc<Mutex<Watched>>,
    services: Gauge,
}

#[derive(Debug, Default)]
struct Watched {
    snapshot: Arc<Snapshot>,
    services: BTreeMap<Subject, Followed>,
}

/// What is watched: a service and, for clients whose zone is that of their node, the node.
type Subject = (ServiceKey, Option<Arc<str>>);

/// A service that somebody watches.
#[derive(Debug)]
struct Followed {
    states: watch::Sender<State>,
    followers: usize,
}

/// A service at a generation.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The generation that brought it; 0 while there is no snapshot.
    pub generation: Generation,
    /// The service, if there is one.
    pub entry: Option<Arc<ServiceEntry>>,
    /// The zone of the node that is watched along with it, if that is known.
    pub zone: Option<Arc<str>>,
}

/// One watch of one service.
#[derive(Debug)]
pub struct Follower {
    hub: Hub,
    subject: Subject,
    states: watch::Receiver<State>,
}

impl Hub {
    /// A hub without watches; the gauge shows how many services are watched.
    #[must_use]
    pub fn new(services: Gauge) -> Self {
        Self { watched: Arc::default(), services }
    }

    /// Takes in what a publish changed. Costs as much as it changed, or as there are watched
    /// services where that is not known.
    pub fn apply(&self, update: Update) {
        let mut watched = self.lock();
        watched.snapshot = update.snapshot;
        let Watched { snapshot, services } = &*watched;
        match &update.changes {
            Changes::Nothing => {}
            Changes::Everything => {
                services.iter().for_each(|(subject, followed)| followed.tell(snapshot, subject));
            }
            Changes::Keys(keys) => {
                for key in keys {
                    Self::tell_of(key, snapshot, services);
                }
            }
        }
    }

    fn tell_of(key: &Key, snapshot: &Snapshot, services: &BTreeMap<Subject, Followed>) {
        match key {
            Key::Service(key) => {
                let of_service = services.range((key.clone(), None)..);
                for (subject, followed) in of_service.take_while(|((k, _), _)| k == key) {
                    followed.tell(snapshot, subject);
                }
            }
            // Nodes change seldom: a look at every watched service is cheap enough.
            Key::Node(name) => {
                for (subject, followed) in services {
                    if subject.1.as_ref() == Some(name) {
                        followed.tell(snapshot, subject);
                    }
                }
            }
            Key::Namespace(_)
            | Key::Pod(..)
            | Key::Gateway(_)
            | Key::Routes(_)
            | Key::BackendTls(_)
            | Key::Access(_) => {}
        }
    }

    /// Watches a service from the newest state on, which comes first, for a client in this place.
    #[must_use]
    pub fn follow(&self, key: &ServiceKey, place: &Place) -> (State, Follower) {
        let node = place.node.clone().filter(|_| place.zone.is_none());
        let subject = (key.clone(), node);
        let mut watched = self.lock();
        let Watched { snapshot, services } = &mut *watched;
        let now = || State::of(snapshot, &subject);
        let followed = services
            .entry(subject.clone())
            .or_insert_with(|| Followed { states: watch::Sender::new(now()), followers: 0 });
        followed.followers += 1;
        let states = followed.states.subscribe();
        let state = now();
        self.count(services.len());
        (state, Follower { hub: self.clone(), subject, states })
    }

    /// The generation that every follower was told of.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.lock().snapshot.generation()
    }

    fn count(&self, services: usize) {
        self.services.set(i64::try_from(services).unwrap_or(i64::MAX));
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A service as this snapshot has it.
    #[must_use]
    pub fn of(snapshot: &Snapshot, (key, node): &Subject) -> Self {
        let node = node.as_ref().and_then(|name| snapshot.node(name));
        Self {
            generation: snapshot.generation(),
            entry: snapshot.lookup(key).cloned(),
            zone: node.and_then(|node| node.zone.clone()),
        }
    }

    /// Whether it says the same as another, whatever their generations.
    fn is_same(&self, other: &Self) -> bool {
        let entries = match (&self.entry, &other.entry) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        entries && self.zone == other.zone
    }
}

impl Followed {
    /// Wakes the watches of the service unless it is what it was.
    fn tell(&self, snapshot: &Snapshot, subject: &Subject) {
        let new = State::of(snapshot, subject);
        self.states.send_if_modified(|state| {
            let differs = state.generation == Generation(0) || !state.is_same(&new);
            if differs {
                *state = new;
            }
            differs
        });
    }
}

impl Follower {
    /// Waits until the service is not what it was when last looked at.
    pub async fn changed(&mut self) {
        if self.states.changed().await.is_err() {
            // The hub keeps the other end for as long as this one is here.
            std::future::pending::<()>().await;
        }
    }

    /// Whether the service is not what it was when last looked at.
    #[must_use]
    pub fn has_changed(&self) -> bool {
        self.states.has_changed().unwrap_or(false)
    }

    /// The newest state.
    pub fn newest(&mut self) -> State {
        self.states.borrow_and_update().clone()
    }

    /// The generation of which this follower was told everything, unless it [`has_changed`].
    ///
    /// [`has_changed`]: Self::has_changed
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.hub.generation()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut watched = self.hub.lock();
        if let Some(followed) = watched.services.get_mut(&self.subject) {
            followed.followers -= 1;
            if followed.followers == 0 {
                watched.services.remove(&self.subject);
            }
        }
        self.hub.count(watched.services.len());
    }
}
