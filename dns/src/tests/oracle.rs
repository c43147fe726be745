//! The fast path says what the slow path says, for random clusters and random questions.

use std::sync::Arc;

use hickory_proto::rr::RecordType;
use portolan_model::{Conditions, Endpoint, Protocol, ServiceEntry, ServiceKind};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::kit::*;

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

fn endpoints() -> impl Strategy<Value = Vec<Endpoint>> {
    let one = (address(), proptest::option::of(select(&WORDS[..])), any::<bool>());
    vec(one, 0..5).prop_map(|list| {
        let with = |(address, hostname, ready): (String, Option<&str>, bool)| Endpoint {
            conditions: Conditions { ready, serving: ready, terminating: false },
            ..endpoint(&address, hostname)
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn both_paths_say_the_same(
        entries in vec(entry(), 0..10),
        questions in vec((cased(), rtype(), any::<bool>()), 40),
    ) {
        let table = table(entries);
        for (name, rtype, edns) in questions {
            let message = query(&name, rtype);
            let message = if edns { with_edns(message, 1232) } else { message };
            let slow = slow(&table, &message);
            match fast(&table, &message) {
                Some(fast) => assert_same(&fast, &slow),
                // Left alone: other things than records, and what an alias leads to at length.
                None => {
                    let meta = crate::fast::is_meta(rtype.into());
                    assert!(meta || slow.answers.iter().any(|r| r.record_type() == RecordType::CNAME)
                        && !matches!(rtype, RecordType::A | RecordType::AAAA), "{message}");
                }
            }
            // The index finds what the scan finds.
            let indexed = slowly(&table, &bytes(&message), crate::Transport::Tcp);
            assert_same(&decode(&indexed.expect("an answer")), &slow);
        }
    }
}
