//! Our records as hickory's, and a message cut to a limit.

use hickory_proto::ProtoError;
use hickory_proto::op::Message;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record};

use crate::name::WireName;
use crate::records::Rdata;

/// A record. An owner that is the name asked keeps the case it was asked in.
pub(super) fn record(owner: &WireName, data: &Rdata, ttl_secs: u32, asked: &Name) -> Record {
    let owner = name(owner);
    let owner = if owner == *asked { asked.clone() } else { owner };
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
/// with TC and nothing but the question (RFC 2181 §9).
pub(super) fn within(mut message: Message, limit: usize) -> Result<Vec<u8>, ProtoError> {
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
    message.answers.clear();
    message.authorities.clear();
    message.metadata.truncation = true;
    message.to_vec()
}

fn name(wire: &WireName) -> Name {
    Name::from_labels(wire.labels()).expect("a wire name has labels and a length within bounds")
}
