//! A response's body towards the client, long ones past the engines; also one direction of a tunnel.

use std::task::{Context, Poll, ready};

use super::super::grpc_web::{self, Form};
use super::super::passing;
use super::{Incoming, Outgoing, PumpError, WriteError};
use crate::http1;
use crate::message::Fields;
use crate::splice::{Broken, Pump};

/// Bytes to come from which a body goes from socket to socket.
const LONG: u64 = 128 * 1024;

/// Moves a response's body towards the client, or one direction of a tunnel.
pub(crate) struct Download<'a> {
    pub(crate) from: Incoming<'a>,
    held: usize,
    finished: bool,
    /// The body is over; its end, with the trailers, is still to be queued.
    ending: bool,
    /// Trailers are passed on.
    trailers: bool,
    tunnel: bool,
    /// The form of gRPC-Web in which it goes.
    web: Option<Form>,
    /// Moves what is left of a long body from socket to socket.
    pump: Option<Box<Pump>>,
    /// Bytes so far.
    pub(crate) bytes: u64,
    /// What the trailers, which are gone by then, said that somebody wants to know.
    pub(crate) seen: Option<Fields>,
}

/// Moves a long body past the engines, where both sides are sockets and its length is known: `None`
/// where that is not so, or not yet. Ready when all of it was moved; what was so far is added to
/// `bytes`.
fn long(
    pump: &mut Option<Box<Pump>>,
    from: &mut Incoming<'_>,
    to: &mut Outgoing<'_>,
    cx: &mut Context<'_>,
    bytes: &mut u64,
) -> Option<Poll<Result<(), PumpError>>> {
    let (Incoming::Http1(receiving), Outgoing::Http1(sending)) = (from, to) else { return None };
    let left = receiving.unread().filter(|left| pump.is_some() || *left >= LONG)?;
    let (from, sink) = (receiving.socket()?, sending.socket()?);
    let pump = pump.get_or_insert_with(|| Box::new(Pump::new(Some(left))));
    let before = pump.moved();
    let polled = pump.poll(cx, from, sink);
    let after = pump.moved();
    *bytes += after - before;
    Some(match polled {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) if after < left => {
            Poll::Ready(Err(PumpError::Read(http1::ReadError::Incomplete.into())))
        }
        Poll::Ready(Ok(())) => {
            receiving.on_moved(left);
            Poll::Ready(Ok(()))
        }
        Poll::Ready(Err(Broken::Source(error))) => {
            Poll::Ready(Err(PumpError::Read(http1::ReadError::Io(error).into())))
        }
        Poll::Ready(Err(Broken::Sink(error))) => {
            Poll::Ready(Err(PumpError::Write(WriteError::Http1(error))))
        }
    })
}

impl<'a> Download<'a> {
    pub(crate) fn new(from: Incoming<'a>, trailers: bool) -> Self {
        Self {
            from,
            held: 0,
            finished: false,
            ending: false,
            trailers,
            tunnel: false,
            web: None,
            pump: None,
            bytes: 0,
            seen: None,
        }
    }

    /// The same in a form of gRPC-Web, if there is one.
    pub(crate) fn in_form(self, web: Option<Form>) -> Self {
        Self { web, ..self }
    }

    pub(crate) fn tunnel(mut from: Incoming<'a>) -> Self {
        from.begin_tunnel();
        Self { tunnel: true, ..Self::new(from, false) }
    }

    /// Moves what can be moved; ready when all is written or one side failed. The head may be
    /// queued still: it goes out with the first piece.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Outgoing<'_>,
    ) -> Poll<Result<(), PumpError>> {
        if !self.finished
            && self.web.is_none()
            && let Some(whole) = self.from.whole()
        {
            self.bytes += u64::try_from(whole.len()).unwrap_or(0);
            to.copy(whole);
            self.from.skip_whole();
        }
        loop {
            if self.finished || to.is_full() {
                ready!(self.poll_flush(cx, to))?;
            }
            if self.finished {
                return if self.tunnel {
                    to.poll_end_tunnel(cx).map_err(PumpError::Write)
                } else {
                    Poll::Ready(Ok(()))
                };
            }
            if self.ending {
                to.finish(self.seen.as_ref());
                self.finished = true;
                continue;
            }
            if self.web.is_none()
                && let Some(moved) = long(&mut self.pump, &mut self.from, to, cx, &mut self.bytes)
            {
                ready!(moved)?;
                continue;
            }
            match self.from.poll_data(cx) {
                Poll::Pending => {
                    ready!(self.poll_flush(cx, to))?;
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Read(error))),
                Poll::Ready(Ok(Some(piece))) => {
                    self.held += piece.len();
                    let piece = match self.web {
                        Some(form) => grpc_web::encode(form, piece),
                        None => piece,
                    };
                    self.bytes += u64::try_from(piece.len()).unwrap_or(0);
                    to.data(piece);
                }
                Poll::Ready(Ok(None)) if self.tunnel => self.finished = true,
                Poll::Ready(Ok(None)) => {
                    self.seen = self.from.take_trailers();
                    self.seen.iter_mut().for_each(passing::trailers);
                    if let Some(form) = self.web {
                        to.data(grpc_web::trailers(form, self.seen.as_ref()));
                    }
                    self.ending = self.web.is_none() && self.trailers && self.seen.is_some();
                    if !self.ending {
                        to.finish(None);
                        self.finished = true;
                    }
                }
            }
        }
    }

    fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Outgoing<'_>,
    ) -> Poll<Result<(), PumpError>> {
        ready!(to.poll_flush(cx)).map_err(PumpError::Write)?;
        self.from.release(std::mem::take(&mut self.held));
        Poll::Ready(Ok(()))
    }
}
