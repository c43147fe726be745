//! What does not exist, or not in that type: RFC 2308, RFC 8020, and the reasons of RFC 8914.

use domain::base::iana::OptRcode as R;
use domain::base::iana::Rtype as T;

use crate::server::shop;

const NOERROR: R = R::NOERROR;
const NXDOMAIN: R = R::NXDOMAIN;
const REFUSED: R = R::REFUSED;

#[tokio::test]
async fn the_zone_names_itself_and_its_server() {
    let shop = shop().await;
    let cases = [
        ("RFC 1034 §4.2.1", "cluster.local.", T::NS, NOERROR, &["NS ns.dns.cluster.local."][..]),
        ("RFC 1034 §4.2.1", "ns.dns.cluster.local.", T::A, NOERROR, &["A 10.96.0.10"]),
        ("RFC 1034 §4.2.1", "ns.dns.cluster.local.", T::AAAA, NOERROR, &["AAAA fd00:96::a"]),
        ("RFC 1034 §4.2.1", "96.10.in-addr.arpa.", T::NS, NOERROR, &["NS ns.dns.cluster.local."]),
    ];
    shop.check(&cases).await;
    for apex in ["cluster.local.", "clusterset.local.", "96.10.in-addr.arpa."] {
        let reply = shop.lookup(apex, T::SOA).await;
        let soa = reply.answers.first().expect("RFC 1035 §3.3.13: a zone has an SOA");
        let names = format!("{apex} SOA ns.dns.cluster.local. hostmaster.cluster.local. ");
        assert!(soa.starts_with(&names) && soa.ends_with(" 7200 1800 86400 5"), "{soa}");
        assert!(reply.authoritative, "{reply:?}");
    }
}

#[tokio::test]
async fn what_exists_without_the_type_is_no_data() {
    let section = "RFC 2308 §2.2";
    let names = [
        ("cluster.local.", T::A),
        ("cluster.local.", T::TXT),
        ("svc.cluster.local.", T::A),
        ("pod.cluster.local.", T::A),
        ("clusterset.local.", T::A),
        ("svc.clusterset.local.", T::A),
        // A namespace by its object, and namespaces by a service alone, ready or not.
        ("empty%", T::A),
        ("shop%", T::A),
        ("shop%", T::SRV),
        ("idle%", T::A),
        ("web.shop%", T::MX),
        ("web.shop%", T::TXT),
        ("web.shop%", T::CNAME),
        ("web.shop%", T::SOA),
        ("web.shop%", T::NS),
        ("db.shop%", T::TXT),
        ("_http._tcp.web.shop%", T::A),
        ("96.10.in-addr.arpa.", T::PTR),
        // Types that need no knowledge (RFC 3597), and those of DNSSEC.
        ("web.shop%", T::from_int(65)),
        ("web.shop%", T::from_int(65_280)),
        ("cluster.local.", T::DNSKEY),
        ("cluster.local.", T::DS),
    ];
    for (name, rtype) in names {
        shop().await.check(&[(section, name, rtype, NOERROR, &[])]).await;
    }
}

#[tokio::test]
async fn what_does_not_exist_is_no_domain() {
    let section = "RFC 2308 §2.1";
    let names = [
        ("nobody.shop%", T::A),
        ("nobody.shop%", T::MX),
        ("nowhere%", T::A),
        ("web.nowhere%", T::A),
        ("nope.cluster.local.", T::A),
        ("a.b.c.cluster.local.", T::A),
        ("x.web.shop%", T::A),
        ("web.shop.cluster.local.", T::A),
        ("shop.cluster.local.", T::A),
        ("x.dns-version.cluster.local.", T::TXT),
        ("shop.svc.clusterset.local.", T::A),
        ("web.shop.svc.clusterset.local.", T::A),
        // No wildcards and no names of other eras (DNS-SD §2).
        ("*.shop%", T::A),
        ("any.shop%", T::A),
        ("*.web.shop%", T::A),
        ("9.0.96.10.in-addr.arpa.", T::PTR),
        // Another spelling of an address is another name.
        ("01.0.96.10.in-addr.arpa.", T::PTR),
    ];
    for (name, rtype) in names {
        shop().await.check(&[(section, name, rtype, NXDOMAIN, &[])]).await;
    }
}

