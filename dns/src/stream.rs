//! TCP and TLS: framing, pipelining with answers in whatever order they come, a cap on connections
//! and on queries under way, idle timeout, drain (RFC 7766, RFC 7858).

use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use portolan_runtime::Lifecycle;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;

use crate::admission::{Admission, Admitted};
use crate::front::{Client, Front, Protocol, Quick};
use crate::metrics::Counters;
use crate::question::HEADER;

/// Octets read at once.
const READ: usize = 4096;
/// Answers are written out once they have grown to this many octets.
const WRITE: usize = 65_536;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a query may take to arrive on a stream of its own.
pub(crate) const READ_WAIT: Duration = Duration::from_secs(5);
/// Octets of a query on a stream of its own: none that makes sense is longer.
pub(crate) const QUERY_MAX: usize = 4096;
/// Pause after `accept` failed, so that a process out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all connections of one listener share.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) front: Arc<Front>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) idle_timeout: Duration,
    /// Queries of one connection that may be under way at once.
    pub(crate) max_pipelined: usize,
    pub(crate) protocol: Protocol,
}

/// What becomes of an accepted connection.
pub(crate) trait Serve: Send + Sync + 'static {
    /// Serves it to its end; the place among the connections is given up with `admitted`.
    fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        client: Client,
        lifecycle: Lifecycle,
        admitted: Admitted,
    ) -> impl Future<Output = ()> + Send;

    /// What its connections share.
    fn shared(&self) -> &Streams;
}

/// Plain TCP, or TLS over it.
pub(crate) struct Framed {
    pub(crate) streams: Streams,
    pub(crate) tls: Option<TlsAcceptor>,
}

/// What the octets read so far amount to.
#[derive(Debug, PartialEq, Eq)]
enum Frame<'a> {
    Message(&'a [u8]),
    Partial,
    /// Too short to be a message: the peer speaks something else.
    Garbage,
}

