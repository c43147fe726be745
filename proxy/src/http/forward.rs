//! Sending a request to an endpoint, and to another one when that is safe or asked for.
//!
//! Without a policy a try is repeated only if the endpoint cannot have processed the request (RFC
//! 9110 §9.2.2, RFC 9113 §8.7), or if the method is safe and the connection closed without a byte
//! of response; and only if all of the body that was read can be sent again. A route's policy adds
//! reasons and tries. Each try is at an endpoint that has not failed this request yet while there
//! is one, within the cluster's retry budget.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use portolan_model::policy::Retries;
use portolan_model::traffic::UpstreamProtocol;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::account::Account;
use super::answering::{Answering, Speaks};
use super::asked::Asked;
use super::awaited::Answer;
use super::body::{Outgoing, Source};
use super::exchange::{Fail, held_up};
use super::hedge;
use super::local::{Local, Reason};
use super::retrying::{self, Ended, Tried, tried};
use super::routing::Way;
use super::stage::Stage;
use super::talk::{Reuse, Talk};
use super::trying::Trying;
use super::tunnel::Tunnel;
use crate::http1::Length;
use crate::http2::Open;
use crate::limit::breaker::Permit;
use crate::message::{Known, RequestHead};
use crate::metrics::cluster::Retried;
use crate::tls::Above;
use crate::upstream::{self, Cause, Failure, h1, h2};
use crate::worker::cluster::{ActiveRequest, Choice, ClusterState};
use crate::worker::endpoint::Endpoint;
use crate::worker::shared::Shared;

/// Tries of one request without a policy, the first included.
pub(super) const MAX_TRIES: usize = 3;

/// A request on its way.
pub(super) struct Forward<'a> {
    pub(super) shared: &'a Rc<Shared>,
    pub(super) way: &'a Way,
    pub(super) asked: &'a Asked,
    pub(super) head: &'a mut RequestHead,
    pub(super) upgrade: Option<Tunnel>,
    /// Told to gRPC endpoints.
    pub(super) deadline: Option<Instant>,
    pub(super) account: &'a Account,
    /// The client takes trailers.
    pub(super) trailers: bool,
    /// Tries so far.
    pub(super) tries: usize,
    /// Leave for the next try, had before the answer of this one was given up for it.
    pub(super) granted: Option<Permit>,
}

