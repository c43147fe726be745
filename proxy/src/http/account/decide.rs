//! What is known of a request that has ended -> its decision record.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use portolan_model::Generation;
use tokio::time::Instant;

use super::{Account, protocol};
use crate::admit::Proof;
use crate::decision::{self, Decision, RouteTaken, Times, Try, millis};
use crate::http::Client;
use crate::http::answering::Answering;
use crate::http::local::Reason;
use crate::message::{Known, RequestHead, without_query};
use crate::upstream::{Cause, Failure};
use crate::worker::candidates::Sought;
use crate::worker::endpoint::Endpoint;

impl Account {
    /// It is routed by this configuration.
    pub(in crate::http) fn on_routed(&self, generation: Option<Generation>) {
        self.generation.set(generation);
    }

    /// It goes to endpoints with these labels.
    pub(in crate::http) fn on_sought(&self, labels: &BTreeMap<String, String>) {
        if !labels.is_empty() {
            self.labels.get_or_init(|| labels.clone());
        }
    }

    /// A connection was opened for the try under way.
    pub(in crate::http) fn on_connected(&self) {
        self.connected.set(Some(Instant::now()));
    }

    /// The try under way failed.
    pub(in crate::http) fn on_try_failed(&self, failure: &Failure, reused: bool) {
        let (Some(endpoint), Some(began)) = (&*self.endpoint.borrow(), self.began.get()) else {
            return;
        };
        self.on_one_failed((endpoint.address, began), failure, reused);
    }

    /// A try at an endpoint, begun then, failed; others may be under way.
    pub(in crate::http) fn on_one_failed(
        &self,
        (endpoint, began): (SocketAddr, Instant),
        failure: &Failure,
        reused: bool,
    ) {
        let kept = if reused { ", on a kept connection" } else { "" };
        let outcome = match failure.cause {
            Cause::Status(_) | Cause::Grpc(_) => word(failure.cause),
            cause => format!("{}: {}{kept}", word(cause), failure.detail),
        };
        let failed = self.one(endpoint, began, Some(Instant::now()), outcome);
        self.failed.borrow_mut().push(failed);
    }

    /// A try at an endpoint, begun then, is given up for another that was first.
    pub(in crate::http) fn on_given_up(&self, endpoint: SocketAddr, began: Instant) {
        let outcome = "given up: another try was first".to_owned();
        let lost = self.one(endpoint, began, Some(Instant::now()), outcome);
        self.failed.borrow_mut().push(lost);
    }

    /// Of several tries this one, begun then, has the answer.
    pub(in crate::http) fn on_won(&self, endpoint: &Rc<Endpoint>, began: Instant) {
        *self.endpoint.borrow_mut() = Some(Rc::clone(endpoint));
        if self.began.replace(Some(began)) != Some(began) {
            self.connected.set(None);
        }
        self.head.set(None);
        self.grpc_status.set(None);
    }

    /// A try at an endpoint, which took until then.
    fn one(
        &self,
        endpoint: SocketAddr,
        began: Instant,
        ended: Option<Instant>,
        outcome: String,
    ) -> Try {
        let since = |from: Instant, at: Instant| millis(at.saturating_duration_since(from));
        Try {
            endpoint,
            began_ms: since(self.started, began),
            connect_ms: self.connected.get().map(|at| since(began, at)),
            took_ms: ended.map(|at| since(began, at)),
            outcome,
        }
    }

