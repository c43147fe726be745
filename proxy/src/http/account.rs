//! What is known of one request for those who watch: written while it runs, added to the counters
//! and put into the access log when it has ended.
//!
//! Owns what a request is counted as. Refuses to change anything about it.

mod decide;
mod spans;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use portolan_model::Generation;
use tokio::time::Instant;

use super::Client;
use super::answering::{Answering, Speaks};
use super::asked::Asked;
use super::body::Source;
use super::local::{Local, Reason};
use crate::access::{Pen, Record};
use crate::admit::Proof;
use crate::decision::Try;
use crate::health::outcome::Outcome;
use crate::message::{Known, RequestHead};
use crate::metrics::KnownRoute;
use crate::trace::Traced;
use crate::worker::cluster::ClusterState;
use crate::worker::endpoint::Endpoint;

pub(super) struct Account {
    pub(super) grpc: bool,
    pub(super) pulse: Pulse,
    /// Whom it is for, once that was understood.
    pub(super) asked: OnceCell<Asked>,
    pub(super) route: OnceCell<Rc<KnownRoute>>,
    started: Instant,
    /// Where the last try went.
    cluster: RefCell<Option<Rc<ClusterState>>>,
    endpoint: RefCell<Option<Rc<Endpoint>>>,
    tries: Cell<u32>,
    /// When the last try began, and when it had a connection of its own.
    began: Cell<Option<Instant>>,
    connected: Cell<Option<Instant>>,
    /// Tries that failed.
    failed: RefCell<Vec<Try>>,
    /// What it is routed by, and labels that its endpoint must have.
    generation: Cell<Option<Generation>>,
    labels: OnceCell<BTreeMap<String, String>>,
    /// Its place in a trace.
    traced: OnceCell<Traced>,
    /// From the request's head to the head of the last try's response.
    head: Cell<Option<Duration>>,
    grpc_status: Cell<Option<u32>>,
    /// What stands in X-Forwarded-For ends with what this proxy put there.
    passed: Cell<bool>,
}

/// What the tasks of one request tell its clock.
#[derive(Default)]
pub(super) struct Pulse {
    beats: Cell<u64>,
    /// Bytes of the response's body so far.
    sent: Cell<u64>,
    /// It became a tunnel: only silence ends it.
    tunnel: Cell<bool>,
    /// When the whole of the request was sent.
    request_sent: Cell<Option<Instant>>,
}

impl Pulse {
    /// Something moved.
    pub(super) fn beat(&self) {
        self.beats.set(self.beats.get().wrapping_add(1));
    }

    /// Something moved, and so many bytes were sent to the client by now.
    pub(super) fn sent(&self, bytes: u64) {
        self.sent.set(bytes);
        self.beat();
    }

    /// The whole of the request is with the endpoint.
    pub(super) fn on_sent(&self) {
        if self.request_sent.get().is_none() {
            self.request_sent.set(Some(Instant::now()));
        }
    }

    /// The same, of a request without a body.
    pub(super) fn set_sent(&self, at: Instant) {
        self.request_sent.set(Some(at));
    }

    pub(super) fn request_sent(&self) -> Option<Instant> {
        self.request_sent.get()
    }

    /// From here on it may last.
    pub(super) fn begin_tunnel(&self) {
        self.tunnel.set(true);
    }

    pub(super) fn is_tunnel(&self) -> bool {
        self.tunnel.get()
    }

    /// Differs when something has moved.
    pub(super) fn get(&self) -> u64 {
        self.beats.get()
    }
}

impl Account {
    pub(super) fn new(grpc: bool) -> Self {
        Self {
            grpc,
            pulse: Pulse::default(),
            asked: OnceCell::new(),
            route: OnceCell::new(),
            started: Instant::now(),
            cluster: RefCell::default(),
            endpoint: RefCell::default(),
            tries: Cell::new(0),
            began: Cell::new(None),
            connected: Cell::new(None),
            failed: RefCell::default(),
            generation: Cell::new(None),
            labels: OnceCell::new(),
            traced: OnceCell::new(),
            head: Cell::new(None),
            grpc_status: Cell::new(None),
            passed: Cell::new(false),
        }
    }

