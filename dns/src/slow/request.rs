//! A query read in full, or why it goes no further.

use hickory_proto::op::{Edns, Message, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::meta;
use crate::edns::{self, ClientOpt};
use crate::fast::is_meta;
use crate::name::WireName;
use crate::question::{self, CLASS_IN, HEADER, Question};
use crate::rcode;

/// A query.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) question: Question,
    pub(crate) message: Message,
    /// What its OPT record says, if it has one.
    pub(crate) opt: Option<ClientOpt>,
    /// The version of its EDNS.
    version: u8,
    name: WireName,
}

/// Why there is no request to answer.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It deserves no answer.
    Nothing,
    /// This one, a header.
    Bare(Vec<u8>),
    /// A header and a cookie, which is all that is asked for (RFC 7873 §5.4).
    Cookie(Vec<u8>, ClientOpt),
}

impl Request {
    /// Reads a query.
    pub(crate) fn read(query: &[u8]) -> Result<Self, Refusal> {
        let header: &[u8; HEADER] = query.first_chunk().ok_or(Refusal::Nothing)?;
        if header[2] & 0x80 != 0 {
            return Err(Refusal::Nothing);
        }
        let refuse = |code| Refusal::Bare(bare(header, code));
        if header[2] & 0x78 != 0 {
            return Err(refuse(rcode::NOT_IMP));
        }
        // RFC 9619 §4: exactly one question. Checked before decoding, which would reserve memory
        // for as many as the header claims.
        if header[4..6] != [0, 1] {
            let lone_opt = header[4..12] == [0, 0, 0, 0, 0, 0, 0, 1];
            let opt = query.get(HEADER..).filter(|_| lone_opt).and_then(edns::parse);
            if let Some(opt) = opt.filter(|opt| opt.cookie.is_some()) {
                return Err(Refusal::Cookie(bare(header, rcode::NO_ERROR), opt));
            }
            return Err(refuse(rcode::FORM_ERR));
        }
        let question = question::parse(query).map_err(|_| refuse(rcode::FORM_ERR))?;
        let message = decode(query, &question).ok_or_else(|| refuse(rcode::FORM_ERR))?;
        let name = WireName::from_wire(question.name()).ok_or_else(|| refuse(rcode::FORM_ERR))?;
        let version = message.edns.as_ref().map_or(0, Edns::version);
        let plain = edns::parse(&query[question.end..]);
        let opt = plain.or_else(|| message.edns.as_ref().map(without_options));
        Ok(Self { question, message, opt, version, name })
    }

    /// The name asked, in lower case.
    pub(crate) fn name(&self) -> &WireName {
        &self.name
    }

    /// The type asked for.
    pub(crate) fn qtype(&self) -> u16 {
        self.question.qtype
    }

    /// Whether the answer may come from elsewhere (RFC 1035 §4.1.1: RD).
    pub(crate) fn recursion_desired(&self) -> bool {
        self.message.metadata.recursion_desired
    }

    /// The flags that answers of upstreams depend on: DO, and CD.
    pub(crate) fn flags(&self) -> (bool, bool) {
        let dnssec_ok = self.opt.is_some_and(|opt| opt.dnssec_ok);
        (dnssec_ok, self.message.metadata.checking_disabled)
    }

    /// Whether the client can make something of the AD bit (RFC 6840 §5.8).
    pub(crate) fn wants_authentic(&self) -> bool {
        self.message.metadata.authentic_data || self.flags().0
    }

    /// The code of a query that is well formed and not one we answer.
    pub(crate) fn refused(&self) -> Option<ResponseCode> {
        if self.version != 0 {
            // RFC 6891 §6.1.3
            return Some(ResponseCode::BADVERS);
        }
        if self.question.qclass != CLASS_IN {
            return Some(ResponseCode::Refused);
        }
        match self.question.qtype {
            meta::AXFR | meta::IXFR => Some(ResponseCode::Refused),
            meta::ANY => None,
            qtype if is_meta(qtype) => Some(ResponseCode::NotImp),
            _ => None,
        }
    }
}

/// An OPT record among others, or of another version: its options are passed over.
fn without_options(edns: &Edns) -> ClientOpt {
    ClientOpt {
        payload: edns.max_payload(),
        dnssec_ok: edns.flags().dnssec_ok,
        nsid: false,
        cookie: None,
    }
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
pub(crate) fn bare(header: &[u8; HEADER], code: u8) -> Vec<u8> {
    let mut reply = vec![0; HEADER];
    reply[..2].copy_from_slice(&header[..2]);
    // RFC 1035 §4.1.1: opcode and RD are the query's.
    reply[2] = 0x80 | (header[2] & 0x79);
    reply[3] = code;
    reply
}
