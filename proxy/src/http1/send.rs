//! Writing messages to a socket: heads, then bodies in whatever framing the head announced.
//!
//! Heads and small pieces are copied together, large pieces are written from where they are, and
//! one flush is one system call unless the peer takes less. Nothing is queued behind a large piece:
//! whoever writes flushes before the next one, which is what carries back-pressure.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::framing::Length;
use crate::message::{Fields, Known, RequestHead, ResponseHead, decimal};
use crate::stream::WriteHalf;

/// A piece up to this size is copied behind what is queued already.
const SMALL: usize = 4 * 1024;

/// What is to be written, and how the body is framed.
#[derive(Debug)]
pub(crate) struct Output {
    queue: Vec<u8>,
    at: usize,
    /// A piece too large to copy; goes after the queue.
    data: Bytes,
    /// Goes after the piece.
    end: &'static [u8],
    body: Length,
    /// Some of the request was taken by the system.
    written: bool,
    /// What was taken may be on its way yet (TLS keeps what the system does not take).
    kept: bool,
}

/// One direction of a connection while a message is written to it.
#[derive(Debug)]
pub(crate) struct Sending<'a> {
    writer: WriteHalf<'a>,
    output: &'a mut Output,
}

impl Default for Output {
    fn default() -> Self {
        Self {
            queue: Vec::new(),
            at: 0,
            data: Bytes::new(),
            end: b"",
            body: Length::None,
            written: false,
            kept: false,
        }
    }
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.queue.len() && self.data.is_empty() && self.end.is_empty() && !self.kept
    }

    fn make_room(&mut self) {
        if self.queue.capacity() == 0 {
            self.queue = super::room::take();
        }
    }

    fn field(&mut self, name: &[u8], value: &[u8]) {
        self.queue.extend_from_slice(name);
        self.queue.extend_from_slice(b": ");
        self.queue.extend_from_slice(value);
        self.queue.extend_from_slice(b"\r\n");
    }

    fn fields(&mut self, fields: &Fields) {
        fields.iter().for_each(|field| self.field(field.name, field.value));
    }

    /// Says how long the body is, unless the fields do, and ends the head.
    fn end_head(&mut self, fields: &Fields, length: Length, says_empty: bool) {
        match length {
            Length::Chunked => self.queue.extend_from_slice(b"transfer-encoding: chunked\r\n"),
            Length::Known(n) if !fields.contains(Known::ContentLength) => {
                self.queue.extend_from_slice(b"content-length: ");
                decimal(&mut self.queue, n);
                self.queue.extend_from_slice(b"\r\n");
            }
            Length::None if says_empty && !fields.contains(Known::ContentLength) => {
                self.queue.extend_from_slice(b"content-length: 0\r\n");
            }
            Length::None | Length::Known(_) | Length::Close => {}
        }
        self.queue.extend_from_slice(b"\r\n");
        self.body = length;
    }

    fn poll_flush(
        &mut self,
        writer: &mut WriteHalf<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.at < self.queue.len() || !self.data.is_empty() || !self.end.is_empty() {
            let queue = &self.queue[self.at..];
            let mut writer = Pin::new(&mut *writer);
            let written = if self.data.is_empty() && self.end.is_empty() {
                writer.poll_write(cx, queue)
            } else {
                let slices =
                    [IoSlice::new(queue), IoSlice::new(&self.data), IoSlice::new(self.end)];
                let first = usize::from(queue.is_empty());
                writer.as_mut().poll_write_vectored(cx, &slices[first..])
            };
            let n = ready!(written)?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written = true;
            self.kept = true;
            self.advance(n);
        }
        ready!(Pin::new(writer).poll_flush(cx))?;
        self.kept = false;
        // Nothing is held for a connection that waits.
        self.queue.clear();
        super::room::give(std::mem::take(&mut self.queue));
        self.at = 0;
        self.data = Bytes::new();
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, n: usize) {
        let queued = n.min(self.queue.len() - self.at);
        self.at += queued;
        let data = (n - queued).min(self.data.len());
        self.data.advance(data);
        let end = (n - queued - data).min(self.end.len());
        self.end = &self.end[end..];
    }
}

impl<'a> Sending<'a> {
    pub(super) fn new(writer: WriteHalf<'a>, output: &'a mut Output) -> Self {
        Self { writer, output }
    }

