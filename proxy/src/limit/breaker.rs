//! Circuit breakers: connections, waiting requests, requests and retries of one cluster, counted
//! over all workers, each up to its limit.
//!
//! What has no limit is counted on the worker's own cache line alone; what has one costs one shared
//! addition when it begins and one when it ends, and is never over it. Owns the retry budget, which
//! adds up the workers' counts only when there is something to retry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use portolan_model::traffic::Limits;
use serde::Serialize;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Resource {
    /// Connections to endpoints.
    Connections,
    /// Requests that wait for a connection.
    Pending,
    /// Requests in flight.
    Requests,
    /// Retries in flight.
    Retries,
}

impl Resource {
    pub(crate) const ALL: [Self; 4] =
        [Self::Connections, Self::Pending, Self::Requests, Self::Retries];

    fn of<T>(self, array: &[T; 4]) -> &T {
        let [connections, pending, requests, retries] = array;
        match self {
            Self::Connections => connections,
            Self::Pending => pending,
            Self::Requests => requests,
            Self::Retries => retries,
        }
    }
}

/// Stands for "no limit"; a limit of as much would never be met.
const UNLIMITED: u32 = u32::MAX;

/// The breakers of a cluster.
#[derive(Debug)]
pub(crate) struct Breaker {
    shared: [Shared; 4],
    /// Retries in flight in percent of requests in flight; 0 when `retries` has a fixed limit.
    budget_percent: AtomicU32,
    /// Retries in flight that the budget always allows.
    budget_min: AtomicU32,
    slots: Box<[Slot]>,
}

/// One resource over all workers.
#[derive(Debug)]
#[repr(align(64))]
struct Shared {
    limit: AtomicU32,
    /// What began under a limit and has not ended.
    used: AtomicU32,
    overflowed: AtomicU64,
}

/// What one worker has under way, limit or not.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot([AtomicU32; 4]);

/// Counts while it lives. May end on another worker than it began on.
#[derive(Debug)]
pub(crate) struct Permit {
    breaker: Arc<Breaker>,
    resource: Resource,
    worker: usize,
    limited: bool,
}

/// The breakers of a cluster, for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BreakerView {
    /// Connections to endpoints.
    pub(crate) connections: ResourceView,
    /// Requests that wait for a connection.
    pub(crate) pending_requests: ResourceView,
    /// Requests in flight.
    pub(crate) requests: ResourceView,
    /// Retries in flight.
    pub(crate) retries: ResourceView,
}

/// One resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResourceView {
    /// How much it may be; of retries within a budget, how much that allows at present.
    pub(crate) limit: Option<u32>,
    /// How much it is.
    pub(crate) used: u64,
    /// Whether nothing more is let in.
    pub(crate) open: bool,
    /// How often something was not let in.
    pub(crate) overflowed: u64,
}

impl Breaker {
    /// Breakers without limits, for so many workers.
    pub(super) fn new(workers: usize) -> Self {
        let shared = || Shared {
            limit: AtomicU32::new(UNLIMITED),
            used: AtomicU32::new(0),
            overflowed: AtomicU64::new(0),
        };
        Self {
            shared: [shared(), shared(), shared(), shared()],
            budget_percent: AtomicU32::new(0),
            budget_min: AtomicU32::new(0),
            slots: (0..workers).map(|_| Slot::default()).collect(),
        }
    }

    /// Takes limits. What began while there was none is not counted against one that comes.
    pub(super) fn configure(&self, limits: &Limits) {
        let percent = limits.retry_budget_percent;
        // A budget stands in the place of a fixed limit (Envoy `RetryBudget`).
        let retries = limits.breaker.retries.filter(|_| percent == 0);
        let wanted = [
            limits.breaker.connections,
            limits.breaker.pending_requests,
            limits.breaker.requests,
            retries,
        ];
        for (shared, limit) in self.shared.iter().zip(wanted) {
            shared.limit.store(limit.unwrap_or(UNLIMITED), Ordering::Relaxed);
        }
        self.budget_min.store(limits.min_retries, Ordering::Relaxed);
        self.budget_percent.store(percent, Ordering::Relaxed);
    }

    /// Leave to begin, `None` at the limit. `worker` is the number of the calling worker. For
    /// retries see [`Self::retry`].
    #[inline]
    pub(crate) fn acquire(self: &Arc<Self>, resource: Resource, worker: usize) -> Option<Permit> {
        let limit = resource.of(&self.shared).limit.load(Ordering::Relaxed);
        self.acquire_below(resource, worker, limit)
    }

