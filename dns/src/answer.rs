//! An answer of an upstream: checked, taken apart as far as needed, and kept as bytes that follow
//! a question.
//!
//! The question of a name has one length, so the body's pointers stay right behind any client's
//! question for it, whatever its case. Runs on strangers' bytes.

use hickory_proto::op::Message;
use hickory_proto::serialize::binary::BinDecodable as _;

use crate::edns::{self, Reason};
use crate::name::MAX_WIRE_NAME;
use crate::question::HEADER;
use crate::rcode;
use crate::records::rtype;

/// How long a failure is remembered, in seconds (RFC 9520 §3.2: at least 1, at most 300).
pub(crate) const FAILURE_SECS: u32 = 5;
/// Time to live of an answer given past its time, in seconds (RFC 8767 §4).
pub(crate) const STALE_TTL_SECS: u32 = 30;

/// An answer, ready to be put behind a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Response code.
    pub(crate) rcode: u8,
    /// The upstream has checked it (RFC 4035 §3.2.3).
    pub(crate) authentic: bool,
    /// Records in the answer, authority and additional section, the OPT record apart.
    pub(crate) counts: [u16; 3],
    /// What follows the question.
    pub(crate) body: Box<[u8]>,
    /// Where in the body times to live stand.
    ttls: Box<[u16]>,
    /// How long it may be kept by its own records, in seconds.
    pub(crate) ttl_secs: u32,
    /// What the upstream says of how it came about.
    pub(crate) reason: Option<Reason>,
}

/// Why bytes are no answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// It is no response, or has another id: somebody else's, or forged (RFC 5452 §3).
    #[error("the message is no response to this id")]
    NotOurs,
    /// It repeats another question, or the same in another case.
    #[error("the question in the response is another")]
    Question,
    /// It breaks off or points outside itself.
    #[error("the response is malformed")]
    Malformed,
    /// It did not fit its datagram.
    #[error("the response is truncated")]
    Truncated,
}

/// A record on the way through a message.
struct Walked {
    rtype: u16,
    /// Where the record starts, its time to live stands, and its data starts and ends.
    start: usize,
    ttl: usize,
    data: usize,
    end: usize,
}

impl Answer {
    /// Reads the response to `query`, whose question has to stand in it to the letter.
    ///
    /// # Errors
    /// [`Unusable`] when it is not one.
    pub fn read(query: &[u8], question_end: usize, response: &[u8]) -> Result<Self, Unusable> {
        let header: &[u8; HEADER] = response.first_chunk().ok_or(Unusable::Malformed)?;
        // RFC 1035 §4.1.1: QR, and the opcode of the query.
        if header[..2] != query[..2] || header[2] & 0xf8 != 0x80 {
            return Err(Unusable::NotOurs);
        }
        let question = &query[HEADER..question_end];
        if header[4..6] != [0, 1] || response.get(HEADER..question_end) != Some(question) {
            return Err(Unusable::Question);
        }
        if header[2] & 0x02 != 0 {
            return Err(Unusable::Truncated);
        }
        let answer = Self::take_apart(response, question_end)?;
        // hickory puts no OPT record where there was one, nor in the middle.
        answer.map_or_else(|| Self::again(response, question_end), Ok)
    }

    /// A response without records.
    pub(crate) fn failure(rcode: u8, reason: Reason) -> Self {
        Self {
            rcode,
            authentic: false,
            counts: [0; 3],
            body: Box::default(),
            ttls: Box::default(),
            ttl_secs: FAILURE_SECS,
            reason: Some(reason),
        }
    }

    /// Whether it says something of the name, be it that there is none.
    pub(crate) fn is_good(&self) -> bool {
        means_well(self.rcode)
    }

    /// Whether it is good and has no answer.
    pub(crate) fn is_negative(&self) -> bool {
        self.rcode == rcode::NX_DOMAIN || self.counts[0] == 0
    }

