//! Answers of upstreams, kept for as long as their records allow, bounded in bytes.
//!
//! Holds names that are not ours alone: cluster names come from the snapshot. Lookups take a
//! shard's read lock and allocate nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use quick_cache::sync::Cache as Shards;
use quick_cache::{Lifecycle, OptionsBuilder, Weighter};

use crate::answer::Answer;
use crate::config::ForwardConfig;
use crate::name::MAX_WIRE_NAME;

/// Octets of an entry besides its key and body, bookkeeping of the cache included.
const OVERHEAD: u64 = 256;
/// Octets an entry is guessed to take, to size the cache's tables.
const GUESS: u64 = 512;
/// Hits within its time that make an entry worth being asked anew before it runs out.
const HOT: u32 = 3;
/// Share of its time that has to be left for that, as a divisor.
const PREFETCH_SHARE: u32 = 10;
/// How long after a failed try a stale answer is given without another, in seconds (RFC 8767 §5).
const RETRY_SECS: u32 = 5;

/// Kept answers.
#[derive(Debug)]
pub struct Cache {
    shards: Shards<Box<[u8]>, Arc<Entry>, Bytes, foldhash::fast::RandomState, Evicted>,
    evicted: Arc<AtomicU64>,
    limits: Limits,
    began: Instant,
}

/// How long what is kept.
#[derive(Clone, Copy, Debug)]
struct Limits {
    maximum_secs: u32,
    minimum_secs: u32,
    negative_secs: u32,
    stale_secs: u32,
    prefetch: bool,
}

/// A kept answer.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) answer: Answer,
    /// When it came, on the cache's clock.
    at: u32,
    /// How long it is kept, in seconds.
    kept_secs: u32,
    hits: AtomicU32,
    refreshing: AtomicBool,
    /// Until when no upstream is asked anew, after one failed to answer.
    failed_until: AtomicU32,
}

/// What an answer is kept under: name, type, and the flags that answers depend on.
#[derive(Clone, Debug)]
pub(crate) struct CacheKey {
    bytes: [u8; MAX_WIRE_NAME + 3],
    length: usize,
}

/// What there is.
#[derive(Debug)]
pub(crate) enum Found {
    /// An answer in its time; with `refresh`, the caller is to have it asked anew.
    Fresh { entry: Arc<Entry>, refresh: bool },
    /// An answer past its time, to be given if no upstream answers; with `at_once`, without asking.
    Stale { entry: Arc<Entry>, at_once: bool },
    /// Nothing.
    Nothing,
}

/// Weighs entries in octets.
#[derive(Clone, Debug)]
struct Bytes;

/// Counts entries that made room for others.
#[derive(Clone, Debug)]
struct Evicted(Arc<AtomicU64>);

impl Weighter<Box<[u8]>, Arc<Entry>> for Bytes {
    fn weight(&self, key: &Box<[u8]>, entry: &Arc<Entry>) -> u64 {
        u64::try_from(key.len() + entry.answer.body.len()).unwrap_or(u64::MAX / 2) + OVERHEAD
    }
}

impl Lifecycle<Box<[u8]>, Arc<Entry>> for Evicted {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _key: Box<[u8]>, _entry: Arc<Entry>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl CacheKey {
    /// The key of a lower-case wire name with a type and flags.
    pub(crate) fn new(name: &[u8], qtype: u16, dnssec_ok: bool, checking_disabled: bool) -> Self {
        let mut bytes = [0; MAX_WIRE_NAME + 3];
        bytes[..name.len()].copy_from_slice(name);
        bytes[name.len()..name.len() + 2].copy_from_slice(&qtype.to_be_bytes());
        bytes[name.len() + 2] = u8::from(dnssec_ok) | u8::from(checking_disabled) << 1;
        Self { bytes, length: name.len() + 3 }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// The name.
    pub(crate) fn name(&self) -> &[u8] {
        &self.bytes[..self.length - 3]
    }

    /// The type.
    pub(crate) fn qtype(&self) -> u16 {
        u16::from_be_bytes([self.bytes[self.length - 3], self.bytes[self.length - 2]])
    }

    /// The DO bit (RFC 3225) and the CD bit (RFC 4035 §3.2.2).
    pub(crate) fn flags(&self) -> (bool, bool) {
        let flags = self.bytes[self.length - 1];
        (flags & 1 != 0, flags & 2 != 0)
    }
}

impl Entry {
    /// Seconds since it came.
    pub(crate) fn age(&self, now: u32) -> u32 {
        now.saturating_sub(self.at)
    }

