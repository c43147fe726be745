//! A tonic channel that is balanced over the endpoints of a service and follows them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::transport::channel::Change;
use tonic::transport::{Channel, Endpoint as Target};

use crate::{Client, Endpoint, EndpointSet};

/// Changes that may wait for the channel. It takes them in with its next call; what else is due by
/// then is worked out from the newest set.
const CHANGES_WAITING: usize = 1024;
/// How long connecting to an endpoint may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

type Sets = BoxStream<'static, Result<EndpointSet, Status>>;
type Sender = mpsc::Sender<Change<SocketAddr, Target>>;

/// How to connect to an endpoint over HTTP/2 without TLS.
#[must_use]
pub fn plain_http(endpoint: &Endpoint) -> Target {
    let uri = format!("http://{}", endpoint.address);
    let target = Target::from_shared(uri).expect("an address makes a URI");
    target.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true)
}

impl Client {
    /// A channel whose calls are spread over the endpoints of a service, picked at random among those
    /// it is connected to. `connect` says how to connect to each, such as [`plain_http`].
    ///
    /// It waits for the first set, however long that takes. A task follows the endpoints for as long
    /// as the channel, or a clone of it, is there: new ones get calls once connected, those gone get
    /// no more, and calls they have are finished.
    ///
    /// While there is no endpoint, calls wait: give them a deadline. A call that meets an endpoint
    /// which does not answer fails with `UNAVAILABLE` and is not tried again. Weights are not looked
    /// at.
    ///
    /// # Errors
    /// The control plane's status if it refuses the request: a name that is none, missing rights.
    pub async fn balanced_channel(
        &self,
        service: impl Into<String>,
        connect: impl Fn(&Endpoint) -> Target + Send + 'static,
    ) -> Result<Channel, Status> {
        let mut sets = self.watch(service);
        let first = match sets.next().await {
            Some(first) => first?,
            None => return Err(Status::internal("the watch ended before its first set")),
        };
        let (channel, changes) = Channel::balance_channel(CHANGES_WAITING);
        let follower = Follower { sets, newest: first, told: BTreeSet::new(), connect, changes };
        follow(follower.run());
        Ok(channel)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the task ends with the channel, which holds the other end of the changes"
)]
fn follow(task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(task);
}

struct Follower<F> {
    sets: Sets,
    newest: EndpointSet,
    /// What the channel was told of.
    told: BTreeSet<SocketAddr>,
    connect: F,
    changes: Sender,
}

impl<F: Fn(&Endpoint) -> Target> Follower<F> {
    async fn run(mut self) {
        loop {
            let due = self.due();
            tokio::select! {
                permit = self.changes.reserve(), if due.is_some() => {
                    let (Ok(permit), Some(due)) = (permit, due) else { return };
                    let change = match due {
                        Due::Insert(endpoint) => {
                            self.told.insert(endpoint.address);
                            Change::Insert(endpoint.address, (self.connect)(&endpoint))
                        }
                        Due::Remove(address) => {
                            self.told.remove(&address);
                            Change::Remove(address)
                        }
                    };
                    permit.send(change);
                }
                set = self.sets.next() => match set {
                    Some(Ok(set)) => self.newest = set,
                    // It does not end after its first set.
                    Some(Err(_)) | None => return,
                },
                () = self.changes.closed() => return,
            }
        }
    }

    /// The next thing to tell the channel: what comes goes before what leaves.
    fn due(&self) -> Option<Due> {
        let endpoints = &self.newest.endpoints;
        let new = endpoints.values().find(|e| !self.told.contains(&e.address));
        new.map(|endpoint| Due::Insert(Arc::clone(endpoint))).or_else(|| {
            self.told.iter().find(|a| !endpoints.contains_key(a)).map(|a| Due::Remove(*a))
        })
    }
}

enum Due {
    Insert(Arc<Endpoint>),
    Remove(SocketAddr),
}