    /// Lowers the times to live in a copy of the body by an age in seconds, first to a maximum.
    pub(crate) fn age(&self, body: &mut [u8], maximum_secs: u32, age_secs: u32) {
        for at in &self.ttls {
            let at = usize::from(*at);
            let Some(bytes) = body.get_mut(at..at + 4).and_then(|b| b.first_chunk_mut::<4>())
            else {
                continue;
            };
            let left = u32::from_be_bytes(*bytes).min(maximum_secs).saturating_sub(age_secs);
            *bytes = left.to_be_bytes();
        }
    }

    /// The message without its OPT record as this reader likes it.
    fn again(response: &[u8], question_end: usize) -> Result<Self, Unusable> {
        let mut message = Message::from_bytes(response).map_err(|_| Unusable::Malformed)?;
        message.edns = None;
        let bytes = message.to_vec().map_err(|_| Unusable::Malformed)?;
        if bytes.get(HEADER..question_end) != response.get(HEADER..question_end) {
            return Err(Unusable::Malformed);
        }
        Self::take_apart(&bytes, question_end)?.ok_or(Unusable::Malformed)
    }

    /// `None` when an OPT record stands before others, whose pointers would go wrong without it.
    fn take_apart(message: &[u8], question_end: usize) -> Result<Option<Self>, Unusable> {
        let malformed = Unusable::Malformed;
        let number = |at: usize| {
            message.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]])).ok_or(malformed)
        };
        let mut counts = [number(6)?, number(8)?, number(10)?];
        let mut code = message[3] & 0x0f;
        let mut ttls = Vec::new();
        let mut lowest: Option<u32> = None;
        let (mut reason, mut soa) = (None, false);
        let (mut at, mut end) = (question_end, question_end);
        for section in 0..3 {
            for n in 0..counts[section] {
                let record = walk(message, at).ok_or(malformed)?;
                at = record.end;
                if record.rtype == edns::OPT {
                    if section != 2 || record.start + 1 != record.ttl - 4 || reason.is_some() {
                        return Err(malformed);
                    }
                    if n + 1 != counts[2] {
                        return Ok(None);
                    }
                    // RFC 6891 §6.1.3: an extended code is none of those that mean well.
                    if message[record.ttl] != 0 {
                        code = rcode::SERV_FAIL;
                    }
                    reason = Some(extended_error(&message[record.data..record.end]));
                    continue;
                }
                soa |= section == 1 && record.rtype == rtype::SOA;
                let ttl = ttl(message, &record, section);
                lowest = Some(lowest.map_or(ttl, |lowest| lowest.min(ttl)));
                ttls.push(u16::try_from(record.ttl - question_end).map_err(|_| malformed)?);
                end = record.end;
            }
        }
        if at != message.len() {
            return Err(malformed);
        }
        if reason.is_some() {
            counts[2] -= 1;
        }
        let good = means_well(code);
        // RFC 2308 §5: without an SOA nothing says how long there is nothing.
        let unsaid = !soa && (code == rcode::NX_DOMAIN || counts[0] == 0);
        let kept_secs = if unsaid { 0 } else { lowest.unwrap_or(0) };
        Ok(Some(Self {
            rcode: code,
            authentic: message[3] & 0x20 != 0,
            counts,
            body: message[question_end..end].into(),
            ttls: ttls.into(),
            ttl_secs: if good { kept_secs } else { FAILURE_SECS },
            reason: reason.flatten(),
        }))
    }
}

/// Whether a code says something of the name, be it that there is none.
fn means_well(code: u8) -> bool {
    matches!(code, rcode::NO_ERROR | rcode::NX_DOMAIN)
}

