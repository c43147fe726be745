//! The protocol around the question: names without case, EDNS and its options, and queries that
//! are none.

use std::net::{IpAddr, Ipv4Addr};

use domain::base::iana::OptRcode as R;
use domain::base::iana::Rtype as T;
use domain::base::iana::{Class, Opcode};

use crate::client::{Edns, ID, Query, Reply, TRANSPORTS, send, send_in_vain};
use crate::server::{full, shop};

/// Codes of EDNS options.
const NSID: u16 = 3;
const COOKIE: u16 = 10;

#[tokio::test]
async fn names_are_compared_without_case_and_the_case_of_the_question_is_kept() {
    let section = "RFC 4343 §3";
    let cases = [
        (section, "WeB.sHoP.SVC.clusteR.LOCAL.", T::A, R::NOERROR, &["A 10.96.0.1"][..]),
        (section, "DB-0.DB.SHOP.SVC.CLUSTER.LOCAL.", T::AAAA, R::NOERROR, &["AAAA fd00::2"]),
        (
            section,
            "_HTTP._TCP.WEB.SHOP.SVC.CLUSTER.LOCAL.",
            T::SRV,
            R::NOERROR,
            &["SRV 0 100 80 web.shop%"],
        ),
        (section, "1.0.96.10.IN-ADDR.ARPA.", T::PTR, R::NOERROR, &["PTR web.shop%"]),
        (section, "DNS-Version.Cluster.Local.", T::TXT, R::NOERROR, &["TXT \"1.1.0\""]),
        (section, "IN.SHOP%", T::CNAME, R::NOERROR, &["CNAME web.shop%"]),
        (section, "NoBody.Shop.SVC.Cluster.Local.", T::A, R::NXDOMAIN, &[]),
        (section, "SHOP.SVC.CLUSTER.LOCAL.", T::A, R::NOERROR, &[]),
    ];
    shop().await.check(&cases).await;
}

#[tokio::test]
async fn who_speaks_edns_is_answered_with_edns_and_its_flag() {
    let shop = shop().await;
    for dnssec_ok in [false, true] {
        for (name, rtype) in [("web.shop%", T::A), ("nobody.shop%", T::A), ("db.shop%", T::MX)] {
            let edns = Edns { dnssec_ok, ..Edns::with(65_001, b"unknown") };
            let query = Query { edns: Some(edns), ..Query::new(&full(name), rtype) };
            let reply = shop.ask(&query).await.edns.expect("RFC 6891 §6.1.1: an OPT for an OPT");
            let shown = (reply.version, reply.payload, reply.dnssec_ok);
            assert_eq!(shown, (0, 1232, dnssec_ok), "RFC 3225 §3: DO is copied: {name}");
            assert_eq!(reply.option(65_001), None, "RFC 6891 §6.1.2: unknown options are ignored");
        }
    }
}

#[tokio::test]
async fn another_version_of_edns_is_badvers_with_ours() {
    let shop = shop().await;
    for version in [1, 255] {
        let edns = Edns { version, ..Edns::default() };
        let query = Query { edns: Some(edns), ..Query::new(&full("web.shop%"), T::A) };
        let reply = shop.ask_over_all(&query).await;
        assert_eq!(reply.rcode, R::BADVERS, "RFC 6891 §6.1.3: {reply:?}");
        assert_eq!(reply.edns.as_ref().map(|edns| edns.version), Some(0), "{reply:?}");
        assert!(reply.answers.is_empty(), "{reply:?}");
    }
}

#[tokio::test]
async fn any_is_answered_with_a_record_that_stands_for_all() {
    let section = "RFC 8482 §4.2";
    let made_up = &["HINFO \"RFC8482\" \"\""][..];
    let cases = [
        (section, "web.shop%", T::ANY, R::NOERROR, made_up),
        (section, "cluster.local.", T::ANY, R::NOERROR, made_up),
        (section, "1.0.96.10.in-addr.arpa.", T::ANY, R::NOERROR, made_up),
        (section, "out.shop%", T::ANY, R::NOERROR, &["CNAME www.example.com."]),
        (section, "shop%", T::ANY, R::NOERROR, &[]),
        (section, "nobody.shop%", T::ANY, R::NXDOMAIN, &[]),
        (section, "example.com.", T::ANY, R::REFUSED, &[]),
    ];
    shop().await.check(&cases).await;
}

#[tokio::test]
async fn what_is_no_ordinary_query_gets_the_code_for_it() {
    let shop = shop().await;
    let web = || Query::new(&full("web.shop%"), T::A);
    let cases = [
        ("RFC 5936 §2.2.1", Query::new("cluster.local.", T::AXFR), R::REFUSED),
        ("RFC 1995 §2", Query::new("cluster.local.", T::IXFR), R::REFUSED),
        ("RFC 1035 §3.2.4", Query { class: Class::CH, ..web() }, R::REFUSED),
        ("RFC 1035 §3.2.4", Query { class: Class::HS, ..web() }, R::REFUSED),
        ("RFC 1035 §4.1.1", Query { opcode: Opcode::IQUERY, ..web() }, R::NOTIMP),
        ("RFC 1035 §4.1.1", Query { opcode: Opcode::STATUS, ..web() }, R::NOTIMP),
        ("RFC 1996 §3.12", Query { opcode: Opcode::NOTIFY, ..web() }, R::NOTIMP),
        ("RFC 2136 §3.1", Query { opcode: Opcode::UPDATE, ..web() }, R::NOTIMP),
        ("RFC 9619 §4", Query { times: 2, ..web() }, R::FORMERR),
        ("RFC 9619 §4", Query { times: 0, ..web() }, R::FORMERR),
    ];
    for (section, query, code) in cases {
        for query in [query.plain(), query] {
            let reply = shop.ask_over_all(&query).await;
            assert_eq!(reply.rcode, code, "{section}: {query:?}");
            assert!(reply.answers.is_empty() && !reply.authoritative, "{section}: {reply:?}");
        }
    }
}

