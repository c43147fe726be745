//! An answer put together from our records and others', and cut to a limit.

use hickory_proto::ProtoError;
use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HINFO, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::lookup::{Resolution, Section};
use super::request::{Request, bare};
use crate::config::LargeAnswers;
use crate::context::{Asker, Context};
use crate::edns::{Reason, ReplyOpt};
use crate::fast::{self, Transport};
use crate::name::WireName;
use crate::question::HEADER;
use crate::rcode;
use crate::records::Rdata;
use crate::zone::Zones;

/// An answer on its way.
#[derive(Debug)]
pub(crate) struct Composed<'a> {
    pub(crate) message: Message,
    opt: Option<ReplyOptOf<'a>>,
    pub(crate) reason: Option<Reason>,
    large: LargeAnswers,
    udp_limit: u16,
}

/// What our OPT record is made of, once the client's address is known.
#[derive(Debug)]
struct ReplyOptOf<'a> {
    context: Context<'a>,
    extended_code: u8,
}

impl<'a> Composed<'a> {
    /// An answer without records to a request.
    pub(crate) fn new(context: &Context<'a>, zones: &Zones, request: &Request) -> Self {
        let query = &request.message;
        let mut message = Message::response(query.metadata.id, OpCode::Query);
        message.metadata.recursion_desired = query.metadata.recursion_desired;
        message.metadata.checking_disabled = query.metadata.checking_disabled;
        message.metadata.recursion_available = zones.forwards;
        message.queries.clone_from(&query.queries);
        let opt = request.opt.map(|_| ReplyOptOf { context: *context, extended_code: 0 });
        let (large, udp_limit) = (zones.large_answers, zones.udp_limit);
        Self { message, opt, reason: None, large, udp_limit }
    }

    /// Makes it a refusal.
    pub(crate) fn refuse(&mut self, code: ResponseCode) {
        if code == ResponseCode::BADVERS {
            // RFC 6891 §6.1.3: the low bits of 16 are none.
            self.message.metadata.response_code = ResponseCode::NoError;
            if let Some(opt) = &mut self.opt {
                opt.extended_code = 1;
            }
        } else {
            self.message.metadata.response_code = code;
        }
    }

    /// Takes everything back and gives a code.
    pub(crate) fn fail(&mut self, rcode: u8, reason: Option<Reason>) {
        self.message.answers.clear();
        self.message.authorities.clear();
        self.message.additionals.clear();
        self.message.metadata.authoritative = false;
        self.message.metadata.response_code = ResponseCode::from(0, rcode);
        self.reason = reason;
    }

    /// Puts in what the snapshot says.
    pub(crate) fn fill(&mut self, zones: &Zones, resolution: &Resolution, request: &Request) {
        let asked = self.message.queries.first().map(|q| q.name().clone()).unwrap_or_default();
        let same = |owner: &WireName| owner == request.name();
        let records = |set: &Section| -> Vec<Record> {
            let one = |(owner, data): &(WireName, Rdata)| {
                let ttl_secs = zones.ttl_secs_of(owner);
                // An owner that is the name asked keeps the case it was asked in.
                let shown = if same(owner) { asked.clone() } else { name(owner) };
                record(shown, data, ttl_secs)
            };
            set.iter().map(one).collect()
        };
        self.message.answers = records(&resolution.answers);
        self.message.authorities = records(&resolution.authorities);
        self.message.additionals = records(&resolution.additionals);
        if resolution.minimal {
            // RFC 8482 §4.2
            let hinfo = HINFO::new("RFC8482".to_owned(), String::new());
            let record = Record::from_rdata(asked, zones.ttl_secs, RData::HINFO(hinfo));
            self.message.add_answer(record);
        }
        self.message.metadata.authoritative = resolution.authoritative;
        self.message.metadata.response_code = ResponseCode::from(0, resolution.rcode);
        self.reason.clone_from(&resolution.reason);
    }

