//! Owns the form of what crosses the wire: bodies, statuses, events, lists, query strings, times.

use std::convert::Infallible;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};

use super::kinds::Kind;

/// A response body. An error in it stands for a connection that broke.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The error that a broken connection gives its reader.
pub(super) fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by the scripted server")
}

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// May be polled past its end, which `unfold` alone would not bear.
pub(super) fn streamed(pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(pieces.map(|piece| piece.map(Frame::data)).fuse()).boxed_unsync()
}

pub(super) fn respond(code: u16, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).expect("a script names a real code");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(super) fn json(code: u16, value: &Value) -> Response<Body> {
    respond(code, "application/json", full(value.to_string()))
}

/// What any path gets behind which there is nothing.
pub(super) fn no_such_path() -> Response<Body> {
    respond(404, "text/plain; charset=utf-8", full("404 page not found\n"))
}

/// A request turned down, told as a `Status` object.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) details: Value,
    pub(super) retry_after_secs: Option<u64>,
}

impl Refusal {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let details = json!({});
        Self { code, reason, message: message.into(), details, retry_after_secs: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(super) fn conflict(kind: &Kind, name: &str, message: &str) -> Self {
        let resource = kind.resource();
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {message}");
        Self::new(409, "Conflict", message).about(kind, name)
    }

    pub(super) fn about(mut self, kind: &Kind, name: &str) -> Self {
        self.details = json!({ "name": name, "group": kind.group, "kind": kind.plural });
        self
    }

    pub(super) fn status(&self) -> Value {
        let mut details = self.details.clone();
        if let Some(secs) = self.retry_after_secs {
            details["retryAfterSeconds"] = secs.into();
        }
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "details": details, "code": self.code,
        })
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = json(self.code, &self.status());
        if let Some(secs) = self.retry_after_secs {
            response.headers_mut().insert(RETRY_AFTER, secs.into());
        }
        response
    }
}

/// A line of a watch, its type first as the real server has it.
pub(super) fn event(kind: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into()
}

/// A bookmark, or the one that ends the initial events.
pub(super) fn bookmark(kind: &Kind, version: u64, ends_initial: bool) -> Bytes {
    let mut object = json!({
        "kind": kind.kind, "apiVersion": kind.api_version(),
        "metadata": { "resourceVersion": version.to_string(), "creationTimestamp": null },
    });
    if ends_initial {
        object["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    event("BOOKMARK", &object)
}

/// A part of a list, and how to get the next.
#[derive(Debug)]
pub(super) struct Page<I> {
    pub(super) items: I,
    pub(super) version: u64,
    pub(super) next: Option<String>,
    pub(super) remaining: Option<usize>,
}

impl<'a, I: IntoIterator<Item = &'a Value>> Page<I> {
    pub(super) fn into_response(self, kind: &Kind) -> Response<Body> {
        let mut metadata = json!({ "resourceVersion": self.version.to_string() });
        if let Some(token) = self.next {
            metadata["continue"] = token.into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        let (name, api) = (kind.kind, kind.api_version());
        let mut text = format!(
            "{{\"kind\":\"{name}List\",\"apiVersion\":\"{api}\",\"metadata\":{metadata},\"items\":["
        );
        for (n, item) in self.items.into_iter().enumerate() {
            text.push_str(if n == 0 { "" } else { "," });
            push_item(&mut text, item, kind.is_custom);
        }
        text.push_str("]}");
        respond(200, "application/json", full(text))
    }
}

/// An item of a list; built-in kinds leave its type to the list.
fn push_item(text: &mut String, item: &Value, is_typed: bool) {
    let fields = item.as_object().expect("the store holds objects");
    let shown = fields.iter().filter(|(key, _)| is_typed || *key != "kind" && *key != "apiVersion");
    for (n, (key, value)) in shown.enumerate() {
        text.push_str(if n == 0 { "{\"" } else { ",\"" });
        text.push_str(key);
        text.push_str("\":");
        text.push_str(&value.to_string());
    }
    text.push('}');
}

/// A field of an object's metadata; empty where there is none.
pub(super) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The pairs of a query string, decoded, in their order.
pub(super) fn query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(key, value)| (decoded(key), decoded(value))).collect()
}

/// Undoes percent-encoding; what is no escape stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let escape = escape.and_then(|two| u8::from_str_radix(two, 16).ok());
        let (byte, used) = match (first, escape) {
            (b'%', Some(byte)) => (byte, 2),
            (b'+', _) => (b' ', 0),
            (byte, _) => (*byte, 0),
        };
        bytes.push(byte);
        rest = &after[used..];
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The time now, in whole seconds (RFC 3339), as the real server stamps objects.
pub(super) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let (mut days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (mut year, mut month) = (1970, 0);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        month += 1;
        if days < length {
            break;
        }
        days -= length;
    }
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}