#[tokio::test]
async fn a_malformed_query_is_a_format_error_and_a_response_is_not_answered() {
    let shop = shop().await;
    let web = Query::new(&full("web.shop%"), T::A);
    let good = web.bytes(ID);
    let plain = web.plain().bytes(ID);
    let opt = &good[plain.len()..];
    let two_opts = {
        let mut bytes = [&good, opt].concat();
        bytes[11] = 2;
        bytes
    };
    let pointer = [&plain[..12], &[0xc0, 0x0c, 0, 1, 0, 1]].concat();
    let cases = [
        ("RFC 1035 §4.1.1: octets follow the message", [&plain[..], b"more"].concat()),
        ("RFC 1035 §4.1.2: the question breaks off", plain[..plain.len() - 1].to_vec()),
        ("RFC 1035 §4.1.4: a name that points to itself", pointer),
        ("RFC 6891 §6.1.1: two OPT records", two_opts),
    ];
    for (what, bytes) in cases {
        for transport in TRANSPORTS {
            let answer = send(&shop.target, transport, IpAddr::V4(Ipv4Addr::LOCALHOST), &bytes);
            let answer = answer.await.expect("an answer");
            assert_eq!(Reply::read(&answer, ID).rcode, R::FORMERR, "{what}, over {transport:?}");
        }
    }
    let mut response = plain;
    response[2] |= 0x80;
    for transport in TRANSPORTS {
        for bytes in [&response, &good[..11]] {
            send_in_vain(&shop.target, transport, IpAddr::V4(Ipv4Addr::LOCALHOST), bytes).await;
        }
    }
}

#[tokio::test]
async fn the_server_says_its_name_to_who_asks() {
    let shop = shop().await;
    for name in ["web.shop%", "nobody.shop%", "example.com."] {
        let asked = Query::new(&full(name), T::A);
        let nsid = Query { edns: Some(Edns::with(NSID, b"")), ..asked.clone() };
        let reply = shop.ask_over_all(&nsid).await.edns.expect("an OPT");
        assert_eq!(reply.option(NSID), Some(&b"portolan-1"[..]), "RFC 5001 §2.2: {name}");
        let reply = shop.ask_over_all(&asked).await.edns.expect("an OPT");
        assert_eq!(reply.option(NSID), None, "RFC 5001 §2.1: {name}");
    }
}

#[tokio::test]
async fn who_sends_a_cookie_gets_one_back_and_one_of_a_wrong_length_is_a_format_error() {
    let shop = shop().await;
    let client = *b"clientco";
    for transport in TRANSPORTS {
        let ask = async |cookie: &[u8]| {
            let edns = Some(Edns::with(COOKIE, cookie));
            Query { edns, ..Query::new(&full("web.shop%"), T::A) }
                .ask(&shop.target, transport)
                .await
        };
        let first = ask(&client).await;
        let edns = first.edns.expect("an OPT");
        let cookie = edns.option(COOKIE).expect("RFC 7873 §5.2.3: a server's cookie").to_vec();
        assert_eq!((cookie.len(), &cookie[..8]), (24, &client[..]), "RFC 9018 §4");
        assert_eq!(cookie[8], 1, "RFC 9018 §4.1");
        // Its own cookie, and one of another server: a cookie is never required.
        for given in [cookie, [&client[..], b"somebody-else's!"].concat()] {
            let reply = ask(&given).await;
            let edns = reply.edns.expect("an OPT");
            let again = edns.option(COOKIE).expect("RFC 7873 §5.2.4: a cookie");
            assert_eq!((reply.rcode, &again[..8]), (R::NOERROR, &client[..]), "{transport:?}");
        }
        for length in [0, 7, 9, 15, 41] {
            let reply = ask(&vec![7; length]).await;
            assert_eq!(reply.rcode, R::FORMERR, "RFC 7873 §5.2.2: {length} over {transport:?}");
        }
    }
}

#[tokio::test]
async fn a_cookie_can_be_asked_for_without_a_question() {
    let edns = Some(Edns::with(COOKIE, b"clientco"));
    let query = Query { edns, times: 0, ..Query::new(".", T::A) };
    let shop = shop().await;
    for transport in TRANSPORTS {
        let reply = query.ask(&shop.target, transport).await;
        let edns = reply.edns.as_ref().and_then(|edns| edns.option(COOKIE)).map(<[u8]>::len);
        assert_eq!((reply.rcode, edns), (R::NOERROR, Some(24)), "RFC 7873 §5.4: {reply:?}");
    }
}
