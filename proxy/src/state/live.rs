//! What only a running proxy knows: how clusters are balanced, how endpoints are, what is under way.
//!
//! Balancing lives on the workers, who are asked and may not answer in time: then they are left out,
//! and the page says so. Owns the adding up of what they say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use portolan_model::traffic::ResourceName;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::{Applied, EndpointView, ProxyView, StateHandle};
use crate::balance::CountersView;
use crate::balance::describe::{Description, PriorityView};
use crate::decision::{Decision, Decisions};
use crate::health::Board;
use crate::health::view::HostView;
use crate::limit::{LimiterView, Limiters};
use crate::worker::Command;

/// How long a worker has to say how it balances.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whom to ask.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) workers: Vec<mpsc::Sender<Command>>,
    pub(crate) health: Arc<Board>,
    pub(crate) limiters: Arc<Limiters>,
    pub(crate) decisions: Arc<Decisions>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sources").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

type Described = BTreeMap<ResourceName, Description>;

/// The page.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(flatten)]
    view: ProxyView<Row>,
    /// How each cluster is balanced, and its limits.
    balancing: BTreeMap<ResourceName, ClusterView>,
    workers: Workers,
}

/// Who was asked.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Workers {
    asked: usize,
    /// Those who did not answer in time: what they do is in no number of the page.
    missing: Vec<usize>,
}

/// A cluster over all workers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ClusterView {
    balancer: &'static str,
    /// Workers that have had requests for it; without one, nothing is known of what follows.
    in_use_by: usize,
    /// As the first worker has it; in panic if any is.
    priorities: Vec<PriorityView>,
    subsets: usize,
    picks: CountersView,
    #[serde(flatten)]
    limits: Option<LimiterView>,
}

/// An endpoint over all workers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(flatten)]
    configured: EndpointView,
    #[serde(flatten)]
    live: Option<Live>,
    /// What active checks and outlier detection say, where somebody watches.
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<HostView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Live {
    zone: String,
    /// Whether all workers may use it.
    healthy: bool,
    /// Its weight at present; `None` when it serves nothing.
    effective_weight: Option<f64>,
    /// Requests and streams.
    in_flight: u64,
    /// Expected latency, the mean of the workers that know one.
    ewma_ms: Option<f64>,
    /// Share of its priority in percent of all.
    percent: u32,
}

impl StateHandle {
    /// The decision records there are, the oldest first.
    #[must_use]
    pub fn decisions(&self) -> Vec<Arc<Decision>> {
        let applied = self.0.load();
        applied.sources.as_ref().map(|sources| sources.decisions.all()).unwrap_or_default()
    }

    /// The state at this moment with what the workers know, as far as they answer within a second.
    pub async fn details(&self) -> impl Serialize + Send + use<> {
        let applied = self.0.load_full();
        let (answers, missing) = match &applied.sources {
            Some(sources) => ask(&sources.workers).await,
            None => (Vec::new(), Vec::new()),
        };
        page(&applied, &answers, missing)
    }
}

/// What the workers say, and the numbers of those who do not.
async fn ask(workers: &[mpsc::Sender<Command>]) -> (Vec<Described>, Vec<usize>) {
    let asked = workers.iter().enumerate().map(|(number, worker)| async move {
        let (done, answer) = oneshot::channel();
        // A worker that has this many commands before it does not answer in time.
        worker.try_send(Command::Describe { done }).map_err(|_| number)?;
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(described)) => Ok(described),
            Ok(Err(_)) | Err(_) => Err(number),
        }
    });
    let (mut answers, mut missing) = (Vec::new(), Vec::new());
    for answer in join_all(asked).await {
        match answer {
            Ok(described) => answers.push(described),
            Err(number) => missing.push(number),
        }
    }
    (answers, missing)
}

fn page(applied: &Applied, answers: &[Described], missing: Vec<usize>) -> Page {
    let view = applied.view();
    let limits = applied.sources.as_ref().map(|s| s.limiters.view()).unwrap_or_default();
    let cluster = |name: &ResourceName| {
        let known: Vec<&Description> = answers.iter().filter_map(|a| a.get(name)).collect();
        let config = applied.config.clusters.get(name);
        let configured = config.map_or("", |cluster| cluster.balancing.balancer.word());
        ClusterView {
            balancer: known.first().map_or(configured, |first| first.balancer),
            in_use_by: known.len(),
            priorities: priorities(&known),
            subsets: known.iter().map(|known| known.subsets).max().unwrap_or(0),
            picks: picks(&known),
            limits: limits.get(name).cloned(),
        }
    };
    let balancing = view.clusters.keys().map(|name| (Arc::clone(name), cluster(name))).collect();
    let rows = |(name, endpoints): (ResourceName, Vec<EndpointView>)| {
        let known: Vec<&Description> = answers.iter().filter_map(|a| a.get(&name)).collect();
        let health = applied.sources.as_ref().map(|s| s.health.view(&name)).unwrap_or_default();
        (name, rows(endpoints, &known, health))
    };
    let ProxyView { generation, listeners, clusters } = view;
    let clusters = clusters.into_iter().map(rows).collect();
    let asked = answers.len() + missing.len();
    Page {
        view: ProxyView { generation, listeners, clusters },
        balancing,
        workers: Workers { asked, missing },
    }
}

