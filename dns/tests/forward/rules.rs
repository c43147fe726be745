//! Which names go where: the longest zone counts, ours stay ours, and without RD nothing goes.

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;

use crate::client::{ask, ask_a, ask_over_tcp};
use crate::kit::{WEB, WEB_ADDRESS, rules, serve};
use crate::message::Question;
use crate::upstream::{Upstream, answering};

#[test]
fn the_longest_zone_that_a_name_is_in_says_who_is_asked() {
    let of = |address| Upstream::start(answering(address));
    let [root, example, corp, stub] = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"].map(of);
    let running = serve(rules(&[
        format!("example {}", example.label()),
        format!(". {}", root.label()),
        format!("corp.example {}", corp.label()),
        format!("stub.cluster.local {}", stub.label()),
    ]));
    for (name, expected) in [
        ("www.test.", "192.0.2.1"),
        ("example.", "192.0.2.2"),
        ("www.example.", "192.0.2.2"),
        ("notcorp.example.", "192.0.2.2"),
        ("notexample.", "192.0.2.1"),
        ("corp.example.", "192.0.2.3"),
        ("A.B.CORP.EXAMPLE.", "192.0.2.3"),
        ("stub.cluster.local.", "192.0.2.4"),
        ("db.stub.cluster.local.", "192.0.2.4"),
        (WEB, WEB_ADDRESS),
    ] {
        assert_eq!(ask_a(running.address(), name).first(), expected, "{name}");
        let over_tcp = ask_over_tcp(running.address(), &Question::a(name));
        assert_eq!(over_tcp.first(), expected, "{name}");
    }
}

#[test]
fn without_a_rule_for_the_root_other_names_are_refused() {
    let upstream = Upstream::start(answering("192.0.2.1"));
    let running = serve(rules(&[format!("example {}", upstream.label())]));
    assert_eq!(ask_a(running.address(), "www.example.").first(), "192.0.2.1");
    let reply = ask_a(running.address(), "www.test.");
    assert_eq!(reply.code(), ResponseCode::Refused);
    assert_eq!(reply.error().map(|(code, _)| code), Some(20));
}

#[test]
fn a_name_of_ours_is_never_forwarded() {
    let upstream = Upstream::start(answering("192.0.2.1"));
    let mut config = rules(&[
        format!(". {}", upstream.label()),
        format!("cluster.local {}", upstream.label()),
        format!("clusterset.local {}", upstream.label()),
    ]);
    config.service_ranges = vec!["10.96.0.0/16".parse().expect("a range")];
    let running = serve(config);
    for (name, rtype, code) in [
        (WEB, RecordType::A, ResponseCode::NoError),
        (WEB, RecordType::AAAA, ResponseCode::NoError),
        (WEB, RecordType::MX, ResponseCode::NoError),
        ("nobody.ns.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ("www.example.com.ns.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ("cluster.local.", RecordType::A, ResponseCode::NoError),
        ("cluster.local.", RecordType::SOA, ResponseCode::NoError),
        ("nobody.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ("x.ns.svc.clusterset.local.", RecordType::A, ResponseCode::NXDomain),
        ("10-0-0-1.ns.pod.cluster.local.", RecordType::A, ResponseCode::NXDomain),
        ("1.0.96.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NoError),
        ("9.9.96.10.in-addr.arpa.", RecordType::PTR, ResponseCode::NXDomain),
    ] {
        let question = Question::a(name).of_type(rtype);
        assert_eq!(ask(running.address(), &question).code(), code, "{name} {rtype}");
        assert_eq!(ask_over_tcp(running.address(), &question).code(), code, "{name} {rtype}");
    }
    let asked: Vec<String> = upstream.asked().iter().map(|asked| asked.name()).collect();
    assert!(asked.is_empty(), "{asked:?}");
    // A reverse zone that is not ours is somebody else's.
    let other = Question::a("1.0.97.10.in-addr.arpa.").of_type(RecordType::PTR);
    assert_eq!(ask(running.address(), &other).code(), ResponseCode::NoError);
    assert_eq!(upstream.asked().len(), 1);
}

#[test]
fn a_question_that_desires_no_recursion_is_refused_known_or_not() {
    let upstream = Upstream::start(answering("192.0.2.1"));
    let running = serve(rules(&[format!(". {}", upstream.label())]));
    let question = Question::a("www.example.");
    for known in [false, true] {
        if known {
            assert_eq!(ask(running.address(), &question).first(), "192.0.2.1");
        }
        let reply = ask(running.address(), &question.clone().without_recursion());
        assert_eq!(reply.code(), ResponseCode::Refused, "known: {known}");
        assert!(!reply.message.metadata.recursion_desired);
        assert!(reply.message.metadata.recursion_available, "it is for those who desire it");
        assert_eq!(upstream.asked().len(), usize::from(known));
    }
    let ours = ask(running.address(), &Question::a(WEB).without_recursion());
    assert_eq!(ours.first(), WEB_ADDRESS);
    assert!(ours.message.metadata.recursion_available);
}
