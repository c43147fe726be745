//! How the endpoints are: one board for the whole process, beside the workers.
//!
//! Workers read it and report to it; tasks on the control runtime ask endpoints (active checks) and
//! judge what workers reported (outlier detection). Owns what is known of each endpoint for as long
//! as the configuration names it, and no longer: an endpoint that left is let go of at once, whatever
//! it answers. Refuses to pick (that is `balance`) and to touch a request.

mod checker;
pub(crate) mod cluster;
pub(crate) mod counters;
mod detector;
pub(crate) mod ejection;
pub(crate) mod host;
mod interval;
pub(crate) mod jitter;
pub(crate) mod outcome;
mod probe;
mod streak;
mod threshold;
pub(crate) mod view;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use portolan_model::policy::HealthCheck;
use portolan_model::traffic::{Cluster, EndpointSet, ResourceName, TrafficConfig};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use checker::Bench;
use cluster::ClusterHealth;
use counters::HealthMetrics;
use probe::Question;
use view::HostView;

use crate::tls::Settings;

#[cfg(test)]
mod tests;

/// Active checks under way at once; others wait, and are counted.
const MAX_CHECKS: usize = 256;
/// Shortest interval of outlier detection.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// Health of all clusters that ask for checks or outlier detection. Dropping it ends its tasks.
#[derive(Debug)]
pub(crate) struct Board {
    workers: usize,
    metrics: Arc<HealthMetrics>,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    clusters: BTreeMap<ResourceName, Entry>,
    /// The last configuration: who is in use already when somebody begins to watch.
    config: TrafficConfig,
    tasks: JoinSet<()>,
}

/// A cluster on the board, and what runs for it.
#[derive(Debug)]
struct Entry {
    config: Arc<Cluster>,
    set: Option<Arc<EndpointSet>>,
    health: Arc<ClusterHealth>,
    checks: HashMap<SocketAddr, Task>,
    /// How checks begin where TLS comes first.
    tls: Arc<ArcSwapOption<Settings>>,
    intervals: Option<Task>,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Board {
    /// A board without clusters, for so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            workers,
            metrics: Arc::default(),
            permits: Arc::new(Semaphore::new(MAX_CHECKS)),
            state: Mutex::default(),
        }
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Arc<HealthMetrics> {
        &self.metrics
    }

    /// Takes a configuration; to be called on the control runtime, before the workers take theirs.
    /// Clusters and endpoints that stay keep what is known of them; tasks of those that left end.
    pub(crate) fn apply(&self, config: &TrafficConfig) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { clusters, config: last, tasks } = &mut *state;
        while let Some(ended) = tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                self.metrics.checks_lost.add(1);
                tracing::error!(%error, "a task of health checking panicked");
            }
        }
        clusters.retain(|name, entry| {
            let keep = config.clusters.get(name).is_some_and(|cluster| is_watched(cluster));
            if !keep {
                entry.health.retire();
            }
            keep
        });
        for (name, cluster) in config.clusters.iter().filter(|(_, cluster)| is_watched(cluster)) {
            let set = config.endpoints.get(&cluster.endpoints);
            let entry =
                clusters.entry(Arc::clone(name)).or_insert_with(|| self.new_entry(cluster, last));
            entry.renew(cluster, config);
            entry.apply(cluster, set, tasks, self);
        }
        last.clone_from(config);
    }

    /// The health of a cluster's endpoints; `None` when nobody watches them. A worker keeps it with
    /// its own state of the cluster, and asks again with each configuration.
    pub(crate) fn cluster(&self, name: &str) -> Option<Arc<ClusterHealth>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clusters.get(name).map(|entry| Arc::clone(&entry.health))
    }

    /// How a cluster's endpoints are, for people; empty when nobody watches them.
    pub(crate) fn view(&self, name: &str) -> Vec<HostView> {
        self.cluster(name).map_or_else(Vec::new, |cluster| cluster.view(Instant::now()))
    }

    /// A cluster that nobody has watched so far, as it was in the last configuration: what it had
    /// is in use, and stays so until something bad is known of it.
    fn new_entry(&self, cluster: &Cluster, last: &TrafficConfig) -> Entry {
        let name = &cluster.name;
        let health = ClusterHealth::new(Arc::clone(name), self.workers, Arc::clone(&self.metrics));
        let unwatched = Arc::new(Cluster::new(Arc::clone(name), cluster.balancing.balancer));
        let known = last.clusters.get(name);
        let set = known.and_then(|cluster| last.endpoints.get(&cluster.endpoints));
        health.configure(&unwatched, set.map(|set| &**set));
        Entry {
            config: unwatched,
            set: set.cloned(),
            health: Arc::new(health),
            checks: HashMap::new(),
            tls: Arc::default(),
            intervals: None,
        }
    }
}