/// How long a record may be kept, in seconds. The SOA of a negative answer: its minimum as well
/// (RFC 2308 §5). RFC 2181 §8: with the highest bit set it is zero.
fn ttl(message: &[u8], record: &Walked, section: usize) -> u32 {
    let at = |at: usize| {
        let bytes = message.get(at..at + 4).and_then(|b| b.first_chunk::<4>());
        bytes.map_or(0, |b| u32::from_be_bytes(*b))
    };
    let own = Some(at(record.ttl)).filter(|ttl| ttl >> 31 == 0).unwrap_or(0);
    if section == 1 && record.rtype == rtype::SOA && record.end - record.data >= 20 {
        return own.min(at(record.end - 4));
    }
    own
}

/// The first extended error among the options of an OPT record (RFC 8914 §2).
fn extended_error(mut options: &[u8]) -> Option<Reason> {
    loop {
        let ([c1, c2, l1, l2], rest) = options.split_first_chunk::<4>()?;
        let (data, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*l1, *l2])))?;
        options = rest;
        if u16::from_be_bytes([*c1, *c2]) == edns::EDE
            && let Some(([e1, e2], text)) = data.split_first_chunk::<2>()
        {
            let text = String::from_utf8_lossy(text);
            let text: String = text.chars().filter(|c| !c.is_control()).collect();
            return Some(Reason::with(u16::from_be_bytes([*e1, *e2]), text));
        }
    }
}

fn walk(message: &[u8], start: usize) -> Option<Walked> {
    let at = skip_name(message, start)?;
    let head = message.get(at..at + 10)?;
    let data = at + 10;
    let end = data + usize::from(u16::from_be_bytes([head[8], head[9]]));
    (end <= message.len()).then_some(())?;
    Some(Walked { rtype: u16::from_be_bytes([head[0], head[1]]), start, ttl: at + 4, data, end })
}

