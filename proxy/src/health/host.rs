//! One endpoint's health, shared by all workers and the checker.
//!
//! Owns what a worker does at the end of a request: on success one load (and a count on the
//! worker's own cache line where somebody judges by rates), on failure the streak and, at its
//! limit, the ejection, at once. Refuses to know who is asked and when.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use portolan_model::policy::HealthCheck;
use tokio::time::Instant;

use super::detector::Detector;
use super::ejection::Record;
use super::interval::Sample;
use super::outcome::Outcome;
use super::streak::{SharedStreak, Streak};
use super::threshold::{Answer, Change, Standing};

/// Longest text kept of what was wrong with a check, in bytes.
const MAX_REASON: usize = 256;

/// Bits of [`HostHealth::flags`].
pub(super) struct Flags;

impl Flags {
    /// Active checks say that it is not well, or have not said yet that it is.
    pub(super) const UNHEALTHY: u8 = 1;
    /// No check has ended yet.
    pub(super) const PENDING: u8 = 2;
    /// It is left out for what it answered.
    pub(super) const EJECTED: u8 = 4;
    /// It has left the configuration.
    pub(super) const GONE: u8 = 8;
}

/// One endpoint's health.
#[derive(Debug)]
pub(crate) struct HostHealth {
    pub(crate) address: SocketAddr,
    flags: AtomicU8,
    streak: SharedStreak,
    /// Requests by worker; made once somebody judges by rates.
    slots: OnceLock<Box<[Slot]>>,
    detector: Arc<Detector>,
    ejection: Mutex<Ejection>,
    checked: Mutex<Checked>,
}

/// Requests of one worker: one writer, a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Slot {
    succeeded: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Ejection {
    record: Record,
    /// The slots' sums at the end of the last interval.
    seen: Sample,
}

/// Where active checks stand; written by the checker alone.
#[derive(Debug)]
struct Checked {
    /// Whether there are checks. A task that was told to end may still bring a last result.
    on: bool,
    standing: Standing,
    /// What was wrong the last time; `None` when that passed.
    reason: Option<String>,
}

impl HostHealth {
    /// An endpoint without a past: unhealthy until its first check when there are checks.
    pub(super) fn new(address: SocketAddr, detector: Arc<Detector>, has_checks: bool) -> Self {
        let flags = if has_checks { Flags::UNHEALTHY | Flags::PENDING } else { 0 };
        let checked =
            Checked { on: has_checks, standing: Standing::new(!has_checks), reason: None };
        Self {
            address,
            flags: AtomicU8::new(flags),
            streak: SharedStreak::default(),
            slots: OnceLock::new(),
            detector,
            ejection: Mutex::default(),
            checked: Mutex::new(checked),
        }
    }

    /// Whether it may be given requests: not unhealthy by its checks, not left out.
    #[inline]
    pub(crate) fn is_available(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & (Flags::UNHEALTHY | Flags::EJECTED) == 0
    }

    /// Whether its first check has yet to end: nothing bad is known of it (Envoy
    /// `ignore_new_hosts_until_first_hc` leaves such out when it reckons with panic).
    pub(crate) fn is_pending(&self) -> bool {
        self.has(Flags::PENDING)
    }

    /// A request to it has ended. `worker` is the number of the calling worker: two threads that
    /// give the same number lose counts.
    #[inline]
    pub(crate) fn report(&self, worker: usize, outcome: Outcome) {
        if outcome != Outcome::Success {
            return self.on_failure(worker, outcome);
        }
        self.streak.clear();
        if let Some(slot) = self.slot(worker) {
            increment(&slot.succeeded);
        }
    }

    #[cold]
    fn on_failure(&self, worker: usize, outcome: Outcome) {
        let outlier = self.detector.outlier.load();
        let Some(outlier) = outlier.as_deref() else { return };
        let split = outlier.consecutive_local_errors.is_some();
        if !(split && outcome == Outcome::LocalError)
            && let Some(slot) = self.slot(worker)
        {
            increment(&slot.failed);
        }
        let streak = self.streak.add(outcome, split);
        if self.has(Flags::EJECTED) {
            return;
        }
        if let Some(cause) = streak.trips(outlier) {
            self.detector.eject(self, cause, Instant::now());
            // Also when it is not let out: it then takes a whole streak to be found again.
            self.streak.restart(cause);
        }
    }

