//! The records of services: DNS-SD §2.2 to §2.5.

use domain::base::iana::OptRcode as R;
use domain::base::iana::Rtype as T;

use crate::server::{SHOP_SETTINGS, Server, shop};

const NOERROR: R = R::NOERROR;
const NXDOMAIN: R = R::NXDOMAIN;

/// The nibbles of an address in fd00:96::/112 that are the same for all of them.
const V6_RANGE: &str = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa.";
/// The nibbles of an address in fd00::/112.
const V6_PODS: &str = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";

/// The addresses of the name server that every zone names.
const SERVER: [&str; 2] =
    ["ns.dns.cluster.local. A 10.96.0.10", "ns.dns.cluster.local. AAAA fd00:96::a"];

#[tokio::test]
async fn the_zone_says_which_version_of_the_specification_it_follows() {
    let cases = [
        ("DNS-SD §2.2", "dns-version.cluster.local.", T::TXT, NOERROR, &["TXT \"1.1.0\""][..]),
        ("DNS-SD §2.2", "dns-version.cluster.local.", T::A, NOERROR, &[]),
    ];
    shop().await.check(&cases).await;
}

#[tokio::test]
async fn a_cluster_ip_is_answered_in_its_family() {
    let section = "DNS-SD §2.3.1";
    let cases = [
        (section, "web.shop%", T::A, NOERROR, &["A 10.96.0.1"][..]),
        (section, "web.shop%", T::AAAA, NOERROR, &["AAAA fd00:96::1"]),
        (section, "v4.shop%", T::A, NOERROR, &["A 10.96.0.2"]),
        (section, "v4.shop%", T::AAAA, NOERROR, &[]),
        (section, "v6.shop%", T::AAAA, NOERROR, &["AAAA fd00:96::2"]),
        (section, "v6.shop%", T::A, NOERROR, &[]),
    ];
    shop().await.check(&cases).await;
}

#[tokio::test]
async fn a_named_port_of_a_cluster_ip_is_a_server_and_an_unnamed_one_only_at_the_bare_name() {
    let section = "DNS-SD §2.3.2";
    let cases = [
        (section, "_http._tcp.web.shop%", T::SRV, NOERROR, &["SRV 0 100 80 web.shop%"][..]),
        (section, "_dns._udp.web.shop%", T::SRV, NOERROR, &["SRV 0 100 53 web.shop%"]),
        (section, "_sig._sctp.web.shop%", T::SRV, NOERROR, &["SRV 0 100 2905 web.shop%"]),
        (section, "_http._tcp.web.shop%", T::A, NOERROR, &[]),
        (section, "_http._udp.web.shop%", T::SRV, NXDOMAIN, &[]),
        (section, "_https._tcp.web.shop%", T::SRV, NXDOMAIN, &[]),
        (
            "SRV at the bare name",
            "web.shop%",
            T::SRV,
            NOERROR,
            &["SRV 0 100 80 web.shop%", "SRV 0 100 53 web.shop%", "SRV 0 100 2905 web.shop%"],
        ),
        ("SRV at the bare name", "v4.shop%", T::SRV, NOERROR, &["SRV 0 100 8080 v4.shop%"]),
        (section, "_tcp.v4.shop%", T::SRV, NXDOMAIN, &[]),
        (section, "_._tcp.v4.shop%", T::SRV, NXDOMAIN, &[]),
    ];
    shop().await.check(&cases).await;
}

#[tokio::test]
async fn servers_bring_the_addresses_of_their_hosts() {
    let cases = [
        (
            "DNS-SD §2.3.2",
            "_http._tcp.web.shop%",
            T::SRV,
            &["web.shop% A 10.96.0.1", "web.shop% AAAA fd00:96::1"][..],
        ),
        (
            "DNS-SD §2.4.2",
            "_sql._tcp.db.shop%",
            T::SRV,
            &[
                "10-0-0-1.db.shop% A 10.0.0.1",
                "db-0.db.shop% A 10.0.0.2",
                "db-0.db.shop% A 10.0.0.3",
                "db-0.db.shop% AAAA fd00::2",
                "fd00--1.db.shop% AAAA fd00::1",
            ],
        ),
        ("DNS-SD §2.4.2", "bare.shop%", T::SRV, &["10-0-2-1.bare.shop% A 10.0.2.1"]),
        ("DNS-SD §2.3.1", "web.shop%", T::A, &[]),
        ("RFC 1035 §3.3.11", "cluster.local.", T::NS, &SERVER),
        ("RFC 1035 §3.3.11", "clusterset.local.", T::NS, &SERVER),
        ("RFC 1035 §3.3.11", "96.10.in-addr.arpa.", T::NS, &SERVER),
    ];
    shop().await.check_additional(&cases).await;
}

