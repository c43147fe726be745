//! The tonic shell of `portolan.v1.Endpoints`. A watch is a stream that is made as it is read: what
//! is due is worked out when there is room for it, so that nothing queues for a slow reader.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use portolan_model::Generation;
use portolan_proto::v1::endpoints_server::Endpoints;
use portolan_proto::v1::watch_response::Kind;
use portolan_proto::v1::{Heartbeat, ResolveRequest, ResolveResponse, WatchRequest, WatchResponse};
use portolan_runtime::{Lifecycle, Subscriber};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Response, Status};

use super::ask::{Ask, InvalidAsk, Zones};
use super::hub::{Follower, Hub, State};
use super::metrics::PlainMetrics;
use super::view::View;
use super::{Authorize, Caller, PlainLimits, shutting_down};

type Responses = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

/// The service.
#[derive(Clone)]
pub(super) struct EndpointsService {
    pub(super) snapshots: Subscriber,
    pub(super) hub: Hub,
    pub(super) zones: Arc<Zones>,
    pub(super) limits: PlainLimits,
    /// A permit per watch.
    pub(super) room: Arc<Semaphore>,
    pub(super) authorize: Arc<Authorize>,
    pub(super) metrics: PlainMetrics,
    pub(super) lifecycle: Lifecycle,
}

#[tonic::async_trait]
impl Endpoints for EndpointsService {
    type WatchStream = Responses;

    async fn resolve(
        &self,
        request: Request<ResolveRequest>,
    ) -> Result<Response<ResolveResponse>, Status> {
        let result = self.try_resolve(request).await;
        self.metrics.request("resolve", &result);
        result.map(Response::new)
    }

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let result = self.try_watch(request).await;
        self.metrics.request("watch", &result);
        let watch = result?;
        Ok(Response::new(Box::pin(stream::unfold(watch, Watch::next))))
    }
}

impl EndpointsService {
    async fn try_resolve(
        &self,
        request: Request<ResolveRequest>,
    ) -> Result<ResolveResponse, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let ask = Ask::resolve(message, &self.zones).map_err(|e| refused(&e))?;
        let allowed = {
            let caller = Caller { metadata: &metadata, extensions: &extensions };
            (self.authorize)(&caller, ask.key.namespace())
        };
        allowed.await?;
        let snapshot = self.snapshots.newest();
        let generation = snapshot.generation();
        if generation == Generation(0) {
            return Err(Status::unavailable("there is no snapshot yet"));
        }
        let node = ask.place.node.clone();
        let state = State::of(&snapshot, &(ask.key.clone(), node));
        match View::of(&state, &ask) {
            View::Absent(absent) => Err(Status::not_found(absent.message)),
            View::Present(present) => Ok(ResolveResponse {
                generation: generation.0,
                port: Some(present.port()),
                endpoints: present.endpoints(),
            }),
        }
    }

    async fn try_watch(&self, request: Request<WatchRequest>) -> Result<Watch, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let heartbeat = self.heartbeat(message.heartbeat_secs).map_err(|e| refused(&e))?;
        let ask = Ask::watch(message, &self.zones).map_err(|e| refused(&e))?;
        let allowed = {
            let caller = Caller { metadata: &metadata, extensions: &extensions };
            (self.authorize)(&caller, ask.key.namespace())
        };
        allowed.await?;
        if self.lifecycle.is_draining() {
            return Err(shutting_down());
        }
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            self.metrics.refused.inc();
            let text = format!("too many watches: the limit is {}", self.limits.watches);
            return Err(Status::resource_exhausted(text));
        };
        self.metrics.watches.inc();
        let (state, follower) = self.hub.follow(&ask.key, &ask.place);
        tracing::debug!(client = ask.id, service = %ask.key, "a watch begins");
        Ok(Watch {
            ask,
            due: Some(state),
            follower,
            known: None,
            waiting: VecDeque::new(),
            heartbeat,
            last: Instant::now(),
            ended: false,
            metrics: self.metrics.clone(),
            lifecycle: self.lifecycle.clone(),
            _permit: permit,
        })
    }

    fn heartbeat(&self, secs: u32) -> Result<Duration, InvalidAsk> {
        let PlainLimits { heartbeat, heartbeat_min, heartbeat_max, .. } = self.limits;
        let wanted = if secs == 0 { heartbeat } else { Duration::from_secs(secs.into()) };
        if (heartbeat_min..=heartbeat_max).contains(&wanted) {
            return Ok(wanted);
        }
        let (min, max) = (heartbeat_min.as_secs(), heartbeat_max.as_secs());
        let reason = format!("{secs} is not in {min}..={max}");
        Err(InvalidAsk { field: "heartbeat_secs", reason })
    }
}

fn refused(invalid: &InvalidAsk) -> Status {
    Status::invalid_argument(invalid.to_string())
}

/// One client's watch.
struct Watch {
    ask: Ask,
    follower: Follower,
    /// A state that was not compared to what the client knows.
    due: Option<State>,
    /// What the client was last sent, as the service it was made from, which all watches share;
    /// `None` before anything was sent.
    known: Option<State>,
    /// Responses of one step that is too large for one: a service's endpoints, at most.
    waiting: VecDeque<WatchResponse>,
    heartbeat: Duration,
    /// When the last response was made.
    last: Instant,
    ended: bool,
    metrics: PlainMetrics,
    lifecycle: Lifecycle,
    _permit: OwnedSemaphorePermit,
}

impl Watch {
    /// The next response, made when it is asked for.
    async fn next(mut self) -> Option<(Result<WatchResponse, Status>, Self)> {
        loop {
            if self.ended {
                return None;
            }
            if self.lifecycle.is_draining() {
                self.ended = true;
                return Some((Err(shutting_down()), self));
            }
            if let Some(response) = self.waiting.pop_front() {
                return Some((Ok(self.sent(response)), self));
            }
            if let Some(state) = self.due.take() {
                self.compare(state);
                continue;
            }
            tokio::select! {
                () = self.follower.changed() => self.due = Some(self.follower.newest()),
                () = sleep_until(self.last + self.heartbeat) => {
                    // In this order: a change after the first look belongs to a later generation.
                    let generation = self.follower.generation().0;
                    if !self.follower.has_changed() {
                        let kind = Some(Kind::Heartbeat(Heartbeat {}));
                        let heartbeat = WatchResponse { generation, more: false, kind };
                        return Some((Ok(self.sent(heartbeat)), self));
                    }
                }
                () = self.lifecycle.draining() => {}
            }
        }
    }

    /// Works out what the client is to be sent of this state.
    fn compare(&mut self, state: State) {
        if state.generation == Generation(0) {
            return;
        }
        let known = self.known.as_ref().map(|known| View::of(known, &self.ask));
        self.waiting = View::of(&state, &self.ask).since(known.as_ref(), state.generation).into();
        self.known = Some(state);
    }

    fn sent(&mut self, response: WatchResponse) -> WatchResponse {
        self.last = Instant::now();
        self.metrics.response(match &response.kind {
            Some(Kind::Full(_)) => "full",
            Some(Kind::Delta(_)) => "delta",
            Some(Kind::Heartbeat(_)) => "heartbeat",
            Some(Kind::Absent(_)) => "absent",
            None => "none",
        });
        response
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.metrics.watches.dec();
        tracing::debug!(client = self.ask.id, service = %self.ask.key, "a watch ends");
    }
}
