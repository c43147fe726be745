//! Windows (RFC 9113 §5.2, §6.9): what either side may send, and who waits for it.

use super::super::error::{Code, Fault, protocol};
use super::super::frame::{Head, Kind, word};
use super::streams::wake;
use super::{Connection, Key, MAX_WINDOW};

impl Connection {
    /// `count` bytes of a stream are of no more concern: the peer may send as many again. It is
    /// told once half a window has come together.
    pub(in crate::http2) fn release(&mut self, key: Key, count: usize) {
        let half = self.settings.stream_window as usize / 2;
        let Some(stream) = self.streams.get_mut(key) else { return };
        let count = count.min(stream.unreleased);
        stream.unreleased -= count;
        stream.owed += count;
        let goes_on = !stream.recv_end && stream.failure.is_none();
        if goes_on && stream.owed >= half.max(1) {
            let owed = u32::try_from(std::mem::take(&mut stream.owed)).unwrap_or(u32::MAX >> 1);
            stream.recv_window += i64::from(owed);
            self.out.frame(Kind::WindowUpdate, 0, stream.id, &owed.to_be_bytes());
        }
        self.release_connection(count);
    }

    pub(super) fn release_connection(&mut self, count: usize) {
        self.owed += count;
        let half = self.settings.connection_window as usize / 2;
        if self.owed >= half.max(1) && self.failure.is_none() {
            let owed = u32::try_from(std::mem::take(&mut self.owed)).unwrap_or(u32::MAX >> 1);
            self.recv_window += i64::from(owed);
            self.out.frame(Kind::WindowUpdate, 0, 0, &owed.to_be_bytes());
        }
    }

    pub(super) fn on_window_update(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        let Some(more) = word(payload).filter(|_| payload.len() == 4) else {
            return Err(super::super::error::frame_size("WINDOW_UPDATE is not of 4 bytes"));
        };
        let more = i64::from(more & 0x7fff_ffff);
        if head.stream == 0 {
            if more == 0 {
                return Err(protocol("WINDOW_UPDATE of nothing"));
            }
            self.send_window += more;
            if self.send_window > MAX_WINDOW {
                return Err(Fault::Connection(Code::FLOW_CONTROL_ERROR, "window is too large"));
            }
            self.serve_blocked();
            return Ok(());
        }
        let Some(key) = self.streams.find(head.stream) else {
            return match self.is_idle(head.stream) {
                true => Err(protocol("WINDOW_UPDATE of an idle stream")),
                false => Ok(()),
            };
        };
        if more == 0 {
            return Err(Fault::Stream(head.stream, Code::PROTOCOL_ERROR));
        }
        self.widen(key, more)
    }

    /// Adds to what may be sent on a stream; less than nothing takes away.
    fn widen(&mut self, key: Key, more: i64) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(key) else { return Ok(()) };
        stream.send_window += more;
        if stream.send_window > MAX_WINDOW {
            return Err(Fault::Stream(stream.id, Code::FLOW_CONTROL_ERROR));
        }
        if stream.send_window > 0 {
            self.serve(key);
        }
        Ok(())
    }

    /// SETTINGS_INITIAL_WINDOW_SIZE changed (RFC 9113 §6.9.2).
    pub(super) fn change_initial_window(&mut self, size: i64) -> Result<(), Fault> {
        let more = size - std::mem::replace(&mut self.peer.initial_window, size);
        if more == 0 {
            return Ok(());
        }
        for key in self.streams.keys() {
            if self.widen(key, more).is_err() {
                return Err(Fault::Connection(Code::FLOW_CONTROL_ERROR, "window is too large"));
            }
        }
        Ok(())
    }

    /// A stream may have become able to send.
    fn serve(&mut self, key: Key) {
        self.flush(key);
        if let Some(stream) = self.streams.get_mut(key).filter(|s| s.backlog.is_empty()) {
            wake(&mut stream.on_send);
        }
    }

    /// The connection may have become able to send: each stream that waits gets its turn, those
    /// that have to wait again behind the others.
    pub(super) fn serve_blocked(&mut self) {
        for _ in 0..self.blocked.len() {
            let Some(key) = self.blocked.pop_front() else { break };
            if let Some(stream) = self.streams.get_mut(key) {
                stream.blocked = false;
                self.serve(key);
            }
        }
        if self.blocked.is_empty() && self.blocked.capacity() > 64 {
            self.blocked = Default::default();
        }
    }

    /// Lets a stream wait for the connection.
    pub(super) fn block(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key).filter(|stream| !stream.blocked) {
            stream.blocked = true;
            self.blocked.push_back(key);
        }
    }
}