    /// When its head was there.
    pub(super) fn started(&self) -> Instant {
        self.started
    }

    /// Its fields are now those for the endpoint.
    pub(super) fn on_passed(&self) {
        self.passed.set(true);
    }

    /// It is for this cluster.
    pub(super) fn on_cluster(&self, state: &Rc<ClusterState>) {
        *self.cluster.borrow_mut() = Some(Rc::clone(state));
    }

    /// This endpoint is tried, since then.
    pub(super) fn on_try(&self, endpoint: &Rc<Endpoint>, since: Instant) {
        *self.endpoint.borrow_mut() = Some(Rc::clone(endpoint));
        self.began.set(Some(since));
        self.connected.set(None);
        self.tries.set(self.tries.get().saturating_add(1));
        self.head.set(None);
        self.grpc_status.set(None);
    }

    /// The head of a response is there.
    pub(super) fn on_head(&self) {
        if self.head.get().is_none() {
            self.head.set(Some(self.started.elapsed()));
        }
    }

    pub(super) fn on_grpc(&self, status: u32) {
        self.grpc_status.set(Some(status));
    }

    /// The proxy answers itself or cuts the response, or the client left. Counted before anybody
    /// can see it.
    pub(super) fn on_local(&self, client: &Client, reason: Reason) {
        client.origin.count_local(reason);
        if let Some(cluster) = &*self.cluster.borrow() {
            cluster.metrics.on_local(reason);
        }
    }

    /// Counts the request, which has ended: with this reason if that was the proxy's or the
    /// client's doing, and `cut` if the response was begun and not ended.
    pub(super) fn close(
        &self,
        client: &Client,
        head: &RequestHead,
        source: &Source<'_>,
        answer: &Answering<'_>,
        local: Option<&Local>,
        cut: bool,
    ) {
        let reason = local.map(|local| local.reason);
        let took = self.started.elapsed();
        let (status, listener) = (answer.status, &client.origin.metrics);
        if cut {
            listener.cut.add(1);
        }
        if status != 0 {
            listener.count_response(status);
        }
        if let Some(route) = self.route.get() {
            route.metrics.on_request(status, took);
        }
        let sent = self.pulse.sent.get() + answer.local_bytes;
        self.count(status, took, source.bytes, sent);
        let cluster = self.cluster.borrow();
        let failed = self.is_failure(reason, status);
        if let Some(pen) = &client.origin.shared.pen {
            let record = Record {
                status,
                bytes_in: source.bytes,
                bytes_out: sent,
                took,
                cluster: cluster.as_ref().map_or("", |cluster| &cluster.config.name),
                reason: reason.map(Reason::as_str),
                protocol: protocol(answer.speaks),
                ..Record::default()
            };
            self.write(pen, client, head, failed, record);
        }
        drop(cluster);
        if self.traced.get().is_some() {
            self.trace(client, head, answer, reason, failed);
        }
        let detail = local.map(|local| &*local.detail);
        self.decide(client, head, answer, reason, detail, failed);
    }

    fn is_failure(&self, reason: Option<Reason>, status: u16) -> bool {
        let grpc = self.grpc_status.get();
        reason.is_some()
            || status >= 500
            || grpc.is_some_and(|status| Outcome::of_grpc(status) != Outcome::Success)
    }

    /// Counts a copy of a request: for its cluster alone, since no client saw it.
    pub(super) fn close_copy(&self, source: &Source<'_>, answer: &Answering<'_>) {
        self.count(answer.status, self.started.elapsed(), source.bytes, self.pulse.sent.get());
    }