#[tokio::test]
async fn a_name_exists_when_something_exists_below_it() {
    let section = "RFC 8020 §2";
    let names = [
        ("_tcp.web.shop%", T::A),
        ("_udp.web.shop%", T::SRV),
        ("_sctp.web.shop%", T::SRV),
        ("_tcp.db.shop%", T::A),
        ("dns.cluster.local.", T::A),
        ("0.96.10.in-addr.arpa.", T::PTR),
    ];
    for (name, rtype) in names {
        shop().await.check(&[(section, name, rtype, NOERROR, &[])]).await;
    }
}

#[tokio::test]
async fn a_name_in_no_zone_of_ours_is_refused() {
    let section = "RFC 8914 §4.21";
    let names = [
        ("example.com.", T::A),
        ("local.", T::A),
        (".", T::NS),
        ("xcluster.local.", T::A),
        // Reverse names outside the service ranges, and those of endpoints that are not ready.
        ("1.1.168.192.in-addr.arpa.", T::PTR),
        ("9.0.0.10.in-addr.arpa.", T::PTR),
        ("0.0.97.10.in-addr.arpa.", T::PTR),
        ("10.in-addr.arpa.", T::SOA),
        ("arpa.", T::SOA),
    ];
    let shop = shop().await;
    for (name, rtype) in names {
        shop.check(&[(section, name, rtype, REFUSED, &[])]).await;
        shop.check_reasons(&[(name, rtype, 20, "")]).await;
    }
}

#[tokio::test]
async fn a_negative_answer_says_why() {
    let cases = [
        ("none.idle%", T::A, 0, "service idle/none exists, 0 of 3 endpoints ready"),
        ("none-0.none.idle%", T::A, 0, "service idle/none exists, 0 of 3 endpoints ready"),
        ("nobody.shop%", T::A, 0, "service shop/nobody does not exist"),
        ("x.nowhere%", T::A, 0, "service nowhere/x does not exist: there is no such namespace"),
        ("nowhere%", T::A, 0, "namespace nowhere does not exist"),
        ("shop%", T::A, 0, "namespace shop exists and has no records of its own"),
        ("empty%", T::A, 0, "namespace empty exists and has no records of its own"),
        (
            "v4.shop%",
            T::AAAA,
            0,
            "service shop/v4 exists, without a record of this type at this name",
        ),
        (
            "_https._tcp.web.shop%",
            T::SRV,
            0,
            "service shop/web exists, it has no port \"_https._tcp\"",
        ),
        (
            "db-9.db.shop%",
            T::A,
            0,
            "service shop/db exists, none of its endpoints or ports is \"db-9\"; 5 of 6 endpoints \
             ready",
        ),
        (
            "x.shop.svc.clusterset.local.",
            T::A,
            0,
            "imported service shop/x does not exist: there is no such namespace",
        ),
        ("1-2-3-4.shop.pod.cluster.local.", T::A, 0, "names of pods are switched off"),
        ("9.0.96.10.in-addr.arpa.", T::PTR, 0, "no service or endpoint has that address"),
        ("cluster.local.", T::A, 0, "the name exists, without a record of this type"),
        ("nope.cluster.local.", T::A, 0, "the name does not exist"),
    ];
    shop().await.check_reasons(&cases).await;
}

#[tokio::test]
async fn a_positive_answer_has_no_extended_error() {
    let shop = shop().await;
    for (name, rtype) in [("web.shop%", T::A), ("db.shop%", T::SRV), ("cluster.local.", T::SOA)] {
        assert_eq!(shop.lookup(name, rtype).await.extended_error(), None, "{name}");
    }
}
