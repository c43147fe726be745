//! Bodies on their way from one side to the other, whichever version each side speaks.
//!
//! Owns moving: a piece is taken from one side only when the other has taken the one before, and
//! that is all the back-pressure there is. Refuses to know why a message is sent.

pub(crate) mod copied;
mod download;
mod shared;
mod upload;

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::grpc_web::{Decoder, NotBase64};
use crate::http1::{self, Length};
use crate::http2;
use crate::message::Fields;

pub(crate) use download::Download;
pub(crate) use shared::Shared;
pub(crate) use upload::{LOOK, Source, Upload};

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("{0}")]
    Http1(#[from] http1::ReadError),
    #[error("{0}")]
    Http2(#[from] http2::StreamError),
    #[error("{0}")]
    Text(#[from] NotBase64),
}

/// Why a body could not be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("{0}")]
    Http1(#[from] io::Error),
    #[error("{0}")]
    Http2(#[from] http2::StreamError),
}

/// Which side of a body failed.
#[derive(Debug)]
pub(crate) enum PumpError {
    Read(ReadError),
    Write(WriteError),
}

/// A body to read.
pub(crate) enum Incoming<'a> {
    Http1(http1::Receiving<'a>),
    Http2(http2::RecvStream),
    /// What is read of another body.
    Copied(copied::Copied),
    /// What another body says in base64.
    OfText(Box<OfText<'a>>),
}

/// The body of a request of gRPC-Web in text.
pub(crate) struct OfText<'a> {
    text: Incoming<'a>,
    decoder: Decoder,
    /// Bytes of text that went on, and that the sender may send again.
    owed: usize,
}

/// A body to write.
pub(crate) enum Outgoing<'a> {
    Http1(http1::Sending<'a>),
    Http2(Http2Out),
    /// Nobody wants it: it is dropped.
    Nowhere,
}

/// A stream to write to, with what it has no room for yet.
pub(crate) struct Http2Out {
    pub(crate) stream: http2::SendStream,
    waiting: Bytes,
    /// The end goes with the last of what waits.
    end: bool,
    ended: bool,
}

impl<'a> Incoming<'a> {
    /// What this body says in base64.
    pub(crate) fn of_text(self) -> Self {
        Self::OfText(Box::new(OfText { text: self, decoder: Decoder::default(), owed: 0 }))
    }

    /// The connection that it comes by, if that is one of HTTP/1.1.
    fn http1(&self) -> Option<&http1::Receiving<'a>> {
        match self {
            Self::Http1(body) => Some(body),
            Self::OfText(body) => body.text.http1(),
            Self::Http2(_) | Self::Copied(_) => None,
        }
    }

    /// The next piece; `None` at the end.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, ReadError>> {
        match self {
            Self::Http1(body) => body.poll_data(cx).map_err(ReadError::Http1),
            Self::Http2(body) => body.poll_data(cx).map(|piece| Ok(piece.transpose()?)),
            Self::Copied(body) => body.poll_data(cx).map_err(ReadError::Http1),
            Self::OfText(body) => body.poll_data(cx),
        }
    }

    /// The whole of the rest, if it was read already.
    pub(crate) fn whole(&self) -> Option<&[u8]> {
        match self {
            Self::Http1(body) => body.whole(),
            Self::Http2(_) | Self::Copied(_) | Self::OfText(_) => None,
        }
    }

    pub(crate) fn skip_whole(&mut self) {
        if let Self::Http1(body) = self {
            body.skip_whole();
        }
    }

    /// A piece of so many bytes went on: the sender may send as much again.
    fn release(&mut self, n: usize) {
        match self {
            Self::Http2(body) => body.release(n),
            Self::OfText(body) => body.text.release(std::mem::take(&mut body.owed)),
            Self::Http1(_) | Self::Copied(_) => {}
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_over(),
            Self::Http2(body) => body.is_end(),
            Self::Copied(body) => body.is_over(),
            Self::OfText(body) => body.text.is_over(),
        }
    }

    pub(crate) fn length(&self) -> Length {
        match self {
            Self::Http1(body) => body.length(),
            Self::Http2(body) if body.is_end() => Length::None,
            Self::Http2(body) => body.content_length().map_or(Length::Chunked, |n| match n {
                0 => Length::Chunked,
                n => Length::Known(n),
            }),
            Self::Copied(body) => body.length(),
            Self::OfText(body) => match body.text.length() {
                Length::None => Length::None,
                _ => Length::Chunked,
            },
        }
    }

    fn take_trailers(&mut self) -> Option<Fields> {
        match self {
            Self::Http1(body) => body.take_trailers(),
            Self::Http2(body) => body.trailers(),
            Self::Copied(body) => body.take_trailers(),
            Self::OfText(body) => body.text.take_trailers(),
        }
    }

    /// Completes when the sender has gone away although the body is over. Over HTTP/2 it is the
    /// other direction that is told.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(body) => body.poll_gone(cx),
            Self::OfText(body) => body.text.poll_gone(cx),
            Self::Http2(_) | Self::Copied(_) => Poll::Pending,
        }
    }

    pub(crate) fn begin_tunnel(&mut self) {
        if let Self::Http1(body) = self {
            body.begin_tunnel();
        }
    }
}

