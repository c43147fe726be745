//! HTTP/1.1 (RFC 9112) over a socket, for both sides of the proxy.
//!
//! Owns reading and writing heads, bodies and chunks, strictly: what two readers could take for
//! different messages is refused. Owns no policy: who a message is for, what it carries onwards and
//! how long it may take are others'.

mod chunked;
mod framing;
mod head;
mod receive;
mod room;
mod send;
mod table;

#[cfg(test)]
mod tests;

use std::io;
use std::task::{Context, Poll};

pub(crate) use framing::{Length, Malformed, Request, tokens};
pub(crate) use receive::Receiving;
pub(crate) use send::Sending;

use receive::Input;
use send::Output;

use crate::message::{Fields, RequestHead, ResponseHead};
use crate::stream::Stream;

/// Why reading from a connection failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The connection failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It ended in the middle of a message.
    #[error("the connection ended in the middle of a message")]
    Incomplete,
    /// What was read is not HTTP/1.1.
    #[error("{0}")]
    Malformed(#[from] Malformed),
}

/// A connection with what was read and not used yet, and what is to be written.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Stream,
    input: Input,
    output: Output,
}

/// Bounds on what is read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of a head, or of a trailer section.
    pub(crate) head: usize,
    /// Fields of either.
    pub(crate) fields: usize,
}

impl Connection {
    /// A connection of which `read` was read already.
    pub(crate) fn new(stream: Stream, read: &[u8]) -> Self {
        Self { stream, input: Input::new(read), output: Output::default() }
    }

    /// The two directions, of which each has its own state.
    pub(crate) fn split(&mut self) -> (Receiving<'_>, Sending<'_>) {
        let (reader, writer) = self.stream.split();
        (Receiving::new(reader, &mut self.input), Sending::new(writer, &mut self.output))
    }

    /// Reads the head of the next request into `head`; `None` if the client ended in between.
    pub(crate) fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        limits: Limits,
        head: &mut RequestHead,
    ) -> Poll<Result<Option<Request>, ReadError>> {
        let (mut reader, _) = self.stream.split();
        self.input.poll_request(&mut reader, cx, limits, head)
    }

    /// Whether nothing of a message was read yet.
    pub(crate) fn is_between_messages(&self) -> bool {
        self.input.is_empty()
    }

    /// Whether the peer's last message was read to its end and nothing follows it.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.input.is_at_rest()
    }

    /// Whether the connection can take another message as far as is known without asking the
    /// system: it is open, nothing came unasked, and all was written.
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.is_at_rest() && self.output.is_empty() && !self.has_news()
    }

    /// Whether an end, an error or bytes are there that nobody asked for.
    fn has_news(&mut self) -> bool {
        let mut context = Context::from_waker(std::task::Waker::noop());
        if self.stream.poll_read_ready(&mut context).is_pending() {
            return false;
        }
        // Readiness may be left over from bytes that were read already.
        let (mut reader, _) = self.stream.split();
        !matches!(self.input.poll_fill(&mut reader, &mut context, 1), Poll::Pending)
    }

    /// Ends our direction and reads what the peer still sends, up to `most` bytes, so that closing
    /// does not reset what we wrote (RFC 9112 §9.6).
    pub(crate) async fn linger(&mut self, most: usize) {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        // Gone already: nothing is lost.
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let mut scratch = vec![0; 4096];
        let mut left = most;
        while left > 0 {
            match self.stream.read(&mut scratch).await {
                Ok(0) | Err(_) => return,
                Ok(n) => left = left.saturating_sub(n),
            }
        }
    }

    /// Says within TLS that nothing more comes (RFC 8446 §6.1): without that a client cannot tell the
    /// end from a cut (RFC 9112 §9.8). Where there is no TLS the end of the connection says it.
    pub(crate) async fn say_end(&mut self) {
        if self.stream.is_tls() {
            use tokio::io::AsyncWriteExt;
            // Gone already: nobody is left to be told.
            let _gone = self.stream.shutdown().await;
        }
    }

    /// The socket, for closing it.
    pub(crate) fn into_socket(self) -> tokio::net::TcpStream {
        self.stream.into_socket()
    }
}

/// Parses whatever is given as heads, chunks and trailers; for fuzzing.
pub(crate) fn fuzz(data: &[u8]) {
    let limits = Limits { head: 16 * 1024, fields: 64 };
    let mut head = RequestHead::default();
    if let Ok(Some((used, _))) = head::request(data, limits, &mut head) {
        assert!(used <= data.len());
    }
    let mut head = ResponseHead::default();
    if let Ok(Some((used, _))) = head::response(data, limits, b"GET", &mut head) {
        assert!(used <= data.len());
    }
    let mut fields = Fields::default();
    if let Ok(Some(used)) = head::trailers(data, limits, &mut fields) {
        assert!(used <= data.len());
    }
    let mut decoder = chunked::Decoder::default();
    let mut rest = data;
    while let Ok(step) = decoder.step(rest) {
        let used = match step {
            chunked::Step::Skip(n) | chunked::Step::Data(n) => n,
            chunked::Step::More | chunked::Step::Trailers => break,
        };
        assert!(used > 0 && used <= rest.len());
        rest = &rest[used..];
    }
}
