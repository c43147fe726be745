//! The HTTP/2 connection to one endpoint: one per worker, shared by all its requests.
//!
//! Owns opening it once however many ask, and forgetting it when it ends. The number of streams on
//! it is the endpoint's to limit (SETTINGS); requests over that limit wait in hyper, bounded by the
//! worker's `max_requests`.

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared as SharedFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::task::TaskTracker;

use super::{Cause, Failure};
use crate::http::body::RequestBody;
use crate::worker::cluster::Endpoint;
use crate::worker::shared::Shared;

/// Bytes an endpoint may send ahead on a stream. With the worker's `max_requests` this bounds what
/// responses that nobody reads can take.
const STREAM_WINDOW: u32 = 256 << 10;
/// The same for the connection: the protocol's largest (RFC 9113 §6.9.1). The connection is shared
/// by all clients, so a window that a few of them could fill by not reading would stop the rest.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// A connection with requests on it that is silent for this long is asked for a sign of life …
const PING_EVERY: Duration = Duration::from_secs(20);
/// … and given up without one after this.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// A handle on the connection.
pub(crate) type Sender = http2::SendRequest<RequestBody>;

type Opening = SharedFuture<Pin<Box<dyn Future<Output = Result<Sender, Rc<Failure>>>>>>;

#[derive(Default)]
pub(crate) struct Pool(RefCell<Slot>);

#[derive(Default)]
enum Slot {
    #[default]
    Empty,
    Opening(Opening),
    Open(Sender),
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.0.borrow() {
            Slot::Empty => "Empty",
            Slot::Opening(_) => "Opening",
            Slot::Open(_) => "Open",
        })
    }
}

impl Pool {
    /// Forgets a connection that has ended.
    pub(crate) fn sweep(&self) {
        let mut slot = self.0.borrow_mut();
        if matches!(&*slot, Slot::Open(sender) if sender.is_closed()) {
            *slot = Slot::Empty;
        }
    }

    /// Lets go of the connection: it closes when its last stream ends.
    pub(crate) fn clear(&self) {
        *self.0.borrow_mut() = Slot::Empty;
    }

    /// The connection that is open, or the opening to wait for.
    fn lookup(&self, open: impl FnOnce() -> Opening) -> Result<Sender, Opening> {
        let mut slot = self.0.borrow_mut();
        match &*slot {
            Slot::Open(sender) if sender.is_ready() => return Ok(sender.clone()),
            Slot::Opening(opening) => return Err(opening.clone()),
            Slot::Empty | Slot::Open(_) => {}
        }
        let opening = open();
        *slot = Slot::Opening(opening.clone());
        Err(opening)
    }

    /// What `opening` came to takes its place, unless the endpoint left or another began.
    fn settle(&self, opening: &Opening, opened: Option<&Sender>) {
        let mut slot = self.0.borrow_mut();
        if matches!(&*slot, Slot::Opening(current) if current.ptr_eq(opening)) {
            *slot = opened.map_or(Slot::Empty, |sender| Slot::Open(sender.clone()));
        }
    }
}

/// The endpoint's connection, opened if need be, and whether it was open already.
pub(crate) async fn sender(
    shared: &Rc<Shared>,
    endpoint: &Rc<Endpoint>,
    timeout: Duration,
) -> Result<(Sender, bool), Failure> {
    let open = || {
        let future = open(Rc::clone(shared), Rc::clone(endpoint), timeout);
        let boxed: Pin<Box<dyn Future<Output = _>>> = Box::pin(future);
        boxed.shared()
    };
    let opening = match endpoint.h2.lookup(open) {
        Ok(sender) => return Ok((sender, true)),
        Err(opening) => opening,
    };
    let opened = opening.clone().await;
    endpoint.h2.settle(&opening, opened.as_ref().ok());
    opened
        .map(|sender| (sender, false))
        .map_err(|failure| Failure { cause: failure.cause, detail: failure.detail.clone() })
}

/// Sends a request and returns with the head of its response.
pub(crate) async fn exchange(
    mut sender: Sender,
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, (hyper::Error, bool)> {
    sender.try_send_request(request).await.map_err(|mut error| {
        let recovered = error.take_message().is_some();
        (error.into_error(), recovered)
    })
}

async fn open(
    shared: Rc<Shared>,
    endpoint: Rc<Endpoint>,
    timeout: Duration,
) -> Result<Sender, Rc<Failure>> {
    let stream = super::connect(&endpoint, timeout, &shared.metrics).await.map_err(Rc::new)?;
    let (sender, connection) = http2::Builder::new(LocalExecutor(shared.tasks.clone()))
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(shared.config.max_header_bytes)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| Rc::new(Failure { cause: Cause::Connect, detail: e.to_string() }))?;
    shared.tasks.spawn_local(async move {
        // The requests on it are told; there is nobody else to tell.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "an HTTP/2 connection to an endpoint failed");
        }
    });
    Ok(sender)
}

/// Runs hyper's HTTP/2 tasks on this worker, counted by the worker's tracker.
#[derive(Clone, Debug)]
pub(crate) struct LocalExecutor(pub(crate) TaskTracker);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        self.0.spawn_local(future);
    }
}
