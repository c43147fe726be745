//! How much may be under way to a cluster at once, over all workers.
//!
//! Owns the limits of each cluster that workers have asked for: circuit breakers with the retry
//! budget (`breaker`), and adaptive concurrency (`gradient`). Refuses to queue: what is over a limit
//! is told so at once.

pub(crate) mod breaker;
pub(crate) mod gradient;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use portolan_model::traffic::{AdaptiveConcurrency, Cluster, ResourceName, TrafficConfig};
use serde::Serialize;

use breaker::{Breaker, BreakerView};
use gradient::{Gradient, GradientView};

/// The limits of all clusters. Never more than the configuration has clusters.
#[derive(Debug)]
pub(crate) struct Limiters {
    workers: usize,
    clusters: Mutex<BTreeMap<ResourceName, Arc<Limiter>>>,
}

/// The limits of one cluster.
#[derive(Debug)]
pub(crate) struct Limiter {
    pub(crate) breaker: Arc<Breaker>,
    adaptive: ArcSwapOption<Adaptive>,
}

#[derive(Debug)]
struct Adaptive {
    config: AdaptiveConcurrency,
    gradient: Arc<Gradient>,
}

/// The limits of a cluster, for people.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LimiterView {
    /// Circuit breakers.
    pub(crate) breaker: BreakerView,
    /// Adaptive concurrency, where it is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) adaptive: Option<GradientView>,
}

impl Limiters {
    /// Limits for so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers, clusters: Mutex::default() }
    }

    /// Takes a configuration; to be called before the workers take theirs. Limits change in place:
    /// what is under way still counts. Clusters that left are forgotten; what they have under way
    /// ends by itself.
    pub(crate) fn apply(&self, config: &TrafficConfig) {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.retain(|name, limiter| {
            let cluster = config.clusters.get(name);
            cluster.iter().for_each(|cluster| limiter.configure(cluster, self.workers));
            cluster.is_some()
        });
    }

    /// The limits of a cluster of the configuration. A worker asks when it first uses the cluster
    /// and with each change of it, and keeps the answer.
    pub(crate) fn cluster(&self, cluster: &Cluster) -> Arc<Limiter> {
        let mut clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let breaker = Arc::new(Breaker::new(self.workers));
            Arc::new(Limiter { breaker, adaptive: ArcSwapOption::empty() })
        };
        let limiter = clusters.entry(Arc::clone(&cluster.name)).or_insert_with(new);
        limiter.configure(cluster, self.workers);
        Arc::clone(limiter)
    }

    /// The limits of the clusters that were asked for, for people and metrics.
    pub(crate) fn view(&self) -> BTreeMap<ResourceName, LimiterView> {
        let clusters = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        clusters.iter().map(|(name, limiter)| (Arc::clone(name), limiter.view())).collect()
    }
}

impl Limiter {
    /// The adaptive limit, where it is asked for. A worker keeps it with its state of the cluster.
    pub(crate) fn gradient(&self) -> Option<Arc<Gradient>> {
        self.adaptive.load().as_ref().map(|adaptive| Arc::clone(&adaptive.gradient))
    }

    fn configure(&self, cluster: &Cluster, workers: usize) {
        self.breaker.configure(&cluster.limits);
        let present = self.adaptive.load();
        if present.as_ref().map(|adaptive| adaptive.config) != cluster.adaptive_concurrency {
            self.adaptive.store(cluster.adaptive_concurrency.map(|config| {
                let gradient = Arc::new(Gradient::new(config, workers));
                Arc::new(Adaptive { config, gradient })
            }));
        }
    }

    /// The limits, for people and metrics.
    pub(crate) fn view(&self) -> LimiterView {
        let adaptive = self.gradient().map(|gradient| gradient.view());
        LimiterView { breaker: self.breaker.view(), adaptive }
    }
}

#[cfg(test)]
mod tests {
    use portolan_model::policy::{Balancer, CircuitBreaker};
    use portolan_model::traffic::Limits;

    use super::breaker::Resource;
    use super::*;

    fn cluster(requests: Option<u32>, adaptive: Option<AdaptiveConcurrency>) -> Arc<Cluster> {
        let breaker = CircuitBreaker { requests, ..CircuitBreaker::default() };
        Arc::new(Cluster {
            limits: Limits { breaker, ..Limits::standard() },
            adaptive_concurrency: adaptive,
            ..Cluster::new("web".into(), Balancer::LeastRequest)
        })
    }

    fn config(cluster: Option<&Arc<Cluster>>) -> TrafficConfig {
        let clusters = cluster.map(|c| (Arc::clone(&c.name), Arc::clone(c)));
        TrafficConfig { clusters: clusters.into_iter().collect(), ..TrafficConfig::default() }
    }

    #[test]
    fn limits_change_in_place_and_leave_with_their_cluster() {
        let limiters = Limiters::new(2);
        let (two, one) = (cluster(Some(2), None), cluster(Some(1), None));
        let limiter = limiters.cluster(&two);
        let held = [0, 1].map(|worker| limiter.breaker.acquire(Resource::Requests, worker));
        assert!(held.iter().all(Option::is_some));
        limiters.apply(&config(Some(&one)));
        assert!(Arc::ptr_eq(&limiters.cluster(&one), &limiter), "the same limiter");
        let [first, second] = held;
        drop(first);
        assert!(limiter.breaker.acquire(Resource::Requests, 0).is_none(), "one is still held");
        drop(second);
        assert!(limiter.breaker.acquire(Resource::Requests, 0).is_some());
        limiters.apply(&config(None));
        assert!(limiters.view().is_empty());
    }

    #[test]
    fn an_adaptive_limit_stays_while_its_settings_do() {
        let settings = AdaptiveConcurrency {
            min: 3,
            max: 100,
            interval: std::time::Duration::from_millis(100),
            min_rtt_interval: std::time::Duration::from_secs(60),
            tolerance_percent: 25,
        };
        let limiters = Limiters::new(1);
        let limiter = limiters.cluster(&cluster(None, Some(settings)));
        let first = limiter.gradient().expect("asked for");
        limiters.apply(&config(Some(&cluster(Some(9), Some(settings)))));
        assert!(Arc::ptr_eq(&limiter.gradient().expect("asked for"), &first));
        let other = AdaptiveConcurrency { max: 50, ..settings };
        limiters.apply(&config(Some(&cluster(None, Some(other)))));
        assert!(!Arc::ptr_eq(&limiter.gradient().expect("asked for"), &first));
        limiters.apply(&config(Some(&cluster(None, None))));
        assert!(limiter.gradient().is_none());
    }
}
