//! The control plane gone, and the server's own end.

use std::time::{Duration, Instant};

use crate::client::{HOME, Stream, ask_a, ask_over_tcp, send};
use crate::kit::{WEB, WEB_ADDRESS, forwarding, metric, pass, serve, until};
use crate::message::Question;
use crate::server::bind;
use crate::upstream::{Upstream, answering, answering_after, silent};

#[test]
fn without_a_control_plane_cluster_names_stay_as_they_were_and_forwarding_goes_on() {
    let upstream = Upstream::start(answering("192.0.2.1"));
    let running = serve(forwarding(&[&upstream]));
    let address = running.address();
    drop(running.publisher);
    let began = Instant::now();
    let mut asked = 0;
    while began.elapsed() < Duration::from_millis(1200) {
        assert_eq!(ask_a(address, WEB).first(), WEB_ADDRESS);
        assert_eq!(ask_over_tcp(address, &Question::a(WEB)).first(), WEB_ADDRESS);
        asked += 1;
        assert_eq!(ask_a(address, &format!("n{asked}.example.")).first(), "192.0.2.1");
        pass(Duration::from_millis(50));
    }
    assert_eq!(upstream.asked().len(), asked);
}

#[test]
fn questions_that_wait_for_an_upstream_when_the_drain_begins_are_answered() {
    let upstream = Upstream::start(answering_after("192.0.2.1", 400));
    let bound = bind(forwarding(&[&upstream]), "127.0.0.1:0");
    let lifecycle = bound.lifecycle.clone();
    let running = bound.run();
    let address = running.address();
    let datagram = send(address, HOME, &Question::a("a.example."));
    let mut stream = Stream::open(address);
    stream.send(7, &Question::a("b.example."));
    until("both to be under way", || {
        metric(&running, "portolan_dns_forward_inflight", "") == 2 && upstream.asked().len() == 2
    });
    lifecycle.drain();
    let began = Instant::now();
    running.stop().expect("a clean drain");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(datagram.reply().data(), ["192.0.2.1"]);
    assert_eq!(stream.next().data(), ["192.0.2.1"]);
    assert!(stream.ends(), "after its answer the connection is closed");
}

#[test]
fn a_drain_ends_in_time_though_every_upstream_is_dead() {
    let upstream = Upstream::start(silent());
    let mut config = forwarding(&[&upstream]);
    config.forward.timeout = Duration::from_millis(800);
    let running = serve(config);
    let pending = send(running.address(), HOME, &Question::a("a.example."));
    until("it to be under way", || metric(&running, "portolan_dns_forward_inflight", "") == 1);
    let label = upstream.label();
    let began = Instant::now();
    running.stop().expect("a clean drain");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    pending.reply().assert_unreachable(&label);
}
