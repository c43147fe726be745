//! The guard against mass removal: what of a publish is held back because too much would be gone at
//! once. Pure: what is in force and what comes next go in, what is published comes out.
//!
//! 1. A *loss* is a service that is in force and would be gone, or that has a ready endpoint and
//!    would have none that can be used: none ready, and none that is serving and terminating. A
//!    service whose endpoints went by way of terminating was drained, which is no loss.
//! 2. The source as a whole is held when the services present, or those that keep their endpoints,
//!    would be fewer by more than [`GuardLimits::services_percent`] than they were at any time
//!    within the window: then every loss of the window is held, also one already published.
//! 3. Otherwise a service alone is held that loses its endpoints and had at least
//!    [`GuardLimits::endpoints_min`] of them within the window.
//! 4. A held service that is gone stays in force as it was; one that is there takes every change but
//!    keeps the slices it had. All else is published as it comes.
//! 5. A hold ends when the loss is none any more, when it is released, when its time is over, or
//!    when another service has its cluster IP. What is known by then is in force at once.

mod hold;
mod loss;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use portolan_model::{Key, ServiceEntry, ServiceKey, Snapshot};

pub use hold::{End, GuardLimits, Hold, Moment, Passed, Reason};
pub use loss::{Loss, SourceLoss};
use loss::{falls_from, has_ready, loss, with_slices_of};

/// Losses that are remembered within the window, and so for services with many endpoints and for
/// falls of the count. What comes past it is not remembered, so that less counts together.
const MAX_REMEMBERED: usize = 65_536;

/// Services with what they lose and what is in force of them.
type Losses = BTreeMap<ServiceKey, (Loss, Arc<ServiceEntry>)>;

/// Decides, and keeps what it needs to know for that.
#[derive(Debug)]
pub struct Guard {
    limits: GuardLimits,
    held: BTreeMap<ServiceKey, Hold>,
    /// Cluster IPs of held services that are gone, and some they had.
    addresses: HashMap<IpAddr, ServiceKey>,
    /// Held until now, to be let go with the next pass.
    freed: BTreeMap<ServiceKey, End>,
    /// Losses of the window that were published, with what was in force before.
    left: BTreeMap<ServiceKey, (Instant, Arc<ServiceEntry>)>,
    /// When a service last had endpoints enough to be held, and how many.
    large: HashMap<ServiceKey, (Instant, usize)>,
    /// How many services were in force before some left, fewer and fewer.
    counts: VecDeque<(Instant, usize)>,
    /// Services in force that have a ready endpoint.
    with_ready: usize,
    /// What the source lost, while anything is held for it.
    source: Option<SourceLoss>,
}

impl Guard {
    /// Holds nothing yet.
    #[must_use]
    pub fn new(limits: GuardLimits) -> Self {
        Self {
            limits,
            held: BTreeMap::new(),
            addresses: HashMap::new(),
            freed: BTreeMap::new(),
            left: BTreeMap::new(),
            large: HashMap::new(),
            counts: VecDeque::new(),
            with_ready: 0,
            source: None,
        }
    }

    /// What is held, in order of the services.
    #[must_use]
    pub fn held(&self) -> &BTreeMap<ServiceKey, Hold> {
        &self.held
    }

    /// What the source lost, while anything is held for it.
    #[must_use]
    pub fn source(&self) -> Option<SourceLoss> {
        self.source
    }