    /// Keeps a record of it, if there is to be one. `detail` is what the proxy's answer was about.
    pub(super) fn decide(
        &self,
        client: &Client,
        head: &RequestHead,
        answer: &Answering<'_>,
        reason: Option<Reason>,
        detail: Option<&str>,
        failed: bool,
    ) {
        let shared = &client.origin.shared;
        let failed = failed && (answer.status >= 500 || reason.is_none_or(Reason::is_failure));
        if !shared.decisions.wants(failed, || shared.random().0) {
            return;
        }
        let now = SystemTime::now();
        if !shared.records.take(now) {
            shared.metrics.decisions_dropped.add(1);
            return;
        }
        shared.metrics.decisions.add(1);
        let tries = self.tries(answer.status, reason);
        let tried: Vec<SocketAddr> = tries.iter().map(|one| one.endpoint).collect();
        let cluster = self.cluster.borrow().clone();
        let sought = Sought { tried: &tried, labels: self.labels.get() };
        let candidates = cluster.as_ref().map(|state| state.candidates(&shared.health, &sought));
        let fields = &head.fields;
        // A fragment is refused, and may hold as much as a query.
        let path = without_query(head.path()).split(|byte| *byte == b'#').next();
        let path = path.unwrap_or_default();
        let route = self.route.get().map(|route| RouteTaken {
            virtual_host: Arc::clone(&route.name.host),
            path: route.name.path.clone(),
            name: route.called.clone(),
        });
        shared.decisions.add(Decision {
            time: decision::stamp(now),
            request_id: decision::text(fields.get(Known::RequestId).unwrap_or_default()),
            failed,
            listener: client.origin.listener.name.clone(),
            protocol: protocol(answer.speaks),
            client: client.peer,
            identity: Proof::identity(client.proof.as_deref())
                .map(|name| decision::text(name.as_bytes())),
            method: decision::text(head.method()),
            authority: decision::text(self.authority(head)),
            path: decision::text(path),
            status: Some(answer.status).filter(|status| *status != 0),
            grpc_status: self.grpc_status.get(),
            reason: reason.map(Reason::as_str),
            // What a route answers is no reason, and may hold the query.
            detail: detail
                .filter(|_| reason.is_some_and(Reason::is_failure))
                .map(|detail| decision::text(detail.as_bytes())),
            generation: self.generation.get(),
            route,
            cluster: cluster.as_ref().map(|state| state.config.name.clone()),
            endpoints: cluster.as_ref().map_or(0, |state| state.size()),
            balancer: candidates.as_ref().map(|(word, _)| *word),
            candidates: candidates.map(|(_, all)| all).unwrap_or_default(),
            times: Times {
                first_try_ms: tries.first().map(|first| first.began_ms),
                sent_ms: self
                    .pulse
                    .request_sent()
                    .map(|at| millis(at.saturating_duration_since(self.started))),
                head_ms: self.head.get().map(millis),
                total_ms: millis(self.started.elapsed()),
            },
            tries,
        });
    }

    /// The tries that failed and, unless that was the last, the one that did not.
    fn tries(&self, status: u16, reason: Option<Reason>) -> Vec<Try> {
        let mut tries = self.failed.borrow().clone();
        let last = self.endpoint.borrow();
        let count = usize::try_from(self.tries.get()).unwrap_or(usize::MAX);
        if let (Some(last), Some(began)) = (&*last, self.began.get())
            && count > tries.len()
        {
            let head = self.head.get().map(|head| self.started + head);
            let outcome = match (head, reason) {
                (Some(_), None) => format!("answered {status}"),
                (Some(_), Some(reason)) => {
                    format!("began to answer {status}, then {}", reason.as_str())
                }
                (None, Some(reason)) => format!("no answer, then {}", reason.as_str()),
                (None, None) => "no answer".to_owned(),
            };
            tries.push(self.one(last.address, began, head, outcome));
        }
        // Side by side they may end in another order.
        tries.sort_by(|one, other| one.began_ms.total_cmp(&other.began_ms));
        tries
    }
}

/// The word for how a try failed.
fn word(cause: Cause) -> String {
    match cause {
        Cause::Connect => "no connection".to_owned(),
        Cause::Limit => "no connection may be opened".to_owned(),
        Cause::Unsent => "closed before the request was sent".to_owned(),
        Cause::Refused => "stream refused".to_owned(),
        Cause::GoneAway => "going away".to_owned(),
        Cause::Closed => "closed without a response".to_owned(),
        Cause::Invalid => "no valid response".to_owned(),
        Cause::Status(status) => format!("answered {status}, tried again"),
        Cause::Grpc(status) => format!("answered gRPC status {status}, tried again"),
        Cause::TryTimeout => "no answer in the time for a try".to_owned(),
    }
}