    /// Leave to retry, `None` when the budget or the limit is used up.
    pub(crate) fn retry(self: &Arc<Self>, worker: usize) -> Option<Permit> {
        self.acquire_below(Resource::Retries, worker, self.retry_limit().unwrap_or(UNLIMITED))
    }

    fn acquire_below(
        self: &Arc<Self>,
        resource: Resource,
        worker: usize,
        limit: u32,
    ) -> Option<Permit> {
        let limited = limit != UNLIMITED;
        if limited && !resource.of(&self.shared).begin(limit) {
            return None;
        }
        if let Some(slot) = self.slots.get(worker) {
            resource.of(&slot.0).fetch_add(1, Ordering::Relaxed);
        }
        Some(Permit { breaker: Arc::clone(self), resource, worker, limited })
    }

    /// Retries that may be in flight at present; `None` without a limit. Without a fixed limit the
    /// budget stands, if only with what it always allows.
    fn retry_limit(&self) -> Option<u32> {
        let percent = self.budget_percent.load(Ordering::Relaxed);
        let fixed = self.shared[3].limit.load(Ordering::Relaxed);
        if percent == 0 && fixed != UNLIMITED {
            return Some(fixed);
        }
        let active = self.used(Resource::Requests) + self.used(Resource::Pending);
        let share = active.saturating_mul(u64::from(percent)) / 100;
        let share = u32::try_from(share).unwrap_or(UNLIMITED - 1);
        Some(share.max(self.budget_min.load(Ordering::Relaxed)).min(UNLIMITED - 1))
    }

    /// How much of a resource is under way, on all workers.
    fn used(&self, resource: Resource) -> u64 {
        let each = self.slots.iter().map(|slot| resource.of(&slot.0).load(Ordering::Relaxed));
        each.map(u64::from).sum()
    }

    /// The breakers, for people and metrics.
    pub(crate) fn view(&self) -> BreakerView {
        let view = |resource: Resource| {
            let shared = resource.of(&self.shared);
            let limit = match resource {
                Resource::Retries => self.retry_limit(),
                _ => Some(shared.limit.load(Ordering::Relaxed)).filter(|l| *l != UNLIMITED),
            };
            let held = shared.used.load(Ordering::Relaxed);
            ResourceView {
                limit,
                used: self.used(resource),
                open: limit.is_some_and(|limit| held >= limit),
                overflowed: shared.overflowed.load(Ordering::Relaxed),
            }
        };
        let [connections, pending_requests, requests, retries] = Resource::ALL.map(view);
        BreakerView { connections, pending_requests, requests, retries }
    }
}

impl Shared {
    /// Counts one more, unless that is more than `limit`.
    fn begin(&self, limit: u32) -> bool {
        // At the limit a look is enough: those turned away do not write what the others need.
        let begun = self.used.load(Ordering::Relaxed) < limit && self.claim(limit);
        if !begun {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        }
        begun
    }

