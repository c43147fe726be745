//! One watch: a stream of the control plane's, opened again whenever it ends.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use futures_util::{Stream, stream};
use portolan_proto::v1::{WatchRequest, WatchResponse};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, Streaming};

use crate::Client;
use crate::set::{Draft, EndpointSet};

/// First pause before a stream is opened again; each one is twice the last.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);
/// A stream that lasted this long starts the pauses anew.
const PAUSE_RESET: Duration = Duration::from_secs(30);
/// How many heartbeats may stay away before a stream is given up.
const HEARTBEATS_MISSED: u32 = 3;

/// A watch between two sets.
struct Watch {
    client: Client,
    service: String,
    stream: Option<Open>,
    /// The set that was handed out last.
    known: Option<EndpointSet>,
    pause: Duration,
    ended: bool,
}

/// A stream that is open.
struct Open {
    responses: Streaming<WatchResponse>,
    draft: Draft,
    since: Instant,
}

/// The sets of a service, without end.
pub(crate) fn watch(
    client: Client,
    service: String,
) -> impl Stream<Item = Result<EndpointSet, Status>> + Send + use<> {
    let watch =
        Watch { client, service, stream: None, known: None, pause: PAUSE_FIRST, ended: false };
    stream::unfold(watch, Watch::next)
}

impl Watch {
    async fn next(mut self) -> Option<(Result<EndpointSet, Status>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            let status = match self.stream.take() {
                None => match self.open().await {
                    Ok(open) => {
                        self.stream = Some(open);
                        continue;
                    }
                    Err(status) => status,
                },
                Some(mut open) => match self.newer(&mut open).await {
                    Ok(set) => {
                        self.stream = Some(open);
                        self.known = Some(set.clone());
                        return Some((Ok(set), self));
                    }
                    Err(status) => {
                        if open.since.elapsed() >= PAUSE_RESET {
                            self.pause = PAUSE_FIRST;
                        }
                        status
                    }
                },
            };
            if self.known.is_none() && is_refusal(&status) {
                self.ended = true;
                return Some((Err(status), self));
            }
            sleep(jittered(self.pause)).await;
            self.pause = (self.pause * 2).min(PAUSE_LIMIT);
        }
    }

    async fn open(&mut self) -> Result<Open, Status> {
        let heartbeat_secs = u32::try_from(self.client.heartbeat.as_secs()).unwrap_or(0);
        let request = WatchRequest {
            service: self.service.clone(),
            client: Some(self.client.identity.clone()),
            heartbeat_secs,
            ..WatchRequest::default()
        };
        let request = self.client.request(request);
        let mut stub = self.client.stub.clone();
        let responses = timeout(self.patience(), stub.watch(request)).await.map_err(silent)??;
        let responses = responses.into_inner();
        Ok(Open { responses, draft: Draft::default(), since: Instant::now() })
    }

    /// The next set that says something new.
    async fn newer(&self, open: &mut Open) -> Result<EndpointSet, Status> {
        loop {
            let message = timeout(self.patience(), open.responses.message()).await;
            let closed = || Status::unavailable("the control plane closed the stream");
            let response = message.map_err(silent)??.ok_or_else(closed)?;
            let set = open.draft.apply(response).map_err(|e| Status::internal(e.to_string()))?;
            let is_known = |set: &&EndpointSet| {
                self.known.as_ref().is_some_and(|known| known.says_the_same_as(set))
            };
            if let Some(set) = set.filter(|set| !is_known(set)) {
                return Ok(set.clone());
            }
        }
    }

    fn patience(&self) -> Duration {
        self.client.heartbeat * HEARTBEATS_MISSED
    }
}

pub(crate) fn silent(_: tokio::time::error::Elapsed) -> Status {
    Status::unavailable("the control plane is silent")
}

/// Whether a status tells of the request rather than of the control plane.
fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
    )
}

/// Between half of the pause and all of it, so that those who lost the control plane together do
/// not come back together.
fn jittered(pause: Duration) -> Duration {
    let share = RandomState::new().hash_one(0_u8) % 1024;
    pause / 2 + pause * u32::try_from(share).unwrap_or(0) / 2048
}
