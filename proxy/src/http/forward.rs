//! Sending a request to an endpoint, and to another one when that is safe.
//!
//! A try may be repeated only if the endpoint cannot have processed the request (RFC 9110 §9.2.2,
//! RFC 9113 §8.7) and none of its body has left; or if the method is safe, there is no body, and
//! the connection closed without a byte of response. At most [`MAX_TRIES`], each at an endpoint
//! that has not failed this request yet while there is one, within the cluster's retry budget.

use std::net::SocketAddr;
use std::rc::Rc;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, Version, header};
use hyper::body::Incoming;
use portolan_model::traffic::{ResourceName, UpstreamProtocol};

use super::body::{RequestBody, ResponseBody, Source, Upstream};
use super::headers;
use super::local::{Local, Reason};
use crate::upstream::{self, Cause, Failure, h1, h2};
use crate::worker::cluster::{ClusterState, Endpoint, InFlight, Retry};
use crate::worker::shared::Shared;

/// Tries of one request, the first included.
const MAX_TRIES: usize = 3;

/// The head of a request, ready to be written for either version.
pub(super) struct Head {
    pub(super) method: Method,
    pub(super) target: Option<PathAndQuery>,
    pub(super) host: HeaderValue,
    pub(super) headers: HeaderMap,
    /// The client takes trailers.
    pub(super) trailers: bool,
    /// Cookies may be split over several headers.
    pub(super) split_cookies: bool,
}

/// A request on its way.
pub(super) struct Forward<'a> {
    shared: &'a Rc<Shared>,
    cluster: &'a ResourceName,
    head: &'a Head,
    body: &'a Source,
    grpc: bool,
    /// What was asked for, in answers.
    asked: &'a str,
}

/// A try that failed, and whether that was a kept connection's end.
struct Tried {
    failure: Failure,
    reused: bool,
}

impl<'a> Forward<'a> {
    pub(super) fn new(
        shared: &'a Rc<Shared>,
        cluster: &'a ResourceName,
        head: &'a Head,
        body: &'a Source,
        grpc: bool,
        asked: &'a str,
    ) -> Self {
        Self { shared, cluster, head, body, grpc, asked }
    }

    /// The response of an endpoint, or the answer to give instead.
    pub(super) async fn run(&self) -> Result<Response<ResponseBody>, Local> {
        let mut tried: Vec<SocketAddr> = Vec::new();
        let mut last: Option<Tried> = None;
        let mut active = None;
        // Counts as in flight from the first try to the end of the response's body.
        let upstream = Upstream::new(self.shared);
        while tried.len() < MAX_TRIES {
            // Looked up each time: a try may have outlived a configuration.
            let Some(state) = self.shared.cluster(self.cluster) else {
                let detail = format!("{}: no cluster {}", self.asked, self.cluster);
                return Err(Local::new(Reason::NoCluster, detail));
            };
            active.get_or_insert_with(|| state.begin());
            let Some(endpoint) = self.pick(&state, &tried, last.as_ref()) else { break };
            let mut retry = None;
            if let Some(last) = &last {
                let Ok(allowed) = self.allow(&state, last) else { break };
                retry = allowed;
            }
            tried.push(endpoint.address);
            match self.attempt(&state, &endpoint, tried.len() == 1, retry).await {
                Ok((mut response, load)) => {
                    let active = active.take().unwrap_or_else(|| state.begin());
                    response.body_mut().hold_upstream(load, active, upstream);
                    return Ok(response);
                }
                Err(failed) => {
                    let again = self.may_retry(&failed.failure);
                    last = Some(failed);
                    if !again {
                        break;
                    }
                }
            }
        }
        Err(self.give_up(last))
    }

    /// The endpoint for the next try. Only one that has not failed this request; but if it was a
    /// connection that failed and not the endpoint, the same one if it is all there is.
    fn pick(
        &self,
        state: &ClusterState,
        tried: &[SocketAddr],
        last: Option<&Tried>,
    ) -> Option<Rc<Endpoint>> {
        let again = || match last {
            Some(last) if last.failure.cause != Cause::Connect => state.pick(&self.shared.rng, &[]),
            _ => None,
        };
        state.pick(&self.shared.rng, tried).or_else(again)
    }

    /// Leave for another try. A kept connection that turned out closed is nobody's fault, and when
    /// an endpoint leaves it happens to all who share the connection: it is not charged to the
    /// budget.
    fn allow(&self, state: &ClusterState, last: &Tried) -> Result<Option<Retry>, ()> {
        let charged = if last.reused { None } else { Some(state.retry()) };
        match charged {
            Some(None) => {
                self.shared.metrics.retries_over_budget.add(1);
                Err(())
            }
            Some(retry) => {
                self.shared.metrics.retries.add(1);
                Ok(retry)
            }
            None => {
                self.shared.metrics.retries.add(1);
                Ok(None)
            }
        }
    }

    fn may_retry(&self, failure: &Failure) -> bool {
        match failure.cause {
            Cause::Connect | Cause::Unsent | Cause::Refused | Cause::GoneAway => !self.body.begun(),
            Cause::Closed => self.head.method.is_safe() && self.body.is_empty(),
            Cause::Invalid | Cause::Client => false,
        }
    }

    /// One try. `first`: a kept connection may be used; later tries open their own.
    async fn attempt(
        &self,
        state: &ClusterState,
        endpoint: &Rc<Endpoint>,
        first: bool,
        retry: Option<Retry>,
    ) -> Result<(Response<ResponseBody>, InFlight), Tried> {
        let load = endpoint.begin();
        let http2 = self.grpc || state.config.upstream.protocol == UpstreamProtocol::Http2;
        let mut response = if http2 {
            // Held until the endpoint has answered: it may refuse the stream again.
            let _retry = retry;
            self.over_http2(state, endpoint).await?
        } else {
            self.over_http1(state, endpoint, first, retry).await?
        };
        headers::strip(response.headers_mut());
        // hyper writes its own version; an HTTP/1.0 endpoint must not make the client's 1.0.
        *response.version_mut() = Version::HTTP_11;
        Ok((response, load))
    }

