//! Upstreams, or somebody in their place, whose answers are not to be believed.

use std::sync::Arc;
use std::time::Duration;

use crate::client::{ask, ask_a};
use crate::kit::{SOON, forwarding, metric, serve, together};
use crate::message::{Question, encoded, name};
use crate::upstream::{Act, Asked, Elsewhere, Script, Step, Upstream, Via, answering};

/// Where lies lead.
const EVIL: &str = "203.0.113.66";
const GOOD: &str = "192.0.2.1";

/// A way to lie.
struct Lie {
    what: &'static str,
    /// The datagram, or message of a stream.
    tell: fn(&Asked) -> Act,
    /// It reaches the server's socket, and is counted.
    counted: bool,
}

fn changed(asked: &Asked, change: impl FnOnce(&mut Vec<u8>)) -> Act {
    let mut bytes = asked.address(EVIL, 3600);
    change(&mut bytes);
    Act::Send(bytes)
}

fn other_question(asked: &Asked) -> Act {
    let evil = asked.reply(|reply| {
        let other = name("other.example.");
        reply.queries[0].set_name(other.clone());
        reply.answers = vec![crate::message::a(&other, EVIL, 3600)];
    });
    Act::Send(evil)
}

fn other_case(asked: &Asked) -> Act {
    changed(asked, |bytes| {
        // The first letter of the name, in the question alone.
        bytes[13] ^= 0x20;
    })
}

fn other_type(asked: &Asked) -> Act {
    changed(asked, |bytes| {
        let end = bytes[12..].iter().position(|octet| *octet == 0).expect("a name ends");
        bytes[12 + end + 2] ^= 1;
    })
}

fn two_questions(asked: &Asked) -> Act {
    let mut reply = crate::message::reply_to(&asked.message);
    reply.queries.push(reply.queries[0].clone());
    Act::Send(encoded(&reply))
}

const LIES: [Lie; 14] = [
    Lie { what: "another id", tell: |a| changed(a, |b| b[1] ^= 1), counted: true },
    Lie { what: "another question", tell: other_question, counted: true },
    Lie { what: "another case", tell: other_case, counted: true },
    Lie { what: "two questions", tell: two_questions, counted: true },
    Lie { what: "another type", tell: other_type, counted: true },
    Lie { what: "no response at all", tell: |a| changed(a, |b| b[2] &= 0x7f), counted: true },
    Lie { what: "another opcode", tell: |a| changed(a, |b| b[2] |= 0x20), counted: true },
    Lie { what: "a header alone", tell: |a| changed(a, |b| b.truncate(12)), counted: true },
    Lie { what: "half a header", tell: |a| changed(a, |b| b.truncate(5)), counted: true },
    Lie { what: "records that are not there", tell: |a| changed(a, |b| b[7] = 9), counted: true },
    Lie { what: "octets after the end", tell: |a| changed(a, |b| b.push(0)), counted: true },
    Lie { what: "garbage", tell: |_| Act::Send(vec![0xff; 300]), counted: true },
    Lie {
        what: "another port",
        tell: |a| Act::SendFrom(Elsewhere::Port, a.address(EVIL, 3600)),
        counted: false,
    },
    Lie {
        what: "another address",
        tell: |a| Act::SendFrom(Elsewhere::Address, a.address(EVIL, 3600)),
        counted: false,
    },
];

/// Lies over UDP, and then says what is so.
fn lies_first(tell: fn(&Asked) -> Act) -> Script {
    Arc::new(move |asked| {
        let good = Step::after_ms(30, Act::Send(asked.address(GOOD, 3600)));
        let lie = (asked.via == Via::Udp).then(|| Step::now(tell(asked)));
        lie.into_iter().chain([good]).collect()
    })
}

/// Lies over every transport, and leaves it at that.
fn only_lies(tell: fn(&Asked) -> Act) -> Script {
    Arc::new(move |asked| match tell(asked) {
        Act::SendFrom(..) if asked.via != Via::Udp => Vec::new(),
        act => vec![Step::now(act)],
    })
}

