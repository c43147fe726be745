//! A connection as the engines see it: a socket, or TLS over one.
//!
//! Both directions are used side by side by one task. Where bytes may go past the engines, the socket
//! can be had; of TLS it cannot.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, tcp};
use tokio_rustls::TlsStream;

/// A connection.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    /// In a box: most connections are none.
    Tls(Box<RefCell<Secured>>),
}

/// TLS over a socket.
#[derive(Debug)]
pub(crate) struct Secured {
    stream: TlsStream<Prefixed>,
    /// What was read to learn whether there is something.
    ahead: Bytes,
}

/// The direction that is read.
#[derive(Debug)]
pub(crate) enum ReadHalf<'a> {
    Plain(tcp::ReadHalf<'a>),
    Tls(&'a RefCell<Secured>),
}

/// The direction that is written.
#[derive(Debug)]
pub(crate) enum WriteHalf<'a> {
    Plain(tcp::WriteHalf<'a>),
    Tls(&'a RefCell<Secured>),
}

/// A socket of which some bytes were read already.
#[derive(Debug)]
pub(crate) struct Prefixed {
    first: Bytes,
    pub(crate) socket: TcpStream,
}

impl Prefixed {
    pub(crate) fn new(socket: TcpStream, first: Vec<u8>) -> Self {
        Self { first: first.into(), socket }
    }
}

impl Stream {
    pub(crate) fn tls(stream: TlsStream<Prefixed>) -> Self {
        Self::Tls(Box::new(RefCell::new(Secured { stream, ahead: Bytes::new() })))
    }

    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Both directions.
    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Plain(socket) => {
                let (reader, writer) = socket.split();
                (ReadHalf::Plain(reader), WriteHalf::Plain(writer))
            }
            Self::Tls(stream) => (ReadHalf::Tls(stream), WriteHalf::Tls(stream)),
        }
    }

    /// Whether there may be something to read. Of TLS only reading tells.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Whether the peer has sent something, or ended, or failed.
    pub(crate) fn poll_spoken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let secured = match self {
            Self::Plain(socket) => return socket.poll_read_ready(cx).map(drop),
            Self::Tls(secured) => secured.get_mut(),
        };
        if secured.ahead.is_empty() {
            let mut some = [0; 1024];
            let mut buffer = ReadBuf::new(&mut some);
            // An end or a failure is met again by the next read.
            let _failed = ready!(Pin::new(&mut secured.stream).poll_read(cx, &mut buffer));
            secured.ahead = Bytes::copy_from_slice(buffer.filled());
        }
        Poll::Ready(())
    }

    /// Looks at the socket, whatever its bytes are.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&TcpStream) -> T) -> T {
        match self {
            Self::Plain(socket) => look(socket),
            Self::Tls(secured) => look(&secured.borrow().stream.get_ref().0.socket),
        }
    }

    /// The socket, for closing it.
    pub(crate) fn into_socket(self) -> TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(secured) => match secured.into_inner().stream {
                TlsStream::Server(stream) => stream.into_inner().0.socket,
                TlsStream::Client(stream) => stream.into_inner().0.socket,
            },
        }
    }
}

impl ReadHalf<'_> {
    /// Whether there may be something to read. Of TLS only reading tells.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(reader) => reader.as_ref().poll_read_ready(cx),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// The socket, where its bytes are those of the connection.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(reader) => Some(reader.as_ref()),
            Self::Tls(_) => None,
        }
    }

    /// Looks at the socket, whatever its bytes are.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&TcpStream) -> T) -> T {
        match self {
            Self::Plain(reader) => look(reader.as_ref()),
            Self::Tls(secured) => look(&secured.borrow().stream.get_ref().0.socket),
        }
    }
}

impl WriteHalf<'_> {
    /// The socket, where its bytes are those of the connection.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(writer) => Some(writer.as_ref()),
            Self::Tls(_) => None,
        }
    }
}

/// Has a pinned value polled, whichever it is.
macro_rules! either {
    ($value:expr, $name:ident, $poll:expr) => {
        match $value {
            Stream::Plain(socket) => {
                let $name = Pin::new(socket);
                $poll
            }
            Stream::Tls(secured) => {
                let $name = Pin::new(secured.get_mut());
                $poll
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self.get_mut(), io, io.poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), io, io.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self.get_mut(), io, io.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), io, io.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self.get_mut(), io, io.poll_shutdown(cx))
    }
}

impl AsyncRead for ReadHalf<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(reader) => Pin::new(reader).poll_read(cx, buf),
            Self::Tls(secured) => Pin::new(&mut *secured.borrow_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WriteHalf<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(writer) => Pin::new(writer).poll_write(cx, buf),
            Self::Tls(secured) => Pin::new(&mut *secured.borrow_mut()).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(writer) => Pin::new(writer).poll_write_vectored(cx, bufs),
            Self::Tls(secured) => {
                Pin::new(&mut *secured.borrow_mut()).poll_write_vectored(cx, bufs)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            // Nothing is kept back.
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(secured) => Pin::new(&mut *secured.borrow_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(writer) => Pin::new(writer).poll_shutdown(cx),
            Self::Tls(secured) => Pin::new(&mut *secured.borrow_mut()).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !take(&mut this.ahead, buf) {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// Moves what was read before; whether there was something.
fn take(ahead: &mut Bytes, buf: &mut ReadBuf<'_>) -> bool {
    let count = ahead.len().min(buf.remaining());
    buf.put_slice(&ahead[..count]);
    ahead.advance(count);
    count > 0
}

impl AsyncRead for Prefixed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !take(&mut this.first, buf) {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}
