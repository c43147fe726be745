//! Connections that stopped being HTTP: upgrades (RFC 9110 §7.8, RFC 8441) and CONNECT (§9.3.6).
//!
//! Bytes both ways, each direction ending by itself.

use std::future::poll_fn;
use std::task::Poll;

use portolan_model::traffic::Edits;

use super::Client;
use super::account::Pulse;
use super::answering::Answering;
use super::asked::Asked;
use super::body::{Download, Incoming, Outgoing, PumpError, Source, Upload};
use super::edits;
use super::exchange::{Fail, Meta};
use super::local::{Local, Reason};
use super::retrying::Ended;
use crate::http1;
use crate::message::{Known, RequestHead, ResponseHead};
use crate::stream::Stream;

/// What a client that asks for a tunnel gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tunnel {
    /// The endpoint is asked to switch protocols (RFC 9110 §7.8), or the stream is an extended
    /// CONNECT that means the same (RFC 8441).
    Upgrade,
    /// Bytes to the endpoint as they are (RFC 9110 §9.3.6).
    Connect,
}

/// Whether the request asks for a tunnel, and may have one.
pub(super) fn asked_for(
    client: &Client,
    head: &RequestHead,
    meta: Meta,
    asked: &Asked,
) -> Result<Option<Tunnel>, Local> {
    let allowed = |protocol: &[u8]| {
        protocol.eq_ignore_ascii_case(b"websocket")
            || client.options().upgrades.iter().any(|u| u.as_bytes().eq_ignore_ascii_case(protocol))
    };
    let connect = head.method() == b"CONNECT";
    let protocol = match (head.protocol(), meta.upgrade) {
        (Some(protocol), _) if connect => protocol,
        (_, true) if !connect => head.fields.get(Known::Upgrade).unwrap_or_default(),
        _ if connect && allowed(b"connect") => return Ok(Some(Tunnel::Connect)),
        _ if connect => return Err(Local::new(Reason::Method, "CONNECT is not served")),
        _ => return Ok(None),
    };
    if allowed(protocol) {
        return Ok(Some(Tunnel::Upgrade));
    }
    // RFC 9110 §7.8: an offer to change may be passed over; h2c is offered by clients that can do
    // without.
    if protocol.eq_ignore_ascii_case(b"h2c") {
        return Ok(None);
    }
    let to = String::from_utf8_lossy(protocol);
    let detail = format!("{}: upgrade to {to} is not served", asked.lower());
    Err(Local::new(Reason::Upgrade, detail))
}

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
