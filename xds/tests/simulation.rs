//! Servers and clients of both variants over a network that delays, cuts and loses, through random
//! histories. Whatever happens, in the end every client has exactly what there is for it, but for
//! the versions it refuses; and on the way no rule of the protocol is broken.
//!
//! The clients and the rules are written from the xDS protocol document alone: `client` is what it
//! makes of a client, `mirror` what a server may know and say.
//!
//! `PORTOLAN_SIM_SEEDS=7` runs one seed, `0..100000` more of them; with `PORTOLAN_SIM_TRACE=1` what
//! servers read and write is printed.

mod support;

#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/history.rs"]
mod history;
#[path = "simulation/known.rs"]
mod known;
#[path = "simulation/mirror.rs"]
mod mirror;
#[path = "simulation/stream.rs"]
mod stream;

use client::{Client, Style, Temper};
use history::{CHAPTERS, Chapter, History};
use portolan_xds::resource::ResourceType::{Cluster, Generation, Route};
use portolan_xds::resource::route;
use portolan_xds::server::session::Variant;
use stream::Stream;
use support::{Dice, run_seeds, seeds};

/// Things that happen before the network heals.
const STEPS: u64 = 160;
/// Responses to a client after the last change, at most.
const MAX_RESPONSES: usize = 64;

/// Steps in which a slow client reads nothing.
const SLEEP: u64 = 50;

/// One client and its stream, if it has one.
struct Peer {
    client: Client,
    stream: Option<Stream>,
    /// For how many of its turns it will read nothing.
    asleep: u64,
}