impl Forward<'_> {
    /// Brings the response of an endpoint to the client.
    pub(super) async fn run(
        mut self,
        source: &mut Source<'_>,
        answer: &mut Answering<'_>,
    ) -> Result<(), Fail> {
        // Who waits to be asked for the body is to hear from the one endpoint that asks.
        if self.upgrade.is_none()
            && self.head.fields.get(Known::Expect).is_none()
            && let Some(delay) = self.way.retries.as_ref().and_then(Retries::hedges_after)
        {
            return Box::pin(hedge::run(self, delay, source, answer)).await;
        }
        let length = source.length();
        let mut tried: SmallVec<[SocketAddr; 4]> = SmallVec::new();
        let mut last: Option<Tried> = None;
        let mut active: Option<ActiveRequest> = None;
        let most = self.way.retries.as_ref().map_or(MAX_TRIES, |retries| {
            MAX_TRIES.max(usize::try_from(retries.attempts).unwrap_or(0) + 1)
        });
        let _upstream = self.shared.metrics.upstream();
        while tried.len() < most {
            if let Some(pause) = last.as_ref().and_then(|last| self.pause(last, tried.len())) {
                Box::pin(held_up(pause, source, answer)).await?;
            }
            // Looked up each time: a try may have outlived a configuration.
            let state = self.cluster()?;
            self.account.on_cluster(&state);
            if active.is_none() {
                active = Some(self.begin(&state)?);
            }
            let Some(endpoint) = self.pick(&state, &tried, last.as_ref()) else { break };
            let mut retry = None;
            if let Some(last) = &last {
                let Ok(allowed) = self.allow(&state, last) else { break };
                retry = allowed;
                source.rewind();
            }
            tried.push(endpoint.address);
            self.tries = tried.len();
            let first = tried.len() == 1;
            let mut trying = Trying::begin(&endpoint, self.shared, self.account, active.as_mut());
            self.account.on_try(&endpoint, trying.load.since());
            let mut stage = Stage::Alone(answer);
            let attempt =
                self.attempt(&state, &mut trying, first, retry, length, source, &mut stage);
            let attempted = attempt.await;
            if !first {
                state.metrics.on_retried(match &attempted {
                    Ok(()) => Retried::Success,
                    Err(_) => Retried::Failure,
                });
            }
            match attempted {
                Ok(()) => return Ok(()),
                Err(Ended::Over(fail)) => return Err(fail),
                Err(Ended::Tried(failed)) => {
                    self.account.on_try_failed(&failed.failure, failed.reused);
                    trying.on_failed(failed.failure.cause);
                    drop(trying);
                    let again = self.may_retry(&failed.failure, tried.len(), source);
                    last = Some(failed);
                    if !again {
                        break;
                    }
                }
            }
        }
        Err(Fail::Local(retrying::given_up(self.asked, last)))
    }

    /// The cluster that it goes to.
    pub(super) fn cluster(&self) -> Result<Rc<ClusterState>, Fail> {
        self.shared.cluster(&self.way.cluster).ok_or_else(|| {
            let detail = format!("{}: no cluster {}", self.asked.lower(), self.way.cluster);
            Fail::Local(Local::new(Reason::NoCluster, detail))
        })
    }

    /// Lets it in, if its cluster has room.
    pub(super) fn begin(&self, state: &ClusterState) -> Result<ActiveRequest, Fail> {
        state.begin().map_err(|closed| {
            let detail = format!("{}: {closed}", self.way.cluster);
            Fail::Local(Local::new(Reason::CircuitOpen, detail))
        })
    }

    /// How long to wait before another try. What the policy does not ask for is made at once.
    pub(super) fn pause(&self, last: &Tried, tries: usize) -> Option<Duration> {
        let back_off = self.way.retries.as_ref()?.back_off?;
        let asked = self.is_asked(last.failure.cause, tries);
        let n = u32::try_from(tries).unwrap_or(u32::MAX);
        (asked && !last.is_closed()).then(|| back_off.pause(n, self.shared.random().0))
    }

    /// The endpoint for the next try. Only one that has not failed this request; but if it was a
    /// connection that failed and not the endpoint, the same one if it is all there is.
    pub(super) fn pick(
        &self,
        state: &ClusterState,
        tried: &[SocketAddr],
        last: Option<&Tried>,
    ) -> Option<Rc<Endpoint>> {
        let labels = (!self.way.labels.is_empty()).then_some(&self.way.labels);
        let kept = self.way.session.as_ref().and_then(|kept| kept.endpoint);
        let choice = Choice { hash: self.way.told.hash, labels, kept };
        let again = || match last {
            Some(last) if last.failure.cause != Cause::Connect => state.pick(choice, &[]),
            _ => None,
        };
        state.pick(choice, tried).or_else(again)
    }

    /// Leave for another try. A kept connection that turned out closed is nobody's fault, and when
    /// an endpoint leaves it happens to all who share the connection: it is not charged to the
    /// budget.
    pub(super) fn allow(
        &mut self,
        state: &ClusterState,
        last: &Tried,
    ) -> Result<Option<Permit>, ()> {
        if let Some(granted) = self.granted.take() {
            self.shared.metrics.retries.add(1);
            return Ok(Some(granted));
        }
        let charged = if last.is_closed() { None } else { Some(self.charge(state).ok_or(())?) };
        self.shared.metrics.retries.add(1);
        Ok(charged)
    }

    /// Leave for another try from the budget; counted where there is none.
    pub(super) fn charge(&self, state: &ClusterState) -> Option<Permit> {
        let permit = state.retry();
        if permit.is_none() {
            self.shared.metrics.retries_over_budget.add(1);
            state.metrics.on_retried(Retried::OverBudget);
        }
        permit
    }

    fn may_retry(&self, failure: &Failure, tries: usize, source: &Source<'_>) -> bool {
        source.can_rewind() && self.is_reason(failure, tries, source.is_empty())
    }

    /// Whether a failure is a reason for another try. `is_empty`: the request has no body.
    pub(super) fn is_reason(&self, failure: &Failure, tries: usize, is_empty: bool) -> bool {
        let safe = matches!(self.head.method(), b"GET" | b"HEAD" | b"OPTIONS" | b"TRACE");
        let unasked = tries < MAX_TRIES
            && match failure.cause {
                Cause::Connect | Cause::Unsent | Cause::Refused | Cause::GoneAway => true,
                Cause::Closed => safe && is_empty,
                Cause::Limit
                | Cause::Invalid
                | Cause::Status(_)
                | Cause::Grpc(_)
                | Cause::TryTimeout => false,
            };
        unasked || self.is_asked(failure.cause, tries)
    }

    /// Whether the route's policy asks for another try.
    pub(super) fn is_asked(&self, cause: Cause, tries: usize) -> bool {
        let Some(policy) = &self.way.retries else { return false };
        tries <= usize::try_from(policy.attempts).unwrap_or(0) && retrying::is_reason(policy, cause)
    }

    /// One try. `first`: a kept connection may be used; later tries open their own.
    #[expect(clippy::too_many_arguments, reason = "what a try is made of, each once")]
    pub(super) async fn attempt(
        &mut self,
        state: &Rc<ClusterState>,
        trying: &mut Trying<'_>,
        first: bool,
        retry: Option<Permit>,
        length: Length,
        source: &mut Source<'_>,
        stage: &mut Stage<'_, '_, '_>,
    ) -> Result<(), Ended> {
        let endpoint = &Rc::clone(trying.load.endpoint());
        self.shorten_grpc_timeout();
        if self.upgrade == Some(Tunnel::Connect)
            && let Stage::Alone(answer) = stage
        {
            let opening = upstream::connect(state, endpoint, self.shared, Above::Bytes, None);
            let stream = Box::pin(opening).await;
            let (stream, _permit) = stream.map_err(|failure| tried(failure, false))?;
            trying.on_answered(200);
            let (pulse, edits) = (&self.account.pulse, self.way.edits.as_deref());
            return Box::pin(super::tunnel::connect(stream, source, answer, pulse, edits)).await;
        }
        let http2 = self.upgrade.is_none()
            && match state.config.upstream.protocol {
                UpstreamProtocol::Auto => self.account.grpc,
                UpstreamProtocol::Http1 => false,
                UpstreamProtocol::Http2 => true,
                UpstreamProtocol::Downstream => stage.speaks() == Speaks::Http2,
            };
        if http2 {
            // Held until the endpoint has answered: it may refuse the stream again.
            let _retry = retry;
            return self.over_http2(state, endpoint, trying, length, source, stage).await;
        }
        if first && let Some(kept) = endpoint.h1.take(&state.config.upstream) {
            match self.over_http1(state, trying, kept, true, length, source, stage).await {
                // It was closed before the request was written: as if it had not been there.
                Err(Ended::Tried(tried))
                    if tried.failure.cause == Cause::Unsent && source.can_rewind() =>
                {
                    source.rewind();
                }
                ended => return ended,
            }
        }
        // What is rare is in a box, so that every request is not made room for it.
        let connection = Box::pin(upstream::connect_or_wait(state, endpoint, self.shared)).await;
        let connection = connection.map_err(|failure| tried(failure, false))?;
        self.account.on_connected();
        // The endpoint is there: from here on this is a request like any other, unless others have it, too.
        let _retry = retry.filter(|_| matches!(stage, Stage::Beside(_)));
        self.over_http1(state, trying, connection, false, length, source, stage).await
    }

    #[expect(clippy::too_many_arguments, reason = "what a try is made of, each once")]
    async fn over_http1(
        &mut self,
        state: &ClusterState,
        trying: &mut Trying<'_>,
        mut kept: h1::Kept,
        reused: bool,
        length: Length,
        source: &mut Source<'_>,
        stage: &mut Stage<'_, '_, '_>,
    ) -> Result<(), Ended> {
        let (receiving, mut sending) = kept.connection.split();
        if self.upgrade == Some(Tunnel::Upgrade) && stage.speaks() == Speaks::Http2 {
            self.write_upgrade(&mut sending);
        } else {
            self.write_request(&mut sending, length);
        }
        let talk = Talk { forward: self, state, trying, reused };
        let spoke =
            talk.run(Answer::Http1(receiving), Outgoing::Http1(sending), source, stage).await?;
        let endpoint = trying.load.endpoint();
        if spoke == Reuse::Yes && !endpoint.is_gone() {
            let upstream = &state.config.upstream;
            let config = &self.shared.config;
            // What one worker keeps idle no other can have: of a limit, each keeps its share.
            let limit = state.config.limits.breaker.connections;
            let share = limit.map_or(usize::MAX, |n| n as usize / config.workers.get());
            if !endpoint.h1.put(kept, upstream, config.pool_idle_per_endpoint.min(share)) {
                self.shared.metrics.idle_dropped.add(1);
            }
            state.freed.notify_waiters();
        }
        Ok(())
    }

    async fn over_http2(
        &mut self,
        state: &Rc<ClusterState>,
        endpoint: &Rc<Endpoint>,
        trying: &mut Trying<'_>,
        length: Length,
        source: &mut Source<'_>,
        stage: &mut Stage<'_, '_, '_>,
    ) -> Result<(), Ended> {
        let mut kept = MAX_TRIES;
        loop {
            let opened = h2::client(self.shared, endpoint, state).await;
            let (client, reused) = opened.map_err(|failure| tried(failure, false))?;
            if !reused {
                self.account.on_connected();
            }
            if client.room() == 0 {
                // Its connections have as many streams as the endpoint allows: one has to end.
                let limit = state.config.upstream.connect_timeout;
                let room = tokio::time::timeout(limit, poll_fn(|cx| client.poll_ready(cx))).await;
                if room.is_err() {
                    let detail = format!("{}: no stream became free", endpoint.address);
                    return Err(tried(Failure { cause: Cause::Limit, detail }, false));
                }
            }
            let end = length == Length::None;
            let address;
            // An HTTP/1.0 request may name no host; HTTP/2 needs some authority.
            let authority: &[u8] = if self.host().is_empty() {
                address = endpoint.address.to_string();
                address.as_bytes()
            } else {
                self.host()
            };
            let open = Open {
                method: self.head.method(),
                scheme: Some(b"http"),
                authority: Some(authority),
                path: Some(self.target()),
                protocol: None,
                fields: &self.head.fields,
            };
            let result = match client.open(&open, end) {
                Ok((sending, receiving)) => {
                    let out = super::body::Http2Out::new(sending, end);
                    let talk = Talk { forward: self, state, trying, reused };
                    talk.run(Answer::Http2(receiving), Outgoing::Http2(out), source, stage).await
                }
                Err(error) => {
                    let detail = error.to_string();
                    Err(tried(Failure { cause: Cause::Unsent, detail }, reused))
                }
            };
            match result {
                // It was closed before the request was written: as if it had not been there. The
                // next one is new, or was opened just now for somebody else.
                Err(Ended::Tried(tried))
                    if tried.failure.cause == Cause::Unsent
                        && reused
                        && kept > 0
                        && source.can_rewind() =>
                {
                    kept -= 1;
                    source.rewind();
                }
                result => return result.map(|_| ()),
            }
        }
    }

    /// The host that the endpoint is asked for.
    pub(super) fn host(&self) -> &[u8] {
        let rewritten = self.way.edits.as_ref().and_then(|edits| edits.host.as_deref());
        rewritten.map_or(&self.asked.host, str::as_bytes)
    }

    /// The target that the endpoint is asked for.
    pub(super) fn target(&self) -> &[u8] {
        self.way.target.as_deref().unwrap_or(self.head.path())
    }

    /// Tells a gRPC endpoint how much of its time is left.
    fn shorten_grpc_timeout(&mut self) {
        let Some(deadline) = self.deadline else { return };
        let left = deadline.saturating_duration_since(Instant::now());
        self.head.fields.remove(Known::GrpcTimeout);
        let millis = left.as_millis().max(1);
        let text = if millis > 99_999_999 {
            format!("{}S", (millis / 1000).min(99_999_999))
        } else {
            format!("{millis}m")
        };
        self.head.fields.push_as(Known::GrpcTimeout, b"grpc-timeout", text.as_bytes());
    }
}
