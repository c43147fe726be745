//! Names that are not ours: which upstreams are asked, each question once however many wait for it,
//! and what is given when none answers.
//!
//! Bounded: questions under way, questions of one client, tries, time. What was kept is in `cache`.

mod exchange;
mod group;
mod health;
mod https;
mod loops;
mod outgoing;
mod resolv;
mod stream;
mod tls;
mod udp;
mod upstream;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use portolan_runtime::Metrics;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Answer, Unusable};
use crate::cache::{Cache, CacheKey, Entry, Found};
use crate::config::DnsConfig;
use crate::edns::{Reason, ede};
use crate::error::DnsError;
use crate::metrics::ForwardMetrics;
use crate::name::{WireName, suffix_start};
use crate::rcode;
use crate::shares::{Share, Shares};

use group::Group;
use loops::Probes;

pub(crate) use outgoing::Outgoing;

/// How long a client waits for an upstream when there is an answer past its time to give
/// (RFC 8767 §5).
const STALE_WAIT: Duration = Duration::from_millis(1800);
/// Questions asked ahead of need at once.
const PREFETCHES: usize = 256;

/// All upstreams. Shared by every listener.
#[derive(Debug)]
pub(crate) struct Forwarder {
    /// Zones with their upstreams, the longest first.
    groups: Vec<(WireName, Arc<Group>)>,
    pub(crate) cache: Arc<Cache>,
    flights: DashMap<Box<[u8]>, watch::Receiver<Option<Landed>>>,
    waiting: Arc<Semaphore>,
    /// Questions under way, which outlive those who wait for them.
    flying: Arc<Semaphore>,
    prefetching: Arc<Semaphore>,
    /// Questions of each client that wait.
    clients: Shares,
    probes: Arc<Probes>,
    timeout: Duration,
    pub(crate) metrics: ForwardMetrics,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What a question came to.
type Landed = Result<Arc<Entry>, Arc<str>>;

/// An answer and where it comes from.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) entry: Arc<Entry>,
    pub(crate) origin: Origin,
}

/// Where an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was kept.
    Kept,
    /// An upstream was asked.
    Asked,
    /// It was kept, and is past its time.
    Stale,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// No rule covers the name.
    NoRule,
    /// Too much is under way, over all or for this client.
    Shed(&'static str),
    /// Every upstream failed: which, and how.
    Failed(Arc<str>),
}

/// A question that waits, counted until it is dropped.
struct Waiting {
    _share: Share,
    _permit: OwnedSemaphorePermit,
}