    fn slot(&self, worker: usize) -> Option<&Slot> {
        self.slots.get()?.get(worker)
    }

    /// Counts requests by worker from now on.
    pub(super) fn count_requests(&self, workers: usize) {
        self.slots.get_or_init(|| (0..workers).map(|_| Slot::default()).collect());
    }

    /// Requests since the last call.
    pub(super) fn take_sample(&self) -> Sample {
        let total = self.counted();
        let mut ejection = self.ejection.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = std::mem::replace(&mut ejection.seen, total);
        Sample {
            succeeded: total.succeeded.saturating_sub(seen.succeeded),
            failed: total.failed.saturating_sub(seen.failed),
        }
    }

    /// Requests since they are counted.
    pub(super) fn counted(&self) -> Sample {
        let sum = |mut sum: Sample, slot: &Slot| {
            sum.succeeded = sum.succeeded.saturating_add(slot.succeeded.load(Ordering::Relaxed));
            sum.failed = sum.failed.saturating_add(slot.failed.load(Ordering::Relaxed));
            sum
        };
        self.slots.get().into_iter().flatten().fold(Sample::default(), sum)
    }

    /// A check has ended: what became of the endpoint, and whether its checks are to come sooner
    /// for a while.
    pub(super) fn on_check(&self, answer: &Answer, rule: &HealthCheck) -> (Change, Standing) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if !checked.on {
            return (Change::None, checked.standing);
        }
        let change = checked.standing.on_answer(answer, rule);
        checked.reason = match answer {
            Answer::Passed => None,
            Answer::Unhealthy(reason) | Answer::Unreachable(reason) => Some(cut(reason)),
        };
        let standing = checked.standing;
        let unhealthy = if standing.healthy { 0 } else { Flags::UNHEALTHY };
        self.change(unhealthy, (Flags::UNHEALTHY | Flags::PENDING) & !unhealthy);
        drop(checked);
        if *answer == Answer::Passed && standing.healthy && self.has(Flags::EJECTED) {
            // Envoy `successful_active_health_check_uneject_host`, on by default.
            self.detector.take_back(self, "an active check passed", Instant::now());
        }
        (change, standing)
    }

    /// Checks begin for an endpoint that is in use already: it stays so until the first has ended.
    pub(super) fn begin_checks(&self) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        *checked = Checked { on: true, standing: Standing::new(true), reason: None };
        self.change(Flags::PENDING, 0);
    }

    /// There are no checks any more: nothing is held against it.
    pub(super) fn end_checks(&self) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        *checked = Checked { on: false, standing: Standing::new(true), reason: None };
        self.change(0, Flags::UNHEALTHY | Flags::PENDING);
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    /// Sets and clears flags. Workers hear of it when one of them has changed.
    pub(super) fn change(&self, set: u8, clear: u8) {
        let before = self.flags.fetch_or(set, Ordering::AcqRel);
        let between = self.flags.fetch_and(!clear, Ordering::AcqRel);
        if before | set != before || between & clear != 0 {
            self.detector.on_changed();
        }
    }

    pub(super) fn with_record<T>(&self, f: impl FnOnce(&mut Record) -> T) -> T {
        f(&mut self.ejection.lock().unwrap_or_else(PoisonError::into_inner).record)
    }

    pub(super) fn streak(&self) -> Streak {
        self.streak.get()
    }

    pub(super) fn end_streak(&self) {
        self.streak.clear();
    }

    /// What was wrong with the last check.
    pub(super) fn reason(&self) -> Option<String> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).reason.clone()
    }
}

/// Adds one for the only writer there is: a load and a store, no locked instruction.
fn increment(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_REASON)).unwrap_or_default().to_owned()
}
