//! How endpoints are picked, and what connections to them are like.

use std::num::NonZeroU32;

use portolan_model::policy::{Balancer, Connections, HashOn, Tuning};
use portolan_model::traffic::SlowStart;

use super::values::{count, duration, hash_on, milli, number, percent, proxy_header, word};
use super::{PREFIX, Settings};

/// The least share of a new endpoint, in percent, and the exponent of its growth, where nothing is said
/// (Envoy's).
const MIN_WEIGHT: u32 = 10;
const AGGRESSION: u32 = 1000;
/// Most endpoints drawn for a request.
const MAX_CHOICES: u32 = 10;
/// The most an endpoint may be allowed over the mean, in percent of it.
const MAX_BALANCE: u32 = 1000;

impl Settings<'_, '_> {
    /// The balancer, and what it hashes by: of use to those that hash alone.
    pub(super) fn balancing(&mut self) -> (Option<Balancer>, Option<HashOn>) {
        let balancer = self.take("balancer", |text| word(text, &Balancer::WORDS));
        let hash_on = self.take("hash-on", hash_on);
        match (balancer, hash_on) {
            (Some(other), Some(_)) if !hashes(other) => {
                let word = other.word();
                self.warn("hash-on", format!("has no effect with {PREFIX}balancer {word}"));
                (balancer, None)
            }
            both => both,
        }
    }

    /// Settings of the balancer, which may be the default: what has no effect on the one that is
    /// named is said.
    pub(super) fn tuning(&mut self, balancer: Option<Balancer>, hash_on: bool) -> Tuning {
        let hashed = hash_on || balancer.is_some_and(hashes);
        let slow_start = self.slow_start();
        let choices = self.take("balancer-choices", |text| number(text, 2, MAX_CHOICES));
        let factor = self.take("hash-balance-percent", |text| number(text, 100, MAX_BALANCE));
        let draws = matches!(balancer, None | Some(Balancer::LeastRequest | Balancer::PeakEwma));
        let starts = !hashed && !matches!(balancer, Some(Balancer::PickFirst | Balancer::Random));
        Tuning {
            slow_start: self.of_use("slow-start", slow_start, starts),
            choices: self.of_use("balancer-choices", choices, draws && !hashed),
            // A service whose clients keep their endpoints hashes without saying so.
            hash_balance_factor: self.of_use(
                "hash-balance-percent",
                factor,
                hashed || balancer.is_none(),
            ),
            panic_threshold: self.take("panic-percent", percent),
        }
    }

    /// The value, unless the balancer has no use for it.
    fn of_use<T>(&mut self, name: &str, value: Option<T>, used: bool) -> Option<T> {
        if value.is_some() && !used {
            self.warn(name, "has no effect with this balancer");
        }
        value.filter(|_| used)
    }

    fn slow_start(&mut self) -> Option<SlowStart> {
        let Some(window) = self.take("slow-start", duration) else {
            self.without("slow-start", "slow-start-");
            return None;
        };
        let aggression = self.take("slow-start-aggression", milli);
        Some(SlowStart {
            window,
            aggression_milli: aggression.or(NonZeroU32::new(AGGRESSION)).unwrap_or(NonZeroU32::MIN),
            min_weight_percent: self.take("slow-start-min-percent", percent).unwrap_or(MIN_WEIGHT),
        })
    }

    /// What connections to endpoints are like.
    pub(super) fn connections(&mut self) -> Connections {
        Connections {
            idle_timeout: self.take("connection-idle-timeout", duration),
            max_age: self.take("connection-max-age", duration),
            max_requests: self.take("connection-max-requests", count).and_then(NonZeroU32::new),
            send_proxy: self.take("proxy-protocol", proxy_header),
        }
    }
}

fn hashes(balancer: Balancer) -> bool {
    matches!(balancer, Balancer::RingHash | Balancer::Maglev)
}
