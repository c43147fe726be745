//! Tells the control plane what became of the requests to its clusters (LRS,
//! `envoy.service.load_stats.v3`), where clusters ask for it.
//!
//! What is counted is read from the proxy's counters and told as what has been added since the report
//! before. A report that does not arrive is lost; none waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::{ClusterTotals, ResourceName, TrafficConfig};
use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::endpoint::{
    ClusterStats, EndpointLoadMetricStats, UpstreamLocalityStats,
};
use portolan_proto::envoy::load_stats::load_reporting_service_client::LoadReportingServiceClient;
use portolan_proto::envoy::load_stats::{LoadStatsRequest, LoadStatsResponse};
use portolan_runtime::pause::jittered;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::XdsClient;
use super::{connect, decode};
use crate::load::LATENCY;
use crate::resource::duration;

/// Says that it can be asked for all clusters.
const ALL_CLUSTERS: &str = "envoy.lrs.supports_send_all_clusters";
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LIMIT: Duration = Duration::from_secs(60);
/// Before a server that does not know the service is asked again.
const UNKNOWN: Duration = Duration::from_secs(600);
/// What a server may ask for, however little or much it says.
const INTERVALS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);

/// Reads what each cluster has seen so far.
#[derive(Clone)]
pub struct LoadSource(Arc<dyn Fn() -> BTreeMap<ResourceName, ClusterTotals> + Send + Sync>);

impl std::fmt::Debug for LoadSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LoadSource").finish_non_exhaustive()
    }
}

impl LoadSource {
    /// Read by this.
    pub fn new(
        read: impl Fn() -> BTreeMap<ResourceName, ClusterTotals> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(read))
    }
}

impl XdsClient {
    /// Reports for as long as it is polled.
    pub(super) async fn report_load(&self) {
        let Some(source) = &self.load else { return std::future::pending().await };
        let mut traffic = self.sender.subscribe();
        let mut pause = PAUSE_FIRST;
        loop {
            // Nobody is asked before a cluster says that it wants to know.
            if traffic.wait_for(|config| !asked(config).is_empty()).await.is_err() {
                return std::future::pending().await;
            }
            let begun = Instant::now();
            let Err(status) = self.load_stream(source, &mut traffic).await else { continue };
            tracing::debug!(%status, "load is not reported");
            pause = match status.code() {
                Code::Unimplemented => UNKNOWN,
                _ if begun.elapsed() > PAUSE_LIMIT => PAUSE_FIRST,
                _ => (pause * 2).min(PAUSE_LIMIT),
            };
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    /// One stream, to its end, or until no cluster asks any more.
    async fn load_stream(
        &self,
        source: &LoadSource,
        traffic: &mut watch::Receiver<Arc<TrafficConfig>>,
    ) -> Result<(), Status> {
        let (channel, ended) = self.target.connect(&self.tls).await?;
        let bearer = connect::bearer(self.token.as_ref())?;
        let mut client = LoadReportingServiceClient::with_interceptor(channel, bearer);
        let (requests, receiver) = mpsc::channel(1);
        let mut node = self.node.clone();
        node.client_features.push(ALL_CLUSTERS.to_owned());
        let first = LoadStatsRequest { node: Some(node), cluster_stats: Vec::new() };
        // There is room for it.
        let _sent = requests.try_send(first);
        let opened = client.stream_load_stats(ReceiverStream::new(receiver));
        let response = ended.or(opened).await?;
        let mut responses = response.into_inner();
        let closed = || Status::unavailable("the control plane closed the stream");
        let mut wanted = Wanted::of(responses.message().await?.ok_or_else(closed)?)?;
        let (mut before, mut since) = ((source.0)(), Instant::now());
        loop {
            tokio::select! {
                response = responses.message() => {
                    wanted = Wanted::of(response?.ok_or_else(closed)?)?;
                }
                () = tokio::time::sleep_until(since + wanted.interval) => {
                    let asked = asked(&traffic.borrow_and_update());
                    if asked.is_empty() {
                        return Ok(());
                    }
                    let (now, took) = ((source.0)(), since.elapsed());
                    since = Instant::now();
                    let names = asked.iter().filter(|name| wanted.has(name));
                    let names: Vec<&ResourceName> = names.collect();
                    let cluster_stats = stats(&names, &before, &now, took);
                    before = now;
                    let report = LoadStatsRequest { node: None::<Node>, cluster_stats };
                    // A server that reads nothing misses a report, and holds nobody up.
                    let _full = requests.try_send(report);
                }
            }
        }
    }
}

/// What a server wants to be told.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    interval: Duration,
    /// The clusters; `None`: all.
    clusters: Option<BTreeSet<String>>,
}

impl Wanted {
    fn of(response: LoadStatsResponse) -> Result<Self, Status> {
        let said = response.load_reporting_interval.unwrap_or_default();
        let interval = decode::duration("load_reporting_interval", &said);
        let interval = interval.map_err(Status::invalid_argument)?;
        let clusters =
            (!response.send_all_clusters).then(|| response.clusters.into_iter().collect());
        Ok(Self { interval: interval.clamp(*INTERVALS.start(), *INTERVALS.end()), clusters })
    }

