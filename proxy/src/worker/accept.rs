//! The accept loop of one listener on one worker, and the owner of its connections.
//!
//! At `max_connections` one more connection is reset at once: a client that is told can go
//! elsewhere, one that waits in a backlog cannot.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use portolan_model::traffic::{
    AcceptProxy, Listener, ListenerKind, ServerTls, SniChain, TcpOptions, narrowest, pick,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::crew::{Counted, Handed};
use super::shared::Shared;
use crate::http::local::Reason;
use crate::metrics::ListenerMetrics;
use crate::metrics::listener::Routes;
use crate::{http, tcp, tls};

/// Wait after the system failed to hand a connection over (no file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection has for its first request where the sockets go on elsewhere behind it: by
/// HTTP/2 it is lost if GOAWAY comes before it.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// What a connection needs to know of where it came in.
pub(crate) struct Origin {
    pub(crate) shared: Rc<Shared>,
    pub(crate) listener: Arc<Listener>,
    pub(crate) metrics: Arc<ListenerMetrics>,
    /// Counters of the routes that were asked for.
    pub(crate) routes: RefCell<Routes>,
    /// The listener closes: finish what is in flight and end.
    pub(crate) closing: CancellationToken,
}

/// A listener on this worker: its connections, however they came.
pub(crate) struct Binding {
    number: u64,
    origin: Rc<Origin>,
    /// Accept no more.
    stop: CancellationToken,
    live: Cell<usize>,
    /// The sockets are another's from now on.
    handed_over: Cell<bool>,
    /// Told when the last connection ends.
    empty: Notify,
}

impl Origin {
    /// Counts what the proxy answered itself, cut or reset.
    pub(crate) fn count_local(&self, reason: Reason) {
        self.shared.metrics.count_local(reason);
        self.metrics.on_local(reason);
    }
}

impl Binding {
    pub(crate) fn new(
        shared: &Rc<Shared>,
        number: u64,
        listener: Arc<Listener>,
        stop: CancellationToken,
    ) -> Rc<Self> {
        let metrics = shared.metrics.listener(&listener.name);
        let (shared, routes) = (Rc::clone(shared), RefCell::default());
        let closing = CancellationToken::new();
        let origin = Rc::new(Origin { shared, listener, metrics, routes, closing });
        Rc::new(Self {
            number,
            origin,
            stop,
            live: Cell::new(0),
            handed_over: Cell::new(false),
            empty: Notify::new(),
        })
    }

    /// Accepts until the listener closes, then waits for the connections to end. `closed` is
    /// cancelled when no socket is left. Mostly there is one; after a restart with fewer workers
    /// there are several, and none where the system gave none.
    pub(crate) async fn run(self: Rc<Self>, sockets: Rc<[TcpListener]>, closed: CancellationToken) {
        // Whatever happens, nobody waits for these sockets to close for ever.
        let closed = closed.drop_guard();
        {
            let mut stopping = pin!(self.stop.cancelled());
            let mut first = 0;
            // Asked first: a socket that was handed over may not be told to wake this task.
            while !self.stop.is_cancelled() {
                let next = poll_fn(|cx| match poll_accept(&sockets, &mut first, cx) {
                    Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                    Poll::Pending => stopping.as_mut().poll(cx).map(|()| None),
                });
                match next.await {
                    None => break,
                    Some(Ok((stream, peer))) => self.on_accepted(stream, peer),
                    Some(Err(error)) => {
                        if self.on_error(&error, &self.stop).await {
                            break;
                        }
                    }
                }
            }
        }
        if self.handed_over.get() {
            drop((sockets, closed));
            return self.end_late().await;
        }
        self.origin.closing.cancel();
        sockets.iter().for_each(|socket| self.take_backlog(socket));
        drop((sockets, closed));
        self.emptied().await;
    }

    /// Has the connections end once those that came at the last moment had time for what they came
    /// for.
    pub(crate) async fn end_late(&self) {
        // Empty or not, it is over then.
        let _elapsed = tokio::time::timeout(LAST_MOMENT, self.emptied()).await;
        self.origin.closing.cancel();
        self.emptied().await;
    }

    /// The sockets go on as another binding's or process's: they are not this one's to empty. To be
    /// said before `stop` is cancelled.
    pub(crate) fn hand_over(&self) {
        self.handed_over.set(true);
    }

    /// Completes when there is no connection.
    async fn emptied(&self) {
        while self.live.get() > 0 {
            self.empty.notified().await;
        }
    }

    /// Connections the kernel has completed already would be reset by closing the socket.
    fn take_backlog(self: &Rc<Self>, socket: &TcpListener) {
        let mut context = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Ok((stream, peer))) = socket.poll_accept(&mut context) {
            self.on_accepted(stream, peer);
        }
    }

    fn on_accepted(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let origin = &self.origin;
        if self.live.get() >= origin.shared.config.max_connections {
            origin.metrics.refused.add(1);
            reset(stream);
            return;
        }
        let (crew, me) = (&origin.shared.crew, origin.shared.number);
        let counted = crew.next(me);
        if counted.worker() == me || self.stop.is_cancelled() {
            return self.admit(stream, peer, counted.moved(me));
        }
        // What cannot leave this worker's runtime is served by it.
        let Ok(stream) = stream.into_std() else { return };
        let listener = Arc::clone(&origin.listener);
        let handed = Handed { binding: self.number, listener, stream, peer, counted };
        if let Err(handed) = crew.hand(handed) {
            let counted = handed.counted.moved(me);
            if let Ok(stream) = TcpStream::from_std(handed.stream) {
                self.admit(stream, handed.peer, counted);
            }
        }
    }

    /// Serves a connection in a task of its own.
    pub(crate) fn admit(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, counted: Counted) {
        let origin = Rc::clone(&self.origin);
        origin.metrics.accepted.add(1);
        origin.metrics.active.add(1);
        self.live.set(self.live.get() + 1);
        let live = Live { binding: Rc::clone(self), _counted: counted };
        tokio::task::spawn_local(async move {
            let _live = live;
            serve(origin, stream, peer).await;
        });
    }

    /// Waits before the next try; whether the listener closes meanwhile.
    async fn on_error(&self, error: &io::Error, closing: &CancellationToken) -> bool {
        self.origin.shared.metrics.accept_errors.add(1);
        tracing::warn!(listener = %self.origin.listener.name, %error, "cannot accept");
        tokio::time::timeout(ACCEPT_PAUSE, closing.cancelled()).await.is_ok()
    }
}

