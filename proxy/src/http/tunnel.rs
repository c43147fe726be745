//! Connections that stopped being HTTP: upgrades (RFC 9110 §7.8, RFC 8441) and CONNECT (§9.3.6).
//!
//! Bytes both ways, each direction ending by itself.

use std::future::poll_fn;
use std::task::Poll;

use portolan_model::traffic::Edits;

use super::account::Pulse;
use super::answering::Answering;
use super::body::{Download, Incoming, Outgoing, PumpError, Source, Upload};
use super::edits;
use super::exchange::Fail;
use super::forward::Ended;
use crate::http1;
use crate::message::ResponseHead;
use crate::stream::Stream;

/// Answers a CONNECT with the stream to an endpoint.
pub(super) async fn connect(
    stream: Stream,
    source: &mut Source<'_>,
    answer: &mut Answering<'_>,
    pulse: &Pulse,
    edits: Option<&Edits>,
) -> Result<(), Ended> {
    let mut connection = http1::Connection::new(stream, b"");
    let (mut receiving, sending) = connection.split();
    receiving.begin_tunnel();
    let mut head = ResponseHead::new(200);
    if let Some(edits) = edits {
        edits::apply(&edits.response, &mut head.fields);
    }
    answer.tunnel(&mut head, false);
    run(Incoming::Http1(receiving), Outgoing::Http1(sending), source, answer, pulse).await
}

/// Moves bytes until both directions have ended.
pub(super) async fn run(
    from: Incoming<'_>,
    mut to: Outgoing<'_>,
    source: &mut Source<'_>,
    answer: &mut Answering<'_>,
    pulse: &Pulse,
) -> Result<(), Ended> {
    pulse.begin_tunnel();
    source.begin_tunnel();
    to.begin_tunnel();
    let mut download = Download::tunnel(from);
    let mut upload = Upload::tunnel();
    let mut down = false;
    let ended = poll_fn(|cx| {
        let before = (download.bytes, source.bytes);
        if !down {
            match download.poll(cx, &mut answer.out) {
                Poll::Ready(Ok(())) => down = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {}
            }
        }
        let up = match upload.poll(cx, source, &mut to) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => false,
        };
        if before != (download.bytes, source.bytes) {
            pulse.sent(download.bytes);
        }
        if down && up { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    ended.await.map_err(|error: PumpError| {
        tracing::debug!(?error, "a tunnel ended early");
        Ended::Over(Fail::Client)
    })
}
