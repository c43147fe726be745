//! The server of one connection.

use std::future::{Future, poll_fn};
use std::pin::pin;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::{Connection, Counters, Role};
use super::driver::Driver;
use super::error::Error;
use super::handle::{RecvStream, SendStream, Shared};
use super::settings::Settings;
use crate::message::RequestHead;

/// A request and the two directions of its stream.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: RequestHead,
    pub(crate) body: RecvStream,
    pub(crate) respond: SendStream,
}

/// Serves a connection to its end. `prefix` are bytes read already; once `closing` is done the
/// connection takes no new requests and ends after the last. `on_request` is called within the
/// driver and should only start a task; so is `on_counted`, with what has happened so far.
///
/// # Errors
/// Why the connection did not end as it should. Every stream that was open has heard of it.
pub(crate) async fn serve_counted<S>(
    io: S,
    prefix: Bytes,
    settings: &Settings,
    closing: impl Future<Output = ()>,
    mut on_request: impl FnMut(Request),
    mut on_counted: impl FnMut(Counters),
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let shared = Shared::new(Connection::new(Role::Server, settings));
    let mut driver = Driver::new(io, shared.clone(), prefix);
    let mut dispatch = |shared: &std::rc::Rc<Shared>| {
        while let Some((key, head)) = shared.with(Connection::accept) {
            let body = RecvStream::new(shared.clone(), key);
            let respond = SendStream::new(shared.clone(), key);
            on_request(Request { head, body, respond });
        }
        on_counted(shared.look(Connection::counters));
    };
    let mut closing = pin!(closing);
    let mut closes = false;
    poll_fn(|cx| {
        if !closes && closing.as_mut().poll(cx).is_ready() {
            closes = true;
            shared.enter();
            shared.with(Connection::drain);
        }
        driver.poll(cx, &mut dispatch)
    })
    .await
}

/// The same for whoever does not count.
///
/// # Errors
/// As above.
#[cfg(test)]
pub(crate) async fn serve<S>(
    io: S,
    prefix: Bytes,
    settings: &Settings,
    closing: impl Future<Output = ()>,
    on_request: impl FnMut(Request),
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    serve_counted(io, prefix, settings, closing, on_request, |_| {}).await
}
