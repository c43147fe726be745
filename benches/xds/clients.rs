//! The clients' process: connects all, says when all have their first full state, and when all who
//! subscribed have a stamped change. Ends with its standard input.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use portolan_xds::resource::ResourceType::{self, Cluster, Endpoints, Listener, Route};
use portolan_xds::resource::route::HTTP_ROUTES;
use tokio::sync::Semaphore;

use super::grpc::{Read, Stream, Variant};
use super::reading::micros;
use super::world;

/// Stamps are below this.
pub(crate) const STAMPS: usize = 4096;
/// Streams being opened at once. More would only wait in the queues of the system, and where those
/// are full, for seconds.
const OPENING: usize = 200;

/// What all clients count on.
struct Shared {
    expected: [usize; 2],
    /// Clients that have a stamp, by hot service and number.
    stamps: [Vec<AtomicUsize>; 2],
    /// Clients that have not their first full state.
    lacking: AtomicUsize,
}

/// A client: what it asks for in turn, and what it lacks.
struct Client {
    stream: Stream,
    /// Types with the names of each, in the order they are asked for.
    steps: Vec<(ResourceType, Vec<String>)>,
    /// The step it is at, and resources still to come of it.
    step: usize,
    lacking: usize,
}

/// Runs `count` clients.
pub(crate) fn run(address: SocketAddr, variant: Variant, count: usize, envoy: bool) {
    let counters = || (0..STAMPS).map(|_| AtomicUsize::new(0)).collect();
    let shared = Arc::new(Shared {
        expected: world::subscribers(count),
        stamps: [counters(), counters()],
        lacking: AtomicUsize::new(count),
    });
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.spawn(async move {
        let opening = Arc::new(Semaphore::new(OPENING));
        for n in 0..count {
            let place = opening.clone().acquire_owned().await.expect("never closed");
            let steps = if envoy { everything() } else { some(n) };
            let shared = shared.clone();
            tokio::spawn(async move {
                let (kind, names) = &steps[0];
                let agent = if envoy { "envoy" } else { "gRPC Go" };
                let opened = Stream::open(address, variant, agent, kind.type_url(), names);
                let stream = opened.await;
                drop(place);
                serve(stream, steps, &shared).await;
            });
        }
    });
    for _line in std::io::stdin().lines() {}
}

/// What gRPC asks for, one after the other, to reach its services.
fn some(client: usize) -> Vec<(ResourceType, Vec<String>)> {
    let services = world::services(client);
    let targets: Vec<String> = services.iter().map(|n| world::target(*n)).collect();
    let clusters: Vec<String> = services.iter().map(|n| world::cluster(*n)).collect();
    let by_type = [Listener, Route, Cluster, Endpoints];
    let names = [targets.clone(), targets, clusters.clone(), clusters];
    by_type.into_iter().zip(names).collect()
}

/// What Envoy asks for; no names means all.
fn everything() -> Vec<(ResourceType, Vec<String>)> {
    let clusters = (0..world::SERVICES).map(world::cluster).collect();
    let routes = vec![HTTP_ROUTES.to_owned()];
    vec![(Cluster, Vec::new()), (Endpoints, clusters), (Listener, Vec::new()), (Route, routes)]
}

/// How many resources there are to a subscription.
fn wanted(kind: ResourceType, names: &[String]) -> usize {
    match (kind, names.len()) {
        (Cluster, 0) => usize::try_from(world::SERVICES).expect("small"),
        (_, 0) => 1,
        (_, named) => named,
    }
}

/// Takes whatever comes; the first type was asked for.
async fn serve(stream: Stream, steps: Vec<(ResourceType, Vec<String>)>, shared: &Shared) {
    let (kind, names) = &steps[0];
    let lacking = wanted(*kind, names);
    let mut client = Client { stream, steps, step: 0, lacking };
    loop {
        let (read, bytes) = client.stream.next().await;
        if let Some((hot, number)) = world::find_stamp(&bytes) {
            let counter = &shared.stamps[hot][usize::from(number)];
            if counter.fetch_add(1, Ordering::Relaxed) + 1 == shared.expected[hot] {
                println!("stamp {}", micros());
            }
        }
        if client.take(&read) && shared.lacking.fetch_sub(1, Ordering::Relaxed) == 1 {
            println!("full {}", micros());
        }
    }
}

impl Client {
    /// Takes a response; whether it completes the first full state.
    fn take(&mut self, read: &Read) -> bool {
        let kind = ResourceType::from_type_url(&read.type_url).expect("a type it asked for");
        let asked = self.steps.iter().find(|(k, _)| *k == kind).expect("a type it asked for");
        self.stream.ack(read, &asked.1);
        if self.steps.get(self.step).is_none_or(|(k, _)| *k != kind) {
            return false;
        }
        self.lacking = self.lacking.saturating_sub(read.resources);
        if self.lacking > 0 {
            return false;
        }
        self.step += 1;
        let Some((kind, names)) = self.steps.get(self.step) else { return true };
        self.lacking = wanted(*kind, names);
        self.stream.subscribe(kind.type_url(), names);
        false
    }
}
