//! Owns what goes wrong: the faults, which call meets which, and the record of the calls.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{pending, unfold};
use http::Response;
use http_body_util::BodyExt;

use super::kinds::Route;
use super::wire::{Body, Refusal, event, full, reset, respond, streamed};

/// Calls that are remembered; of more, the oldest are forgotten.
const CALLS: usize = 65_536;
/// What a proxy might say in the server's place; the second line is not even text.
const GARBAGE: &[u8] = b"<html><body>502 Bad Gateway</body></html>\n\xff\xfe\x00\n";
const USER: &str = "system:serviceaccount:portolan:portolan";

/// A request for objects as it arrived, whatever came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// 0 for the first.
    pub(crate) number: usize,
    /// `list`, `watch`, `get`, `create`, `update`, `patch` or `delete`.
    pub(crate) verb: &'static str,
    pub(crate) kind: &'static str,
    /// None for all namespaces, and for what is cluster-scoped.
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
    /// Decoded, in their order.
    pub(crate) query: Vec<(String, String)>,
}

impl Call {
    /// A query parameter; empty where there is none.
    pub(crate) fn param(&self, key: &str) -> &str {
        self.query.iter().find(|(k, _)| k == key).map_or("", |(_, value)| value)
    }

    pub(super) fn has(&self, key: &str, value: &str) -> bool {
        self.query.iter().any(|(k, v)| k == key && v == value)
    }
}

/// What a call meets in place of its answer. `Cut` and `Slow` damage the true answer, so that a
/// write takes effect although its caller may never know; under the others nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This HTTP status with a `Status` body. An empty reason and message are those with which a
    /// real server would answer this very call.
    Status { code: u16, reason: &'static str, message: String, retry_after_secs: Option<u64> },
    /// No response: a transport error.
    Reset,
    /// No response, ever, and no error either.
    Silence,
    /// The connection breaks after so many bytes of the body, or at its end if it is shorter.
    Cut { after_bytes: usize },
    /// The body drips: so many bytes each time.
    Slow { bytes: usize, every: Duration },
    /// Headers, then never a byte and never an end.
    Stall,
    /// 200 with bytes that are no JSON, then a clean end.
    Garbage,
    /// 200 with an empty body that ends cleanly.
    End,
    /// A watch: an ERROR event with a `Status` 410, then a clean end. Other calls: HTTP 410.
    GoneEvent,
    /// The same with this code.
    ErrorEvent(u16),
}

impl Fault {
    /// 429, to be tried again after a second.
    pub(crate) fn too_many_requests() -> Self {
        Self::status(429, Some(1))
    }

    pub(crate) fn internal() -> Self {
        Self::status(500, None)
    }

    pub(crate) fn unavailable() -> Self {
        Self::status(503, None)
    }

    pub(crate) fn forbidden() -> Self {
        Self::status(403, None)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::status(401, None)
    }

    pub(crate) fn not_found() -> Self {
        Self::status(404, None)
    }

    fn status(code: u16, retry_after_secs: Option<u64>) -> Self {
        Self::Status { code, reason: "", message: String::new(), retry_after_secs }
    }

    /// One fault of each sort and of each usual status, for matrices.
    pub(crate) fn one_of_each() -> Vec<Self> {
        vec![
            Self::too_many_requests(),
            Self::internal(),
            Self::unavailable(),
            Self::forbidden(),
            Self::unauthorized(),
            Self::not_found(),
            Self::Reset,
            Self::Silence,
            Self::Cut { after_bytes: 20 },
            Self::Slow { bytes: 16, every: Duration::from_millis(50) },
            Self::Stall,
            Self::Garbage,
            Self::End,
            Self::GoneEvent,
            Self::ErrorEvent(500),
        ]
    }

    /// The answer that takes the place of the true one; `None` if that is only to be damaged.
    pub(super) async fn answer(
        &self,
        call: &Call,
        route: &Route,
    ) -> Option<io::Result<Response<Body>>> {
        let ok = |body| respond(200, "application/json", body);
        let answer = match self {
            Self::Cut { .. } | Self::Slow { .. } => return None,
            Self::Reset => return Some(Err(reset())),
            Self::Silence => std::future::pending().await,
            Self::Stall => ok(streamed(pending())),
            Self::Garbage => ok(full(GARBAGE)),
            Self::End => ok(full("")),
            Self::GoneEvent => errored(410, call, route),
            Self::ErrorEvent(code) => errored(*code, call, route),
            Self::Status { code, reason, message, retry_after_secs } => {
                let mut refusal = worded(*code, call, route);
                refusal.retry_after_secs = *retry_after_secs;
                if !reason.is_empty() {
                    refusal.reason = reason;
                }
                if !message.is_empty() {
                    refusal.message.clone_from(message);
                }
                refusal.into_response()
            }
        };
        Some(Ok(answer))
    }

