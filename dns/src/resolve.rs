//! The slow path with everything that may wait: rewrites, upstreams, search paths.

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record};
use tokio::time::timeout;

use crate::answer::STALE_TTL_SECS;
use crate::cache::{CacheKey, Entry};
use crate::config::{AccessAction, SearchMode};
use crate::context::{Asker, Context};
use crate::edns::{self, Reason, ReplyOpt, ede};
use crate::fast;
use crate::forward::{Forwarder, NoAnswer, Origin, Served};
use crate::front::Front;
use crate::metrics::Event;
use crate::name::WireName;
use crate::question::{self, CLASS_IN, HEADER};
use crate::rcode;
use crate::rewrite;
use crate::search;
use crate::slow::lookup::{self, Resolution};
use crate::slow::{self, Composed, Refusal, Request, View, encode};
use crate::zone::ZoneId;

/// An answer and what to count it under.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// The answer; `None` when a rule denies one.
    pub(crate) answer: Option<Vec<u8>>,
    pub(crate) zone: ZoneId,
    pub(crate) qtype: u16,
    /// Its code; 16 is BADVERS.
    pub(crate) rcode: u8,
    pub(crate) event: Option<Event>,
}

/// A query under way.
struct Work<'a> {
    front: &'a Front,
    context: Context<'a>,
    view: View<'a>,
    asker: Asker,
    request: &'a Request,
    composed: Composed<'a>,
    event: Option<Event>,
}

/// Answers a query; `None` when it deserves no answer at all.
pub(crate) async fn answer(front: &Front, query: &[u8], asker: Asker) -> Option<Resolved> {
    // One table from start to end, whatever is published meanwhile.
    let table = front.table.load_full();
    let context = front.context(&table);
    let request = match Request::read(query) {
        Ok(request) => request,
        Err(Refusal::Nothing) => return None,
        Err(Refusal::Bare(answer)) => return Some(Resolved::unparsed(answer)),
        Err(Refusal::Cookie(header, opt)) => {
            return Some(Resolved::unparsed(slow::cookie(&context, header, &opt, asker)));
        }
    };
    let name = request.name();
    let zone = table.zones().zone_of(name.as_bytes()).map_or(ZoneId::OUTSIDE, |(_, zone)| zone);
    let access = front.rules.decide(asker.address, name.as_bytes());
    let mut work = Work {
        front,
        context,
        view: View::of(&table, asker.address),
        asker,
        composed: Composed::new(&context, table.zones(), &request),
        request: &request,
        event: None,
    };
    let done = match access {
        AccessAction::Drop => Done::Nothing,
        AccessAction::Refuse => {
            work.composed.fail(rcode::REFUSED, Some(Reason::of(ede::PROHIBITED)));
            Done::Composed
        }
        AccessAction::Allow => work.run(query).await,
    };
    if access != AccessAction::Allow {
        work.event = Some(Event::Denied);
    }
    let (event, qtype) = (work.event, request.qtype());
    let answer = match done {
        Done::Nothing => None,
        Done::Bytes(bytes) => Some(bytes),
        Done::Composed => Some(work.composed.encode(asker, &request)),
    };
    let rcode = answer.as_deref().map_or(0, crate::slow::response_code);
    Some(Resolved { answer, zone, qtype, rcode, event })
}

/// How an answer came to be.
enum Done {
    /// It is the upstream's, put behind the question as it is.
    Bytes(Vec<u8>),
    /// It is what was composed.
    Composed,
    /// There is none.
    Nothing,
}

