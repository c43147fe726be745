//! Frames by hand, for the tables of cases: what a peer sends, and what comes back.

use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};

use super::super::connection::{Connection, Role};
use super::super::error::Error;
use super::super::frame::{HEAD, Head, Kind, PREFACE};
use super::super::*;
use super::selfmade::open;
use crate::message::{Fields, RequestHead};

pub(super) type Frame = (u8, u8, u32, Vec<u8>);

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) fn bytes(frames: &[Frame]) -> Vec<u8> {
    let mut out = Vec::new();
    for (kind, flags, stream, payload) in frames {
        let [_, length @ ..] = u32::try_from(payload.len()).expect("short").to_be_bytes();
        out.extend_from_slice(&length);
        out.extend_from_slice(&[*kind, *flags]);
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(payload);
    }
    out
}

/// Fields as literals that nothing remembers.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).expect("short"));
            assert!(text.len() < 127);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

pub(super) const GET: &[(&str, &str)] =
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "web")];

/// HEADERS of a whole request, plus some fields.
pub(super) fn request(stream: u32, end: bool, more: &[(&str, &str)]) -> Frame {
    let fields = [GET, more].concat();
    (HEADERS, 4 | u8::from(end), stream, block(&fields))
}

pub(super) fn response(stream: u32, end: bool, more: &[(&str, &str)]) -> Frame {
    let fields = [&[(":status", "200")], more].concat();
    (HEADERS, 4 | u8::from(end), stream, block(&fields))
}

pub(super) fn settings(list: &[(u16, u32)]) -> Frame {
    let entry = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    (SETTINGS, 0, 0, list.iter().flat_map(entry).collect())
}

pub(super) fn word(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// A connection under test, past its greeting.
pub(super) struct Peer {
    pub(super) connection: Connection,
    pub(super) requests: Vec<(usize, RequestHead)>,
}

impl Peer {
    pub(super) fn server(settings: &Settings) -> Self {
        let connection = Connection::new(Role::Server, settings);
        let mut peer = Self { connection, requests: Vec::new() };
        peer.raw(PREFACE).expect("fine");
        peer.send(&[super::cases::settings(&[]), (SETTINGS, 1, 0, Vec::new())]).expect("fine");
        peer.replies();
        peer
    }

    /// With streams 1 (GET) and 3 (POST, open) begun.
    pub(super) fn client(settings: &Settings) -> Self {
        let connection = Connection::new(Role::Client, settings);
        let mut peer = Self { connection, requests: Vec::new() };
        peer.send(&[super::cases::settings(&[]), (SETTINGS, 1, 0, Vec::new())]).expect("fine");
        let fields = Fields::default();
        assert!(peer.connection.open(&open(b"GET", b"/", &fields), true).is_some());
        assert!(peer.connection.open(&open(b"POST", b"/", &fields), false).is_some());
        peer.output();
        peer
    }

    pub(super) fn raw(&mut self, input: &[u8]) -> Result<(), Error> {
        self.connection.recv(&mut BytesMut::from(input))?;
        while let Some(request) = self.connection.accept() {
            self.requests.push(request);
        }
        Ok(())
    }

    pub(super) fn send(&mut self, frames: &[Frame]) -> Result<(), Error> {
        self.raw(&bytes(frames))
    }

    pub(super) fn output(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while !self.connection.output().is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 64];
            let count = self.connection.output().slices(&mut slices);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            all.extend_from_slice(&bytes);
            self.connection.written(bytes.len());
        }
        all
    }

    pub(super) fn replies(&mut self) -> Vec<Reply> {
        let output = self.output();
        let mut rest = output.strip_prefix(PREFACE).unwrap_or(&output);
        let mut replies = Vec::new();
        while let Some(head) = Head::parse(rest) {
            let payload = rest[HEAD..HEAD + head.length].to_vec();
            rest = &rest[HEAD + head.length..];
            replies.push(Reply {
                kind: head.kind,
                flags: head.flags,
                stream: head.stream,
                payload,
            });
        }
        assert!(rest.is_empty());
        replies
    }

    pub(super) fn read(&mut self, key: usize) -> Option<Result<Bytes, StreamError>> {
        let cx = Context::from_waker(Waker::noop());
        match self.connection.poll_data(key, &cx) {
            std::task::Poll::Ready(data) => data,
            std::task::Poll::Pending => panic!("nothing there"),
        }
    }
}

#[derive(Debug, PartialEq)]
pub(super) struct Reply {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Reply {
    pub(super) fn code(&self) -> Code {
        let at = if self.kind == Kind::GoAway { 4 } else { 0 };
        let bytes = self.payload[at..at + 4].try_into().expect("a code");
        Code(u32::from_be_bytes(bytes))
    }
}
