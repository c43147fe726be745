//! One type on one stream: what the client asked for, what it holds, what is due.

use std::collections::{BTreeMap, BTreeSet};

use super::held::Held;
use super::refusal::{self, MAX_NAMED, Nack, Refusal};
use super::subscription::{Difference, Subscription};
use super::{InterestChange, Names, Outcome};
use crate::catalog::Name;
use crate::resource::{Encoded, ResourceType};
use bytes::Bytes;

/// Refusals in a row after which the rest of a response is not tried again by itself.
const MAX_TRIES: u32 = 16;

/// State of one type on a stream.
#[derive(Debug, Default)]
pub(super) struct TypeState {
    /// `None` until the first request of the type.
    pub(super) subscription: Option<Subscription>,
    /// What the client holds, once it takes what is on its way.
    pub(super) sent: Held,
    /// What it is known to hold.
    pub(super) acked: Held,
    /// What it refused: not sent again until it changes. Bounded by what it was sent.
    pub(super) refused: BTreeMap<Name, Refusal>,
    /// Names it was told there is nothing of.
    pub(super) missing: BTreeSet<Name>,
    pub(super) due: Due,
    /// State of the world: version of what the client says it has from an earlier stream.
    pub(super) resumed: Option<u64>,
    /// Nonce of the newest response.
    pub(super) nonce: String,
    /// What the response on its way changes; `None` when there is none.
    pub(super) outstanding: Option<Changed>,
    /// Refusals since the last response that was taken.
    refusals: u32,
    pub(super) times: Times,
}

/// When something last happened, in milliseconds since the Unix epoch; 0 for never.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) sent: u64,
    pub(super) acked: u64,
    pub(super) nacked: u64,
}

/// What may have to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// Everything has to be compared with what was sent.
    pub(super) all: bool,
    /// These names have to be.
    pub(super) names: BTreeSet<Name>,
    /// And of these it has to be said how they are, even if nothing changed.
    pub(super) again: BTreeSet<Name>,
    /// A response is owed even if there is nothing in it.
    pub(super) answer: bool,
    /// The client is to be told that what it holds lives on.
    pub(super) alive: bool,
    /// These left and are still held by the client, until nothing leads to them any more.
    pub(super) held: BTreeSet<Name>,
}

/// What a response changes of what the client holds.
#[derive(Clone, Debug)]
pub(super) enum Changed {
    /// All of it, which it is from when it is sent; some may be dropped or due again meanwhile.
    All(Held),
    /// These names, written or taken out.
    Names(Vec<Name>),
}

impl Due {
    pub(super) fn raise_all(&mut self) {
        self.all = true;
    }

    /// Has it said how this one is, even if it did not change.
    pub(super) fn say_again(&mut self, name: &Name) {
        self.names.insert(name.clone());
        self.again.insert(name.clone());
    }

    pub(super) fn is_any(&self) -> bool {
        self.is_content() || self.alive || !self.held.is_empty()
    }

    pub(super) fn is_content(&self) -> bool {
        self.all || self.answer || !self.names.is_empty()
    }
}

impl TypeState {
    /// Whether the client has asked for the type.
    pub(super) fn is_asked(&self) -> bool {
        self.subscription.is_some()
    }

    /// How many names it is subscribed to.
    pub(super) fn names(&self) -> usize {
        self.subscription.as_ref().map_or(0, |s| s.names.len())
    }

    /// Whether the client asked for this name.
    pub(super) fn is_subscribed(&self, name: &Name) -> bool {
        self.subscription.as_ref().is_some_and(|s| s.wildcard || s.names.contains(name))
    }

    pub(super) fn holds(&self, name: &Name) -> bool {
        self.sent.contains(name)
    }

    /// Version of what the client holds, once it takes what is on its way.
    pub(super) fn version(&self) -> u64 {
        self.sent.version()
    }

    /// Whether a response is on its way.
    pub(super) fn is_outstanding(&self) -> bool {
        self.outstanding.is_some()
    }

