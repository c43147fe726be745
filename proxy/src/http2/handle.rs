//! What the tasks of single streams hold: a reading and a writing end of a stream.
//!
//! An end is a place in the connection, which it borrows for the length of a call and never across
//! an await. What it adds to the output wakes the driver once. An end that is dropped before its
//! direction has ended resets the stream.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::connection::{Connection, Key};
use super::error::{Code, StreamError};
use crate::message::{Fields, ResponseHead};

/// A connection and how to wake its driver.
#[derive(Debug)]
pub(super) struct Shared {
    connection: RefCell<Connection>,
    driver: RefCell<Option<Waker>>,
    /// The driver will run, or runs, and sees what there is.
    kicked: Cell<bool>,
    /// Handles that can open streams.
    pub(super) clients: Cell<usize>,
}

impl Shared {
    pub(super) fn new(connection: Connection) -> Rc<Self> {
        Rc::new(Self {
            connection: RefCell::new(connection),
            driver: RefCell::new(None),
            kicked: Cell::new(true),
            clients: Cell::new(0),
        })
    }

    /// Lends the connection; wakes the driver when there is something for it to do.
    pub(super) fn with<R>(&self, call: impl FnOnce(&mut Connection) -> R) -> R {
        let mut connection = self.connection.borrow_mut();
        let result = call(&mut connection);
        let due =
            !self.kicked.get() && (!connection.output().is_empty() || connection.is_finished());
        drop(connection);
        if due {
            self.kicked.set(true);
            if let Some(waker) = &*self.driver.borrow() {
                waker.wake_by_ref();
            }
        }
        result
    }

    /// As [`Self::with`] for what cannot add to the output.
    pub(super) fn look<R>(&self, call: impl FnOnce(&Connection) -> R) -> R {
        call(&self.connection.borrow())
    }

    /// The driver runs: nobody need wake it.
    pub(super) fn enter(&self) {
        self.kicked.set(true);
    }

    /// The driver is about to wait.
    pub(super) fn leave(&self, cx: &Context<'_>) {
        let mut driver = self.driver.borrow_mut();
        if !driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *driver = Some(cx.waker().clone());
        }
        self.kicked.set(false);
    }
}

/// The writing end of a stream.
#[derive(Debug)]
pub(crate) struct SendStream {
    shared: Rc<Shared>,
    key: Key,
}

/// The reading end of a stream.
#[derive(Debug)]
pub(crate) struct RecvStream {
    shared: Rc<Shared>,
    key: Key,
}

/// The reading end of a client's stream before the response's head.
#[derive(Debug)]
pub(crate) struct RecvHead {
    /// `None` once it became a [`RecvStream`].
    shared: Option<Rc<Shared>>,
    key: Key,
}

/// A response's head.
#[derive(Debug)]
pub(crate) enum Event {
    /// Another head follows.
    Informational(ResponseHead),
    Final(ResponseHead, RecvStream),
}

impl SendStream {
    pub(super) fn new(shared: Rc<Shared>, key: Key) -> Self {
        Self { shared, key }
    }

    /// Sends a head of status 1xx (server).
    pub(crate) fn send_informational(&mut self, head: &ResponseHead) {
        if head.status < 200 {
            self.shared.with(|connection| connection.send_head(self.key, head, false));
        }
    }

    /// Sends the final head (server).
    pub(crate) fn send_head(&mut self, head: &ResponseHead, end: bool) {
        self.shared.with(|connection| connection.send_head(self.key, head, end));
    }

    /// Waits until data can be sent; how much of `want`, by the peer's windows and by what waits
    /// to be written already.
    pub(crate) fn poll_capacity(
        &mut self,
        cx: &Context<'_>,
        want: usize,
    ) -> Poll<Result<usize, StreamError>> {
        self.shared.with(|connection| connection.poll_capacity(self.key, want, cx))
    }

    /// Sends data; more than [`Self::poll_capacity`] allowed waits with the stream.
    pub(crate) fn send_data(&mut self, data: Bytes, end: bool) {
        self.shared.with(|connection| connection.send_data(self.key, data, end));
    }

    /// Ends the stream with trailers.
    pub(crate) fn send_trailers(&mut self, fields: &Fields) {
        self.shared.with(|connection| connection.send_trailers(self.key, fields));
    }

    /// Ends the stream.
    pub(crate) fn finish(&mut self) {
        self.send_data(Bytes::new(), true);
    }

    /// Ends the stream both ways, unless both have ended.
    #[cfg(test)]
    pub(crate) fn reset(&mut self, code: Code) {
        self.shared.with(|connection| connection.reset(self.key, code));
    }

    /// Waits until the stream is reset; for ever, if it ends well.
    pub(crate) fn poll_reset(&mut self, cx: &Context<'_>) -> Poll<Code> {
        self.shared.with(|connection| connection.poll_reset(self.key, cx))
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.shared.with(|connection| connection.drop_sender(self.key));
    }
}

impl RecvStream {
    pub(super) fn new(shared: Rc<Shared>, key: Key) -> Self {
        Self { shared, key }
    }

    /// The next data; `None` at the end. What was taken is to be released.
    pub(crate) fn poll_data(
        &mut self,
        cx: &Context<'_>,
    ) -> Poll<Option<Result<Bytes, StreamError>>> {
        self.shared.with(|connection| connection.poll_data(self.key, cx))
    }

    /// The trailers, once the data has ended.
    pub(crate) fn trailers(&mut self) -> Option<Fields> {
        self.shared.with(|connection| connection.trailers(self.key))
    }

    /// Lets the peer send `count` bytes more, which were taken and are out of the way.
    pub(crate) fn release(&mut self, count: usize) {
        self.shared.with(|connection| connection.release(self.key, count));
    }

    /// Everything has been read, trailers too, or there was nothing to read.
    pub(crate) fn is_end(&self) -> bool {
        self.shared.look(|connection| connection.is_input_over(self.key))
    }

    /// Content-Length, where it says how much data comes.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.shared.look(|connection| connection.content_length(self.key))
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.shared.with(|connection| connection.drop_receiver(self.key));
    }
}

impl RecvHead {
    pub(super) fn new(shared: Rc<Shared>, key: Key) -> Self {
        Self { shared: Some(shared), key }
    }

    /// The next head. After the final one there is none.
    pub(crate) fn poll_head(&mut self, cx: &Context<'_>) -> Poll<Result<Event, StreamError>> {
        let Some(shared) = &self.shared else { return Poll::Ready(Err(StreamError::Ended)) };
        let head = match shared.with(|connection| connection.poll_head(self.key, cx)) {
            Poll::Ready(Ok(head)) => head,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        };
        if head.status < 200 {
            return Poll::Ready(Ok(Event::Informational(head)));
        }
        Poll::Ready(match self.shared.take() {
            Some(shared) => Ok(Event::Final(head, RecvStream::new(shared, self.key))),
            None => Err(StreamError::Ended),
        })
    }
}

impl Drop for RecvHead {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.with(|connection| connection.drop_receiver(self.key));
        }
    }
}
