//! Spans of the proxy on their way to a collector: OTLP over HTTP, as JSON (OpenTelemetry protocol, "OTLP/HTTP").
//!
//! A few at a time, or after a moment; what a collector does not take is dropped and counted. No request
//! waits for any of it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portolan_proxy::{Span, SpanKind, Tracer, Value};
use portolan_runtime::{Lifecycle, Metrics};
use prometheus_client::metrics::counter::Counter;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Spans that may wait; more are dropped (`portolan_proxy_spans_dropped_total`).
const WAITING: usize = 4_096;
/// Spans of a request to the collector, and how long they may wait for more.
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(1);
/// Longest time for a collector's answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A failure is in the log at most so often.
const QUIET: Duration = Duration::from_secs(60);

/// Where spans go, and of how many requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tracing {
    /// A collector, such as `http://127.0.0.1:4318`.
    pub(crate) endpoint: String,
    pub(crate) sample_per_million: u32,
    /// Who sends a request is believed whether it has spans.
    pub(crate) believes: bool,
    /// `service.name`
    pub(crate) service: String,
}

/// What sends them.
pub(crate) struct Exporter {
    url: String,
    resource: serde_json::Value,
    spans: mpsc::Receiver<Span>,
    agent: ureq::Agent,
    exported: Counter,
    failed: Counter,
    complained: Option<Instant>,
}

/// Both ends: `instance` is this proxy among all.
pub(crate) fn new(tracing: &Tracing, instance: &str, metrics: &Metrics) -> (Tracer, Exporter) {
    let (sender, spans) = mpsc::channel(WAITING);
    let (exported, failed) = (Counter::default(), Counter::default());
    metrics.register("traces_exported", "Spans that a collector took", exported.clone());
    metrics.register("traces_failed", "Spans that no collector took", failed.clone());
    let config = ureq::Agent::config_builder().timeout_global(Some(TIMEOUT));
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let exporter = Exporter {
        url: format!("{}/v1/traces", tracing.endpoint.trim_end_matches('/')),
        resource: json!({ "attributes": [
            text("service.name", &tracing.service),
            text("service.instance.id", instance),
            text("service.version", env!("CARGO_PKG_VERSION")),
        ] }),
        spans,
        agent: config.build().new_agent(),
        exported,
        failed,
        complained: None,
    };
    let Tracing { sample_per_million, believes, .. } = *tracing;
    (Tracer { sample_per_million, believes, sender }, exporter)
}

impl Exporter {
    /// Sends spans until nobody makes any more. Once the process drains, a collector that does not
    /// take them is not waited for.
    ///
    /// # Errors
    /// Never: a collector that is away is no reason to stop.
    pub(crate) async fn run(
        mut self,
        lifecycle: Lifecycle,
    ) -> Result<(), std::convert::Infallible> {
        let mut batch = Vec::with_capacity(BATCH);
        while self.gather(&mut batch).await {
            let taken = self.send(std::mem::take(&mut batch)).await;
            if !taken && lifecycle.is_draining() {
                break;
            }
        }
        // Whoever makes spans has ended; what it ended by is for it to say.
        lifecycle.draining().await;
        Ok(())
    }

    /// Waits for a batch; `false` at the end.
    async fn gather(&mut self, batch: &mut Vec<Span>) -> bool {
        let Some(first) = self.spans.recv().await else { return false };
        batch.push(first);
        let until = Instant::now() + DELAY;
        while batch.len() < BATCH {
            let left = BATCH - batch.len();
            tokio::select! {
                more = self.spans.recv_many(batch, left) => if more == 0 { break },
                () = sleep_until(until) => break,
            }
        }
        true
    }

    /// Whether a collector took it.
    async fn send(&mut self, batch: Vec<Span>) -> bool {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let body = request(&self.resource, &batch).to_string();
        let (agent, url) = (self.agent.clone(), self.url.clone());
        let sent = tokio::task::spawn_blocking(move || {
            let request = agent.post(url).header("content-type", "application/json");
            request.send(body).map(drop)
        });
        let error = match sent.await {
            Ok(Ok(())) => {
                self.exported.inc_by(count);
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        self.failed.inc_by(count);
        if self.complained.is_none_or(|at| at.elapsed() >= QUIET) {
            self.complained = Some(Instant::now());
            tracing::warn!(collector = self.url, error, spans = count, "spans were not taken");
        }
        false
    }
}

/// `ExportTraceServiceRequest`
fn request(resource: &serde_json::Value, spans: &[Span]) -> serde_json::Value {
    let scope = json!({ "name": "portolan", "version": env!("CARGO_PKG_VERSION") });
    let spans: Vec<_> = spans.iter().map(span).collect();
    let of_scope = json!({ "scope": scope, "spans": spans });
    json!({ "resourceSpans": [{ "resource": resource, "scopeSpans": [of_scope] }] })
}

/// Ids are in hexadecimal, numbers of 64 bits texts (OTLP, "JSON Protobuf Encoding").
fn span(span: &Span) -> serde_json::Value {
    let nanos = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let attribute = |(key, value): &(&str, Value)| {
        let value = match value {
            Value::Text(text) => json!({ "stringValue": text }),
            Value::Number(number) => json!({ "intValue": number.to_string() }),
        };
        json!({ "key": key, "value": value })
    };
    let mut said = json!({
        "traceId": format!("{:032x}", span.trace),
        "spanId": format!("{:016x}", span.id),
        "name": span.name,
        "kind": match span.kind {
            SpanKind::Server => 2,
            SpanKind::Client => 3,
        },
        "startTimeUnixNano": nanos(span.began).to_string(),
        "endTimeUnixNano": nanos(span.ended).to_string(),
        "attributes": span.attributes.iter().map(attribute).collect::<Vec<_>>(),
    });
    if let Some(parent) = span.parent {
        said["parentSpanId"] = json!(format!("{parent:016x}"));
    }
    if let Some(error) = &span.error {
        said["status"] = json!({ "code": 2, "message": error });
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_said_as_the_protocol_wants_it() {
        let made = Span {
            trace: 0xab,
            id: 1,
            parent: Some(2),
            kind: SpanKind::Client,
            name: "GET".to_owned(),
            began: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001),
            ended: UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_002),
            error: Some("503".to_owned()),
            attributes: vec![("a", "b".into()), ("n", 7.into())],
        };
        let expected = json!({
            "traceId": "000000000000000000000000000000ab",
            "spanId": "0000000000000001",
            "parentSpanId": "0000000000000002",
            "name": "GET",
            "kind": 3,
            "startTimeUnixNano": "1700000000000000001",
            "endTimeUnixNano": "1700000000000000002",
            "attributes": [
                { "key": "a", "value": { "stringValue": "b" } },
                { "key": "n", "value": { "intValue": "7" } },
            ],
            "status": { "code": 2, "message": "503" },
        });
        assert_eq!(span(&made), expected);
    }
}
