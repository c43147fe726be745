//! Tells frames apart, and those that concern one stream but are neither head nor data.

use std::time::Duration;

use super::super::error::{Code, Fault, StreamError, frame_size, protocol};
use super::super::frame::{ACK, DEFAULT_MAX, Head, Kind, word};
use super::{Abuse, Connection, Phase, Role};

/// Streams remembered that we reset.
const REMEMBERED: usize = 1024;
/// A stream reset within this time may be part of a flood; with those that live longer, the limit
/// of streams bounds the work as it does for honest requests.
const EARLY: Duration = Duration::from_millis(100);

impl Connection {
    /// Judges a frame by its head alone, before its payload is there.
    pub(super) fn admit(&self, head: &Head) -> Result<(), Fault> {
        if head.length > DEFAULT_MAX {
            return Err(frame_size("a frame is larger than allowed"));
        }
        if self.phase == Phase::FirstSettings
            && (head.kind != Kind::Settings || head.flags & ACK != 0)
        {
            return Err(protocol("the first frame is not SETTINGS"));
        }
        if let Some(partial) = &self.partial {
            let fits = head.kind == Kind::Continuation && head.stream == partial.stream;
            return if fits { Ok(()) } else { Err(protocol("a head is interrupted")) };
        }
        let whole = matches!(head.kind, Kind::Settings | Kind::Ping | Kind::GoAway);
        let either = matches!(head.kind, Kind::WindowUpdate | Kind::Unknown);
        match head.stream == 0 {
            _ if either => Ok(()),
            false if whole => Err(protocol("a frame of the connection names a stream")),
            true if !whole => Err(protocol("a frame of a stream names none")),
            _ => Ok(()),
        }
    }

    pub(super) fn on_frame(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        match head.kind {
            Kind::Headers => self.on_headers(head, payload),
            Kind::Continuation => self.on_continuation(head, payload),
            Kind::WindowUpdate => self.on_window_update(head, payload),
            Kind::Reset => self.on_reset(head, payload),
            Kind::Settings => self.on_settings(head, payload),
            Kind::Ping => self.on_ping(head, payload),
            Kind::GoAway => self.on_goaway(payload),
            Kind::Priority => on_priority(head, payload),
            // A client must not send it, and we never allow a server to.
            Kind::PushPromise => Err(protocol("PUSH_PROMISE")),
            Kind::Data | Kind::Unknown => Ok(()),
        }
    }

    /// Whether no such stream was ever opened (RFC 9113 §5.1).
    pub(super) fn is_idle(&self, id: u32) -> bool {
        let odd = id % 2 == 1;
        match self.role {
            Role::Server => !odd || id > self.last_peer,
            Role::Client => !odd || id >= self.next_id,
        }
    }

    fn on_reset(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let Some(code) = word(payload).filter(|_| payload.len() == 4).map(Code) else {
            return Err(frame_size("RST_STREAM is not of 4 bytes"));
        };
        let Some(key) = self.streams.find(head.stream) else {
            return match self.is_idle(head.stream) {
                true => Err(protocol("RST_STREAM of an idle stream")),
                false => Ok(()),
            };
        };
        let error = match code {
            Code::REFUSED_STREAM => StreamError::Refused,
            code => StreamError::Reset(code),
        };
        let early = self.streams.get(key).is_some_and(|stream| {
            let young = stream.begun.is_some_and(|begun| begun.elapsed() < EARLY);
            young && !stream.send_end()
        });
        self.fail_stream(key, error);
        if early && !self.guard.allows(Abuse::Reset) {
            return Err(Fault::Connection(Code::ENHANCE_YOUR_CALM, "too many resets"));
        }
        Ok(())
    }

    /// A stream did something wrong: it is reset, even one that is gone.
    pub(super) fn stream_fault(&mut self, id: u32, code: Code) -> Result<(), Fault> {
        match self.streams.find(id) {
            Some(key) => {
                self.write_reset(id, code);
                self.fail_stream(key, StreamError::Reset(code));
            }
            None => self.write_reset(id, code),
        }
        self.guard.counters.faults += 1;
        self.count_reply()?;
        match self.guard.allows(Abuse::Reset) {
            true => Ok(()),
            false => Err(Fault::Connection(Code::ENHANCE_YOUR_CALM, "too many faulty streams")),
        }
    }

    /// An answer is among the output: the peer must read before it makes us write many.
    pub(super) fn count_reply(&mut self) -> Result<(), Fault> {
        self.replies += 1;
        match self.replies > self.settings.limits.unread_replies {
            true => Err(Fault::Connection(Code::ENHANCE_YOUR_CALM, "too many unread answers")),
            false => Ok(()),
        }
    }

    pub(super) fn write_reset(&mut self, id: u32, code: Code) {
        self.out.frame(Kind::Reset, 0, id, &code.0.to_be_bytes());
        if self.reset_of_late.len() == REMEMBERED {
            self.reset_of_late.pop_front();
        }
        self.reset_of_late.push_back(id);
    }

    /// What comes for a stream that is gone (RFC 9113 §5.1, closed).
    pub(super) fn gone(&self, id: u32) -> Result<(), Fault> {
        // A client may have cancelled more than it remembers, and a server works for nothing then.
        match self.role == Role::Client || self.reset_of_late.contains(&id) {
            true => Ok(()),
            false => Err(Fault::Stream(id, Code::STREAM_CLOSED)),
        }
    }
}

/// Ignored but for its form (RFC 9113 §5.3.2, §6.3).
fn on_priority(head: &Head, payload: &[u8]) -> Result<(), Fault> {
    match payload.len() {
        5 if word(payload).map(|word| word & 0x7fff_ffff) == Some(head.stream) => {
            Err(Fault::Stream(head.stream, Code::PROTOCOL_ERROR))
        }
        5 => Ok(()),
        _ => Err(Fault::Stream(head.stream, Code::FRAME_SIZE_ERROR)),
    }
}
