//! What upstreams are asked over, and what becomes of connections that are kept.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::ResponseCode;

use crate::certificate::NAME;
use crate::client::{HOME, ask, ask_a, send};
use crate::kit::{SOON, forwarding, metric, rules, serve, together};
use crate::message::Question;
use crate::upstream::{Act, Script, Step, Upstream, Via, answering, one};

const EACH: [(&str, Via); 4] =
    [("udp", Via::Udp), ("tcp", Via::Tcp), ("tls", Via::Tls), ("https", Via::Https)];

#[test]
fn names_outside_are_asked_of_the_upstream_over_what_its_rule_says() {
    together(&EACH, |(scheme, via)| {
        let upstream = Upstream::with_scheme(scheme, answering("192.0.2.1"));
        let running = serve(forwarding(&[&upstream]));
        let names = ["www.Example.com.", "a.example.", "b.example."];
        for name in names {
            let reply = ask_a(running.address(), name);
            assert_eq!(reply.data(), ["192.0.2.1"], "{scheme}");
            let flags = reply.message.metadata;
            assert!(flags.recursion_available && flags.recursion_desired, "{scheme}");
            assert!(!flags.authoritative && !flags.authentic_data, "{scheme}");
            assert_eq!(reply.message.queries[0].name().to_ascii(), name, "{scheme}");
            assert_eq!(reply.message.answers[0].name.to_ascii(), name, "{scheme}");
        }
        let asked = upstream.asked();
        assert_eq!(asked.len(), names.len(), "{scheme}: each name is asked once");
        assert!(asked.iter().all(|a| a.via == *via && a.message.metadata.recursion_desired));
        let to = format!("to=\"{}\",rcode=\"NOERROR\"", upstream.label());
        let count = "coredns_proxy_request_duration_seconds_count";
        assert!(metric(&running, count, &to) >= 3, "{}", running.metrics());
    });
}

#[test]
fn an_upstream_may_have_an_address_of_the_other_family() {
    for (scheme, via) in &EACH[..2] {
        let host = std::net::Ipv6Addr::LOCALHOST.into();
        let upstream = Upstream::at(host, scheme, answering("192.0.2.1"));
        let running = serve(forwarding(&[&upstream]));
        for name in ["a.example.", "b.example."] {
            assert_eq!(ask_a(running.address(), name).data(), ["192.0.2.1"], "{scheme}");
        }
        let asked = upstream.asked();
        assert!(asked.len() == 2 && asked.iter().all(|a| a.via == *via && a.from.is_ipv6()));
    }
}

#[test]
fn a_name_that_does_not_exist_is_passed_on_with_its_soa_over_each_transport() {
    together(&EACH, |(scheme, _)| {
        let upstream = Upstream::with_scheme(
            scheme,
            Arc::new(|asked| {
                one(asked.reply(|reply| {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                    reply.authorities = vec![crate::message::soa(60)];
                }))
            }),
        );
        let running = serve(forwarding(&[&upstream]));
        let reply = ask_a(running.address(), "nobody.example.");
        assert_eq!(reply.code(), ResponseCode::NXDomain, "{scheme}");
        assert_eq!(reply.message.authorities.len(), 1, "{scheme}");
    });
}

#[test]
fn only_an_upstream_with_the_right_certificate_is_believed() {
    let other = |scheme: &'static str, name: &'static str| (scheme, name);
    let cases = [
        (other("tls", NAME), true),
        (other("https", NAME), true),
        (other("tls", "evil.example"), false),
        (other("https", "evil.example"), false),
    ];
    together(&cases, |((scheme, name), good)| {
        let upstream = Upstream::with_scheme(scheme, answering("192.0.2.1"));
        let running = serve(rules(&[format!(". {}#{name}", upstream.label())]));
        let reply = ask_a(running.address(), "www.example.");
        if *good {
            assert_eq!(reply.data(), ["192.0.2.1"], "{scheme} {name}");
        } else {
            reply.assert_unreachable(&upstream.label());
            assert_eq!(upstream.asked_in_all(), 0, "the question itself is not shown to it");
        }
    });
}

/// Answers and closes the connection a moment later.
fn answers_and_closes() -> Script {
    Arc::new(|asked| {
        vec![Step::now(Act::Send(asked.address("192.0.2.1", 3600))), Step::after_ms(20, Act::Close)]
    })
}

