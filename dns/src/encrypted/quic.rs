//! DNS over QUIC: a stream for each question (RFC 9250).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use portolan_runtime::Lifecycle;
use quinn::{Connection, Endpoint, Incoming, RecvStream, SendStream, VarInt};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admission::Admitted;
use crate::front::Client;
use crate::stream::{self, QUERY_MAX, READ_WAIT, Streams};

/// Error codes (RFC 9250 §4.3).
mod code {
    /// Nothing is wrong.
    pub(super) const NO_ERROR: u32 = 0;
    /// There will be no answer.
    pub(super) const INTERNAL_ERROR: u32 = 1;
    /// The client broke the protocol.
    pub(super) const PROTOCOL_ERROR: u32 = 2;
}

/// Octets of a stream that may come unread: more than a query has.
const STREAM_WINDOW: u32 = 8192;
/// How long to wait for connections to be told that the server goes.
const CLOSE: Duration = Duration::from_secs(1);

/// Serves until the process drains.
pub(crate) async fn serve(endpoint: Endpoint, shared: Arc<Streams>, lifecycle: Lifecycle) {
    let mut connections = JoinSet::new();
    let mut draining = pin!(lifecycle.draining());
    loop {
        tokio::select! {
            biased;
            () = &mut draining => break,
            Some(_ended) = connections.join_next() => {}
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { break };
                if !incoming.remote_address_validated() {
                    // RFC 9000 §8.1: a place is for an address that has shown it is one.
                    let _told_or_gone = incoming.retry();
                    continue;
                }
                let client = incoming.remote_address().ip().to_canonical();
                let Some(admitted) = shared.admission.admit(client) else {
                    incoming.refuse();
                    continue;
                };
                let (shared, lifecycle) = (shared.clone(), lifecycle.clone());
                connections.spawn(connection(incoming, shared, lifecycle, admitted));
            }
        }
    }
    while connections.join_next().await.is_some() {}
    endpoint.close(VarInt::from_u32(code::NO_ERROR), b"");
    let _untold = timeout(CLOSE, endpoint.wait_idle()).await;
}

/// The transport's bounds for one connection.
pub(crate) fn transport(max_pipelined: usize, idle: Duration) -> quinn::TransportConfig {
    let mut transport = quinn::TransportConfig::default();
    let streams = u32::try_from(max_pipelined).unwrap_or(u32::MAX);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(idle.try_into().ok())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW));
    transport
}

async fn connection(
    incoming: Incoming,
    shared: Arc<Streams>,
    lifecycle: Lifecycle,
    admitted: Admitted,
) {
    // A handshake that fails is the client's to notice.
    if let Some(Ok(connection)) = stream::handshake(incoming.into_future(), &lifecycle).await {
        streams(&connection, &shared, &lifecycle).await;
    }
    drop(admitted);
}

async fn streams(connection: &Connection, shared: &Arc<Streams>, lifecycle: &Lifecycle) {
    let client = shared.client(connection.remote_address().ip());
    let mut under_way = JoinSet::new();
    let idle = shared.idle_timeout;
    let mut draining = pin!(lifecycle.draining());
    loop {
        tokio::select! {
            biased;
            () = &mut draining => break,
            Some(done) = under_way.join_next() => {
                if let Ok(Err(Broken)) = done {
                    connection.close(VarInt::from_u32(code::PROTOCOL_ERROR), b"");
                    return;
                }
            }
            // A client that only keeps the connection alive asks for nothing.
            () = tokio::time::sleep(idle), if under_way.is_empty() => break,
            accepted = connection.accept_bi() => {
                let Ok((send, receive)) = accepted else { break };
                let (shared, client) = (shared.clone(), client.clone());
                under_way.spawn(async move { one(&shared, &client, send, receive).await });
            }
        }
    }
    while under_way.join_next().await.is_some() {}
    connection.close(VarInt::from_u32(code::NO_ERROR), b"");
}

/// The client broke the protocol.
struct Broken;

/// RFC 9250 §4.2: two octets of length and one message each way, then the end.
async fn one(
    shared: &Streams,
    client: &Client,
    mut send: SendStream,
    mut receive: RecvStream,
) -> Result<(), Broken> {
    let read = timeout(READ_WAIT, receive.read_to_end(2 + QUERY_MAX)).await;
    let Ok(Ok(bytes)) = read else { return Ok(()) };
    let Some((length, query)) = bytes.split_first_chunk::<2>() else { return Err(Broken) };
    // RFC 9250 §4.2.1: the id is zero on the wire.
    if usize::from(u16::from_be_bytes(*length)) != query.len() || query.get(..2) != Some(&[0, 0]) {
        return Err(Broken);
    }
    // What is denied an answer ends its stream alone.
    let Some(answer) = shared.front.answer(query, client).await else {
        let _already_gone = send.reset(VarInt::from_u32(code::INTERNAL_ERROR));
        return Ok(());
    };
    let length = u16::try_from(answer.len()).expect("both paths keep to 65,535 octets");
    let message = [&length.to_be_bytes()[..], &answer].concat();
    // A client that went away needs no answer.
    let written = timeout(shared.idle_timeout, send.write_all(&message)).await;
    if written.is_ok_and(|written| written.is_ok()) {
        let _already_reset = send.finish();
    }
    Ok(())
}
