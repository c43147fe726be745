//! Random histories under random faults. Whatever happens, in the end what is published is what
//! the server has; and on the way nothing is missing that was there all the time.

use std::time::Duration;

use portolan_model::{ServiceKey, Snapshot};
use serde_json::Value;

use crate::support::apiserver::{ApiServer, Fault};
use crate::world::{World, import, namespace, node, pod, service, slice};

/// Histories unless `PORTOLAN_SIM_SEEDS` says otherwise, as `FIRST..END`.
const SEEDS: std::ops::Range<u64> = 0..2000;
/// Things that happen in a history.
const STEPS: u64 = 40;

/// A small generator, so that a seed means the same everywhere (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn octet(&mut self, limit: u8) -> u8 {
        u8::try_from(self.below(u64::from(limit))).expect("below 256")
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn some_service(random: &mut Random) -> (String, Value) {
    let n = random.octet(6);
    let ports: &[u16] = [&[80][..], &[80, 443], &[8080]][usize::from(random.octet(3))];
    let mut object = service(&format!("s{n}"), 10 + n, ports);
    if random.one_in(5) {
        object["spec"]["clusterIP"] = "None".into();
    }
    (format!("s{n}"), object)
}

fn some_slice(random: &mut Random) -> (String, Value) {
    let (service, number) = (format!("s{}", random.octet(6)), random.octet(3));
    let endpoints: Vec<(u8, bool)> =
        (0..random.octet(5)).map(|_| (1 + random.octet(8), !random.one_in(3))).collect();
    // An address stands in a slice once.
    let mut endpoints = endpoints;
    endpoints.sort_unstable();
    endpoints.dedup_by_key(|(octet, _)| *octet);
    (format!("{service}-{number}"), slice(&service, number, &endpoints))
}

fn step(random: &mut Random, server: &ApiServer) {
    match random.below(17) {
        0..=2 => {
            server.apply(some_service(random).1);
        }
        3 => {
            server.delete("Service", "shop", &some_service(random).0);
        }
        4..=7 => {
            server.apply(some_slice(random).1);
        }
        8 => {
            server.delete("EndpointSlice", "shop", &some_slice(random).0);
        }
        9 => {
            let zone = ["a", "b", "c"][usize::from(random.octet(3))];
            server.apply(node(random.octet(3), zone));
        }
        10 => {
            server.delete("Node", "", &format!("node-{}", random.octet(3)));
        }
        11 => {
            let name = format!("ns-{}", random.octet(3));
            if random.one_in(2) {
                server.apply(namespace(&name));
            } else {
                server.delete("Namespace", "", &name);
            }
        }
        12 => {
            let n = random.octet(3);
            if random.one_in(2) {
                server.apply(import(&format!("s{n}"), 10 + n));
            } else {
                server.delete("ServiceImport", "shop", &format!("s{n}"));
            }
        }
        13 => {
            let (name, octet) = (format!("p-{}", random.octet(3)), random.octet(3));
            let phase = ["Pending", "Running", "Succeeded"][usize::from(random.octet(3))];
            if random.one_in(3) {
                server.delete("Pod", "shop", &name);
            } else {
                server.apply(pod(&name, octet, phase));
            }
        }
        14 => server.bookmark(),
        15 => {
            if random.one_in(2) {
                server.compact();
            }
            if random.one_in(2) { server.close_watches() } else { server.cut_watches() }
        }
        _ => {
            server.hold_watches(true);
            server.hold_watches(false);
        }
    }
}

/// What stands all the time and must never be missing.
fn has_anchor(snapshot: &Snapshot) -> bool {
    let key = ServiceKey::new("shop", "anchor").expect("valid");
    snapshot.lookup(&key).is_some_and(|entry| entry.readiness() == (2, 2))
}

async fn history(seed: u64) {
    let mut random = Random(seed);
    let server =
        ApiServer::new().streaming_lists(!random.one_in(3)).gone_as_status(random.one_in(2));
    server.apply(service("anchor", 200, &[80]));
    server.apply(slice("anchor", 200, &[(1, true), (2, true)]));
    for _ in 0..random.below(10) {
        step(&mut random, &server);
    }
    let faults = Fault::one_of_each();
    let (mut chance, share) = (Random(seed ^ 0x5eed), random.below(4));
    let script = std::sync::Mutex::new(move || {
        let fault = usize::try_from(chance.below(u64::try_from(faults.len()).ok()?)).ok()?;
        (chance.below(8) < share).then(|| faults[fault].clone())
    });
    server.fail_when(move |_| (script.lock().expect("no panic while it is held"))());

    let start = if random.one_in(2) { World::with_pods } else { World::start };
    let mut world = start(&server);
    let mut watched = world.snapshots.clone();
    let mut seen = 0;
    for _ in 0..STEPS {
        step(&mut random, &server);
        let pause = [0, 1, 5, 50, 500, 20_000][usize::from(random.octet(6))];
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if watched.newest().generation().0 > seen {
            let update = watched.next().await.expect("the loop runs");
            seen = update.snapshot.generation().0;
            assert!(has_anchor(&update.snapshot), "seed {seed}: generation {seen} lacks it");
        }
    }
    server.clear_faults();
    world.settle(&format!("seed {seed}")).await;
    world.finish().await;
}

#[test]
fn whatever_happens_the_snapshot_ends_up_as_the_server_has_it() {
    let range = std::env::var("PORTOLAN_SIM_SEEDS").ok();
    let seeds = range.as_deref().and_then(|text| text.split_once("..")).map_or(SEEDS, |(a, b)| {
        let number = |text: &str| text.parse().expect("PORTOLAN_SIM_SEEDS is FIRST..END");
        number(a)..number(b)
    });
    let middle = seeds.start + (seeds.end - seeds.start) / 2;
    // Each half on a core of its own, each history on a clock of its own.
    std::thread::scope(|scope| {
        for half in [seeds.start..middle, middle..seeds.end] {
            scope.spawn(|| {
                for seed in half {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .start_paused(true)
                        .build()
                        .expect("a runtime");
                    runtime.block_on(history(seed));
                }
            });
        }
    });
}
