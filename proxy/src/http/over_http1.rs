//! A client's HTTP/1.1 connection: one request after another until one side has enough.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Client;
use super::account;
use super::answering::{Answering, Speaks};
use super::body::{Incoming, Outgoing};
use super::exchange::{self, Ended, Meta};
use super::local::{Local, Reason};
use super::timer::Timer;
use crate::http1::{Connection, Malformed, ReadError, Request};
use crate::message::RequestHead;
use crate::stream::Stream;
use crate::worker::accept::reset;

/// What a client may still send after the last response, and for how long, before its connection
/// is closed under it.
const LINGER: usize = 256 * 1024;
const LINGER_TIME: Duration = Duration::from_secs(2);

/// What waiting for a request comes to.
enum Next {
    Request(Request),
    /// The client ended, was silent for too long, or the listener closes.
    End,
    /// The head did not come in time.
    Late,
    Malformed(Malformed),
    Failed,
}

pub(super) async fn serve(client: Rc<Client>, stream: Stream, read: Bytes) {
    let mut connection = Connection::new(stream, &read);
    drop(read);
    let mut timer = Timer::default();
    let opened = Instant::now();
    let mut requests = 0_u32;
    loop {
        let mut head = RequestHead::default();
        match next(&client, &mut connection, &mut timer, &mut head, opened).await {
            Next::Request(request) => {
                requests = requests.saturating_add(1);
                let more = request.keep_alive && may_go_on(&client, opened, requests);
                // In a box of its own: a connection that waits holds none of it.
                let exchange = Box::pin(request_of(
                    &client,
                    &mut connection,
                    &mut timer,
                    &mut head,
                    request,
                    more,
                ));
                let ended = exchange.await;
                head.fields.recycle();
                match ended {
                    Ended::KeepAlive => {}
                    Ended::Close => return close(connection).await,
                    Ended::Abort => return reset(connection.into_socket()),
                }
            }
            Next::End => return close(connection).await,
            Next::Failed => return,
            Next::Late => {
                let local = Local::new(Reason::HeaderTimeout, "the request's head did not come");
                return refuse(&client, connection, &local).await;
            }
            Next::Malformed(malformed) => {
                let local = Local::new(reason(malformed), malformed.to_string());
                return refuse(&client, connection, &local).await;
            }
        }
    }
}

async fn request_of(
    client: &Client,
    connection: &mut Connection,
    timer: &mut Timer,
    head: &mut RequestHead,
    request: Request,
    keep_alive: bool,
) -> Ended {
    let (receiving, sending) = connection.split();
    let meta = Meta {
        speaks: if request.modern { Speaks::Http11 } else { Speaks::Http10 },
        keep_alive,
        upgrade: request.upgrade,
        trailers: request.trailers,
    };
    let (incoming, outgoing) = (Incoming::Http1(receiving), Outgoing::Http1(sending));
    exchange::run(client, timer, head, meta, incoming, outgoing).await
}

/// Whether the connection may take another request after this one.
fn may_go_on(client: &Client, opened: Instant, requests: u32) -> bool {
    let options = client.options();
    !client.origin.closing.is_cancelled()
        && options.max_requests.is_none_or(|most| requests < most)
        && options.max_age.is_none_or(|most| opened.elapsed() < most)
}

/// Waits for a request. While none of it has come the connection may be idle for a while; once it
/// begins it has a deadline.
async fn next(
    client: &Client,
    connection: &mut Connection,
    timer: &mut Timer,
    head: &mut RequestHead,
    opened: Instant,
) -> Next {
    let config = &client.origin.shared.config;
    let options = client.options();
    let limits = super::head_limits(config);
    let since = Instant::now();
    let idle_until = since + options.idle_timeout.unwrap_or(config.idle_timeout);
    let idle_until = options.max_age.map_or(idle_until, |age| idle_until.min(opened + age));
    let mut late_at = None;
    let mut grace = None;
    let mut closing = pin!(client.origin.closing.cancelled());
    poll_fn(|cx| {
        match connection.poll_request(cx, limits, head) {
            Poll::Ready(Ok(Some(request))) => return Poll::Ready(Next::Request(request)),
            Poll::Ready(Ok(None)) => return Poll::Ready(Next::End),
            Poll::Ready(Err(ReadError::Malformed(malformed))) => {
                return Poll::Ready(Next::Malformed(malformed));
            }
            Poll::Ready(Err(_)) => return Poll::Ready(Next::Failed),
            Poll::Pending => {}
        }
        if connection.is_between_messages() {
            if grace.is_some() || closing.as_mut().poll(cx).is_ready() {
                // A request may be on its way: it is answered, and told that it was the last.
                let until = *grace.get_or_insert_with(|| Instant::now() + super::GRACE);
                return timer.poll(cx, until.min(idle_until)).map(|()| Next::End);
            }
            return timer.poll(cx, idle_until).map(|()| Next::End);
        }
        let late = *late_at.get_or_insert_with(|| {
            Instant::now() + options.header_timeout.unwrap_or(config.header_timeout)
        });
        timer.poll(cx, late).map(|()| Next::Late)
    })
    .await
}

fn reason(malformed: Malformed) -> Reason {
    match malformed {
        Malformed::TooLarge | Malformed::TooManyFields => Reason::HeadTooLarge,
        Malformed::Version => Reason::Version,
        Malformed::TransferCoding => Reason::TransferCoding,
        _ => Reason::BadRequest,
    }
}

/// Answers what could not be read as a request, and closes.
async fn refuse(client: &Client, mut connection: Connection, local: &Local) {
    client.origin.count_local(local.reason);
    tracing::debug!(listener = %client.origin.listener.name, peer = %client.peer,
        reason = local.reason.as_str(), detail = local.detail, "refused a request");
    let (_, sending) = connection.split();
    let mut answer = Answering::new(Outgoing::Http1(sending), Speaks::Http11, false, false);
    answer.local(local, false, None);
    client.origin.metrics.count_response(answer.status);
    account::refused(client, answer.status, local.reason);
    let flushed = tokio::time::timeout(LINGER_TIME, poll_fn(|cx| answer.out.poll_flush(cx))).await;
    drop(answer);
    if matches!(flushed, Ok(Ok(()))) {
        close(connection).await;
    }
}

/// Closes so that the client can read what was written, even if it is still sending.
async fn close(mut connection: Connection) {
    if connection.is_at_rest() {
        let _elapsed = tokio::time::timeout(LINGER_TIME, connection.say_end()).await;
        return;
    }
    // Past the time it is closed under the client; it had its chance.
    let _elapsed = tokio::time::timeout(LINGER_TIME, connection.linger(LINGER)).await;
}