#[test]
fn a_kept_connection_that_was_closed_meanwhile_is_no_failure_of_the_upstream() {
    together(&["tcp", "tls", "https"], |scheme| {
        let upstream = Upstream::with_scheme(scheme, answers_and_closes());
        let running = serve(forwarding(&[&upstream]));
        for name in ["a.example.", "b.example.", "c.example.", "d.example."] {
            let reply = ask_a(running.address(), name);
            assert_eq!(reply.data(), ["192.0.2.1"], "{scheme}");
            assert!(reply.took < SOON, "{scheme}: {:?}", reply.took);
            crate::kit::pass(Duration::from_millis(60));
        }
        let failures = metric(&running, "portolan_dns_upstream_failures_total", "");
        assert_eq!(failures, 0, "{scheme}");
    });
}

#[test]
fn a_connection_is_used_for_many_questions() {
    together(&["tcp", "tls", "https"], |scheme| {
        let upstream = Upstream::with_scheme(scheme, answering("192.0.2.1"));
        let running = serve(forwarding(&[&upstream]));
        for n in 0..20 {
            ask_a(running.address(), &format!("n{n}.example."));
        }
        let mut ports: Vec<u16> = upstream.asked().iter().map(|a| a.from.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        assert!(ports.len() <= 2, "{scheme}: {} connections", ports.len());
    });
}

#[test]
fn an_upstream_that_accepts_and_says_nothing_is_left_for_another() {
    together(&["tcp", "tls", "https"], |scheme| {
        // Connections are accepted by the kernel and never taken up.
        let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = mute.local_addr().expect("bound");
        let good = Upstream::start(answering("192.0.2.1"));
        let running = serve(rules(&[format!(". {scheme}://{address} {}", good.label())]));
        let reply = ask_a(running.address(), "www.example.");
        assert_eq!(reply.data(), ["192.0.2.1"], "{scheme}");
        assert!(reply.took < Duration::from_millis(1500), "{scheme}: {:?}", reply.took);
    });
}

#[test]
fn an_http_status_that_is_no_success_sends_the_question_elsewhere() {
    together(&[404, 429, 500, 302], |status| {
        let status = *status;
        let script: Script = Arc::new(move |_| vec![Step::now(Act::Status(status))]);
        let bad = Upstream::with_scheme("https", script);
        let good = Upstream::start(answering("192.0.2.1"));
        let running = serve(forwarding(&[&bad, &good]));
        let reply = ask(running.address(), &Question::a("www.example."));
        assert_eq!(reply.data(), ["192.0.2.1"], "{status}");
        assert!(reply.took < SOON, "{status}: {:?}", reply.took);
    });
}

/// Each connection answers one question and takes all others without a word.
fn one_answer_a_connection() -> Script {
    let served = Mutex::new(HashSet::new());
    Arc::new(move |asked| {
        if asked.is_probe() {
            return Vec::new();
        }
        let first = served.lock().expect("no test panics with it").insert(asked.from);
        if first { one(asked.address("192.0.2.1", 3600)) } else { Vec::new() }
    })
}

#[test]
fn a_kept_connection_on_which_nothing_comes_any_more_is_replaced() {
    together(&["tcp", "tls", "https"], |scheme| {
        let upstream = Upstream::with_scheme(scheme, one_answer_a_connection());
        let running = serve(forwarding(&[&upstream]));
        for name in ["a.example.", "b.example.", "c.example."] {
            let reply = ask_a(running.address(), name);
            assert_eq!(reply.data(), ["192.0.2.1"], "{scheme}: {name} {:?}", reply.error());
            // One try on the silent connection, and one on another.
            assert!(reply.took < Duration::from_millis(1700), "{scheme}: {:?}", reply.took);
        }
    });
}

#[test]
fn questions_that_come_at_once_share_one_https_connection() {
    let upstream = Upstream::with_scheme(
        "https",
        Arc::new(|asked| {
            if asked.name().to_ascii_lowercase().starts_with("end.") {
                return vec![Step::now(Act::Close)];
            }
            vec![Step::after_ms(100, Act::Send(asked.address("192.0.2.1", 3600)))]
        }),
    );
    let running = serve(forwarding(&[&upstream]));
    for round in 0..4 {
        let question = |n: usize| Question::a(&format!("n{n}.r{round}.example."));
        let pending: Vec<_> =
            (0..50).map(|n| send(running.address(), HOME, &question(n))).collect();
        for one in &pending {
            assert_eq!(one.reply().data(), ["192.0.2.1"]);
        }
        let of_round = format!(".r{round}.example.");
        let ports: HashSet<u16> = upstream
            .asked()
            .iter()
            .filter(|asked| asked.name().to_ascii_lowercase().ends_with(&of_round))
            .map(|asked| asked.from.port())
            .collect();
        assert_eq!(ports.len(), 1, "in round {round}");
        // Whatever comes next finds the connection at its end.
        ask_a(running.address(), &format!("end.q{round}.example."));
    }
}
