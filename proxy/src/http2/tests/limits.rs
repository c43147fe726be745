//! Windows, limits, floods and farewells over more than one step.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::super::frame::Kind;
use super::super::*;
use super::cases::*;
use super::spec::Outcome::{Fine, Over, Reset};
use super::spec::{check, outcome};
use crate::message::ResponseHead;

const FLOW: Code = Code::FLOW_CONTROL_ERROR;

#[test]
fn what_was_surely_not_processed_is_said_so() {
    let cx = Context::from_waker(Waker::noop());
    let mut peer = Peer::client(&Settings::default());
    peer.send(&[(RESET, 0, 1, word(7)), (GOAWAY, 0, 0, [word(1), word(0)].concat())])
        .expect("fine");
    assert_eq!(
        peer.connection.poll_head(0, &cx).map(Result::err),
        Poll::Ready(Some(StreamError::Refused))
    );
    assert_eq!(
        peer.connection.poll_head(1, &cx).map(Result::err),
        Poll::Ready(Some(StreamError::GoneAway))
    );
    assert!(!peer.connection.is_usable() && peer.connection.room() == 0);
    assert!(peer.connection.is_finished());
}

#[test]
fn windows_bound_what_either_side_sends() {
    let cx = Context::from_waker(Waker::noop());
    let small = Settings { stream_window: 100, connection_window: 65_535, ..Settings::default() };
    let mut peer = Peer::server(&small);
    let post = request(1, false, &[]);
    assert_eq!(outcome(&mut peer, &[post, (DATA, 0, 1, vec![0; 60])]), Fine(1));
    let (key, _) = peer.requests[0];
    assert_eq!(peer.read(key), Some(Ok(Bytes::from(vec![0; 60]))));
    assert_eq!(peer.replies(), [], "what is read is not yet released");
    peer.connection.release(key, 60);
    let replies = peer.replies();
    assert_eq!((replies.len(), replies[0].kind, replies[0].stream), (1, Kind::WindowUpdate, 1));
    assert_eq!(replies[0].payload, word(60));
    assert_eq!(outcome(&mut peer, &[(DATA, 0, 1, vec![0; 100])]), Fine(1));
    assert_eq!(outcome(&mut peer, &[(DATA, 0, 1, vec![0; 1])]), Reset(1, FLOW));

    // What we send, over a window that shrinks below nothing.
    let mut peer = Peer::server(&Settings::default());
    peer.send(&[settings(&[(4, 1000)]), request(1, true, &[])]).expect("fine");
    peer.replies();
    let (key, _) = peer.requests[0];
    peer.connection.send_head(key, &ResponseHead::new(200), false);
    assert_eq!(peer.connection.poll_capacity(key, 5000, &cx), Poll::Ready(Ok(1000)));
    peer.connection.send_data(key, Bytes::from(vec![7; 1500]), true);
    let lengths = |peer: &mut Peer| -> Vec<(usize, u8)> {
        let data = |reply: &Reply| {
            (reply.kind == Kind::Data).then_some((reply.payload.len(), reply.flags))
        };
        peer.replies().iter().filter_map(data).collect()
    };
    assert_eq!(lengths(&mut peer), [(1000, 0)]);
    peer.send(&[settings(&[(4, 0)]), (WINDOW, 0, 1, word(1000))]).expect("fine");
    assert_eq!(lengths(&mut peer), [], "the window is at nothing");
    peer.send(&[(WINDOW, 0, 1, word(300))]).expect("fine");
    assert_eq!(lengths(&mut peer), [(300, 0)]);
    peer.send(&[settings(&[(4, 900)])]).expect("fine");
    assert_eq!(lengths(&mut peer), [(200, 1)]);
}

#[test]
fn a_server_keeps_its_limit_of_streams() {
    let few = Settings { max_concurrent_streams: 2, ..Settings::default() };
    let mut peer = Peer::server(&few);
    let frames: Vec<Frame> = [1, 3, 5].map(|id| request(id, true, &[])).into();
    assert_eq!(outcome(&mut peer, &frames), Reset(5, Code::REFUSED_STREAM));
    assert_eq!(peer.requests.len(), 2);
    // Those that are reset still count while somebody works for them.
    for id in [7, 9, 11] {
        let resets = [(RESET, 0, id - 6, word(8)), (RESET, 0, id - 4, word(8))];
        let _ = peer.send(&resets);
        let _ = outcome(&mut peer, &[request(id, true, &[])]);
    }
    assert!(peer.requests.len() <= 4, "{}", peer.requests.len());
    assert!(peer.connection.counters().refused >= 1);
}