#[tokio::test]
async fn an_address_of_a_service_leads_back_to_its_name() {
    let section = "DNS-SD §2.3.3";
    let v6 = [1, 2].map(|last| format!("{last}.0.0.0.{V6_RANGE}"));
    let cases = [
        (section, "1.0.96.10.in-addr.arpa.", T::PTR, NOERROR, &["PTR web.shop%"][..]),
        (section, "2.0.96.10.in-addr.arpa.", T::PTR, NOERROR, &["PTR v4.shop%"]),
        (section, v6[0].as_str(), T::PTR, NOERROR, &["PTR web.shop%"]),
        (section, v6[1].as_str(), T::PTR, NOERROR, &["PTR v6.shop%"]),
        (section, "1.0.96.10.in-addr.arpa.", T::A, NOERROR, &[]),
    ];
    shop().await.check(&cases).await;
}

#[tokio::test]
async fn a_headless_service_has_the_addresses_of_its_ready_endpoints() {
    let section = "DNS-SD §2.4.1";
    let cases = [
        (section, "db.shop%", T::A, NOERROR, &["A 10.0.0.1", "A 10.0.0.2", "A 10.0.0.3"][..]),
        (section, "db.shop%", T::AAAA, NOERROR, &["AAAA fd00::1", "AAAA fd00::2"]),
        // Several addresses at one hostname, over both families.
        (section, "db-0.db.shop%", T::A, NOERROR, &["A 10.0.0.2", "A 10.0.0.3"]),
        (section, "db-0.db.shop%", T::AAAA, NOERROR, &["AAAA fd00::2"]),
        // Without a hostname the address is the name.
        (section, "10-0-0-1.db.shop%", T::A, NOERROR, &["A 10.0.0.1"]),
        (section, "fd00--1.db.shop%", T::AAAA, NOERROR, &["AAAA fd00::1"]),
        (section, "fd00--1.db.shop%", T::A, NOERROR, &[]),
        // With one it is not, and the pod's name is not unless that is asked for.
        (section, "10-0-0-2.db.shop%", T::A, NXDOMAIN, &[]),
        (section, "db-a.db.shop%", T::A, NXDOMAIN, &[]),
        // Not ready.
        (section, "db-9.db.shop%", T::A, NXDOMAIN, &[]),
        (section, "10-0-0-9.db.shop%", T::A, NXDOMAIN, &[]),
    ];
    shop().await.check(&cases).await;
}

#[tokio::test]
async fn a_headless_service_with_nothing_ready_is_no_name() {
    let section = "DNS-SD §2.4.1";
    let cases = [
        (section, "none.idle%", T::A, NXDOMAIN, &[][..]),
        (section, "none.idle%", T::AAAA, NXDOMAIN, &[]),
        (section, "none.idle%", T::SRV, NXDOMAIN, &[]),
        (section, "none-0.none.idle%", T::A, NXDOMAIN, &[]),
        ("DNS-SD §2.4.2", "_sql._tcp.none.idle%", T::SRV, NXDOMAIN, &[]),
    ];
    shop().await.check(&cases).await;
}

#[tokio::test]
async fn endpoints_that_are_not_ready_are_published_where_the_service_wants_it() {
    let section = "DNS-SD §2.4.1";
    let servers = ["SRV 0 50 5432 early-0.early.shop%", "SRV 0 50 5432 early-1.early.shop%"];
    let cases = [
        (section, "early.shop%", T::A, NOERROR, &["A 10.0.3.1", "A 10.0.3.2"][..]),
        (section, "early-0.early.shop%", T::A, NOERROR, &["A 10.0.3.1"]),
        ("DNS-SD §2.4.2", "_sql._tcp.early.shop%", T::SRV, NOERROR, &servers),
    ];
    shop().await.check(&cases).await;
}