#[test]
fn a_lie_before_the_right_answer_is_passed_over_and_counted() {
    together(&LIES, |lie| {
        let upstream = Upstream::start(lies_first(lie.tell));
        let running = serve(forwarding(&[&upstream]));
        // Again from the cache: no lie was kept.
        for _ in 0..2 {
            let reply = ask_a(running.address(), "www.example.");
            assert_eq!(reply.data(), [GOOD], "{}", lie.what);
            assert!(reply.took < SOON, "{}: {:?}", lie.what, reply.took);
        }
        let to = format!("to=\"{}\"", upstream.label());
        let bad = metric(&running, "portolan_dns_upstream_bad_responses_total", &to);
        assert_eq!(bad > 0, lie.counted, "{}: {bad} were counted", lie.what);
    });
}

#[test]
fn lies_alone_are_a_failure_in_time_and_never_an_answer() {
    together(&LIES, |lie| {
        let upstream = Upstream::start(only_lies(lie.tell));
        let mut config = forwarding(&[&upstream]);
        config.forward.timeout = Duration::from_millis(1200);
        let running = serve(config);
        let reply = ask_a(running.address(), "www.example.");
        assert!(reply.message.answers.is_empty(), "{}: {reply:?}", lie.what);
        reply.assert_unreachable(&upstream.label());
        assert!(reply.took < Duration::from_millis(1700), "{}: {:?}", lie.what, reply.took);
    });
}

#[test]
fn an_upstream_that_lies_is_left_for_one_that_does_not() {
    let cases: Vec<(&str, &Lie)> = ["tcp", "tls", "https"]
        .iter()
        .flat_map(|scheme| LIES.iter().filter(|lie| lie.counted).map(|lie| (*scheme, lie)))
        .collect();
    together(&cases, |(scheme, lie)| {
        let liar = Upstream::with_scheme(scheme, only_lies(lie.tell));
        let good = Upstream::start(answering(GOOD));
        let running = serve(forwarding(&[&liar, &good]));
        let reply = ask(running.address(), &Question::a("www.example."));
        assert_eq!(reply.data(), [GOOD], "{scheme}: {}", lie.what);
        assert!(reply.took.as_millis() < 1500, "{scheme}: {}: {:?}", lie.what, reply.took);
    });
}

#[test]
fn after_many_guesses_the_question_goes_over_tcp() {
    let script: Script = Arc::new(|asked| {
        if asked.via == Via::Tcp {
            return crate::upstream::one(asked.address(GOOD, 3600));
        }
        let guess = |n: u8| Step::now(changed(asked, |bytes| bytes[1] = bytes[1].wrapping_add(n)));
        (1..100).map(guess).collect()
    });
    let upstream = Upstream::start(script);
    let running = serve(forwarding(&[&upstream]));
    let reply = ask_a(running.address(), "www.example.");
    assert_eq!(reply.data(), [GOOD]);
    assert!(reply.took < SOON, "{:?}", reply.took);
    let vias: Vec<Via> = upstream.asked().iter().map(|asked| asked.via).collect();
    assert_eq!(vias, [Via::Udp, Via::Tcp]);
}

#[test]
fn an_answer_that_comes_twice_is_no_answer_to_the_next_question() {
    let script: Script = Arc::new(|asked| {
        let number = asked.name()[1..].split('.').next().and_then(|n| n.parse::<u8>().ok());
        let answer = asked.address(&format!("192.0.2.{}", number.unwrap_or(0)), 3600);
        vec![Step::now(Act::Send(answer.clone())), Step::now(Act::Send(answer))]
    });
    let upstream = Upstream::start(script);
    let running = serve(forwarding(&[&upstream]));
    for n in 0..50 {
        let reply = ask_a(running.address(), &format!("n{n}.example."));
        assert_eq!(reply.data(), [format!("192.0.2.{n}")]);
        assert!(reply.took < SOON, "{:?}", reply.took);
    }
}
