//! The fast path: one plain IN question answered out of the table, a pure function over bytes.
//!
//! Does not allocate. Whatever is not a single question of opcode QUERY with at most a plain OPT
//! record is [`Outcome::Slow`]. What to say of a name outside our zones is decided in one place,
//! `Answer::outside`.

mod reply;

use crate::edns::{self, ClientOpt};
use crate::node::{Alias, Node};
use crate::question::{self, CLASS_IN, HEADER, Question};
use crate::records::rtype;
use crate::table::Table;

use reply::{Full, Reply};

/// Most links of CNAMEs followed for one question; past it the answer is SERVFAIL.
pub const MAX_LINKS: usize = 10;

/// Response codes (RFC 1035 §4.1.1) the fast path gives.
pub(crate) mod rcode {
    pub(crate) const NO_ERROR: u8 = 0;
    pub(crate) const SERV_FAIL: u8 = 2;
    pub(crate) const NX_DOMAIN: u8 = 3;
    pub(crate) const REFUSED: u8 = 5;
}

/// How a query came, which bounds the size of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// In a datagram: 512 octets, or what EDNS allows.
    Udp,
    /// On a stream: 65,535 octets.
    Tcp,
}

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer stands in the first this many octets of the buffer.
    Answered(usize),
    /// The slow path has to see it.
    Slow,
    /// It deserves no answer: a response, or no DNS message at all.
    Drop,
}

/// What an answer comes to, besides its records.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    rcode: u8,
    authoritative: bool,
    error: Option<u16>,
}

/// Why no verdict was reached.
enum Stop {
    Full,
    Slow,
}

impl From<Full> for Stop {
    fn from(Full: Full) -> Self {
        Self::Full
    }
}

/// Answers a query into `out`, which is to hold 65,535 octets for TCP and the configured payload
/// for UDP; a smaller one lowers the limit. `rotation` picks the address that comes first.
#[must_use]
pub fn respond(
    table: &Table,
    query: &[u8],
    out: &mut [u8],
    transport: Transport,
    rotation: usize,
) -> Outcome {
    let Some((header, rest)) = query.split_first_chunk::<HEADER>() else { return Outcome::Drop };
    // RFC 1035 §4.1.1: QR. Answering a response is how two servers come to talk forever.
    if header[2] & 0x80 != 0 {
        return Outcome::Drop;
    }
    let [.., q1, q2, a1, a2, n1, n2, r1, additional] = *header;
    let plain = [q1, q2, a1, a2, n1, n2, r1] == [0, 1, 0, 0, 0, 0, 0] && additional <= 1;
    // Opcode QUERY is 0 (RFC 1035 §4.1.1).
    if header[2] & 0x78 != 0 || !plain || rest.is_empty() {
        return Outcome::Slow;
    }
    let Ok(question) = question::parse(query) else { return Outcome::Slow };
    if question.qclass != CLASS_IN || is_meta(question.qtype) {
        return Outcome::Slow;
    }
    let opt = match (additional, &query[question.end..]) {
        (0, []) => None,
        (1, bytes) => match edns::parse(bytes) {
            Some(opt) => Some(opt),
            None => return Outcome::Slow,
        },
        _ => return Outcome::Slow,
    };
    let payload = table.zones().udp_limit;
    let limit = limit(transport, opt.map(|opt| opt.payload), payload).min(out.len());
    let Some(mut reply) = Reply::start(query, question.end, out, limit, opt.is_some()) else {
        return Outcome::Slow;
    };
    let answer = Answer { table, question: &question, transport, rotation };
    match answer.write(&mut reply) {
        Ok(verdict) => Outcome::Answered(finish(reply, verdict, opt, payload)),
        Err(Stop::Slow) => Outcome::Slow,
        Err(Stop::Full) => {
            // RFC 2181 §9: what is needed did not fit. A client that sees TC asks again over TCP
            // and uses none of this, so the sections stay empty.
            reply.truncate();
            let verdict = Verdict { rcode: rcode::NO_ERROR, authoritative: true, error: None };
            Outcome::Answered(finish(reply, verdict, opt, payload))
        }
    }
}

/// The limit on an answer, in octets (RFC 6891 §6.2.3: less than 512 counts as 512).
pub(crate) fn limit(transport: Transport, client: Option<u16>, ours: u16) -> usize {
    match transport {
        Transport::Udp => usize::from(client.unwrap_or(512).max(512).min(ours)),
        Transport::Tcp => crate::node::MESSAGE_MAX,
    }
}

/// Types that ask for something else than records of that type: OPT, and 249 to 255 (RFC 6895 §3.1).
pub(crate) fn is_meta(qtype: u16) -> bool {
    qtype == edns::OPT || (249..=255).contains(&qtype)
}

