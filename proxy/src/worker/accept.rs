//! The accept loop of one listener on one worker, and the owner of its connections.
//!
//! At `max_connections` one more connection is reset at once: a client that is told can go
//! elsewhere, one that waits in a backlog cannot.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::{AcceptProxy, Listener, ListenerKind};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::metrics::{Counter, ListenerMetrics};
use crate::{http, tcp};

/// Wait after the system failed to hand a connection over (no file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection needs to know of where it came in.
pub(crate) struct Origin {
    pub(crate) shared: Rc<Shared>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) metrics: Arc<ListenerMetrics>,
    /// The listener closes: finish what is in flight and end.
    pub(crate) closing: CancellationToken,
}

pub(crate) struct Acceptor {
    origin: Rc<Origin>,
    connections: JoinSet<()>,
    closed: CancellationToken,
}

impl Acceptor {
    pub(crate) fn new(
        shared: &Rc<Shared>,
        listener: Arc<Listener>,
        closing: CancellationToken,
        closed: CancellationToken,
    ) -> Self {
        let metrics = shared.metrics.listener(&listener.name);
        let origin = Rc::new(Origin { shared: Rc::clone(shared), listener, metrics, closing });
        Self { origin, connections: JoinSet::new(), closed }
    }

    /// Accepts until the listener closes, then waits for the connections to end.
    pub(crate) async fn run(mut self, socket: TcpListener) {
        // Whatever happens, nobody waits for this socket to close for ever.
        let closed = self.closed.clone().drop_guard();
        let closing = self.origin.closing.clone();
        loop {
            tokio::select! {
                biased;
                () = closing.cancelled() => break,
                Some(ended) = self.connections.join_next(), if !self.connections.is_empty() => {
                    self.on_ended(ended);
                }
                accepted = socket.accept() => match accepted {
                    Ok((stream, peer)) => self.on_accepted(stream, peer),
                    Err(error) => self.on_error(&error).await,
                }
            }
        }
        self.take_backlog(&socket);
        drop(socket);
        drop(closed);
        while let Some(ended) = self.connections.join_next().await {
            self.on_ended(ended);
        }
    }

    /// Connections the kernel has completed already would be reset by closing the socket.
    fn take_backlog(&mut self, socket: &TcpListener) {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        while let std::task::Poll::Ready(Ok((stream, peer))) = socket.poll_accept(&mut context) {
            self.on_accepted(stream, peer);
        }
    }

    fn on_accepted(&mut self, stream: TcpStream, peer: SocketAddr) {
        let origin = Rc::clone(&self.origin);
        if self.connections.len() >= origin.shared.config.max_connections {
            origin.metrics.refused.add(1);
            reset(stream);
            return;
        }
        if let Err(error) = stream.set_nodelay(true) {
            // The peer is gone already; reading will say so.
            tracing::debug!(%error, "no TCP_NODELAY");
        }
        origin.metrics.accepted.add(1);
        let active = Active::new(Arc::clone(&origin.metrics));
        self.connections.spawn_local(async move {
            let _active = active;
            serve(origin, stream, peer).await;
        });
    }

    async fn on_error(&self, error: &std::io::Error) {
        self.origin.shared.metrics.accept_errors.add(1);
        tracing::warn!(listener = %self.origin.listener.name, %error, "cannot accept");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    fn on_ended(&self, ended: Result<(), JoinError>) {
        if let Err(error) = ended {
            self.origin.shared.metrics.panics.add(1);
            tracing::error!(listener = %self.origin.listener.name, %error, "a connection panicked");
        }
    }
}

/// Serves one connection to its end. What each kind of it needs is in a box of its own, so that a
/// connection holds no more than that.
async fn serve(origin: Rc<Origin>, stream: TcpStream, peer: SocketAddr) {
    let start = match origin.listener.accept_proxy {
        AcceptProxy::No => Some(tcp::Start::new(stream, peer)),
        _ => Box::pin(tcp::begin(&origin, stream, peer)).await,
    };
    let Some(start) = start else { return };
    let listener = Arc::clone(&origin.listener);
    match &listener.kind {
        ListenerKind::Http { .. } => http::serve(origin, start).await,
        ListenerKind::Tcp { cluster, options } => {
            Box::pin(tcp::serve(&origin, cluster, options, start)).await;
        }
        ListenerKind::Detect { cluster, tcp, .. } => {
            if let Some(start) = Box::pin(tcp::unless_http(&origin, cluster, tcp, start)).await {
                http::serve(origin, start).await;
            }
        }
    }
}

/// Closes so that the peer sees an error and not an end.
#[expect(clippy::needless_pass_by_value, reason = "dropping the stream is what resets it")]
pub(crate) fn reset(stream: TcpStream) {
    // Failing that, it closes all the same.
    let _closed_anyway = stream.set_zero_linger();
}

/// Counts a connection as open while it lives.
struct Active(Arc<ListenerMetrics>);

impl Active {
    fn new(metrics: Arc<ListenerMetrics>) -> Self {
        Counter::add(&metrics.active, 1);
        Self(metrics)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.sub(1);
    }
}
