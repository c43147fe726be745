//! Answers that do not fit: glue goes first, then everything, with TC.

use hickory_proto::rr::RecordType::{self, A, SRV};
use portolan_model::Protocol::Tcp;
use portolan_model::ServiceKind::Headless;

use super::kit::*;
use crate::fast::Transport;
use crate::table::Table;

fn headless(endpoints: usize) -> Table {
    let endpoints = (0..endpoints)
        .map(|n| endpoint(&format!("10.{}.{}.{}", n / 65_536, n / 256 % 256, n % 256), None))
        .collect();
    let slices = vec![(vec![("p", Tcp, 80)], endpoints)];
    table(vec![service("n/s", Headless, &[("p", Tcp, 80)], slices)])
}

/// `(answers, additionals, TC)` on the fast path; the slow one must agree on the shape.
fn shape(
    table: &Table,
    name: &str,
    rtype: RecordType,
    payload: Option<u16>,
) -> (usize, usize, bool) {
    let query = query(name, rtype);
    let query = bytes(&payload.map_or(query.clone(), |payload| with_edns(query, payload)));
    let limit = usize::from(payload.unwrap_or(512).clamp(512, 1232));
    let shape = |answer: &[u8]| {
        assert!(answer.len() <= limit, "{} octets of {limit}", answer.len());
        let reply = decode(answer);
        assert_eq!(reply.queries.len(), 1);
        assert_eq!(reply.edns.is_some(), payload.is_some(), "OPT stays");
        (reply.answers.len(), reply.additionals.len(), reply.metadata.truncation)
    };
    let fast = shape(&fast_bytes(table, &query, Transport::Udp, 0).expect("plain"));
    let slow = shape(&slowly(table, &query, Transport::Udp).expect("an answer"));
    assert_eq!(fast, slow);
    fast
}

#[test]
fn addresses_that_do_not_fit_leave_an_empty_message_with_tc() {
    let name = "s.n.svc.cluster.local.";
    // Header and question are 39 octets, an OPT 11, an address 16.
    for (endpoints, payload, expected) in [
        (29, None, (29, 0, false)),
        (30, None, (0, 0, true)),
        (28, Some(512), (28, 0, false)),
        (29, Some(512), (0, 0, true)),
        (29, Some(100), (0, 0, true)),
        (29, Some(1232), (29, 0, false)),
        (73, Some(1232), (73, 0, false)),
        (74, Some(1232), (0, 0, true)),
        (74, Some(4096), (0, 0, true)),
    ] {
        let table = headless(endpoints);
        assert_eq!(shape(&table, name, A, payload), expected, "{endpoints} over {payload:?}");
    }
}

#[test]
fn glue_goes_before_answers_do() {
    let name = "_p._tcp.s.n.svc.cluster.local.";
    for (endpoints, payload, expected) in [
        (2, None, (2, 2, false)),
        (7, None, (7, 7, false)),
        (8, None, (8, 0, false)),
        (9, None, (9, 0, false)),
        (10, None, (0, 0, true)),
        (20, Some(1232), (20, 0, false)),
    ] {
        let table = headless(endpoints);
        assert_eq!(shape(&table, name, SRV, payload), expected, "{endpoints} over {payload:?}");
    }
}

#[test]
fn tcp_carries_what_udp_cannot() {
    let table = headless(1000);
    let reply = ask(&table, "s.n.svc.cluster.local.", A);
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (1000, false));
    // hickory compresses the first 120 names alone: too large for the slow path.
    let reply = fast(&table, &query("_p._tcp.s.n.svc.cluster.local.", SRV)).expect("plain");
    // Past offset 0x3fff no pointer reaches: glue there has its owner in full.
    assert_eq!((reply.answers.len(), reply.metadata.truncation), (1000, false));
    assert!(!reply.additionals.is_empty());
}

#[test]
fn a_set_larger_than_any_message_shows_a_window_that_moves() {
    let table = headless(5000);
    let query = bytes(&query("s.n.svc.cluster.local.", A));
    let mut seen = std::collections::BTreeSet::new();
    for rotation in [0, 2500] {
        let answer = fast_bytes(&table, &query, Transport::Tcp, rotation).expect("plain");
        let reply = decode(&answer);
        assert!(answer.len() <= 65_535 && !reply.metadata.truncation);
        assert!(reply.answers.len() > 4000, "{}", reply.answers.len());
        seen.extend(short(&reply.answers));
    }
    assert_eq!(seen.len(), 5000);
    let servers = super::kit::query("_p._tcp.s.n.svc.cluster.local.", SRV);
    let answer = fast_bytes(&table, &bytes(&servers), Transport::Tcp, 0).expect("plain");
    assert!(decode(&answer).answers.len() > 800);
}