impl Forwarder {
    /// Over the rules of a config; `None` when it has none. Starts nothing yet.
    ///
    /// # Errors
    /// A file that was named and cannot be used.
    pub(crate) fn new(config: &DnsConfig, metrics: &Metrics) -> Result<Option<Self>, DnsError> {
        let forward = &config.forward;
        if forward.rules.is_empty() {
            return Ok(None);
        }
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let metrics = ForwardMetrics::register(metrics);
        let shared = upstream::Shared {
            tls: tls::client(forward)?,
            metrics: metrics.clone(),
            max_idle: forward.max_idle,
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let shared = Arc::new(shared);
        let mut groups = forward
            .rules
            .iter()
            .map(|rule| {
                let zone = rule.zone.as_ref().map_or_else(WireName::root, WireName::of);
                Ok((zone, Arc::new(Group::new(rule, forward, &shared)?)))
            })
            .collect::<Result<Vec<_>, DnsError>>()?;
        groups.sort_by_key(|(zone, _)| std::cmp::Reverse(zone.as_bytes().len()));
        Ok(Some(Self {
            groups,
            cache: Arc::new(Cache::new(forward)),
            flights: DashMap::new(),
            waiting: Arc::new(Semaphore::new(forward.max_inflight)),
            flying: Arc::new(Semaphore::new(forward.max_inflight)),
            prefetching: Arc::new(Semaphore::new(PREFETCHES.min(forward.max_inflight))),
            clients: Shares::of(config.client_max_inflight),
            probes: Arc::default(),
            timeout: forward.timeout,
            metrics,
            tasks,
            stop,
        }))
    }

    /// Starts looking after the upstreams: health, files, loops. Ends with [`Self::stop`].
    pub(crate) fn start(self: &Arc<Self>) {
        let groups = self.groups.clone();
        let (stop, probes) = (self.stop.clone(), self.probes.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = health::watch(&groups, &probes) => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// Ends everything that was started, and waits for it.
    pub(crate) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The answer to a question: kept, or asked for. A client of its own waits under its own bound.
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        key: &CacheKey,
        client: IpAddr,
    ) -> Result<Served, NoAnswer> {
        let stale = match self.cache.lookup(key, self.cache.now()) {
            Found::Fresh { entry, refresh } => {
                if refresh {
                    self.refresh(key);
                }
                return Ok(Served { entry, origin: Origin::Kept });
            }
            Found::Stale { entry, at_once: true } => {
                return Ok(Served { entry, origin: Origin::Stale });
            }
            Found::Stale { entry, .. } => Some(entry),
            Found::Nothing => None,
        };
        let group = self.group(key.name()).ok_or(NoAnswer::NoRule)?;
        let kept = |otherwise: NoAnswer| match &stale {
            Some(entry) => Ok(Served { entry: entry.clone(), origin: Origin::Stale }),
            None => Err(otherwise),
        };
        let waiting = match self.admit(client) {
            Ok(waiting) => waiting,
            Err(why) => return kept(why),
        };
        let Some(mut flight) = self.board(key, group) else {
            self.metrics.rejected.inc();
            return kept(NoAnswer::Shed("too many questions are under way to upstreams"));
        };
        let limit = if stale.is_some() { STALE_WAIT } else { Duration::MAX };
        let landed = tokio::time::timeout(limit, flight.wait_for(Option::is_some)).await;
        drop(waiting);
        match landed {
            Ok(Ok(landed)) => match landed.as_ref().expect("waited for") {
                // RFC 8767 §5: a failure is no reason to withhold what is known.
                Ok(entry) if entry.answer.is_good() || stale.is_none() => {
                    Ok(Served { entry: entry.clone(), origin: Origin::Asked })
                }
                Ok(_failure) => kept(NoAnswer::NoRule),
                Err(why) => kept(NoAnswer::Failed(why.clone())),
            },
            Ok(Err(_broken_off)) => kept(NoAnswer::Failed("the question was broken off".into())),
            Err(_too_long) => {
                self.cache.note_failure(key);
                kept(NoAnswer::NoRule)
            }
        }
    }

    /// Has a question asked anew without waiting for it, unless too many are.
    pub(crate) fn refresh(self: &Arc<Self>, key: &CacheKey) {
        let Some(group) = self.group(key.name()) else { return };
        let permit = self.prefetching.clone().try_acquire_owned();
        let (Ok(permit), Some(mut flight)) = (permit, self.board(key, group)) else {
            self.cache.give_back_refresh(key);
            return;
        };
        self.metrics.prefetches.inc();
        self.tasks.spawn(async move {
            // Whatever it came to is in the cache.
            let _landed = flight.wait_for(Option::is_some).await;
            drop(permit);
        });
    }

    /// Has a name looked up ahead of need, when it is not known yet.
    pub(crate) fn prefetch(self: &Arc<Self>, key: &CacheKey) {
        if matches!(self.cache.lookup(key, self.cache.now()), Found::Nothing) {
            self.refresh(key);
        }
    }

    /// Whether a name is that of a loop probe, one of ours being noted with its upstream.
    pub(crate) fn is_own_probe(&self, name: &[u8]) -> bool {
        self.probes.came_back(name)
    }

    /// The upstreams of a name and how they are, for showing.
    pub(crate) fn upstreams_of(&self, name: &[u8]) -> Option<(String, Vec<String>)> {
        let (zone, group) = self.rule(name)?;
        Some((zone.to_string(), group.describe()))
    }

    /// Longest time for one question.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Questions under way.
    pub(crate) fn inflight(&self) -> usize {
        self.flights.len()
    }

    fn group(&self, name: &[u8]) -> Option<&Arc<Group>> {
        self.rule(name).map(|(_, group)| group)
    }

    /// The longest zone that a name is in, with its upstreams.
    fn rule(&self, name: &[u8]) -> Option<&(WireName, Arc<Group>)> {
        self.groups.iter().find(|(zone, _)| suffix_start(name, zone.as_bytes()).is_some())
    }

    fn admit(&self, client: IpAddr) -> Result<Waiting, NoAnswer> {
        let Ok(permit) = self.waiting.clone().try_acquire_owned() else {
            self.metrics.rejected.inc();
            return Err(NoAnswer::Shed("too many questions wait for upstreams"));
        };
        let Some(share) = self.clients.take(client) else {
            self.metrics.client_rejected.inc();
            return Err(NoAnswer::Shed("too many questions of this client wait for upstreams"));
        };
        Ok(Waiting { _share: share, _permit: permit })
    }

    /// Joins the question that is under way, or starts it; `None` when too many are.
    fn board(
        self: &Arc<Self>,
        key: &CacheKey,
        group: &Arc<Group>,
    ) -> Option<watch::Receiver<Option<Landed>>> {
        let entry = self.flights.entry(key.as_bytes().into());
        if let dashmap::Entry::Occupied(flight) = entry {
            self.metrics.coalesced.inc();
            return Some(flight.get().clone());
        }
        let permit = self.flying.clone().try_acquire_owned().ok()?;
        let (sender, receiver) = watch::channel(None);
        entry.insert(receiver.clone());
        let (this, group, key) = (self.clone(), group.clone(), key.clone());
        self.tasks.spawn(async move {
            let _permit = permit;
            let _landing = Landing { forwarder: &this, key: &key };
            let landed = tokio::select! {
                answer = group.resolve(&key) => this.land(&key, answer),
                () = this.stop.cancelled() => Err("the server is stopping".into()),
            };
            // Nobody may wait any more.
            let _unread = sender.send(Some(landed));
        });
        Some(receiver)
    }

    fn land(&self, key: &CacheKey, answer: Result<Answer, Arc<str>>) -> Landed {
        match answer {
            Ok(answer) => {
                if !answer.is_good() {
                    self.cache.note_failure(key);
                }
                Ok(self.cache.keep(key, answer))
            }
            Err(why) => {
                self.cache.note_failure(key);
                // RFC 9520 §3.2: whoever asks again at once gets the failure from the cache.
                let reason = Reason::with(ede::NO_REACHABLE_AUTHORITY, why.to_string());
                self.cache.keep(key, Answer::failure(rcode::SERV_FAIL, reason));
                Err(why)
            }
        }
    }
}

/// Takes a question off the list of those under way, however it ends.
struct Landing<'a> {
    forwarder: &'a Forwarder,
    key: &'a CacheKey,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.forwarder.flights.remove(self.key.as_bytes());
    }
}

/// Why one exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// No answer came in time.
    #[error("timed out")]
    Timeout,
    /// The network, or the other side, broke it off.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// What came was no answer.
    #[error("{0}")]
    Unusable(#[from] Unusable),
    /// The HTTP/2 connection failed.
    #[error("{0}")]
    H2(#[from] h2::Error),
    /// No connection could be made, for this question or another that waited for it.
    #[error("{0}")]
    Opening(std::sync::Arc<ExchangeError>),
    /// The HTTP status was not 200.
    #[error("http status {0}")]
    Status(u16),
}
