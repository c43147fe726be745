//! What the plain API counts.

use portolan_runtime::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tonic::{Code, Status};

/// Counters and gauges of the plain API. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PlainMetrics {
    /// Watches open now.
    pub(super) watches: Gauge,
    /// Watches refused because the limit was reached.
    pub(super) refused: Counter,
    /// Services that somebody watches.
    pub(super) services: Gauge,
    requests: Family<RequestLabel, Counter>,
    responses: Family<KindLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    method: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

impl PlainMetrics {
    /// Registers the metrics.
    #[must_use]
    pub fn new(metrics: &Metrics) -> Self {
        let own = Self::default();
        metrics.register("plain_watches", "Watches open now", own.watches.clone());
        metrics.register("plain_watches_refused", "Watches over the limit", own.refused.clone());
        metrics.register(
            "plain_services",
            "Services that at least one client watches",
            own.services.clone(),
        );
        metrics.register(
            "plain_requests",
            "Requests to the plain API, by method and outcome",
            own.requests.clone(),
        );
        metrics.register(
            "plain_responses",
            "Responses sent to watches, by kind",
            own.responses.clone(),
        );
        own
    }

    /// Counts a request by how it was answered.
    pub(super) fn request<T>(&self, method: &'static str, result: &Result<T, Status>) {
        let outcome = match result.as_ref().map_err(Status::code) {
            Ok(_) => "ok",
            Err(Code::InvalidArgument) => "invalid",
            Err(Code::NotFound) => "not_found",
            Err(Code::PermissionDenied | Code::Unauthenticated) => "denied",
            Err(Code::ResourceExhausted) => "exhausted",
            Err(Code::Unavailable) => "unavailable",
            Err(_) => "other",
        };
        self.requests.get_or_create(&RequestLabel { method, outcome }).inc();
    }

    /// Counts a response of a watch.
    pub(super) fn response(&self, kind: &'static str) {
        self.responses.get_or_create(&KindLabel { kind }).inc();
    }
}
