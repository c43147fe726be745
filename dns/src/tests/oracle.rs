//! The fast path says what the slow path says, for random clusters and random questions.

use std::sync::Arc;

use hickory_proto::rr::RecordType;
use portolan_model::{Conditions, DnsName, Endpoint, Protocol, ServiceEntry, ServiceKind};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::kit::*;
use crate::config::{DnsConfig, EndpointNames, PodMode};
use crate::table::Table;

/// Few words, so that random names hit.
const WORDS: [&str; 6] = ["a", "b", "web", "db-0", "10-0-0-1", "svc"];
const SPACES: [&str; 3] = ["n", "m", "svc"];
const PORTS: [&str; 4] = ["", "http", "a", "dns"];

fn protocol() -> impl Strategy<Value = Protocol> {
    select(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp][..])
}

fn address() -> impl Strategy<Value = String> {
    prop_oneof![
        (0..2_u8, 1..4_u8).prop_map(|(net, host)| format!("10.0.{net}.{host}")),
        (0..2_u8, 1..4_u8).prop_map(|(net, host)| format!("10.96.{net}.{host}")),
        (1..4_u8).prop_map(|host| format!("fd00:96::{host}")),
        (1..3_u8).prop_map(|host| format!("fd00::{host}")),
    ]
}

/// An address with readiness, serving, terminating.
type Placed = (String, (bool, bool, bool));

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    // Ready, not ready, and on its way out.
    let states = [(true, true, false), (false, false, false), (false, true, true)];
    let named = || proptest::option::of(select(&WORDS[..]));
    let one = ((address(), select(states.to_vec())), named(), named());
    vec(one, 0..5).prop_map(|list| {
        let with = |((address, state), hostname, pod): (Placed, Option<&str>, Option<&str>)| {
            let (ready, serving, terminating) = state;
            Endpoint {
                conditions: Conditions { ready, serving, terminating },
                pod: pod.map(Arc::from),
                ..endpoint(&address, hostname)
            }
        };
        list.into_iter().map(with).collect()
    })
}

fn external_name() -> impl Strategy<Value = String> {
    prop_oneof![
        (select(&WORDS[..]), select(&SPACES[..]))
            .prop_map(|(name, space)| format!("{name}.{space}.svc.cluster.local")),
        Just("cluster.local".to_owned()),
        Just("ns.dns.cluster.local".to_owned()),
        Just("_http._tcp.web.n.svc.cluster.local".to_owned()),
        Just("www.example.com".to_owned()),
    ]
}

fn kind() -> impl Strategy<Value = ServiceKind> {
    prop_oneof![
        vec(address(), 0..3)
            .prop_map(|ips| { ServiceKind::ClusterIp(ips.iter().map(|a| ip(a)).collect()) }),
        Just(ServiceKind::Headless),
        Just(ServiceKind::Headless),
        external_name().prop_map(|name| external(&name)),
    ]
}

pub(super) fn entry() -> impl Strategy<Value = Arc<ServiceEntry>> {
    let port = || (select(&PORTS[..]), protocol(), 1..4_u16);
    let slice = (vec(port(), 0..3), endpoints());
    let key = (select(&SPACES[..]), select(&WORDS[..]));
    (key, kind(), vec(port(), 0..4), vec(slice, 0..3)).prop_map(
        |((space, name), kind, ports, slices)| {
            service(&format!("{space}/{name}"), kind, &ports, slices)
        },
    )
}

fn name() -> impl Strategy<Value = String> {
    let space = || select(&SPACES[..]);
    let word = || select(&WORDS[..]);
    let protocol = || protocol().prop_map(Protocol::dns_label);
    let forward = prop_oneof![
        (word(), space()).prop_map(|(w, s)| format!("{w}.{s}.")),
        (word(), word(), space()).prop_map(|(e, w, s)| format!("{e}.{w}.{s}.")),
        (address(), word(), space())
            .prop_map(|(e, w, s)| format!("{}.{w}.{s}.", e.replace(['.', ':'], "-"))),
        (select(&PORTS[1..]), protocol(), word(), space())
            .prop_map(|(p, t, w, s)| format!("_{p}.{t}.{w}.{s}.")),
        (protocol(), word(), space()).prop_map(|(t, w, s)| format!("{t}.{w}.{s}.")),
        space().prop_map(|s| format!("{s}.")),
        Just(String::new()),
    ];
    let reverse = (address(), 0..6_usize).prop_map(|(address, cut)| {
        let name = crate::name::WireName::reverse(ip(&address)).to_string();
        name.splitn(cut + 1, '.').last().unwrap_or_default().to_owned()
    });
    let fixed = select(
        &[
            "cluster.local.",
            "dns.cluster.local.",
            "ns.dns.cluster.local.",
            "pod.cluster.local.",
            "dns-version.cluster.local.",
            "96.10.in-addr.arpa.",
            "example.com.",
            "local.",
            ".",
        ][..],
    );
    prop_oneof![
        6 => forward.prop_map(|name| format!("{name}svc.cluster.local.")),
        3 => reverse,
        1 => fixed.prop_map(str::to_owned),
    ]
}