#[tokio::test]
async fn a_headless_port_is_a_server_on_every_endpoint() {
    let section = "DNS-SD §2.4.2";
    // db-0 has two addresses behind one name and port: four servers share 100.
    let servers = [
        "SRV 0 25 6000 10-0-0-1.db.shop%",
        "SRV 0 25 6000 db-0.db.shop%",
        "SRV 0 25 7000 db-0.db.shop%",
        "SRV 0 25 7000 fd00--1.db.shop%",
    ];
    let cases = [
        (section, "_sql._tcp.db.shop%", T::SRV, NOERROR, &servers[..]),
        ("SRV at the bare name", "db.shop%", T::SRV, NOERROR, &servers),
        (
            "SRV at the bare name",
            "bare.shop%",
            T::SRV,
            NOERROR,
            &["SRV 0 100 9001 10-0-2-1.bare.shop%"],
        ),
        (section, "_tcp.bare.shop%", T::SRV, NXDOMAIN, &[]),
        (section, "_sql._udp.db.shop%", T::SRV, NXDOMAIN, &[]),
    ];
    shop().await.check(&cases).await;
}

#[tokio::test]
async fn an_address_of_an_endpoint_leads_back_to_its_name() {
    let section = "DNS-SD §2.4.3";
    let v6 = [1, 2].map(|last| format!("{last}.0.0.0.{V6_PODS}"));
    let cases = [
        (section, "1.0.0.10.in-addr.arpa.", T::PTR, NOERROR, &["PTR 10-0-0-1.db.shop%"][..]),
        (section, "2.0.0.10.in-addr.arpa.", T::PTR, NOERROR, &["PTR db-0.db.shop%"]),
        (section, "3.0.0.10.in-addr.arpa.", T::PTR, NOERROR, &["PTR db-0.db.shop%"]),
        (section, v6[0].as_str(), T::PTR, NOERROR, &["PTR fd00--1.db.shop%"]),
        (section, v6[1].as_str(), T::PTR, NOERROR, &["PTR db-0.db.shop%"]),
    ];
    shop().await.check(&cases).await;
}

#[tokio::test]
async fn an_external_name_is_an_alias_followed_within_the_zone_alone() {
    let section = "DNS-SD §2.5";
    let to_web = "CNAME web.shop%";
    let cases = [
        (section, "in.shop%", T::CNAME, NOERROR, &[to_web][..]),
        (section, "in.shop%", T::A, NOERROR, &[to_web, "web.shop% A 10.96.0.1"]),
        (section, "in.shop%", T::AAAA, NOERROR, &[to_web, "web.shop% AAAA fd00:96::1"]),
        (
            section,
            "to-db.shop%",
            T::AAAA,
            NOERROR,
            &["CNAME db.shop%", "db.shop% AAAA fd00::1", "db.shop% AAAA fd00::2"],
        ),
        // RFC 2308 §2.1: the code is that of the end of the chain.
        (section, "gone.shop%", T::A, NXDOMAIN, &["CNAME nobody.shop%"]),
        (section, "in.shop%", T::MX, NOERROR, &[to_web]),
        // Nothing is forwarded: the alias alone.
        (section, "out.shop%", T::A, NOERROR, &["CNAME www.example.com."]),
        (section, "out.shop%", T::SRV, NOERROR, &["CNAME www.example.com."]),
        (section, "self.shop%", T::A, R::SERVFAIL, &[]),
        (section, "self.shop%", T::CNAME, NOERROR, &["CNAME self.shop%"]),
    ];
    let shop = shop().await;
    shop.check(&cases).await;
    // RFC 2308 §2.2: a chain that ends at a name without the type ends with the SOA.
    let reply = shop.lookup("in.shop%", T::MX).await;
    assert_eq!(reply.authorities.len(), 1, "{reply:?}");
}

#[tokio::test]
async fn a_chain_of_ten_aliases_is_followed_and_one_of_eleven_is_a_failure() {
    let mut manifests = "
apiVersion: v1
kind: Service
metadata: {name: s0, namespace: shop}
spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}
"
    .to_owned();
    for n in 1..=11 {
        let to = n - 1;
        manifests += &format!(
            "---
apiVersion: v1
kind: Service
metadata: {{name: s{n}, namespace: shop}}
spec: {{type: ExternalName, externalName: s{to}.shop.svc.cluster.local}}
"
        );
    }
    let server = Server::start(&manifests, SHOP_SETTINGS).await;
    let ten = server.lookup("s10.shop%", T::A).await;
    assert_eq!((ten.rcode, ten.answers.len()), (NOERROR, 11), "DNS-SD §2.5: {ten:?}");
    server.check(&[("DNS-SD §2.5", "s11.shop%", T::A, R::SERVFAIL, &[])]).await;
}
