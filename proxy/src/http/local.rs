//! Answers the proxy makes itself, each with its reason in [`REASON_HEADER`] and a counter.
//!
//! For gRPC a status in trailers-only form (gRPC over HTTP/2, "Responses"), else plain text that
//! names what was asked.

use std::fmt::Write as _;
use std::sync::Arc;

use http::HeaderName;
use portolan_model::traffic::{Edits, HeaderEdit};

use super::edits;
use crate::message::{Fields, Known, ResponseHead};

/// Carries the [`Reason`] of an answer the proxy made itself.
pub const REASON_HEADER: HeaderName = HeaderName::from_static("x-portolan-reason");

/// Why the proxy answered itself, or reset a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No virtual host or route for what was asked.
    NoRoute,
    /// The route's cluster is unknown.
    NoCluster,
    /// The cluster has no endpoint.
    NoEndpoints,
    /// No endpoint took a connection.
    ConnectFailed,
    /// The endpoint closed or reset before it had answered.
    UpstreamReset,
    /// The endpoint's answer was no valid HTTP.
    UpstreamInvalid,
    /// The route's time was over.
    Timeout,
    /// The worker has as many requests as it takes.
    Overloaded,
    /// The request is not valid or can be read in two ways.
    BadRequest,
    /// CONNECT where that is not served.
    Method,
    /// An upgrade that is not served.
    Upgrade,
    /// The client's request ended early.
    ClientReset,
    /// Nothing moved on the request for too long.
    StreamIdle,
    /// The request's head did not come in time.
    HeaderTimeout,
    /// The request's head is larger than this proxy takes.
    HeadTooLarge,
    /// A version of HTTP this proxy does not speak.
    Version,
    /// A transfer coding this proxy does not know.
    TransferCoding,
    /// A limit of the cluster (circuit breaker) was reached.
    CircuitOpen,
    /// The time for one try was over.
    TryTimeout,
    /// A TCP stream lived for as long as it may.
    MaxAge,
    /// The PROXY header of a connection was missing or malformed.
    ProxyHeader,
    /// The client is to ask for something else.
    Redirect,
    /// The route says what is answered.
    DirectResponse,
    /// The route was asked for more often than it allows.
    RateLimited,
    /// The route asks for this fault.
    Fault,
    /// A client and this proxy did not come to terms about TLS.
    TlsHandshake,
    /// Who asks may not do this here.
    Denied,
}

