//! What an answer depends on besides its question: the table, who asks, and the server's rules.

use std::net::IpAddr;
use std::sync::OnceLock;

use crate::access::Access;
use crate::cache::Cache;
use crate::config::{AccessAction, DnsConfig};
use crate::cookie::Secret;
use crate::edns::{ClientOpt, ReplyOpt};
use crate::fast::Transport;
use crate::metrics::SearchCosts;
use crate::rewrite::Rewrites;
use crate::search::Search;
use crate::table::Table;

/// What an answer is made with.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub(crate) table: &'a Table,
    pub(crate) rules: &'a Rules,
    /// Answers of upstreams; `None` when nothing is forwarded.
    pub(crate) cache: Option<&'a Cache>,
    /// The cache's time.
    pub(crate) cache_secs: u32,
    /// Seconds since 1970, for cookies.
    pub(crate) epoch_secs: u32,
    /// Where search paths are counted.
    pub(crate) costs: Option<&'a SearchCosts>,
}

/// Who asks, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Its address.
    pub address: IpAddr,
    /// How the query came.
    pub transport: Transport,
}

/// What stays the same for all queries.
#[derive(Debug, Default)]
pub struct Rules {
    pub(crate) access: Access,
    pub(crate) restricted: bool,
    pub(crate) rewrites: Rewrites,
    pub(crate) search: Search,
    secret: Option<Secret>,
    nsid: Option<Box<[u8]>>,
}

impl Rules {
    /// The rules of a config.
    #[must_use]
    pub fn new(config: &DnsConfig) -> Self {
        Self {
            access: Access::new(&config.access),
            restricted: !config.access.is_empty(),
            rewrites: Rewrites::new(&config.rewrites),
            search: Search::new(config),
            secret: config.cookies.then(Secret::random),
            nsid: config.nsid.as_deref().map(|id| id.as_bytes().into()),
        }
    }

    /// Whether a client may ask for a lower-case wire name.
    pub(crate) fn decide(&self, client: IpAddr, name: &[u8]) -> AccessAction {
        if self.restricted { self.access.decide(client, name) } else { AccessAction::Allow }
    }
}

impl<'a> Context<'a> {
    /// A table alone, with rules that change nothing and no upstreams.
    #[must_use]
    pub fn of(table: &'a Table) -> Self {
        static NONE: OnceLock<Rules> = OnceLock::new();
        Self::with(table, NONE.get_or_init(Rules::default))
    }

    /// A table with rules, without upstreams.
    #[must_use]
    pub fn with(table: &'a Table, rules: &'a Rules) -> Self {
        Self { table, rules, cache: None, cache_secs: 0, epoch_secs: 0, costs: None }
    }

    /// Our OPT record for a client's.
    pub(crate) fn reply_opt(&self, opt: &ClientOpt, client: IpAddr) -> ReplyOpt<'a> {
        let nsid = self.rules.nsid.as_deref().filter(|_| opt.nsid);
        let cookie = self.rules.secret.as_ref().zip(opt.cookie);
        ReplyOpt {
            payload: self.table.zones().udp_limit,
            dnssec_ok: opt.dnssec_ok,
            extended_code: 0,
            nsid,
            cookie: cookie.map(|(secret, given)| secret.cookie(given, client, self.epoch_secs)),
        }
    }
}

impl Asker {
    /// Somebody on this machine.
    #[must_use]
    pub fn local(transport: Transport) -> Self {
        Self { address: IpAddr::from([127, 0, 0, 1]), transport }
    }
}
