//! Which endpoints answer for a headless service, and by which names: pods' names, those on their
//! way out, and those near the client.

use domain::base::iana::OptRcode as R;
use domain::base::iana::Rtype as T;

use crate::client::Query;
use crate::server::{Case, Server, full};

const NOERROR: R = R::NOERROR;
const NXDOMAIN: R = R::NXDOMAIN;

/// A headless service and its slice, with these lines for endpoints.
fn headless(name: &str, endpoints: &[&str]) -> String {
    let endpoints: String = endpoints.iter().map(|line| format!("- {{{line}}}\n")).collect();
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{clusterIP: None, ports: [{{name: sql, port: 5432}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: sql, port: 5432}}]
endpoints:
{endpoints}"
    )
}

#[tokio::test]
async fn an_endpoint_without_a_hostname_goes_by_its_pod_where_that_is_wanted() {
    let fits = "p".repeat(63);
    let short = format!("{fits}.db.shop%");
    let reference = |pod: &str| format!("targetRef: {{kind: Pod, name: {pod}, namespace: shop}}");
    let manifests = headless(
        "db",
        &[
            &format!("addresses: [10.0.0.1], {}", reference("db-a")),
            &format!("addresses: [10.0.0.2], hostname: db-0, {}", reference("db-b")),
            &format!("addresses: [10.0.0.3], {}", reference(&fits)),
            &format!("addresses: [10.0.0.4], {}", reference(&format!("{fits}p"))),
            &format!("addresses: [10.0.0.5], {}", reference("dotted.name")),
            "addresses: [10.0.0.6]",
        ],
    );
    let server = Server::start(&manifests, &["dns.endpoint_names=pod"]).await;
    let section = "dns.endpoint_names";
    let pointer = format!("PTR {short}");
    let cases: &[Case<'_>] = &[
        (section, "db-a.db.shop%", T::A, NOERROR, &["A 10.0.0.1"]),
        (section, "10-0-0-1.db.shop%", T::A, NXDOMAIN, &[]),
        // The hostname goes first.
        (section, "db-0.db.shop%", T::A, NOERROR, &["A 10.0.0.2"]),
        (section, "db-b.db.shop%", T::A, NXDOMAIN, &[]),
        // RFC 1035 §2.3.4: a label has 63 octets at most.
        (section, &short, T::A, NOERROR, &["A 10.0.0.3"]),
        (section, "10-0-0-3.db.shop%", T::A, NXDOMAIN, &[]),
        (section, "10-0-0-4.db.shop%", T::A, NOERROR, &["A 10.0.0.4"]),
        // A name of several labels is none.
        (section, "10-0-0-5.db.shop%", T::A, NOERROR, &["A 10.0.0.5"]),
        (section, "10-0-0-6.db.shop%", T::A, NOERROR, &["A 10.0.0.6"]),
        ("DNS-SD §2.4.3", "1.0.0.10.in-addr.arpa.", T::PTR, NOERROR, &["PTR db-a.db.shop%"]),
        ("DNS-SD §2.4.3", "3.0.0.10.in-addr.arpa.", T::PTR, NOERROR, &[&pointer]),
    ];
    server.check(cases).await;
    // Too large for a datagram without EDNS.
    let servers = Query::new(&full("_sql._tcp.db.shop%"), T::SRV);
    let servers = server.ask_over_all(&servers).await;
    assert_eq!((servers.answers.len(), servers.additionals.len()), (6, 6), "DNS-SD §2.4.2");
}

/// Endpoints that leave: one of three, and all.
fn leaving() -> String {
    let state = |ready: bool, serving: bool, terminating: bool| {
        format!("conditions: {{ready: {ready}, serving: {serving}, terminating: {terminating}}}")
    };
    let endpoint = |n: u8, state: &str| format!("addresses: [10.0.0.{n}], hostname: e{n}, {state}");
    let (ready, leaving) = (state(true, true, false), state(false, true, true));
    let (unready, gone) = (state(false, false, false), state(false, false, true));
    let some = [endpoint(1, &ready), endpoint(2, &leaving), endpoint(3, &unready)];
    let last =
        [endpoint(4, &leaving), endpoint(5, &leaving), endpoint(6, &gone), endpoint(7, &unready)];
    let lines = |list: &[String], name| {
        headless(name, &list.iter().map(String::as_str).collect::<Vec<_>>())
    };
    lines(&some, "some") + &lines(&last, "last")
}

#[tokio::test]
async fn endpoints_that_terminate_leave_first_and_answer_when_nothing_else_is_left() {
    let server = Server::start(&leaving(), &[]).await;
    let section = "KEP-1669";
    let cases: &[Case<'_>] = &[
        (section, "some.shop%", T::A, NOERROR, &["A 10.0.0.1"]),
        (section, "e2.some.shop%", T::A, NXDOMAIN, &[]),
        (section, "_sql._tcp.some.shop%", T::SRV, NOERROR, &["SRV 0 100 5432 e1.some.shop%"]),
        (section, "last.shop%", T::A, NOERROR, &["A 10.0.0.4", "A 10.0.0.5"]),
        (section, "e4.last.shop%", T::A, NOERROR, &["A 10.0.0.4"]),
        (section, "e6.last.shop%", T::A, NXDOMAIN, &[]),
        (section, "e7.last.shop%", T::A, NXDOMAIN, &[]),
        (
            section,
            "_sql._tcp.last.shop%",
            T::SRV,
            NOERROR,
            &["SRV 0 50 5432 e4.last.shop%", "SRV 0 50 5432 e5.last.shop%"],
        ),
        (section, "4.0.0.10.in-addr.arpa.", T::PTR, NOERROR, &["PTR e4.last.shop%"]),
    ];
    server.check(cases).await;
}

