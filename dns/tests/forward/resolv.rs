//! Upstreams that a file in the format of resolv.conf names, followed while it changes.

use std::fs;
use std::path::Path;
use std::time::Duration;

use portolan_dns::{DnsConfig, DnsServer};
use portolan_runtime::Metrics;
use tempfile::TempDir;

use crate::client::ask_a;
use crate::kit::{pass, rules, serve, together, until};
use crate::upstream::{Upstream, answering};

fn naming(upstreams: &[&Upstream]) -> String {
    let line = |upstream: &&Upstream| format!("nameserver {}\n", upstream.address);
    let lines: String = upstreams.iter().map(line).collect();
    format!("# written by a test\nsearch example\n{lines}options ndots:5\n")
}

fn config(file: &Path) -> DnsConfig {
    rules(&[format!(". {}", file.display())])
}

/// Asks for names nobody has asked for until the answer is this.
fn until_answered_by(running: &crate::server::Running, tag: &str, address: &str) {
    let n = std::cell::Cell::new(0);
    until(&format!("answers of {address}"), || {
        n.set(n.get() + 1);
        ask_a(running.address(), &format!("{tag}{}.example.", n.get())).first() == address
    });
}

#[test]
fn upstreams_follow_the_file_however_it_is_written() {
    let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|a| Upstream::start(answering(a)));
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("resolv.conf");
    fs::write(&file, naming(&[&one])).expect("written");
    let running = serve(config(&file));
    assert_eq!(ask_a(running.address(), "first.example.").first(), "192.0.2.1");
    fs::write(&file, naming(&[&two, &one])).expect("written");
    until_answered_by(&running, "a", "192.0.2.2");
    // As a ConfigMap is written: another file takes its place.
    let next = directory.path().join("next");
    fs::write(&next, naming(&[&one])).expect("written");
    fs::rename(&next, &file).expect("renamed");
    until_answered_by(&running, "e", "192.0.2.1");
}

#[test]
fn the_last_good_upstreams_stay_while_the_file_is_broken() {
    let broken: [Option<&[u8]>; 4] =
        [Some(b""), Some(b"nameserver nobody\n"), Some(b"\xff\x00garbage"), None];
    together(&broken, |broken| {
        let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|a| Upstream::start(answering(a)));
        let directory = TempDir::new().expect("a directory");
        let file = directory.path().join("resolv.conf");
        fs::write(&file, naming(&[&one])).expect("written");
        let running = serve(config(&file));
        assert_eq!(ask_a(running.address(), "a.example.").first(), "192.0.2.1");
        match broken {
            Some(bytes) => fs::write(&file, bytes).expect("written"),
            None => fs::remove_file(&file).expect("removed"),
        }
        // Longer than it takes to notice.
        pass(Duration::from_millis(900));
        assert_eq!(ask_a(running.address(), "b.example.").first(), "192.0.2.1", "{broken:?}");
        fs::write(&file, naming(&[&two])).expect("written");
        until_answered_by(&running, "c", "192.0.2.2");
    });
}

#[test]
fn a_file_and_an_address_name_upstreams_together() {
    let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|a| Upstream::start(answering(a)));
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("resolv.conf");
    fs::write(&file, naming(&[&one])).expect("written");
    let running = serve(rules(&[format!(". {} {}", file.display(), two.label())]));
    assert_eq!(ask_a(running.address(), "a.example.").first(), "192.0.2.1");
    drop(one);
    assert_eq!(ask_a(running.address(), "b.example.").first(), "192.0.2.2");
}

#[test]
fn a_file_that_is_missing_or_names_nobody_at_the_start_is_an_error_that_names_it() {
    let directory = TempDir::new().expect("a directory");
    let missing = directory.path().join("missing.conf");
    let empty = directory.path().join("empty.conf");
    fs::write(&empty, "search example\n").expect("written");
    for file in [missing, empty] {
        let metrics = Metrics::new();
        let address = "127.0.0.1:0".parse().expect("an address");
        let error = DnsServer::bind(config(&file), &[address], &metrics).expect_err("refused");
        let shown = error.to_string();
        assert!(shown.contains(&file.display().to_string()), "{shown}");
    }
}
