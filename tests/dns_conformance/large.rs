//! Answers that do not fit their datagram: TC and the whole over TCP, or a subset that rotates.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use domain::base::iana::OptRcode as R;
use domain::base::iana::Rtype as T;

use crate::client::{Edns, ID, Query, Reply, Transport, send};
use crate::server::{Server, full};

/// Endpoints of the service: 16 octets each in an answer.
const COUNT: usize = 200;
/// Most questions until all addresses have been seen.
const ROUNDS: usize = 400;

fn many() -> String {
    let mut text = "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432}]
endpoints:
"
    .to_owned();
    for n in 0..COUNT {
        writeln!(text, "- {{addresses: [10.0.0.{n}]}}").expect("a String takes it");
    }
    text
}

/// Asks over UDP; the answer, and its length in octets.
async fn datagram(server: &Server, query: &Query) -> (Reply, usize) {
    let bytes = send(&server.target, Transport::Udp, query.from, &query.bytes(ID)).await;
    let bytes = bytes.expect("an answer");
    (Reply::read(&bytes, ID), bytes.len())
}

/// A question by a client that takes this many octets, and the limit that follows from it.
fn payloads(rtype: T) -> Vec<(Query, usize)> {
    let query = Query::new(&full("db.shop%"), rtype);
    let with = |payload| Query { edns: Some(Edns { payload, ..Edns::default() }), ..query.clone() };
    // RFC 6891 §6.2.5: less than 512 counts as 512; and never more than the server wants to send.
    let mut cases = vec![(query.plain(), 512)];
    cases.extend(
        [(0, 512), (511, 512), (512, 512), (900, 900), (1232, 1232), (65_535, 1232)]
            .map(|(payload, limit)| (with(payload), limit)),
    );
    cases
}

async fn check_whole_over_streams(server: &Server) {
    for transport in [Transport::Tcp, Transport::Tls] {
        for (query, _) in payloads(T::A) {
            let reply = query.ask(&server.target, transport).await;
            let shown = (reply.rcode, reply.truncated, reply.answers.len());
            assert_eq!(shown, (R::NOERROR, false, COUNT), "RFC 7766 §5: {transport:?} {query:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_marked_and_whole_over_tcp() {
    let server = Server::start(&many(), &[]).await;
    for rtype in [T::A, T::SRV] {
        for (query, limit) in payloads(rtype) {
            let (reply, length) = datagram(&server, &query).await;
            let what = format!("RFC 2181 §9: {rtype} within {limit}: {length} octets");
            assert!(reply.truncated && length <= limit, "{what}");
            assert_eq!(reply.questions.len(), 1, "{what}");
            assert_eq!(reply.edns.is_some(), query.edns.is_some(), "RFC 6891 §7: {what}");
        }
    }
    check_whole_over_streams(&server).await;
    let query = Query::new(&full("_sql._tcp.db.shop%"), T::SRV);
    let reply = query.ask(&server.target, Transport::Tcp).await;
    assert_eq!((reply.answers.len(), reply.truncated), (COUNT, false));
}

#[tokio::test]
async fn a_subset_is_another_each_time_until_all_addresses_were_seen() {
    let server = Server::start(&many(), &["dns.large_answers=subset", "dns.workers=1"]).await;
    for (query, limit) in payloads(T::A) {
        let mut seen = BTreeSet::new();
        for round in 0.. {
            assert!(round < ROUNDS, "only {} addresses in {round} answers: {query:?}", seen.len());
            let (reply, length) = datagram(&server, &query).await;
            assert!(!reply.truncated && length <= limit, "{limit}: {length} {reply:?}");
            // It is used well: there would be no room for another three addresses.
            assert!(reply.answers.len() >= (limit - 100) / 16, "{limit}: {}", reply.answers.len());
            seen.extend(reply.answers);
            if seen.len() == COUNT {
                break;
            }
        }
    }
    check_whole_over_streams(&server).await;
}

#[tokio::test]
async fn a_subset_is_of_addresses_alone() {
    let server = Server::start(&many(), &["dns.large_answers=subset"]).await;
    let (reply, _) = datagram(&server, &Query::new(&full("db.shop%"), T::SRV)).await;
    assert!(reply.truncated, "servers come whole or over TCP");
}

#[tokio::test]
async fn glue_that_does_not_fit_is_left_out_without_a_mark() {
    let text = many();
    let lines: Vec<&str> = text.lines().collect();
    // Twenty servers fit a datagram of 1232 octets, their addresses besides do not.
    let few = lines[..lines.len() - COUNT + 20].join("\n");
    let server = Server::start(&few, &[]).await;
    let query = Query::new(&full("_sql._tcp.db.shop%"), T::SRV);
    let (reply, length) = datagram(&server, &query).await;
    assert_eq!((reply.truncated, reply.answers.len()), (false, 20), "RFC 2181 §9: {reply:?}");
    assert!(length <= 1232 && reply.additionals.len() < 20, "{length} {reply:?}");
}