    async fn over_http1(
        &self,
        state: &ClusterState,
        endpoint: &Rc<Endpoint>,
        first: bool,
        retry: Option<Retry>,
    ) -> Result<Response<ResponseBody>, Tried> {
        if first && let Some(kept) = endpoint.h1.take() {
            match kept.exchange(self.http1_request()).await {
                Ok((response, connection)) => {
                    return Ok(self.http1_response(response, connection, endpoint));
                }
                // It was closed before the request was written: as if it had not been there.
                Err((_, true)) if !self.body.begun() => {}
                Err((error, recovered)) => return Err(self.failed(&error, recovered, true)),
            }
        }
        let fresh = |failure| Tried { failure, reused: false };
        let timeout = state.config.upstream.connect_timeout;
        let stream = upstream::connect(endpoint, timeout, &self.shared.metrics).await;
        let max = usize::try_from(self.shared.config.max_header_bytes).unwrap_or(usize::MAX);
        let connection = h1::Connection::start(stream.map_err(fresh)?, max).await.map_err(fresh)?;
        // The endpoint is there: from here on this is a request like any other.
        drop(retry);
        match connection.exchange(self.http1_request()).await {
            Ok((response, connection)) => Ok(self.http1_response(response, connection, endpoint)),
            Err((error, recovered)) => Err(self.failed(&error, recovered, false)),
        }
    }

    async fn over_http2(
        &self,
        state: &ClusterState,
        endpoint: &Rc<Endpoint>,
    ) -> Result<Response<ResponseBody>, Tried> {
        let timeout = state.config.upstream.connect_timeout;
        let mut kept = MAX_TRIES;
        loop {
            let sender = h2::sender(self.shared, endpoint, timeout).await;
            let (sender, reused) = sender.map_err(|failure| Tried { failure, reused: false })?;
            match h2::exchange(sender, self.http2_request(endpoint)).await {
                Ok(response) => return Ok(response.map(ResponseBody::http2)),
                // It was closed before the request was written: as if it had not been there. The
                // next one is new, or was opened just now for somebody else.
                Err((_, true)) if reused && kept > 0 && !self.body.begun() => kept -= 1,
                Err((error, recovered)) => return Err(self.failed(&error, recovered, reused)),
            }
        }
    }

    fn http1_response(
        &self,
        response: Response<Incoming>,
        connection: h1::Connection,
        endpoint: &Rc<Endpoint>,
    ) -> Response<ResponseBody> {
        let (endpoint, shared) = (Rc::clone(endpoint), Rc::clone(self.shared));
        response.map(|body| ResponseBody::http1(body, connection, endpoint, shared))
    }

    fn http1_request(&self) -> Request<RequestBody> {
        let mut request = Request::new(self.body.lend());
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = self.head.target.clone().map_or_else(Uri::default, Uri::from);
        let headers = request.headers_mut();
        *headers = self.head.headers.clone();
        headers.insert(header::HOST, self.head.host.clone());
        if self.head.trailers {
            // RFC 9110 §10.1.4: TE is for this connection only, and Connection says so.
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
        if self.head.split_cookies {
            headers::join_cookies(headers);
        }
        request
    }

    fn http2_request(&self, endpoint: &Endpoint) -> Request<RequestBody> {
        let mut request = Request::new(self.body.lend());
        *request.method_mut() = self.head.method.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.absolute(endpoint);
        let headers = request.headers_mut();
        *headers = self.head.headers.clone();
        headers.remove(header::HOST);
        if self.head.trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        request
    }

    /// The target with scheme and authority, as HTTP/2 wants it (RFC 9113 §8.3.1).
    fn absolute(&self, endpoint: &Endpoint) -> Uri {
        let host = self.head.host.as_bytes();
        let mut uri = Uri::builder().scheme("http");
        // An HTTP/1.0 request may name no host; HTTP/2 needs some authority.
        uri = if host.is_empty() {
            uri.authority(endpoint.address.to_string())
        } else {
            uri.authority(host)
        };
        uri = match &self.head.target {
            Some(target) => uri.path_and_query(target.clone()),
            None => uri.path_and_query("/"),
        };
        uri.build().expect("scheme, an authority that was parsed, and a path that was parsed")
    }

    fn failed(&self, error: &hyper::Error, recovered: bool, reused: bool) -> Tried {
        let failure = Failure::from_hyper(error, recovered, self.body.failed());
        // A stream that is refused speaks of load, however old the connection.
        let reused = reused && failure.cause != Cause::Refused;
        Tried { failure, reused }
    }

    fn give_up(&self, last: Option<Tried>) -> Local {
        let asked = self.asked;
        let Some(Tried { failure: Failure { cause, detail }, .. }) = last else {
            return Local::new(Reason::NoEndpoints, format!("{asked}: no ready endpoint"));
        };
        let (reason, what) = match cause {
            Cause::Connect => (Reason::ConnectFailed, "no endpoint took a connection"),
            Cause::Unsent | Cause::Refused | Cause::GoneAway | Cause::Closed => {
                (Reason::UpstreamReset, "the endpoint closed before it had answered")
            }
            Cause::Invalid => (Reason::UpstreamInvalid, "the endpoint's answer is not valid"),
            Cause::Client => (Reason::ClientReset, "the request ended early"),
        };
        Local::new(reason, format!("{asked}: {what}: {detail}"))
    }
}
