//! How streams end, and how the whole connection does (RFC 9113 §5.1, §6.8).

use std::task::{Context, Poll};

use super::super::clock::Watch;
use super::super::error::{Code, Error, StreamError};
use super::super::frame::Kind;
use super::streams::{Ending, RECEIVER, SENDER, note};
use super::{Connection, Key, Phase, Role};

/// Wakers kept of those that wait to open a stream; at more, all are woken.
const MAX_WAITERS: usize = 4096;

impl Connection {
    /// After one direction ended: whether the other has, and nobody needs the place any more.
    pub(super) fn settle(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.failure.is_none() && stream.send_end() && !stream.recv_end && stream.discard {
            // Answered early, and nobody reads the rest (RFC 9113 §8.1).
            return self.reset(key, Code::NO_ERROR);
        }
        if !stream.is_over() {
            return;
        }
        let counted = std::mem::take(&mut stream.counted);
        if counted && stream.failure.is_none() {
            self.guard.ended_well();
        }
        let unheld = stream.handles == 0;
        let unread = if unheld { std::mem::take(&mut stream.unreleased) } else { 0 };
        if counted {
            self.active -= 1;
            self.wake_for_room();
        }
        if unheld {
            self.streams.remove(key);
            self.release_connection(unread);
        }
    }