fn cased() -> impl Strategy<Value = String> {
    (name(), any::<u64>()).prop_map(|(name, bits)| {
        let upper = |i: usize| bits >> (i % 64) & 1 == 1;
        let fold = |(i, c): (usize, char)| if upper(i) { c.to_ascii_uppercase() } else { c };
        name.chars().enumerate().map(fold).collect()
    })
}

fn rtype() -> impl Strategy<Value = RecordType> {
    use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
    prop_oneof![
        9 => select(&[A, A, AAAA, SRV, SRV, PTR, CNAME, NS, SOA, TXT, MX][..]),
        1 => (0..300_u16).prop_map(RecordType::from),
    ]
}

/// Configurations that names depend on.
fn config_of(extra: bool, pods: PodMode, names: EndpointNames, fallback: bool) -> DnsConfig {
    let records = [
        "static.example 60 A 10.1.1.1",
        "static.example 30 A 10.1.1.2",
        "alias.example 60 CNAME web.n.svc.cluster.local",
        "other.example 60 CNAME static.example",
        "far.example 60 CNAME www.example.com",
        "a.b.cluster.local 60 TXT text",
        "_http._tcp.static.example 60 SRV 0 1 80 static.example",
        "_http._tcp.web.example 60 SRV 0 1 80 web.n.svc.cluster.local",
    ];
    let extra_zones = if extra { vec!["cluster.example"] } else { Vec::new() };
    DnsConfig {
        records: records.iter().map(|record| record.parse().expect("valid")).collect(),
        extra_zones: extra_zones.iter().map(|z| DnsName::parse(z).expect("valid")).collect(),
        pods,
        endpoint_names: names,
        terminating_fallback: fallback,
        ..config()
    }
}

fn any_config() -> impl Strategy<Value = DnsConfig> {
    let pods = select(&[PodMode::Disabled, PodMode::Insecure, PodMode::Verified][..]);
    let names = select(&[EndpointNames::Address, EndpointNames::Pod][..]);
    (any::<bool>(), pods, names, any::<bool>())
        .prop_map(|(extra, pods, names, fallback)| config_of(extra, pods, names, fallback))
}

/// Names that only such configurations have, besides all others.
fn any_name() -> impl Strategy<Value = String> {
    let fixed = select(
        &[
            "static.example.",
            "alias.example.",
            "other.example.",
            "far.example.",
            "b.cluster.local.",
            "a.b.cluster.local.",
            "_http._tcp.static.example.",
            "_http._tcp.web.example.",
            "cluster.example.",
            "ns.dns.cluster.example.",
            "10-0-0-1.n.pod.cluster.local.",
            "fd00--1.m.pod.cluster.example.",
            "x.n.pod.cluster.local.",
            "n.pod.cluster.local.",
        ][..],
    );
    let extra = cased().prop_map(|name| name.replace("cluster.local", "cluster.example"));
    prop_oneof![2 => cased(), 2 => extra, 1 => fixed.prop_map(str::to_owned)]
}

/// Both paths, and the index against a scan, for one question.
fn compare(table: &Table, name: &str, rtype: RecordType, edns: bool) {
    let message = query(name, rtype);
    let message = if edns { with_edns(message, 1232) } else { message };
    let slow = slow(table, &message);
    match fast(table, &message) {
        Some(fast) => assert_same(&fast, &slow),
        // Left alone: other things than records, what an alias leads to at length, names of pods,
        // and servers at static names.
        None => {
            let meta = crate::fast::is_meta(rtype.into());
            let alias = slow.answers.iter().any(|r| r.record_type() == RecordType::CNAME);
            let lower = name.to_ascii_lowercase();
            let apart = lower.contains(".pod.") || lower.ends_with(".example.");
            let addresses = matches!(rtype, RecordType::A | RecordType::AAAA);
            assert!(meta || apart || (alias && !addresses), "{message}");
        }
    }
    // The index finds what the scan finds.
    let indexed = slowly(table, &bytes(&message), crate::Transport::Tcp);
    assert_same(&decode(&indexed.expect("an answer")), &slow);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn both_paths_say_the_same(
        entries in vec(entry(), 0..10),
        questions in vec((cased(), rtype(), any::<bool>()), 40),
    ) {
        let table = table(entries);
        for (name, rtype, edns) in questions {
            compare(&table, &name, rtype, edns);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn both_paths_say_the_same_whatever_is_configured(
        config in any_config(),
        entries in vec(entry(), 0..10),
        questions in vec((any_name(), rtype(), any::<bool>()), 40),
    ) {
        let table = table_of(&config, entries);
        for (name, rtype, edns) in questions {
            compare(&table, &name, rtype, edns);
        }
    }
}
