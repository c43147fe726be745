//! Builders of services and queries, and one check that puts a question to both paths.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, Record, RecordType};
use portolan_model::{
    Changes, Conditions, DnsName, Endpoint, Generation, Protocol, Service, ServiceEntry,
    ServiceKey, ServiceKind, ServicePort, Slice, SlicePort, Snapshot,
};

use crate::config::DnsConfig;
use crate::context::{Asker, Context};
use crate::fast::{Outcome, Transport, respond};
use crate::slow::{self, Pointers, View};
use crate::table::Table;

/// Ports of a slice, and its endpoints.
pub(crate) type SliceOf<'a> = (Vec<(&'a str, Protocol, u16)>, Vec<Endpoint>);

/// One service.
pub(crate) fn service(
    key: &str,
    kind: ServiceKind,
    ports: &[(&str, Protocol, u16)],
    slices: Vec<SliceOf<'_>>,
) -> Arc<ServiceEntry> {
    let ports = ports
        .iter()
        .map(|(name, protocol, port)| ServicePort::new(name, *protocol, *port))
        .collect();
    let slices = slices
        .into_iter()
        .enumerate()
        .map(|(n, (ports, endpoints))| {
            let ports = ports
                .into_iter()
                .map(|(name, protocol, port)| SlicePort { name: name.into(), protocol, port })
                .collect();
            Arc::new(Slice { name: format!("slice-{n}").into(), cluster: None, ports, endpoints })
        })
        .collect();
    let key = ServiceKey::parse(key).expect("a valid key");
    let service = Service::new(key, kind, ports);
    Arc::new(ServiceEntry { service: Arc::new(service), slices })
}

pub(crate) fn cluster_ip(addresses: &[&str]) -> ServiceKind {
    ServiceKind::ClusterIp(addresses.iter().map(|a| ip(a)).collect())
}

pub(crate) fn external(name: &str) -> ServiceKind {
    ServiceKind::ExternalName(DnsName::parse(name).expect("a valid name"))
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("a valid address")
}

pub(crate) fn endpoint(address: &str, hostname: Option<&str>) -> Endpoint {
    Endpoint { hostname: hostname.map(Arc::from), ..Endpoint::at(ip(address)) }
}

pub(crate) fn not_ready(address: &str) -> Endpoint {
    let conditions = Conditions { ready: false, serving: false, terminating: false };
    Endpoint { conditions, ..endpoint(address, None) }
}

pub(crate) fn config() -> DnsConfig {
    DnsConfig {
        service_ranges: ["10.96.0.0/16", "fd00:96::/112"]
            .map(|r| r.parse().expect("a valid range"))
            .into(),
        server_ips: vec![ip("10.96.0.10"), ip("fd00:96::a")],
        ..DnsConfig::default()
    }
}

pub(crate) fn snapshot(entries: Vec<Arc<ServiceEntry>>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for entry in entries {
        snapshot.apply(entry);
    }
    snapshot.at(Generation(7))
}

pub(crate) fn table(entries: Vec<Arc<ServiceEntry>>) -> Table {
    table_of(&config(), entries)
}

pub(crate) fn table_of(config: &DnsConfig, entries: Vec<Arc<ServiceEntry>>) -> Table {
    let empty = Table::new(config).expect("a valid config");
    empty.apply(&snapshot(entries), &Changes::Everything)
}

/// A question with RD set, as stub resolvers send it.
pub(crate) fn query(name: &str, rtype: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a valid name"), rtype));
    message
}

pub(crate) fn with_edns(mut query: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    query.set_edns(edns);
    query
}

pub(crate) fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a query encodes")
}

/// The fast path's answer; `None` when it leaves the query to the slow one.
pub(crate) fn fast_bytes(
    table: &Table,
    query: &[u8],
    transport: Transport,
    rotation: usize,
) -> Option<Vec<u8>> {
    let mut out = vec![0xaa; 65_535];
    match respond(&Context::of(table), query, &mut out, Asker::local(transport), rotation) {
        Outcome::Answered(answered) => {
            out.truncate(answered.length);
            Some(out)
        }
        Outcome::Slow => None,
        Outcome::Drop | Outcome::Denied => panic!("a query was dropped"),
    }
}

pub(crate) fn decode(answer: &[u8]) -> Message {
    Message::from_vec(answer).unwrap_or_else(|error| panic!("{error}: {answer:02x?}"))
}

/// The fast path's answer, decoded.
pub(crate) fn fast(table: &Table, query: &Message) -> Option<Message> {
    fast_bytes(table, &bytes(query), Transport::Tcp, 0).map(|answer| decode(&answer))
}

/// The slow path's answer, decoded; reverse names come from a scan, not from the table.
pub(crate) fn slow(table: &Table, query: &Message) -> Message {
    let asker = Asker::local(Transport::Tcp);
    let view = View { pointers: Pointers::Scan, ..View::of(table, asker.address) };
    let answer = slow::respond_from(&Context::of(table), &view, &bytes(query), asker);
    decode(&answer.expect("a query is answered"))
}

/// Puts a question to both paths, checks that they agree, and returns the answer.
pub(crate) fn ask(table: &Table, name: &str, rtype: RecordType) -> Message {
    let query = with_edns(query(name, rtype), 1232);
    let slow = slow(table, &query);
    if let Some(fast) = fast(table, &query) {
        assert_same(&fast, &slow);
    }
    slow
}

/// Both say the same: header, question with its case, sections as sets, OPT.
pub(crate) fn assert_same(fast: &Message, slow: &Message) {
    let context = format!("fast: {fast}\nslow: {slow}");
    assert_eq!(fast.metadata, slow.metadata, "{context}");
    assert_eq!(fast.queries.len(), slow.queries.len(), "{context}");
    for (a, b) in fast.queries.iter().zip(&slow.queries) {
        assert!(a.name().eq_case(b.name()) && a == b, "{context}");
    }
    assert_eq!(lines(&fast.answers), lines(&slow.answers), "answers\n{context}");
    assert_eq!(lines(&fast.authorities), lines(&slow.authorities), "authorities\n{context}");
    assert_eq!(lines(&fast.additionals), lines(&slow.additionals), "additionals\n{context}");
    assert_eq!(fast.edns, slow.edns, "{context}");
}

/// Records as sorted lines, `owner ttl class type data`, in lower case since names differ in it
/// without being different; a record twice is a mistake.
pub(crate) fn lines(records: &[Record]) -> BTreeSet<String> {
    let lines: BTreeSet<String> =
        records.iter().map(|r| r.to_string().to_ascii_lowercase()).collect();
    assert_eq!(lines.len(), records.len(), "a record stands there twice: {records:?}");
    lines
}

/// Answer section without ttl and class: `owner type data`.
pub(crate) fn short(records: &[Record]) -> Vec<String> {
    let mut lines: Vec<String> =
        records.iter().map(|r| format!("{} {} {}", r.name, r.record_type(), r.data)).collect();
    lines.sort();
    lines
}

/// The fast path's outcome, with rules that change nothing.
pub(crate) fn quickly(
    table: &Table,
    query: &[u8],
    out: &mut [u8],
    transport: Transport,
) -> Outcome {
    respond(&Context::of(table), query, out, Asker::local(transport), 0)
}

/// The slow path's answer, with rules that change nothing.
pub(crate) fn slowly(table: &Table, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    slow::respond(&Context::of(table), query, Asker::local(transport))
}
