//! Connections of clients: accepted up to a limit, over TLS if so set, and what is known of the
//! other end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use portolan_runtime::Lifecycle;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::tls::{ServerTls, identities};
use crate::metrics::ServerMetrics;

/// Connections that are accepted and not yet served.
const WAITING: usize = 64;
/// Longest time for a TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Pause after the system refused to accept.
const AFTER_ERROR: Duration = Duration::from_millis(50);

/// A connection, for as long as it is served.
#[derive(Debug)]
pub(super) struct Connection {
    io: Io,
    remote: Remote,
    /// Until when it may be without a stream; `None` once it had one.
    unused: Option<Pin<Box<Sleep>>>,
    metrics: ServerMetrics,
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) address: SocketAddr,
    /// Whether it came by the way that is for this process alone.
    pub(super) internal: bool,
    /// Whether what is said is encrypted.
    pub(super) encrypted: bool,
    /// The URIs its certificate is for; empty without one.
    pub(super) identities: Arc<[String]>,
    /// Whether it has opened a stream. A connection that never does is closed: idle ones would
    /// take the places of others.
    used: Arc<AtomicBool>,
}

/// Accepts connections.
pub(super) struct Acceptor {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<ServerTls>,
    /// Whether it is the way that is for this process alone.
    pub(super) internal: bool,
    /// Connections open at once.
    pub(super) limit: usize,
    /// How long a peer may be silent before the system asks whether it is there, and how long it
    /// may be without a first stream.
    pub(super) keepalive: Duration,
    pub(super) metrics: ServerMetrics,
}

impl Acceptor {
    /// Accepts until draining. One over the limit is closed at once.
    pub(super) async fn run(
        self,
        accepted: mpsc::Sender<io::Result<Connection>>,
        lifecycle: Lifecycle,
    ) {
        let places = Arc::new(Semaphore::new(self.limit));
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.try_join_next().is_some() {}
            let (tcp, address) = tokio::select! {
                connection = self.listener.accept() => match connection {
                    Ok(connection) => connection,
                    Err(error) => {
                        // Out of descriptors, or a peer that is gone already.
                        tracing::debug!(%error, "xDS connection not accepted");
                        sleep(AFTER_ERROR).await;
                        continue;
                    }
                },
                () = lifecycle.draining() => return,
            };
            let Ok(place) = places.clone().try_acquire_owned() else {
                self.metrics.connections_refused.inc();
                continue;
            };
            self.prepare(&tcp);
            let (tls, accepted) = (self.tls.clone(), accepted.clone());
            let (metrics, internal, limit) = (self.metrics.clone(), self.internal, self.keepalive);
            handshakes.spawn(async move {
                match establish(tcp, address, tls).await {
                    Ok((io, remote)) => {
                        let remote = Remote { internal, ..remote };
                        let unused = Some(Box::pin(sleep(limit)));
                        let connection = Connection { io, remote, unused, metrics, _place: place };
                        // Nobody takes it once the server is gone.
                        let _gone = accepted.send(Ok(connection)).await;
                    }
                    Err(error) => {
                        metrics.handshakes_failed.inc();
                        tracing::debug!(%address, %error, "xDS handshake failed");
                    }
                }
            });
        }
    }

    fn prepare(&self, tcp: &TcpStream) {
        let keepalive = TcpKeepalive::new().with_time(self.keepalive).with_interval(self.keepalive);
        let set =
            tcp.set_nodelay(true).and_then(|()| SockRef::from(tcp).set_tcp_keepalive(&keepalive));
        if let Err(error) = set {
            tracing::debug!(%error, "options of an xDS connection");
        }
    }
}

/// How many connections may wait to be served.
pub(super) fn channel()
-> (mpsc::Sender<io::Result<Connection>>, mpsc::Receiver<io::Result<Connection>>) {
    mpsc::channel(WAITING)
}

async fn establish(
    tcp: TcpStream,
    address: SocketAddr,
    tls: Option<ServerTls>,
) -> io::Result<(Io, Remote)> {
    let Some(tls) = tls else {
        return Ok((Io::Plain(tcp), Remote::new(address, false, Arc::from([]))));
    };
    let handshake = timeout(HANDSHAKE_LIMIT, tls.acceptor().accept(tcp));
    let stream = handshake.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let identities = identities(certificates).into();
    Ok((Io::Tls(Box::new(stream)), Remote::new(address, true, identities)))
}

impl Remote {
    fn new(address: SocketAddr, encrypted: bool, identities: Arc<[String]>) -> Self {
        Self { address, internal: false, encrypted, identities, used: Arc::default() }
    }
}

/// Notes that a connection has opened a stream, of whatever service.
pub(super) fn note_use(request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
    if let Some(remote) = request.extensions().get::<Remote>() {
        remote.used.store(true, Ordering::Relaxed);
    }
    Ok(request)
}

impl Connection {
    /// An error once it had its time and opened no stream.
    fn check_used(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(limit) = &mut self.unused else { return Ok(()) };
        if self.remote.used.load(Ordering::Relaxed) {
            self.unused = None;
        } else if limit.as_mut().poll(cx).is_ready() {
            self.metrics.connections_unused.inc();
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl Connected for Connection {
    type ConnectInfo = Remote;

    fn connect_info(&self) -> Remote {
        self.remote.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.check_used(cx)?;
        match &mut this.io {
            Io::Plain(io) => Pin::new(io).poll_read(cx, buffer),
            Io::Tls(io) => Pin::new(io).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Io::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_flush(cx),
            Io::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Io::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().io {
            Io::Plain(io) => Pin::new(io).poll_write_vectored(cx, bytes),
            Io::Tls(io) => Pin::new(io).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(io) => io.is_write_vectored(),
            Io::Tls(io) => io.is_write_vectored(),
        }
    }
}
