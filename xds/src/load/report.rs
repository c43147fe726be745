//! A load report off the wire, cut to its bounds while it is read.
//!
//! The message is walked by hand: decoded in one go, the two octets of an empty part become hundreds
//! in memory, so that a report of 16 MiB could take gigabytes. Here one cluster is decoded at a
//! time, and what is past a bound is counted and skipped.
//!
//! Source: `envoy/service/load_stats/v3/lrs.proto`, `envoy/config/endpoint/v3/load_report.proto`.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, Bytes};
use portolan_proto::envoy::core::Node;
use portolan_proto::envoy::endpoint::{
    ClusterStats, UnnamedEndpointLoadMetricStats, UpstreamLocalityStats,
};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};

use super::table::Limits;

/// Largest node that is read, in octets: metadata of a mesh takes some thousands.
const MAX_NODE_BYTES: usize = 256 * 1024;
/// Largest part about one cluster, in octets; what is larger counts as refused.
const MAX_CLUSTER_BYTES: usize = 64 * 1024;
/// Longest interval a client may name; more is taken for this.
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// Says that a client honours `send_all_clusters`.
const SUPPORTS_ALL_CLUSTERS: &str = "envoy.lrs.supports_send_all_clusters";

// Field numbers of `envoy.service.load_stats.v3.LoadStatsRequest`.
const NODE: u32 = 1;
const CLUSTER_STATS: u32 = 2;

/// What a client said, within the bounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Who it is; clients need say so in their first request alone.
    pub node: Option<ReportingNode>,
    /// Load by cluster.
    pub clusters: BTreeMap<Box<str>, ClusterLoad>,
    /// Parts that were not taken.
    pub refused: u64,
}

/// Who reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportingNode {
    /// Its id.
    pub id: String,
    /// Whether it can be asked for all clusters; else they have to be named.
    pub all_clusters: bool,
}

/// The load of one cluster over one interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterLoad {
    /// How long the client counted; `None` if it does not say.
    pub interval: Option<Duration>,
    /// Load by zone; the empty one is that of endpoints without a zone.
    pub zones: BTreeMap<Box<str>, ZoneLoad>,
    /// Requests dropped before an endpoint was picked.
    pub dropped: u64,
    /// Those of them that have a category.
    pub drops: BTreeMap<Box<str>, u64>,
}

/// The load of one zone of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ZoneLoad {
    /// Requests begun in the interval.
    pub issued: u64,
    /// Requests that ended well in it.
    pub successful: u64,
    /// Requests that ended in an error in it.
    pub failed: u64,
    /// Requests under way at its end.
    pub in_progress: u64,
    /// What endpoints said of themselves (ORCA), by name.
    pub metrics: BTreeMap<Box<str>, MetricSum>,
}

/// A metric summed over requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MetricSum {
    /// Requests that carried it.
    pub requests: u64,
    /// Sum of its values.
    pub total: f64,
}

impl Report {
    /// Reads a `LoadStatsRequest`.
    ///
    /// # Errors
    /// When the octets are no such message, or the node is larger than any node is.
    pub fn decode(mut message: Bytes, limits: &Limits) -> Result<Self, InvalidReport> {
        let mut report = Self::default();
        while message.has_remaining() {
            let (field, wire) = decode_key(&mut message)?;
            match (field, wire) {
                (NODE, WireType::LengthDelimited) => {
                    let node = part(&mut message)?;
                    if node.len() > MAX_NODE_BYTES {
                        return Err(InvalidReport::Node { length: node.len() });
                    }
                    report.node = Some(ReportingNode::from(Node::decode(node)?));
                }
                (CLUSTER_STATS, WireType::LengthDelimited) => {
                    let cluster = part(&mut message)?;
                    if report.clusters.len() < limits.clusters && cluster.len() <= MAX_CLUSTER_BYTES
                    {
                        report.add(ClusterStats::decode(cluster)?, limits);
                    } else {
                        report.refused += 1;
                    }
                }
                _ => skip_field(wire, field, &mut message, DecodeContext::default())?,
            }
        }
        Ok(report)
    }

    /// Adds a cluster. One cluster may come several times, by its EDS names.
    fn add(&mut self, stats: ClusterStats, limits: &Limits) {
        let refused = &mut self.refused;
        if stats.cluster_name.is_empty() || stats.cluster_name.len() > limits.text_bytes {
            *refused += 1;
            return;
        }
        let cluster = self.clusters.entry(stats.cluster_name.into()).or_default();
        cluster.interval = cluster.interval.max(interval(stats.load_report_interval.as_ref()));
        let mut categorised: u64 = 0;
        for drops in stats.dropped_requests {
            let Some(count) = count(drops.dropped_count) else {
                *refused += 1;
                continue;
            };
            categorised = categorised.saturating_add(count);
            match entry(&mut cluster.drops, drops.category, limits.drop_categories, limits) {
                Some(sum) => *sum = sum.saturating_add(count),
                None => *refused += 1,
            }
        }
        match count(stats.total_dropped_requests) {
            // The total holds those with a category, where the client counts one at all.
            Some(total) => cluster.dropped = cluster.dropped.saturating_add(total.max(categorised)),
            None => *refused += 1,
        }
        for locality in stats.upstream_locality_stats {
            cluster.add(locality, limits, refused);
        }
    }
}