/// A server and its clients.
struct Simulation {
    history: &'static History,
    /// The chapter that is in force, and whether the server was restarted.
    chapter: usize,
    restarted: bool,
    peers: Vec<Peer>,
    dice: Dice,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let peers = (0..1 + dice.roll(3))
            .map(|_| Peer { client: Client::new(&mut dice), stream: None, asleep: 0 })
            .collect();
        Self { history: history::of(seed), chapter: 0, restarted: false, peers, dice }
    }

    fn now(&self) -> &'static Chapter {
        if self.restarted {
            &self.history.after[self.chapter - self.history.turn]
        } else {
            &self.history.before[self.chapter]
        }
    }

    fn step(&mut self) {
        let catalog = &self.now().catalog;
        let at = self.dice.below(self.peers.len());
        let (what, dice) = (self.dice.roll(64), &mut self.dice);
        match what {
            0..=5 => return self.publish(),
            6 if self.chapter == self.history.turn => return self.restart_server(),
            _ => {}
        }
        let Peer { client, stream, asleep } = &mut self.peers[at];
        *asleep = asleep.saturating_sub(1);
        let Some(stream) = stream else {
            if what > 30 {
                self.peers[at].stream = Some(Stream::open(client, dice));
            }
            return;
        };
        match what {
            0..=8 => {
                let stream = self.peers[at].stream.take().expect("open");
                stream.cut();
                if what == 8 {
                    self.peers[at].client.restart();
                }
            }
            9..=13 => {
                let requests = client.on_whim(dice);
                stream.up.extend(requests);
            }
            14 => stream.session.release(),
            15 => stream.session.keep_alive(),
            16 => stream.overflow(),
            17 => *asleep = SLEEP,
            18..=31 => drop(stream.server_reads()),
            32..=46 => {
                let limit = 1 + dice.below(3);
                stream.server_writes(catalog, limit);
            }
            _ if *asleep > 0 => {}
            _ => {
                stream.client_reads(client, dice);
                self.check_order(at);
            }
        }
    }

    fn publish(&mut self) {
        if self.chapter + 1 == CHAPTERS {
            return;
        }
        self.chapter += 1;
        let changed = &self.now().changed;
        for stream in self.peers.iter_mut().filter_map(|peer| peer.stream.as_mut()) {
            stream.on_publish(changed);
        }
    }

    /// All streams end; the new server has the same content, and generations of its own.
    fn restart_server(&mut self) {
        self.peers.iter_mut().filter_map(|peer| peer.stream.take()).for_each(Stream::cut);
        self.restarted = true;
    }

    /// The network heals, what is left is published, and nobody changes their mind any more.
    fn settle(&mut self) {
        while self.chapter + 1 < CHAPTERS {
            self.publish();
        }
        let chapter = self.now();
        for at in 0..self.peers.len() {
            let Peer { client, stream, .. } = &mut self.peers[at];
            client.moody = false;
            let stream = stream.get_or_insert_with(|| Stream::open(client, &mut self.dice));
            let before = stream.written;
            loop {
                let moved = stream.server_reads()
                    | stream.server_writes(&chapter.catalog, usize::MAX)
                    | stream.client_reads(client, &mut self.dice);
                if !moved && !stream.session.is_holding() {
                    break;
                }
                if !moved {
                    // The client had its time.
                    stream.session.release();
                }
                let count = stream.written - before;
                assert!(count <= MAX_RESPONSES, "{count} responses and no end: {client:?}");
            }
            self.check_order(at);
            self.check_truth(at);
        }
    }

    /// Make before break: a proxy that has a route to a cluster has the cluster.
    fn check_order(&self, at: usize) {
        let Peer { client, .. } = &self.peers[at];
        if client.style != Style::Proxy || !client.has_routes || client.is_out_of_order {
            return;
        }
        let held = |kind| client.types.get(&kind).map(|state| &state.held);
        let table = held(Route).and_then(|routes| routes.get(route::HTTP_ROUTES));
        let (Some(table), Some(clusters)) = (table, held(Cluster)) else { return };
        for name in &self.history.routes[table] {
            assert!(clusters.contains_key(name), "a route leads to {name}, which is not there");
        }
    }

    fn check_truth(&self, at: usize) {
        let (Peer { client, stream, .. }, catalog) = (&self.peers[at], &self.now().catalog);
        let stream = stream.as_ref().expect("it was just served");
        let mut refuses = false;
        for (kind, known) in &stream.mirror.types {
            let truth = known.truth(*kind, catalog, &client.viewer);
            let refused = known.refused_of(&truth);
            refuses |= !refused.is_empty();
            let held = &client.types[kind].held;
            for (name, version) in &truth {
                let has = held.get(name);
                let fine = has == Some(version) || refused.contains(name);
                assert!(fine, "{kind:?} {name}: {has:?} in place of {version}");
                assert!(!client.refuses(*version) || refused.contains(name), "{kind:?} {name}");
            }
            // Only a full set, or the other variant, can say that something is gone.
            let told = client.variant == Variant::Delta || kind.is_full_set();
            for name in held.keys().filter(|name| told && !truth.contains_key(*name)) {
                // One that takes nothing of what it refuses also keeps what was to go.
                let kept = client.temper == Temper::Strict && !known.has_taken;
                assert!(kept || known.unremoved.contains(name), "{kind:?} {name} is still there");
            }
        }
        assert_eq!(stream.session.is_settled(), !refuses, "{:?}", stream.session.status());
        if let Some(generation) = client.types.get(&Generation).filter(|_| !refuses) {
            let number = catalog.lookup(Generation, "generation").map(|encoded| encoded.version);
            let held = generation.held.get("generation").copied();
            assert!(!generation.names.contains("generation") || held == number);
        }
    }

    fn end(self) {
        self.peers.into_iter().filter_map(|peer| peer.stream).for_each(Stream::cut);
    }
}

#[test]
fn in_the_end_every_client_has_exactly_the_truth_and_no_rule_was_broken() {
    run_seeds(seeds(0..3000), |seed| {
        let mut simulation = Simulation::new(seed);
        for _ in 0..STEPS {
            simulation.step();
        }
        simulation.settle();
        simulation.end();
    });
}
