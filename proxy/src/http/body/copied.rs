//! A copy of a request's body, on its way to another endpoint than the request.
//!
//! The request never waits for it: what the copy does not take in time cuts the copy off.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::http1::{Length, ReadError};
use crate::message::Fields;

/// Bytes that may wait for a copy.
const MAX_WAITING: usize = 64 * 1024;
/// What a piece costs beside its bytes, and counts for.
const PIECE: usize = 64;

#[derive(Default)]
struct Shared {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    trailers: Option<Fields>,
    state: State,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// There is more to come.
    #[default]
    Open,
    /// There is no more.
    Ended,
    /// What there is, is not the whole of it.
    Cut,
}

/// The end that is told what is read of the body. Dropped before the end it cuts the copy off.
pub(crate) struct Tap {
    shared: Rc<RefCell<Shared>>,
}

/// The end that the copy is read from.
pub(crate) struct Copied {
    shared: Rc<RefCell<Shared>>,
    length: Length,
}

/// Both ends of a copy of a body of this length.
pub(crate) fn channel(length: Length) -> (Tap, Copied) {
    let state = if length == Length::None { State::Ended } else { State::Open };
    let shared = Rc::new(RefCell::new(Shared { state, ..Shared::default() }));
    (Tap { shared: Rc::clone(&shared) }, Copied { shared, length })
}

impl Tap {
    /// A piece was read.
    pub(super) fn data(&self, piece: &Bytes) {
        let mut shared = self.shared.borrow_mut();
        if shared.state != State::Open {
            return;
        }
        if shared.bytes + piece.len() + PIECE > MAX_WAITING {
            shared.end(State::Cut);
            return;
        }
        shared.push(piece);
    }

    /// The same for one that is waited for: whoever reads the body reads no more than there is room for.
    pub(super) fn data_in_turn(&self, piece: &Bytes) {
        self.shared.borrow_mut().push(piece);
    }

    /// Whether all that was read has been taken.
    pub(super) fn is_idle(&self) -> bool {
        self.shared.borrow().waiting.is_empty()
    }

    /// The end was read.
    pub(super) fn end(&self, trailers: Option<&Fields>) {
        let mut shared = self.shared.borrow_mut();
        if shared.state == State::Open {
            shared.trailers = trailers.cloned();
            shared.end(State::Ended);
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut shared = self.shared.borrow_mut();
        if shared.state == State::Open {
            shared.end(State::Cut);
        }
    }
}

impl Shared {
    fn end(&mut self, state: State) {
        self.state = state;
        self.wake();
    }

    fn push(&mut self, piece: &Bytes) {
        self.bytes += piece.len() + PIECE;
        self.waiting.push_back(piece.clone());
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Copied {
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        let mut shared = self.shared.borrow_mut();
        if shared.state == State::Cut {
            return Poll::Ready(Err(ReadError::Incomplete));
        }
        if let Some(piece) = shared.waiting.pop_front() {
            shared.bytes -= piece.len() + PIECE;
            return Poll::Ready(Ok(Some(piece)));
        }
        if shared.state == State::Ended {
            return Poll::Ready(Ok(None));
        }
        shared.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn is_over(&self) -> bool {
        let shared = self.shared.borrow();
        shared.state == State::Ended && shared.waiting.is_empty() && shared.trailers.is_none()
    }

    /// Whether nothing of what was read is missing here.
    pub(super) fn is_sound(&self) -> bool {
        self.shared.borrow().state != State::Cut
    }

    pub(super) fn length(&self) -> Length {
        self.length
    }

    pub(super) fn take_trailers(&mut self) -> Option<Fields> {
        self.shared.borrow_mut().trailers.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(copied: &mut Copied) -> String {
        let mut cx = Context::from_waker(Waker::noop());
        match copied.poll_data(&mut cx) {
            Poll::Pending => "pending".to_owned(),
            Poll::Ready(Ok(None)) => "end".to_owned(),
            Poll::Ready(Ok(Some(piece))) => String::from_utf8_lossy(&piece).into_owned(),
            Poll::Ready(Err(error)) => error.to_string(),
        }
    }

    #[test]
    fn a_copy_has_what_was_read_and_ends_as_that_does() {
        let (tap, mut copied) = channel(Length::Chunked);
        assert_eq!(read(&mut copied), "pending");
        tap.data(&Bytes::from_static(b"a"));
        tap.data(&Bytes::from_static(b"b"));
        let mut trailers = Fields::default();
        trailers.push(b"x", b"y");
        tap.end(Some(&trailers));
        drop(tap);
        assert!(!copied.is_over());
        assert_eq!([0; 3].map(|_| read(&mut copied)), ["a", "b", "end"]);
        assert!(!copied.is_over(), "the trailers are to come");
        assert!(copied.take_trailers() == Some(trailers) && copied.is_over());
    }

    #[test]
    fn what_is_not_taken_in_time_or_not_read_to_its_end_is_cut_off() {
        let cut = ReadError::Incomplete.to_string();
        let (tap, mut copied) = channel(Length::Chunked);
        tap.data(&Bytes::from(vec![0; MAX_WAITING - PIECE]));
        assert!(copied.is_sound() && !tap.is_idle());
        tap.data(&Bytes::from_static(b"a"));
        tap.end(None);
        assert_eq!(read(&mut copied), cut);
        // Unless somebody waits for it.
        let (tap, mut copied) = channel(Length::Chunked);
        tap.data_in_turn(&Bytes::from(vec![b'a'; 2 * MAX_WAITING]));
        assert!(copied.is_sound());
        assert_eq!(read(&mut copied).len(), 2 * MAX_WAITING);
        assert!(tap.is_idle());
        let (tap, mut copied) = channel(Length::Known(9));
        tap.data(&Bytes::from_static(b"a"));
        drop(tap);
        assert_eq!(read(&mut copied), cut);
        // Trailers may be all there is.
        let (tap, mut copied) = channel(Length::Chunked);
        let mut trailers = Fields::default();
        trailers.push(b"x", b"y");
        tap.end(Some(&trailers));
        assert!(copied.is_sound() && !copied.is_over());
        assert!(copied.take_trailers() == Some(trailers) && copied.is_over());
        let (tap, mut copied) = channel(Length::None);
        drop(tap);
        assert_eq!(read(&mut copied), "end");
    }
}
