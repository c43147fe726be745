//! Server session and our own client's session against each other, over random histories: whatever
//! happens on the way, in the end the client holds exactly the truth, and the catalog built step by
//! step is the one built in one go.
//!
//! Histories are made once and shared by the seeds: nearly all the time went into encoding.

mod support;

use std::collections::VecDeque;
use std::sync::OnceLock;

use portolan_model::traffic::TrafficConfig;
use portolan_model::{Changes, Generation};
use portolan_proto::envoy::discovery::{DiscoveryRequest, DiscoveryResponse};
use portolan_xds::catalog::{Catalog, Changed};
use portolan_xds::client::session::Session as Client;
use portolan_xds::resource::ResourceType;
use portolan_xds::server::session::{Session as Server, Variant};
use portolan_xds::server::wire::Open;
use support::{Dice, World, entry, on_the_wire, run_seeds, seeds, some_endpoints};

/// Histories, and publishes in each.
const HISTORIES: u64 = 24;
const CHAPTERS: usize = 24;
/// Things that happen before the messages under way arrive.
const STEPS: u64 = 160;

/// What was published, and what each publish changed.
struct History {
    chapters: Vec<(Catalog, Changed)>,
    /// The catalog at the end, built in one go, and what a client makes of it.
    rebuilt: Catalog,
    truth: TrafficConfig,
    ports: usize,
}

/// A stream between them, with messages under way in both directions.
struct Stream {
    server: Server,
    up: VecDeque<DiscoveryRequest>,
    down: VecDeque<DiscoveryResponse>,
}

impl Stream {
    fn open(client: &mut Client) -> Self {
        let server = Server::new(Variant::Sotw, None, 1000);
        Self { server, up: client.start().into(), down: VecDeque::new() }
    }

    fn server_reads(&mut self) {
        if let Some(request) = self.up.pop_front() {
            self.server.on_request(request.open().0, 1).expect("within limits");
        }
    }

    fn server_writes(&mut self, catalog: &Catalog) -> bool {
        let response = self.server.next_response(catalog, 1);
        self.down.extend(response.as_ref().map(on_the_wire));
        response.is_some()
    }

    fn client_reads(&mut self, client: &mut Client) {
        if let Some(response) = self.down.pop_front() {
            let step = client.on_response(response);
            assert!(step.errors.is_empty(), "{:?}", step.errors);
            self.up.extend(step.requests);
        }
    }

    /// All that is under way arrives.
    fn finish(&mut self, catalog: &Catalog, client: &mut Client) {
        loop {
            let wrote = self.server_writes(catalog);
            let idle = self.up.is_empty() && self.down.is_empty() && !wrote;
            self.server_reads();
            self.client_reads(client);
            if idle {
                return;
            }
        }
    }
}

fn change(world: &mut World, dice: &mut Dice) {
    let names = ["web", "db", "api", "cart", "pay"];
    for _ in 0..=dice.roll(3) {
        let (name, port) = (*dice.pick(&names), *dice.pick(&[80, 81]));
        if dice.one_in(4) {
            world.delete(name);
        } else {
            world.apply(entry(name, port, &some_endpoints(dice, 3)));
        }
    }
    world.publish();
}

fn make(number: u64) -> History {
    let (mut dice, mut world) = (Dice::new(number), World::default());
    world.publish();
    let mut chapters = vec![(world.catalog.clone(), world.changed().clone())];
    while chapters.len() < CHAPTERS {
        change(&mut world, &mut dice);
        chapters.push((world.catalog.clone(), world.changed().clone()));
    }
    // A client that connects now gets the truth in one go.
    let mut fresh = Client::default();
    Stream::open(&mut fresh).finish(&world.catalog, &mut fresh);
    History {
        chapters,
        rebuilt: world.rebuilt(),
        truth: fresh.config().clone(),
        ports: world.snapshot.services().map(|(_, e)| e.service.ports.len()).sum(),
    }
}

fn history(seed: u64) -> &'static History {
    static ALL: OnceLock<Vec<OnceLock<History>>> = OnceLock::new();
    let all = ALL.get_or_init(|| (0..HISTORIES).map(|_| OnceLock::new()).collect());
    let number = seed % HISTORIES;
    all[usize::try_from(number).expect("small")].get_or_init(|| make(number))
}

fn run(seed: u64) {
    let (mut dice, history) = (Dice::new(seed), history(seed));
    let mut chapters = history.chapters.iter();
    let mut catalog = &chapters.next().expect("one at least").0;
    let mut client = Client::default();
    let mut stream = Stream::open(&mut client);
    for _ in 0..STEPS {
        match dice.roll(20) {
            0..=2 => {
                if let Some((newer, changed)) = chapters.next() {
                    catalog = newer;
                    stream.server.on_changes(&Changes::Keys(changed.clone()));
                }
            }
            3 => stream = Stream::open(&mut client),
            4..=8 => stream.server_reads(),
            9..=13 => {
                stream.server_writes(catalog);
            }
            _ => stream.client_reads(&mut client),
        }
    }
    for (newest, changed) in chapters {
        catalog = newest;
        stream.server.on_changes(&Changes::Keys(changed.clone()));
    }
    stream.finish(catalog, &mut client);
    check(history, catalog, &client);
}

fn check(history: &History, catalog: &Catalog, client: &Client) {
    let config = client.config();
    assert!(client.is_complete(), "{config:?}");
    assert_eq!(config.generation, Some(catalog.generation()));
    assert_ne!(config.generation, Some(Generation(0)));
    assert_eq!(*config, history.truth, "the one with the history holds the same");
    assert_eq!(config.clusters.len(), history.ports);
}

#[test]
fn every_client_ends_up_with_exactly_the_truth() {
    run_seeds(seeds(0..800), run);
}

#[test]
fn a_catalog_built_step_by_step_is_the_one_built_in_one_go() {
    for number in 0..HISTORIES {
        let history = history(number);
        let (catalog, _) = history.chapters.last().expect("one at least");
        for kind in ResourceType::ALL {
            assert_eq!(catalog.wildcard(kind), history.rebuilt.wildcard(kind), "{number} {kind:?}");
        }
    }
}
