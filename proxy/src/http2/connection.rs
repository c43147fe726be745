//! One HTTP/2 connection of either role as a state machine (RFC 9113): bytes in, bytes out.
//!
//! Owns frames, streams, windows, heads and the defences against abuse. Refuses I/O, tasks and
//! time: `driver` moves the bytes, and whoever waits for a stream is woken by the waker it left.

mod blocks;
mod control;
mod data;
mod flow;
mod guard;
mod head;
mod lifecycle;
mod output;
mod receive;
mod send;
mod streams;

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Instant;

use bytes::{Buf, BytesMut};

use super::error::{Code, Error, Fault};
use super::frame::{self, HEAD, Head, PREFACE};
use super::hpack::{Decoder, Encoder};
use super::settings::Settings;
use crate::message::RequestHead;

pub(crate) use blocks::Open;
use guard::Guard;
pub(crate) use guard::{Abuse, Counters};
pub(super) use output::Output;
pub(super) use streams::Key;
use streams::Streams;

/// Streams assumed to be allowed before the peer says how many (RFC 9113 §6.5.2).
const ASSUMED_STREAMS: u32 = 100;
/// The window both sides begin with (RFC 9113 §6.9.2).
const INITIAL_WINDOW: u32 = 65_535;
/// The largest window (RFC 9113 §6.9.1).
const MAX_WINDOW: i64 = 0x7fff_ffff;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// What the peer must send next before anything else (RFC 9113 §3.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Preface,
    FirstSettings,
    Running,
}

/// What the peer's SETTINGS say.
#[derive(Debug)]
struct Peer {
    max_frame: usize,
    initial_window: i64,
    max_streams: u32,
    connect_protocol: bool,
}

/// A head of which CONTINUATION frames are still to come.
#[derive(Debug)]
struct Partial {
    stream: u32,
    end: bool,
    frames: u32,
    block: Vec<u8>,
}

/// Who is going away (RFC 9113 §6.8).
#[derive(Debug, Default)]
struct Going {
    /// No new streams from our side.
    draining: bool,
    /// The last stream of the peer's that we still serve, once said for good.
    last: Option<u32>,
    /// The last stream of ours that the peer still serves.
    peer_last: Option<u32>,
    peer_code: Code,
}

#[derive(Debug)]
pub(crate) struct Connection {
    role: Role,
    settings: Settings,
    phase: Phase,
    decoder: Decoder,
    encoder: Encoder,
    partial: Option<Box<Partial>>,
    streams: Streams,
    peer: Peer,
    /// What we may send on all streams together.
    send_window: i64,
    /// What the peer may send on all streams together.
    recv_window: i64,
    /// Bytes released that the peer was not told of.
    owed: usize,
    /// The window our new streams begin with: ours once the peer has taken note of it.
    own_window: i64,
    out: Output,
    /// Requests that nobody has taken yet.
    accepted: VecDeque<(Key, RequestHead)>,
    /// The next stream of ours (client).
    next_id: u32,
    /// The last stream the peer began (server).
    last_peer: u32,
    /// Streams open, whoever holds them.
    active: usize,
    /// Streams we reset of late: what is still under way for them is passed over.
    reset_of_late: VecDeque<u32>,
    /// Streams that wait for the connection's window or for room among the output.
    blocked: VecDeque<Key>,
    /// Who waits to open a stream.
    on_room: Vec<Waker>,
    going: Going,
    guard: Guard,
    /// When the input at hand came, once somebody asked.
    now: Option<Instant>,
    /// Answers among the output.
    replies: u32,
    /// A ping of ours is not answered.
    pinged: bool,
    failure: Option<Error>,
}

impl Connection {
    /// A connection of which the output begins with what this role says first.
    pub(crate) fn new(role: Role, settings: &Settings) -> Self {
        let mut connection = Self {
            role,
            settings: settings.clone(),
            phase: if role == Role::Server { Phase::Preface } else { Phase::FirstSettings },
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            partial: None,
            streams: Streams::default(),
            peer: Peer {
                max_frame: frame::DEFAULT_MAX,
                initial_window: i64::from(INITIAL_WINDOW),
                max_streams: ASSUMED_STREAMS,
                connect_protocol: false,
            },
            send_window: i64::from(INITIAL_WINDOW),
            recv_window: i64::from(INITIAL_WINDOW),
            owed: 0,
            own_window: i64::from(INITIAL_WINDOW),
            out: Output::default(),
            accepted: VecDeque::new(),
            next_id: 1,
            last_peer: 0,
            active: 0,
            reset_of_late: VecDeque::new(),
            blocked: VecDeque::new(),
            on_room: Vec::new(),
            going: Going::default(),
            guard: Guard::new(&settings.limits),
            now: None,
            replies: 0,
            pinged: false,
            failure: None,
        };
        connection.greet();
        connection
    }

    /// Takes all whole frames from `input`; what is left begins one that is not whole.
    ///
    /// # Errors
    /// The connection is over: the GOAWAY that says why is among the output, and every stream has
    /// failed.
    pub(crate) fn recv(&mut self, input: &mut BytesMut) -> Result<(), Error> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let mut at = 0;
        self.now = None;
        let fault = loop {
            match self.step(input, &mut at) {
                Ok(true) => {}
                Ok(false) => break None,
                Err(Fault::Stream(id, code)) => {
                    if let Err(Fault::Connection(code, reason)) = self.stream_fault(id, code) {
                        break Some((code, reason));
                    }
                }
                Err(Fault::Connection(code, reason)) => break Some((code, reason)),
            }
        };
        input.advance(at.min(input.len()));
        match fault {
            Some((code, reason)) => {
                self.go_away_for(code, reason);
                Err(Error::Protocol { code, reason })
            }
            None => self.failure.map_or(Ok(()), Err),
        }
    }

    /// One frame; whether there was one.
    fn step(&mut self, input: &mut BytesMut, at: &mut usize) -> Result<bool, Fault> {
        let rest = input.get(*at..).unwrap_or_default();
        if self.phase == Phase::Preface {
            let seen = rest.len().min(PREFACE.len());
            if rest.get(..seen) != PREFACE.get(..seen) {
                return Err(super::error::protocol("the client preface is wrong"));
            }
            if seen < PREFACE.len() {
                return Ok(false);
            }
            *at += PREFACE.len();
            self.phase = Phase::FirstSettings;
            return Ok(true);
        }
        let Some(head) = Head::parse(rest) else { return Ok(false) };
        self.admit(&head)?;
        let Some(payload) = rest.get(HEAD..HEAD + head.length) else { return Ok(false) };
        if head.kind == frame::Kind::Data {
            return self.on_data(&head, input, at).map(|()| true);
        }
        *at += HEAD + head.length;
        self.on_frame(&head, payload)?;
        Ok(true)
    }

    /// What waits to be written.
    pub(super) fn output(&self) -> &Output {
        &self.out
    }

    /// The first `count` bytes of the output are written.
    pub(super) fn written(&mut self, count: usize) {
        self.out.advance(count);
        if self.out.is_empty() {
            self.replies = 0;
        }
        if self.send_window > 0
            && !self.blocked.is_empty()
            && self.out.len() <= self.settings.output / 2
        {
            self.serve_blocked();
        }
    }

    /// Holds as little memory as an idle connection needs.
    pub(super) fn rest(&mut self) {
        if self.active == 0 {
            self.out.shrink();
        }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.guard.counters
    }

    pub(super) fn failure(&self) -> Option<Error> {
        self.failure
    }

    /// Streams open.
    pub(super) fn active(&self) -> usize {
        self.active
    }
}
