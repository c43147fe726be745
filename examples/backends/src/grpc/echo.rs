//! The Echo service. What a client asks for is bounded: delays, counts; the rest is streamed.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt as _};
use portolan_proto::demo::v1::echo_server;
use portolan_proto::demo::v1::{CountRequest, SayReply, SayRequest};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::MAX_DELAY;

/// Most replies to one `Count`.
const MAX_COUNT: u32 = 10_000;

type Replies = Pin<Box<dyn Stream<Item = Result<SayReply, Status>> + Send>>;

/// The service of one endpoint.
#[derive(Clone, Debug)]
pub(super) struct Echo {
    endpoint: Arc<str>,
    address: SocketAddr,
}

impl Echo {
    pub(super) fn new(endpoint: String, address: SocketAddr) -> Self {
        Self { endpoint: endpoint.into(), address }
    }

    fn reply(&self, text: String) -> SayReply {
        SayReply { text, endpoint: self.endpoint.to_string(), address: self.address.to_string() }
    }

    async fn answer(&self, request: SayRequest) -> Result<SayReply, Status> {
        tokio::time::sleep(delay("delay_ms", request.delay_ms)?).await;
        match request.fail_with {
            0 => Ok(self.reply(request.text)),
            number => Err(failure(number, &request.text)),
        }
    }
}

#[tonic::async_trait]
impl echo_server::Echo for Echo {
    type CountStream = Replies;
    type ChatStream = Replies;

    async fn say(&self, request: Request<SayRequest>) -> Result<Response<SayReply>, Status> {
        self.answer(request.into_inner()).await.map(Response::new)
    }

    async fn count(&self, request: Request<CountRequest>) -> Result<Response<Replies>, Status> {
        let CountRequest { text, count, interval_ms } = request.into_inner();
        let interval = delay("interval_ms", interval_ms)?;
        if count > MAX_COUNT {
            return Err(Status::invalid_argument(format!("count is {count}, at most {MAX_COUNT}")));
        }
        let echo = self.clone();
        let replies = stream::iter(1..=count).then(move |number| {
            let reply = echo.reply(format!("{text} {number}"));
            async move {
                if number > 1 {
                    tokio::time::sleep(interval).await;
                }
                Ok(reply)
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn chat(
        &self,
        request: Request<Streaming<SayRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let echo = self.clone();
        // One at a time: a client that does not read its replies is not read from either.
        let replies = request.into_inner().then(move |request| {
            let echo = echo.clone();
            async move { echo.answer(request?).await }
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

fn delay(field: &str, millis: u32) -> Result<Duration, Status> {
    let delay = Duration::from_millis(millis.into());
    if delay > MAX_DELAY {
        let limit = MAX_DELAY.as_millis();
        return Err(Status::invalid_argument(format!("{field} is {millis}, at most {limit}")));
    }
    Ok(delay)
}

fn failure(number: u32, text: &str) -> Status {
    match i32::try_from(number) {
        Ok(code @ 1..=16) => Status::new(Code::from_i32(code), text),
        _ => Status::invalid_argument(format!("fail_with is {number}, a status is from 1 to 16")),
    }
}
