//! What is held, why and for how long; and what a pass of the guard comes to.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use portolan_model::{Key, ServiceEntry, ServiceKey, Snapshot};

use super::loss::Loss;

/// From when on something is held back, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardLimits {
    /// Share of its services, in percent, that a source may lose; 0: any.
    pub services_percent: usize,
    /// Services there have to be for that; 0: it never holds.
    pub services_min: usize,
    /// Endpoints (addresses) a service has to have for it to be held when it loses all; 0: none is.
    pub endpoints_min: usize,
    /// Losses within this time count together.
    pub window: Duration,
    /// For how long something is held; `None`: until it is back or released.
    pub hold: Option<Duration>,
}

/// A time by both clocks: the monotonic one decides, the other is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// By the monotonic clock.
    pub at: Instant,
    /// By the calendar.
    pub wall: SystemTime,
}

/// Why a service is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its source lost too many.
    Source,
    /// It lost all of its many endpoints itself.
    Endpoints,
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// What was lost is back.
    Back,
    /// A command released it.
    Released,
    /// Its time is over.
    Expired,
    /// It was held for its endpoints, and is gone itself by now.
    Gone,
    /// Another service has its cluster IP.
    Replaced,
}

/// A service that is held.
#[derive(Clone, Debug)]
pub struct Hold {
    /// Why.
    pub reason: Reason,
    /// What it would lose.
    pub loss: Loss,
    /// The most ready endpoints it had lately.
    pub endpoints: usize,
    /// Since when.
    pub since: Moment,
    /// Until when at the latest.
    pub until: Option<Moment>,
    /// As it is in force.
    pub(super) entry: Arc<ServiceEntry>,
}

/// What the guard lets through.
#[derive(Debug)]
pub struct Passed {
    /// What is to be in force.
    pub content: Snapshot,
    /// What of it differs from what was.
    pub changed: BTreeSet<Key>,
    /// Services that are held from now on.
    pub begun: Vec<ServiceKey>,
    /// Those that are not any more.
    pub ended: Vec<(ServiceKey, End)>,
    /// Whether a service that stays held loses something else than before.
    pub altered: bool,
}

impl Default for GuardLimits {
    fn default() -> Self {
        Self {
            services_percent: 50,
            services_min: 20,
            endpoints_min: 20,
            window: Duration::from_secs(60),
            hold: Some(Duration::from_secs(600)),
        }
    }
}

impl Moment {
    pub(super) fn after(self, duration: Duration) -> Option<Self> {
        let (at, wall) = (self.at.checked_add(duration)?, self.wall.checked_add(duration)?);
        Some(Self { at, wall })
    }
}

impl Reason {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Source, Self::Endpoints];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Endpoints => "endpoints",
        }
    }
}

impl End {
    /// The words for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Back => "it is back",
            Self::Released => "it was released",
            Self::Expired => "its time is over",
            Self::Gone => "the service itself is gone",
            Self::Replaced => "another service has its cluster IP",
        }
    }
}
