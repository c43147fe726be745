//! What frames lead to, by the section of RFC 9113 (or 8441) that says so.

use super::super::frame::Kind;
use super::super::*;
use super::cases::*;
use crate::message::ResponseHead;

/// What a sequence of frames leads to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    /// That many requests, and no complaint.
    Fine(usize),
    Reset(u32, Code),
    Over(Code),
}

use Outcome::{Fine, Over, Reset};

const PROTOCOL: Code = Code::PROTOCOL_ERROR;
const SIZE: Code = Code::FRAME_SIZE_ERROR;
const FLOW: Code = Code::FLOW_CONTROL_ERROR;
const CLOSED: Code = Code::STREAM_CLOSED;

pub(super) fn outcome(peer: &mut Peer, frames: &[Frame]) -> Outcome {
    let result = peer.send(frames);
    let replies = peer.replies();
    match result {
        Err(Error::Protocol { code, .. }) => {
            let last = replies.last().expect("a GOAWAY");
            assert_eq!((last.kind, last.code()), (Kind::GoAway, code));
            Over(code)
        }
        Err(error) => panic!("{error}"),
        Ok(()) => match replies.iter().find(|reply| reply.kind == Kind::Reset) {
            Some(reset) => Reset(reset.stream, reset.code()),
            None => Fine(peer.requests.len()),
        },
    }
}

pub(super) fn check(cases: &[(&str, Vec<Frame>, Outcome)]) {
    for (section, frames, expected) in cases {
        let mut peer = Peer::server(&Settings::default());
        assert_eq!(outcome(&mut peer, frames), *expected, "{section}: {frames:?}");
    }
}

fn check_client(cases: &[(&str, Vec<Frame>, Outcome)]) {
    for (section, frames, expected) in cases {
        let mut peer = Peer::client(&Settings::default());
        assert_eq!(outcome(&mut peer, frames), *expected, "{section}: {frames:?}");
    }
}

#[test]
fn the_preface_must_be_right_and_settings_first() {
    for (input, fine) in [
        (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..], true),
        (b"PRI * HTTP/2.0\r\n\r\nXX", false),
        (b"GET / HTTP/1.1\r\n", false),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x08\x06\0\0\0\0\0", false),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\x01\0\0\0\0", false),
    ] {
        let connection = super::super::connection::Connection::new(
            super::super::connection::Role::Server,
            &Settings::default(),
        );
        let mut peer = Peer { connection, requests: Vec::new() };
        assert_eq!(peer.raw(input).is_ok(), fine, "{input:?}");
    }
}