/// Accepts until the process drains, then waits for the connections to end.
pub(crate) async fn accept<S: Serve>(listener: TcpListener, serve: Arc<S>, lifecycle: Lifecycle) {
    let mut connections = JoinSet::new();
    let mut draining = pin!(lifecycle.draining());
    loop {
        tokio::select! {
            biased;
            () = &mut draining => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    // At the cap the new connection is closed: the old ones are being served.
                    let shared = serve.shared();
                    let client = shared.client(peer.ip());
                    let Some(admitted) = shared.admission.admit(client.address) else { continue };
                    let (serve, lifecycle) = (serve.clone(), lifecycle.clone());
                    connections.spawn(serve.serve(stream, client, lifecycle, admitted));
                }
                Err(error) => {
                    tracing::warn!(%error, "dns: accepting failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        log_panic(ended);
    }
}

impl Streams {
    /// A client of this listener.
    pub(crate) fn client(&self, address: IpAddr) -> Client {
        let (protocol, counters) = (self.protocol, self.counters.clone());
        Client { address: address.to_canonical(), protocol, counters }
    }
}

/// What a handshake came to; `None` when it took too long, or the process drains.
pub(crate) async fn handshake<T>(
    handshake: impl Future<Output = T>,
    lifecycle: &Lifecycle,
) -> Option<T> {
    tokio::select! {
        done = timeout(HANDSHAKE, handshake) => done.ok(),
        () = lifecycle.draining() => None,
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a dns connection panicked");
    }
}

impl Serve for Framed {
    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        client: Client,
        lifecycle: Lifecycle,
        admitted: Admitted,
    ) {
        // Answers are written whole: waiting to merge them only adds latency.
        let _delayed_at_worst = stream.set_nodelay(true);
        // A peer that went away, or knows no TLS, is no concern of ours.
        let _peer_gone = match &self.tls {
            None => connection(stream, &self.streams, &client, &lifecycle).await,
            Some(tls) => match handshake(tls.accept(stream), &lifecycle).await {
                Some(Ok(stream)) => connection(stream, &self.streams, &client, &lifecycle).await,
                Some(Err(error)) => Err(error),
                None => return,
            },
        };
        drop(admitted);
    }

    fn shared(&self) -> &Streams {
        &self.streams
    }
}

/// A connection's two directions and the queries under way.
struct Connection<'a, S> {
    stream: S,
    shared: &'a Streams,
    client: &'a Client,
    input: Vec<u8>,
    output: Vec<u8>,
    under_way: JoinSet<Option<Vec<u8>>>,
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    shared: &Streams,
    client: &Client,
    lifecycle: &Lifecycle,
) -> io::Result<()> {
    let mut connection = Connection {
        stream,
        shared,
        client,
        input: Vec::new(),
        output: Vec::new(),
        under_way: JoinSet::new(),
    };
    let mut draining = pin!(lifecycle.draining());
    connection.run(draining.as_mut()).await
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    async fn run(&mut self, mut draining: Pin<&mut impl Future<Output = ()>>) -> io::Result<()> {
        let mut deadline = Instant::now() + self.shared.idle_timeout;
        let mut reading = true;
        loop {
            let (messages, garbage) = self.answer_all().await?;
            // RFC 7766 §6.2.3: idle means without a query. Single octets do not count, so a peer
            // that sends them slowly gains nothing.
            if messages > 0 {
                deadline = Instant::now() + self.shared.idle_timeout;
            }
            reading &= !garbage;
            if !reading && self.under_way.is_empty() {
                return Ok(());
            }
            self.input.reserve(READ);
            let room = reading && self.under_way.len() < self.shared.max_pipelined;
            let idle = self.under_way.is_empty();
            tokio::select! {
                biased;
                Some(done) = self.under_way.join_next() => {
                    if let Ok(Some(answer)) = done {
                        put_frame(&mut self.output, &answer);
                    }
                    deadline = Instant::now() + self.shared.idle_timeout;
                }
                read = self.stream.read_buf(&mut self.input), if room => {
                    reading = read? > 0;
                }
                () = sleep_until(deadline), if idle => return Ok(()),
                () = &mut draining, if reading => reading = false,
            }
        }
    }

    /// Answers whole messages of the input while there is room for more; how many, and whether
    /// what follows is none. What takes longer goes into a task (RFC 7766 §6.2.1.1).
    async fn answer_all(&mut self) -> io::Result<(usize, bool)> {
        let (mut at, mut messages, mut garbage) = (0, 0, false);
        while self.under_way.len() < self.shared.max_pipelined {
            match next_frame(&self.input[at..]) {
                Frame::Message(message) => {
                    at += 2 + message.len();
                    messages += 1;
                    match self.shared.front.answer_quickly(message, self.client) {
                        Quick::Answer(answer) => put_frame(&mut self.output, &answer),
                        Quick::Nothing => {}
                        Quick::Slow => {
                            let (message, client) = (message.to_vec(), self.client.clone());
                            let front = self.shared.front.clone();
                            self.under_way
                                .spawn(async move { front.answer_slowly(&message, &client).await });
                        }
                    }
                    if self.output.len() >= WRITE {
                        self.write().await?;
                    }
                }
                Frame::Partial => break,
                Frame::Garbage => {
                    garbage = true;
                    break;
                }
            }
        }
        self.input.drain(..at);
        self.write().await?;
        Ok((messages, garbage))
    }

    async fn write(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        let writing = async {
            self.stream.write_all(&self.output).await?;
            self.stream.flush().await
        };
        timeout(self.shared.idle_timeout, writing).await.map_err(io::Error::from)??;
        self.output.clear();
        Ok(())
    }
}

/// RFC 1035 §4.2.2: two octets of length, then the message.
fn next_frame(bytes: &[u8]) -> Frame<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<2>() else { return Frame::Partial };
    let length = usize::from(u16::from_be_bytes(*length));
    if length < HEADER {
        return Frame::Garbage;
    }
    rest.get(..length).map_or(Frame::Partial, Frame::Message)
}

fn put_frame(output: &mut Vec<u8>, message: &[u8]) {
    let length = u16::try_from(message.len()).expect("both paths keep to 65,535 octets");
    output.extend_from_slice(&length.to_be_bytes());
    output.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_length_and_that_many_octets() {
        let message = [7; HEADER];
        let framed = [&[0, 12][..], &message].concat();
        for length in 0..framed.len() {
            assert_eq!(next_frame(&framed[..length]), Frame::Partial, "{length}");
        }
        assert_eq!(next_frame(&framed), Frame::Message(&message));
        assert_eq!(next_frame(&[0, 11, 1]), Frame::Garbage);
    }
}
