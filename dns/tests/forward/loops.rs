//! Forwarding loops: what goes to an upstream comes back, is noticed, and makes no storm.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use tempfile::TempDir;

use crate::client::ask_a;
use crate::kit::{SOON, WEB, WEB_ADDRESS, closed, metric, rules, until, until_metric};
use crate::server::{Running, start, web};
use crate::upstream::{Upstream, answering};

const LOOPING: &str = "portolan_dns_upstream_looping";
/// Queries that all servers of a loop may see in a few seconds, ten of which are ours.
const NO_STORM: u64 = 200;

fn serve_at(address: SocketAddr, rule: String) -> Running {
    let mut config = rules(&[rule]);
    config.forward.timeout = Duration::from_millis(1500);
    let running = start(config, &address.to_string());
    running.publish(&[web(WEB_ADDRESS)]);
    running
}

fn queries(running: &Running) -> u64 {
    metric(running, "coredns_dns_requests_total", "")
}

#[test]
fn a_server_that_is_its_own_upstream_notices_and_says_so() {
    let address = closed();
    let running = serve_at(address, format!(". {address}"));
    let to = format!("to=\"udp://{address}\"");
    until_metric(&running, LOOPING, &to, 1);
    for n in 0..10 {
        let reply = ask_a(address, &format!("n{n}.example."));
        assert_eq!(reply.code(), ResponseCode::ServFail);
        assert_eq!(reply.error().map(|(code, _)| code), Some(22));
        assert!(reply.took < SOON, "{:?}", reply.took);
    }
    assert_eq!(ask_a(address, WEB).first(), WEB_ADDRESS, "cluster names are not concerned");
    assert!(queries(&running) < NO_STORM, "{}", queries(&running));
}

#[test]
fn a_question_asked_before_the_loop_is_noticed_makes_no_storm() {
    let address = closed();
    let running = serve_at(address, format!(". {address}"));
    // Right away, a race with the probe.
    let reply = ask_a(address, "early.example.");
    assert_eq!(reply.code(), ResponseCode::ServFail);
    assert!(reply.took < Duration::from_secs(2), "{:?}", reply.took);
    assert!(queries(&running) < 20, "{}", queries(&running));
}

#[test]
fn two_servers_that_forward_to_each_other_notice_and_go_on_without_a_storm() {
    let [one, two] = [closed(), closed()];
    assert_ne!(one, two);
    let first = serve_at(one, format!(". {two}"));
    let second = serve_at(two, format!(". {one}"));
    // Whoever probes first may find nobody there yet, and looks again.
    until("one of them to notice", || {
        metric(&first, LOOPING, "") + metric(&second, LOOPING, "") > 0
    });
    for n in 0..10 {
        for address in [one, two] {
            let reply = ask_a(address, &format!("n{n}.example."));
            assert_eq!(reply.code(), ResponseCode::ServFail, "{address}");
            assert!(reply.took < Duration::from_secs(5), "{address}: {:?}", reply.took);
        }
    }
    // Past the next look for loops, five seconds later: one of them still knows.
    let began = Instant::now();
    until("the next look", || began.elapsed() > Duration::from_millis(6500));
    let known = metric(&first, LOOPING, "") + metric(&second, LOOPING, "");
    assert!(known > 0, "the loop is there and nobody says so");
    let reply = ask_a(one, "late.example.");
    assert_eq!(reply.code(), ResponseCode::ServFail);
    let seen = queries(&first) + queries(&second);
    assert!(seen < NO_STORM, "{seen} queries");
    assert_eq!(ask_a(one, WEB).first(), WEB_ADDRESS);
    assert_eq!(ask_a(two, WEB).first(), WEB_ADDRESS);
}

#[test]
fn beside_a_looping_upstream_the_others_are_used() {
    let good = Upstream::start(answering("192.0.2.1"));
    let address = closed();
    let running = serve_at(address, format!(". {address} {}", good.label()));
    until_metric(&running, LOOPING, &format!("to=\"udp://{address}\""), 1);
    assert_eq!(metric(&running, LOOPING, &format!("to=\"{}\"", good.label())), 0);
    for n in 0..5 {
        let reply = ask_a(address, &format!("n{n}.example."));
        assert_eq!(reply.data(), ["192.0.2.1"]);
        assert!(reply.took < SOON, "{:?}", reply.took);
    }
}

#[test]
fn a_file_that_comes_to_name_the_server_itself_makes_a_loop_until_it_does_not() {
    let good = Upstream::start(answering("192.0.2.1"));
    let address = closed();
    let directory = TempDir::new().expect("a directory");
    let file = directory.path().join("resolv.conf");
    let name = |server: SocketAddr| {
        fs::write(&file, format!("nameserver {server}\n")).expect("written");
    };
    name(good.address);
    let running = serve_at(address, format!(". {}", file.display()));
    assert_eq!(ask_a(address, "a.example.").first(), "192.0.2.1");
    name(address);
    until_metric(&running, LOOPING, &format!("to=\"udp://{address}\""), 1);
    assert_eq!(ask_a(address, "b.example.").code(), ResponseCode::ServFail);
    name(good.address);
    let n = std::cell::Cell::new(0);
    until("the upstream that is none of us", || {
        n.set(n.get() + 1);
        ask_a(address, &format!("c{}.example.", n.get())).first() == "192.0.2.1"
    });
    assert!(queries(&running) < NO_STORM + n.get(), "{}", queries(&running));
}