/// Counts a connection as open while it lives.
struct Live {
    binding: Rc<Binding>,
    _counted: Counted,
}

impl Drop for Live {
    fn drop(&mut self) {
        let Origin { shared, listener, metrics, .. } = &*self.binding.origin;
        metrics.active.sub(1);
        if std::thread::panicking() {
            shared.metrics.panics.add(1);
            tracing::error!(listener = %listener.name, "a connection panicked");
        }
        let live = self.binding.live.get().saturating_sub(1);
        self.binding.live.set(live);
        if live == 0 {
            self.binding.empty.notify_one();
        }
    }
}

/// A connection of any of the sockets; each comes `first` in its turn, so that a busy one keeps
/// none of the others waiting.
fn poll_accept(
    sockets: &[TcpListener],
    first: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    let (before, from) = sockets.split_at_checked(*first).unwrap_or((&[], sockets));
    for socket in from.iter().chain(before) {
        *first = if *first + 1 < sockets.len() { *first + 1 } else { 0 };
        if let Poll::Ready(accepted) = socket.poll_accept(cx) {
            return Poll::Ready(accepted);
        }
    }
    Poll::Pending
}

/// Serves one connection to its end. What each kind of it needs is in a box of its own, so that a
/// connection holds no more than that.
async fn serve(origin: Rc<Origin>, stream: TcpStream, peer: SocketAddr) {
    let start = match origin.listener.accept_proxy {
        AcceptProxy::No => Some(tcp::Start::new(stream, peer)),
        _ => Box::pin(tcp::begin(&origin, stream, peer)).await,
    };
    let Some(mut start) = start else { return };
    if let Some(tls) = &origin.listener.tls {
        if tls.beside.is_some() {
            match Box::pin(beside(&origin, tls, start)).await {
                Some(own) => start = own,
                None => return,
            }
        }
        match Box::pin(tls::accept(&origin, start)).await {
            Some(secured) => start = secured,
            None => return,
        }
    }
    let listener = Arc::clone(&origin.listener);
    match &listener.kind {
        ListenerKind::Http { .. } => http::serve(origin, start).await,
        ListenerKind::Tcp { clusters, options } => {
            let number = origin.shared.random().0;
            match pick(clusters, number) {
                Some(share) => {
                    Box::pin(tcp::serve(&origin, &share.cluster, options, start)).await;
                }
                None => start.reset(),
            }
        }
        ListenerKind::ByName { chains, options } => {
            let found = match &start.proof {
                Some(proof) => {
                    let asked = proof.server_name.as_deref().map(str::to_ascii_lowercase);
                    Some((start, asked))
                }
                None => Box::pin(tls::hello(&origin, start)).await,
            };
            let Some((start, asked)) = found else { return };
            let names = chains.iter().map(|chain| &*chain.names);
            let chain = narrowest(names, asked.as_deref()).and_then(|at| chains.get(at));
            Box::pin(named(&origin, chain, options, start)).await;
        }
        ListenerKind::Detect { cluster, tcp, .. } => {
            if let Some(start) = Box::pin(tcp::unless_http(&origin, cluster, tcp, start)).await {
                http::serve(origin, start).await;
            }
        }
    }
}

/// Serves a connection that asks for a name that stands beside what the listener is; else the connection
/// with what was read of it, or nothing if it is not to be served.
async fn beside(origin: &Origin, tls: &ServerTls, start: tcp::Start) -> Option<tcp::Start> {
    let (start, asked) = tls::hello(origin, start).await?;
    let (Some(chain), Some(beside)) = (tls.beside(asked.as_deref()), &tls.beside) else {
        return Some(start);
    };
    let start = if chain.ended { tls::accept(origin, start).await? } else { start };
    named(origin, Some(&chain.to), &beside.options, start).await;
    None
}

/// Serves bytes by the name that their client asked for: to a cluster of its chain. Where there is none
/// it is as if there were no TLS for it.
async fn named(origin: &Origin, chain: Option<&SniChain>, options: &TcpOptions, start: tcp::Start) {
    match chain.and_then(|chain| pick(&chain.clusters, origin.shared.random().0)) {
        Some(share) => tcp::serve(origin, &share.cluster, options, start).await,
        None => {
            origin.count_local(Reason::TlsHandshake);
            start.reset();
        }
    }
}

/// Closes so that the peer sees an error and not an end.
#[expect(clippy::needless_pass_by_value, reason = "dropping the stream is what resets it")]
pub(crate) fn reset(stream: TcpStream) {
    // Failing that, it closes all the same.
    let _closed_anyway = stream.set_zero_linger();
}
