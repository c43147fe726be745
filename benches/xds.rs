//! The xDS server at 10,000 services and 150,000 endpoints, under 1 to 5,000 streams of both
//! variants, each on a connection of its own: the time to the first full state of all, memory and
//! idle time of a stream, what a pushed change costs and how soon everybody has it, what a change
//! costs that concerns nobody; and a few clients that want everything, as Envoy does.
//!
//! `cargo bench --bench xds [-- [sotw|delta] [STREAMS…] [envoy]]`. The server runs in a process of
//! its own for each row, and the clients in another, on the same machine: delays contain the
//! clients' own work. Streams are let in as fast as they come; by default it is 1,000 a second.

#![expect(clippy::disallowed_methods, reason = "tasks end with their process")]

#[path = "xds/clients.rs"]
mod clients;
#[path = "xds/grpc.rs"]
mod grpc;
#[path = "xds/reading.rs"]
mod reading;
#[path = "xds/row.rs"]
mod row;
#[path = "xds/world.rs"]
mod world;

use std::process::Command;

use grpc::Variant;

/// What the binary runs with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const STREAMS: [usize; 4] = [1, 100, 1_000, 5_000];
/// Clients that want everything.
const ENVOYS: [usize; 2] = [1, 10];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().expect("a number");
    let variant = |text: &str| Variant::parse(text).expect("a variant");
    match words[..] {
        ["--row", v, count] => row::streams(variant(v), number(count)),
        ["--envoys", v, count] => row::envoys(variant(v), number(count)),
        ["--clients", address, v, count, kind] => {
            let address = address.parse().expect("an address");
            clients::run(address, variant(v), number(count), kind == "envoy");
        }
        _ => tables(&words),
    }
}

/// Every row in a process of its own, so that none inherits the memory of another.
fn tables(words: &[&str]) {
    let mut variants: Vec<&str> =
        words.iter().copied().filter(|word| Variant::parse(word).is_some()).collect();
    if variants.is_empty() {
        variants = vec!["sotw", "delta"];
    }
    let mut streams: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let envoys = words.contains(&"envoy");
    if streams.is_empty() && !envoys {
        streams = STREAMS.to_vec();
    }
    if !streams.is_empty() {
        row::print_streams_head();
        for variant in &variants {
            for count in &streams {
                child("--row", variant, *count);
            }
        }
        println!();
    }
    if envoys || words.iter().all(|word| Variant::parse(word).is_some()) {
        row::print_envoys_head();
        for variant in &variants {
            for count in ENVOYS {
                child("--envoys", variant, count);
            }
        }
    }
}

fn child(what: &str, variant: &str, count: usize) {
    let program = std::env::current_exe().expect("this program");
    // 5,000 connections are over the soft limit of many systems.
    let raise = r#"ulimit -n "$(ulimit -Hn)" && exec "$0" "$@""#;
    let mut command = Command::new("sh");
    command.arg("-c").arg(raise).arg(program).args([what, variant, &count.to_string()]);
    let status = command.status().expect("it starts");
    assert!(status.success(), "{what} {variant} {count}: {status}");
}