#[test]
fn a_server_that_drains_says_so_twice() {
    let mut peer = Peer::server(&Settings::default());
    peer.send(&[request(1, true, &[])]).expect("fine");
    peer.connection.drain();
    let replies = peer.replies();
    assert_eq!(replies.iter().map(|r| r.kind).collect::<Vec<_>>(), [Kind::GoAway, Kind::Ping]);
    assert_eq!(replies[0].payload, [word(0x7fff_ffff), word(0)].concat());
    peer.send(&[request(3, true, &[]), (PING, 1, 0, replies[1].payload.clone())]).expect("fine");
    assert_eq!(peer.requests.len(), 2, "what was under way is served");
    assert_eq!(peer.replies()[0].payload, [word(3), word(0)].concat());
    peer.send(&[request(5, true, &[])]).expect("fine");
    assert_eq!(peer.requests.len(), 2, "what came too late is not");
    for (key, _) in std::mem::take(&mut peer.requests) {
        assert!(!peer.connection.is_finished());
        peer.connection.send_head(key, &ResponseHead::new(200), true);
    }
    assert!(peer.connection.is_finished());
}

#[test]
fn floods_end_the_connection_and_are_counted() {
    let calm = Over(Code::ENHANCE_YOUR_CALM);
    let get = |id| request(id, true, &[]);
    let resets = (0..2000).flat_map(|at| [get(at * 2 + 1), (RESET, 0, at * 2 + 1, word(8))]);
    let faults = (0..2000).map(|at| request(at * 2 + 1, true, &[("A", "b")]));
    let empty = [vec![request(1, false, &[])], vec![(DATA, 0, 1, vec![]); 3000]].concat();
    check(&[
        ("10.5 resets", resets.collect(), calm),
        ("10.5 faults", faults.collect(), calm),
        ("10.5 empty DATA", empty, calm),
        ("10.5 pings", vec![(PING, 0, 0, vec![0; 8]); 3000], calm),
        ("10.5 settings", vec![settings(&[]); 300], calm),
        ("10.5 pings that are read", vec![(PING, 1, 0, vec![0; 8]); 3000], Fine(0)),
    ]);
    // A window of one byte at a time.
    let mut peer = Peer::server(&Settings::default());
    peer.send(&[settings(&[(4, 0)]), request(1, true, &[])]).expect("fine");
    let (key, _) = peer.requests[0];
    peer.connection.send_head(key, &ResponseHead::new(200), false);
    peer.connection.send_data(key, Bytes::from(vec![0; 100_000]), true);
    let stopped = (0..10_000).find(|_| peer.send(&[(WINDOW, 0, 1, word(1))]).is_err());
    assert!(stopped.is_some());
    assert_eq!(peer.replies().last().map(Reply::code), Some(Code::ENHANCE_YOUR_CALM));
    assert!(peer.connection.counters().tiny_windows > 1000);
}

#[test]
fn streams_that_end_well_allow_for_resets() {
    let mut peer = Peer::server(&Settings::default());
    for at in 0..5000_u32 {
        let (good, cancelled) = (at * 4 + 1, at * 4 + 3);
        peer.send(&[request(good, true, &[]), request(cancelled, true, &[])]).expect("fine");
        peer.send(&[(RESET, 0, cancelled, word(8))]).expect("fine");
        for (key, _) in std::mem::take(&mut peer.requests) {
            peer.connection.send_head(key, &ResponseHead::new(200), true);
            peer.connection.drop_sender(key);
            peer.connection.drop_receiver(key);
        }
        peer.output();
    }
    assert!(peer.connection.counters().resets > 4000, "all but those that took long");
}

#[test]
fn many_small_frames_are_put_together_when_nobody_reads() {
    let mut peer = Peer::server(&Settings::default());
    peer.send(&[request(1, false, &[])]).expect("fine");
    for _ in 0..50_000 {
        peer.send(&[(DATA, 0, 1, vec![1, 2, 3])]).expect("no budget of frames");
    }
    let (key, _) = peer.requests[0];
    peer.send(&[(DATA, 1, 1, vec![])]).expect("fine");
    let mut pieces = Vec::new();
    while let Some(data) = peer.read(key) {
        pieces.push(data.expect("data").len());
    }
    assert_eq!(pieces.iter().sum::<usize>(), 150_000);
    assert!(pieces.len() < 20, "{}", pieces.len());
}