#[test]
fn frames_of_wrong_size_or_place_are_refused() {
    let get = || request(1, true, &[]);
    check(&[
        ("4.2", vec![(PING, 0, 0, vec![0; 16_385])], Over(SIZE)),
        ("4.1 unknown", vec![(0x55, 0xff, 7, vec![1; 10]), get()], Fine(1)),
        ("6.1", vec![(DATA, 0, 0, vec![1])], Over(PROTOCOL)),
        ("6.1 padding", vec![request(1, false, &[]), (DATA, 8, 1, vec![5, 1])], Over(PROTOCOL)),
        ("6.2", vec![(HEADERS, 5, 0, block(GET))], Over(PROTOCOL)),
        ("6.2 padding", vec![(HEADERS, 0xd, 1, vec![200, 0])], Over(PROTOCOL)),
        ("6.3", vec![(2, 0, 0, vec![0; 5])], Over(PROTOCOL)),
        ("6.3 size", vec![get(), (2, 0, 1, vec![0; 4])], Reset(1, SIZE)),
        ("6.4", vec![(RESET, 0, 0, word(0))], Over(PROTOCOL)),
        ("6.4 idle", vec![(RESET, 0, 1, word(0))], Over(PROTOCOL)),
        ("6.4 size", vec![get(), (RESET, 0, 1, vec![0; 3])], Over(SIZE)),
        ("6.5", vec![(SETTINGS, 0, 1, vec![])], Over(PROTOCOL)),
        ("6.5 ack", vec![(SETTINGS, 1, 0, vec![0; 6])], Over(SIZE)),
        ("6.5 size", vec![(SETTINGS, 0, 0, vec![0; 5])], Over(SIZE)),
        ("6.5.2 push", vec![settings(&[(2, 2)])], Over(PROTOCOL)),
        ("6.5.2 window", vec![settings(&[(4, 0x8000_0000)])], Over(FLOW)),
        ("6.5.2 frame", vec![settings(&[(5, 16_383)])], Over(PROTOCOL)),
        ("6.5.2 frame", vec![settings(&[(5, 0x100_0000)])], Over(PROTOCOL)),
        ("6.5.2 unknown", vec![settings(&[(0xff, 1), (9, 9)]), get()], Fine(1)),
        ("8441 3", vec![settings(&[(8, 2)])], Over(PROTOCOL)),
        ("6.6", vec![get(), (5, 4, 1, vec![0, 0, 0, 2])], Over(PROTOCOL)),
        ("6.7", vec![(PING, 0, 1, vec![0; 8])], Over(PROTOCOL)),
        ("6.7 size", vec![(PING, 0, 0, vec![0; 6])], Over(SIZE)),
        ("6.8", vec![(GOAWAY, 0, 1, vec![0; 8])], Over(PROTOCOL)),
        ("6.8 size", vec![(GOAWAY, 0, 0, vec![0; 7])], Over(SIZE)),
        ("6.9", vec![(WINDOW, 0, 0, word(0))], Over(PROTOCOL)),
        ("6.9 size", vec![(WINDOW, 0, 0, vec![0; 3])], Over(SIZE)),
        ("6.9 stream", vec![get(), (WINDOW, 0, 1, word(0))], Reset(1, PROTOCOL)),
        ("6.9 idle", vec![(WINDOW, 0, 1, word(1))], Over(PROTOCOL)),
        ("6.9.1", vec![(WINDOW, 0, 0, word(0x7fff_ffff))], Over(FLOW)),
        ("6.9.1", vec![get(), (WINDOW, 0, 1, word(0x7fff_ffff))], Reset(1, FLOW)),
        (
            "6.9.2",
            vec![get(), (WINDOW, 0, 1, word(0x7000_0000)), settings(&[(4, 0x7fff_ffff)])],
            Over(FLOW),
        ),
        ("6.10", vec![(CONTINUATION, 4, 1, block(GET))], Over(PROTOCOL)),
    ]);
}

#[test]
fn heads_in_pieces_must_follow_each_other() {
    let whole = block(GET);
    let (first, rest) = whole.split_at(10);
    let begin = |flags| (HEADERS, flags, 1, first.to_vec());
    check(&[
        ("6.2", vec![begin(1), (CONTINUATION, 4, 1, rest.to_vec())], Fine(1)),
        ("6.10", vec![begin(0), (CONTINUATION, 4, 3, rest.to_vec())], Over(PROTOCOL)),
        ("6.10", vec![begin(0), (PING, 0, 0, vec![0; 8])], Over(PROTOCOL)),
        ("6.10", vec![begin(0), (0x55, 0, 0, vec![])], Over(PROTOCOL)),
        ("4.3", vec![(HEADERS, 5, 1, first.to_vec())], Over(Code::COMPRESSION_ERROR)),
        (
            "10.5.1",
            [vec![begin(0)], vec![(CONTINUATION, 0, 1, vec![]); 40]].concat(),
            Over(Code::ENHANCE_YOUR_CALM),
        ),
    ]);
}

