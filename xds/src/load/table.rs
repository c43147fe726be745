//! What clients have reported, and the rows it makes. Pure: the time is told.
//!
//! A report replaces what its client said before of the same clusters. A load is forgotten some
//! time after its last report, whether the client went away or has nothing to say: gRPC leaves out
//! clusters that saw nothing, Envoy names them without load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portolan_model::ServiceKey;
use serde::Serialize;

use super::report::{ClusterLoad, Report, ZoneLoad};

/// How much is kept; what is past a bound is counted and not taken.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients with load.
    pub clients: usize,
    /// Clusters of one client.
    pub clusters: usize,
    /// Zones of one cluster of a client.
    pub zones: usize,
    /// Categories of dropped requests of one cluster of a client.
    pub drop_categories: usize,
    /// Metrics of endpoints in one zone.
    pub metrics: usize,
    /// Length of each name, in octets.
    pub text_bytes: usize,
    /// Clusters, zones, categories and metrics of all clients together.
    pub entries: usize,
}

/// A client's place in the table, for as long as its stream lasts.
#[derive(Clone, Debug)]
pub struct Client {
    id: u64,
    node: Arc<str>,
}

/// The load by client.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    keep: Duration,
    next: u64,
    clients: BTreeMap<u64, ClientLoad>,
    /// Sum of [`size`] over all that is held.
    entries: usize,
}

/// What one client has reported.
#[derive(Debug)]
struct ClientLoad {
    node: Arc<str>,
    /// Its stream has ended: nothing will follow.
    ended: bool,
    clusters: BTreeMap<Box<str>, Reported>,
}

/// A cluster's load, and when it came.
#[derive(Debug)]
struct Reported {
    at: Instant,
    load: ClusterLoad,
}

/// The load of a cluster in a zone, over all clients, each by its last interval.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadRow {
    /// The cluster, `shop/web:80`.
    pub cluster: Arc<str>,
    /// The service's namespace, if the cluster is a service's.
    pub namespace: Option<Arc<str>>,
    /// The service's name.
    pub service: Option<Arc<str>>,
    /// The service's port.
    pub port: Option<u16>,
    /// The zone of the endpoints. Without one: that of endpoints without a zone, and requests
    /// dropped before an endpoint was picked.
    pub zone: Option<Arc<str>>,
    /// Clients that reported.
    pub reporters: usize,
    /// Requests begun.
    pub requests_per_sec: f64,
    /// Requests that ended well.
    pub successes_per_sec: f64,
    /// Requests that ended in an error.
    pub errors_per_sec: f64,
    /// Errors among what ended; none if nothing did.
    pub error_percent: Option<f64>,
    /// Requests under way.
    pub in_progress: u64,
    /// Requests dropped by the clients.
    pub drops_per_sec: f64,
    /// Those of them that have a category.
    pub drop_categories: BTreeMap<Box<str>, f64>,
    /// What endpoints said of themselves (ORCA), by name.
    pub metrics: BTreeMap<Box<str>, MetricRow>,
    /// Age of the newest report, in seconds.
    pub age_secs: u64,
}

/// A metric of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricRow {
    /// Requests that carried it, per second.
    pub requests_per_sec: f64,
    /// Mean of its values over these requests.
    pub mean: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 10_000,
            clusters: 50_000,
            zones: 64,
            drop_categories: 32,
            metrics: 32,
            text_bytes: 512,
            entries: 1_000_000,
        }
    }
}

impl Table {
    /// An empty table; a load is forgotten when its last report is older than `keep`.
    #[must_use]
    pub fn new(limits: Limits, keep: Duration) -> Self {
        Self { limits, keep, next: 0, clients: BTreeMap::new(), entries: 0 }
    }

    /// A new client. It takes nothing until it reports.
    pub fn open(&mut self, node: &str) -> Client {
        self.next += 1;
        Client { id: self.next, node: shortened(node, self.limits.text_bytes).into() }
    }

    /// Takes a report; says how many parts of it, and of what was cut from it before, were refused.
    pub fn record(&mut self, client: &Client, report: Report, now: Instant) -> u64 {
        self.expire(now);
        let mut refused = report.refused;
        if report.clusters.is_empty() {
            return refused;
        }
        self.succeed(client);
        let full = self.clients.len() >= self.limits.clients;
        if full && !self.clients.contains_key(&client.id) {
            let parts: usize = report.clusters.len();
            return refused.saturating_add(u64::try_from(parts).unwrap_or(u64::MAX));
        }
        let known = self.clients.entry(client.id).or_insert_with(|| ClientLoad {
            node: client.node.clone(),
            ended: false,
            clusters: BTreeMap::new(),
        });
        for (name, load) in report.clusters {
            let before = known.clusters.get(&name).map(|reported| size(&reported.load));
            if load.is_idle() {
                known.clusters.remove(&name);
                self.entries -= before.unwrap_or(0);
                continue;
            }
            let others = self.entries - before.unwrap_or(0);
            let crowded = before.is_none() && known.clusters.len() >= self.limits.clusters;
            if crowded || others + size(&load) > self.limits.entries {
                // What it said before of this cluster runs out by its age.
                refused += 1;
                continue;
            }
            self.entries = others + size(&load);
            known.clusters.insert(name, Reported { at: now, load });
        }
        if known.clusters.is_empty() {
            self.clients.remove(&client.id);
        }
        refused
    }

