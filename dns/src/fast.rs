//! The fast path: one plain IN question answered out of the table or the cache, a pure function over
//! bytes.
//!
//! Does not allocate for an answer with records. Whatever is not a single question of opcode QUERY
//! with at most a plain OPT record is [`Outcome::Slow`], and so is what has to be asked of others.

mod reply;

use crate::cache::{CacheKey, Found};
use crate::config::AccessAction;
use crate::context::{Asker, Context};
use crate::edns::{self, ClientOpt, Reason, ReplyOpt, ede};
use crate::metrics::Event;
use crate::name::suffix_start;
use crate::node::{Alias, Node};
use crate::question::{self, CLASS_IN, HEADER, Question};
use crate::rcode;
use crate::reason;
use crate::records::rtype;
use crate::search;
use crate::zone::ZoneId;

use reply::{Flags, Full, Reply};

/// Most links of CNAMEs followed for one question; past it the answer is SERVFAIL.
pub const MAX_LINKS: usize = 10;

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
    /// The answer stands in the buffer.
    Answered(Answered),
    /// The slow path has to see it.
    Slow,
    /// It deserves no answer: a response, or no DNS message at all.
    Drop,
    /// An access rule denies it an answer.
    Denied,
}

/// An answer in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its length in octets.
    pub length: usize,
    /// Its response code.
    pub rcode: u8,
    /// The zone its name is in.
    pub(crate) zone: ZoneId,
    /// The type asked for.
    pub(crate) qtype: u16,
    /// What else there is to count.
    pub(crate) event: Option<Event>,
    /// It came from the cache and is to be asked anew.
    pub(crate) refresh: bool,
}

/// What an answer comes to, besides its records.
#[derive(Debug)]
struct Verdict {
    flags: Flags,
    zone: ZoneId,
    reason: Option<Reason>,
    event: Option<Event>,
    refresh: bool,
}

/// Why no verdict was reached.
enum Stop {
    /// Something needed does not fit; with what it came from, if that was the cache.
    Full(Option<Event>),
    Slow,
}

impl From<Full> for Stop {
    fn from(Full: Full) -> Self {
        Self::Full(None)
    }
}

/// Answers a query into `out`, which is to hold 65,535 octets for TCP and the configured payload
/// for UDP; a smaller one lowers the limit. `rotation` picks the address that comes first.
#[must_use]
pub fn respond(
    context: &Context<'_>,
    query: &[u8],
    out: &mut [u8],
    asker: Asker,
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
    let access = context.rules.decide(asker.address, question.name());
    if access == AccessAction::Drop {
        return Outcome::Denied;
    }
    if context.rules.rewrites.cover(question.name()) {
        return Outcome::Slow;
    }
    let reply_opt = opt.map(|opt| context.reply_opt(&opt, asker.address));
    let payload = context.table.zones().udp_limit;
    let limit = limit(asker.transport, opt.map(|opt| opt.payload), payload).min(out.len());
    let opt_length = reply_opt.as_ref().map_or(0, ReplyOpt::length);
    let Some(mut reply) = Reply::start(query, question.end, out, limit, opt_length) else {
        return Outcome::Slow;
    };
    let flags = [header[2], header[3]];
    let answer = Answer { context, question: &question, asker, flags, opt, rotation };
    let verdict = match access {
        AccessAction::Refuse => Ok(answer.prohibited()),
        AccessAction::Allow | AccessAction::Drop => answer.write(&mut reply),
    };
    let verdict = match verdict {
        Ok(verdict) => verdict,
        Err(Stop::Slow) => return Outcome::Slow,
        Err(Stop::Full(event)) => {
            // RFC 2181 §9: what is needed did not fit. A client that sees TC asks again over TCP
            // and uses none of this, so the sections stay empty.
            reply.truncate();
            let authoritative = event.is_none();
            let flags = Flags { authoritative, ..answer.flags(rcode::NO_ERROR) };
            Verdict { event, ..answer.verdict(flags) }
        }
    };
    let code = verdict.flags.rcode;
    let length = reply.finish(verdict.flags, reply_opt.as_ref(), verdict.reason.as_ref());
    let Verdict { zone, event, refresh, .. } = verdict;
    let qtype = question.qtype;
    Outcome::Answered(Answered { length, rcode: code, zone, qtype, event, refresh })
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

struct Answer<'a> {
    context: &'a Context<'a>,
    question: &'a Question,
    asker: Asker,
    /// The third and fourth octet of the header.
    flags: [u8; 2],
    opt: Option<ClientOpt>,
    rotation: usize,
}

