//! LRS (`envoy.service.load_stats.v3`): clients tell how many requests they sent where, and what
//! became of them; `portolan get load` shows it.
//!
//! Owns the handle that the gRPC service, the admin port and the metrics share. What is kept is in
//! [`table`], what comes off the wire in [`report`], gRPC in [`service`].

pub mod report;
pub mod service;
pub mod table;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portolan_runtime::{Lifecycle, Metrics};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use report::Report;
use service::LoadService;
pub use table::LoadRow;
use table::{Client, Limits, Table};

/// Settings of load reports.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// How often clients are asked to report. A load is forgotten two of these after its last
    /// report.
    pub interval: Duration,
    /// Streams open at once; more are refused with `RESOURCE_EXHAUSTED`.
    pub streams: usize,
    /// Largest report, in bytes.
    pub report_bytes: usize,
    /// How much of what clients say is kept.
    pub limits: Limits,
}

/// What clients report. Cheap to clone.
#[derive(Clone)]
pub struct LoadReports {
    config: Arc<LoadConfig>,
    table: Arc<Mutex<Table>>,
    /// What was reported since it was last taken, if anybody takes it.
    gathered: Arc<Mutex<Option<ByCluster>>>,
    /// One for each stream that may still be opened.
    places: Arc<Semaphore>,
    metrics: LoadMetrics,
}

/// The metric by which our proxy tells how long answers take: from the request to the head of its
/// answer, in milliseconds.
pub const LATENCY: &str = "portolan.latency_ms";

/// What became of the requests to a cluster, over all reports that were gathered.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gathered {
    /// Requests that ended well.
    pub good: u64,
    /// Requests that ended in an error.
    pub bad: u64,
    /// Requests whose answer was timed.
    pub timed: u64,
    /// The times of these together, in milliseconds.
    pub millis: f64,
}

/// What was gathered, by cluster.
type ByCluster = BTreeMap<Box<str>, Gathered>;

/// What the service counts.
#[derive(Clone, Debug, Default)]
struct LoadMetrics {
    streams: Gauge,
    streams_refused: Counter,
    reports: Counter,
    refused: Counter,
}

/// Counts what the table holds when it is asked: what has run out by then is not counted.
struct Rows(LoadReports);

impl Default for LoadConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            streams: 10_000,
            report_bytes: 16 * 1024 * 1024,
            limits: Limits::default(),
        }
    }
}

impl fmt::Debug for LoadReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadReports").field("config", &self.config).finish_non_exhaustive()
    }
}

impl LoadReports {
    /// Nothing reported yet; registers the metrics.
    #[must_use]
    pub fn new(config: LoadConfig, metrics: &Metrics) -> Self {
        let own = LoadMetrics::default();
        metrics.register("load_streams", "Streams of load reports open now", own.streams.clone());
        metrics.register(
            "load_streams_refused",
            "Streams of load reports over the limit",
            own.streams_refused.clone(),
        );
        metrics.register("load_reports", "Load reports taken", own.reports.clone());
        metrics.register(
            "load_rows_refused",
            "Parts of load reports not taken: past a bound, or no sensible numbers",
            own.refused.clone(),
        );
        let table = Table::new(config.limits.clone(), config.interval.saturating_mul(2));
        let reports = Self {
            places: Arc::new(Semaphore::new(config.streams.min(Semaphore::MAX_PERMITS))),
            config: Arc::new(config),
            table: Arc::new(Mutex::new(table)),
            gathered: Arc::default(),
            metrics: own,
        };
        metrics.register_collector(Box::new(Rows(reports.clone())));
        reports
    }

    /// The gRPC service, to be added to a server. Its streams end with `UNAVAILABLE` once draining
    /// has begun; clients open them again elsewhere.
    #[must_use]
    pub fn service(&self, lifecycle: Lifecycle) -> LoadService {
        LoadService::new(self.clone(), lifecycle)
    }

    /// The load by cluster and zone, over the last interval that each client has reported.
    #[must_use]
    pub fn view(&self) -> Vec<LoadRow> {
        self.table().rows(Instant::now().into_std())
    }

    /// How often clients are asked to report.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.config.interval
    }

    /// A place for a client with this node id.
    #[must_use]
    pub fn open(&self, node: &str) -> Client {
        self.table().open(node)
    }

    /// Takes a client's report.
    pub fn record(&self, client: &Client, report: Report) {
        let now = Instant::now().into_std();
        self.gather(&report);
        let refused = self.table().record(client, report, now);
        self.metrics.reports.inc();
        self.metrics.refused.inc_by(refused);
    }

    /// What was reported since it was last taken; from the first time on it is gathered.
    #[must_use]
    pub fn take(&self) -> BTreeMap<Box<str>, Gathered> {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        gathered.replace(BTreeMap::new()).unwrap_or_default()
    }

    fn gather(&self, report: &Report) {
        let mut gathered = self.gathered.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gathered) = &mut *gathered else { return };
        for (cluster, load) in &report.clusters {
            if gathered.len() >= self.config.limits.clusters && !gathered.contains_key(cluster) {
                continue;
            }
            let sum = gathered.entry(cluster.clone()).or_default();
            for zone in load.zones.values() {
                // A client may say any number.
                sum.good = sum.good.saturating_add(zone.successful);
                sum.bad = sum.bad.saturating_add(zone.failed);
                let latency = zone.metrics.get(LATENCY);
                if let Some(latency) = latency.filter(|latency| latency.total.is_finite()) {
                    sum.timed = sum.timed.saturating_add(latency.requests);
                    sum.millis += latency.total;
                }
            }
        }
    }

    /// A client's stream has ended: what it reported runs out by its age.
    pub fn end(&self, client: &Client) {
        self.table().end(client);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rows").finish_non_exhaustive()
    }
}

impl Collector for Rows {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let rows = {
            let mut table = self.0.table();
            table.expire(Instant::now().into_std());
            table.row_count()
        };
        let gauge = ConstGauge::new(i64::try_from(rows).unwrap_or(i64::MAX));
        let help = "Rows of load held, one for each client, cluster and zone";
        let encoder = encoder.encode_descriptor("load_rows", help, None, gauge.metric_type())?;
        gauge.encode(encoder)?;
        Ok(())
    }
}