    /// How long it is kept, in seconds.
    pub(crate) fn kept_secs(&self) -> u32 {
        self.kept_secs
    }

    fn is_fresh(&self, now: u32) -> bool {
        self.age(now) < self.kept_secs
    }
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new(config: &ForwardConfig) -> Self {
        let evicted = Arc::<AtomicU64>::default();
        let items = usize::try_from(config.cache_bytes / GUESS).unwrap_or(usize::MAX).max(16);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(items)
            .weight_capacity(config.cache_bytes)
            .build()
            .expect("both capacities are given");
        let hasher = foldhash::fast::RandomState::default();
        Self {
            shards: Shards::with_options(options, Bytes, hasher, Evicted(evicted.clone())),
            evicted,
            limits: Limits {
                maximum_secs: config.cache_ttl_max_secs,
                minimum_secs: config.cache_ttl_min_secs,
                negative_secs: config.cache_negative_ttl_max_secs,
                stale_secs: config.stale_secs,
                prefetch: config.prefetch,
            },
            began: Instant::now(),
        }
    }

    /// The cache's clock: seconds since it was made.
    #[must_use]
    pub fn now(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    /// What is kept under a key.
    pub(crate) fn lookup(&self, key: &CacheKey, now: u32) -> Found {
        let Some(entry) = self.shards.get(key.as_bytes()) else { return Found::Nothing };
        if entry.is_fresh(now) {
            let hits = entry.hits.fetch_add(1, Ordering::Relaxed);
            let left = entry.kept_secs - entry.age(now);
            let refresh = self.limits.prefetch
                && hits >= HOT
                && left <= (entry.kept_secs / PREFETCH_SHARE).max(1)
                && !entry.refreshing.swap(true, Ordering::Relaxed);
            return Found::Fresh { entry, refresh };
        }
        let limit = entry.kept_secs.saturating_add(self.limits.stale_secs);
        if !entry.answer.is_good() || entry.age(now) >= limit {
            return Found::Nothing;
        }
        let at_once = now < entry.failed_until.load(Ordering::Relaxed);
        Found::Stale { entry, at_once }
    }

    /// Keeps an answer. A failure does not take the place of a good answer that may still be given
    /// past its time.
    pub(crate) fn keep(&self, key: &CacheKey, answer: Answer) -> Arc<Entry> {
        let now = self.now();
        let kept_secs = if !answer.is_good() {
            answer.ttl_secs
        } else {
            let maximum = self.limits.maximum_secs;
            let negative = self.limits.negative_secs;
            let maximum = if answer.is_negative() { negative.min(maximum) } else { maximum };
            answer.ttl_secs.max(self.limits.minimum_secs).min(maximum)
        };
        let good = answer.is_good();
        let entry = Arc::new(Entry {
            answer,
            at: now,
            kept_secs,
            hits: AtomicU32::new(0),
            refreshing: AtomicBool::new(false),
            failed_until: AtomicU32::new(0),
        });
        let holds = |old: Arc<Entry>| {
            let limit = old.kept_secs.saturating_add(self.limits.stale_secs);
            old.is_fresh(now) || (old.answer.is_good() && old.age(now) < limit)
        };
        if good || !self.shards.peek(key.as_bytes()).is_some_and(holds) {
            self.shards.insert(key.as_bytes().into(), entry.clone());
        }
        entry
    }

    /// Notes that no upstream answered: for a while, what is stale is given at once, and a hot
    /// entry may be tried again.
    pub(crate) fn note_failure(&self, key: &CacheKey) {
        if let Some(entry) = self.shards.peek(key.as_bytes()) {
            entry.failed_until.store(self.now().saturating_add(RETRY_SECS), Ordering::Relaxed);
            entry.refreshing.store(false, Ordering::Relaxed);
        }
    }

    /// Lets a hot entry be found due for asking anew again, as nobody could.
    pub(crate) fn give_back_refresh(&self, key: &CacheKey) {
        if let Some(entry) = self.shards.peek(key.as_bytes()) {
            entry.refreshing.store(false, Ordering::Relaxed);
        }
    }

    /// Answers kept, the octets they take, and how many were given up for others.
    pub(crate) fn size(&self) -> (usize, u64, u64) {
        (self.shards.len(), self.shards.weight(), self.evicted.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edns::{Reason, ede};

    fn answer(rcode: u8, ttl_secs: u32, octets: usize) -> Answer {
        let mut answer = Answer::failure(rcode, Reason::of(ede::OTHER));
        answer.ttl_secs = ttl_secs;
        answer.counts = [u16::from(rcode == 0), 0, 0];
        answer.body = vec![7; octets].into();
        answer
    }

    fn key(n: u16) -> CacheKey {
        CacheKey::new(b"\x01a\x00", n, false, false)
    }

    fn kind(found: &Found) -> &'static str {
        match found {
            Found::Fresh { refresh: true, .. } => "refresh",
            Found::Fresh { .. } => "fresh",
            Found::Stale { at_once: true, .. } => "stale at once",
            Found::Stale { .. } => "stale",
            Found::Nothing => "nothing",
        }
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_gone() {
        let cache = Cache::new(&ForwardConfig { stale_secs: 100, ..ForwardConfig::default() });
        cache.keep(&key(1), answer(0, 60, 10));
        for (now, expected) in
            [(0, "fresh"), (59, "fresh"), (60, "stale"), (159, "stale"), (160, "nothing")]
        {
            assert_eq!(kind(&cache.lookup(&key(1), now)), expected, "{now}");
        }
        cache.note_failure(&key(1));
        assert_eq!(kind(&cache.lookup(&key(1), 61)), "stale", "the failure is long ago");
        assert_eq!(kind(&cache.lookup(&key(2), 0)), "nothing");
    }

    #[test]
    fn times_are_bounded_by_kind() {
        let cache = Cache::new(&ForwardConfig::default());
        for (rcode, ttl, expected) in
            [(0, 90_000, 3600), (0, 0, 5), (3, 90_000, 1800), (3, 20, 20), (2, 5, 5)]
        {
            assert_eq!(cache.keep(&key(1), answer(rcode, ttl, 0)).kept_secs(), expected);
        }
    }

    #[test]
    fn a_failure_does_not_displace_what_may_still_be_given() {
        let cache = Cache::new(&ForwardConfig::default());
        cache.keep(&key(1), answer(0, 60, 10));
        cache.keep(&key(1), answer(2, 5, 0));
        let Found::Fresh { entry, .. } = cache.lookup(&key(1), 0) else { panic!("kept") };
        assert_eq!(entry.answer.rcode, 0);
        cache.keep(&key(2), answer(2, 5, 0));
        assert_eq!(kind(&cache.lookup(&key(2), 4)), "fresh");
        assert_eq!(kind(&cache.lookup(&key(2), 5)), "nothing", "a failure is never stale");
    }

    #[test]
    fn a_hot_answer_is_asked_anew_once_before_it_runs_out() {
        let cache = Cache::new(&ForwardConfig::default());
        cache.keep(&key(1), answer(0, 100, 10));
        for _ in 0..3 {
            assert_eq!(kind(&cache.lookup(&key(1), 50)), "fresh");
        }
        assert_eq!(kind(&cache.lookup(&key(1), 89)), "fresh");
        assert_eq!(kind(&cache.lookup(&key(1), 95)), "refresh");
        assert_eq!(kind(&cache.lookup(&key(1), 96)), "fresh");
        cache.note_failure(&key(1));
        assert_eq!(kind(&cache.lookup(&key(1), 97)), "refresh");
    }

    #[test]
    fn the_bytes_are_bounded_whatever_is_kept() {
        let cache_bytes = 1 << 20;
        let cache = Cache::new(&ForwardConfig { cache_bytes, ..ForwardConfig::default() });
        for n in 0..5000 {
            cache.keep(&key(n), answer(0, 60, 1000));
        }
        let (entries, bytes, evicted) = cache.size();
        assert!(bytes <= cache_bytes && entries > 400, "{entries} entries of {bytes}");
        assert!(evicted >= 3900, "{evicted}");
    }
}