#[test]
fn streams_go_through_their_states() {
    let get = |id| request(id, true, &[]);
    let post = |id| request(id, false, &[]);
    let data = |id, flags| (DATA, flags, id, vec![1, 2]);
    check(&[
        ("5.1 idle", vec![data(1, 0)], Over(PROTOCOL)),
        ("5.1 half-closed", vec![get(1), data(1, 0)], Reset(1, CLOSED)),
        ("5.1 half-closed", vec![post(1), data(1, 1), get(1)], Reset(1, CLOSED)),
        ("5.1 reset", vec![post(1), (RESET, 0, 1, word(8)), (WINDOW, 0, 1, word(1))], Fine(0)),
        ("5.1 closed", vec![post(1), (RESET, 0, 1, word(8)), data(1, 0)], Reset(1, CLOSED)),
        ("5.1 closed", vec![post(1), (RESET, 0, 1, word(8)), get(1)], Reset(1, CLOSED)),
        ("5.1.1 even", vec![get(2)], Over(PROTOCOL)),
        ("5.1.1 order", vec![get(5), get(3)], Over(CLOSED)),
        ("8.1 no end", vec![post(1), (HEADERS, 4, 1, block(&[("a", "b")]))], Reset(1, PROTOCOL)),
        ("8.1 trailers", vec![post(1), data(1, 0), (HEADERS, 5, 1, block(&[("a", "b")]))], Fine(1)),
        (
            "8.1 trailers",
            vec![post(1), (HEADERS, 5, 1, block(&[(":path", "/")]))],
            Reset(1, PROTOCOL),
        ),
        (
            "5.3.1",
            vec![(HEADERS, 0x25, 1, [&word(1)[..], &[9], &block(GET)].concat())],
            Reset(1, PROTOCOL),
        ),
        ("5.3.1", vec![(HEADERS, 0x25, 3, [&word(1)[..], &[9], &block(GET)].concat())], Fine(1)),
        ("6.1", vec![post(1), (DATA, 9, 1, vec![2, 7, 0, 0])], Fine(1)),
    ]);
    // A stream that is gone for good, without a reset of ours.
    let mut peer = Peer::server(&Settings::default());
    assert_eq!(outcome(&mut peer, &[get(1)]), Fine(1));
    let (key, _) = peer.requests.remove(0);
    peer.connection.send_head(key, &ResponseHead::new(200), true);
    peer.connection.drop_sender(key);
    peer.connection.drop_receiver(key);
    assert_eq!(peer.connection.active(), 0);
    assert_eq!(outcome(&mut peer, &[data(1, 0)]), Reset(1, CLOSED));
    assert_eq!(outcome(&mut peer, &[data(1, 0), (RESET, 0, 1, word(0))]), Fine(0), "told once");
}

#[test]
fn malformed_requests_are_reset() {
    let with = |more: &[(&str, &str)]| vec![request(1, true, more)];
    let only = |fields: &[(&str, &str)]| vec![(HEADERS, 5, 1, block(fields))];
    let [method, scheme, path, authority] = [GET[0], GET[1], GET[2], GET[3]];
    let bad = Reset(1, PROTOCOL);
    let connect = (":method", "CONNECT");
    let protocol = (":protocol", "websocket");
    check(&[
        ("8.2.1", with(&[("X-A", "1")]), bad),
        ("8.2.1", with(&[("a b", "1")]), bad),
        ("8.2.1", with(&[("", "1")]), bad),
        ("8.2.1", with(&[("a", " 1")]), bad),
        ("8.2.1", with(&[("a", "1\t")]), bad),
        ("8.2.1", with(&[("a", "1\n2")]), bad),
        ("8.2.1", with(&[("a", "1\0")]), bad),
        ("8.2.1", with(&[("a", ""), ("b", "a\tb \u{e4}")]), Fine(1)),
        ("8.2.2", with(&[("connection", "close")]), bad),
        ("8.2.2", with(&[("keep-alive", "1")]), bad),
        ("8.2.2", with(&[("proxy-connection", "close")]), bad),
        ("8.2.2", with(&[("transfer-encoding", "chunked")]), bad),
        ("8.2.2", with(&[("upgrade", "h2c")]), bad),
        ("8.2.2", with(&[("te", "gzip")]), bad),
        ("8.2.2", with(&[("te", "trailers")]), Fine(1)),
        ("8.3", with(&[("a", "1"), (":path", "/")]), bad),
        ("8.3", with(&[(":status", "200")]), bad),
        ("8.3", with(&[(":other", "1")]), bad),
        ("8.3.1", only(&[method, scheme, path, authority, path]), bad),
        ("8.3.1", only(&[scheme, path, authority]), bad),
        ("8.3.1", only(&[method, path, authority]), bad),
        ("8.3.1", only(&[method, scheme, authority]), bad),
        ("8.3.1", only(&[method, scheme, (":path", ""), authority]), bad),
        ("8.3.1", only(&[method, scheme, (":path", "*"), authority]), bad),
        ("8.3.1", only(&[method, scheme, (":path", "/a b"), authority]), bad),
        ("8.3.1", only(&[method, scheme, (":path", "a"), authority]), bad),
        ("8.3.1", only(&[(":method", "OPTIONS"), scheme, (":path", "*"), authority]), Fine(1)),
        ("8.3.1", only(&[(":method", "G T"), scheme, path, authority]), bad),
        ("8.3.1", only(&[method, scheme, path, (":authority", "u@web")]), bad),
        ("8.3.1", only(&[method, scheme, path, (":authority", "")]), bad),
        ("8.3.1", only(&[method, scheme, path, ("host", "web")]), Fine(1)),
        ("8.3.1", with(&[("host", "web")]), Fine(1)),
        ("8.3.1", with(&[("host", "WEB")]), Fine(1)),
        ("8.3.1", with(&[("host", "other")]), bad),
        ("8.3.1", with(&[("host", "web"), ("host", "web")]), bad),
        ("8.5", only(&[connect, authority]), Fine(1)),
        ("8.5", only(&[connect]), bad),
        ("8.5", only(&[connect, authority, path]), bad),
        ("8441 4", only(&[connect, protocol, scheme, path, authority]), Fine(1)),
        ("8441 4", only(&[connect, protocol, authority]), bad),
        ("8441 4", only(&[method, protocol, scheme, path, authority]), bad),
    ]);
    let closed = Settings { connect_protocol: false, ..Settings::default() };
    let frames = only(&[connect, protocol, scheme, path, authority]);
    assert_eq!(outcome(&mut Peer::server(&closed), &frames), bad);
}

