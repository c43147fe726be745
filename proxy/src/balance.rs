//! Picking one endpoint of many. Pure: no clock, no I/O, randomness from a seed.
//!
//! Owns the two ways to pick and the state they need; knows endpoints only as indices with a
//! weight and a load.

mod least_request;
mod rng;
mod round_robin;

use portolan_model::Balancer;

pub(crate) use rng::Rng;

use least_request::LeastRequest;
use round_robin::RoundRobin;

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
        match balancer {
            Balancer::LeastRequest => Self::LeastRequest(LeastRequest::new(weights)),
            // No picker of their own yet: a control plane that names one of them names round robin
            // next, which is what the xDS client then takes.
            Balancer::RoundRobin
            | Balancer::RingHash
            | Balancer::ClientSideWeightedRoundRobin
            | Balancer::PickFirst
            | Balancer::Random
            | Balancer::PeakEwma
            | Balancer::Maglev => {
                let old = match old {
                    Some(Self::RoundRobin(old)) => Some(old),
                    _ => None,
                };
                Self::RoundRobin(RoundRobin::new(weights, old, kept, rng))
            }
        }
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
