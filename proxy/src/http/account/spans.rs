//! What is known of a request that has ended -> its spans, for a trace.

use std::time::{Duration, SystemTime};

use super::{Account, protocol};
use crate::http::Client;
use crate::http::answering::{Answering, Speaks};
use crate::http::asked::split_port;
use crate::http::local::Reason;
use crate::message::{RequestHead, without_query};
use crate::trace::{Span, SpanKind, Traced, Value};

/// Longest text of an attribute, in octets.
const MAX_TEXT: usize = 2048;
/// Methods that are named (OpenTelemetry, `http.request.method`).
const METHODS: [&[u8]; 10] = [
    b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"QUERY",
    b"TRACE",
];

impl Account {
    /// It is part of a trace.
    pub(in crate::http) fn on_traced(&self, traced: Traced) {
        // Once for each request.
        let _first = self.traced.set(traced);
    }

    /// Sends the spans of a request that has some.
    pub(super) fn trace(
        &self,
        client: &Client,
        head: &RequestHead,
        answer: &Answering<'_>,
        reason: Option<Reason>,
        failed: bool,
    ) {
        let shared = &client.origin.shared;
        let (Some(tracer), Some(traced)) = (&shared.tracer, self.traced.get()) else { return };
        if !traced.sampled {
            return;
        }
        let ended = SystemTime::now();
        let began = ended.checked_sub(self.started.elapsed()).unwrap_or(ended);
        let spans = [
            self.to_endpoint(traced, head, answer, reason, began, ended),
            Some(self.as_it_came(traced, client, head, answer, reason, failed, began, ended)),
        ];
        for span in spans.into_iter().flatten() {
            let counter = match tracer.send(span) {
                true => &shared.metrics.spans,
                false => &shared.metrics.spans_dropped,
            };
            counter.add(1);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what a span is made of, each once")]
    fn as_it_came(
        &self,
        traced: &Traced,
        client: &Client,
        head: &RequestHead,
        answer: &Answering<'_>,
        reason: Option<Reason>,
        failed: bool,
        began: SystemTime,
        ended: SystemTime,
    ) -> Span {
        let mut attributes = Vec::with_capacity(16);
        let mut put = |name, value: Value| attributes.push((name, value));
        let method = method(head);
        let host = text(self.authority(head));
        let (host, port) = split_port(&host);
        put("http.request.method", method.into());
        put("url.path", text(without_query(head.path())).into());
        put("url.scheme", client.scheme().into());
        put("server.address", host.into());
        if let Some(port) = port {
            put("server.port", i64::from(port).into());
        }
        put("network.protocol.name", "http".into());
        put("network.protocol.version", version(answer.speaks).into());
        put("client.address", (&*client.peer_text).into());
        if let Some(agent) = head.fields.named(b"user-agent") {
            put("user_agent.original", text(agent).into());
        }
        if answer.status != 0 {
            put("http.response.status_code", i64::from(answer.status).into());
        }
        if let Some(status) = self.grpc_status.get() {
            put("rpc.grpc.status_code", i64::from(status).into());
        }
        put("portolan.listener", (&*client.origin.listener.name).into());
        if let Some(route) = self.route.get() {
            let called = route.called.as_deref().unwrap_or(&route.name.path);
            put("portolan.route", called.into());
        }
        if let Some(generation) = self.generation.get() {
            put("portolan.generation", i64::try_from(generation.0).unwrap_or(i64::MAX).into());
        }
        // What a route asks for is no failure, nor is what the client did wrong.
        let reason = reason.filter(|reason| reason.is_failure());
        let error = reason.map(|reason| reason.as_str().to_owned());
        let error = error.or_else(|| failed.then(|| answer.status.to_string()));
        if let Some(error) = &error {
            put("error.type", error.clone().into());
        }
        let is_ours = failed && (answer.status >= 500 || is_cut(reason));
        let error = error.filter(|_| is_ours || self.is_grpc_failure());
        let name = match self.route.get().map(|route| &route.name) {
            Some(route) => format!("{method} {}", route.path),
            None => method.to_owned(),
        };
        Span {
            trace: traced.trace,
            id: traced.server,
            parent: traced.parent,
            kind: SpanKind::Server,
            name,
            began,
            ended,
            error,
            attributes,
        }
    }

    /// The request to an endpoint, the tries before it among it; `None` where none was tried.
    fn to_endpoint(
        &self,
        traced: &Traced,
        head: &RequestHead,
        answer: &Answering<'_>,
        reason: Option<Reason>,
        began: SystemTime,
        ended: SystemTime,
    ) -> Option<Span> {
        let endpoint = self.endpoint.borrow();
        let address = endpoint.as_ref()?.address;
        let failed = self.failed.borrow();
        let first = failed.first().map(|first| Duration::from_secs_f64(first.began_ms / 1e3));
        let last = || self.began.get().map(|at| at.saturating_duration_since(self.started));
        let mut attributes = Vec::with_capacity(8);
        let mut put = |name, value: Value| attributes.push((name, value));
        put("http.request.method", method(head).into());
        put("server.address", address.ip().to_string().into());
        put("server.port", i64::from(address.port()).into());
        if let Some(cluster) = &*self.cluster.borrow() {
            put("portolan.cluster", (&*cluster.config.name).into());
        }
        let again = self.tries.get().saturating_sub(1);
        if again > 0 {
            put("http.request.resend_count", i64::from(again).into());
        }
        let answered = self.head.get().is_some();
        if answered && answer.status != 0 {
            put("http.response.status_code", i64::from(answer.status).into());
        }
        let error = failed.last().filter(|_| !answered).map(|last| last.outcome.clone());
        let error = error.or_else(|| (answer.status >= 400).then(|| answer.status.to_string()));
        let cut = reason.filter(|_| is_cut(reason)).map(|reason| reason.as_str().to_owned());
        let grpc = || self.is_grpc_failure().then(|| self.grpc_status.get()).flatten();
        let error = error.or(cut).or_else(|| grpc().map(|status| status.to_string()));
        if let Some(error) = &error {
            put("error.type", text(error.as_bytes()).into());
        }
        Some(Span {
            trace: traced.trace,
            id: traced.client,
            parent: Some(traced.server),
            kind: SpanKind::Client,
            name: method(head).to_owned(),
            began: began + first.or_else(last).unwrap_or_default(),
            ended,
            error,
            attributes,
        })
    }

    fn is_grpc_failure(&self) -> bool {
        self.grpc_status.get().is_some_and(|status| matches!(status, 2 | 4 | 12 | 13 | 14 | 15))
    }
}

/// Whether an answer was given up that had begun, or never came, though its status may be another's.
fn is_cut(reason: Option<Reason>) -> bool {
    let cut = [Reason::UpstreamReset, Reason::Timeout, Reason::TryTimeout, Reason::StreamIdle];
    reason.is_some_and(|reason| cut.contains(&reason))
}

fn method(head: &RequestHead) -> &'static str {
    let known = METHODS.iter().find(|known| **known == head.method());
    known.and_then(|known| std::str::from_utf8(known).ok()).unwrap_or("_OTHER")
}

fn version(speaks: Speaks) -> &'static str {
    protocol(speaks).trim_start_matches("HTTP/")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]).into_owned()
}
