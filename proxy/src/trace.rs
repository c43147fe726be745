//! Traces: the context that a request carries (W3C Trace Context, B3) goes on with a span of this proxy
//! in it, and a span of what became of the request goes to whoever collects them.
//!
//! Whether a request has spans is said by who sent it, else thrown here. Owns contexts and spans;
//! refuses to know how they are sent. A span that nobody has room for is dropped and counted.

pub(crate) mod context;

use std::time::SystemTime;

use portolan_model::traffic::falls_in;
use tokio::sync::mpsc;

use crate::message::Fields;
use context::Context;

/// Makes spans.
#[derive(Clone, Debug)]
pub struct Tracer {
    /// Of how many requests whose sender says nothing there are spans, in millionths.
    pub sample_per_million: u32,
    /// Whether who sends a request is believed in that.
    pub believes: bool,
    /// Where spans go.
    pub sender: mpsc::Sender<Span>,
}

/// What happened in some time (OpenTelemetry, "Trace semantic conventions" for HTTP).
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// The trace.
    pub trace: u128,
    /// Its id.
    pub id: u64,
    /// The span that it is a part of.
    pub parent: Option<u64>,
    /// Whose view it is.
    pub kind: SpanKind,
    /// What is shown.
    pub name: String,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
}

/// Whose view a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Of a request as it came.
    Server,
    /// Of the request to an endpoint.
    Client,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

/// A request's place in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Traced {
    pub(crate) trace: u128,
    /// The sender's span.
    pub(crate) parent: Option<u64>,
    /// The span of the request as it came, and that of the request to an endpoint.
    pub(crate) server: u64,
    pub(crate) client: u64,
    /// Whether there are spans of it.
    pub(crate) sampled: bool,
}

impl Tracer {
    /// Reads a request's context and puts this proxy into it. The numbers may be any.
    pub(crate) fn begin(&self, fields: &mut Fields, random: [u64; 5]) -> Traced {
        let [high, low, server, client, throw] = random;
        let given = Context::read(fields);
        let fresh = (u128::from(high) << 64 | u128::from(low)).max(1);
        let traced = Traced {
            trace: given.as_ref().map_or(fresh, |given| given.trace),
            parent: given.as_ref().map(|given| given.span),
            // Not zero, which stands for none (W3C Trace Context §3.2.2.4).
            server: server.max(1),
            client: client.max(1),
            sampled: given
                .as_ref()
                .and_then(|given| given.sampled)
                .or_else(|| context::b3_decision(fields))
                .filter(|_| self.believes)
                .unwrap_or_else(|| falls_in(self.sample_per_million, throw)),
        };
        context::write(fields, &traced, given.is_some());
        traced
    }

    /// Hands on a span; whether there was room.
    pub(crate) fn send(&self, span: Span) -> bool {
        self.sender.try_send(span).is_ok()
    }
}
