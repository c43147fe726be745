//! The bodies that pass through: a request's towards the endpoint, a response's towards the client.
//!
//! Concrete types, no boxes. Owns what lives as long as a response: load, deadlines, and the
//! HTTP/1.1 connection, which goes back to its pool when the body is over.

mod request;

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use super::activity::Busy;
use super::local::GRPC_DEADLINE_EXCEEDED;
use crate::upstream::h1;
use crate::worker::cluster::{ActiveRequest, Endpoint, InFlight};
use crate::worker::shared::Shared;

pub(crate) use request::{RequestBody, Source};

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The connection it came from failed.
    #[error("the body ended early: {0}")]
    Incoming(#[source] hyper::Error),
    /// The request goes elsewhere now.
    #[error("the request is tried again elsewhere")]
    Superseded,
    /// The route's time is over.
    #[error("the route's time is over")]
    Timeout,
}

/// A response body on its way to the client.
#[derive(Default)]
pub(crate) struct ResponseBody {
    kind: Kind,
    limit: Option<Limit>,
    holds: Holds,
}

#[derive(Default)]
enum Kind {
    #[default]
    Empty,
    Full(Bytes),
    Http1(Box<Http1>),
    Http2(Incoming),
}

/// Let go when the response is over.
#[derive(Default)]
struct Holds {
    upstream: Option<(InFlight, ActiveRequest, Upstream)>,
    client: Option<(Busy, Request)>,
}

/// The time a response may take.
struct Limit {
    sleep: Pin<Box<Sleep>>,
    grpc: bool,
}

/// A body with the connection it comes over.
struct Http1 {
    body: Incoming,
    /// `None` once it is back in its pool.
    connection: Option<h1::Connection>,
    /// The last frame was seen: its length was reached, or trailers or the end came.
    over: bool,
    endpoint: Rc<Endpoint>,
    shared: Rc<Shared>,
}

/// Counts as a request upstream while it lives.
pub(crate) struct Upstream(Rc<Shared>);

/// Counts as a request of the worker while it lives.
pub(crate) struct Request(Rc<Shared>);

impl ResponseBody {
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self { kind: Kind::Full(bytes), ..Self::default() }
    }

    /// A body over an HTTP/1.1 connection, which is kept for later unless the endpoint left.
    pub(crate) fn http1(
        body: Incoming,
        connection: h1::Connection,
        endpoint: Rc<Endpoint>,
        shared: Rc<Shared>,
    ) -> Self {
        let mut http1 = Http1 { body, connection: Some(connection), over: false, endpoint, shared };
        http1.finish(&mut Context::from_waker(std::task::Waker::noop()));
        Self { kind: Kind::Http1(Box::new(http1)), ..Self::default() }
    }

    pub(crate) fn http2(body: Incoming) -> Self {
        Self { kind: Kind::Http2(body), ..Self::default() }
    }

    /// Ends the body with an error at the deadline, or with a status if it is gRPC's.
    pub(crate) fn limit(&mut self, deadline: Instant, grpc: bool) {
        if !self.is_end_stream() {
            let sleep = Box::pin(tokio::time::sleep_until(deadline));
            self.limit = Some(Limit { sleep, grpc });
        }
    }

    pub(crate) fn hold_upstream(&mut self, load: InFlight, active: ActiveRequest, up: Upstream) {
        self.holds.upstream = Some((load, active, up));
    }

    pub(crate) fn hold_client(&mut self, busy: Busy, request: Request) {
        self.holds.client = Some((busy, request));
    }

    /// Cuts the body off: what it came over is of no more use.
    fn expire(&mut self, grpc: bool) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.kind = Kind::Empty;
        self.limit = None;
        self.holds.upstream = None;
        if !grpc {
            return Some(Err(BodyError::Timeout));
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static(GRPC_DEADLINE_EXCEEDED));
        trailers.insert("grpc-message", HeaderValue::from_static("the route's time is over"));
        Some(Ok(Frame::trailers(trailers)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let polled = match &mut this.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                this.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Http1(body) => body.poll_frame(cx),
            Kind::Http2(body) => Pin::new(body).poll_frame(cx),
        };
        if polled.is_pending()
            && let Some(limit) = &mut this.limit
            && limit.sleep.as_mut().poll(cx).is_ready()
        {
            let grpc = limit.grpc;
            return Poll::Ready(this.expire(grpc));
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(BodyError::Incoming)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Empty => true,
            Kind::Full(bytes) => bytes.is_empty(),
            Kind::Http1(http1) => http1.body.is_end_stream(),
            Kind::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => {
                SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
            }
            Kind::Http1(http1) => http1.body.size_hint(),
            Kind::Http2(body) => body.size_hint(),
        }
    }
}

impl Http1 {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.drive(cx);
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending() && self.connection.is_some() {
            // Asking for a frame may be what the connection waited for.
            self.drive(cx);
            polled = Pin::new(&mut self.body).poll_frame(cx);
        }
        self.over |= match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        self.finish(cx);
        polled
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection {
            connection.drive(cx);
        }
    }

    /// Gives the connection back if the response is over.
    fn finish(&mut self, cx: &mut Context<'_>) {
        if self.over || self.body.is_end_stream() {
            self.release(cx);
        }
    }

    /// Gives the connection back if it can take another request; it stays here while a request
    /// body is still on its way.
    fn release(&mut self, cx: &mut Context<'_>) {
        let Some(connection) = &mut self.connection else { return };
        if !connection.is_ready(cx) {
            return;
        }
        if let Some(connection) = self.connection.take()
            && !self.endpoint.is_gone()
        {
            let max = self.shared.config.pool_idle_per_endpoint;
            if !self.endpoint.h1.put(connection, max) {
                self.shared.metrics.idle_dropped.add(1);
            }
        }
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        // hyper's server does not ask for the end of a body whose length it knows.
        self.finish(&mut Context::from_waker(std::task::Waker::noop()));
    }
}

impl Upstream {
    pub(crate) fn new(shared: &Rc<Shared>) -> Self {
        shared.metrics.upstream_active.add(1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.0.metrics.upstream_active.sub(1);
    }
}

impl Request {
    pub(crate) fn new(shared: &Rc<Shared>) -> Self {
        crate::worker::cluster::add(&shared.requests, 1);
        Self(Rc::clone(shared))
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        crate::worker::cluster::sub(&self.0.requests, 1);
    }
}
