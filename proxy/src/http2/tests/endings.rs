//! A peer that takes nothing any more is heard out: what it said before may still be under way.

use std::cell::Cell;
use std::io::{Error as IoError, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::spawn_local;

use super::super::*;
use super::selfmade::{head, local, open};
use crate::message::Fields;

/// A connection that the other side has reset, once `reset` says so.
struct Reset {
    io: DuplexStream,
    reset: Rc<Cell<bool>>,
}

impl AsyncRead for Reset {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<Result<(), IoError>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for Reset {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, IoError>> {
        if self.reset.get() {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), IoError>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

async fn after_a_reset(last_words: &[u8]) -> [StreamError; 2] {
    let (near, mut far) = tokio::io::duplex(64 << 10);
    let reset = Rc::<Cell<bool>>::default();
    let (client, run) = client(Reset { io: near, reset: reset.clone() }, &Settings::default());
    let running = spawn_local(run);
    far.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("settings");
    let fields = Fields::default();
    let (_send, mut before) = client.open(&open(b"GET", b"/", &fields), true).expect("room");
    tokio::time::sleep(Duration::from_millis(1)).await;
    reset.set(true);
    let (_send, mut after) = client.open(&open(b"POST", b"/", &fields), true).expect("room");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(client.open(&open(b"GET", b"/", &fields), true).is_err(), "nobody reads it");
    far.write_all(last_words).await.expect("last words");
    drop(far);
    let error = |head: Result<_, StreamError>| head.map(|_| ()).expect_err("no answer");
    let errors = [error(head(&mut before).await), error(head(&mut after).await)];
    running.await.expect("runs");
    errors
}

#[tokio::test(start_paused = true)]
async fn what_a_peer_did_not_process_is_told_apart_even_if_it_resets() {
    local(async {
        let goaway = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        let closed = StreamError::Connection(Error::Closed);
        assert_eq!(after_a_reset(&goaway).await, [closed, StreamError::GoneAway]);
        assert_eq!(after_a_reset(&[]).await, [closed; 2]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_after_a_reset_is_not_waited_for_without_end() {
    local(async {
        let (near, far) = tokio::io::duplex(64 << 10);
        let reset = Rc::new(Cell::new(true));
        let (client, run) = client(Reset { io: near, reset }, &Settings::default());
        let begin = tokio::time::Instant::now();
        run.await;
        assert!(client.failure().is_some());
        let limit = Settings::default().write_timeout;
        assert!(begin.elapsed() <= limit * 2, "{:?}", begin.elapsed());
        drop(far);
    })
    .await;
}
