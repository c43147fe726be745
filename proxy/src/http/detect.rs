//! Which HTTP version a connection speaks, by its first bytes (RFC 9113 §3.4).
//!
//! Owns the bytes it had to read to know, and gives them back first. The caller bounds the time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// What an HTTP/2 client with prior knowledge sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

pub(super) struct Detected {
    pub(super) version: Version,
    pub(super) io: Rewound,
}

/// A stream that begins with bytes already read from it.
pub(super) struct Rewound {
    start: [u8; PREFACE.len()],
    next: usize,
    end: usize,
    stream: TokioIo<TcpStream>,
}

/// Reads until the version is certain. `None` when the connection ends or fails first, or is
/// silent when the listener closes.
pub(super) async fn detect(mut stream: TcpStream, closing: &CancellationToken) -> Option<Detected> {
    let mut start = [0; PREFACE.len()];
    let mut end = 0;
    let version = loop {
        let read = tokio::select! {
            biased;
            read = stream.read(&mut start[end..]) => read.ok()?,
            () = closing.cancelled(), if end == 0 => return None,
        };
        if read == 0 {
            return None;
        }
        end += read;
        if let Some(version) = version(&start[..end]) {
            break version;
        }
    };
    let io = Rewound { start, next: 0, end, stream: TokioIo::new(stream) };
    Some(Detected { version, io })
}

/// The version these first bytes tell; `None` while they are a part of the preface.
fn version(start: &[u8]) -> Option<Version> {
    if start == PREFACE {
        Some(Version::Http2)
    } else if PREFACE.starts_with(start) {
        None
    } else {
        Some(Version::Http1)
    }
}

impl Read for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.next == self.end {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let n = (self.end - self.next).min(buf.remaining());
        buf.put_slice(&self.start[self.next..self.next + n]);
        self.next += n;
        Poll::Ready(Ok(()))
    }
}

impl Write for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_certain_at_the_first_byte_that_differs() {
        for (start, expected) in [
            (&b"G"[..], Some(Version::Http1)),
            (b"P", None),
            (b"PO", Some(Version::Http1)),
            (b"PRI * HTTP/2.0\r\n", None),
            (b"PRI * HTTP/1.1\r\n", Some(Version::Http1)),
            (PREFACE, Some(Version::Http2)),
        ] {
            assert_eq!(version(start), expected, "{start:?}");
        }
    }
}
