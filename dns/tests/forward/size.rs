//! Answers that do not fit a datagram, the upstream's or the client's.

use std::sync::Arc;

use hickory_proto::op::Message;

use crate::client::{ask, ask_a, ask_over_tcp};
use crate::kit::{forwarding, serve};
use crate::message::{Question, a};
use crate::upstream::{Asked, Script, Upstream, Via, one};

/// Addresses that fit no datagram of 1232 octets.
const MANY: u8 = 120;

fn many(asked: &Asked) -> Vec<u8> {
    asked.reply(|reply: &mut Message| {
        let owner = asked.message.queries[0].name();
        let address = |n: u8| a(owner, &format!("192.0.2.{n}"), 60);
        reply.answers = (0..MANY).map(address).collect();
    })
}

/// TC over UDP, with this many of the records in it, and the whole over TCP.
fn truncating(kept: usize) -> Script {
    Arc::new(move |asked| {
        if asked.via == Via::Tcp {
            return one(many(asked));
        }
        one(asked.reply(|reply| {
            let owner = asked.message.queries[0].name();
            reply.metadata.truncation = true;
            reply.answers = vec![a(owner, "203.0.113.66", 60); kept];
        }))
    })
}

#[test]
fn a_truncated_answer_is_asked_for_again_over_tcp_and_never_used() {
    for kept in [0, 3] {
        let upstream = Upstream::start(truncating(kept));
        let running = serve(forwarding(&[&upstream]));
        let reply = ask_over_tcp(running.address(), &Question::a("www.example."));
        assert_eq!(reply.data().len(), usize::from(MANY));
        assert!(!reply.data().contains(&"203.0.113.66".to_owned()));
        let vias: Vec<Via> = upstream.asked().iter().map(|asked| asked.via).collect();
        assert_eq!(vias, [Via::Udp, Via::Tcp]);
    }
}

#[test]
fn an_answer_too_large_for_the_clients_datagram_is_tc_and_whole_over_tcp() {
    let question = Question::a("www.example.");
    for question in [question.clone(), question.without_edns()] {
        let upstream = Upstream::start(truncating(0));
        let running = serve(forwarding(&[&upstream]));
        // First on the way from the upstream, then out of the cache.
        for _ in 0..2 {
            let reply = ask(running.address(), &question);
            assert!(reply.message.metadata.truncation, "{reply:?}");
            assert!(reply.message.answers.is_empty() && reply.message.authorities.is_empty());
            assert_eq!(reply.message.edns.is_some(), question.encode(0)[11] == 1);
        }
        let whole = ask_over_tcp(running.address(), &question);
        assert!(!whole.message.metadata.truncation);
        assert_eq!(whole.data().len(), usize::from(MANY));
        assert_eq!(upstream.count("www.example."), 2, "once over UDP and once over TCP");
    }
}

#[test]
fn an_upstream_that_truncates_and_takes_no_connection_is_left_for_another() {
    let address = crate::kit::closed();
    // UDP alone: what is asked again over TCP is refused.
    let udp = std::net::UdpSocket::bind(address).expect("a socket");
    let answering = std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok((length, from)) = udp.recv_from(&mut buffer) {
            let query = Message::from_vec(&buffer[..length]).expect("a question");
            if query.queries[0].name().to_ascii() == "end.example." {
                return;
            }
            let mut reply = crate::message::reply_to(&query);
            reply.metadata.truncation = true;
            // The server may be gone.
            let _sent = udp.send_to(&crate::message::encoded(&reply), from);
        }
    });
    let good = Upstream::start(crate::upstream::answering("192.0.2.1"));
    let running = serve(crate::kit::rules(&[format!(". udp://{address} {}", good.label())]));
    assert_eq!(ask_a(running.address(), "www.example.").first(), "192.0.2.1");
    let end = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    end.send_to(&Question::a("end.example.").encode(1), address).expect("sent");
    answering.join().expect("it ends when told");
}
