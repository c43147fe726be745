//! The balancing of before [`Balance`](super::Balance), for whoever still calls it: round robin and
//! least request over a list of weights.

use portolan_model::Balancer;

use super::least_request::LeastRequest;
use super::rng::Rng;
use super::round_robin::RoundRobin;

/// The picking state of one cluster on one worker.
#[derive(Debug)]
pub(crate) enum Picker {
    /// In turn, smoothly over the weights.
    RoundRobin(RoundRobin),
    /// Power of two choices.
    LeastRequest(LeastRequest),
}

impl Picker {
    /// A picker over these weights. `kept` maps an index to the index it had in `old`, so that an
    /// endpoint which stays keeps its turn.
    pub(crate) fn new(
        balancer: Balancer,
        weights: &[u32],
        old: Option<&Self>,
        kept: impl Fn(usize) -> Option<usize>,
        rng: &mut Rng,
    ) -> Self {
        if balancer == Balancer::LeastRequest {
            return Self::LeastRequest(LeastRequest::new(weights));
        }
        let waits = match old {
            Some(Self::RoundRobin(old)) => old.waits(),
            _ => Vec::new(),
        };
        let waits: std::collections::HashMap<usize, u64> = waits.into_iter().collect();
        let weights: Vec<u64> = weights.iter().map(|weight| u64::from(*weight)).collect();
        let before = |at: usize| kept(at).and_then(|old| waits.get(&old).copied());
        Self::RoundRobin(RoundRobin::new(&weights, before, rng))
    }

    /// Picks among the indices `allowed` lets pass; `None` when there is none. `load` gives the
    /// requests in flight.
    pub(crate) fn pick(
        &mut self,
        rng: &mut Rng,
        load: impl Fn(usize) -> u32,
        allowed: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        match self {
            Self::RoundRobin(picker) => picker.pick(allowed),
            Self::LeastRequest(picker) => picker.pick(rng, load, allowed),
        }
    }
}
