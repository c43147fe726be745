//! HTTP/1.1 connections to one endpoint.
//!
//! A connection has no task of its own: whoever uses it polls it, so a request takes no channel
//! hop between threads or tasks. Owns the idle ones, bounded in number (the caller's bound) and
//! age ([`Pool::sweep`]).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Cause, Failure};
use crate::http::body::RequestBody;

type Driver = http1::Connection<TokioIo<TcpStream>, RequestBody>;

/// A connection that can take a request.
pub(crate) struct Connection {
    sender: http1::SendRequest<RequestBody>,
    /// `None` once the connection has ended.
    driver: Option<Driver>,
}

/// Idle connections, the one used last first.
#[derive(Default)]
pub(crate) struct Pool(RefCell<VecDeque<Idle>>);

struct Idle {
    connection: Connection,
    since: Instant,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pool").field(&self.0.borrow().len()).finish()
    }
}

impl Pool {
    /// An idle connection that is still open as far as can be known; closed ones are dropped on
    /// the way.
    pub(crate) fn take(&self) -> Option<Connection> {
        loop {
            let mut idle = self.0.borrow_mut().pop_back()?;
            if idle.connection.is_usable() {
                return Some(idle.connection);
            }
        }
    }

    /// Keeps a connection unless `max` are kept already; says whether it did.
    pub(crate) fn put(&self, connection: Connection, max: usize) -> bool {
        let mut pool = self.0.borrow_mut();
        let room = pool.len() < max;
        if room {
            pool.push_back(Idle { connection, since: Instant::now() });
        }
        room
    }

    /// Drops what has been idle for longer than `timeout`, and what the endpoint closed.
    pub(crate) fn sweep(&self, timeout: Duration) {
        let now = Instant::now();
        self.0.borrow_mut().retain_mut(|idle| {
            now.duration_since(idle.since) < timeout && idle.connection.is_usable()
        });
    }

    pub(crate) fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

impl Connection {
    /// Speaks HTTP/1.1 on a fresh stream.
    pub(crate) async fn start(stream: TcpStream, max_header_bytes: usize) -> Result<Self, Failure> {
        let (sender, driver) = http1::Builder::new()
            .max_header_size(max_header_bytes)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| Failure { cause: Cause::Connect, detail: error.to_string() })?;
        Ok(Self { sender, driver: Some(driver) })
    }

    /// Sends a request and returns with the head of its response. The connection comes along: it
    /// carries the rest of both bodies.
    pub(crate) async fn exchange(
        mut self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Self), (hyper::Error, bool)> {
        let mut response = pin!(self.sender.try_send_request(request));
        let result = poll_fn(|cx| {
            drive(&mut self.driver, cx);
            // A driver that ended has answered the sender: this is ready then.
            response.as_mut().poll(cx)
        })
        .await;
        match result {
            Ok(response) => Ok((response, self)),
            Err(mut error) => {
                let recovered = error.take_message().is_some();
                Err((error.into_error(), recovered))
            }
        }
    }

    /// Moves bytes both ways. Returns whether the connection is still open.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        drive(&mut self.driver, cx);
        self.driver.is_some()
    }

    /// Whether request and response are over and another request can be sent.
    pub(crate) fn is_ready(&mut self, cx: &mut Context<'_>) -> bool {
        self.drive(cx) && matches!(self.sender.poll_ready(cx), Poll::Ready(Ok(())))
    }

    /// The same, without anyone to wake.
    pub(crate) fn is_usable(&mut self) -> bool {
        self.is_ready(&mut Context::from_waker(Waker::noop()))
    }
}

fn drive(driver: &mut Option<Driver>, cx: &mut Context<'_>) {
    if let Some(open) = driver
        && Pin::new(open).poll(cx).is_ready()
    {
        // Dropped at once: a request still queued in it goes back to its sender. Its error, if
        // any, was given to the request it belongs to, or there is none to tell.
        *driver = None;
    }
}