    /// The client's stream has ended: what it reported runs out by its age.
    pub fn end(&mut self, client: &Client) {
        if let Some(known) = self.clients.get_mut(&client.id) {
            known.ended = true;
        }
    }

    /// Forgets what is too old.
    pub fn expire(&mut self, now: Instant) {
        let (keep, entries) = (self.keep, &mut self.entries);
        self.clients.retain(|_, client| {
            client.clusters.retain(|_, reported| {
                let young = now.saturating_duration_since(reported.at) <= keep;
                if !young {
                    *entries -= size(&reported.load);
                }
                young
            });
            !client.clusters.is_empty()
        });
    }

    /// Rows held: one for each client, cluster and zone, and one for what was dropped.
    #[must_use]
    pub fn row_count(&self) -> usize {
        let clusters = self.clients.values().flat_map(|client| client.clusters.values());
        clusters.map(|Reported { load, .. }| load.zones.len() + usize::from(load.dropped > 0)).sum()
    }

    /// The load by cluster and zone.
    #[must_use]
    pub fn rows(&mut self, now: Instant) -> Vec<LoadRow> {
        self.expire(now);
        let mut rows: BTreeMap<(&str, &str), LoadRow> = BTreeMap::new();
        for client in self.clients.values() {
            for (cluster, Reported { at, load }) in &client.clusters {
                // Who does not say how long it counted, counted for as long as it was asked to.
                let secs = load.interval.unwrap_or(self.keep / 2).as_secs_f64();
                let age_secs = now.saturating_duration_since(*at).as_secs();
                for (zone, of_zone) in &load.zones {
                    let row = rows.entry((cluster, zone)).or_insert_with(|| named(cluster, zone));
                    row.count_reporter(age_secs);
                    row.add(of_zone, secs);
                }
                if load.dropped > 0 {
                    let row = rows.entry((cluster, "")).or_insert_with(|| named(cluster, ""));
                    if !load.zones.contains_key("") {
                        row.count_reporter(age_secs);
                    }
                    row.add_drops(load, secs);
                }
            }
        }
        rows.into_values().map(LoadRow::finished).collect()
    }

    /// A client that comes back takes the place of what its ended streams left, lest it count
    /// twice.
    fn succeed(&mut self, client: &Client) {
        if self.clients.contains_key(&client.id) {
            return;
        }
        let entries = &mut self.entries;
        self.clients.retain(|_, other| {
            let replaced = other.ended && other.node == client.node;
            if replaced {
                *entries -= other.clusters.values().map(|r| size(&r.load)).sum::<usize>();
            }
            !replaced
        });
    }
}

impl LoadRow {
    /// Whether two rows say the same, the time that passed apart.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        Self { age_secs: 0, ..self.clone() } == Self { age_secs: 0, ..other.clone() }
    }

    fn count_reporter(&mut self, age_secs: u64) {
        self.age_secs = if self.reporters == 0 { age_secs } else { self.age_secs.min(age_secs) };
        self.reporters += 1;
    }

    fn add(&mut self, load: &ZoneLoad, secs: f64) {
        // Clients that do not count what they begin say what has ended.
        let issued = load.issued.max(load.successful.saturating_add(load.failed));
        self.requests_per_sec += float(issued) / secs;
        self.successes_per_sec += float(load.successful) / secs;
        self.errors_per_sec += float(load.failed) / secs;
        self.in_progress = self.in_progress.saturating_add(load.in_progress);
        for (name, sum) in &load.metrics {
            let metric = self.metrics.entry(name.clone()).or_default();
            let requests = float(sum.requests) / secs;
            let all = metric.requests_per_sec + requests;
            if requests > 0.0 {
                // The mean of means, each weighing as much as it has requests.
                metric.mean += (sum.total / float(sum.requests) - metric.mean) * (requests / all);
            }
            metric.requests_per_sec = all;
        }
    }

    fn add_drops(&mut self, load: &ClusterLoad, secs: f64) {
        self.drops_per_sec += float(load.dropped) / secs;
        for (category, count) in &load.drops {
            *self.drop_categories.entry(category.clone()).or_default() += float(*count) / secs;
        }
    }

    fn finished(mut self) -> Self {
        let ended = self.successes_per_sec + self.errors_per_sec;
        self.error_percent = (ended > 0.0).then(|| 100.0 * self.errors_per_sec / ended);
        self
    }
}

/// An empty row.
fn named(cluster: &str, zone: &str) -> LoadRow {
    let service = cluster
        .rsplit_once(':')
        .and_then(|(key, port)| Some((ServiceKey::parse(key).ok()?, port.parse::<u16>().ok()?)));
    let (key, port) = service.unzip();
    LoadRow {
        cluster: cluster.into(),
        namespace: key.as_ref().map(|key| key.namespace().clone()),
        service: key.as_ref().map(|key| key.name().clone()),
        port,
        zone: (!zone.is_empty()).then(|| zone.into()),
        ..LoadRow::default()
    }
}

/// What a cluster's load takes of [`Limits::entries`].
fn size(load: &ClusterLoad) -> usize {
    let metrics: usize = load.zones.values().map(|zone| zone.metrics.len()).sum();
    1 + load.zones.len() + load.drops.len() + metrics
}

/// The beginning of a text, at most this many octets.
fn shortened(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// A count as a number that can be divided; past 2^53 it is the nearest there is.
fn float(count: u64) -> f64 {
    let high = u32::try_from(count >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(count & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}
