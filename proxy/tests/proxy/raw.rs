//! Peers that speak in bytes: a client and backends that may say what no library would.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::kit::*;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Reset,
}

/// A message as it was on the wire.
#[derive(Clone, Debug, Default)]
pub(crate) struct Message {
    /// Start line and fields, without the empty line.
    pub(crate) head: String,
    /// The body without its framing.
    pub(crate) body: Vec<u8>,
    /// Trailer lines.
    pub(crate) trailers: String,
    /// Status codes of the interim answers before it.
    pub(crate) interim: Vec<u16>,
    /// It came to the end that its framing promised.
    pub(crate) whole: bool,
}

impl Message {
    pub(crate) fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|s| s.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn start(&self) -> &str {
        self.head.lines().next().unwrap_or("")
    }

    /// Every value of a field, in order.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        let named = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.trim()).collect()
    }

    pub(crate) fn field(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or("")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A socket and what was read of it and not taken.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    pub(crate) end: Option<End>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new(), end: None }
    }

    pub(crate) async fn connect(to: SocketAddr) -> Self {
        Self::new(TcpStream::connect(to).await.expect("accepted"))
    }

    /// Writes; whoever is gone shows when read from.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        soon("a write", self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    pub(crate) async fn half_close(&mut self) {
        let _gone = self.stream.shutdown().await;
    }

    /// Ends with a reset.
    pub(crate) fn reset(self) {
        self.stream.set_zero_linger().expect("a socket");
    }

    /// Reads something; false at the end.
    async fn more(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => self.end = Some(End::Closed),
            Ok(_) => return true,
            Err(_) => self.end = Some(End::Reset),
        }
        false
    }

    /// Takes exactly so many bytes, or what there is at the end.
    pub(crate) async fn take(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count && self.more().await {}
        let count = count.min(self.buffer.len());
        self.buffer.drain(..count).collect()
    }

    /// Takes through `needle`; all there is if it never comes.
    pub(crate) async fn through(&mut self, needle: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self.buffer.windows(needle.len()).position(|w| w == needle);
            if let Some(at) = found {
                return Some(self.buffer.drain(..at + needle.len()).collect());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// All until the end.
    pub(crate) async fn rest(&mut self) -> (String, End) {
        soon("the end of the connection", async { while self.more().await {} }).await;
        let text = String::from_utf8_lossy(&self.buffer).into_owned();
        self.buffer.clear();
        (text, self.end.unwrap_or(End::Closed))
    }

    async fn head(&mut self) -> Option<String> {
        let head = self.through(b"\r\n\r\n").await?;
        Some(String::from_utf8_lossy(&head[..head.len() - 4]).into_owned())
    }

    async fn chunked(&mut self, message: &mut Message) -> Option<()> {
        loop {
            let line = self.through(b"\r\n").await?;
            let text = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(text.trim_end(), 16).expect("a plain chunk size");
            if size == 0 {
                break;
            }
            let data = self.take(size).await;
            message.body.extend(&data);
            if data.len() < size || self.take(2).await != b"\r\n" {
                return None;
            }
        }
        loop {
            let line = self.through(b"\r\n").await?;
            if line == b"\r\n" {
                return Some(());
            }
            message.trailers.push_str(&String::from_utf8_lossy(&line));
        }
    }

    /// One request; `None` when the connection ends before one.
    pub(crate) async fn request(&mut self) -> Option<Message> {
        let mut message = Message { head: self.head().await?, ..Message::default() };
        let coded = message.field("transfer-encoding").eq_ignore_ascii_case("chunked");
        let length = message.field("content-length").parse().unwrap_or(0);
        if coded {
            message.whole = self.chunked(&mut message).await.is_some();
        } else {
            message.body = self.take(length).await;
            message.whole = message.body.len() == length;
        }
        Some(message)
    }

    /// One final answer to a request with this method; without a head, one of nothing.
    pub(crate) async fn answer(&mut self, method: &str) -> Message {
        soon("an answer", self.answer_inner(method)).await
    }

    async fn answer_inner(&mut self, method: &str) -> Message {
        let mut interim = Vec::new();
        let mut message = loop {
            let Some(head) = self.head().await else { return Message::default() };
            let message = Message { head, ..Message::default() };
            match message.status() {
                status @ (100 | 102..=199) => interim.push(status),
                _ => break message,
            }
        };
        message.interim = interim;
        if method == "HEAD" || matches!(message.status(), 101 | 204 | 304) {
            message.whole = true;
        } else if message.field("transfer-encoding").eq_ignore_ascii_case("chunked") {
            message.whole = self.chunked(&mut message).await.is_some();
        } else if let Ok(length) = message.field("content-length").parse() {
            message.body = self.take(length).await;
            message.whole = message.body.len() == length;
        } else {
            while self.more().await {}
            message.body = std::mem::take(&mut self.buffer);
            message.whole = self.end == Some(End::Closed);
        }
        message
    }
}

/// A server that does to each connection what a script does.
pub(crate) struct RawBackend {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl RawBackend {
    /// Gives `script` each connection and the number of those before it.
    pub(crate) async fn start<R: Future<Output = ()> + Send + 'static>(
        script: impl Fn(Wire, usize) -> R + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(loopback(0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let n = counted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(script(Wire::new(stream), n));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { address, connections, _tasks: tasks }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An HTTP/1.1 backend that records what it is sent and answers it with bytes.
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Message>>>,
    backend: RawBackend,
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

impl Tap {
    pub(crate) async fn ok() -> Self {
        Self::start(|_| OK.into()).await
    }

    pub(crate) async fn start(
        answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::<Mutex<Vec<Message>>>::default();
        let (record, answer) = (Arc::clone(&seen), Arc::new(answer));
        let backend = RawBackend::start(move |mut wire, _| {
            let (record, answer) = (Arc::clone(&record), Arc::clone(&answer));
            async move {
                while let Some(request) = wire.request().await {
                    let bytes = answer(&request);
                    let whole = request.whole;
                    record.lock().expect("not poisoned").push(request);
                    if !whole || !wire.send(bytes).await {
                        return;
                    }
                }
            }
        })
        .await;
        Self { address: backend.address, seen, backend }
    }

    /// What came, also what never came to its end.
    pub(crate) fn seen(&self) -> Vec<Message> {
        self.seen.lock().expect("not poisoned").clone()
    }

    pub(crate) fn whole(&self) -> Vec<Message> {
        self.seen().into_iter().filter(|m| m.whole).collect()
    }

    pub(crate) fn clear(&self) {
        self.seen.lock().expect("not poisoned").clear();
    }

    pub(crate) fn connections(&self) -> usize {
        self.backend.connections()
    }
}
