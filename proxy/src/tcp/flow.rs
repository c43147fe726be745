//! Watching the bytes of a stream go by: counted as they move, and timed when they do not.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::metrics::Counter;

/// When bytes last moved, either way.
pub(super) struct Flow {
    last: Cell<Instant>,
    timeout: Duration,
}

/// The client's side of a stream.
pub(super) struct Watched<'a> {
    stream: &'a mut TcpStream,
    flow: &'a Flow,
    bytes_in: &'a Counter,
    bytes_out: &'a Counter,
}

impl Flow {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { last: Cell::new(Instant::now()), timeout }
    }

    pub(super) fn watch<'a>(
        &'a self,
        stream: &'a mut TcpStream,
        bytes_in: &'a Counter,
        bytes_out: &'a Counter,
    ) -> Watched<'a> {
        Watched { stream, flow: self, bytes_in, bytes_out }
    }

    /// Completes when no byte has moved for the timeout.
    pub(super) async fn idle(&self) {
        loop {
            let until = self.last.get() + self.timeout;
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    fn moved(&self, n: usize, counter: &Counter) {
        if n > 0 {
            self.last.set(Instant::now());
            counter.add(u64::try_from(n).unwrap_or(u64::MAX));
        }
    }
}

impl AsyncRead for Watched<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut *self.stream).poll_read(cx, buf);
        self.flow.moved(buf.filled().len() - before, self.bytes_in);
        polled
    }
}

impl AsyncWrite for Watched<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut *self.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = &polled {
            self.flow.moved(*n, self.bytes_out);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}
