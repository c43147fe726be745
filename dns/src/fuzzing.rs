//! What the fuzzer calls, and the replay of its corpora: both paths over a fixed table, and the
//! reader of upstreams' answers.

mod mutation;

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use portolan_model::{
    Changes, DnsName, Endpoint, Generation, Protocol, Service, ServiceEntry, ServiceKey,
    ServiceKind, ServicePort, Slice, SlicePort, Snapshot,
};

use crate::answer::Answer;
use crate::config::DnsConfig;
use crate::context::{Asker, Context};
use crate::fast::{Outcome, Transport, respond};
use crate::name::MAX_WIRE_NAME;
use crate::node::MESSAGE_MAX;
use crate::question;
use crate::slow;
use crate::table::Table;

pub use mutation::{Random, mutate};

/// Parses the question and answers on both paths and both transports.
///
/// # Panics
/// When an answer breaks a rule that holds for every query: that is the finding.
pub fn question(bytes: &[u8]) {
    if let Ok(question) = question::parse(bytes) {
        assert!(question.name().len() <= MAX_WIRE_NAME, "a name beyond the bound");
        assert!(question.end <= bytes.len(), "the question ends outside the message");
    }
    OUT.with_borrow_mut(|out| both_paths(bytes, out));
}

/// Reads bytes as an upstream's answer to a fixed question and, where that works, puts them behind
/// the question again: what comes out is a message as long as it says.
///
/// # Panics
/// When what was taken for an answer is none: that is the finding.
pub fn upstream_answer(bytes: &[u8]) {
    let question =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03wWw\x07example\x00\x00\x01\x00\x01";
    let Ok(answer) = Answer::read(question, question.len(), bytes) else { return };
    let mut message = question.to_vec();
    message[2] |= 0x80;
    for (at, count) in (6..).step_by(2).zip(answer.counts) {
        message[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
    message.extend_from_slice(&answer.body);
    answer.age(&mut message[question.len()..], 3600, 10);
    let again = Answer::read(question, question.len(), &message).expect("what was kept is whole");
    assert_eq!((again.counts, again.body.len()), (answer.counts, answer.body.len()));
}

thread_local! {
    static OUT: RefCell<Vec<u8>> = RefCell::new(vec![0; MESSAGE_MAX]);
}

fn both_paths(bytes: &[u8], out: &mut [u8]) {
    for table in tables() {
        let context = Context::of(table);
        for transport in [Transport::Udp, Transport::Tcp] {
            let asker = Asker::local(transport);
            match respond(&context, bytes, out, asker, bytes.len()) {
                Outcome::Answered(answered) => check(bytes, &out[..answered.length], transport),
                Outcome::Slow => {}
                Outcome::Drop | Outcome::Denied => assert!(
                    slow::respond(&context, bytes, asker).is_none(),
                    "the paths differ on what deserves an answer"
                ),
            }
            if let Some(answer) = slow::respond(&context, bytes, asker) {
                check(bytes, &answer, transport);
            }
        }
    }
}

fn check(query: &[u8], answer: &[u8], transport: Transport) {
    assert!(answer.len() >= question::HEADER, "an answer without a header");
    assert_eq!(query[..2], answer[..2], "the id is the query's");
    assert_ne!(answer[2] & 0x80, 0, "an answer that is no response");
    let limit = match transport {
        Transport::Udp => usize::from(DnsConfig::default().udp_payload_max),
        Transport::Tcp => MESSAGE_MAX,
    };
    assert!(answer.len() <= limit, "{} octets over {transport:?}", answer.len());
}

/// A table before its first snapshot, and one with a service of each kind.
fn tables() -> &'static [Table; 2] {
    static TABLES: OnceLock<[Table; 2]> = OnceLock::new();
    TABLES.get_or_init(|| {
        let config = DnsConfig {
            service_ranges: vec!["10.96.0.0/16".parse().expect("a constant")],
            server_ips: vec![[10, 96, 0, 10].into()],
            ..DnsConfig::default()
        };
        let empty = Table::new(&config).expect("a small config");
        let full = empty.apply(&snapshot(), &Changes::Everything);
        [empty, full]
    })
}

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let many = (0..40).map(|n| endpoint([10, 0, 0, n])).collect();
    for (name, kind, endpoints) in [
        ("web", ServiceKind::ClusterIp(vec![[10, 96, 0, 1].into()]), Vec::new()),
        ("db", ServiceKind::Headless, many),
        ("ext", ServiceKind::ExternalName(constant("web.ns.svc.cluster.local")), Vec::new()),
        ("loop", ServiceKind::ExternalName(constant("loop.ns.svc.cluster.local")), Vec::new()),
    ] {
        let port_name: Arc<str> = "http".into();
        let port = ServicePort::new(&port_name, Protocol::Tcp, 80);
        let key = ServiceKey::new("ns", name).expect("a constant");
        let service = Service::new(key, kind, vec![port]);
        let ports = vec![SlicePort { name: port_name, protocol: Protocol::Tcp, port: 8080 }];
        let slice = Slice { name: "slice".into(), cluster: None, ports, endpoints };
        let entry = ServiceEntry { service: service.into(), slices: vec![slice.into()] };
        snapshot.apply(entry.into());
    }
    snapshot.at(Generation(1))
}

fn constant(name: &str) -> DnsName {
    DnsName::parse(name).expect("a constant")
}

fn endpoint(address: [u8; 4]) -> Endpoint {
    Endpoint::at(address.into())
}