impl Reason {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 27] = [
        Self::NoRoute,
        Self::NoCluster,
        Self::NoEndpoints,
        Self::ConnectFailed,
        Self::UpstreamReset,
        Self::UpstreamInvalid,
        Self::Timeout,
        Self::Overloaded,
        Self::BadRequest,
        Self::Method,
        Self::Upgrade,
        Self::ClientReset,
        Self::StreamIdle,
        Self::HeaderTimeout,
        Self::HeadTooLarge,
        Self::Version,
        Self::TransferCoding,
        Self::CircuitOpen,
        Self::TryTimeout,
        Self::MaxAge,
        Self::ProxyHeader,
        Self::Redirect,
        Self::DirectResponse,
        Self::RateLimited,
        Self::Fault,
        Self::TlsHandshake,
        Self::Denied,
    ];

    /// The word in [`REASON_HEADER`] and in `portolan_proxy_local_answers_total{reason}`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::NoCluster => "no_cluster",
            Self::NoEndpoints => "no_endpoints",
            Self::ConnectFailed => "connect_failed",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamInvalid => "upstream_invalid",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::BadRequest => "bad_request",
            Self::Method => "method",
            Self::Upgrade => "upgrade",
            Self::ClientReset => "client_reset",
            Self::StreamIdle => "stream_idle",
            Self::HeaderTimeout => "header_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::Version => "version",
            Self::TransferCoding => "transfer_coding",
            Self::CircuitOpen => "circuit_open",
            Self::TryTimeout => "try_timeout",
            Self::MaxAge => "max_age",
            Self::ProxyHeader => "proxy_header",
            Self::Redirect => "redirect",
            Self::DirectResponse => "direct_response",
            Self::RateLimited => "rate_limited",
            Self::Fault => "fault",
            Self::TlsHandshake => "tls_handshake",
            Self::Denied => "denied",
        }
    }

    pub(crate) fn index(self) -> usize {
        // `ALL` lists every variant; a test says so.
        Self::ALL.iter().position(|r| *r == self).unwrap_or(0)
    }

    /// Whether it stands for a failure: not if the answer is what a route says.
    pub(super) fn is_failure(self) -> bool {
        !matches!(self, Self::Redirect | Self::DirectResponse)
    }

    pub(super) fn status(self) -> u16 {
        match self {
            Self::NoRoute => 404,
            Self::NoCluster
            | Self::NoEndpoints
            | Self::ConnectFailed
            | Self::Overloaded
            | Self::CircuitOpen => 503,
            Self::UpstreamReset | Self::UpstreamInvalid => 502,
            Self::Timeout | Self::TryTimeout | Self::StreamIdle | Self::MaxAge => 504,
            Self::BadRequest | Self::ClientReset | Self::ProxyHeader | Self::TlsHandshake => 400,
            Self::Denied => 403,
            Self::Method => 405,
            Self::Upgrade | Self::TransferCoding => 501,
            Self::HeaderTimeout => 408,
            Self::HeadTooLarge => 431,
            Self::Version => 505,
            Self::Redirect => 307,
            Self::DirectResponse => 200,
            Self::RateLimited => 429,
            Self::Fault => 503,
        }
    }

    /// gRPC status codes (grpc/doc/statuscodes.md); those without a rule of their own follow
    /// grpc/doc/http-grpc-status-mapping.md.
    pub(super) fn grpc_status(self) -> &'static str {
        match self {
            Self::NoRoute
            | Self::Method
            | Self::Upgrade
            | Self::Redirect
            | Self::DirectResponse => "12",
            Self::Timeout | Self::TryTimeout => GRPC_DEADLINE_EXCEEDED,
            Self::BadRequest
            | Self::HeadTooLarge
            | Self::Version
            | Self::TransferCoding
            | Self::ProxyHeader
            | Self::TlsHandshake => "13",
            Self::Denied => "7",
            Self::ClientReset | Self::HeaderTimeout => "1",
            Self::NoCluster
            | Self::NoEndpoints
            | Self::ConnectFailed
            | Self::UpstreamReset
            | Self::UpstreamInvalid
            | Self::Overloaded
            | Self::CircuitOpen
            | Self::StreamIdle
            | Self::RateLimited
            | Self::Fault
            | Self::MaxAge => "14",
        }
    }
}

/// `DEADLINE_EXCEEDED`.
pub(super) const GRPC_DEADLINE_EXCEEDED: &str = "4";

/// An answer to make.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    /// What a route says of it.
    given: Option<Box<Given>>,
    /// Changes of its fields that the route asks for.
    edits: Option<Arc<Edits>>,
    /// What it says to pages of other origins.
    marks: Vec<HeaderEdit>,
    /// What stands in its place where the client reads it.
    told: Option<&'static str>,
}

/// An answer that a route asks for.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) status: u16,
    /// What it is to gRPC.
    pub(crate) grpc: &'static str,
    /// `None`: what is said of it.
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) location: Option<Vec<u8>>,
}

