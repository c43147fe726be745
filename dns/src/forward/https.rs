//! DNS over HTTPS to one upstream: one HTTP/2 connection, a stream for each question (RFC 8484).

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use h2::client::SendRequest;
use http::{Method, Request, Uri, header};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::stream::Dial;
use super::{ExchangeError, Outgoing};
use crate::answer::{Answer, Unusable};
use crate::node::MESSAGE_MAX;

/// Media type of a DNS message (RFC 8484 §6).
const MEDIA_TYPE: &str = "application/dns-message";

/// A connection that is being made: one for all questions that wait for it, or the same failure.
type Opening = Shared<BoxFuture<'static, Result<SendRequest<Bytes>, Arc<ExchangeError>>>>;

/// The connection to one upstream, if there is one.
pub(super) struct Https {
    dial: Dial,
    uri: Uri,
    connection: ArcSwapOption<SendRequest<Bytes>>,
    opening: Mutex<Option<Opening>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl std::fmt::Debug for Https {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Https").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Https {
    pub(super) fn new(dial: Dial, uri: Uri, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let (connection, opening) = (ArcSwapOption::empty(), Mutex::default());
        Self { dial, uri, connection, opening, tasks, stop }
    }

    /// Asks and waits for the answer; once more on a new connection when the kept one failed.
    pub(super) async fn exchange(
        &self,
        query: &Outgoing,
        deadline: Instant,
    ) -> Result<Answer, ExchangeError> {
        let used = self.connection.load_full();
        let both = async {
            if let Some(kept) = &used {
                match self.ask(SendRequest::clone(kept), query).await {
                    Err(ExchangeError::H2(_broken)) => {}
                    other => return other,
                }
            }
            let fresh = self.connect(used.as_ref(), deadline).await?;
            self.ask(fresh, query).await
        };
        timeout_at(deadline, both).await.unwrap_or_else(|_| {
            // Nothing may come over it ever again; what else is under way on it keeps it, and a
            // newer one stays.
            let _newer = self.connection.compare_and_swap(&used, None);
            Err(ExchangeError::Timeout)
        })
    }

    /// Another connection than `used`, made by whoever came first.
    async fn connect(
        &self,
        used: Option<&Arc<SendRequest<Bytes>>>,
        deadline: Instant,
    ) -> Result<SendRequest<Bytes>, ExchangeError> {
        loop {
            let opening = {
                let mut slot = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
                let kept = self.connection.load_full();
                if let Some(kept) = kept.filter(|kept| used.is_none_or(|u| !Arc::ptr_eq(kept, u))) {
                    return Ok(SendRequest::clone(&kept));
                }
                slot.get_or_insert_with(|| self.open(deadline)).clone()
            };
            let opened = opening.clone().await;
            let mut slot = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
            if slot.as_ref().is_some_and(|there| there.ptr_eq(&opening)) {
                *slot = None;
                if let Ok(sender) = &opened {
                    self.connection.store(Some(Arc::new(sender.clone())));
                }
            }
            drop(slot);
            match opened {
                Ok(sender) => return Ok(sender),
                // The time of whoever began it is over, and not this one's.
                Err(error)
                    if matches!(*error, ExchangeError::Timeout) && Instant::now() < deadline => {}
                Err(error) => return Err(ExchangeError::Opening(error)),
            }
        }
    }

    /// Begins a connection, to be there before the deadline.
    fn open(&self, deadline: Instant) -> Opening {
        let (dial, tasks, stop) = (self.dial.clone(), self.tasks.clone(), self.stop.clone());
        let open = async move {
            let stream = dial.connect().await?;
            let (sender, connection) = h2::client::handshake(stream).await?;
            tasks.spawn(async move {
                tokio::select! {
                    // Its end shows at the next question.
                    _ended = connection => {}
                    () = stop.cancelled() => {}
                }
            });
            Ok(sender)
        };
        let open = async move {
            let opened = timeout_at(deadline, open).await;
            opened.unwrap_or(Err(ExchangeError::Timeout)).map_err(Arc::new)
        };
        open.boxed().shared()
    }

    async fn ask(
        &self,
        connection: SendRequest<Bytes>,
        query: &Outgoing,
    ) -> Result<Answer, ExchangeError> {
        let mut connection = connection.ready().await?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(header::CONTENT_TYPE, MEDIA_TYPE)
            .header(header::ACCEPT, MEDIA_TYPE)
            .header(header::CONTENT_LENGTH, query.bytes.len())
            .body(())
            .expect("a request of valid parts");
        let (response, mut body) = connection.send_request(request, false)?;
        body.send_data(Bytes::copy_from_slice(&query.bytes), true)?;
        let response = response.await?;
        if response.status() != http::StatusCode::OK {
            return Err(ExchangeError::Status(response.status().as_u16()));
        }
        let mut body = response.into_body();
        let mut message = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            if message.len() + data.len() > MESSAGE_MAX {
                return Err(Unusable::Malformed.into());
            }
            message.extend_from_slice(&data);
        }
        Ok(Answer::read(&query.bytes, query.question_end, &message)?)
    }
}
