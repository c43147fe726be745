//! An entry for fuzzing: bytes to both roles, which must neither panic nor grow without bound.

use std::task::{Context, Waker};

use bytes::{Bytes, BytesMut};

use super::connection::{Connection, Open, Role};
use super::frame::{Head, Kind, PREFACE};
use super::settings::Settings;
use crate::message::{Fields, ResponseHead};

/// Feeds `data` to a server, which answers what it takes for requests, and to a client that has
/// three streams open.
pub(crate) fn fuzz(data: &[u8]) {
    let (cut, data) = data.split_first().map_or((1, data), |(cut, rest)| (*cut as usize + 1, rest));
    let hello = Head::write(Kind::Settings, 0, 0, 0);
    let settings = Settings::default();
    let mut server = Connection::new(Role::Server, &settings);
    feed(&mut server, &[PREFACE, &hello, data].concat(), cut);
    let mut client = Connection::new(Role::Client, &settings);
    for method in [&b"GET"[..], b"HEAD", b"POST"] {
        let request = Open {
            method,
            scheme: Some(b"http"),
            authority: Some(b"a"),
            path: Some(b"/"),
            protocol: None,
            fields: &Fields::default(),
        };
        client.open(&request, method != b"POST");
    }
    feed(&mut client, &[&hello, data].concat(), cut);
}

fn feed(connection: &mut Connection, data: &[u8], cut: usize) {
    let cx = Context::from_waker(Waker::noop());
    let mut input = BytesMut::new();
    for piece in data.chunks(cut) {
        input.extend_from_slice(piece);
        let alive = connection.recv(&mut input).is_ok();
        while let Some((key, _)) = connection.accept() {
            connection.send_head(key, &ResponseHead::new(200), false);
            let _ = connection.poll_data(key, &cx);
            connection.release(key, 1000);
            connection.send_data(key, Bytes::from_static(&[0; 3000]), true);
            connection.drop_receiver(key);
            connection.drop_sender(key);
        }
        if !alive {
            break;
        }
    }
    let waiting = connection.output().len();
    connection.written(waiting);
}
