//! How an answer comes about, step by step: what `portolan dns explain` shows.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};

use crate::cache::{CacheKey, Found};
use crate::config::{AccessAction, SearchMode};
use crate::front::{Client, Front, Protocol};
use crate::metrics::Counters;
use crate::name::WireName;
use crate::search;
use crate::slow::lookup::{self, Resolution};
use crate::slow::{View, encode, response_code};

/// Explains answers of a running server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Explainer {
    front: Arc<Front>,
    /// Counters that no metric shows: looking at an answer is not asking for it.
    counters: Arc<Counters>,
}

/// Steps, and the answer they lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// What is decided, in order.
    pub steps: Vec<String>,
    /// The answer, as text.
    pub answer: Vec<String>,
}

/// A question that cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAQuestion {
    /// No domain name.
    #[error("{0:?} is not a domain name")]
    Name(String),
    /// No record type.
    #[error("{0:?} is not a record type")]
    Type(String),
}

impl Explainer {
    pub(crate) fn new(front: Arc<Front>) -> Self {
        Self { front, counters: Arc::new(Counters::shared()) }
    }

    /// Says how a client at an address is answered. The question is asked, upstreams included.
    ///
    /// # Errors
    /// [`NotAQuestion`] when name or type are none.
    pub async fn explain(
        &self,
        name: &str,
        rtype: &str,
        client: IpAddr,
    ) -> Result<Explanation, NotAQuestion> {
        let text = name.strip_suffix('.').unwrap_or(name);
        let wire = if text.is_empty() {
            Some(WireName::root())
        } else {
            WireName::root().below(text.split('.').map(str::as_bytes))
        };
        let wire = wire.ok_or_else(|| NotAQuestion::Name(name.to_owned()))?;
        let rtype: RecordType =
            rtype.to_ascii_uppercase().parse().map_err(|_| NotAQuestion::Type(rtype.to_owned()))?;
        let mut explanation =
            Explanation { steps: self.steps(&wire, rtype, client), answer: Vec::new() };
        let query = query(&wire, rtype);
        let counters = self.counters.clone();
        let client = Client { address: client, protocol: Protocol::Tcp, counters };
        match self.front.answer(&query, &client).await {
            Some(answer) => show(&answer, &mut explanation.answer),
            None => explanation.answer.push("no answer is given".to_owned()),
        }
        Ok(explanation)
    }

    fn steps(&self, name: &WireName, rtype: RecordType, client: IpAddr) -> Vec<String> {
        let front = &self.front;
        let table = front.table.load_full();
        let view = View::of(&table, client);
        let mut steps = Vec::new();
        let generation = table.generation().map_or_else(
            || "no snapshot has been seen yet".to_owned(),
            |generation| format!("generation {generation} of the snapshot"),
        );
        steps.push(format!("{name} {rtype}, asked by {client}, from {generation}"));
        match front.rules.decide(client, name.as_bytes()) {
            AccessAction::Allow => steps.push("access: allowed".to_owned()),
            AccessAction::Refuse => {
                steps.push("access: refused by a rule of dns.access".to_owned());
                return steps;
            }
            AccessAction::Drop => {
                steps.push("access: dropped by a rule of dns.access".to_owned());
                return steps;
            }
        }
        let rewritten = front.rules.rewrites.apply(name);
        if let Some(to) = &rewritten {
            steps.push(format!("rewritten: {to} is looked up in its place"));
        }
        let name = rewritten.as_ref().unwrap_or(name);
        self.zone(&view, name, &mut steps);
        if let Some(place) = &view.place {
            let shown = |part: &Option<Arc<str>>| part.as_deref().unwrap_or("unknown").to_owned();
            let (node, zone) = (shown(&place.node), shown(&place.zone));
            steps.push(format!("client: on node {node}, in zone {zone}"));
        }
        let resolution = lookup::resolve(&view, name, rtype.into());
        self.local(&view, name, rtype, &resolution, &mut steps);
        steps
    }

    fn zone(&self, view: &View<'_>, name: &WireName, steps: &mut Vec<String>) {
        steps.push(match view.zones.zone_of(name.as_bytes()) {
            Some((_, id)) => {
                format!("zone: {} is served here", view.zones.zone_names()[id.index()])
            }
            None if view.zones.fixed_at(name).is_some() => "zone: a static record".to_owned(),
            None => "zone: none of ours".to_owned(),
        });
    }