impl ClusterLoad {
    /// Whether the cluster saw nothing.
    pub(super) fn is_idle(&self) -> bool {
        self.zones.is_empty() && self.dropped == 0
    }

    /// Adds a locality to its zone: those of one zone differ by region, sub-zone or priority.
    fn add(&mut self, stats: UpstreamLocalityStats, limits: &Limits, refused: &mut u64) {
        let counts = [
            count(stats.total_issued_requests),
            count(stats.total_successful_requests),
            count(stats.total_error_requests),
            count(stats.total_requests_in_progress),
        ];
        let zone = stats.locality.map(|locality| locality.zone).unwrap_or_default();
        let [Some(issued), Some(successful), Some(failed), Some(in_progress)] = counts else {
            *refused += 1;
            return;
        };
        let Some(load) = entry(&mut self.zones, zone, limits.zones, limits) else {
            *refused += 1;
            return;
        };
        load.issued = load.issued.saturating_add(issued);
        load.successful = load.successful.saturating_add(successful);
        load.failed = load.failed.saturating_add(failed);
        load.in_progress = load.in_progress.saturating_add(in_progress);
        let named = stats.load_metric_stats.into_iter().map(|metric| {
            (
                metric.metric_name,
                metric.num_requests_finished_with_metric,
                metric.total_metric_value,
            )
        });
        let unnamed = [
            ("cpu_utilization", stats.cpu_utilization),
            ("mem_utilization", stats.mem_utilization),
            ("application_utilization", stats.application_utilization),
        ];
        let unnamed = unnamed.into_iter().filter_map(|(name, metric)| {
            let UnnamedEndpointLoadMetricStats {
                num_requests_finished_with_metric: requests,
                total_metric_value: total,
            } = metric?;
            Some((name.to_owned(), requests, total))
        });
        for (name, requests, total) in named.chain(unnamed) {
            load.add_metric(name, requests, total, limits, refused);
        }
    }
}

impl ZoneLoad {
    fn add_metric(
        &mut self,
        name: String,
        requests: u64,
        total: f64,
        limits: &Limits,
        refused: &mut u64,
    ) {
        let sum = count(requests).filter(|_| total.is_finite()).and_then(|requests| {
            Some((entry(&mut self.metrics, name, limits.metrics, limits)?, requests))
        });
        match sum {
            Some((sum, requests)) if (sum.total + total).is_finite() => {
                sum.requests = sum.requests.saturating_add(requests);
                sum.total += total;
            }
            _ => *refused += 1,
        }
    }
}

impl From<Node> for ReportingNode {
    fn from(node: Node) -> Self {
        let all_clusters = node.client_features.iter().any(|word| word == SUPPORTS_ALL_CLUSTERS);
        Self { id: node.id, all_clusters }
    }
}

/// A report that is none.
#[derive(Debug, thiserror::Error)]
pub enum InvalidReport {
    /// The octets are no `LoadStatsRequest`.
    #[error("not a load report: {0}")]
    Message(#[from] DecodeError),
    /// A part is longer than what there is.
    #[error("not a load report: it ends before it should")]
    Short,
    /// Nobody's node is that large.
    #[error("the node of a load report has {length} octets; at most {MAX_NODE_BYTES} are read")]
    Node {
        /// Its length.
        length: usize,
    },
}

/// The length-delimited part that begins here.
fn part(message: &mut Bytes) -> Result<Bytes, InvalidReport> {
    let length = usize::try_from(decode_varint(message)?).ok();
    let length = length.filter(|length| *length <= message.len());
    Ok(message.split_to(length.ok_or(InvalidReport::Short)?))
}

/// A counter; none if it is one that ran below zero.
fn count(value: u64) -> Option<u64> {
    i64::try_from(value).is_ok().then_some(value)
}

/// The place of a name, unless it is too long or there are too many.
fn entry<'a, T: Default>(
    map: &'a mut BTreeMap<Box<str>, T>,
    name: String,
    most: usize,
    limits: &Limits,
) -> Option<&'a mut T> {
    let known = map.contains_key(name.as_str());
    let room = known || (map.len() < most && name.len() <= limits.text_bytes);
    room.then(|| map.entry(name.into()).or_default())
}

/// An interval that rates can be made of.
fn interval(value: Option<&portolan_proto::envoy::protobuf::Duration>) -> Option<Duration> {
    let value = value?;
    let seconds = u64::try_from(value.seconds).ok()?;
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    let interval = Duration::new(seconds, nanos);
    (interval > Duration::ZERO).then_some(interval.min(MAX_INTERVAL))
}