#[test]
fn content_length_is_what_the_data_sums_up_to() {
    let post = |length: &'static str| request(1, false, &[("content-length", length)]);
    let data = |flags, length| (DATA, flags, 1, vec![0; length]);
    let trailers = || (HEADERS, 5, 1, block(&[("a", "b")]));
    let bad = Reset(1, PROTOCOL);
    check(&[
        ("8.1.1", vec![post("5"), data(0, 2), data(1, 3)], Fine(1)),
        ("8.1.1", vec![post("5"), data(1, 4)], bad),
        ("8.1.1", vec![post("5"), data(0, 6)], bad),
        ("8.1.1", vec![post("5"), data(0, 5), trailers()], Fine(1)),
        ("8.1.1", vec![post("5"), data(0, 4), trailers()], bad),
        ("8.1.1", vec![post("x")], bad),
        ("8.1.1", vec![post("+5")], bad),
        ("8.1.1", vec![post("99999999999999999999")], bad),
        ("8.1.1", vec![request(1, true, &[("content-length", "5")])], bad),
        ("8.1.1", vec![request(1, true, &[("content-length", "0")])], Fine(1)),
        (
            "8.6",
            vec![request(1, false, &[("content-length", "5"), ("content-length", "5")])],
            Fine(1),
        ),
        ("8.6", vec![request(1, false, &[("content-length", "5"), ("content-length", "6")])], bad),
    ]);
}

#[test]
fn a_client_judges_what_a_server_sends() {
    let ok = |id| response(id, false, &[]);
    let status = |status| (HEADERS, 4, 1, block(&[(":status", status)]));
    let bad = Reset(1, PROTOCOL);
    check_client(&[
        ("8.1", vec![ok(1), (DATA, 1, 1, vec![1])], Fine(0)),
        ("8.1", vec![(DATA, 0, 1, vec![1])], bad),
        ("8.1", vec![status("103"), status("100"), ok(1)], Fine(0)),
        ("8.1", vec![(HEADERS, 5, 1, block(&[(":status", "103")]))], bad),
        ("8.3.2", vec![status("20")], bad),
        ("8.3.2", vec![status("2x0")], bad),
        ("8.3.2", vec![(HEADERS, 4, 1, block(&[("a", "b")]))], bad),
        ("8.6", vec![status("101")], bad),
        ("8.3", vec![(HEADERS, 4, 1, block(&[(":status", "200"), (":path", "/")]))], bad),
        ("5.1", vec![(HEADERS, 4, 5, block(&[(":status", "200")]))], Over(PROTOCOL)),
        ("5.1", vec![(HEADERS, 4, 2, block(&[(":status", "200")]))], Over(PROTOCOL)),
        ("6.6", vec![(5, 4, 1, vec![0, 0, 0, 2])], Over(PROTOCOL)),
        ("6.5.2", vec![settings(&[(2, 1)])], Over(PROTOCOL)),
        (
            "6.8",
            vec![
                (GOAWAY, 0, 0, [word(3), word(0)].concat()),
                (GOAWAY, 0, 0, [word(5), word(0)].concat()),
            ],
            Over(PROTOCOL),
        ),
        ("8.1.1", vec![response(1, true, &[("content-length", "5")])], bad),
        (
            "8.1.1",
            vec![(HEADERS, 5, 1, block(&[(":status", "304"), ("content-length", "5")]))],
            Fine(0),
        ),
    ]);
}
