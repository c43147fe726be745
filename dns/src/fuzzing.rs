//! One function for the fuzzer and for the replay of its corpus: both paths over a fixed table.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};

use portolan_model::{
    Changes, DnsName, Endpoint, Generation, Protocol, Service, ServiceEntry, ServiceKey,
    ServiceKind, ServicePort, Slice, SlicePort, Snapshot,
};

use crate::config::DnsConfig;
use crate::fast::{Outcome, Transport, respond};
use crate::name::MAX_WIRE_NAME;
use crate::node::MESSAGE_MAX;
use crate::question;
use crate::slow;
use crate::table::Table;

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

thread_local! {
    static OUT: RefCell<Vec<u8>> = RefCell::new(vec![0; MESSAGE_MAX]);
}

fn both_paths(bytes: &[u8], out: &mut [u8]) {
    for table in tables() {
        for transport in [Transport::Udp, Transport::Tcp] {
            match respond(table, bytes, out, transport, bytes.len()) {
                Outcome::Answered(length) => check(bytes, &out[..length], transport),
                Outcome::Slow => {}
                Outcome::Drop => assert!(
                    slow::respond(table, bytes, transport).is_none(),
                    "the paths differ on what deserves an answer"
                ),
            }
            if let Some(answer) = slow::respond(table, bytes, transport) {
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
