//! Identical questions in flight are one question.

use std::net::Ipv4Addr;

use hickory_proto::rr::RecordType;

use crate::client::{HOME, Pending, send};
use crate::kit::{forwarding, metric, serve, until};
use crate::message::Question;
use crate::upstream::{Upstream, answering_after};

const CLIENTS: u8 = 200;

#[test]
fn two_hundred_clients_that_ask_for_one_slow_name_cost_one_question() {
    let upstream = Upstream::start(answering_after("192.0.2.1", 400));
    let running = serve(forwarding(&[&upstream]));
    let spelled = |n: u8| if n.is_multiple_of(2) { "slow.example." } else { "SLOW.Example." };
    let pending: Vec<(u8, Pending)> = (0..CLIENTS)
        .map(|n| {
            let from = Ipv4Addr::new(127, 0, 1, n);
            (n, send(running.address(), from, &Question::a(spelled(n))))
        })
        .collect();
    until("the question to be under way", || {
        metric(&running, "portolan_dns_forward_inflight", "") == 1
    });
    for (n, one) in &pending {
        let reply = one.reply();
        assert_eq!(reply.data(), ["192.0.2.1"]);
        assert_eq!(reply.message.queries[0].name().to_ascii(), spelled(*n));
    }
    assert_eq!(upstream.count("slow.example."), 1);
    assert_eq!(metric(&running, "portolan_dns_coalesced_total", ""), u64::from(CLIENTS) - 1);
    assert_eq!(metric(&running, "portolan_dns_forward_inflight", ""), 0);
}

#[test]
fn questions_that_differ_in_type_or_flags_are_not_one() {
    let upstream = Upstream::start(answering_after("192.0.2.1", 300));
    let running = serve(forwarding(&[&upstream]));
    let question = Question::a("slow.example.");
    let questions = [
        question.clone(),
        question.clone().of_type(RecordType::AAAA),
        question.clone().with_flags(true, false),
        question.clone().with_flags(false, true),
        question.with_flags(true, true),
    ];
    let twice = questions.iter().chain(&questions);
    let pending: Vec<Pending> = twice.map(|q| send(running.address(), HOME, q)).collect();
    for one in &pending {
        one.reply();
    }
    assert_eq!(upstream.count("slow.example."), questions.len());
    let flags = |asked: &crate::upstream::Asked| {
        let edns = asked.message.edns.as_ref().expect("the server speaks EDNS");
        (asked.rtype(), edns.flags().dnssec_ok, asked.message.metadata.checking_disabled)
    };
    let mut seen: Vec<_> = upstream.asked().iter().map(flags).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), questions.len(), "{seen:?}");
}
