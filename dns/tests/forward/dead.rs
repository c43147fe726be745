//! Upstreams that do not answer, or answer late.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use portolan_dns::config::ForwardPolicy;

use crate::client::ask_a;
use crate::kit::{SOON, closed, forwarding, metric, pass, rules, serve, together, until_metric};
use crate::upstream::{Script, Upstream, answering, answering_after, one, silent};

const GOOD: &str = "192.0.2.1";
const DOWN: &str = "portolan_dns_upstream_down";
/// What one try at an upstream that says nothing may cost when there is another.
const ONE_TRY: Duration = Duration::from_millis(1200);

fn to(upstream: &Upstream) -> String {
    format!("to=\"{}\"", upstream.label())
}

#[test]
fn a_dead_upstream_costs_two_questions_one_try_each_and_is_asked_again_once_it_answers() {
    let dead = Upstream::start(silent());
    let good = Upstream::start(answering("192.0.2.2"));
    let running = serve(forwarding(&[&dead, &good]));
    for name in ["a.example.", "b.example."] {
        let reply = ask_a(running.address(), name);
        assert_eq!(reply.data(), ["192.0.2.2"]);
        assert!(reply.took < ONE_TRY, "{:?}", reply.took);
    }
    until_metric(&running, DOWN, &to(&dead), 1);
    assert_eq!(metric(&running, DOWN, &to(&good)), 0);
    for n in 0..20 {
        let reply = ask_a(running.address(), &format!("n{n}.example."));
        assert_eq!(reply.data(), ["192.0.2.2"]);
        assert!(reply.took < SOON, "{:?}", reply.took);
    }
    assert_eq!(dead.asked().len(), 2, "once down, it is not asked before others");
    dead.set(answering("192.0.2.1"));
    until_metric(&running, DOWN, &to(&dead), 0);
    assert_eq!(ask_a(running.address(), "after.example.").data(), ["192.0.2.1"]);
}

#[test]
fn an_upstream_that_refuses_connections_and_datagrams_costs_next_to_nothing() {
    together(&["udp", "tcp", "tls", "https"], |scheme| {
        let good = Upstream::start(answering("192.0.2.2"));
        let address = closed();
        let running = serve(rules(&[format!(". {scheme}://{address} {}", good.label())]));
        for n in 0..5 {
            let reply = ask_a(running.address(), &format!("n{n}.example."));
            assert_eq!(reply.data(), ["192.0.2.2"], "{scheme}");
            assert!(reply.took < SOON, "{scheme}: {:?}", reply.took);
        }
        until_metric(&running, DOWN, &format!("to=\"{scheme}://{address}\""), 1);
    });
}

#[test]
fn a_question_is_never_tried_at_the_same_upstream_before_the_others_were() {
    together(&[ForwardPolicy::Random, ForwardPolicy::RoundRobin], |policy| {
        let dead = [Upstream::start(silent()), Upstream::start(silent())];
        let good = Upstream::start(answering("192.0.2.3"));
        let mut config = forwarding(&[&dead[0], &dead[1], &good]);
        config.forward.policy = *policy;
        let running = serve(config);
        for n in 0..12 {
            let name = format!("n{n}.example.");
            let reply = ask_a(running.address(), &name);
            assert_eq!(reply.data(), ["192.0.2.3"], "{policy:?}");
            assert!(reply.took < ONE_TRY * 2, "{policy:?}: {:?}", reply.took);
            for upstream in dead.iter().chain([&good]) {
                assert!(upstream.count(&name) <= 1, "{policy:?}: {name} went there twice");
            }
        }
        let tries: usize = dead.iter().map(|upstream| upstream.asked().len()).sum();
        assert!(tries <= 4, "{policy:?}: {tries} tries at upstreams that are down");
    });
}

#[test]
fn policies_spread_questions_as_they_say() {
    let cases = [
        (ForwardPolicy::Sequential, [60, 0, 0]),
        (ForwardPolicy::RoundRobin, [20, 20, 20]),
        (ForwardPolicy::Random, [5, 5, 5]),
    ];
    together(&cases, |(policy, at_least)| {
        let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|a| Upstream::start(answering(a)));
        let mut config = forwarding(&[&all[0], &all[1], &all[2]]);
        config.forward.policy = *policy;
        let running = serve(config);
        for n in 0..60 {
            ask_a(running.address(), &format!("n{n}.example."));
        }
        let counts = all.each_ref().map(|upstream| upstream.asked().len());
        assert_eq!(counts.iter().sum::<usize>(), 60, "{policy:?}: each question once");
        let enough = counts.iter().zip(at_least).all(|(count, least)| count >= least);
        assert!(enough, "{policy:?}: {counts:?}");
    });
}