    /// Whether something is due that cannot be sent before the client has answered.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_outstanding() && self.due.is_content()
    }

    /// Whether the client has taken all there is for it.
    pub(super) fn is_settled(&self) -> bool {
        !self.is_outstanding() && !self.due.is_any() && self.refused.is_empty()
    }

    /// Notes a name that changed in the catalog.
    pub(super) fn note(&mut self, name: &Name) {
        if !self.due.all && self.is_subscribed(name) {
            self.due.names.insert(name.clone());
        }
    }

    /// Has these sent again although they did not change.
    pub(super) fn resend(&mut self, names: impl IntoIterator<Item = Name>) {
        for name in names {
            if self.sent.contains(&name) && self.is_subscribed(&name) {
                self.due.say_again(&name);
            }
        }
    }

    /// Has the client told that what it holds lives on.
    pub(super) fn keep_alive(&mut self) {
        self.due.alive |= self.holds_limited();
    }

    pub(super) fn holds_limited(&self) -> bool {
        self.sent.map().values().next().is_some_and(|encoded| encoded.ttl_secs > 0)
    }

    /// Notes that a response is on its way.
    pub(super) fn on_sent(&mut self, nonce: String, changed: Changed, now: u64) {
        self.nonce = nonce;
        self.outstanding = Some(match changed {
            Changed::All(_) => Changed::All(self.sent.clone()),
            names => names,
        });
        self.times.sent = now;
    }

    /// State of the world: takes in a request that is not processed, for a response crossed it. That
    /// names were given counts all the same. What it does not name the client has dropped, and may
    /// name again by the time it answers.
    pub(super) fn on_stale(&mut self, kind: ResourceType, names: &Names) {
        let (Some(subscription), Names::Exactly(names)) = (&mut self.subscription, names) else {
            return;
        };
        let (names, wildcard) = subscription.read(kind, names);
        if wildcard || !self.is_outstanding() {
            return;
        }
        let held = self.sent.names().chain(self.subscription.iter().flat_map(|s| &s.names));
        let dropped: BTreeSet<Name> = held.filter(|name| !names.contains(*name)).cloned().collect();
        for name in dropped {
            self.forget(&name);
            self.due.names.insert(name);
        }
    }

    /// Takes in what a request says of names.
    pub(super) fn subscribe(
        &mut self,
        kind: ResourceType,
        names: Names,
        version: &str,
        interest: &mut Vec<InterestChange>,
    ) {
        let first = self.subscription.is_none();
        let subscription = self.subscription.get_or_insert_default();
        let difference = match names {
            Names::Exactly(names) => subscription.set(kind, &names),
            Names::Change { subscribe, unsubscribe, held } => {
                let difference = subscription.change(kind, first, subscribe, &unsubscribe);
                if first {
                    self.hold_from_before(held);
                }
                // "Delta answers every subscribe", even of what the client has.
                self.due.answer |= first || !difference.added.is_empty();
                self.on_delta(first, &difference);
                difference.interest(kind, interest);
                return;
            }
        };
        difference.interest(kind, interest);
        if first {
            self.due.all = true;
            self.due.answer = kind.is_full_set();
            // "It is generally safe for servers to do this optimization for LDS and CDS when the
            // only subscription is a wildcard subscription": of what it names a client may have
            // dropped some since it was sent that version.
            let safe = self.subscription.as_ref().is_some_and(Subscription::is_all_alone);
            self.resumed = version_of(version).filter(|_| kind.is_full_set() && safe);
            return;
        }
        self.on_difference(kind, &difference);
    }

    /// State of the world: what is no longer asked for is forgotten, so that it is sent again once
    /// it is.
    fn on_difference(&mut self, kind: ResourceType, difference: &Difference) {
        self.due.all |= difference.wildcard_added || difference.wildcard_removed;
        if difference.wildcard_removed {
            self.forget_unnamed();
        }
        self.unname(&difference.removed);
        // A full set says of every name whether there is something of it.
        let wildcard = self.subscription.as_ref().is_some_and(|s| s.wildcard);
        let asks = !difference.added.is_empty() || difference.wildcard_added;
        let wonders = wildcard && !difference.removed.is_empty();
        self.due.answer |= kind.is_full_set() && (asks || wonders);
        self.due.names.extend(difference.added.iter().cloned());
    }

    fn on_delta(&mut self, first: bool, difference: &Difference) {
        self.due.all |= first || difference.wildcard_added || difference.wildcard_removed;
        if difference.wildcard_removed {
            self.forget_unnamed();
        }
        if difference.wildcard_added {
            self.say_dropped();
        }
        self.unname(&difference.removed);
        for name in &difference.added {
            self.missing.remove(name);
            if first {
                self.due.names.insert(name.clone());
            } else {
                // It may have forgotten it.
                self.acked.remove(name);
                self.refused.remove(name);
                self.due.say_again(name);
            }
        }
    }

    /// A wildcard covers what is on its way again, even if the client had given it up by name.
    fn say_dropped(&mut self) {
        let Some(changed) = &self.outstanding else { return };
        let dropped = |name: &&Name| !self.sent.contains(name);
        let names: Vec<Name> = match changed {
            Changed::All(held) => held.names().filter(dropped).cloned().collect(),
            Changed::Names(names) => names.iter().filter(dropped).cloned().collect(),
        };
        names.iter().for_each(|name| self.due.say_again(name));
    }

    /// Names are asked for no longer. Under a wildcard the client does not know whether it still
    /// gets them, and is told ("Unsubscribing from Resources").
    fn unname(&mut self, names: &[Name]) {
        let wildcard = self.subscription.as_ref().is_some_and(|s| s.wildcard);
        for name in names {
            if wildcard {
                self.refused.remove(name);
                self.missing.remove(name);
                self.due.say_again(name);
            } else {
                self.forget(name);
            }
        }
    }

    /// Gives up all that the client was to be woken for.
    pub(super) fn drop_interest(self, kind: ResourceType, interest: &mut Vec<InterestChange>) {
        let Some(subscription) = self.subscription else { return };
        let names = subscription.names.into_iter();
        interest.extend(names.map(|name| InterestChange::Remove(kind, name)));
        if subscription.wildcard {
            interest.push(InterestChange::RemoveAll(kind));
        }
    }

    /// Without the wildcard the client keeps what it named, and drops the rest by itself.
    fn forget_unnamed(&mut self) {
        let Some(subscription) = &self.subscription else { return };
        let all = self.sent.names().chain(self.acked.names()).chain(self.refused.keys());
        let unnamed = all.filter(|name| !subscription.names.contains(*name));
        let unnamed: BTreeSet<Name> = unnamed.cloned().collect();
        for name in &unnamed {
            self.forget(name);
        }
    }

    fn forget(&mut self, name: &Name) {
        self.due.names.remove(name);
        self.due.again.remove(name);
        self.sent.remove(name);
        self.acked.remove(name);
        self.refused.remove(name);
        self.missing.remove(name);
    }

    /// What the client holds from an earlier stream ("initial_resource_versions"): compared by
    /// version alone.
    fn hold_from_before(&mut self, held: Vec<(String, String)>) {
        for (name, version) in held {
            let version = version_of(&version).unwrap_or(0);
            let placeholder = Encoded { any: Bytes::new(), version, ttl_secs: 0 };
            self.sent.insert(name.into(), placeholder);
        }
        self.acked = self.sent.clone();
    }

    /// Takes in an answer to the newest response.
    pub(super) fn answer(
        &mut self,
        kind: ResourceType,
        error: Option<String>,
        now: u64,
    ) -> Outcome {
        let Some(changed) = self.outstanding.take() else { return Outcome::Subscribed(kind) };
        match error {
            None => {
                self.on_ack(&changed, now);
                Outcome::Acked(kind)
            }
            Some(words) => Outcome::Nacked(self.on_nack(kind, changed, &words, now)),
        }
    }

    fn on_ack(&mut self, changed: &Changed, now: u64) {
        self.times.acked = now;
        self.refusals = 0;
        match changed {
            Changed::All(_) => self.refused.clear(),
            Changed::Names(names) => names.iter().for_each(|name| {
                self.refused.remove(name);
            }),
        }
        match changed {
            Changed::Names(names) if !self.refused.is_empty() => {
                names.iter().for_each(|name| self.acked.restore(name, &self.sent));
            }
            _ => self.acked = self.sent.clone(),
        }
    }

    /// The client goes on with what it had. What it refused waits for a change; what else was in
    /// the response is due again, without it.
    fn on_nack(&mut self, kind: ResourceType, changed: Changed, words: &str, now: u64) -> Nack {
        self.times.nacked = now;
        self.refusals = self.refusals.saturating_add(1);
        let words = refusal::cut(words);
        let new: BTreeSet<Name> = match changed {
            Changed::All(sent) => sent.names().cloned().collect(),
            Changed::Names(names) => names.into_iter().collect(),
        };
        let named = refusal::named(&words, &new);
        let blamed = if named.is_empty() || self.refusals > MAX_TRIES { &new } else { &named };
        let mut repeated = true;
        for name in blamed {
            // What was dropped or asked for meanwhile is as if it had not been sent.
            let sent = self.sent.get(name).filter(|_| !self.due.again.contains(name));
            let Some(version) = sent.map(|encoded| encoded.version) else { continue };
            let refusal = Refusal { version, words: words.clone(), at: now };
            let before = self.refused.insert(name.clone(), refusal);
            repeated &= before.is_some_and(|before| before.words == words);
        }
        let there = blamed.iter().filter(|name| !self.missing.contains(*name));
        let names = there.take(MAX_NAMED).cloned().collect();
        for name in &new {
            let is_blamed = blamed.contains(name);
            // A removal that is blamed is not tried again.
            if self.sent.contains(name) || !is_blamed {
                self.sent.restore(name, &self.acked);
            }
            if !is_blamed && self.is_subscribed(name) {
                // Said again whatever becomes of it: the client may have taken it (gRFC A46).
                self.due.say_again(name);
            }
        }
        Nack { kind, words, names, repeated }
    }
}

fn version_of(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}