    /// Adds one, and takes it back when others were faster to the last place.
    fn claim(&self, limit: u32) -> bool {
        let claimed = self.used.fetch_add(1, Ordering::Relaxed) < limit;
        if !claimed {
            self.used.fetch_sub(1, Ordering::Relaxed);
        }
        claimed
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.limited {
            self.resource.of(&self.breaker.shared).used.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(slot) = self.breaker.slots.get(self.worker) {
            self.resource.of(&slot.0).fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use portolan_model::policy::CircuitBreaker;

    use super::*;

    fn breaker(limits: Limits, workers: usize) -> Arc<Breaker> {
        let breaker = Arc::new(Breaker::new(workers));
        breaker.configure(&limits);
        breaker
    }

    fn fixed(breaker: CircuitBreaker) -> Limits {
        Limits { breaker, ..Limits::default() }
    }

    #[test]
    fn each_resource_has_a_limit_of_its_own() {
        let limits = CircuitBreaker {
            connections: Some(1),
            pending_requests: Some(2),
            requests: Some(3),
            retries: Some(4),
        };
        let breaker = breaker(fixed(limits), 2);
        for (resource, limit) in Resource::ALL.into_iter().zip([1, 2, 3, 4]) {
            let take = |worker| match resource {
                Resource::Retries => breaker.retry(worker),
                _ => breaker.acquire(resource, worker),
            };
            let mut held: Vec<Permit> = (0..limit).filter_map(|n| take(n % 2)).collect();
            assert_eq!(held.len(), limit, "{resource:?}");
            assert!(take(0).is_none() && take(1).is_none(), "{resource:?} is open");
            held.pop();
            held.extend(take(1));
            assert_eq!(held.len(), limit, "{resource:?}: what ended makes room");
        }
        let view = breaker.view();
        let expected =
            |limit: u32| ResourceView { limit: Some(limit), used: 0, open: false, overflowed: 2 };
        assert_eq!(view.connections, expected(1));
        assert_eq!(view.pending_requests, expected(2));
        assert_eq!(view.requests, expected(3));
        assert_eq!(view.retries, expected(4));
    }

    #[test]
    fn what_has_no_limit_is_counted_on_its_worker_alone() {
        let breaker = breaker(Limits::default(), 3);
        let held: Vec<_> = (0..900).map(|n| breaker.acquire(Resource::Requests, n % 3)).collect();
        assert!(held.iter().all(Option::is_some));
        assert_eq!(breaker.shared[2].used.load(Ordering::Relaxed), 0, "nothing shared is written");
        let view = breaker.view().requests;
        assert_eq!(view, ResourceView { limit: None, used: 900, open: false, overflowed: 0 });
        breaker.configure(&fixed(CircuitBreaker { requests: Some(1), ..Default::default() }));
        let one = breaker.acquire(Resource::Requests, 0);
        assert!(one.is_some() && breaker.view().requests.open);
        drop(held);
        assert_eq!(breaker.view().requests.used, 1, "each permit takes back what it counted");
    }

    #[test]
    fn retries_are_held_to_their_budget_or_limit() {
        let fixed = |retries| CircuitBreaker { retries, ..CircuitBreaker::default() };
        let limits = |retry_budget_percent, min_retries, retries| Limits {
            breaker: fixed(retries),
            retry_budget_percent,
            min_retries,
        };
        let cases = [
            ("the standard, idle", Limits::standard(), 0, 3),
            ("the standard, 10 in flight", Limits::standard(), 10, 3),
            ("the standard, 100 in flight", Limits::standard(), 100, 20),
            ("a fixed limit", limits(0, 0, Some(7)), 100, 7),
            ("a fixed limit of none", limits(0, 3, Some(0)), 100, 0),
            ("a budget stands for a fixed limit", limits(10, 1, Some(7)), 100, 10),
            ("neither share nor limit", limits(0, 2, None), 100, 2),
            ("all of them", limits(100, 0, None), 8, 8),
        ];
        for (about, limits, active, expected) in cases {
            let breaker = breaker(limits, 4);
            let _active: Vec<_> =
                (0..active).map(|n| breaker.acquire(Resource::Requests, n % 4)).collect();
            let retries: Vec<_> = (0..200).map_while(|n| breaker.retry(n % 4)).collect();
            assert_eq!(retries.len(), expected, "{about}");
            let view = breaker.view().retries;
            assert!(view.open && view.overflowed == 1, "{about}: {view:?}");
        }
    }

    #[test]
    fn who_comes_too_late_to_the_last_place_leaves_nothing_behind() {
        let breaker = breaker(Limits::default(), 1);
        let shared = &breaker.shared[0];
        let claims: Vec<bool> = (0..4).map(|_| shared.claim(2)).collect();
        assert_eq!(claims, [true, true, false, false]);
        assert_eq!(shared.used.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn no_race_lets_more_in_than_the_limit() {
        const LIMIT: u32 = 5;
        let limits = CircuitBreaker { requests: Some(LIMIT), ..CircuitBreaker::default() };
        let breaker = breaker(fixed(limits), 4);
        let (inside, most, let_in) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
        let barrier = Barrier::new(4);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (breaker, inside, most, let_in, barrier) =
                    (&breaker, &inside, &most, &let_in, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    for round in 0..20_000 {
                        let held: Vec<_> = (0..1 + round % 6)
                            .filter_map(|_| breaker.acquire(Resource::Requests, worker))
                            .collect();
                        let got = u32::try_from(held.len()).expect("few");
                        most.fetch_max(
                            inside.fetch_add(got, Ordering::SeqCst) + got,
                            Ordering::SeqCst,
                        );
                        let_in.fetch_add(got, Ordering::SeqCst);
                        inside.fetch_sub(got, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= LIMIT);
        assert!(let_in.load(Ordering::SeqCst) > 1000);
        let view = breaker.view().requests;
        assert_eq!((view.used, view.open), (0, false));
        assert_eq!(breaker.shared[2].used.load(Ordering::Relaxed), 0);
        assert!(view.overflowed > 0, "six wanted at once, five allowed");
    }
}