impl Local {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
            given: None,
            edits: None,
            marks: Vec::new(),
            told: None,
        }
    }

    /// A refusal of which the client is not told more than that.
    pub(crate) fn denied(why: String) -> Self {
        Self { told: Some("access denied"), ..Self::new(Reason::Denied, why) }
    }

    /// What the client is told.
    fn told(&self) -> &str {
        self.told.unwrap_or(&self.detail)
    }

    /// An answer that a route asks for.
    pub(crate) fn given(reason: Reason, detail: impl Into<String>, given: Given) -> Self {
        Self { given: Some(Box::new(given)), ..Self::new(reason, detail) }
    }

    /// Sends the client elsewhere (RFC 9110 §10.2.2).
    pub(crate) fn redirect(status: u16, location: Vec<u8>) -> Self {
        let detail = String::from_utf8_lossy(&location).into_owned();
        let body = Some([&location[..], b"\n"].concat());
        let grpc = Reason::Redirect.grpc_status();
        let location = Some(location);
        Self::given(Reason::Redirect, detail, Given { status, grpc, body, location })
    }

    /// The same with the changes that its route asks for.
    pub(crate) fn edited(self, edits: Option<&Arc<Edits>>) -> Self {
        Self { edits: edits.cloned().or(self.edits), ..self }
    }

    /// The same with what it says to pages of other origins.
    pub(crate) fn marked(self, marks: Vec<HeaderEdit>) -> Self {
        Self { marks, ..self }
    }

    /// `grpc-status` of the answer.
    pub(crate) fn grpc_status(&self) -> &'static str {
        self.given.as_ref().map_or(self.reason.grpc_status(), |given| given.grpc)
    }

    /// The head and the body of the answer.
    pub(super) fn response(&self, grpc: bool) -> (ResponseHead, Vec<u8>) {
        let (mut head, body) = self.plain(grpc);
        if let Some(edits) = &self.edits {
            edits::apply(&edits.response, &mut head.fields);
        }
        edits::apply(&self.marks, &mut head.fields);
        if !body.is_empty() && !head.fields.contains(Known::ContentType) {
            head.fields.push(b"content-type", b"text/plain; charset=utf-8");
        }
        (head, body)
    }

    /// Before any change.
    fn plain(&self, grpc: bool) -> (ResponseHead, Vec<u8>) {
        let mut head = ResponseHead::new(if grpc { 200 } else { self.reason.status() });
        head.fields.push(REASON_HEADER.as_str().as_bytes(), self.reason.as_str().as_bytes());
        if grpc {
            head.fields.push(b"content-type", b"application/grpc");
            self.push_status(&mut head.fields);
            return (head, Vec::new());
        }
        let said = || format!("{}\n", self.told()).into_bytes();
        if let Some(given) = &self.given {
            head.status = given.status;
            if let Some(location) = &given.location {
                head.fields.push(b"location", location);
            }
            // RFC 9110 §6.4.1: a 204 and a 304 have no body.
            let bodiless = matches!(given.status, 204 | 304);
            let body = (!bodiless).then(|| given.body.clone().unwrap_or_else(said));
            return (head, body.unwrap_or_default());
        }
        if self.reason == Reason::Method {
            // RFC 9110 §15.5.6: a 405 says what is allowed; here, all but CONNECT.
            head.fields.push(b"allow", b"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH");
        }
        (head, said())
    }

    /// The trailers that end a gRPC response that was begun.
    pub(super) fn trailers(&self) -> Fields {
        let mut fields = Fields::default();
        self.push_status(&mut fields);
        fields
    }

    fn push_status(&self, fields: &mut Fields) {
        fields.push(b"grpc-status", self.grpc_status().as_bytes());
        fields.push(b"grpc-message", percent_encode(self.told()).as_bytes());
    }
}

impl Given {
    /// A status alone.
    pub(crate) fn new(status: u16) -> Self {
        Self { status, grpc: grpc_status_of(status), body: None, location: None }
    }
}

/// What a status of HTTP is to gRPC (grpc/doc/http-grpc-status-mapping.md).
fn grpc_status_of(status: u16) -> &'static str {
    match status {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

/// A code of gRPC as it stands in `grpc-status`; what is none is UNKNOWN.
pub(super) fn grpc_code(code: u8) -> &'static str {
    const CODES: [&str; 17] = [
        "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16",
    ];
    CODES.get(usize::from(code)).unwrap_or(&CODES[2])
}

/// `Percent-Encoded` of the gRPC protocol: printable ASCII but `%` as it is.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _infallible = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_and_a_word_of_its_own() {
        let words: std::collections::HashSet<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().enumerate().all(|(i, r)| r.index() == i));
    }

    #[test]
    fn every_reason_is_documented_with_its_statuses() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/proxy.md");
        let documented = std::fs::read_to_string(path).expect("readable");
        for reason in Reason::ALL {
            let (word, status, grpc) = (reason.as_str(), reason.status(), reason.grpc_status());
            let row = format!("| `{word}` | {status} | {grpc} | ");
            assert!(documented.contains(&row), "docs/proxy.md is to hold {row}");
        }
    }

    #[test]
    fn a_grpc_message_is_percent_encoded() {
        assert_eq!(percent_encode("50% of ä\n"), "50%25 of %C3%A4%0A");
    }
}