#[tokio::test]
async fn endpoints_that_terminate_never_answer_where_that_is_not_wanted() {
    let mut server = Server::start(&leaving(), &["dns.terminating=never"]).await;
    let section = "dns.terminating";
    let cases: &[Case<'_>] = &[
        (section, "some.shop%", T::A, NOERROR, &["A 10.0.0.1"]),
        (section, "last.shop%", T::A, NXDOMAIN, &[]),
        (section, "e4.last.shop%", T::A, NXDOMAIN, &[]),
        (section, "_sql._tcp.last.shop%", T::SRV, NXDOMAIN, &[]),
    ];
    server.check(cases).await;
    let text = "service shop/last exists, 0 of 4 endpoints ready";
    server.check_reasons(&[("last.shop%", T::A, 0, text)]).await;
    // One gets ready: the name is there with it, and with it alone.
    let again = headless(
        "last",
        &[
            "addresses: [10.0.0.4]",
            "addresses: [10.0.0.5], conditions: {ready: false, serving: true, terminating: true}",
        ],
    );
    server.apply(&again, 2).await;
    server.check(&[(section, "last.shop%", T::A, NOERROR, &["A 10.0.0.4"])]).await;
}

/// Nodes by whose ranges loopback clients are placed, and four endpoints on three of them.
fn spread() -> String {
    let node = |name: &str, zone: &str, range: u8, address: &str| {
        format!(
            "---
apiVersion: v1
kind: Node
metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}
spec: {{podCIDRs: [127.{range}.0.0/16]}}
status: {{addresses: [{{type: InternalIP, address: {address}}}]}}
"
        )
    };
    let nodes = [
        node("n1", "west", 1, "127.9.0.1"),
        node("n2", "west", 2, "127.9.0.2"),
        node("n3", "east", 3, "127.9.0.3"),
        node("n4", "north", 4, "127.9.0.4"),
    ];
    nodes.concat()
        + &headless(
            "db",
            &[
                "addresses: [10.0.0.1], hostname: pair, nodeName: n1, zone: west",
                "addresses: [10.0.0.2], nodeName: n2, zone: west",
                "addresses: [10.0.0.3], hostname: pair, nodeName: n3, zone: east",
                // Its zone is that of its node.
                "addresses: [10.0.0.4], nodeName: n3",
            ],
        )
}

/// The addresses of the service as clients get them, each by its last octet.
async fn check_places(settings: &[&str], cases: &[(&str, &[u8])]) {
    let server = Server::start(&spread(), settings).await;
    for (client, octets) in cases {
        let records: Vec<String> = octets.iter().map(|n| format!("A 10.0.0.{n}")).collect();
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        let what = settings.join(" ");
        server.check_from(client, &[(&what, "db.shop%", T::A, NOERROR, &records)]).await;
    }
}

#[tokio::test]
async fn headless_answers_are_cut_to_the_clients_node_else_its_zone_else_not_at_all() {
    let cases: &[(&str, &[u8])] = &[
        ("127.1.0.7", &[1]),
        ("127.9.0.1", &[1]),
        ("127.2.3.4", &[2]),
        ("127.3.0.1", &[3, 4]),
        // A zone without endpoints, and a client on no node.
        ("127.4.0.1", &[1, 2, 3, 4]),
        ("127.0.0.1", &[1, 2, 3, 4]),
    ];
    check_places(&["dns.topology=prefer"], cases).await;
}

#[tokio::test]
async fn as_many_endpoints_as_the_threshold_are_enough() {
    let two: &[(&str, &[u8])] =
        &[("127.1.0.7", &[1, 2]), ("127.2.3.4", &[1, 2]), ("127.3.0.1", &[3, 4])];
    check_places(&["dns.topology=prefer", "dns.topology_threshold=2"], two).await;
    let three: &[(&str, &[u8])] = &[("127.1.0.7", &[1, 2, 3, 4]), ("127.3.0.1", &[1, 2, 3, 4])];
    check_places(&["dns.topology=prefer", "dns.topology_threshold=3"], three).await;
}

#[tokio::test]
async fn a_server_that_knows_its_node_takes_all_clients_to_be_there() {
    let cases: &[(&str, &[u8])] = &[("127.0.0.1", &[2]), ("127.1.0.7", &[2]), ("127.3.0.1", &[2])];
    check_places(&["dns.topology=prefer", "dns.node_name=n2"], cases).await;
}

#[tokio::test]
async fn without_a_preference_everybody_gets_everything() {
    let cases: &[(&str, &[u8])] = &[("127.1.0.7", &[1, 2, 3, 4]), ("127.3.0.1", &[1, 2, 3, 4])];
    check_places(&["dns.node_name=n2"], cases).await;
}

#[tokio::test]
async fn a_preference_leaves_names_of_one_endpoint_and_servers_as_they_are() {
    let server = Server::start(&spread(), &["dns.topology=prefer"]).await;
    let section = "dns.topology";
    let servers = server.lookup("_sql._tcp.db.shop%", T::SRV).await.answers;
    assert_eq!(servers.len(), 3, "{servers:?}");
    let far: &[Case<'_>] = &[(section, "10-0-0-2.db.shop%", T::A, NOERROR, &["A 10.0.0.2"])];
    server.check_from("127.1.0.7", far).await;
    // Two addresses at one hostname are a choice again.
    let pair: &[Case<'_>] = &[(section, "pair.db.shop%", T::A, NOERROR, &["A 10.0.0.1"])];
    server.check_from("127.1.0.7", pair).await;
}