impl Work<'_> {
    async fn run(&mut self, query: &[u8]) -> Done {
        if let Some(code) = self.request.refused() {
            self.composed.refuse(code);
            return Done::Composed;
        }
        let asked = self.request.name();
        if let Some(forwarder) = &self.front.forwarder
            && forwarder.is_own_probe(asked.as_bytes())
        {
            self.composed.fail(rcode::REFUSED, Some(Reason::with(ede::OTHER, "a forwarding loop")));
            return Done::Composed;
        }
        let rewritten = self.front.rules.rewrites.apply(asked);
        let name = rewritten.as_ref().unwrap_or(asked);
        let mut resolution = lookup::resolve(&self.view, name, self.request.qtype());
        rotate(&mut resolution);
        let next = resolution.next.clone();
        if next.is_none() && resolution.rcode == rcode::NX_DOMAIN && resolution.answers.is_empty() {
            self.search_path(name, &resolution).await;
        } else if let Some(next) = next
            && self.request.recursion_desired()
            && let Some(forwarder) = self.front.forwarder.clone()
        {
            let key = self.key(&next);
            let served = forwarder.resolve(&key, self.asker.address).await;
            match served {
                Ok(served) if resolution.answers.is_empty() && rewritten.is_none() => {
                    self.note(&served);
                    return self.as_it_is(query, &served);
                }
                Ok(served) => {
                    self.note(&served);
                    self.composed.fill(self.view.zones, &resolution, self.request);
                    self.append(&next, &served);
                }
                // As without upstreams: the alias is known, and what it leads to is not.
                Err(NoAnswer::NoRule) if !resolution.answers.is_empty() => {
                    self.composed.fill(self.view.zones, &resolution, self.request);
                }
                Err(why) => self.no_answer(&why),
            }
        } else {
            self.composed.fill(self.view.zones, &resolution, self.request);
        }
        if let Some(to) = &rewritten {
            self.restore(to);
        }
        Done::Composed
    }

    fn restore(&mut self, looked_up: &WireName) {
        let asked = self.composed.message.queries.first().map(|query| query.name().clone());
        if let Some(asked) = asked {
            let looked_up = encode::name(looked_up);
            rewrite::restore(&mut self.composed.message, &looked_up, &asked);
        }
    }

    fn key(&self, name: &WireName) -> CacheKey {
        let (dnssec_ok, checking_disabled) = self.request.flags();
        CacheKey::new(name.as_bytes(), self.request.qtype(), dnssec_ok, checking_disabled)
    }

    fn note(&mut self, served: &Served) {
        self.event = Some(match served.origin {
            Origin::Stale => Event::CacheStale,
            Origin::Asked => Event::CacheMiss,
            Origin::Kept if served.entry.answer.is_negative() => Event::CacheDenial,
            Origin::Kept => Event::CacheHit,
        });
    }

    fn no_answer(&mut self, why: &NoAnswer) {
        let reason = match why {
            NoAnswer::NoRule => {
                self.composed.fail(rcode::REFUSED, Some(Reason::of(ede::NOT_AUTHORITATIVE)));
                return;
            }
            NoAnswer::Shed(why) => Reason::with(ede::OTHER, *why),
            NoAnswer::Failed(why) => Reason::with(ede::NO_REACHABLE_AUTHORITY, why.to_string()),
        };
        self.event = Some(Event::CacheMiss);
        self.composed.fail(rcode::SERV_FAIL, Some(reason));
    }

    /// An upstream's answer behind the client's own question.
    fn as_it_is(&self, query: &[u8], served: &Served) -> Done {
        let request = self.request;
        let payload = request.opt.map(|opt| opt.payload);
        let limit =
            fast::limit(self.asker.transport, payload, self.context.table.zones().udp_limit);
        let opt = request.opt.map(|opt| self.context.reply_opt(&opt, self.asker.address));
        let room = limit - opt.as_ref().map_or(0, ReplyOpt::length);
        let mut bytes = put_behind(query, request.question.end, served, self.now());
        let answer = &served.entry.answer;
        // RFC 1035 §4.1.1: QR, RD; RA, CD; RFC 6840 §5.8: AD for those who understand it.
        bytes[2] = 0x80 | (query[2] & 0x01);
        let authentic = answer.authentic && request.wants_authentic();
        bytes[3] = 0x80 | if authentic { 0x20 } else { 0 } | (query[3] & 0x10) | answer.rcode;
        if bytes.len() > room {
            // RFC 2181 §9
            bytes.truncate(request.question.end);
            bytes[2] |= 0x02;
            bytes[6..12].fill(0);
        }
        let reason = reason_of(served);
        if let Some(opt) = opt {
            encode::append_opt(&mut bytes, &opt, reason.as_ref(), limit);
        }
        Done::Bytes(bytes)
    }

    /// Puts an upstream's records for a name behind those that led to it.
    fn append(&mut self, name: &WireName, served: &Served) {
        let Some(message) = self.message_of(name, served) else {
            let reason = Reason::with(ede::OTHER, "the upstream's answer cannot be read");
            self.composed.fail(rcode::SERV_FAIL, Some(reason));
            return;
        };
        let composed = &mut self.composed;
        composed.message.answers.extend(message.answers);
        composed.message.authorities = message.authorities;
        composed.message.additionals = message.additionals;
        composed.message.metadata.response_code = message.metadata.response_code;
        // RFC 1034 §6.2.7: it speaks of the first name.
        composed.reason = reason_of(served);
    }

    fn message_of(&self, name: &WireName, served: &Served) -> Option<Message> {
        let mut query = vec![0; HEADER];
        query[5] = 1;
        query.extend_from_slice(name.as_bytes());
        query.extend_from_slice(&self.request.qtype().to_be_bytes());
        query.extend_from_slice(&CLASS_IN.to_be_bytes());
        let mut bytes = put_behind(&query, query.len(), served, self.now());
        bytes[2] = 0x80;
        bytes[3] = served.entry.answer.rcode;
        Message::from_vec(&bytes).ok()
    }

    fn now(&self) -> u32 {
        self.front.forwarder.as_ref().map_or(0, |forwarder| forwarder.cache.now())
    }

    /// A name that does not exist and may be the first of a search path: answered with what the
    /// path comes to, or with what it is.
    async fn search_path(&mut self, name: &WireName, resolution: &Resolution) {
        self.composed.fill(self.view.zones, resolution, self.request);
        let zones = self.view.zones;
        let Some(snapshot) = self.view.snapshot else { return };
        let Some(candidate) = search::candidate(name.as_bytes(), zones, snapshot) else { return };
        let costs = &self.front.metrics.search;
        let mode = self.front.rules.search.mode(candidate.namespace);
        let forwarder = self.front.forwarder.clone();
        let Some(forwarder) = forwarder.filter(|_| self.request.recursion_desired()) else {
            costs.missed(candidate.namespace);
            return;
        };
        let further = self.front.rules.search.further(&candidate, zones);
        match mode {
            SearchMode::Off => costs.missed(candidate.namespace),
            SearchMode::Prefetch => {
                costs.missed(candidate.namespace);
                if let Some(bare) = further.last().filter(|bare| self.may_ask(bare)) {
                    forwarder.prefetch(&self.key(bare));
                }
            }
            SearchMode::Complete => {
                // All candidates together take no longer than one question may.
                let completing = self.complete(&forwarder, &further);
                if timeout(forwarder.timeout(), completing).await.unwrap_or(false) {
                    costs.completed(candidate.namespace);
                } else {
                    costs.missed(candidate.namespace);
                }
            }
        }
    }

    fn may_ask(&self, name: &WireName) -> bool {
        let access = self.front.rules.decide(self.asker.address, name.as_bytes());
        access == AccessAction::Allow
    }

    /// Whether one of these names exists; the first that does answers, by a CNAME.
    async fn complete(
        &mut self,
        forwarder: &std::sync::Arc<Forwarder>,
        further: &[WireName],
    ) -> bool {
        for name in further {
            // What the client may not ask for, it is not to learn this way.
            if !self.may_ask(name) {
                return false;
            }
            let resolution = lookup::resolve(&self.view, name, self.request.qtype());
            match &resolution.next {
                None if resolution.rcode == rcode::NO_ERROR => {
                    self.composed.fill(self.view.zones, &resolution, self.request);
                    self.lead_to(name);
                    return true;
                }
                None => {}
                Some(next) => {
                    let key = self.key(next);
                    // What failed says nothing of the name: the pod asks for it itself.
                    let Ok(served) = forwarder.resolve(&key, self.asker.address).await else {
                        return false;
                    };
                    if !served.entry.answer.is_good() {
                        return false;
                    }
                    if served.entry.answer.rcode == rcode::NX_DOMAIN {
                        continue;
                    }
                    self.note(&served);
                    self.composed.fill(self.view.zones, &resolution, self.request);
                    self.append(next, &served);
                    self.lead_to(name);
                    return true;
                }
            }
        }
        false
    }

    /// Puts a CNAME from the name asked to another in front.
    fn lead_to(&mut self, name: &WireName) {
        let message = &mut self.composed.message;
        let asked: Name =
            message.queries.first().map(|query| query.name().clone()).unwrap_or_default();
        let target = RData::CNAME(CNAME(encode::name(name)));
        let ttl_secs = self.view.zones.ttl_secs;
        message.answers.insert(0, Record::from_rdata(asked, ttl_secs, target));
        message.metadata.authoritative = false;
        if message.metadata.response_code == ResponseCode::Refused {
            message.metadata.response_code = ResponseCode::NoError;
        }
    }
}

