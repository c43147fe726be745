//! The place of the one response that waits for its client to read it. A channel would hold room
//! for 32 of them for each of 5,000 streams.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;
use tonic::Status;

use super::session::Response;

/// A response, or why there are no more.
type Item = Result<Response, Status>;

#[derive(Debug, Default)]
struct Place {
    item: Option<Item>,
    reader: Option<Waker>,
    /// The writer is gone.
    ended: bool,
    /// The reader is.
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    place: Mutex<Place>,
    /// The place became free, or the reader went.
    taken: Notify,
}

/// The stream's end.
#[derive(Debug)]
pub(super) struct Outbox(Arc<Shared>);

/// The response body's end.
#[derive(Debug)]
pub(super) struct Inbox(Arc<Shared>);

/// Both ends.
pub(super) fn pair() -> (Outbox, Inbox) {
    let shared = Arc::new(Shared::default());
    (Outbox(shared.clone()), Inbox(shared))
}

impl Shared {
    fn with<R>(&self, act: impl FnOnce(&mut Place) -> R) -> R {
        act(&mut self.place.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Outbox {
    /// Whether a response can be put.
    pub(super) fn is_free(&self) -> bool {
        self.0.with(|place| place.item.is_none() && !place.closed)
    }

    /// Whether nobody reads any more.
    pub(super) fn is_closed(&self) -> bool {
        self.0.with(|place| place.closed)
    }

    /// Puts a response where there is room.
    pub(super) fn put(&self, response: Response) {
        self.fill(Ok(response));
    }

    /// Ends the stream with a status, in place of a response that was not read yet.
    pub(super) fn end(&self, status: Status) {
        self.fill(Err(status));
    }

    fn fill(&self, item: Item) {
        let reader = self.0.with(|place| {
            place.item = Some(item);
            place.reader.take()
        });
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Completes when the place may have become free, or nobody reads any more.
    pub(super) async fn taken(&self) {
        self.0.taken.notified().await;
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let reader = self.0.with(|place| {
            place.ended = true;
            place.reader.take()
        });
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

impl Inbox {
    /// The next response; `None` at the end.
    pub(super) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let polled = self.0.with(|place| match place.item.take() {
            Some(item) => Poll::Ready(Some(item)),
            None if place.ended => Poll::Ready(None),
            None => {
                place.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        });
        if let Poll::Ready(Some(_)) = &polled {
            self.0.taken.notify_one();
        }
        polled
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let unread = self.0.with(|place| {
            place.closed = true;
            place.item.take()
        });
        drop(unread);
        self.0.taken.notify_one();
    }
}
