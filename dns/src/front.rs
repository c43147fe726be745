//! What every listener asks: the fast path first, then the slow one, counted and logged alike.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;

use crate::context::{Asker, Context, Rules};
use crate::fast::{self, Outcome, Transport};
use crate::forward::Forwarder;
use crate::metrics::{Counters, DnsMetrics, Event};
use crate::node::MESSAGE_MAX;
use crate::querylog::{Line, QueryLogger};
use crate::resolve::{self, Resolved};
use crate::table::Table;
use crate::zone::ZoneId;

thread_local! {
    /// Where the fast path writes; only ever borrowed between two awaits.
    static SCRATCH: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; MESSAGE_MAX]);
}

/// What is served, and how.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) table: Arc<ArcSwap<Table>>,
    pub(crate) rules: Rules,
    pub(crate) forwarder: Option<Arc<Forwarder>>,
    pub(crate) metrics: Arc<DnsMetrics>,
    pub(crate) log: QueryLogger,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Udp,
    Tcp,
    Tls,
    Https,
    Quic,
}

impl Protocol {
    /// Its name in metrics and logs, as CoreDNS has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Https => "https",
            Self::Quic => "quic",
        }
    }

    /// The start of a listener's name, as CoreDNS writes it.
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::Udp | Self::Tcp => "dns",
            Self::Tls | Self::Https | Self::Quic => self.name(),
        }
    }

    /// What bounds its answers.
    pub(crate) fn transport(self) -> Transport {
        match self {
            Self::Udp => Transport::Udp,
            Self::Tcp | Self::Tls | Self::Https | Self::Quic => Transport::Tcp,
        }
    }
}

/// A client of a listener.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) protocol: Protocol,
    /// What its listener counts with; any thread writes to it.
    pub(crate) counters: Arc<Counters>,
}

impl Client {
    fn asker(&self) -> Asker {
        Asker { address: self.address, transport: self.protocol.transport() }
    }
}

/// What one look at a query came to.
pub(crate) enum Quick {
    /// This answer.
    Answer(Vec<u8>),
    /// None is due.
    Nothing,
    /// The slow path has to see it.
    Slow,
}

impl Front {
    /// What answers are made with; `table` is what was loaded last.
    pub(crate) fn context<'a>(&'a self, table: &'a Table) -> Context<'a> {
        let cache = self.forwarder.as_ref().map(|forwarder| &*forwarder.cache);
        let epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // RFC 9018 §4.3: 32 bits that wrap.
        let epoch_secs = epoch.map_or(0, |d| d.as_secs() & u64::from(u32::MAX));
        Context {
            table,
            rules: &self.rules,
            cache,
            cache_secs: cache.map_or(0, crate::cache::Cache::now),
            epoch_secs: u32::try_from(epoch_secs).unwrap_or(0),
            costs: Some(&self.metrics.search),
        }
    }

    /// Answers a query of a stream, however long it takes; `None` when no answer is due.
    pub(crate) async fn answer(&self, query: &[u8], client: &Client) -> Option<Vec<u8>> {
        match self.answer_quickly(query, client) {
            Quick::Answer(answer) => Some(answer),
            Quick::Nothing => None,
            Quick::Slow => self.answer_slowly(query, client).await,
        }
    }

    /// Answers a query of a stream on the fast path, if that can.
    pub(crate) fn answer_quickly(&self, query: &[u8], client: &Client) -> Quick {
        let began = Instant::now();
        let table = self.table.load();
        let counters = &client.counters;
        let rotation = fast::turn(counters.rotation.fetch_add(1, Ordering::Relaxed));
        SCRATCH.with_borrow_mut(|scratch| {
            let context = self.context(&table);
            match fast::respond(&context, query, scratch, client.asker(), rotation) {
                Outcome::Answered(answered) => {
                    counters.count(Event::Fast, 1);
                    counters.request(answered.zone, answered.qtype);
                    if let Some(event) = answered.event {
                        counters.count(event, 1);
                    }
                    counters.response(answered.zone, answered.rcode, began.elapsed());
                    if answered.refresh {
                        self.refresh(query);
                    }
                    let answer = scratch[..answered.length].to_vec();
                    self.log(query, &answer, client, began);
                    Quick::Answer(answer)
                }
                Outcome::Drop => Quick::Nothing,
                Outcome::Denied => {
                    counters.count(Event::Denied, 1);
                    Quick::Nothing
                }
                Outcome::Slow => {
                    counters.count(Event::Slow, 1);
                    Quick::Slow
                }
            }
        })
    }

    /// Answers a query on the slow path; `None` when no answer is due.
    pub(crate) async fn answer_slowly(&self, query: &[u8], client: &Client) -> Option<Vec<u8>> {
        let began = Instant::now();
        let resolved = resolve::answer(self, query, client.asker()).await;
        let counters = &client.counters;
        let Resolved { answer, zone, qtype, rcode, event } = resolved?;
        counters.request(zone, qtype);
        if let Some(event) = event {
            counters.count(event, 1);
        }
        let answer = answer?;
        counters.response(zone, rcode, began.elapsed());
        self.log(query, &answer, client, began);
        Some(answer)
    }

    /// Has a kept answer asked anew, as it is about to run out.
    pub(crate) fn refresh(&self, query: &[u8]) {
        if let Some(forwarder) = &self.forwarder
            && let Some(key) = resolve::key_of(query)
        {
            forwarder.refresh(&key);
        }
    }

    /// Lets the same answer be found due again, as there was no room to have it asked anew.
    pub(crate) fn give_back_refresh(&self, query: &[u8]) {
        if let Some(forwarder) = &self.forwarder
            && let Some(key) = resolve::key_of(query)
        {
            forwarder.cache.give_back_refresh(&key);
        }
    }

    fn log(&self, query: &[u8], answer: &[u8], client: &Client, began: Instant) {
        if self.log.wants(answer) {
            let line = Line { query, answer, client: client.address, protocol: client.protocol };
            self.log.write(&line, began.elapsed());
        }
    }
}

impl Resolved {
    /// An answer to something that has no zone.
    pub(crate) fn unparsed(answer: Vec<u8>) -> Self {
        let rcode = crate::slow::response_code(&answer);
        Self { answer: Some(answer), zone: ZoneId::OUTSIDE, qtype: 0, rcode, event: None }
    }
}