    /// When the next hold is over.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.held.values().filter_map(|hold| hold.until).map(|until| until.at).min()
    }

    /// Lets a service go with the next pass; whether it is held.
    pub fn release(&mut self, key: &ServiceKey) -> bool {
        self.let_go(key, End::Released)
    }

    /// What is to be published of `next`, which differs in `touched` from what was given last;
    /// `published` is in force, as the last pass had it.
    pub fn pass(
        &mut self,
        published: &Snapshot,
        next: &Snapshot,
        touched: BTreeSet<Key>,
        now: Moment,
    ) -> Passed {
        self.forget(now.at);
        let over = |hold: &Hold| hold.until.is_some_and(|until| until.at <= now.at);
        let over: Vec<ServiceKey> =
            self.held.iter().filter(|(_, hold)| over(hold)).map(|(key, _)| key.clone()).collect();
        for key in &over {
            self.let_go(key, End::Expired);
        }
        let (services, others) = sorted(touched);
        let altered = self.welcome(&services, next);
        let mut freed = std::mem::take(&mut self.freed);
        let gone = freed.keys().filter(|key| next.lookup(key).is_none()).count();
        for (_, count) in &mut self.counts {
            // As if they had never been.
            *count = count.saturating_sub(gone);
        }
        let in_force = published.service_count().saturating_sub(gone);
        self.large.retain(|key, _| !freed.contains_key(key));
        let mut found = BTreeMap::new();
        for key in services.iter().filter(|key| !freed.contains_key(key)) {
            let Some(old) = published.lookup(key) else { continue };
            let new = next.lookup(key).map(|entry| &**entry);
            self.note_large(key, old, new, now.at);
            // What is held for its endpoints may be gone itself by now.
            let is_judged = |hold: &Hold| hold.reason == Reason::Endpoints && new.is_none();
            if self.held.get(key).is_none_or(is_judged)
                && let Some(loss) = loss(old, new)
            {
                found.insert(key.clone(), (loss, Arc::clone(old)));
            }
        }
        let begun = self.judge(next, found, in_force, now);
        freed.append(&mut self.freed);
        let changes =
            services.into_iter().chain(freed.keys().cloned()).chain(begun.iter().cloned());
        let (content, changed) = self.compose(published, next, others, changes.collect());
        if content.service_count() < in_force {
            self.note_count(now.at, in_force);
        }
        Passed { content, changed, begun, ended: freed.into_iter().collect(), altered }
    }

    /// Forgets what was before the window.
    fn forget(&mut self, now: Instant) {
        let window = self.limits.window;
        let recent = |at: Instant| now.saturating_duration_since(at) <= window;
        self.left.retain(|_, (at, _)| recent(*at));
        self.large.retain(|_, (at, _)| recent(*at));
        while self.counts.front().is_some_and(|(at, _)| !recent(*at)) {
            self.counts.pop_front();
        }
    }

    /// Lets go what has changed so that it need not be held, or must not be; whether what stays
    /// held loses something else than before.
    fn welcome(&mut self, services: &BTreeSet<ServiceKey>, next: &Snapshot) -> bool {
        let mut altered = false;
        for key in services.iter().filter(|_| !self.held.is_empty()).cloned().collect::<Vec<_>>() {
            let new = next.lookup(&key).map(|entry| &**entry);
            if let Some(hold) = self.held.get_mut(&key) {
                match (loss(&hold.entry, new), hold.reason) {
                    (None, _) => _ = self.let_go(&key, End::Back),
                    // Whether it stays held is judged with all that is lost.
                    (Some(Loss::Gone), Reason::Endpoints) => {}
                    (Some(loss), _) => {
                        altered |= hold.loss != loss;
                        hold.loss = loss;
                        let held = hold.entry.service.cluster_ips().iter();
                        self.addresses.extend(held.map(|address| (*address, key.clone())));
                    }
                }
            }
            for address in new.map(|entry| entry.service.cluster_ips()).unwrap_or_default() {
                let Some(holder) = self.addresses.get(address).cloned() else { continue };
                let is_gone = self.held.get(&holder).is_some_and(|hold| {
                    hold.loss == Loss::Gone && hold.entry.service.cluster_ips().contains(address)
                });
                if is_gone && holder != key {
                    self.let_go(&holder, End::Replaced);
                }
            }
        }
        altered
    }

    fn let_go(&mut self, key: &ServiceKey, end: End) -> bool {
        if self.held.remove(key).is_none() {
            return false;
        }
        self.freed.insert(key.clone(), end);
        if self.held.is_empty() {
            self.addresses.clear();
        }
        if !self.held.values().any(|hold| hold.reason == Reason::Source) {
            self.source = None;
        }
        true
    }

    /// Notes a service that had endpoints enough to be held without any.
    fn note_large(
        &mut self,
        key: &ServiceKey,
        old: &ServiceEntry,
        new: Option<&ServiceEntry>,
        now: Instant,
    ) {
        let min = self.limits.endpoints_min;
        let Some(count) = falls_from(old, new).filter(|count| min > 0 && *count >= min) else {
            return;
        };
        let known = self.large.get(key).map_or(0, |(_, most)| *most);
        if known > 0 || self.large.len() < MAX_REMEMBERED {
            self.large.insert(key.clone(), (now, known.max(count)));
        }
    }

    fn note_count(&mut self, now: Instant, count: usize) {
        while self.counts.back().is_some_and(|(_, known)| *known <= count) {
            self.counts.pop_back();
        }
        if self.counts.len() < MAX_REMEMBERED {
            self.counts.push_back((now, count));
        }
    }

    /// Holds what is to be held of these losses, and notes the others.
    fn judge(
        &mut self,
        next: &Snapshot,
        mut found: Losses,
        in_force: usize,
        now: Moment,
    ) -> Vec<ServiceKey> {
        let still = |key: &ServiceKey, entry: &ServiceEntry| {
            loss(entry, next.lookup(key).map(|entry| &**entry))
        };
        self.left.retain(|key, (_, entry)| still(key, entry).is_some());
        let of_source = self.source_loss(next, &found, in_force);
        if of_source.is_some() {
            for (key, (_, entry)) in std::mem::take(&mut self.left) {
                if let Some(loss) = still(&key, &entry) {
                    found.entry(key).or_insert((loss, entry));
                }
            }
            for key in loss::drop_replaced(next, &mut found) {
                self.let_go(&key, End::Replaced);
            }
        }
        let mut begun = Vec::new();
        for (key, (loss, entry)) in found {
            let is_large = loss == Loss::Emptied && self.large.contains_key(&key);
            let reason = of_source.map(|_| Reason::Source);
            if let Some(reason) = reason.or(is_large.then_some(Reason::Endpoints)) {
                self.hold(key.clone(), entry, loss, reason, now);
                begun.push(key);
                continue;
            }
            self.let_go(&key, End::Gone);
            if self.limits.services_percent > 0 && self.left.len() < MAX_REMEMBERED {
                self.left.insert(key, (now.at, entry));
            }
        }
        if !begun.is_empty() && of_source.is_some() {
            self.source = of_source;
        }
        begun
    }

    /// What the source has lost, if that is more than it may.
    fn source_loss(&self, next: &Snapshot, found: &Losses, in_force: usize) -> Option<SourceLoss> {
        let limits = &self.limits;
        if found.is_empty() || limits.services_percent == 0 || limits.services_min == 0 {
            return None;
        }
        let is_much = |lost: &SourceLoss| {
            let most = lost.of.saturating_mul(limits.services_percent);
            lost.of >= limits.services_min && lost.lost.saturating_mul(100) > most
        };
        let most = self.counts.front().map_or(in_force, |(_, count)| in_force.max(*count));
        let lost = most.saturating_sub(next.service_count());
        let services = SourceLoss { loss: Loss::Gone, lost, of: most };
        let emptied = |loss: &&Loss| **loss == Loss::Emptied;
        let now = found.values().map(|(loss, _)| loss).filter(emptied).count();
        let held = self.held.values().map(|hold| &hold.loss).filter(emptied).count();
        let left = self.left.keys().filter(|key| next.lookup(key).is_some()).count();
        let lost = if now > 0 { now + held + left } else { 0 };
        let endpoints = SourceLoss { loss: Loss::Emptied, lost, of: self.with_ready + left };
        [services, endpoints].into_iter().find(is_much)
    }

    fn hold(
        &mut self,
        key: ServiceKey,
        entry: Arc<ServiceEntry>,
        loss: Loss,
        reason: Reason,
        now: Moment,
    ) {
        let addresses = entry.service.cluster_ips().iter();
        self.addresses.extend(addresses.map(|address| (*address, key.clone())));
        let ready = entry.ready_endpoints().len();
        let endpoints = self.large.get(&key).map_or(ready, |(_, most)| ready.max(*most));
        let until = self.limits.hold.and_then(|time| now.after(time));
        self.held.insert(key, Hold { reason, loss, endpoints, since: now, until, entry });
    }

    /// `next` with what is held in its place, and what of it differs from what is in force.
    fn compose(
        &mut self,
        published: &Snapshot,
        next: &Snapshot,
        mut changed: BTreeSet<Key>,
        services: BTreeSet<ServiceKey>,
    ) -> (Snapshot, BTreeSet<Key>) {
        let mut content = if self.held.is_empty() { next.clone() } else { published.clone() };
        // A service that is held while it is gone keeps what belongs to it: who may do what there above
        // all. In the source it went with the service, or stands for nothing.
        changed.retain(|key| {
            let service = key.beside();
            let is_held = service.is_some_and(|service| self.held.contains_key(service));
            !is_held || service.is_some_and(|service| next.lookup(service).is_some())
        });
        for key in &changed {
            content.take_over(key, next);
        }
        for key in services {
            let new = match (self.held.get_mut(&key), next.lookup(&key)) {
                (Some(hold), Some(new)) => {
                    hold.entry = with_slices_of(new, &hold.entry);
                    Some(Arc::clone(&hold.entry))
                }
                (Some(hold), None) => Some(Arc::clone(&hold.entry)),
                (None, new) => new.map(Arc::clone),
            };
            if !self.held.contains_key(&key) {
                for beside in Key::all_beside(&key) {
                    if published.differs_in(next, &beside) {
                        content.take_over(&beside, next);
                        changed.insert(beside);
                    }
                }
            }
            let old = published.lookup(&key);
            if old == new.as_ref() {
                continue;
            }
            self.with_ready += usize::from(new.as_deref().is_some_and(has_ready));
            let was = usize::from(old.is_some_and(|old| has_ready(old)));
            self.with_ready = self.with_ready.saturating_sub(was);
            match new {
                Some(entry) => content.apply(entry),
                None => _ = content.delete(&key),
            }
            changed.insert(Key::Service(key));
        }
        (content, changed)
    }
}

/// Services, and all else.
fn sorted(touched: BTreeSet<Key>) -> (BTreeSet<ServiceKey>, BTreeSet<Key>) {
    let (mut services, mut others) = (BTreeSet::new(), BTreeSet::new());
    for key in touched {
        match key.service() {
            Some(service) => _ = services.insert(service.clone()),
            None => _ = others.insert(key),
        }
    }
    (services, others)
}

#[cfg(test)]
#[path = "removal/tests.rs"]
mod tests;