    fn local(
        &self,
        view: &View<'_>,
        name: &WireName,
        rtype: RecordType,
        resolution: &Resolution,
        steps: &mut Vec<String>,
    ) {
        for (owner, data) in &resolution.answers {
            let ttl_secs = view.zones.ttl_secs_of(owner);
            steps
                .push(format!("snapshot: {}", encode::record(encode::name(owner), data, ttl_secs)));
        }
        if let Some(reason) = resolution.reason.as_ref().filter(|r| !r.text.is_empty()) {
            steps.push(format!("snapshot: {}", reason.text));
        }
        if let Some(next) = &resolution.next {
            self.upstream(next, rtype, steps);
            return;
        }
        let snapshot = view.snapshot.filter(|_| resolution.rcode == crate::rcode::NX_DOMAIN);
        let candidate =
            snapshot.and_then(|snapshot| search::candidate(name.as_bytes(), view.zones, snapshot));
        let Some(candidate) = candidate else { return };
        let further = self.front.rules.search.further(&candidate, view.zones);
        let names: Vec<String> = further.iter().map(ToString::to_string).collect();
        let path = names.join(", ");
        steps.push(match self.front.rules.search.mode(candidate.namespace) {
            SearchMode::Off => format!("search path: its pod goes on with {path} itself"),
            SearchMode::Prefetch => format!("search path: {path}; the last is looked up ahead"),
            SearchMode::Complete => format!("search path: completed here with {path}"),
        });
    }

    fn upstream(&self, name: &WireName, rtype: RecordType, steps: &mut Vec<String>) {
        let Some(forwarder) = &self.front.forwarder else {
            steps.push("upstream: nothing is forwarded (dns.forward is empty)".to_owned());
            return;
        };
        match forwarder.upstreams_of(name.as_bytes()) {
            Some((zone, upstreams)) => {
                steps.push(format!("upstream: rule {zone} leads to {}", upstreams.join(", ")));
            }
            None => steps.push(format!("upstream: no rule of dns.forward covers {name}")),
        }
        let key = CacheKey::new(name.as_bytes(), rtype.into(), false, false);
        let now = forwarder.cache.now();
        steps.push(match forwarder.cache.lookup(&key, now) {
            Found::Fresh { entry, refresh } => {
                if refresh {
                    // Looking is not asking.
                    forwarder.cache.give_back_refresh(&key);
                }
                let (age, kept) = (entry.age(now), entry.kept_secs());
                format!("cache: kept since {age} s, for {kept} s")
            }
            Found::Stale { entry, .. } => {
                format!("cache: past its time, {} s old", entry.age(now))
            }
            Found::Nothing => "cache: not kept".to_owned(),
        });
    }
}

fn query(name: &WireName, rtype: RecordType) -> Vec<u8> {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = Name::from_labels(name.labels()).unwrap_or_default();
    message.add_query(Query::query(name, rtype));
    let mut edns = Edns::new();
    edns.set_max_payload(1232);
    message.set_edns(edns);
    message.to_vec().unwrap_or_default()
}

fn show(answer: &[u8], lines: &mut Vec<String>) {
    let Ok(message) = Message::from_vec(answer) else {
        lines.push(format!("{} octets that cannot be read", answer.len()));
        return;
    };
    let code = hickory_proto::op::ResponseCode::from(0, response_code(answer));
    let authority = if message.metadata.authoritative { ", authoritative" } else { "" };
    lines.push(format!("{code}{authority}"));
    lines.extend(message.answers.iter().map(ToString::to_string));
    lines.extend(message.authorities.iter().map(|record| format!("authority: {record}")));
    lines.extend(message.additionals.iter().map(|record| format!("additional: {record}")));
    let options = message.edns.iter().flat_map(|edns| edns.options().as_ref());
    for (_, option) in options {
        if let hickory_proto::rr::rdata::opt::EdnsOption::Unknown(15, data) = option
            && let Some(([high, low], text)) = data.split_first_chunk::<2>()
        {
            let code = u16::from_be_bytes([*high, *low]);
            lines.push(format!("extended error {code}: {}", String::from_utf8_lossy(text)));
        }
    }
}
