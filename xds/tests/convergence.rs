//! Server session and client session against each other, over random histories: whatever happens
//! on the way, in the end the client holds exactly the truth, and the catalog built step by step
//! is the one built in one go.

mod support;

use std::collections::VecDeque;

use portolan_model::Generation;
use portolan_proto::envoy::discovery::{DiscoveryRequest, DiscoveryResponse};
use portolan_xds::client::session::Session as Client;
use portolan_xds::resource::ResourceType;
use portolan_xds::server::session::{Session as Server, Variant};
use portolan_xds::server::wire::Open;
use support::{Told, World, entry, on_the_wire};

/// A small generator with a printed seed (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % sides
    }
}

/// A stream between them, with messages under way in both directions.
struct Stream {
    server: Told,
    up: VecDeque<DiscoveryRequest>,
    down: VecDeque<DiscoveryResponse>,
}

impl Stream {
    fn open(client: &mut Client) -> Self {
        let server = Told::new(Server::new(Variant::Sotw, None, 1000));
        Self { server, up: client.start().into(), down: VecDeque::new() }
    }

    fn server_reads(&mut self) {
        if let Some(request) = self.up.pop_front() {
            self.server.session.on_request(request.open().0, 1).expect("within limits");
        }
    }

    fn server_writes(&mut self, world: &World) -> bool {
        let response = self.server.next_response(world);
        let wrote = response.is_some();
        self.down.extend(response.as_ref().map(on_the_wire));
        wrote
    }

    fn client_reads(&mut self, client: &mut Client) {
        if let Some(response) = self.down.pop_front() {
            let step = client.on_response(response);
            assert!(step.errors.is_empty(), "{:?}", step.errors);
            self.up.extend(step.requests);
        }
    }
}

fn change(world: &mut World, dice: &mut Dice) {
    let names = ["web", "db", "api", "cart", "pay"];
    for _ in 0..=dice.roll(3) {
        let pick = usize::try_from(dice.roll(5)).expect("small");
        let port = 80 + u16::try_from(dice.roll(2)).expect("small");
        let count = dice.roll(4);
        let endpoints: Vec<(u8, bool)> = (0..count)
            .map(|_| (u8::try_from(1 + dice.roll(20)).expect("small"), dice.roll(3) > 0))
            .collect();
        if dice.roll(4) == 0 {
            world.delete(names[pick]);
        } else {
            world.apply(entry(names[pick], port, &endpoints));
        }
    }
    world.publish();
}

fn run(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut world = World::default();
    world.publish();
    let mut client = Client::default();
    let mut stream = Stream::open(&mut client);
    for _ in 0..200 {
        match dice.roll(20) {
            0..=2 => change(&mut world, &mut dice),
            3 => stream = Stream::open(&mut client),
            4..=8 => stream.server_reads(),
            9..=13 => {
                stream.server_writes(&world);
            }
            _ => stream.client_reads(&mut client),
        }
    }
    loop {
        let wrote = stream.server_writes(&world);
        let idle = stream.up.is_empty() && stream.down.is_empty() && !wrote;
        stream.server_reads();
        stream.client_reads(&mut client);
        if idle {
            break;
        }
    }
    check(seed, &world, &client);
}

fn check(seed: u64, world: &World, client: &Client) {
    let rebuilt = world.rebuilt();
    for kind in ResourceType::ALL {
        assert_eq!(world.catalog.wildcard(kind), rebuilt.wildcard(kind), "seed {seed}, {kind:?}");
    }
    let config = client.config();
    assert!(client.is_complete(), "seed {seed}: {config:?}");
    assert_eq!(config.generation, Some(world.catalog.generation()), "seed {seed}");
    // A client that connects now gets the truth in one go; the one with the history must hold
    // the same.
    let mut fresh = Client::default();
    let mut stream = Stream::open(&mut fresh);
    for _ in 0..100 {
        stream.server_reads();
        stream.server_writes(world);
        stream.client_reads(&mut fresh);
    }
    assert_eq!(config, fresh.config(), "seed {seed}");
    assert_ne!(config.generation, Some(Generation(0)));
    let ports: usize = world.snapshot.services().map(|(_, e)| e.service.ports.len()).sum();
    assert_eq!(config.clusters.len(), ports, "seed {seed}");
}

#[test]
fn every_client_ends_up_with_exactly_the_truth() {
    for seed in 0..400 {
        run(seed);
    }
}
