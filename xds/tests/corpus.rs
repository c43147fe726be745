//! Every input of the fuzzer's corpus, through the function the fuzzer calls, as it is and with a
//! few things changed about it.

use std::fs;
use std::path::Path;

use portolan_xds::fuzzing::requests;

/// Inputs made of each one of the corpus.
const MUTATIONS: usize = 2_000;
/// Inputs the corpus has at least.
const LEAST: usize = 20;

/// splitmix64: enough to mutate with, and a seed says it all.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let limit = u64::try_from(limit.max(1)).expect("fits");
        usize::try_from((z ^ (z >> 31)) % limit).expect("below a usize")
    }

    fn octet(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("below 256")
    }
}

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/xds_request");
    let read = |entry: fs::DirEntry| {
        let bytes = fs::read(entry.path()).expect("readable");
        (entry.file_name().to_string_lossy().into_owned(), bytes)
    };
    let entries = fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut all: Vec<_> = entries.map(|entry| read(entry.expect("readable"))).collect();
    all.sort();
    assert!(all.len() >= LEAST, "{} inputs in {}", all.len(), folder.display());
    all
}

/// Changes a few octets, or goes on with a piece of another input.
fn mutate(random: &mut Random, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(5) {
        let at = random.below(input.len());
        match random.below(6) {
            0 => input.truncate(at),
            1 => input.insert(at.min(input.len()), random.octet()),
            2 if !input.is_empty() => input[at] = random.octet(),
            3 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            4 if !input.is_empty() => drop(input.remove(at)),
            // Steps of another stream, without its first octet.
            _ => input.extend_from_slice(other.get(1..).unwrap_or_default()),
        }
    }
}

#[test]
fn the_corpus_of_requests_does_no_harm() {
    for (name, bytes) in corpus() {
        println!("{name} ({} octets)", bytes.len());
        requests(&bytes);
    }
}

#[test]
fn requests_that_are_nearly_right_do_no_harm() {
    let given = std::env::var("PORTOLAN_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
    println!("PORTOLAN_SEED={seed}");
    let (mut random, corpus) = (Random(seed), corpus());
    for (_, bytes) in &corpus {
        for _ in 0..MUTATIONS {
            let mut input = bytes.clone();
            let other = random.below(corpus.len());
            mutate(&mut random, &mut input, &corpus[other].1);
            requests(&input);
        }
    }
}
