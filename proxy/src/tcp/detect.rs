//! What a connection carries, without being told and without a stall.
//!
//! A client that speaks first says it itself. In some protocols (MySQL, SMTP, SSH) it waits for
//! the server: so after a short grace an endpoint is dialled while the client is waited for, and
//! whoever speaks first decides. Nothing of what an endpoint says is read here.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::classify::{MAX_FIRST, Verdict, classify, settle};
use crate::splice::read_some;
use crate::stream::Stream;

/// How long a client that says nothing is waited for before an endpoint is dialled: a client that
/// speaks first has its first bytes right behind its handshake.
pub(crate) const GRACE: Duration = Duration::from_millis(5);

/// What a connection carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// The client spoke first, and this is what.
    Client(Verdict),
    /// The endpoint spoke first, or ended: a stream of bytes, to be passed through.
    Server,
    /// Neither spoke in time: a stream of bytes as well.
    Silence,
}

/// A connection of which is known what it carries.
#[derive(Debug)]
pub(crate) struct Detected<U> {
    pub(crate) carries: Carries,
    /// Bytes of the client that were read; the first of the stream.
    pub(crate) first: Vec<u8>,
    /// The endpoint, when it was dialled already. With HTTP it need not be used.
    pub(crate) upstream: Option<(Stream, U)>,
}

/// Why there is nothing to serve.
#[derive(Debug)]
pub(crate) enum Undetected<E> {
    /// The client ended or failed before it was clear what it wants.
    Client(Option<io::Error>),
    /// No endpoint took a connection while the client was silent. Waiting on would leave a client
    /// that waits for its server to wait for ever.
    Dial(E),
}

/// Bounds of detection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Before an endpoint is dialled.
    pub(crate) grace: Duration,
    /// Until the first bytes must tell what they are; they are taken for what they can be then.
    pub(crate) deadline: Duration,
}

/// Finds out what a connection carries. `dial` is polled only once the grace is over; when the
/// client's bytes (`first` were read already) are no HTTP it is awaited, when they are it is dropped unless it is done.
pub(crate) async fn detect<U, E>(
    client: &TcpStream,
    patience: Patience,
    mut first: Vec<u8>,
    dial: impl Future<Output = Result<(Stream, U), E>>,
) -> Result<Detected<U>, Undetected<E>> {
    let start = Instant::now();
    let deadline = start + patience.deadline;
    if !first.is_empty() {
        match classify(&first) {
            Verdict::NeedMore => {}
            verdict => {
                return Ok(Detected { carries: Carries::Client(verdict), first, upstream: None });
            }
        }
    }
    let grace = deadline.min(start + patience.grace);
    // A client whose bytes have begun is not one that waits: those who are slow are worth a dial.
    match timeout_at(grace, client_speaks(client, &mut first)).await {
        Ok(spoken) => {
            let carries = Carries::Client(spoken.map_err(Undetected::Client)?);
            return Ok(Detected { carries, first, upstream: None });
        }
        Err(_elapsed) => {}
    }
    let mut dial = pin!(dial);
    let (carries, upstream) = {
        let mut speaks = pin!(client_speaks(client, &mut first));
        let mut over = pin!(sleep_until(deadline));
        let mut upstream = None;
        poll_fn(|cx| {
            if let Poll::Ready(spoken) = speaks.as_mut().poll(cx) {
                let verdict = spoken.map_err(Undetected::Client)?;
                return Poll::Ready(Ok((Carries::Client(verdict), upstream.take())));
            }
            if upstream.is_none()
                && let Poll::Ready(dialled) = dial.as_mut().poll(cx)
            {
                upstream = Some(dialled.map_err(Undetected::Dial)?);
            }
            if upstream.as_mut().is_some_and(|(stream, _)| stream.poll_spoken(cx).is_ready()) {
                return Poll::Ready(Ok((Carries::Server, upstream.take())));
            }
            over.as_mut().poll(cx).map(|()| Ok((Carries::Silence, upstream.take())))
        })
        .await?
    };
    let carries = match carries {
        Carries::Silence if !first.is_empty() => Carries::Client(settle(&first)),
        carries => carries,
    };
    let is_http = matches!(carries, Carries::Client(Verdict::Http1 | Verdict::Http2));
    let upstream = match upstream {
        // Under way, and needed.
        None if !is_http => Some(dial.await.map_err(Undetected::Dial)?),
        upstream => upstream,
    };
    Ok(Detected { carries, first, upstream })
}

/// Reads until the verdict is certain. What was read stays in `first` if this is dropped.
async fn client_speaks(
    client: &TcpStream,
    first: &mut Vec<u8>,
) -> Result<Verdict, Option<io::Error>> {
    loop {
        client.readable().await.map_err(Some)?;
        match read_some(client, first, MAX_FIRST - first.len()) {
            Ok(0) if first.is_empty() => return Err(None),
            // It may still listen; what it said is all there is to judge by.
            Ok(0) => return Ok(settle(first)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(Some(error)),
        }
        match classify(first) {
            Verdict::NeedMore => {}
            verdict => return Ok(verdict),
        }
    }
}

#[cfg(test)]
mod tests;