    /// Queues the head of a request for a target, which need not be the head's own. `host`, `extra`
    /// and `length` stand for what the fields do not say: those hold neither Host nor
    /// Transfer-Encoding.
    pub(crate) fn request(
        &mut self,
        head: &RequestHead,
        host: &[u8],
        target: &[u8],
        extra: &[(&[u8], &[u8])],
        length: Length,
    ) {
        let output = &mut *self.output;
        output.make_room();
        output.queue.extend_from_slice(head.method());
        output.queue.push(b' ');
        output.queue.extend_from_slice(if target.is_empty() { b"/" } else { target });
        output.queue.extend_from_slice(b" HTTP/1.1\r\n");
        output.written = false;
        output.field(b"host", host);
        extra.iter().for_each(|(name, value)| output.field(name, value));
        output.fields(&head.fields);
        let says_empty = matches!(head.method(), b"POST" | b"PUT" | b"PATCH");
        output.end_head(&head.fields, length, says_empty);
    }

    /// Queues the head of the response to a request; `bodiless`: whatever its length, no body
    /// follows (HEAD, 204, 304).
    pub(crate) fn response(&mut self, head: &ResponseHead, length: Length, bodiless: bool) {
        let output = &mut *self.output;
        output.make_room();
        output.queue.extend_from_slice(b"HTTP/1.1 ");
        decimal(&mut output.queue, u64::from(head.status));
        output.queue.push(b' ');
        let reason = http::StatusCode::from_u16(head.status).ok();
        let reason = reason.and_then(|status| status.canonical_reason()).unwrap_or_default();
        output.queue.extend_from_slice(reason.as_bytes());
        output.queue.extend_from_slice(b"\r\n");
        output.fields(&head.fields);
        let length = if bodiless { Length::None } else { length };
        output.end_head(&head.fields, length, !bodiless && head.status >= 200);
    }

    /// Queues a piece of the body.
    pub(crate) fn data(&mut self, data: Bytes) {
        let output = &mut *self.output;
        if data.is_empty() || output.body == Length::None {
            return;
        }
        let chunked = output.body == Length::Chunked;
        if chunked {
            hexadecimal(&mut output.queue, data.len());
            output.queue.extend_from_slice(b"\r\n");
        }
        if data.len() <= SMALL && output.data.is_empty() {
            output.queue.extend_from_slice(&data);
            if chunked {
                output.queue.extend_from_slice(b"\r\n");
            }
        } else {
            debug_assert!(output.data.is_empty(), "flushed before");
            output.data = data;
            output.end = if chunked { b"\r\n" } else { b"" };
        }
    }

    /// Queues a piece that is somewhere else, by copying it.
    pub(crate) fn copy(&mut self, data: &[u8]) {
        if data.len() <= 4 * SMALL && self.output.body != Length::Chunked {
            self.output.queue.extend_from_slice(data);
        } else {
            self.data(Bytes::copy_from_slice(data));
        }
    }

    /// Queues the end of the body.
    pub(crate) fn finish(&mut self, trailers: Option<&Fields>) {
        let output = &mut *self.output;
        if output.body == Length::Chunked && !output.data.is_empty() {
            debug_assert!(trailers.is_none(), "flushed before trailers");
            output.end = b"\r\n0\r\n\r\n";
        } else if output.body == Length::Chunked {
            output.queue.extend_from_slice(b"0\r\n");
            if let Some(trailers) = trailers {
                output.fields(trailers);
            }
            output.queue.extend_from_slice(b"\r\n");
        }
        output.body = Length::None;
    }

    /// What follows is a tunnel's.
    pub(crate) fn begin_tunnel(&mut self) {
        self.output.body = Length::Close;
    }

    /// The socket, for what goes past this engine; `None` while something is queued, or the body is
    /// framed by more than its length.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        let raw = matches!(self.output.body, Length::Known(_) | Length::Close);
        if raw && self.output.is_empty() { self.writer.socket() } else { None }
    }

    /// Whether a large piece waits: nothing more may be queued then.
    pub(crate) fn is_full(&self) -> bool {
        !self.output.data.is_empty() || self.output.queue.len() > 4 * SMALL
    }

    /// Whether any of the request was handed to the system.
    pub(crate) fn has_written(&self) -> bool {
        self.output.written
    }

    /// Writes all that is queued.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.output.poll_flush(&mut self.writer, cx)
    }

    /// Ends this direction of the connection.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

fn hexadecimal(into: &mut Vec<u8>, number: usize) {
    let width = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..width).rev() {
        let digit = u8::try_from((number >> (4 * place)) & 0xf).unwrap_or(0);
        into.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_zeros_before_them() {
        for number in [0_usize, 7, 15, 16, 255, 4096, 65_537, usize::MAX] {
            let (mut dec, mut hex) = (Vec::new(), Vec::new());
            decimal(&mut dec, u64::try_from(number).expect("64 bits"));
            hexadecimal(&mut hex, number);
            assert_eq!(dec, number.to_string().into_bytes());
            assert_eq!(hex, format!("{number:x}").into_bytes());
        }
    }
}