/// Another address comes first each time.
fn rotate(resolution: &mut Resolution) {
    let answers = &mut resolution.answers;
    let addresses = answers.iter().rev().take_while(|(_, data)| data.is_address()).count();
    if addresses > 1 {
        let first = answers.len() - addresses;
        answers[first..].rotate_left(rand::random_range(0..addresses));
    }
}

/// What a question of the ordinary form is kept under.
pub(crate) fn key_of(query: &[u8]) -> Option<CacheKey> {
    let question = question::parse(query).ok()?;
    let opt = edns::parse(query.get(question.end..)?);
    let dnssec_ok = opt.is_some_and(|opt| opt.dnssec_ok);
    let checking_disabled = query.get(3)? & 0x10 != 0;
    Some(CacheKey::new(question.name(), question.qtype, dnssec_ok, checking_disabled))
}

/// Header and question of a query, and an upstream's records behind them, aged.
fn put_behind(query: &[u8], end: usize, served: &Served, now: u32) -> Vec<u8> {
    let entry: &Entry = &served.entry;
    let mut bytes = query[..end].to_vec();
    bytes.extend_from_slice(&entry.answer.body);
    if served.origin == Origin::Stale {
        entry.answer.age(&mut bytes[end..], STALE_TTL_SECS, 0);
    } else {
        entry.answer.age(&mut bytes[end..], entry.kept_secs(), entry.age(now));
    }
    for (at, count) in (6..).step_by(2).zip(entry.answer.counts) {
        bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
    }
    bytes
}

/// What is said of an upstream's answer.
fn reason_of(served: &Served) -> Option<Reason> {
    if served.origin != Origin::Stale {
        return served.entry.answer.reason.clone();
    }
    let nxdomain = served.entry.answer.rcode == rcode::NX_DOMAIN;
    // RFC 8914 §4.4, §4.20
    Some(Reason::of(if nxdomain { ede::STALE_NXDOMAIN } else { ede::STALE_ANSWER }))
}