/// Upstreams of one rule, none of which will answer.
enum Dead {
    Silent(usize),
    Refusing(&'static str),
    /// Accepts connections and says nothing.
    Mute(&'static str),
}

#[test]
fn with_every_upstream_dead_the_client_is_told_which_in_time() {
    let cases = [
        Dead::Silent(1),
        Dead::Silent(2),
        Dead::Silent(5),
        Dead::Refusing("udp"),
        Dead::Refusing("tcp"),
        Dead::Refusing("tls"),
        Dead::Refusing("https"),
        Dead::Mute("tcp"),
        Dead::Mute("tls"),
        Dead::Mute("https"),
    ];
    together(&cases, |case| {
        let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut silent_ones = Vec::new();
        let labels = match case {
            Dead::Silent(count) => {
                silent_ones = (0..*count).map(|_| Upstream::start(silent())).collect();
                silent_ones.iter().map(Upstream::label).collect()
            }
            Dead::Refusing(scheme) => vec![format!("{scheme}://{}", closed())],
            Dead::Mute(scheme) => {
                vec![format!("{scheme}://{}", mute.local_addr().expect("bound"))]
            }
        };
        let running = serve(rules(&[format!(". {}", labels.join(" "))]));
        ask_a(running.address(), "www.example.").assert_unreachable(&labels[0]);
        // RFC 9520 §3.2: remembered, so that the next one is told at once and nobody is asked.
        let before: usize = silent_ones.iter().map(|u| u.count("www.example.")).sum();
        let again = ask_a(running.address(), "www.example.");
        again.assert_unreachable(&labels[0]);
        assert!(again.took < SOON, "{:?}", again.took);
        let after: usize = silent_ones.iter().map(|u| u.count("www.example.")).sum();
        assert_eq!(before, after);
    });
}

#[test]
fn an_upstream_that_dies_and_comes_back_while_alone_is_used_again() {
    let upstream = Upstream::start(silent());
    let mut config = forwarding(&[&upstream]);
    config.forward.timeout = Duration::from_millis(1200);
    let running = serve(config);
    ask_a(running.address(), "a.example.").assert_unreachable(&upstream.label());
    until_metric(&running, DOWN, &to(&upstream), 1);
    upstream.set(answering("192.0.2.1"));
    // Even before anybody has noticed that it is well again.
    assert_eq!(ask_a(running.address(), "b.example.").data(), ["192.0.2.1"]);
    until_metric(&running, DOWN, &to(&upstream), 0);
}

/// Answers all but the first question.
fn losing_the_first() -> Script {
    Arc::new(|asked| if asked.before == 0 { Vec::new() } else { one(asked.address(GOOD, 60)) })
}

fn two_seconds_late() -> Script {
    answering_after(GOOD, 2000)
}

#[test]
fn an_upstream_that_is_alone_is_given_time_and_a_second_try() {
    let late = ["udp", "tcp", "tls", "https"].map(|scheme| (scheme, two_seconds_late(), 4));
    let cases: Vec<_> = late.into_iter().chain([("udp", losing_the_first(), 1)]).collect();
    together(&cases, |(scheme, script, seconds)| {
        let upstream = Upstream::with_scheme(scheme, script.clone());
        let running = serve(forwarding(&[&upstream]));
        let reply = ask_a(running.address(), "www.example.");
        assert_eq!(reply.data(), [GOOD], "{scheme}");
        let limit = Duration::from_millis(seconds * 1000 + 500);
        assert!(reply.took < limit, "{scheme}: {:?}", reply.took);
    });
}

#[test]
fn an_answer_that_comes_after_its_try_was_given_up_does_no_harm() {
    // Each answer comes when another question may already be on its way.
    let late = Upstream::start(answering_after("203.0.113.66", 1100));
    let good = Upstream::start(answering("192.0.2.1"));
    let running = serve(forwarding(&[&late, &good]));
    for n in 0..2 {
        let reply = ask_a(running.address(), &format!("n{n}.example."));
        assert_eq!(reply.data(), ["192.0.2.1"]);
    }
    pass(Duration::from_millis(300));
    for n in 0..2 {
        let reply = ask_a(running.address(), &format!("n{n}.example."));
        assert_eq!((reply.first(), reply.code()), ("192.0.2.1".into(), ResponseCode::NoError));
    }
}
