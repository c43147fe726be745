//! The upstreams of one zone: in which order they are tried, and for how long.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rand::seq::SliceRandom as _;
use tokio::time::Instant;

use super::resolv;
use super::upstream::{Shared, Upstream};
use crate::answer::Answer;
use crate::cache::CacheKey;
use crate::config::{ForwardConfig, ForwardPolicy, ForwardRule, Proto, UpstreamSpec};
use crate::error::DnsError;
use crate::rcode;

/// Most tries for one question.
const TRIES: usize = 4;

/// The upstreams of one zone.
#[derive(Debug)]
pub(super) struct Group {
    specs: Vec<UpstreamSpec>,
    shared: Arc<Shared>,
    upstreams: ArcSwap<Vec<Arc<Upstream>>>,
    policy: ForwardPolicy,
    turn: AtomicUsize,
    timeout: Duration,
}

impl Group {
    /// Over a rule; its files are read.
    ///
    /// # Errors
    /// A file that cannot be read or names no server.
    pub(super) fn new(
        rule: &ForwardRule,
        config: &ForwardConfig,
        shared: &Arc<Shared>,
    ) -> Result<Self, DnsError> {
        let group = Self {
            specs: rule.upstreams.clone(),
            shared: shared.clone(),
            upstreams: ArcSwap::from_pointee(Vec::new()),
            policy: config.policy,
            turn: AtomicUsize::new(0),
            timeout: config.timeout,
        };
        group.upstreams.store(Arc::new(group.read()?));
        Ok(group)
    }

    /// The upstreams now.
    pub(super) fn upstreams(&self) -> Arc<Vec<Arc<Upstream>>> {
        self.upstreams.load_full()
    }

    /// Files that say where upstreams are.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.specs.iter().filter_map(|spec| match spec {
            UpstreamSpec::File(path) => Some(path),
            UpstreamSpec::Server { .. } => None,
        })
    }

    /// Reads the files anew; whether the upstreams are others now. Those that stay keep their
    /// connections and what is known of them.
    ///
    /// # Errors
    /// A file that cannot be read or names no server; the upstreams stay as they were.
    pub(super) fn reload(&self) -> Result<bool, DnsError> {
        let new = self.read()?;
        let old = self.upstreams.swap(Arc::new(new.clone()));
        let stays = |gone: &Arc<Upstream>| new.iter().any(|u| u.label == gone.label);
        for gone in old.iter().filter(|upstream| !stays(upstream)) {
            self.shared.metrics.forget(&gone.label);
        }
        let labels = |list: &[Arc<Upstream>]| -> Vec<Arc<str>> {
            list.iter().map(|u| u.label.clone()).collect()
        };
        Ok(labels(&new) != labels(&old))
    }

    fn read(&self) -> Result<Vec<Arc<Upstream>>, DnsError> {
        let old = self.upstreams.load();
        let mut list: Vec<Arc<Upstream>> = Vec::new();
        let mut add = |proto: &Proto, address| {
            let same = |u: &&Arc<Upstream>| u.address == address && u.proto == *proto;
            if !list.iter().any(|u| same(&u)) {
                let kept = old.iter().find(same).cloned();
                let new = || Arc::new(Upstream::new(proto, address, &self.shared));
                list.push(kept.unwrap_or_else(new));
            }
        };
        for spec in &self.specs {
            match spec {
                UpstreamSpec::Server { proto, address } => add(proto, *address),
                UpstreamSpec::File(path) => {
                    for address in servers(path)? {
                        add(&Proto::Udp, address);
                    }
                }
            }
        }
        Ok(list)
    }

    /// The answer of the first upstream that gives a good one; else the last failure that one
    /// answered with; else why none did.
    pub(super) async fn resolve(&self, key: &CacheKey) -> Result<Answer, Arc<str>> {
        let deadline = Instant::now() + self.timeout;
        let order = self.order();
        if order.is_empty() {
            return Err("every upstream leads back to this server".into());
        }
        // One upstream alone is asked twice, in case a datagram was lost.
        let tries = order.len().clamp(2, TRIES);
        let (mut refused, mut why) = (None, Vec::new());
        for (n, upstream) in order.iter().cycle().take(tries).enumerate() {
            let last = n + 1 == tries;
            let until =
                if last { deadline } else { deadline.min(Instant::now() + upstream.patience()) };
            match upstream.exchange(key, until).await {
                Ok(answer) if answer.is_good() => return Ok(answer),
                Ok(answer) => {
                    refused = Some(answer);
                    if n + 1 >= order.len() {
                        break;
                    }
                }
                Err(error) => why.push(format!("{} {error}", upstream.label)),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        why.dedup();
        let refused = refused.map(|mut answer| {
            // That an upstream does not understand us says nothing of the client's question.
            if matches!(answer.rcode, rcode::FORM_ERR | rcode::NOT_IMP) {
                answer.rcode = rcode::SERV_FAIL;
            }
            answer
        });
        refused.ok_or_else(|| why.join(", ").into())
    }

    /// The upstreams in the order they are tried: those that are well by policy, then those that
    /// are down, in case all are. Those that lead back here are left out.
    fn order(&self) -> Vec<Arc<Upstream>> {
        let all = self.upstreams.load();
        let usable = all.iter().filter(|u| !u.is_looping()).cloned();
        let (mut down, mut up): (Vec<_>, Vec<_>) = usable.partition(|u| u.is_down());
        let mut random = rand::rng();
        match self.policy {
            ForwardPolicy::Random => up.shuffle(&mut random),
            ForwardPolicy::RoundRobin if !up.is_empty() => {
                let first = self.turn.fetch_add(1, Ordering::Relaxed) % up.len();
                up.rotate_left(first);
            }
            ForwardPolicy::RoundRobin | ForwardPolicy::Sequential => {}
        }
        down.shuffle(&mut random);
        up.append(&mut down);
        up
    }

    /// The upstreams and how they do, in words.
    pub(super) fn describe(&self) -> Vec<String> {
        self.upstreams.load().iter().map(|upstream| upstream.describe()).collect()
    }
}

fn servers(path: &Path) -> Result<Vec<std::net::SocketAddr>, DnsError> {
    let refuse = |reason: String| DnsError::File { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
    let servers = resolv::name_servers(&text);
    if servers.is_empty() {
        return Err(refuse("it names no nameserver".to_owned()));
    }
    Ok(servers)
}
