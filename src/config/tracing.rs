//! The settings of traces: `[proxy.tracing]`.

use super::reader::Reader;
use crate::traces::Tracing;

/// Reads them; `None`: no spans, and contexts pass as they are.
pub(super) fn read(r: &mut Reader) -> Option<Tracing> {
    let endpoint = r.optional(
        "proxy.tracing.endpoint",
        "Collector of traces, by OTLP over HTTP, such as http://127.0.0.1:4318; empty: there are none, and \
         what requests say of a trace goes on as it is",
    );
    let sample_per_million = r.share(
        "proxy.tracing.sample",
        0.01,
        "Share of the requests with spans, from 0 to 1, where their sender says nothing of it",
    );
    let believes = r.word(
        "proxy.tracing.sender",
        &[("believed", true), ("ignored", false)],
        "Whether who sends a request says if it has spans: believed, or ignored, as at a listener for everybody",
    );
    let service = r.text::<String>(
        "proxy.tracing.service",
        "portolan-proxy",
        "What this proxy is called in traces (service.name)",
    );
    let (endpoint, service) = (endpoint?, service?);
    if !endpoint.starts_with("http://") {
        // A collector beside the proxy speaks TLS to those that are far.
        let reason = format!("{endpoint:?} does not begin with http://");
        r.reject("proxy.tracing.endpoint", &reason);
        return None;
    }
    Some(Tracing { endpoint, sample_per_million, believes, service })
}
