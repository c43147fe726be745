//! Each form of record and each rule as a question and its answer, on both paths.

use hickory_proto::op::ResponseCode;
use hickory_proto::op::ResponseCode::{NXDomain, NoError, Refused, ServFail};
use hickory_proto::rr::RecordType::{self, A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use std::sync::Arc;

use portolan_model::Protocol::{Tcp, Udp};
use portolan_model::ServiceKind::{self, Headless};
use portolan_model::{Changes, Generation, Key, Snapshot};

use super::kit::*;
use crate::table::Table;

/// A question, its code, and its answer section.
type Case<'a> = (&'a str, RecordType, ResponseCode, &'a [&'a str]);

fn check(table: &Table, cases: &[Case<'_>]) {
    for (name, rtype, code, answers) in cases {
        let reply = ask(table, name, *rtype);
        assert_eq!(reply.metadata.response_code, *code, "{name} {rtype}: {reply}");
        let mut expected: Vec<String> = answers.iter().map(ToString::to_string).collect();
        expected.sort();
        assert_eq!(short(&reply.answers), expected, "{name} {rtype}");
        let negative = *code == NXDomain || (*code == NoError && answers.is_empty());
        let soa = reply.authorities.iter().filter(|r| r.record_type() == SOA).count();
        assert_eq!(soa, usize::from(negative), "SOA of a negative answer: {reply}");
        assert_eq!(reply.metadata.authoritative, matches!(code, NoError | NXDomain), "{reply}");
        assert!(!reply.metadata.recursion_available && reply.metadata.recursion_desired);
    }
}

fn shop() -> Table {
    let ports = [("http", Tcp, 80), ("dns", Udp, 53)];
    table(vec![
        service("shop/web", cluster_ip(&["10.96.0.1", "fd00:96::1"]), &ports, vec![]),
        service("shop/plain", cluster_ip(&["10.96.0.2"]), &[("", Tcp, 8080)], vec![]),
        service("shop/bare", cluster_ip(&[]), &[], vec![]),
        service(
            "shop/db",
            Headless,
            &[("sql", Tcp, 5432)],
            vec![
                (
                    vec![("sql", Tcp, 6000)],
                    vec![
                        endpoint("10.0.0.1", None),
                        endpoint("10.0.0.2", Some("db-0")),
                        endpoint("10.0.0.3", Some("db-0")),
                        not_ready("10.0.0.9"),
                    ],
                ),
                (vec![("sql", Tcp, 7000)], vec![endpoint("fd00::1", None)]),
            ],
        ),
        service(
            "idle/none",
            Headless,
            &[("sql", Tcp, 5432)],
            vec![(vec![("sql", Tcp, 6000)], vec![not_ready("10.0.1.1")])],
        ),
    ])
}

#[test]
fn a_service_with_cluster_ips_has_addresses_servers_and_pointers() {
    let (web, http) = ("web.shop.svc.cluster.local.", "_http._tcp.web.shop.svc.cluster.local.");
    check(
        &shop(),
        &[
            (web, A, NoError, &["web.shop.svc.cluster.local. A 10.96.0.1"]),
            (web, AAAA, NoError, &["web.shop.svc.cluster.local. AAAA fd00:96::1"]),
            (
                http,
                SRV,
                NoError,
                &[
                    "_http._tcp.web.shop.svc.cluster.local. SRV 0 100 80 web.shop.svc.cluster.local.",
                ],
            ),
            (
                web,
                SRV,
                NoError,
                &[
                    "web.shop.svc.cluster.local. SRV 0 100 80 web.shop.svc.cluster.local.",
                    "web.shop.svc.cluster.local. SRV 0 100 53 web.shop.svc.cluster.local.",
                ],
            ),
            (
                "1.0.96.10.in-addr.arpa.",
                PTR,
                NoError,
                &["1.0.96.10.in-addr.arpa. PTR web.shop.svc.cluster.local."],
            ),
            (
                "plain.shop.svc.cluster.local.",
                SRV,
                NoError,
                &["plain.shop.svc.cluster.local. SRV 0 100 8080 plain.shop.svc.cluster.local."],
            ),
        ],
    );
}

#[test]
fn servers_come_with_the_addresses_of_their_hosts() {
    let table = shop();
    let reply = ask(&table, "_http._tcp.web.shop.svc.cluster.local.", SRV);
    assert_eq!(
        short(&reply.additionals),
        ["web.shop.svc.cluster.local. A 10.96.0.1", "web.shop.svc.cluster.local. AAAA fd00:96::1"]
    );
    let reply = ask(&table, "_sql._tcp.db.shop.svc.cluster.local.", SRV);
    assert_eq!(
        short(&reply.additionals),
        [
            "10-0-0-1.db.shop.svc.cluster.local. A 10.0.0.1",
            "db-0.db.shop.svc.cluster.local. A 10.0.0.2",
            "db-0.db.shop.svc.cluster.local. A 10.0.0.3",
            "fd00--1.db.shop.svc.cluster.local. AAAA fd00::1",
        ]
    );
}

#[test]
fn a_headless_service_has_the_records_of_its_ready_endpoints() {
    let db = "db.shop.svc.cluster.local.";
    check(
        &shop(),
        &[
            (
                db,
                A,
                NoError,
                &[
                    "db.shop.svc.cluster.local. A 10.0.0.1",
                    "db.shop.svc.cluster.local. A 10.0.0.2",
                    "db.shop.svc.cluster.local. A 10.0.0.3",
                ],
            ),
            (db, AAAA, NoError, &["db.shop.svc.cluster.local. AAAA fd00::1"]),
            (
                "10-0-0-1.db.shop.svc.cluster.local.",
                A,
                NoError,
                &["10-0-0-1.db.shop.svc.cluster.local. A 10.0.0.1"],
            ),
            (
                "db-0.db.shop.svc.cluster.local.",
                A,
                NoError,
                &[
                    "db-0.db.shop.svc.cluster.local. A 10.0.0.2",
                    "db-0.db.shop.svc.cluster.local. A 10.0.0.3",
                ],
            ),
            (
                "fd00--1.db.shop.svc.cluster.local.",
                AAAA,
                NoError,
                &["fd00--1.db.shop.svc.cluster.local. AAAA fd00::1"],
            ),
            ("fd00--1.db.shop.svc.cluster.local.", A, NoError, &[]),
            // 10.0.0.2 and 10.0.0.3 share name and port: three servers share 100.
            (
                "_sql._tcp.db.shop.svc.cluster.local.",
                SRV,
                NoError,
                &[
                    "_sql._tcp.db.shop.svc.cluster.local. SRV 0 33 6000 10-0-0-1.db.shop.svc.cluster.local.",
                    "_sql._tcp.db.shop.svc.cluster.local. SRV 0 33 6000 db-0.db.shop.svc.cluster.local.",
                    "_sql._tcp.db.shop.svc.cluster.local. SRV 0 33 7000 fd00--1.db.shop.svc.cluster.local.",
                ],
            ),
            ("10-0-0-9.db.shop.svc.cluster.local.", A, NXDomain, &[]),
            ("10-0-0-2.db.shop.svc.cluster.local.", A, NXDomain, &[]),
        ],
    );
}

#[test]
fn endpoints_are_found_by_address_wherever_they_are() {
    check(
        &shop(),
        &[
            (
                "1.0.0.10.in-addr.arpa.",
                PTR,
                NoError,
                &["1.0.0.10.in-addr.arpa. PTR 10-0-0-1.db.shop.svc.cluster.local."],
            ),
            (
                "3.0.0.10.in-addr.arpa.",
                PTR,
                NoError,
                &["3.0.0.10.in-addr.arpa. PTR db-0.db.shop.svc.cluster.local."],
            ),
            // Not ready, no such endpoint, another type: not ours to deny.
            ("9.0.0.10.in-addr.arpa.", PTR, Refused, &[]),
            ("4.0.0.10.in-addr.arpa.", PTR, Refused, &[]),
            ("1.0.0.10.in-addr.arpa.", A, Refused, &[]),
            ("0.0.10.in-addr.arpa.", PTR, Refused, &[]),
        ],
    );
}

#[test]
fn a_headless_service_without_ready_endpoints_is_no_name() {
    check(
        &shop(),
        &[
            ("none.idle.svc.cluster.local.", A, NXDomain, &[]),
            ("_sql._tcp.none.idle.svc.cluster.local.", SRV, NXDomain, &[]),
            ("_tcp.none.idle.svc.cluster.local.", SRV, NXDomain, &[]),
            // Its namespace has a service all the same.
            ("idle.svc.cluster.local.", A, NoError, &[]),
        ],
    );
}

#[test]
fn what_exists_without_the_type_is_no_data_and_the_rest_no_domain() {
    check(
        &shop(),
        &[
            ("cluster.local.", A, NoError, &[]),
            ("svc.cluster.local.", A, NoError, &[]),
            ("dns.cluster.local.", A, NoError, &[]),
            ("shop.svc.cluster.local.", A, NoError, &[]),
            ("_tcp.web.shop.svc.cluster.local.", SRV, NoError, &[]),
            ("_udp.web.shop.svc.cluster.local.", A, NoError, &[]),
            ("web.shop.svc.cluster.local.", MX, NoError, &[]),
            ("plain.shop.svc.cluster.local.", AAAA, NoError, &[]),
            ("bare.shop.svc.cluster.local.", A, NoError, &[]),
            ("_http._tcp.web.shop.svc.cluster.local.", A, NoError, &[]),
            ("_sctp.web.shop.svc.cluster.local.", SRV, NXDomain, &[]),
            ("_tcp.plain.shop.svc.cluster.local.", SRV, NXDomain, &[]),
            ("_https._tcp.web.shop.svc.cluster.local.", SRV, NXDomain, &[]),
            ("other.svc.cluster.local.", A, NXDomain, &[]),
            ("web.other.svc.cluster.local.", A, NXDomain, &[]),
            ("x.web.shop.svc.cluster.local.", A, NXDomain, &[]),
            ("pod.cluster.local.", A, NoError, &[]),
            ("1-2-3-4.shop.pod.cluster.local.", A, NXDomain, &[]),
        ],
    );
}

#[test]
fn the_zone_names_itself_its_server_and_its_version() {
    let soa =
        "cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5";
    let table = shop();
    check(
        &table,
        &[
            ("cluster.local.", SOA, NoError, &[soa]),
            ("cluster.local.", NS, NoError, &["cluster.local. NS ns.dns.cluster.local."]),
            ("ns.dns.cluster.local.", A, NoError, &["ns.dns.cluster.local. A 10.96.0.10"]),
            ("ns.dns.cluster.local.", AAAA, NoError, &["ns.dns.cluster.local. AAAA fd00:96::a"]),
            ("dns-version.cluster.local.", TXT, NoError, &["dns-version.cluster.local. TXT 1.1.0"]),
            ("dns-version.cluster.local.", A, NoError, &[]),
        ],
    );
    let glue = ask(&table, "cluster.local.", NS).additionals;
    assert_eq!(
        short(&glue),
        ["ns.dns.cluster.local. A 10.96.0.10", "ns.dns.cluster.local. AAAA fd00:96::a"]
    );
}

#[test]
fn reverse_zones_of_the_service_ranges_are_ours() {
    let apex = "96.10.in-addr.arpa.";
    let table = shop();
    check(
        &table,
        &[
            (apex, NS, NoError, &["96.10.in-addr.arpa. NS ns.dns.cluster.local."]),
            (apex, PTR, NoError, &[]),
            // Between the apex and 10.96.0.1: exists, has nothing (RFC 8020).
            ("0.96.10.in-addr.arpa.", PTR, NoError, &[]),
            ("9.96.10.in-addr.arpa.", PTR, NXDomain, &[]),
            ("3.0.96.10.in-addr.arpa.", PTR, NXDomain, &[]),
            ("1.0.96.10.in-addr.arpa.", A, NoError, &[]),
            ("01.0.96.10.in-addr.arpa.", PTR, NXDomain, &[]),
            ("0.96.11.in-addr.arpa.", PTR, Refused, &[]),
        ],
    );
    let reply = ask(&table, "3.0.96.10.in-addr.arpa.", PTR);
    assert_eq!(reply.authorities[0].name.to_ascii(), apex);
    let v6 = format!("1.0.0.0.{}6.9.0.0.0.0.d.f.ip6.arpa.", "0.".repeat(20));
    let reply = ask(&table, &v6, PTR);
    assert_eq!(short(&reply.answers), [format!("{v6} PTR web.shop.svc.cluster.local.")]);
}

/// KEP-1645, "DNS": the names of a set of clusters, apart from those of the cluster.
#[test]
fn services_of_a_cluster_set_have_names_in_its_zone_that_say_the_cluster() {
    let port = |port| vec![("http", Tcp, port)];
    let web = cluster_ip(&["10.96.0.1"]);
    let imported = cluster_ip(&["10.97.0.1"]);
    let mut db = (*service(
        "clusterset/shop/db",
        ServiceKind::Headless,
        &port(80),
        vec![
            (port(8080), vec![endpoint("10.0.0.1", Some("db-0"))]),
            (port(9090), vec![endpoint("10.1.0.1", Some("db-0")), not_ready("10.1.0.2")]),
        ],
    ))
    .clone();
    for (slice, cluster) in db.slices.iter_mut().zip(["east", "west"]) {
        Arc::make_mut(slice).cluster = Some(cluster.into());
    }
    let table = table(vec![
        service("shop/web", web, &port(80), Vec::new()),
        service("clusterset/shop/web", imported, &port(80), Vec::new()),
        Arc::new(db),
    ]);
    let db = "db.shop.svc.clusterset.local.";
    check(
        &table,
        &[
            (
                "web.shop.svc.cluster.local.",
                A,
                NoError,
                &["web.shop.svc.cluster.local. A 10.96.0.1"],
            ),
            (
                "web.shop.svc.clusterset.local.",
                A,
                NoError,
                &["web.shop.svc.clusterset.local. A 10.97.0.1"],
            ),
            (
                "_http._tcp.web.shop.svc.clusterset.local.",
                SRV,
                NoError,
                &[
                    "_http._tcp.web.shop.svc.clusterset.local. SRV 0 100 80 web.shop.svc.clusterset.local.",
                ],
            ),
            (
                db,
                A,
                NoError,
                &[
                    "db.shop.svc.clusterset.local. A 10.0.0.1",
                    "db.shop.svc.clusterset.local. A 10.1.0.1",
                ],
            ),
            (
                "db-0.east.db.shop.svc.clusterset.local.",
                A,
                NoError,
                &["db-0.east.db.shop.svc.clusterset.local. A 10.0.0.1"],
            ),
            (
                "_http._tcp.db.shop.svc.clusterset.local.",
                SRV,
                NoError,
                &[
                    "_http._tcp.db.shop.svc.clusterset.local. SRV 0 50 8080 db-0.east.db.shop.svc.clusterset.local.",
                    "_http._tcp.db.shop.svc.clusterset.local. SRV 0 50 9090 db-0.west.db.shop.svc.clusterset.local.",
                ],
            ),
            ("west.db.shop.svc.clusterset.local.", A, NoError, &[]),
            ("db-0.db.shop.svc.clusterset.local.", A, NXDomain, &[]),
            ("shop.svc.clusterset.local.", A, NoError, &[]),
            ("svc.clusterset.local.", A, NoError, &[]),
            ("clusterset.local.", A, NoError, &[]),
            ("db.shop.svc.cluster.local.", A, NXDomain, &[]),
            ("nope.shop.svc.clusterset.local.", A, NXDomain, &[]),
        ],
    );
}

#[test]
fn a_declared_namespace_is_a_name_without_data() {
    let mut snapshot = snapshot(Vec::new());
    let names = ["empty.svc.cluster.local.", "other.svc.cluster.local."];
    let empty = Table::new(&config()).expect("valid");
    for (declared, rcode) in [(true, NoError), (false, NXDomain)] {
        snapshot.declare_namespace(&"empty".into(), declared);
        let everything = empty.apply(&snapshot, &Changes::Everything);
        let key = Key::Namespace("empty".into());
        let step = empty.apply(&Snapshot::default().at(Generation(1)), &Changes::Everything);
        let step = step.apply(&snapshot, &Changes::Keys([key].into()));
        assert!(everything == step, "made step by step it is the same");
        check(&everything, &[(names[0], A, rcode, &[]), (names[1], A, NXDomain, &[])]);
    }
}

#[test]
fn an_external_name_is_an_alias_followed_within_the_zone() {
    let table = table(vec![
        service("ns/web", cluster_ip(&["10.96.0.1"]), &[("http", Tcp, 80)], vec![]),
        service("ns/out", external("www.example.com"), &[], vec![]),
        service("ns/in", external("web.ns.svc.cluster.local"), &[], vec![]),
        service("ns/twice", external("in.ns.svc.cluster.local"), &[], vec![]),
        service("ns/gone", external("nobody.ns.svc.cluster.local"), &[], vec![]),
        service("ns/apex", external("cluster.local"), &[], vec![]),
        service("ns/loop", external("pool.ns.svc.cluster.local"), &[], vec![]),
        service("ns/pool", external("loop.ns.svc.cluster.local"), &[], vec![]),
    ]);
    let to_web = "in.ns.svc.cluster.local. CNAME web.ns.svc.cluster.local.";
    let out = "out.ns.svc.cluster.local. CNAME www.example.com.";
    let web = "web.ns.svc.cluster.local. A 10.96.0.1";
    for (name, rtype, code, answers) in [
        ("out", A, NoError, vec![out]),
        ("out", MX, NoError, vec![out]),
        ("in", A, NoError, vec![to_web, web]),
        ("in", CNAME, NoError, vec![to_web]),
        ("in", AAAA, NoError, vec![to_web]),
        (
            "in",
            SRV,
            NoError,
            vec![to_web, "web.ns.svc.cluster.local. SRV 0 100 80 web.ns.svc.cluster.local."],
        ),
        (
            "twice",
            A,
            NoError,
            vec![to_web, "twice.ns.svc.cluster.local. CNAME in.ns.svc.cluster.local.", web],
        ),
        (
            "gone",
            A,
            NXDomain,
            vec!["gone.ns.svc.cluster.local. CNAME nobody.ns.svc.cluster.local."],
        ),
        ("apex", A, NoError, vec!["apex.ns.svc.cluster.local. CNAME cluster.local."]),
        ("loop", A, ServFail, vec![]),
        (
            "loop",
            CNAME,
            NoError,
            vec!["loop.ns.svc.cluster.local. CNAME pool.ns.svc.cluster.local."],
        ),
    ] {
        let reply = ask(&table, &format!("{name}.ns.svc.cluster.local."), rtype);
        assert_eq!(reply.metadata.response_code, code, "{name} {rtype}: {reply}");
        let mut answers = answers;
        answers.sort_unstable();
        assert_eq!(short(&reply.answers), answers, "{name} {rtype}");
    }
    assert!(
        fast(&table, &query("in.ns.svc.cluster.local.", SRV)).is_none(),
        "left to the slow path"
    );
}

#[test]
fn a_chain_of_ten_aliases_is_followed_and_one_of_eleven_is_not() {
    let mut entries = vec![service("ns/s0", cluster_ip(&["10.96.0.1"]), &[], vec![])];
    for n in 1..=11 {
        let target = format!("s{}.ns.svc.cluster.local", n - 1);
        entries.push(service(&format!("ns/s{n}"), external(&target), &[], vec![]));
    }
    let table = table(entries);
    let ten = ask(&table, "s10.ns.svc.cluster.local.", A);
    assert_eq!((ten.metadata.response_code, ten.answers.len()), (NoError, 11));
    let eleven = ask(&table, "s11.ns.svc.cluster.local.", A);
    assert_eq!((eleven.metadata.response_code, eleven.answers.len()), (ServFail, 0));
}

#[test]
fn before_the_first_snapshot_every_name_of_ours_is_not_ready() {
    let table = Table::new(&config()).expect("valid");
    for name in ["web.shop.svc.cluster.local.", "cluster.local.", "1.0.96.10.in-addr.arpa."] {
        let reply = ask(&table, name, A);
        assert_eq!(reply.metadata.response_code, ServFail, "{name}");
        assert_eq!(error_code(&reply), Some(14), "{name}");
    }
    let outside = ask(&table, "example.com.", A);
    assert_eq!((outside.metadata.response_code, error_code(&outside)), (Refused, Some(20)));
}

#[test]
fn a_name_outside_is_refused_and_says_why_to_who_can_read_it() {
    let table = shop();
    for name in ["example.com.", "local.", ".", "xcluster.local."] {
        let reply = ask(&table, name, A);
        assert_eq!(
            (reply.metadata.response_code, error_code(&reply)),
            (Refused, Some(20)),
            "{name}"
        );
        let plain = fast(&table, &query(name, A)).expect("a plain question");
        assert_eq!((plain.metadata.response_code, plain.edns), (Refused, None), "{name}");
    }
}

#[test]
fn the_case_of_the_question_is_kept() {
    let table = shop();
    for rtype in [A, SRV, MX] {
        let reply = ask(&table, "WeB.shop.SVC.clusteR.local.", rtype);
        assert_eq!(reply.queries[0].name().to_ascii(), "WeB.shop.SVC.clusteR.local.");
        for record in &reply.answers {
            assert_eq!(record.name.to_ascii(), "WeB.shop.SVC.clusteR.local.");
        }
    }
}

#[test]
fn addresses_take_turns_to_come_first() {
    let table = shop();
    let query = bytes(&query("db.shop.svc.cluster.local.", A));
    let firsts: Vec<String> = (0..4)
        .map(|rotation| {
            let answer =
                fast_bytes(&table, &query, crate::Transport::Udp, rotation).expect("plain");
            let answers = decode(&answer).answers;
            assert_eq!(short(&answers).len(), 3, "each stands there once");
            answers[0].data.to_string()
        })
        .collect();
    assert_eq!(firsts, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"]);
}

/// The extended error of an answer (RFC 8914).
fn error_code(reply: &hickory_proto::op::Message) -> Option<u16> {
    match reply.edns.as_ref()?.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, data) => Some(u16::from_be_bytes(data[..2].try_into().ok()?)),
        _ => None,
    }
}
