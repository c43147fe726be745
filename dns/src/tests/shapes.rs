//! Messages that are not one plain question: who answers them, and how.

use hickory_proto::op::ResponseCode::{
    BADSIG as BADVERS, FormErr, NXDomain, NoError, NotImp, Refused,
};
use hickory_proto::op::{Edns, ResponseCode};
use hickory_proto::rr::RecordType::{self, A};
use portolan_model::Protocol::Tcp;

use super::kit::*;
use crate::fast::{Outcome, Transport};
use crate::slow;
use crate::table::Table;

const WEB: &str = "web.ns.svc.cluster.local.";

fn web() -> Table {
    let ports = [("http", Tcp, 80)];
    table(vec![
        service("ns/web", cluster_ip(&["10.96.0.1"]), &ports, vec![]),
        service("ns/out", external("example.com"), &[], vec![]),
    ])
}

/// The message is left to the slow path, which answers with this code.
fn unusual(message: &[u8], code: ResponseCode) -> hickory_proto::op::Message {
    let table = web();
    let mut out = [0; 1232];
    let outcome = quickly(&table, message, &mut out, Transport::Udp);
    assert_eq!(outcome, Outcome::Slow, "{message:02x?}");
    let answer = slowly(&table, message, Transport::Udp).expect("an answer");
    let reply = decode(&answer);
    assert_eq!(reply.metadata.response_code, code, "{reply}");
    assert_eq!(reply.metadata.id, 0x1234);
    let low = if code == BADVERS { 16 } else { code.low() };
    assert_eq!(slow::response_code(&answer), low);
    reply
}

fn plain() -> Vec<u8> {
    bytes(&query(WEB, A))
}

#[test]
fn other_opcodes_are_not_implemented() {
    for opcode in 1..16_u8 {
        let mut message = plain();
        message[2] = (opcode << 3) | 1;
        let answer = slowly(&web(), &message, Transport::Udp).expect("an answer");
        assert_eq!(answer[2], 0x80 | (opcode << 3) | 1);
        assert_eq!(answer[3], 4, "NOTIMP");
        let mut out = [0; 1232];
        assert_eq!(quickly(&web(), &message, &mut out, Transport::Udp), Outcome::Slow);
    }
    let mut status = plain();
    status[2] = 2 << 3;
    unusual(&status, NotImp);
}

#[test]
fn any_number_of_questions_but_one_is_a_form_error() {
    for count in [[0, 0], [0, 2], [0xff, 0xff]] {
        let mut message = plain();
        message[4..6].copy_from_slice(&count);
        unusual(&message, FormErr);
    }
}

#[test]
fn a_malformed_question_or_record_is_a_form_error() {
    let header = &plain()[..12];
    for question in [
        &b""[..],
        b"\x03we",
        b"\x01a\xc0\x0c\x00\x01\x00\x01",
        b"\xc0\x0c\x00\x01\x00\x01",
        b"\x40a\x00\x00\x01\x00\x01",
        b"\x00\x00\x01\x00",
    ] {
        unusual(&[header, question].concat(), FormErr);
    }
    let mut missing_opt = plain();
    missing_opt[11] = 1;
    unusual(&missing_opt, FormErr);
    let mut two_opts = bytes(&with_edns(query(WEB, A), 1232));
    let opt = two_opts[two_opts.len() - 11..].to_vec();
    two_opts.extend(opt);
    two_opts[11] = 2;
    unusual(&two_opts, FormErr);
}

#[test]
fn another_edns_version_is_refused_as_such() {
    let mut message = query(WEB, A);
    let mut edns = Edns::new();
    edns.set_version(1);
    message.set_edns(edns);
    let reply = unusual(&bytes(&message), BADVERS);
    assert_eq!(reply.edns.expect("ours").version(), 0);
    assert!(reply.answers.is_empty());
}

#[test]
fn other_classes_and_transfers_are_refused() {
    for class in [3_u8, 4, 254, 255] {
        let mut message = plain();
        let at = message.len() - 1;
        message[at] = class;
        unusual(&message, Refused);
    }
    for rtype in [RecordType::AXFR, RecordType::IXFR] {
        unusual(&bytes(&query(WEB, rtype)), Refused);
        unusual(&bytes(&query("cluster.local.", rtype)), Refused);
    }
    for rtype in [41, 249, 250, 253, 254] {
        unusual(&bytes(&query(WEB, RecordType::from(rtype))), NotImp);
    }
}

#[test]
fn type_any_gets_one_made_up_record() {
    let any = |name| bytes(&query(name, RecordType::ANY));
    let reply = unusual(&any(WEB), NoError);
    assert_eq!(short(&reply.answers), [format!("{WEB} HINFO RFC8482 ")]);
    let reply = unusual(&any("out.ns.svc.cluster.local."), NoError);
    assert_eq!(short(&reply.answers), ["out.ns.svc.cluster.local. CNAME example.com."]);
    assert_eq!(unusual(&any("ns.svc.cluster.local."), NoError).answers.len(), 0);
    unusual(&any("gone.ns.svc.cluster.local."), NXDomain);
    unusual(&any("example.com."), Refused);
}

#[test]
fn what_is_odd_but_harmless_is_answered_on_the_slow_path() {
    let mut with_record = query(WEB, A);
    with_record.add_additional(web_record());
    assert_eq!(unusual(&bytes(&with_record), NoError).answers.len(), 1);
}

#[test]
fn octets_after_the_message_and_broken_options_are_format_errors() {
    let mut trailing = plain();
    trailing.push(0);
    unusual(&trailing, FormErr);
    // An OPT record with one option that claims three octets and has two.
    let mut broken = plain();
    broken[11] = 1;
    broken.extend([0, 0, 41, 16, 0, 0, 0, 0, 0, 0, 6, 0, 10, 0, 3, 7, 7]);
    unusual(&broken, FormErr);
}

fn web_record() -> hickory_proto::rr::Record {
    ask(&web(), WEB, A).answers[0].clone()
}

#[test]
fn a_response_or_a_fragment_of_a_header_gets_no_answer() {
    let table = web();
    let mut response = plain();
    response[2] |= 0x80;
    for message in [&response[..], &[], &plain()[..11]] {
        let mut out = [0; 1232];
        assert_eq!(quickly(&table, message, &mut out, Transport::Udp), Outcome::Drop);
        assert_eq!(slowly(&table, message, Transport::Udp), None);
    }
}

#[test]
fn bits_of_the_header_are_copied_or_cleared() {
    let table = web();
    for (flags, expected) in
        [([0x00, 0x00], [0x84, 0]), ([0x01, 0x00], [0x85, 0]), ([0x07, 0xf0], [0x85, 0x10])]
    {
        let mut message = plain();
        message[2..4].copy_from_slice(&flags);
        let fast = fast_bytes(&table, &message, Transport::Udp, 0).expect("plain");
        let slow = slowly(&table, &message, Transport::Udp).expect("an answer");
        assert_eq!((&fast[2..4], &slow[2..4]), (&expected[..], &expected[..]), "{flags:02x?}");
    }
}

#[test]
fn the_opt_record_is_ours_and_copies_the_do_bit() {
    let table = web();
    for dnssec_ok in [false, true] {
        let mut message = query(WEB, A);
        let mut edns = Edns::new();
        edns.set_max_payload(4096).set_dnssec_ok(dnssec_ok);
        message.set_edns(edns);
        let reply = fast(&table, &message).expect("plain");
        assert_same(&reply, &slow(&table, &message));
        let edns = reply.edns.expect("ours");
        assert_eq!((edns.max_payload(), edns.flags().dnssec_ok), (1232, dnssec_ok));
    }
}