    /// The bytes, within what the client can take.
    pub(crate) fn encode(mut self, asker: Asker, request: &Request) -> Vec<u8> {
        let payload = request.opt.map(|opt| opt.payload);
        let limit = fast::limit(asker.transport, payload, self.udp_limit);
        let opt = self.opt.take().zip(request.opt).map(|(of, client)| ReplyOpt {
            extended_code: of.extended_code,
            ..of.context.reply_opt(&client, asker.address)
        });
        let room = limit - opt.as_ref().map_or(0, ReplyOpt::length);
        // Over TCP nothing larger can be had: a part of it is better than none.
        let subset = self.large == LargeAnswers::Subset || asker.transport == Transport::Tcp;
        let header = {
            let [i1, i2] = self.message.metadata.id.to_be_bytes();
            let mut header = [0; HEADER];
            (header[0], header[1]) = (i1, i2);
            header[2] = u8::from(self.message.metadata.recursion_desired);
            header
        };
        let reason = self.reason.take();
        let mut bytes = within(self.message, room, subset).unwrap_or_else(|error| {
            tracing::warn!(%error, "an answer could not be encoded");
            bare(&header, rcode::SERV_FAIL)
        });
        if let Some(opt) = opt {
            append_opt(&mut bytes, &opt, reason.as_ref(), limit);
        }
        bytes
    }
}

/// Puts an OPT record behind everything else.
pub(crate) fn append_opt(
    bytes: &mut Vec<u8>,
    opt: &ReplyOpt<'_>,
    reason: Option<&Reason>,
    limit: usize,
) {
    let length = bytes.len();
    let most = opt.length() + reason.map_or(0, Reason::length);
    bytes.resize((length + most).min(limit.max(length)), 0);
    let written = opt.write(&mut bytes[length..], reason);
    bytes.truncate(length + written.unwrap_or(0));
    if written.is_some()
        && let Some(count) = bytes.get_mut(10..12).and_then(|b| b.first_chunk_mut::<2>())
    {
        *count = u16::from_be_bytes(*count).saturating_add(1).to_be_bytes();
    }
}

/// A record.
pub(crate) fn record(owner: Name, data: &Rdata, ttl_secs: u32) -> Record {
    let data = match data {
        Rdata::A(address) => RData::A(A(*address)),
        Rdata::Aaaa(address) => RData::AAAA(AAAA(*address)),
        Rdata::Srv { priority, weight, port, target } => {
            RData::SRV(SRV::new(*priority, *weight, *port, name(target)))
        }
        Rdata::Ptr(target) => RData::PTR(PTR(name(target))),
        Rdata::Cname(target) => RData::CNAME(CNAME(name(target))),
        Rdata::Ns(target) => RData::NS(NS(name(target))),
        Rdata::Txt(text) => RData::TXT(TXT::new(vec![text.to_string()])),
        Rdata::Soa(soa) => {
            let signed = |secs: u32| i32::try_from(secs).unwrap_or(i32::MAX);
            RData::SOA(SOA::new(
                name(&soa.mname),
                name(&soa.rname),
                soa.serial,
                signed(soa.refresh_secs),
                signed(soa.retry_secs),
                signed(soa.expire_secs),
                soa.minimum_secs,
            ))
        }
    };
    Record::from_rdata(owner, ttl_secs, data)
}

/// Encodes a message within a limit in octets: whole, else without the additional section, else
/// with as many addresses as fit where a subset is wanted, else with TC and nothing but the
/// question (RFC 2181 §9).
fn within(mut message: Message, limit: usize, subset: bool) -> Result<Vec<u8>, ProtoError> {
    // hickory cuts a message at 65,535 octets by itself and marks it.
    let fits = |bytes: &[u8]| bytes.len() <= limit && bytes.get(2).is_some_and(|b| b & 2 == 0);
    let bytes = message.to_vec()?;
    if fits(&bytes) {
        return Ok(bytes);
    }
    message.additionals.clear();
    let bytes = message.to_vec()?;
    if fits(&bytes) {
        return Ok(bytes);
    }
    let addresses = message.answers.iter().rev().take_while(|r| is_address(Some(r))).count();
    if subset && addresses > 0 {
        // The most addresses that fit, found by halving.
        let others = message.answers.len() - addresses;
        let all = std::mem::take(&mut message.answers);
        let (mut least, mut most, mut best) = (0, addresses, None);
        while least < most {
            let count = least + (most - least).div_ceil(2);
            message.answers = all[..others + count].to_vec();
            let bytes = message.to_vec()?;
            if fits(&bytes) {
                (least, best) = (count, Some(bytes));
            } else {
                most = count - 1;
            }
        }
        if let Some(bytes) = best {
            return Ok(bytes);
        }
    }
    message.answers.clear();
    message.authorities.clear();
    message.metadata.truncation = true;
    message.to_vec()
}

fn is_address(record: Option<&Record>) -> bool {
    record.is_some_and(|r| matches!(r.record_type(), RecordType::A | RecordType::AAAA))
}

/// A wire name as hickory has it.
pub(crate) fn name(wire: &WireName) -> Name {
    Name::from_labels(wire.labels()).expect("a wire name has labels and a length within bounds")
}