fn finish(reply: Reply<'_>, verdict: Verdict, opt: Option<ClientOpt>, payload: u16) -> usize {
    let opt = opt.map(|opt| edns::build(payload, opt.dnssec_ok, verdict.error));
    let opt = opt.as_ref().map(|(bytes, length)| &bytes[..*length]);
    reply.finish(verdict.rcode, verdict.authoritative, opt)
}

struct Answer<'a> {
    table: &'a Table,
    question: &'a Question,
    transport: Transport,
    rotation: usize,
}

impl Answer<'_> {
    fn write(&self, reply: &mut Reply<'_>) -> Result<Verdict, Stop> {
        let name = self.question.name();
        if self.table.snapshot().is_none() {
            return Ok(match self.table.zones().apex_start(name) {
                // Not knowing yet is not the same as knowing there is none.
                Some(_) => Verdict {
                    rcode: rcode::SERV_FAIL,
                    authoritative: false,
                    error: Some(edns::NOT_READY),
                },
                None => Self::outside(),
            });
        }
        let node = self.table.lookup(name);
        match node {
            Some(Node::Alias(alias)) => return self.follow(alias, reply),
            Some(Node::Sets(sets)) => {
                let qtype = self.question.qtype;
                if let Some(addresses) = sets.addresses(qtype) {
                    reply.put_addresses(addresses, None, self.rotation, self.transport)?;
                    return Ok(authoritative(rcode::NO_ERROR));
                }
                if let Some(prebuilt) = sets.prebuilt(qtype) {
                    reply.put_prebuilt(prebuilt)?;
                    return Ok(authoritative(rcode::NO_ERROR));
                }
            }
            None => {}
        }
        match self.table.zones().apex_start(name) {
            None => Ok(Self::outside()),
            Some(0) => self.apex(reply),
            Some(apex) => self.negative(node.is_some(), HEADER + apex, reply),
        }
    }

    /// A name in none of our zones. The one place to change once there is a forwarder.
    fn outside() -> Verdict {
        Verdict {
            rcode: rcode::REFUSED,
            authoritative: false,
            error: Some(edns::NOT_AUTHORITATIVE),
        }
    }

    /// The apex of a zone, for a type the node there does not hold.
    fn apex(&self, reply: &mut Reply<'_>) -> Result<Verdict, Stop> {
        match self.question.qtype {
            rtype::SOA => reply.put_answer_soa(self.table.soa_record())?,
            rtype::NS => reply.put_servers(self.table.zones())?,
            _ => return self.negative(true, HEADER, reply),
        }
        Ok(authoritative(rcode::NO_ERROR))
    }

    /// RFC 2308 §2: no such data, or no such name; `apex` is where its zone's name stands.
    fn negative(&self, exists: bool, apex: usize, reply: &mut Reply<'_>) -> Result<Verdict, Stop> {
        reply.put_authority_soa(self.table.soa_record(), apex)?;
        Ok(authoritative(if exists { rcode::NO_ERROR } else { rcode::NX_DOMAIN }))
    }

    /// RFC 1034 §4.3.2 step 3a: an alias in our zone, followed while its target is there too.
    fn follow(&self, first: &Alias, reply: &mut Reply<'_>) -> Result<Verdict, Stop> {
        let zones = self.table.zones();
        let zone = HEADER + self.question.name().len() - zones.cluster.as_bytes().len();
        let mut alias = first;
        let mut owner = None;
        for _ in 0..MAX_LINKS {
            let at = reply.put_alias(owner, alias, zone, zones.ttl_secs)?;
            owner = Some(at);
            if self.question.qtype == rtype::CNAME || alias.inside.is_none() {
                return Ok(authoritative(rcode::NO_ERROR));
            }
            let target = self.table.lookup(alias.target.as_bytes());
            match target {
                Some(Node::Alias(next)) => alias = next,
                Some(Node::Sets(sets)) => {
                    if let Some(addresses) = sets.addresses(self.question.qtype) {
                        reply.put_addresses(addresses, owner, self.rotation, self.transport)?;
                        return Ok(authoritative(rcode::NO_ERROR));
                    }
                    // Its offsets are those of its own question: rare enough for the slow path.
                    if sets.prebuilt(self.question.qtype).is_some() {
                        return Err(Stop::Slow);
                    }
                    return self.negative(true, zone, reply);
                }
                None => {
                    let apex = alias.inside == Some(0);
                    if apex && matches!(self.question.qtype, rtype::SOA | rtype::NS) {
                        return Err(Stop::Slow);
                    }
                    return self.negative(apex, zone, reply);
                }
            }
        }
        reply.clear();
        Ok(Verdict { rcode: rcode::SERV_FAIL, authoritative: false, error: None })
    }
}

fn authoritative(rcode: u8) -> Verdict {
    Verdict { rcode, authoritative: true, error: None }
}

/// Spreads a counter of answers over rotations. Taken as it is, a client that asks for A and AAAA
/// in turn would see every other rotation alone; multiples of the golden ratio are spread evenly
/// over any such subsequence.
pub(crate) fn turn(count: usize) -> usize {
    count.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33
}