impl OfText<'_> {
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, ReadError>> {
        loop {
            let Some(piece) = ready!(self.text.poll_data(cx))? else {
                self.decoder.end()?;
                return Poll::Ready(Ok(None));
            };
            self.owed += piece.len();
            let decoded = self.decoder.decode(&piece)?;
            if !decoded.is_empty() {
                return Poll::Ready(Ok(Some(decoded)));
            }
            self.text.release(std::mem::take(&mut self.owed));
        }
    }
}

impl Outgoing<'_> {
    /// Whether what is queued has to be flushed before there is room for more.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_full(),
            Self::Http2(body) => !body.waiting.is_empty(),
            Self::Nowhere => false,
        }
    }

    /// Queues a piece.
    pub(crate) fn data(&mut self, data: Bytes) {
        match self {
            Self::Http1(body) => body.data(data),
            Self::Http2(body) => body.waiting = data,
            Self::Nowhere => {}
        }
    }

    /// Queues a small piece that is somewhere else.
    pub(crate) fn copy(&mut self, data: &[u8]) {
        match self {
            Self::Http1(body) => body.copy(data),
            Self::Http2(body) => body.waiting = Bytes::copy_from_slice(data),
            Self::Nowhere => {}
        }
    }

    /// Queues the end.
    pub(crate) fn finish(&mut self, trailers: Option<&Fields>) {
        match self {
            Self::Http1(body) => body.finish(trailers),
            Self::Http2(body) => body.finish(trailers),
            Self::Nowhere => {}
        }
    }

    /// Hands everything to the system, or to the connection's driver.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        match self {
            Self::Http1(body) => body.poll_flush(cx).map_err(WriteError::Http1),
            Self::Http2(body) => body.poll_flush(cx).map_err(WriteError::Http2),
            Self::Nowhere => Poll::Ready(Ok(())),
        }
    }

    /// Completes when the receiver has refused the rest. Over HTTP/1.1 writing says so.
    pub(crate) fn poll_refused(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Http1(_) | Self::Nowhere => Poll::Pending,
            Self::Http2(body) => body.stream.poll_reset(cx).map(|_code| ()),
        }
    }

    pub(crate) fn begin_tunnel(&mut self) {
        if let Self::Http1(body) = self {
            body.begin_tunnel();
        }
    }

    /// Ends this direction of a tunnel.
    fn poll_end_tunnel(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WriteError>> {
        match self {
            Self::Http1(body) => body.poll_shutdown(cx).map_err(WriteError::Http1),
            Self::Http2(body) => {
                body.finish(None);
                body.poll_flush(cx).map_err(WriteError::Http2)
            }
            Self::Nowhere => Poll::Ready(Ok(())),
        }
    }
}

impl Http2Out {
    pub(crate) fn new(stream: http2::SendStream, ended: bool) -> Self {
        Self { stream, waiting: Bytes::new(), end: false, ended }
    }

    /// The head that was sent was all there is.
    pub(crate) fn set_ended(&mut self) {
        self.ended = true;
    }

    fn finish(&mut self, trailers: Option<&Fields>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        match trailers {
            Some(trailers) => self.stream.send_trailers(trailers),
            None if self.waiting.is_empty() => self.stream.finish(),
            None => self.end = true,
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), http2::StreamError>> {
        while !self.waiting.is_empty() {
            let room = ready!(self.stream.poll_capacity(cx, self.waiting.len()))?;
            let piece = self.waiting.split_to(room.min(self.waiting.len()));
            let end = self.end && self.waiting.is_empty();
            self.stream.send_data(piece, end);
        }
        Poll::Ready(Ok(()))
    }
}
