//! What makes an answer hard to forge: ids, source ports, the case of names (RFC 5452).

use std::collections::HashSet;

use crate::client::{ask, ask_a};
use crate::kit::{forwarding, serve};
use crate::message::Question;
use crate::upstream::{Upstream, answering};

/// Questions asked one after the other.
const QUESTIONS: usize = 200;

#[test]
fn ids_and_source_ports_are_many_and_no_port_serves_for_long() {
    let upstream = Upstream::start(answering("192.0.2.1"));
    let running = serve(forwarding(&[&upstream]));
    for n in 0..QUESTIONS {
        assert_eq!(ask_a(running.address(), &format!("n{n}.example.")).first(), "192.0.2.1");
    }
    let asked = upstream.asked();
    assert_eq!(asked.len(), QUESTIONS);
    let ids: HashSet<u16> = asked.iter().map(|a| a.message.metadata.id).collect();
    // Two of 200 alike are expected in one run of four; five or more in none.
    assert!(ids.len() > QUESTIONS - 5, "{} ids", ids.len());
    let steps = asked.windows(2).filter(|pair| {
        let (one, two) = (pair[0].message.metadata.id, pair[1].message.metadata.id);
        one.wrapping_add(1) == two
    });
    assert!(steps.count() < 5, "ids are counted up");
    let mut ports: Vec<u16> = asked.iter().map(|a| a.from.port()).collect();
    let longest = ports.chunk_by(|one, two| one == two).map(<[u16]>::len).max();
    assert!(longest <= Some(16), "one port served {longest:?} questions in a row");
    ports.dedup();
    let in_order = ports.windows(2).filter(|pair| pair[0].wrapping_add(1) == pair[1]).count();
    assert!(in_order < ports.len() / 2, "ports are counted up: {ports:?}");
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() >= QUESTIONS / 16, "{} ports", ports.len());
}

#[test]
fn names_go_out_in_random_case_and_come_back_in_the_clients() {
    let upstream = Upstream::start(answering("192.0.2.1"));
    let running = serve(forwarding(&[&upstream]));
    let name = |n: usize| format!("n{n}.WWW.some-Longer.exAMPle.");
    for n in 0..50 {
        // The second time it comes from the cache.
        for _ in 0..2 {
            let reply = ask_a(running.address(), &name(n));
            assert_eq!(reply.message.queries[0].name().to_ascii(), name(n));
            assert_eq!(reply.message.answers[0].name.to_ascii(), name(n));
        }
    }
    let asked = upstream.asked();
    assert_eq!(asked.len(), 50);
    let tail = |name: &str| name.split_once('.').map(|(_, rest)| rest.to_owned());
    let cases: HashSet<_> = asked.iter().map(|a| tail(&a.name())).collect();
    assert!(cases.len() > 45, "{} spellings of one name", cases.len());
    let spelled = |upper: bool| {
        let letters = asked.iter().flat_map(|a| a.name().into_bytes());
        letters
            .filter(|c| if upper { c.is_ascii_uppercase() } else { c.is_ascii_lowercase() })
            .count()
    };
    let (upper, lower) = (spelled(true), spelled(false));
    assert!(upper > lower / 2 && lower > upper / 2, "{upper} large and {lower} small letters");
}

#[test]
fn one_name_in_many_cases_is_one_name() {
    let upstream = Upstream::start(answering("192.0.2.1"));
    let running = serve(forwarding(&[&upstream]));
    for name in ["www.example.", "WWW.example.", "www.EXAMPLE.", "wWw.eXaMpLe."] {
        let reply = ask(running.address(), &Question::a(name));
        assert_eq!(reply.message.answers[0].name.to_ascii(), name);
    }
    assert_eq!(upstream.count("www.example."), 1);
}
