//! Answers the proxy makes itself, each with its reason in [`REASON_HEADER`] and a counter.
//!
//! For gRPC a status in trailers-only form (gRPC over HTTP/2, "Responses"), else plain text that
//! names what was asked.

use std::fmt::Write as _;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use super::body::ResponseBody;

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
    /// CONNECT.
    Method,
    /// An HTTP/1.1 upgrade (WebSocket).
    Upgrade,
    /// The client's request ended early.
    ClientReset,
}

impl Reason {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 12] = [
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
        }
    }

    pub(crate) fn index(self) -> usize {
        // `ALL` lists every variant; a test says so.
        Self::ALL.iter().position(|r| *r == self).unwrap_or(0)
    }

    fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoCluster | Self::NoEndpoints | Self::ConnectFailed | Self::Overloaded => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::UpstreamReset | Self::UpstreamInvalid => StatusCode::BAD_GATEWAY,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::BadRequest | Self::ClientReset => StatusCode::BAD_REQUEST,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Upgrade => StatusCode::NOT_IMPLEMENTED,
        }
    }

    /// gRPC status codes (grpc/doc/statuscodes.md); those without a rule of their own follow
    /// grpc/doc/http-grpc-status-mapping.md.
    fn grpc_status(self) -> &'static str {
        match self {
            Self::NoRoute | Self::Method | Self::Upgrade => "12",
            Self::Timeout => GRPC_DEADLINE_EXCEEDED,
            Self::BadRequest => "13",
            Self::ClientReset => "1",
            Self::NoCluster
            | Self::NoEndpoints
            | Self::ConnectFailed
            | Self::UpstreamReset
            | Self::UpstreamInvalid
            | Self::Overloaded => "14",
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
}

impl Local {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The answer; `no_body` for HEAD (RFC 9110 §9.3.2), which hyper minds only in HTTP/1.1.
    pub(crate) fn into_response(self, grpc: bool, no_body: bool) -> Response<ResponseBody> {
        let mut response = if grpc { self.grpc() } else { self.plain() };
        if no_body {
            *response.body_mut() = ResponseBody::empty();
        }
        let reason = HeaderValue::from_static(self.reason.as_str());
        response.headers_mut().insert(REASON_HEADER, reason);
        response
    }

    fn plain(&self) -> Response<ResponseBody> {
        let text = Bytes::from(format!("{}\n", self.detail));
        let mut response = Response::new(ResponseBody::full(text));
        *response.status_mut() = self.reason.status();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        if self.reason == Reason::Method {
            // RFC 9110 §15.5.6: a 405 says what is allowed; here, all but CONNECT.
            let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH");
            response.headers_mut().insert(header::ALLOW, allow);
        }
        response
    }

    fn grpc(&self) -> Response<ResponseBody> {
        let mut response = Response::new(ResponseBody::empty());
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(self.reason.grpc_status()));
        if let Ok(message) = HeaderValue::from_str(&percent_encode(&self.detail)) {
            headers.insert("grpc-message", message);
        }
        response
    }
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
    fn a_grpc_message_is_percent_encoded() {
        assert_eq!(percent_encode("50% of ä\n"), "50%25 of %C3%A4%0A");
    }
}
