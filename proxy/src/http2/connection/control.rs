//! Frames of the connection itself: SETTINGS, PING, GOAWAY (RFC 9113 §6.5, §6.7, §6.8).

use super::super::error::{Code, Fault, frame_size, protocol};
use super::super::frame::{ACK, DEFAULT_MAX, Head, Kind, PREFACE, setting, word};
use super::{Abuse, Connection, INITIAL_WINDOW, MAX_WINDOW, Phase, Role};

/// Payloads of pings of ours: whether the peer is alive, and whether it read our GOAWAY.
const ALIVE: [u8; 8] = *b"is alive";
pub(super) const DRAIN: [u8; 8] = *b"is going";

impl Connection {
    /// What this role says before it hears anything.
    pub(super) fn greet(&mut self) {
        if self.role == Role::Client {
            self.out.buffer().extend_from_slice(PREFACE);
        }
        let settings = &self.settings;
        let mut payload = Vec::with_capacity(36);
        let mut put = |id: u16, value: u32| {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        };
        put(setting::INITIAL_WINDOW_SIZE, settings.stream_window);
        put(setting::MAX_HEADER_LIST_SIZE, settings.max_header_list);
        if settings.header_table != 4096 {
            put(setting::HEADER_TABLE_SIZE, settings.header_table);
        }
        match self.role {
            Role::Client => put(setting::ENABLE_PUSH, 0),
            Role::Server => {
                put(setting::MAX_CONCURRENT_STREAMS, settings.max_concurrent_streams);
                put(setting::ENABLE_CONNECT_PROTOCOL, u32::from(settings.connect_protocol));
            }
        }
        let more = settings.connection_window.saturating_sub(INITIAL_WINDOW);
        self.out.frame(Kind::Settings, 0, 0, &payload);
        if more > 0 {
            self.out.frame(Kind::WindowUpdate, 0, 0, &more.to_be_bytes());
            self.recv_window += i64::from(more);
        }
    }

    pub(super) fn on_settings(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        if head.flags & ACK != 0 {
            if !payload.is_empty() {
                return Err(frame_size("an acknowledgement of SETTINGS is not empty"));
            }
            self.acknowledged();
            return Ok(());
        }
        let (entries, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(frame_size("SETTINGS is not a multiple of 6 bytes"));
        }
        if !self.guard.allows(Abuse::Settings) {
            return Err(Fault::Connection(Code::ENHANCE_YOUR_CALM, "too many SETTINGS"));
        }
        if self.phase == Phase::FirstSettings {
            self.phase = Phase::Running;
            // A peer that names no limit has none (RFC 9113 §6.5.2).
            self.peer.max_streams = u32::MAX;
        }
        let mut window = self.peer.initial_window;
        for [a, b, value @ ..] in entries {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                setting::INITIAL_WINDOW_SIZE if i64::from(value) > MAX_WINDOW => {
                    let reason = "SETTINGS_INITIAL_WINDOW_SIZE is too large";
                    return Err(Fault::Connection(Code::FLOW_CONTROL_ERROR, reason));
                }
                setting::INITIAL_WINDOW_SIZE => window = i64::from(value),
                id => self.apply(id, value)?,
            }
        }
        self.out.frame(Kind::Settings, ACK, 0, &[]);
        self.change_initial_window(window)?;
        self.wake_for_room();
        self.count_reply()
    }

    /// The peer keeps to our SETTINGS from here on (RFC 9113 §6.5.3, §6.9.2).
    fn acknowledged(&mut self) {
        self.decoder.set_limit(self.settings.header_table as usize);
        let window = i64::from(self.settings.stream_window);
        let more = window - std::mem::replace(&mut self.own_window, window);
        if more != 0 {
            self.streams.iter_mut().for_each(|stream| stream.recv_window += more);
        }
    }

    fn apply(&mut self, id: u16, value: u32) -> Result<(), Fault> {
        match id {
            setting::HEADER_TABLE_SIZE => self.encoder.set_limit(value as usize),
            setting::ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                return Err(protocol("SETTINGS_ENABLE_PUSH is out of range"));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.max_streams = value,
            setting::MAX_FRAME_SIZE => {
                let size = value as usize;
                if !(DEFAULT_MAX..=0xff_ffff).contains(&size) {
                    return Err(protocol("SETTINGS_MAX_FRAME_SIZE is out of range"));
                }
                self.peer.max_frame = size;
            }
            setting::ENABLE_CONNECT_PROTOCOL if value > 1 => {
                return Err(protocol("SETTINGS_ENABLE_CONNECT_PROTOCOL is out of range"));
            }
            setting::ENABLE_CONNECT_PROTOCOL => self.peer.connect_protocol = value == 1,
            _ => {}
        }
        Ok(())
    }

    /// The peer takes extended CONNECT (RFC 8441 §3).
    #[cfg(test)]
    pub(in crate::http2) fn allows_connect_protocol(&self) -> bool {
        self.peer.connect_protocol
    }

    pub(super) fn on_ping(&mut self, head: &Head, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != 8 {
            return Err(frame_size("PING is not of 8 bytes"));
        }
        if head.flags & ACK == 0 {
            self.out.frame(Kind::Ping, ACK, 0, payload);
            return self.count_reply();
        }
        if payload == ALIVE {
            self.pinged = false;
        } else if payload == DRAIN {
            self.drain_finally();
        }
        Ok(())
    }

    pub(super) fn write_ping(&mut self, payload: [u8; 8]) {
        self.out.frame(Kind::Ping, 0, 0, &payload);
    }

    /// Asks whether the peer is alive.
    pub(in crate::http2) fn ping(&mut self) {
        if !std::mem::replace(&mut self.pinged, true) {
            self.write_ping(ALIVE);
        }
    }

    /// The peer said something, which is as good as an answer.
    pub(in crate::http2) fn heard(&mut self) {
        self.pinged = false;
    }

    /// A ping of ours waits for its answer.
    pub(in crate::http2) fn is_pinged(&self) -> bool {
        self.pinged
    }

    pub(super) fn on_goaway(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let (Some(last), Some(code)) = (word(payload), payload.get(4..).and_then(word)) else {
            return Err(frame_size("GOAWAY is too short"));
        };
        let last = last & 0x7fff_ffff;
        if self.going.peer_last.is_some_and(|before| last > before) {
            return Err(protocol("GOAWAY names a later stream than before"));
        }
        self.peer_goes(last, Code(code));
        Ok(())
    }
}