    /// Counts it for its cluster.
    fn count(&self, status: u16, took: Duration, received: u64, sent: u64) {
        let Some(cluster) = &*self.cluster.borrow() else { return };
        let metrics = &cluster.metrics;
        metrics.on_request(status, took, self.head.get());
        metrics.on_bytes(received, sent);
        metrics.on_ended(status, self.grpc_status.get());
        if let Some(status) = self.grpc_status.get() {
            metrics.on_grpc(status);
        }
    }

    /// The host that it asks for, for those who watch.
    fn authority<'a>(&'a self, head: &'a RequestHead) -> &'a [u8] {
        let said = || head.authority().or_else(|| head.fields.get(Known::Host)).unwrap_or_default();
        self.asked.get().map_or_else(|| without_userinfo(said()), |asked| &asked.host)
    }

    /// The proxy answers it, or ends what an endpoint began.
    pub(super) fn on_answered(&self, local: &Local) {
        if self.grpc && local.reason != Reason::ClientReset {
            self.grpc_status.set(local.grpc_status().parse().ok());
        }
    }

    /// Puts it into the access log if that has it.
    #[cold]
    fn write<'a>(
        &'a self,
        pen: &Pen,
        client: &'a Client,
        head: &'a RequestHead,
        failed: bool,
        record: Record<'a>,
    ) {
        let grpc_status = self.grpc_status.get();
        if !pen.wants(failed, || client.origin.shared.random().0) {
            return;
        }
        let fields = &head.fields;
        let endpoint = self.endpoint.borrow();
        let forwarded_for = fields.get(Known::ForwardedFor).unwrap_or_default();
        pen.write(&Record {
            listener: &client.origin.listener.name,
            client: &client.peer_text,
            port: client.peer.port(),
            identity: Proof::identity(client.proof.as_deref()).unwrap_or_default(),
            method: head.method(),
            authority: self.authority(head),
            path: head.path(),
            grpc_status,
            head: self.head.get(),
            endpoint: endpoint.as_ref().map(|endpoint| endpoint.address),
            tries: self.tries.get(),
            request_id: fields.get(Known::RequestId).unwrap_or_default(),
            user_agent: fields.named(b"user-agent").unwrap_or_default(),
            forwarded_for: if self.passed.get() {
                given(forwarded_for, client.peer_text.as_bytes())
            } else {
                forwarded_for
            },
            ..record
        });
    }
}

/// Records what could not be read as a request.
pub(super) fn refused(client: &Client, status: u16, reason: Reason) {
    let Some(pen) = &client.origin.shared.pen else { return };
    pen.write(&Record {
        listener: &client.origin.listener.name,
        protocol: protocol(Speaks::Http11),
        client: &client.peer_text,
        port: client.peer.port(),
        status,
        reason: Some(reason.as_str()),
        ..Record::default()
    });
}

fn protocol(speaks: Speaks) -> &'static str {
    match speaks {
        Speaks::Http10 => "HTTP/1.0",
        Speaks::Http11 => "HTTP/1.1",
        Speaks::Http2 => "HTTP/2",
    }
}

/// An authority without what stands before `@`, which may be a password.
fn without_userinfo(authority: &[u8]) -> &[u8] {
    authority.rsplit(|byte| *byte == b'@').next().unwrap_or(authority)
}

/// X-Forwarded-For without what this proxy added.
fn given<'a>(passed: &'a [u8], peer: &[u8]) -> &'a [u8] {
    passed.strip_suffix(peer).and_then(|rest| rest.strip_suffix(b", ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_as_forwarded_for_is_told_from_what_was_added() {
        for (passed, expected) in [
            (&b"10.0.0.9"[..], &b""[..]),
            (b"1.1.1.1, 10.0.0.9", b"1.1.1.1"),
            (b"1.1.1.1, 10.0.0.9, 10.0.0.9", b"1.1.1.1, 10.0.0.9"),
            (b"", b""),
        ] {
            assert_eq!(given(passed, b"10.0.0.9"), expected);
        }
    }
}
