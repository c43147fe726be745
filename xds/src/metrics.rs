//! Metrics of the xDS server and client.

use portolan_runtime::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::resource::ResourceType;

/// What the server counts.
#[derive(Clone, Debug, Default)]
pub struct ServerMetrics {
    /// Streams open now.
    pub streams: Gauge,
    /// Streams refused because a limit was reached.
    pub refused: Counter,
    /// Streams that had to wait for their turn.
    pub delayed: Counter,
    /// Streams refused because the client did not prove who it is.
    pub unauthenticated: Counter,
    /// Connections closed because the limit was reached.
    pub connections_refused: Counter,
    /// Connections closed because they opened no stream in time.
    pub connections_unused: Counter,
    /// TLS handshakes that failed.
    pub handshakes_failed: Counter,
    /// Streams ended because the client broke a rule or a limit.
    pub violations: Counter,
    responses: Family<TypeLabel, Counter>,
    acks: Family<TypeLabel, Counter>,
    nacks: Family<TypeLabel, Counter>,
    resources: Family<TypeLabel, Gauge>,
    oversized: Gauge,
    told: Counter,
    subscribed: Gauge,
}

/// What the client counts.
#[derive(Clone, Debug, Default)]
pub struct ClientMetrics {
    /// 1 while connected to the control plane.
    pub connected: Gauge,
    /// Connections attempted.
    pub connects: Counter,
    rejected: Family<TypeLabel, Counter>,
    responses: Family<TypeLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabel {
    r#type: &'static str,
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn label(kind: ResourceType) -> TypeLabel {
    TypeLabel { r#type: kind.name() }
}

impl ServerMetrics {
    /// Registers the server's metrics.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register("xds_streams", "Streams open now", own.streams.clone());
        metrics.register("xds_streams_refused", "Streams over a limit", own.refused.clone());
        metrics.register(
            "xds_streams_delayed",
            "Streams that had to wait for their turn",
            own.delayed.clone(),
        );
        metrics.register(
            "xds_unauthenticated",
            "Streams refused because the client did not prove who it is",
            own.unauthenticated.clone(),
        );
        metrics.register(
            "xds_connections_refused",
            "Connections over the limit",
            own.connections_refused.clone(),
        );
        metrics.register(
            "xds_connections_unused",
            "Connections that opened no stream in time",
            own.connections_unused.clone(),
        );
        metrics.register(
            "xds_handshakes_failed",
            "TLS handshakes that failed",
            own.handshakes_failed.clone(),
        );
        metrics.register(
            "xds_oversized_resources",
            "Resources near the 4 MiB that some clients take in one message",
            own.oversized.clone(),
        );
        metrics.register(
            "xds_streams_told",
            "Streams told to look at something that changed, by publishes",
            own.told.clone(),
        );
        metrics.register(
            "xds_subscribed_names",
            "Names that some stream is subscribed to",
            own.subscribed.clone(),
        );
        metrics.register(
            "xds_violations",
            "Streams ended because the client passed a limit",
            own.violations.clone(),
        );
        metrics.register("xds_responses", "Responses sent, by type", own.responses.clone());
        metrics.register("xds_acks", "Responses taken by clients, by type", own.acks.clone());
        metrics.register("xds_nacks", "Responses refused by clients, by type", own.nacks.clone());
        metrics.register("xds_resources", "Resources served, by type", own.resources.clone());
        own
    }

    pub(crate) fn response(&self, kind: ResourceType) {
        self.responses.get_or_create(&label(kind)).inc();
    }

    pub(crate) fn ack(&self, kind: ResourceType) {
        self.acks.get_or_create(&label(kind)).inc();
    }

    pub(crate) fn nack(&self, kind: ResourceType) {
        self.nacks.get_or_create(&label(kind)).inc();
    }

    pub(crate) fn oversized(&self, count: usize) {
        self.oversized.set(gauge(count));
    }

    pub(crate) fn told(&self, streams: usize, names: usize) {
        self.told.inc_by(u64::try_from(streams).unwrap_or(u64::MAX));
        self.subscribed.set(gauge(names));
    }

    pub(crate) fn resources(&self, kind: ResourceType, count: usize) {
        self.resources.get_or_create(&label(kind)).set(gauge(count));
    }
}

impl ClientMetrics {
    /// Registers the client's metrics.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register(
            "xds_client_connected",
            "1 while connected to the control plane",
            own.connected.clone(),
        );
        metrics.register("xds_client_connects", "Connections attempted", own.connects.clone());
        metrics.register(
            "xds_client_rejected",
            "Responses with a resource this proxy refused, by type",
            own.rejected.clone(),
        );
        metrics.register(
            "xds_client_responses",
            "Responses received, by type",
            own.responses.clone(),
        );
        own
    }

    pub(crate) fn rejected(&self, kind: ResourceType) {
        self.rejected.get_or_create(&label(kind)).inc();
    }

    pub(crate) fn response(&self, kind: ResourceType) {
        self.responses.get_or_create(&label(kind)).inc();
    }
}
