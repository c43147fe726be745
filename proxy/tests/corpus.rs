//! Every input of the fuzzer's corpora, through the functions the fuzzer calls, as it is, cut short,
//! and with a few things changed about it.

use std::fs;
use std::path::Path;

use portolan_proxy::fuzzing;

/// Inputs made of each one of a corpus.
const MUTATIONS: usize = 1_000;

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

    fn mutate(&mut self, input: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let (at, byte) = (self.below(input.len()), self.below(256));
            let byte = u8::try_from(byte).expect("below 256");
            match self.below(5) {
                0 => input.truncate(at),
                1 => input.insert(at, byte),
                2 if !input.is_empty() => input[at] = byte,
                3 if !input.is_empty() => input[at] ^= 1 << self.below(8),
                _ if !input.is_empty() => drop(input.remove(at)),
                _ => input.push(byte),
            }
        }
    }
}

/// Replays a corpus of at least so many inputs.
fn replay(name: &str, least: usize, parse: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).expect("the corpus is part of the repository");
    let mut inputs: Vec<Vec<u8>> =
        entries.map(|entry| fs::read(entry.expect("readable").path()).expect("readable")).collect();
    inputs.sort();
    assert!(inputs.len() >= least, "{} inputs in {}", inputs.len(), folder.display());
    let mut random = Random(5);
    for input in inputs {
        for end in 0..=input.len() {
            parse(&input[..end]);
        }
        for _ in 0..MUTATIONS {
            let mut input = input.clone();
            random.mutate(&mut input);
            parse(&input);
        }
    }
}

#[test]
fn no_bytes_harm_the_reader_of_http1() {
    replay("proxy_http1", 20, fuzzing::http1);
}

#[test]
fn no_bytes_harm_the_reader_of_http2() {
    replay("proxy_http2", 20, fuzzing::http2);
}

#[test]
fn no_bytes_harm_the_reader_of_proxy_headers() {
    replay("proxy_header", 15, fuzzing::proxy_protocol);
}

#[test]
fn no_bytes_harm_the_readers_of_fields() {
    replay("proxy_fields", 12, fuzzing::fields);
}

#[test]
fn no_bytes_harm_detection() {
    replay("proxy_classify", 12, fuzzing::classify);
}

#[test]
fn no_bytes_harm_the_reader_of_load_reports() {
    replay("proxy_load_report", 10, fuzzing::load_report);
}