impl Answer<'_> {
    fn write(&self, reply: &mut Reply<'_>) -> Result<Verdict, Stop> {
        let name = self.question.name();
        let table = self.context.table;
        if table.snapshot().is_none() {
            return match table.zones().apex_start(name) {
                // Not knowing yet is not the same as knowing there is none.
                Some(_) => Ok(Verdict {
                    reason: Some(Reason::of(ede::NOT_READY)),
                    ..self.verdict(self.flags(rcode::SERV_FAIL))
                }),
                // A static name does not wait for the cluster.
                None if table.lookup(name).is_some() => Err(Stop::Slow),
                None => self.outside(reply),
            };
        }
        let node = table.lookup(name);
        match node {
            Some(Node::Alias(alias)) => return self.follow(alias, reply),
            Some(Node::Sets(sets)) => {
                let qtype = self.question.qtype;
                if let Some(addresses) = sets.addresses(qtype) {
                    if addresses.near {
                        return Err(Stop::Slow);
                    }
                    let subset = table.zones().large_answers;
                    let transport = self.asker.transport;
                    reply.put_addresses(addresses, None, self.rotation, transport, subset)?;
                    return Ok(self.authoritative(rcode::NO_ERROR));
                }
                if sets.is_apart(qtype) {
                    return Err(Stop::Slow);
                }
                if let Some(prebuilt) = sets.prebuilt(qtype) {
                    reply.put_prebuilt(prebuilt)?;
                    return Ok(self.authoritative(rcode::NO_ERROR));
                }
            }
            None => {}
        }
        match table.zones().apex_start(name) {
            // A static name outside our zones exists, and no SOA of ours is above it.
            None if node.is_some_and(Node::is_static) => Ok(self.authoritative(rcode::NO_ERROR)),
            None => self.outside(reply),
            Some(0) => self.apex(reply),
            Some(apex) => self.negative(name, node.is_some(), HEADER + apex, reply),
        }
    }

    /// A name in none of our zones: from the cache, if it is there.
    fn outside(&self, reply: &mut Reply<'_>) -> Result<Verdict, Stop> {
        let recursion_desired = self.flags[0] & 0x01 != 0;
        let Some(cache) = self.context.cache.filter(|_| recursion_desired) else {
            if self.context.table.zones().forwards && recursion_desired {
                return Err(Stop::Slow);
            }
            return Ok(Verdict {
                reason: Some(Reason::of(ede::NOT_AUTHORITATIVE)),
                ..self.verdict(self.flags(rcode::REFUSED))
            });
        };
        let dnssec_ok = self.opt.is_some_and(|opt| opt.dnssec_ok);
        let checking_disabled = self.flags[1] & 0x10 != 0;
        let key =
            CacheKey::new(self.question.name(), self.question.qtype, dnssec_ok, checking_disabled);
        let now = self.context.cache_secs;
        let Found::Fresh { entry, refresh } = cache.lookup(&key, now) else {
            return Err(Stop::Slow);
        };
        let answer = &entry.answer;
        let negative = answer.is_negative();
        let event = Some(if negative { Event::CacheDenial } else { Event::CacheHit });
        reply
            .put_kept(answer, entry.kept_secs(), entry.age(now))
            .map_err(|Full| Stop::Full(event))?;
        // RFC 6840 §5.8: AD only for those who can make something of it.
        let wants_ad = dnssec_ok || self.flags[1] & 0x20 != 0;
        let authentic = answer.authentic && wants_ad;
        let flags = Flags { authentic, ..self.flags(answer.rcode) };
        let reason = self.opt.and(answer.reason.clone());
        Ok(Verdict { event, refresh, reason, ..self.verdict(flags) })
    }

    /// The apex of a zone, for a type the node there does not hold.
    fn apex(&self, reply: &mut Reply<'_>) -> Result<Verdict, Stop> {
        match self.question.qtype {
            rtype::SOA => {
                let table = self.context.table;
                let inside = self.question.name() == table.zones().cluster.as_bytes();
                reply.put_answer_soa(table.soa_record(), inside)?;
            }
            rtype::NS => reply.put_servers(self.context.table.zones())?,
            _ => return self.negative(self.question.name(), true, HEADER, reply),
        }
        Ok(self.authoritative(rcode::NO_ERROR))
    }

    /// RFC 2308 §2: `name` has no such data, or there is no such name; `apex` is where its zone's
    /// name stands in the message.
    fn negative(
        &self,
        name: &[u8],
        exists: bool,
        apex: usize,
        reply: &mut Reply<'_>,
    ) -> Result<Verdict, Stop> {
        let table = self.context.table;
        let (zones, snapshot) = (table.zones(), table.snapshot());
        if !exists && zones.in_pods(name) {
            return Err(Stop::Slow);
        }
        if !exists && reply.is_empty() {
            self.search_path(name)?;
        }
        // Where the apex stands in the question, that shows which zone it is.
        let inside = self.question.name().get(apex - HEADER..) == Some(zones.cluster.as_bytes());
        reply.put_authority_soa(table.soa_record(), apex, inside)?;
        let reason = self.opt.zip(snapshot);
        let reason = reason.map(|(_, s)| reason::of_negative(zones, s, name, exists));
        let code = if exists { rcode::NO_ERROR } else { rcode::NX_DOMAIN };
        Ok(Verdict { reason, ..self.authoritative(code) })
    }

    /// A name that does not exist may be one of a search path, which is counted or not left at that.
    fn search_path(&self, name: &[u8]) -> Result<(), Stop> {
        let table = self.context.table;
        let Some(snapshot) = table.snapshot() else { return Ok(()) };
        let Some(candidate) = search::candidate(name, table.zones(), snapshot) else {
            return Ok(());
        };
        let mode = self.context.rules.search.mode(candidate.namespace);
        if self.context.cache.is_some() && mode != crate::config::SearchMode::Off {
            return Err(Stop::Slow);
        }
        if let Some(costs) = self.context.costs {
            costs.missed(candidate.namespace);
        }
        Ok(())
    }

    /// RFC 1034 §4.3.2 step 3a: an alias in our zone, followed while its target is there too.
    fn follow(&self, first: &Alias, reply: &mut Reply<'_>) -> Result<Verdict, Stop> {
        let table = self.context.table;
        let zones = table.zones();
        let cluster = zones.cluster.as_bytes();
        // Pointers to the zone lead into the question.
        let Some(start) = suffix_start(self.question.name(), cluster) else {
            return Err(Stop::Slow);
        };
        let zone = HEADER + start;
        let mut alias = first;
        let mut owner = None;
        for _ in 0..MAX_LINKS {
            let at = reply.put_alias(owner, alias, zone)?;
            owner = Some(at);
            if self.question.qtype == rtype::CNAME {
                return Ok(self.authoritative(rcode::NO_ERROR));
            }
            let target = table.lookup(alias.target.as_bytes());
            let ours = zones.apex_start(alias.target.as_bytes()).is_some();
            if alias.inside.is_none() || !ours {
                // Elsewhere: another zone of ours, a static name, or somebody else's, whom we may
                // ask.
                let known = ours || target.is_some() || zones.forwards;
                let done = Ok(self.authoritative(rcode::NO_ERROR));
                return if known { Err(Stop::Slow) } else { done };
            }
            match target {
                Some(Node::Alias(next)) => alias = next,
                Some(Node::Sets(sets)) => {
                    if let Some(addresses) = sets.addresses(self.question.qtype) {
                        if addresses.near {
                            return Err(Stop::Slow);
                        }
                        let (transport, subset) = (self.asker.transport, zones.large_answers);
                        reply.put_addresses(addresses, owner, self.rotation, transport, subset)?;
                        return Ok(self.authoritative(rcode::NO_ERROR));
                    }
                    // Its offsets are those of its own question: rare enough for the slow path.
                    let qtype = self.question.qtype;
                    if sets.is_apart(qtype) || sets.prebuilt(qtype).is_some() {
                        return Err(Stop::Slow);
                    }
                    return self.negative(alias.target.as_bytes(), true, zone, reply);
                }
                None => {
                    let apex = alias.inside == Some(0);
                    if apex && matches!(self.question.qtype, rtype::SOA | rtype::NS) {
                        return Err(Stop::Slow);
                    }
                    return self.negative(alias.target.as_bytes(), apex, zone, reply);
                }
            }
        }
        reply.clear();
        Ok(self.verdict(self.flags(rcode::SERV_FAIL)))
    }

    fn prohibited(&self) -> Verdict {
        Verdict {
            reason: Some(Reason::of(ede::PROHIBITED)),
            event: Some(Event::Denied),
            ..self.verdict(self.flags(rcode::REFUSED))
        }
    }

    fn authoritative(&self, rcode: u8) -> Verdict {
        self.verdict(Flags { authoritative: true, ..self.flags(rcode) })
    }

    fn flags(&self, rcode: u8) -> Flags {
        let recursion_available = self.context.table.zones().forwards;
        Flags { rcode, recursion_available, authoritative: false, authentic: false }
    }

    fn verdict(&self, flags: Flags) -> Verdict {
        let zone = self.context.table.zones().zone_of(self.question.name());
        let zone = zone.map_or(ZoneId::OUTSIDE, |(_, zone)| zone);
        Verdict { flags, zone, reason: None, event: None, refresh: false }
    }
}

/// Spreads a counter of answers over rotations. Taken as it is, a client that asks for A and AAAA
/// in turn would see every other rotation alone; multiples of the golden ratio are spread evenly
/// over any such subsequence.
pub(crate) fn turn(count: usize) -> usize {
    count.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33
}
