//! Mutated packets through both paths: no panic, and the rules that hold for every answer.

use hickory_proto::rr::RecordType;

use super::kit::{bytes, query, with_edns};
use crate::fuzzing::{self, Random, mutate};

const PACKETS: usize = 100_000;

#[test]
fn a_hundred_thousand_mutated_packets_do_no_harm() {
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
    let mut random = Random::seeded();
    for _ in 0..PACKETS {
        let message = query(names[random.below(names.len())], types[random.below(types.len())]);
        let edns = random.below(2) == 1;
        let mut packet = bytes(&if edns { with_edns(message, 4096) } else { message });
        mutate(&mut random, &mut packet);
        fuzzing::question(&packet);
    }
}

#[test]
fn a_hundred_thousand_mutated_answers_of_upstreams_do_no_harm() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/dns_upstream_answer");
    let files = std::fs::read_dir(folder).expect("the corpus is part of the repository");
    let seeds: Vec<Vec<u8>> = files
        .map(|file| std::fs::read(file.expect("readable").path()).expect("readable"))
        .collect();
    let mut random = Random::seeded();
    for _ in 0..PACKETS {
        let mut packet = seeds[random.below(seeds.len())].clone();
        mutate(&mut random, &mut packet);
        fuzzing::upstream_answer(&packet);
    }
}