fn priorities(known: &[&Description]) -> Vec<PriorityView> {
    let mut priorities = known.first().map(|first| first.priorities.clone()).unwrap_or_default();
    for priority in &mut priorities {
        let mut same = known.iter().flat_map(|known| &known.priorities);
        priority.panic = same.any(|other| other.priority == priority.priority && other.panic);
    }
    priorities
}

fn picks(known: &[&Description]) -> CountersView {
    known.iter().fold(CountersView::default(), |sum, known| {
        let of = &known.counters;
        CountersView {
            panic: sum.panic + of.panic,
            cross_zone: sum.cross_zone + of.cross_zone,
            spilled: sum.spilled + of.spilled,
            subset_fallback: sum.subset_fallback + of.subset_fallback,
            no_subset: sum.no_subset + of.no_subset,
            subsets_full: sum.subsets_full + of.subsets_full,
            none: sum.none + of.none,
            plans: sum.plans + of.plans,
        }
    })
}

fn rows(endpoints: Vec<EndpointView>, known: &[&Description], health: Vec<HostView>) -> Vec<Row> {
    let mut live: BTreeMap<SocketAddr, (Live, f64, u32)> = BTreeMap::new();
    for endpoint in known.iter().flat_map(|known| &known.endpoints) {
        let (live, millis, with_latency) = live.entry(endpoint.address).or_insert_with(|| {
            let live = Live {
                zone: endpoint.zone.clone(),
                healthy: true,
                effective_weight: endpoint.weight,
                in_flight: 0,
                ewma_ms: None,
                percent: endpoint.percent,
            };
            (live, 0.0, 0)
        });
        live.healthy &= endpoint.healthy;
        live.in_flight += u64::from(endpoint.in_flight);
        if let Some(ewma) = endpoint.ewma_ms {
            *millis += ewma;
            *with_latency += 1;
            live.ewma_ms = Some(*millis / f64::from(*with_latency));
        }
    }
    let mut health: BTreeMap<SocketAddr, HostView> =
        health.into_iter().map(|host| (host.address, host)).collect();
    let row = |configured: EndpointView| {
        let live = live.remove(&configured.address).map(|(live, ..)| live);
        let health = health.remove(&configured.address);
        Row { configured, live, health }
    };
    endpoints.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(in_flight: u32, ewma_ms: Option<f64>, panic: bool) -> Description {
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let endpoint = crate::balance::describe::EndpointView {
            address,
            priority: 0,
            zone: "a".to_owned(),
            healthy: !panic,
            weight: Some(2.0),
            in_flight,
            ewma_ms,
            percent: 100,
        };
        let priority = PriorityView {
            priority: 0,
            endpoints: 1,
            healthy: 1,
            degraded: 0,
            percent: 100,
            percent_degraded: 0,
            panic,
        };
        Description {
            balancer: "random",
            priorities: vec![priority],
            endpoints: vec![endpoint],
            subsets: 0,
            counters: CountersView { none: 1, ..CountersView::default() },
        }
    }

    #[test]
    fn what_workers_say_is_added_up() {
        let workers = [
            described(2, Some(4.0), false),
            described(3, Some(2.0), true),
            described(0, None, false),
        ];
        let known: Vec<&Description> = workers.iter().collect();
        assert!(priorities(&known)[0].panic);
        assert_eq!(picks(&known).none, 3);
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        let configured = EndpointView { address, weight: 7, priority: 0 };
        let rows = rows(vec![configured], &known, Vec::new());
        let row = serde_json::to_value(&rows[0]).expect("JSON");
        let expected = serde_json::json!({
            "address": "10.0.0.1:80", "weight": 7, "priority": 0, "zone": "a", "healthy": false,
            "effectiveWeight": 2.0, "inFlight": 5, "ewmaMs": 3.0, "percent": 100,
        });
        assert_eq!(row, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_does_not_answer_is_left_out_by_name() {
        let (busy, _never_read) = mpsc::channel(1);
        let (answering, mut commands) = mpsc::channel(1);
        let (gone, _) = mpsc::channel(1);
        let answer = async {
            let Some(Command::Describe { done }) = commands.recv().await else { return };
            let _sent = done.send(Described::new());
        };
        let workers = [busy, answering, gone];
        let ((answers, missing), ()) = tokio::join!(ask(&workers), answer);
        assert_eq!((answers.len(), missing), (1, vec![0, 2]));
    }
}