/// The end of the name at an offset. Its pointers go backwards, to bytes after the header, and the
/// whole has 255 octets at most (RFC 1035 §2.3.4, §4.1.4).
fn skip_name(message: &[u8], start: usize) -> Option<usize> {
    let (mut at, mut before, mut length, mut end) = (start, start, 0_usize, None);
    loop {
        let octet = *message.get(at)?;
        match octet & 0xc0 {
            0 => {
                length += 1 + usize::from(octet);
                at += 1 + usize::from(octet);
                if length > MAX_WIRE_NAME || at > message.len() {
                    return None;
                }
                if octet == 0 {
                    return Some(end.unwrap_or(at));
                }
            }
            0xc0 => {
                let low = *message.get(at + 1)?;
                end.get_or_insert(at + 2);
                at = usize::from(u16::from_be_bytes([octet & 0x3f, low]));
                if at >= before || at < HEADER {
                    return None;
                }
                before = at;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Edns, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, CNAME, SOA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use std::net::Ipv4Addr;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("valid")
    }

    fn query() -> (Vec<u8>, usize) {
        let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name("Www.example.com."), RecordType::A));
        let bytes = message.to_vec().expect("encodes");
        let end = bytes.len();
        (bytes, end)
    }

    fn a(ttl: u32) -> Record {
        Record::from_rdata(name("www.example.net."), ttl, RData::A(A(Ipv4Addr::LOCALHOST)))
    }

    fn soa(ttl: u32, minimum: u32) -> Record {
        let data = SOA::new(name("ns.example.com."), name("h.example.com."), 1, 2, 3, 4, minimum);
        Record::from_rdata(name("example.com."), ttl, RData::SOA(data))
    }

    fn response(change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::new(0x1234, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(name("Www.example.com."), RecordType::A));
        change(&mut message);
        message.to_vec().expect("encodes")
    }

    fn read(response: &[u8]) -> Result<Answer, Unusable> {
        let (query, end) = query();
        Answer::read(&query, end, response)
    }

    #[test]
    fn the_shortest_time_counts_and_a_negative_answer_has_its_soas() {
        let alias = || {
            let target = CNAME(name("www.example.net."));
            Record::from_rdata(name("Www.example.com."), 300, RData::CNAME(target))
        };
        let positive = response(|m| {
            m.answers = vec![alias(), a(60)];
            m.edns = Some(Edns::new());
        });
        let answer = read(&positive).expect("usable");
        assert_eq!((answer.ttl_secs, answer.counts, answer.rcode), (60, [2, 0, 0], 0));
        assert!(answer.is_good() && !answer.is_negative());
        for (ttl, minimum, expected) in [(900, 60, 60), (30, 60, 30), (1 << 31, 60, 0)] {
            let negative = response(|m| {
                m.metadata.response_code = ResponseCode::NXDomain;
                m.authorities = vec![soa(ttl, minimum)];
            });
            let answer = read(&negative).expect("usable");
            assert_eq!(answer.ttl_secs, expected, "{ttl} {minimum}");
            assert!(answer.is_negative());
        }
        let failed = read(&response(|m| m.metadata.response_code = ResponseCode::Refused));
        assert_eq!(failed.expect("usable").ttl_secs, FAILURE_SECS);
    }

    #[test]
    fn times_to_live_are_capped_and_aged_where_they_stand() {
        let answer = read(&response(|m| m.answers = vec![a(60), a(7200)])).expect("usable");
        let mut body = answer.body.to_vec();
        answer.age(&mut body, 3600, 10);
        let (query, end) = query();
        let mut message = query[..end].to_vec();
        message[7] = 2;
        message.extend_from_slice(&body);
        let message = Message::from_vec(&message).expect("decodes");
        let ttls: Vec<u32> = message.answers.iter().map(|r| r.ttl).collect();
        assert_eq!(ttls, [50, 3590]);
    }

    #[test]
    fn what_is_not_the_answer_is_told_apart() {
        let good = response(|m| m.answers = vec![a(60)]);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            read(&bytes)
        };
        assert_eq!(with(0, 0), Err(Unusable::NotOurs), "another id");
        assert_eq!(with(2, 0), Err(Unusable::NotOurs), "a query");
        assert_eq!(with(13, b'w'), Err(Unusable::Question), "another case");
        assert_eq!(with(5, 2), Err(Unusable::Question), "two questions");
        assert_eq!(with(2, 0x82), Err(Unusable::Truncated));
        assert_eq!(with(7, 9), Err(Unusable::Malformed), "more records than there are");
        assert_eq!(with(7, 0), Err(Unusable::Malformed), "fewer records than there are");
        for length in 0..good.len() {
            assert!(read(&good[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn pointers_go_backwards_and_stay_in_the_message() {
        let (query, end) = query();
        for (pointer, good) in [(0xc00c_u16, true), (0xc000, false), (0xc0ff, false)] {
            let at = u16::try_from(end).expect("short");
            for pointer in [pointer, 0xc000 | at] {
                let mut bytes = query[..end].to_vec();
                bytes[2] = 0x80;
                bytes[7] = 1;
                bytes.extend_from_slice(&pointer.to_be_bytes());
                bytes.extend_from_slice(&[0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 1]);
                assert_eq!(read(&bytes).is_ok(), good && pointer == 0xc00c, "{pointer:x}");
            }
        }
    }

    #[test]
    fn an_opt_record_is_left_out_wherever_it_stands_and_its_error_is_kept() {
        let opt = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 9, 0, 15, 0, 5, 0, 22, b'b', b'a', b'd'];
        let (query, end) = query();
        let record = [192, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 0, 0, 1];
        for parts in [[&opt[..], &record], [&record, &opt]] {
            let mut bytes = query[..end].to_vec();
            bytes[2] = 0x80;
            bytes[11] = 2;
            bytes.extend_from_slice(&parts.concat());
            let answer = read(&bytes).expect("usable");
            assert_eq!((answer.counts, answer.body.len()), ([0, 0, 1], record.len()));
            if parts[1] == opt {
                assert_eq!(answer.reason, Some(Reason::with(22, "bad")));
            }
        }
    }
}