    /// Does to a true answer what this fault does to it.
    pub(super) fn damage(&self, answer: Response<Body>) -> Response<Body> {
        match *self {
            Self::Cut { after_bytes } => answer.map(|body| cut(body, after_bytes)),
            Self::Slow { bytes, every } => answer.map(|body| drip(body, bytes, every)),
            _ => answer,
        }
    }
}

/// The event of a watch, or the answer of another call, that bears this code.
fn errored(code: u16, call: &Call, route: &Route) -> Response<Body> {
    let refusal = worded(code, call, route);
    match call.verb {
        "watch" => respond(200, "application/json", full(event("ERROR", &refusal.status()))),
        _ => refusal.into_response(),
    }
}

/// The words in which a real server gives this status to this call.
fn worded(code: u16, call: &Call, route: &Route) -> Refusal {
    let (kind, resource) = (route.kind, route.kind.resource());
    let (reason, message) = match (code, &call.name) {
        (400, _) => ("BadRequest", "the server rejected our request".to_owned()),
        (401, _) => ("Unauthorized", "Unauthorized".to_owned()),
        (403, _) => ("Forbidden", forbidden(call, route)),
        (404, Some(name)) => ("NotFound", format!("{resource} {name:?} not found")),
        (404, None) => ("NotFound", "the server could not find the requested resource".to_owned()),
        (409, _) => ("Conflict", "the object has been modified".to_owned()),
        (410, _) => ("Expired", "too old resource version".to_owned()),
        (429, _) => ("TooManyRequests", "Too many requests, please try again later.".to_owned()),
        (500, _) => ("InternalError", "Internal error occurred: etcdserver: leader changed".into()),
        (503, _) => {
            let message = "the server is currently unable to handle the request";
            ("ServiceUnavailable", message.to_owned())
        }
        (504, _) => ("Timeout", "Timeout: request did not complete within 60s".to_owned()),
        _ => ("", format!("status {code}")),
    };
    let refusal = Refusal::new(code, reason, message);
    match code {
        401 => refusal,
        _ => refusal.about(kind, call.name.as_deref().unwrap_or_default()),
    }
}

fn forbidden(call: &Call, route: &Route) -> String {
    let (resource, verb) = (route.kind.resource(), call.verb);
    let name = call.name.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default();
    let scope = match &call.namespace {
        Some(namespace) => format!("in the namespace {namespace:?}"),
        None => "at the cluster scope".to_owned(),
    };
    let (plural, group) = (route.kind.plural, route.kind.group);
    format!(
        "{resource}{name} is forbidden: User {USER:?} cannot {verb} resource {plural:?} in API \
         group {group:?} {scope}"
    )
}

fn cut(body: Body, after_bytes: usize) -> Body {
    streamed(unfold(Some((body, after_bytes)), async |state| {
        let (mut body, left) = state?;
        if left == 0 {
            // A server behind a socket is to send the rest before it breaks off.
            tokio::task::yield_now().await;
            return Some((Err(reset()), None));
        }
        match body.frame().await {
            Some(Ok(frame)) => {
                let mut data = frame.into_data().unwrap_or_default();
                data.truncate(left);
                let left = left - data.len();
                Some((Ok(data), Some((body, left))))
            }
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Ok(Bytes::new()), Some((body, 0)))),
        }
    }))
}

fn drip(body: Body, bytes: usize, every: Duration) -> Body {
    streamed(unfold((body, Bytes::new()), move |(mut body, mut rest): (Body, Bytes)| async move {
        while rest.is_empty() {
            match body.frame().await? {
                Ok(frame) => rest = frame.into_data().unwrap_or_default(),
                Err(error) => return Some((Err(error), (body, rest))),
            }
        }
        tokio::time::sleep(every).await;
        let piece = rest.split_to(bytes.clamp(1, rest.len()));
        Some((Ok(piece), (body, rest)))
    }))
}

/// A rule of a script, asked about every call.
pub(super) type Rule = Arc<dyn Fn(&Call) -> Option<Fault> + Send + Sync>;

/// Which call meets which fault.
#[derive(Default)]
pub(super) struct Script {
    pub(super) numbered: BTreeMap<usize, Fault>,
    pub(super) next: VecDeque<Fault>,
    pub(super) rules: Vec<Rule>,
    calls: VecDeque<Call>,
    count: usize,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { numbered, next, rules, count, .. } = self;
        write!(f, "Script {{ {numbered:?}, {next:?}, {} rules, {count} calls }}", rules.len())
    }
}

impl Script {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter()
    }

    /// Numbers and records a call. What is scripted for it by number or as the next comes first;
    /// otherwise the rules are to be asked, which is for the caller to do without a lock.
    pub(super) fn meet(&mut self, call: &mut Call) -> Result<Fault, Vec<Rule>> {
        call.number = self.count;
        self.count += 1;
        self.calls.push_back(call.clone());
        if self.calls.len() > CALLS {
            self.calls.pop_front();
        }
        let numbered = self.numbered.remove(&call.number);
        numbered.or_else(|| self.next.pop_front()).ok_or_else(|| self.rules.clone())
    }
}