/// Whether a cluster asks for anything that is done here.
fn is_watched(cluster: &Cluster) -> bool {
    cluster.health_check.is_some() || cluster.outlier.is_some()
}

impl Entry {
    /// Has checks begin by the secrets that there are.
    fn renew(&self, cluster: &Cluster, config: &TrafficConfig) {
        let wanted = cluster.upstream.tls.as_ref().filter(|_| cluster.health_check.is_some());
        let Some(wanted) = wanted else { return self.tls.store(None) };
        if self.tls.load().as_ref().is_none_or(|known| !known.are(wanted, config)) {
            self.tls.store(Some(Arc::new(Settings::new(wanted, config))));
        }
    }

    fn apply(
        &mut self,
        config: &Arc<Cluster>,
        set: Option<&Arc<EndpointSet>>,
        tasks: &mut JoinSet<()>,
        board: &Board,
    ) {
        let same_set = match (&self.set, set) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if same_set && Arc::ptr_eq(&self.config, config) {
            return;
        }
        let old = std::mem::replace(&mut self.config, Arc::clone(config));
        self.set = set.cloned();
        self.health.configure(config, set.map(|set| &**set));
        if asked(&old) != asked(config) {
            self.checks.clear();
        }
        self.run_checks(config, tasks, board);
        if old.outlier.map(|o| o.interval) != config.outlier.map(|o| o.interval) {
            self.intervals = config.outlier.map(|outlier| {
                let health = Arc::clone(&self.health);
                Task(tasks.spawn(async move {
                    let mut interval = tokio::time::interval(outlier.interval.max(MIN_INTERVAL));
                    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    interval.tick().await;
                    loop {
                        let now = interval.tick().await;
                        health.on_interval(now);
                    }
                }))
            });
        }
    }

    /// Ends the checks of endpoints that left and begins those of new ones.
    fn run_checks(&mut self, config: &Arc<Cluster>, tasks: &mut JoinSet<()>, board: &Board) {
        let Some((rule, question)) = asked(config) else { return };
        let hosts = self.health.hosts();
        self.checks.retain(|address, _| self.health.host(*address).is_some());
        for host in hosts {
            let address = host.address;
            self.checks.entry(address).or_insert_with(|| {
                let bench = Bench {
                    permits: Arc::clone(&board.permits),
                    metrics: Arc::clone(&board.metrics),
                    cluster: Arc::clone(self.health.name()),
                };
                let (question, tls) = (question.clone(), Arc::clone(&self.tls));
                let ask = move || {
                    let (question, tls) = (question.clone(), tls.load_full());
                    async move { question.ask(address, tls.as_deref()).await }
                };
                Task(tasks.spawn(checker::run(host, rule.clone(), bench, ask)))
            });
        }
    }
}

/// What the endpoints of a cluster are asked, and by what rule.
fn asked(cluster: &Cluster) -> Option<(HealthCheck, Question)> {
    let rule = cluster.health_check.clone()?;
    let question = Question::new(cluster, &rule.probe);
    Some((rule, question))
}
