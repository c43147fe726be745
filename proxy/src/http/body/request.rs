//! A request body that can be lent to one endpoint after another until its first byte is read.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::BodyError;

/// The client's body, kept by whoever decides about retries.
pub(crate) struct Source(Option<Rc<Slot>>);

/// The body as an endpoint's connection has it.
pub(crate) struct RequestBody {
    slot: Option<Rc<Slot>>,
    lease: u32,
}

struct Slot {
    incoming: RefCell<Incoming>,
    /// A frame was read: what was lent cannot be lent again.
    begun: Cell<bool>,
    failed: Cell<bool>,
    /// The lease that may read; earlier ones see an error.
    lease: Cell<u32>,
}

impl Source {
    pub(crate) fn new(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            return Self(None);
        }
        Self(Some(Rc::new(Slot {
            incoming: RefCell::new(incoming),
            begun: Cell::new(false),
            failed: Cell::new(false),
            lease: Cell::new(0),
        })))
    }

    /// Whether there is no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether some of the body has gone to an endpoint.
    pub(crate) fn begun(&self) -> bool {
        self.0.as_ref().is_some_and(|slot| slot.begun.get())
    }

    /// Whether the client failed to send it.
    pub(crate) fn failed(&self) -> bool {
        self.0.as_ref().is_some_and(|slot| slot.failed.get())
    }

    /// The body for another try; takes it away from the one before.
    pub(crate) fn lend(&self) -> RequestBody {
        let Some(slot) = &self.0 else { return RequestBody { slot: None, lease: 0 } };
        let lease = slot.lease.get() + 1;
        slot.lease.set(lease);
        RequestBody { slot: Some(Rc::clone(slot)), lease }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(slot) = &self.slot else { return Poll::Ready(None) };
        if slot.lease.get() != self.lease {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        let polled = Pin::new(&mut *slot.incoming.borrow_mut()).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(_)) | None) => slot.begun.set(true),
            Poll::Ready(Some(Err(_))) => {
                slot.begun.set(true);
                slot.failed.set(true);
            }
            Poll::Pending => {}
        }
        polled.map(|frame| frame.map(|frame| frame.map_err(BodyError::Incoming)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.slot {
            // A body taken away must not look like one that has ended.
            Some(slot) => slot.lease.get() == self.lease && slot.incoming.borrow().is_end_stream(),
            None => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.slot {
            Some(slot) => slot.incoming.borrow().size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}