    /// Ends a stream before its time; the peer was told or told us.
    pub(super) fn fail_stream(&mut self, key: Key, error: StreamError) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.is_over() {
            return;
        }
        stream.failure = Some(error);
        stream.backlog.clear();
        let mut unread = 0;
        if !stream.recv_end {
            stream.drop_input();
            unread = std::mem::take(&mut stream.unreleased);
        }
        stream.wake_all();
        self.release_connection(unread);
        self.settle(key);
    }

    /// Tells the peer that a stream ends, unless it has ended.
    pub(in crate::http2) fn reset(&mut self, key: Key, code: Code) {
        let Some(stream) = self.streams.get(key).filter(|stream| !stream.is_over()) else { return };
        let id = stream.id;
        self.write_reset(id, code);
        self.fail_stream(key, StreamError::Reset(code));
    }

    /// The code a stream was reset with.
    pub(in crate::http2) fn poll_reset(&mut self, key: Key, cx: &Context<'_>) -> Poll<Code> {
        let Some(stream) = self.streams.get_mut(key) else { return Poll::Pending };
        match stream.failure {
            Some(error) => Poll::Ready(error.code()),
            None => {
                note(&mut stream.on_reset, cx);
                Poll::Pending
            }
        }
    }

    /// The sender's handle is gone.
    pub(in crate::http2) fn drop_sender(&mut self, key: Key) {
        if self.streams.get(key).is_some_and(|stream| matches!(stream.ending, Ending::Open)) {
            self.reset(key, Code::CANCEL);
        }
        self.drop_handle(key, SENDER);
    }

    /// The receiver's handle is gone: what came is dropped, what comes is not wanted.
    pub(in crate::http2) fn drop_receiver(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.drop_input();
        stream.on_recv = None;
        let unread = std::mem::take(&mut stream.unreleased);
        let early = !stream.recv_end && stream.failure.is_none();
        let answered = stream.send_end();
        stream.discard = true;
        self.release_connection(unread);
        match self.role {
            Role::Client if early => self.reset(key, Code::CANCEL),
            Role::Server if early && answered => self.reset(key, Code::NO_ERROR),
            _ => {}
        }
        self.drop_handle(key, RECEIVER);
    }

    pub(super) fn drop_handle(&mut self, key: Key, handle: u8) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.handles &= !handle;
        if stream.handles == 0 {
            self.settle(key);
        }
    }

    /// Waits until a stream can be opened (client).
    pub(in crate::http2) fn poll_room(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        if let Some(failure) = self.failure {
            return Poll::Ready(Err(failure));
        }
        if !self.is_usable() {
            return Poll::Ready(Err(Error::Closed));
        }
        if self.room() > 0 {
            return Poll::Ready(Ok(()));
        }
        if self.on_room.len() >= MAX_WAITERS {
            self.on_room.drain(..).for_each(std::task::Waker::wake);
        }
        if !self.on_room.iter().rev().take(4).any(|waker| waker.will_wake(cx.waker())) {
            self.on_room.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// As many as there is room for.
    pub(super) fn wake_for_room(&mut self) {
        if self.on_room.is_empty() {
            return;
        }
        let all = self.on_room.len();
        let count = if self.is_usable() { self.room().min(all) } else { all };
        self.on_room.drain(..count).for_each(std::task::Waker::wake);
    }

    /// New streams may be opened, if there is room.
    pub(in crate::http2) fn is_usable(&self) -> bool {
        self.failure.is_none()
            && !self.going.draining
            && self.going.peer_last.is_none()
            && self.next_id <= 0x7fff_ffff
    }

    /// No new streams; those that are open go on. A server says so with a GOAWAY that leaves out
    /// no stream, and with the final one once the client has surely read the first.
    pub(in crate::http2) fn drain(&mut self) {
        if std::mem::replace(&mut self.going.draining, true) {
            return;
        }
        if self.role == Role::Server && self.failure.is_none() {
            self.write_goaway(0x7fff_ffff, Code::NO_ERROR);
            self.write_ping(super::control::DRAIN);
        }
        self.wake_for_room();
    }

    /// The final GOAWAY of a server that drains.
    pub(in crate::http2) fn drain_finally(&mut self) {
        if self.going.draining && self.going.last.is_none() && self.failure.is_none() {
            self.going.last = Some(self.last_peer);
            self.write_goaway(self.last_peer, Code::NO_ERROR);
        }
    }

    /// What the clock is to look after. A client without streams sends no pings: servers count
    /// them as abuse (gRFC A8).
    pub(in crate::http2) fn watch(&self) -> Watch {
        let begun = self.partial.as_ref().map(|partial| partial.stream);
        let greeting = (self.phase != Phase::Running).then_some(0);
        Watch {
            keepalive: self.settings.keepalive,
            limit: self.settings.write_timeout,
            pings: self.role == Role::Server || self.active > 0,
            drains: self.role == Role::Server && self.going.draining && self.going.last.is_none(),
            over: self.failure.is_some(),
            unfinished: greeting.or(begun),
        }
    }

    /// Nothing is open and nothing will be: the connection can be closed once all is written.
    pub(in crate::http2) fn is_finished(&self) -> bool {
        let going = match self.role {
            Role::Server => self.going.last.is_some(),
            Role::Client => self.going.draining || self.going.peer_last.is_some(),
        };
        self.failure.is_some() || (going && self.active == 0 && self.accepted.is_empty())
    }

    /// The peer broke a rule: it is told, and all ends.
    pub(super) fn go_away_for(&mut self, code: Code, reason: &'static str) {
        if self.failure.is_none() {
            self.write_goaway(self.last_peer, code);
            self.fail(Error::Protocol { code, reason });
        }
    }

    fn write_goaway(&mut self, last: u32, code: Code) {
        let [a, b, c, d] = last.to_be_bytes();
        let [e, f, g, h] = code.0.to_be_bytes();
        self.out.frame(Kind::GoAway, 0, 0, &[a, b, c, d, e, f, g, h]);
    }

    /// The connection is over, for whatever reason; every stream hears of it.
    pub(in crate::http2) fn fail(&mut self, error: Error) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(error);
        for key in self.streams.keys() {
            self.fail_stream(key, StreamError::Connection(error));
        }
        self.blocked.clear();
        self.partial = None;
        self.on_room.drain(..).for_each(std::task::Waker::wake);
        // Requests that nobody has seen.
        while self.accept().is_some() {}
    }

    /// All is done: a client says goodbye (RFC 9113 §5.4.1), and nothing can be opened any more.
    pub(in crate::http2) fn close(&mut self) {
        if self.failure.is_none() {
            if self.role == Role::Client {
                self.write_goaway(0, Code::NO_ERROR);
            }
            self.fail(Error::Closed);
        }
    }

    /// The peer closed the connection, perhaps for a reason it named before.
    pub(in crate::http2) fn end(&mut self) {
        self.fail(match self.going.peer_code {
            Code::NO_ERROR => Error::Closed,
            code => Error::GoAway(code),
        });
    }

    /// The peer serves no stream of ours above `last`.
    pub(super) fn peer_goes(&mut self, last: u32, code: Code) {
        self.going.peer_last = Some(last);
        self.going.peer_code = code;
        if self.role == Role::Client {
            for key in self.streams.keys() {
                if self.streams.get(key).is_some_and(|stream| stream.id > last) {
                    self.fail_stream(key, StreamError::GoneAway);
                }
            }
            if code != Code::NO_ERROR && self.active == 0 {
                self.fail(Error::GoAway(code));
            }
        }
        self.wake_for_room();
    }
}
