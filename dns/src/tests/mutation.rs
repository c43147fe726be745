//! Mutated packets through both paths: no panic, and the rules that hold for every answer.

use std::hash::{BuildHasher as _, RandomState};
use std::time::{SystemTime, UNIX_EPOCH};

use hickory_proto::rr::RecordType;

use super::kit::{bytes, query, with_edns};
use crate::fuzzing;

const PACKETS: usize = 100_000;

/// splitmix64: enough to mutate with, and a seed says it all.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit.max(1)).expect("fits");
        usize::try_from(self.next() % limit).expect("below a usize")
    }

    fn octet(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }
}

fn mutate(random: &mut Random, packet: &mut Vec<u8>) {
    for _ in 0..=random.below(6) {
        let at = random.below(packet.len());
        match random.below(6) {
            0 => packet.truncate(at),
            1 => packet.insert(at.min(packet.len()), random.octet()),
            2 if !packet.is_empty() => packet[at] = random.octet(),
            3 if !packet.is_empty() => packet[at] ^= 1 << random.below(8),
            4 if !packet.is_empty() => {
                packet.remove(at);
            }
            _ => {
                let piece = packet[at..].to_vec();
                packet.extend(piece.into_iter().take(40));
            }
        }
    }
}

#[test]
fn a_hundred_thousand_mutated_packets_do_no_harm() {
    let seed =
        std::env::var("PORTOLAN_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            RandomState::new().hash_one(now)
        });
    println!("PORTOLAN_SEED={seed}");
    let names = [
        "web.ns.svc.cluster.local.",
        "db.ns.svc.cluster.local.",
        "ext.ns.svc.cluster.local.",
        "_http._tcp.db.ns.svc.cluster.local.",
        "loop.ns.svc.cluster.local.",
        "cluster.local.",
        "1.0.96.10.in-addr.arpa.",
        "1.0.0.10.in-addr.arpa.",
        "example.com.",
        ".",
    ];
    let types = [RecordType::A, RecordType::SRV, RecordType::PTR, RecordType::NS, RecordType::ANY];
    let mut random = Random(seed);
    for _ in 0..PACKETS {
        let message = query(names[random.below(names.len())], types[random.below(types.len())]);
        let edns = random.below(2) == 1;
        let mut packet = bytes(&if edns { with_edns(message, 4096) } else { message });
        mutate(&mut random, &mut packet);
        fuzzing::question(&packet);
    }
}