    fn has(&self, name: &str) -> bool {
        self.clusters.as_ref().is_none_or(|clusters| clusters.contains(name))
    }
}

/// The clusters that ask for reports.
fn asked(config: &TrafficConfig) -> BTreeSet<ResourceName> {
    let asking = config.clusters.iter().filter(|(_, cluster)| cluster.reports_load);
    asking.map(|(name, _)| Arc::clone(name)).collect()
}

/// What has been added to the totals of these; a cluster that saw nothing and has nothing under way is
/// left out.
fn stats(
    names: &[&ResourceName],
    before: &BTreeMap<ResourceName, ClusterTotals>,
    now: &BTreeMap<ResourceName, ClusterTotals>,
    took: Duration,
) -> Vec<ClusterStats> {
    let one = |name: &&ResourceName| {
        let new = now.get(*name)?;
        let old = before.get(*name).copied().unwrap_or_default();
        let added = |read: fn(&ClusterTotals) -> u64| read(new).saturating_sub(read(&old));
        let (issued, good, bad) = (added(|t| t.issued), added(|t| t.good), added(|t| t.bad));
        if issued + good + bad + new.active == 0 {
            return None;
        }
        let timed = added(|totals| totals.timed);
        let latency = EndpointLoadMetricStats {
            metric_name: LATENCY.to_owned(),
            num_requests_finished_with_metric: timed,
            total_metric_value: added(|totals| totals.micros) as f64 / 1e3,
        };
        Some(ClusterStats {
            cluster_name: name.to_string(),
            upstream_locality_stats: vec![UpstreamLocalityStats {
                total_issued_requests: issued,
                total_successful_requests: good,
                total_error_requests: bad,
                total_requests_in_progress: new.active,
                load_metric_stats: (timed > 0).then_some(latency).into_iter().collect(),
                ..UpstreamLocalityStats::default()
            }],
            load_report_interval: Some(duration(took)),
            ..ClusterStats::default()
        })
    };
    names.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use portolan_proto::envoy::protobuf;

    use super::*;

    fn totals(issued: u64, good: u64, bad: u64, active: u64) -> ClusterTotals {
        ClusterTotals { issued, good, bad, timed: good + bad, micros: 2000 * good, active }
    }

    #[test]
    fn what_is_told_is_what_was_added() {
        let name = |name: &str| -> ResourceName { name.into() };
        let (a, b, c, d) = (name("a"), name("b"), name("c"), name("d"));
        let before = [(a.clone(), totals(5, 3, 1, 1)), (b.clone(), totals(7, 7, 0, 0))].into();
        let now = [
            (a.clone(), totals(9, 6, 2, 1)),
            (b.clone(), totals(7, 7, 0, 0)),
            (c.clone(), totals(4, 4, 0, 0)),
            (d, totals(1, 1, 0, 0)),
        ]
        .into();
        let took = Duration::from_millis(1500);
        let told = stats(&[&a, &b, &c], &before, &now, took);
        let said: Vec<_> = (told.iter())
            .map(|stats| {
                let of = &stats.upstream_locality_stats[0];
                let latency = &of.load_metric_stats[0];
                let counts = [
                    of.total_issued_requests,
                    of.total_successful_requests,
                    of.total_error_requests,
                    of.total_requests_in_progress,
                    latency.num_requests_finished_with_metric,
                ];
                (stats.cluster_name.as_str(), counts, latency.total_metric_value)
            })
            .collect();
        assert_eq!(said, [("a", [4, 3, 1, 1, 4], 6.0), ("c", [4, 4, 0, 0, 4], 8.0)]);
        let interval = told[0].load_report_interval.as_ref().expect("said");
        assert_eq!((interval.seconds, interval.nanos), (1, 500_000_000));
    }

    #[test]
    fn what_a_server_asks_for_is_held_to_what_can_be_done() {
        let response = |seconds, nanos, all: bool, clusters: &[&str]| LoadStatsResponse {
            send_all_clusters: all,
            clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
            load_reporting_interval: Some(protobuf::Duration { seconds, nanos }),
            ..LoadStatsResponse::default()
        };
        let wanted = Wanted::of(response(10, 0, false, &["a"])).expect("sensible");
        assert_eq!(wanted.interval, Duration::from_secs(10));
        assert!(wanted.has("a") && !wanted.has("b"));
        let wanted = Wanted::of(response(0, 0, true, &[])).expect("sensible");
        assert_eq!(wanted.interval, *INTERVALS.start());
        assert!(wanted.has("b"));
        let wanted = Wanted::of(response(300_000_000_000, 0, true, &[])).expect("sensible");
        assert_eq!(wanted.interval, *INTERVALS.end());
        assert!(Wanted::of(response(-1, 0, true, &[])).is_err());
    }
}
