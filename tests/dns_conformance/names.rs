//! Names besides the cluster's own: further zones, the cluster set's, static records, a hosts file,
//! suffixes that stand for others; and who may ask.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use domain::base::iana::OptRcode as R;
use domain::base::iana::Rtype as T;

use crate::client::{ID, Query, TRANSPORTS, Transport, send_in_vain};
use crate::server::{Case, SHOP, Server, full};
use crate::support::{PATIENCE, replace};

const NOERROR: R = R::NOERROR;
const NXDOMAIN: R = R::NXDOMAIN;
const REFUSED: R = R::REFUSED;

/// Ranges of the shop's services.
const RANGES: &str = "control.service_ranges=10.96.0.0/16,fd00:96::/112";

#[tokio::test]
async fn a_further_zone_has_the_same_names() {
    let settings = [RANGES, "dns.extra_zones=cluster.example,east.corp", "dns.pods=insecure"];
    let server = Server::start(SHOP, &settings).await;
    let section = "dns.extra_zones";
    for zone in ["cluster.local.", "cluster.example.", "east.corp."] {
        let web = format!("web.shop.svc.{zone}");
        let [http, db, pod, version, nobody, shop] = [
            "_http._tcp.web.shop.svc",
            "db-0.db.shop.svc",
            "10-1-2-3.shop.pod",
            "dns-version",
            "nobody.shop.svc",
            "shop.svc",
        ]
        .map(|name| format!("{name}.{zone}"));
        let target = format!("SRV 0 100 80 {web}");
        let cases: &[Case<'_>] = &[
            (section, &web, T::A, NOERROR, &["A 10.96.0.1"]),
            (section, &http, T::SRV, NOERROR, &[&target]),
            (section, &db, T::A, NOERROR, &["A 10.0.0.2", "A 10.0.0.3"]),
            (section, &pod, T::A, NOERROR, &["A 10.1.2.3"]),
            (section, &version, T::TXT, NOERROR, &["TXT \"1.1.0\""]),
            (section, zone, T::NS, NOERROR, &["NS ns.dns.cluster.local."]),
            (section, zone, T::A, NOERROR, &[]),
            (section, &shop, T::A, NOERROR, &[]),
            (section, &nobody, T::A, NXDOMAIN, &[]),
        ];
        server.check(cases).await;
        let soa = server.lookup(&nobody, T::A).await.authorities;
        let of_zone = soa.iter().all(|soa| soa.starts_with(&format!("{zone} SOA ")));
        assert!(of_zone, "RFC 2308 §3: the zone's own: {soa:?}");
    }
    // An address has one name, in the cluster's own zone.
    let pointer: &[Case<'_>] =
        &[("DNS-SD §2.3.3", "1.0.96.10.in-addr.arpa.", T::PTR, NOERROR, &["PTR web.shop%"])];
    server.check(pointer).await;
}

/// A service of the cluster and one of the set by the same name, and a headless one in two clusters.
const CLUSTER_SET: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: {name: web, namespace: shop}
spec: {type: ClusterSetIP, ips: [10.96.7.1], ports: [{name: http, port: 80, protocol: TCP}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceImport
metadata: {name: db, namespace: shop}
spec: {type: Headless, ports: [{name: sql, port: 5432, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: imported-db-east
  namespace: shop
  labels: {multicluster.kubernetes.io/service-name: db, multicluster.kubernetes.io/source-cluster: east}
addressType: IPv4
ports: [{name: sql, port: 5432, protocol: TCP}]
endpoints:
- {addresses: [10.0.0.1], hostname: db-0}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: imported-db-west
  namespace: shop
  labels: {multicluster.kubernetes.io/service-name: db, multicluster.kubernetes.io/source-cluster: west}
addressType: IPv4
ports: [{name: sql, port: 6432, protocol: TCP}]
endpoints:
- {addresses: [10.1.0.1], hostname: db-0}
- {addresses: [10.1.0.2], conditions: {ready: false}}
"#;

#[tokio::test]
async fn services_of_a_cluster_set_are_answered_in_its_zone_and_say_the_cluster() {
    let server = Server::start(CLUSTER_SET, &[RANGES]).await;
    let section = "KEP-1645, DNS";
    let set = |name: &str| format!("{name}.shop.svc.clusterset.local.");
    let [web, http, db, sql] = ["web", "_http._tcp.web", "db", "_sql._tcp.db"].map(set);
    let [east, west, of_west, bare] =
        ["db-0.east.db", "db-0.west.db", "west.db", "db-0.db"].map(set);
    let (to_web, to_east, to_west) = (
        format!("SRV 0 100 80 {web}"),
        format!("SRV 0 50 5432 {east}"),
        format!("SRV 0 50 6432 {west}"),
    );
    let cases: &[Case<'_>] = &[
        (section, "web.shop%", T::A, NOERROR, &["A 10.96.0.1"]),
        (section, &web, T::A, NOERROR, &["A 10.96.7.1"]),
        (section, &http, T::SRV, NOERROR, &[&to_web]),
        (section, &db, T::A, NOERROR, &["A 10.0.0.1", "A 10.1.0.1"]),
        (section, &east, T::A, NOERROR, &["A 10.0.0.1"]),
        (section, &west, T::A, NOERROR, &["A 10.1.0.1"]),
        (section, &sql, T::SRV, NOERROR, &[&to_east, &to_west]),
        (section, &bare, T::A, NXDOMAIN, &[]),
        ("RFC 8020 §2", &of_west, T::A, NOERROR, &[]),
        ("RFC 2308 §2.2", "shop.svc.clusterset.local.", T::A, NOERROR, &[]),
        (section, "db.shop%", T::A, NXDOMAIN, &[]),
        ("DNS-SD §2.3.3", "1.7.96.10.in-addr.arpa.", T::PTR, NOERROR, &[&format!("PTR {web}")]),
    ];
    server.check(cases).await;
}

#[tokio::test]
async fn static_records_stand_beside_the_clusters_names() {
    let records = "dns.records=db.corp.example 5 A 10.1.1.1,db.corp.example 5 A 10.1.1.2,\
                   db.corp.example 5 AAAA fd01::1,www.corp.example 5 CNAME db.corp.example,\
                   out.corp.example 5 CNAME www.example.com,t.corp.example 5 TXT two words,\
                   _sql._tcp.corp.example 5 SRV 1 2 5432 db.corp.example,\
                   1.1.1.10.in-addr.arpa 5 PTR db.corp.example,\
                   api.cluster.local 5 CNAME web.shop.svc.cluster.local,\
                   deep.er.cluster.local 5 A 10.1.1.3";
    let server = Server::start(SHOP, &[RANGES, records]).await;
    let section = "dns.records";
    let cases: &[Case<'_>] = &[
        (section, "db.corp.example.", T::A, NOERROR, &["A 10.1.1.1", "A 10.1.1.2"]),
        (section, "DB.corp.example.", T::AAAA, NOERROR, &["AAAA fd01::1"]),
        (
            section,
            "www.corp.example.",
            T::AAAA,
            NOERROR,
            &["CNAME db.corp.example.", "db.corp.example. AAAA fd01::1"],
        ),
        (section, "out.corp.example.", T::A, NOERROR, &["CNAME www.example.com."]),
        (section, "t.corp.example.", T::TXT, NOERROR, &["TXT \"two words\""]),
        (section, "_sql._tcp.corp.example.", T::SRV, NOERROR, &["SRV 1 2 5432 db.corp.example."]),
        (section, "1.1.1.10.in-addr.arpa.", T::PTR, NOERROR, &["PTR db.corp.example."]),
        (
            section,
            "api.cluster.local.",
            T::A,
            NOERROR,
            &["CNAME web.shop%", "web.shop% A 10.96.0.1"],
        ),
        (section, "deep.er.cluster.local.", T::A, NOERROR, &["A 10.1.1.3"]),
        ("RFC 8020 §2", "er.cluster.local.", T::A, NOERROR, &[]),
        // The rest of a zone of which there are only records is not ours.
        (section, "other.corp.example.", T::A, REFUSED, &[]),
        (section, "web.shop%", T::A, NOERROR, &["A 10.96.0.1"]),
    ];
    server.check(cases).await;
    // The name exists; there is no zone whose SOA could say so.
    let reply = server.lookup("t.corp.example.", T::A).await;
    assert_eq!((reply.rcode, reply.answers.len()), (NOERROR, 0), "{reply:?}");
}

#[tokio::test]
async fn a_static_server_brings_the_addresses_of_its_host() {
    let records = "dns.records=_sql._tcp.corp.example 5 SRV 1 2 5432 db.corp.example,\
                   db.corp.example 5 A 10.1.1.1,db.corp.example 5 AAAA fd01::1";
    let server = Server::start(SHOP, &[RANGES, records]).await;
    let addresses = ["db.corp.example. A 10.1.1.1", "db.corp.example. AAAA fd01::1"];
    let case = ("RFC 2782", "_sql._tcp.corp.example.", T::SRV, &addresses[..]);
    server.check_additional(&[case]).await;
}

#[tokio::test]
async fn every_record_has_the_time_to_live_that_is_set() {
    let records =
        "dns.records=a.corp 300 A 10.1.1.1,a.corp 60 A 10.1.1.2,b.cluster.local 0 A 10.1.1.3";
    let server = Server::start(SHOP, &[RANGES, "dns.ttl_secs=30", records]).await;
    for (name, rtype, ttl) in [
        ("web.shop%", T::A, 30),
        ("db.shop%", T::SRV, 30),
        ("cluster.local.", T::SOA, 30),
        ("nobody.shop%", T::A, 30),
        // RFC 2181 §5.2: records of a set have one, the lowest.
        ("a.corp.", T::A, 60),
        ("b.cluster.local.", T::A, 0),
    ] {
        let reply = server.lookup(name, rtype).await;
        assert!(reply.ttls.iter().eq([&ttl]), "{name} {rtype}: {reply:?}");
    }
    let soa = server.lookup("nobody.shop%", T::A).await.authorities;
    assert!(soa.iter().all(|soa| soa.ends_with(" 30")), "RFC 2308 §5: the minimum: {soa:?}");
}

#[tokio::test]
async fn a_hosts_file_is_answered_and_followed() {
    let text = "# ours\n10.2.0.1 nas.corp.example nas2.corp.example\nfd02::1 nas.corp.example\n";
    let server = Server::start_with(SHOP, &[RANGES, "dns.hosts_file={files}/hosts"], |files| {
        std::fs::write(files.join("hosts"), text).expect("written");
    });
    let server = server.await;
    let section = "dns.hosts_file";
    let v6 = format!("1.0.0.0.{}2.0.d.f.ip6.arpa.", "0.".repeat(24));
    let cases: &[Case<'_>] = &[
        (section, "nas.corp.example.", T::A, NOERROR, &["A 10.2.0.1"]),
        (section, "nas2.corp.example.", T::A, NOERROR, &["A 10.2.0.1"]),
        (section, "nas.corp.example.", T::AAAA, NOERROR, &["AAAA fd02::1"]),
        (
            section,
            "1.0.2.10.in-addr.arpa.",
            T::PTR,
            NOERROR,
            &["PTR nas.corp.example.", "PTR nas2.corp.example."],
        ),
        (section, &v6, T::PTR, NOERROR, &["PTR nas.corp.example."]),
        (section, "tv.corp.example.", T::A, REFUSED, &[]),
    ];
    server.check(cases).await;
    replace(&server.file("hosts"), "10.2.0.9 nas.corp.example tv.corp.example\n");
    let deadline = Instant::now() + PATIENCE;
    let query = Query::new("tv.corp.example.", T::A);
    while query.ask(&server.target, Transport::Udp).await.rcode != NOERROR {
        assert!(Instant::now() < deadline, "the new file is not read");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let cases: &[Case<'_>] = &[
        (section, "nas.corp.example.", T::A, NOERROR, &["A 10.2.0.9"]),
        (section, "tv.corp.example.", T::A, NOERROR, &["A 10.2.0.9"]),
        (section, "nas2.corp.example.", T::A, REFUSED, &[]),
        (section, "1.0.2.10.in-addr.arpa.", T::PTR, REFUSED, &[]),
        (section, "web.shop%", T::A, NOERROR, &["A 10.96.0.1"]),
    ];
    server.check(cases).await;
}

#[tokio::test]
async fn a_suffix_that_stands_for_another_is_answered_under_its_own() {
    let rewrites =
        "dns.rewrites=old.example=svc.cluster.local,shop.old.example=idle.svc.cluster.local";
    let server = Server::start(SHOP, &[RANGES, rewrites]).await;
    let section = "dns.rewrites";
    let cases: &[Case<'_>] = &[
        (section, "web.shop.svc.cluster.local.", T::A, NOERROR, &["A 10.96.0.1"]),
        // The longest suffix counts.
        (section, "web.shop.old.example.", T::A, NXDOMAIN, &[]),
        (section, "empty.old.example.", T::A, NOERROR, &[]),
        (section, "x.nowhere.old.example.", T::A, NXDOMAIN, &[]),
        (section, "web.shop.new.example.", T::A, REFUSED, &[]),
    ];
    server.check(cases).await;
    let settings = [RANGES, "dns.rewrites=old.example=svc.cluster.local"];
    let server = Server::start(SHOP, &settings).await;
    let cases: &[Case<'_>] = &[
        (section, "web.shop.old.example.", T::A, NOERROR, &["A 10.96.0.1"]),
        (section, "Web.Shop.OLD.example.", T::AAAA, NOERROR, &["AAAA fd00:96::1"]),
        (
            section,
            "db.shop.old.example.",
            T::A,
            NOERROR,
            &["A 10.0.0.1", "A 10.0.0.2", "A 10.0.0.3"],
        ),
        (section, "_http._tcp.web.shop.old.example.", T::SRV, NOERROR, &["SRV 0 100 80 web.shop%"]),
        (
            section,
            "in.shop.old.example.",
            T::A,
            NOERROR,
            &["CNAME web.shop%", "web.shop% A 10.96.0.1"],
        ),
        (section, "xold.example.", T::A, REFUSED, &[]),
    ];
    server.check(cases).await;
}

#[tokio::test]
async fn who_may_not_ask_is_refused_or_hears_nothing() {
    let access = "dns.access=allow from 127.5.0.1,refuse from 127.5.0.0/16 for shop.svc.cluster.local,\
                  drop from 127.6.0.0/16 for cluster.local example.com,refuse from 127.7.0.0/16";
    let server = Server::start(SHOP, &[RANGES, access]).await;
    let section = "dns.access";
    let web = ["A 10.96.0.1"];
    for (client, cases) in [
        ("127.0.0.1", &[(section, "web.shop%", T::A, NOERROR, &web[..])][..]),
        ("127.5.0.1", &[(section, "web.shop%", T::A, NOERROR, &web[..])]),
        (
            "127.5.0.2",
            &[
                (section, "web.shop%", T::A, REFUSED, &[][..]),
                (section, "SHOP.svc.cluster.local.", T::A, REFUSED, &[]),
                (section, "nobody.shop%", T::MX, REFUSED, &[]),
                (section, "empty%", T::A, NOERROR, &[]),
                (section, "dns-version.cluster.local.", T::TXT, NOERROR, &["TXT \"1.1.0\""]),
            ],
        ),
        (
            "127.6.0.1",
            &[(section, "1.0.96.10.in-addr.arpa.", T::PTR, NOERROR, &["PTR web.shop%"][..])],
        ),
        (
            "127.7.0.1",
            &[
                (section, "web.shop%", T::A, REFUSED, &[][..]),
                (section, "1.0.96.10.in-addr.arpa.", T::PTR, REFUSED, &[]),
                (section, "example.com.", T::A, REFUSED, &[]),
            ],
        ),
    ] {
        server.check_from(client, cases).await;
    }
    for client in ["127.5.0.2", "127.7.0.1"] {
        let query = Query::new(&full("web.shop%"), T::A).from(client);
        let code = server.ask(&query).await.extended_error().map(|(code, _)| code);
        assert_eq!(code, Some(18), "RFC 8914 §4.19: {client}");
    }
    let dropped: IpAddr = "127.6.0.1".parse().expect("an address");
    for (name, rtype) in [("web.shop%", T::A), ("web.shop%", T::MX), ("example.com.", T::A)] {
        let query = Query::new(&full(name), rtype);
        for transport in TRANSPORTS {
            for bytes in [query.bytes(ID), query.plain().bytes(ID)] {
                send_in_vain(&server.target, transport, dropped, &bytes).await;
            }
        }
    }
}
