//! The slow path: everything unusual, on hickory-proto. It can answer every ordinary question too,
//! straight from the snapshot, which is what the fast path is tested against.
//!
//! Runs on strangers' bytes: a count in the header is never trusted to size anything.

mod encode;
mod lookup;

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::HINFO;
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::{RData, Record};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use portolan_model::Snapshot;

use crate::edns::{self, EDE};
use crate::fast::{self, Transport};
use crate::question::{self, CLASS_IN, HEADER, Question};
use crate::table::{Reverse, Table};
use crate::zone::Zones;

use lookup::Resolution;

/// Response codes (RFC 1035 §4.1.1) of messages that go no further.
const FORM_ERR: u8 = 1;
const SERV_FAIL: u8 = 2;
const NOT_IMP: u8 = 4;

/// Types that ask for something other than records (RFC 6895 §3.1).
mod meta {
    pub(super) const IXFR: u16 = 251;
    pub(super) const AXFR: u16 = 252;
    pub(super) const ANY: u16 = 255;
}

/// What the slow path looks things up in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    pub(crate) zones: &'a Zones,
    pub(crate) snapshot: Option<&'a Snapshot>,
    pub(crate) pointers: Pointers<'a>,
}

/// Where names of addresses are found.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pointers<'a> {
    /// In the table's index.
    Index(&'a Reverse),
    /// In every service of the snapshot, one after the other: for checking the index.
    #[cfg_attr(not(test), expect(dead_code, reason = "the oracle of the property tests"))]
    Scan,
}

/// Answers a query; `None` when it deserves none (a response, or no DNS message).
#[must_use]
pub fn respond(table: &Table, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let pointers = Pointers::Index(table.reverse());
    let view = View { zones: table.zones(), snapshot: table.snapshot(), pointers };
    respond_from(&view, query, transport)
}

/// The response code of an answer, the part in its OPT record (RFC 6891 §6.1.3) included as far as
/// this server sends it: 16 for BADVERS.
#[must_use]
pub fn response_code(answer: &[u8]) -> u8 {
    let low = answer.get(3).map_or(0, |flags| flags & 0x0f);
    // BADVERS is the one extended code in use; its message holds a question and an OPT alone.
    let extended = low == 0
        && answer.get(6..12) == Some(&[0, 0, 0, 0, 0, 1])
        && question::parse(answer).is_ok_and(|q| answer.get(q.end + 5) == Some(&1));
    if extended { 16 } else { low }
}

pub(crate) fn respond_from(view: &View<'_>, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let header: &[u8; HEADER] = query.first_chunk()?;
    if header[2] & 0x80 != 0 {
        return None;
    }
    if header[2] & 0x78 != 0 {
        return Some(bare(header, NOT_IMP));
    }
    // RFC 9619 §4: exactly one question. Checked before decoding, which would reserve memory for
    // as many as the header claims.
    if header[4..6] != [0, 1] {
        return Some(bare(header, FORM_ERR));
    }
    let Ok(question) = question::parse(query) else { return Some(bare(header, FORM_ERR)) };
    let Some(query) = decode(query, &question) else { return Some(bare(header, FORM_ERR)) };
    let reply = answer(view, &question, &query);
    let payload = query.edns.as_ref().map(Edns::max_payload);
    let limit = fast::limit(transport, payload, view.zones.udp_limit);
    Some(encode::within(reply, limit).unwrap_or_else(|error| {
        tracing::warn!(%error, "an answer could not be encoded");
        bare(header, SERV_FAIL)
    }))
}

/// Decodes a message that hickory-proto accepts and that ends where its last record does. An OPT
/// record must be well-formed down to its options (RFC 6891 §6.1.2), which hickory lets pass.
fn decode(query: &[u8], question: &Question) -> Option<Message> {
    let mut decoder = BinDecoder::new(query);
    let message = Message::read(&mut decoder).ok()?;
    if !decoder.is_empty() {
        return None;
    }
    let records = query.get(6..12)? != [0, 0, 0, 0, 0, 1];
    let broken = |edns: &Edns| edns.version() == 0 && edns::parse(&query[question.end..]).is_none();
    if !records && message.edns.as_ref().is_some_and(broken) {
        return None;
    }
    Some(message)
}

/// A header alone, with a code.
fn bare(header: &[u8; HEADER], code: u8) -> Vec<u8> {
    let mut reply = vec![0; HEADER];
    reply[..2].copy_from_slice(&header[..2]);
    // RFC 1035 §4.1.1: opcode and RD are the query's.
    reply[2] = 0x80 | (header[2] & 0x79);
    reply[3] = code;
    reply
}

fn answer(view: &View<'_>, question: &Question, query: &Message) -> Message {
    let mut reply = Message::response(query.metadata.id, OpCode::Query);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.queries.clone_from(&query.queries);
    let version = query.edns.as_ref().map_or(0, Edns::version);
    let refused = |code| Err((code, None));
    let resolution = if version != 0 {
        // RFC 6891 §6.1.3
        refused(ResponseCode::BADVERS)
    } else if question.qclass != CLASS_IN {
        refused(ResponseCode::Refused)
    } else {
        match question.qtype {
            meta::AXFR | meta::IXFR => refused(ResponseCode::Refused),
            meta::ANY => Ok(lookup::resolve(view, question)),
            qtype if fast::is_meta(qtype) => refused(ResponseCode::NotImp),
            _ => Ok(lookup::resolve(view, question)),
        }
    };
    let (code, error) = match resolution {
        Ok(resolution) => fill(&mut reply, view.zones, &resolution),
        Err(refusal) => refusal,
    };
    reply.metadata.response_code = code;
    reply.edns = query.edns.as_ref().map(|client| {
        let mut edns = Edns::new();
        edns.set_max_payload(view.zones.udp_limit);
        // RFC 3225 §3
        edns.set_dnssec_ok(client.flags().dnssec_ok);
        if let Some(error) = error {
            edns.options_mut().insert(EdnsOption::Unknown(EDE, u16::to_be_bytes(error).into()));
        }
        edns
    });
    reply
}

fn fill(
    reply: &mut Message,
    zones: &Zones,
    resolution: &Resolution,
) -> (ResponseCode, Option<u16>) {
    let asked = reply.queries.first().map(|query| query.name().clone()).unwrap_or_default();
    let records = |set: &lookup::Section| -> Vec<Record> {
        set.iter()
            .map(|(owner, data)| encode::record(owner, data, zones.ttl_secs, &asked))
            .collect()
    };
    reply.answers = records(&resolution.answers);
    reply.authorities = records(&resolution.authorities);
    reply.additionals = records(&resolution.additionals);
    if resolution.minimal {
        // RFC 8482 §4.2
        let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
        reply.add_answer(Record::from_rdata(asked, zones.ttl_secs, RData::HINFO(hinfo)));
    }
    reply.metadata.authoritative = resolution.authoritative;
    (ResponseCode::from(0, resolution.rcode), resolution.error)
}
