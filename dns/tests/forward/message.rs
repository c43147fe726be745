//! Messages as tests see them: questions to ask, answers of scripted upstreams, and what is in an
//! answer that came back.

use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{A, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Code of the option with an extended error (RFC 8914 §2).
const EDE: u16 = 15;

pub(crate) fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a valid name")
}

pub(crate) fn a(owner: &Name, address: &str, ttl_secs: u32) -> Record {
    let address = address.parse().expect("an IPv4 address");
    Record::from_rdata(owner.clone(), ttl_secs, RData::A(A(address)))
}

pub(crate) fn cname(owner: &Name, target: &str, ttl_secs: u32) -> Record {
    Record::from_rdata(owner.clone(), ttl_secs, RData::CNAME(CNAME(name(target))))
}

/// The SOA of a negative answer, its minimum as long as its own time.
pub(crate) fn soa(ttl_secs: u32) -> Record {
    let data = SOA::new(name("ns.example."), name("h.example."), 1, 2, 3, 4, ttl_secs);
    Record::from_rdata(name("example."), ttl_secs, RData::SOA(data))
}

/// An answer to a question, repeating it to the letter, with nothing in it yet.
pub(crate) fn reply_to(query: &Message) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = true;
    reply.metadata.recursion_available = true;
    reply.queries.clone_from(&query.queries);
    reply
}

pub(crate) fn encoded(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a message of a test encodes")
}

/// An OPT record with an extended error.
pub(crate) fn edns_with_error(code: u16, text: &str) -> Edns {
    let mut edns = Edns::new();
    let data = [&code.to_be_bytes()[..], text.as_bytes()].concat();
    edns.options_mut().insert(EdnsOption::Unknown(EDE, data));
    edns
}

/// A question of a client.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    name: Name,
    rtype: RecordType,
    recursion_desired: bool,
    checking_disabled: bool,
    dnssec_ok: bool,
    /// The payload its OPT record says; without one there is no such record.
    payload: Option<u16>,
}

impl Question {
    /// Type A, recursion desired, EDNS with 1232 octets.
    pub(crate) fn a(text: &str) -> Self {
        Self {
            name: name(text),
            rtype: RecordType::A,
            recursion_desired: true,
            checking_disabled: false,
            dnssec_ok: false,
            payload: Some(1232),
        }
    }

    pub(crate) fn of_type(self, rtype: RecordType) -> Self {
        Self { rtype, ..self }
    }

    pub(crate) fn without_recursion(self) -> Self {
        Self { recursion_desired: false, ..self }
    }

    pub(crate) fn without_edns(self) -> Self {
        Self { payload: None, ..self }
    }

    pub(crate) fn with_flags(self, dnssec_ok: bool, checking_disabled: bool) -> Self {
        Self { dnssec_ok, checking_disabled, ..self }
    }

    pub(crate) fn encode(&self, id: u16) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.checking_disabled = self.checking_disabled;
        message.add_query(Query::query(self.name.clone(), self.rtype));
        message.edns = self.payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload).set_dnssec_ok(self.dnssec_ok);
            edns
        });
        encoded(&message)
    }
}

/// What a client got, and how long it waited.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) message: Message,
    pub(crate) took: Duration,
}

impl Reply {
    pub(crate) fn code(&self) -> ResponseCode {
        self.message.metadata.response_code
    }

    /// The data of the answer section, in its order.
    pub(crate) fn data(&self) -> Vec<String> {
        self.message.answers.iter().map(|record| record.data.to_string()).collect()
    }

    /// The data of the first answer, or the code when there is none.
    pub(crate) fn first(&self) -> String {
        self.data().first().cloned().unwrap_or_else(|| self.code().to_string())
    }

    /// The lowest time to live of all records, in seconds.
    pub(crate) fn ttl_secs(&self) -> Option<u32> {
        let sections = self.message.answers.iter().chain(&self.message.authorities);
        sections.map(|record| record.ttl).min()
    }

    /// The extended error.
    pub(crate) fn error(&self) -> Option<(u16, String)> {
        let option = self.message.edns.as_ref()?.option(EdnsCode::Unknown(EDE))?;
        let EdnsOption::Unknown(_, data) = option else { return None };
        let (code, text) = data.split_first_chunk::<2>()?;
        Some((u16::from_be_bytes(*code), String::from_utf8_lossy(text).into_owned()))
    }

    /// Fails unless it is SERVFAIL saying that no upstream could be reached, in time.
    pub(crate) fn assert_unreachable(&self, upstream: &str) {
        assert_eq!(self.code(), ResponseCode::ServFail, "{self:?}");
        let (code, text) = self.error().expect("an extended error");
        assert!(code == 22 && text.contains(upstream), "{code} {text:?} does not name {upstream}");
        assert!(self.took < Duration::from_secs(5), "{:?}", self.took);
    }
}
