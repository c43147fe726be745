//! The worker threads: started, spoken to through bounded channels, joined. Never blocks.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use portolan_model::traffic::{Listener, TrafficConfig};
use portolan_runtime::Lifecycle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::access::Log;
use crate::config::ProxyConfig;
use crate::error::ProxyError;
use crate::metrics::ProxyMetrics;
use crate::worker::crew::Crew;
use crate::worker::{self, Command, Common, Copied, Seat};

/// Commands a worker may have before it; the sender waits at the bound.
const COMMANDS: usize = 16;

pub(super) struct Threads {
    commands: Vec<mpsc::Sender<Command>>,
    ended: FuturesUnordered<Ended>,
    handles: Vec<JoinHandle<()>>,
    /// Stops the workers when the supervisor is dropped.
    _stop: DropGuard,
}

type Ended = std::pin::Pin<Box<dyn Future<Output = usize> + Send + Sync>>;

impl Threads {
    pub(super) fn start(
        config: &Arc<ProxyConfig>,
        metrics: &Arc<ProxyMetrics>,
        common: &Common,
        log: Option<&Arc<Log>>,
        lifecycle: &Lifecycle,
    ) -> Result<Self, ProxyError> {
        let stop = CancellationToken::new();
        let mut threads = Self {
            commands: Vec::new(),
            ended: FuturesUnordered::new(),
            handles: Vec::new(),
            _stop: stop.clone().drop_guard(),
        };
        let (crew, inboxes) = Crew::new(metrics.workers.len());
        for ((worker, counters), inbox) in metrics.workers.iter().enumerate().zip(inboxes) {
            let (sender, commands) = mpsc::channel(COMMANDS);
            let (ended, end) = oneshot::channel();
            let seat = Seat {
                number: worker,
                config: Arc::clone(config),
                metrics: Arc::clone(counters),
                common: common.clone(),
                crew: Arc::clone(&crew),
                log: log.cloned(),
                inbox,
                lifecycle: lifecycle.clone(),
                stop: stop.clone(),
                commands,
                ended,
            };
            let handle = std::thread::Builder::new()
                .name(format!("proxy-{worker}"))
                .spawn(move || worker::run(seat))
                .map_err(|source| ProxyError::Start { worker, source })?;
            threads.commands.push(sender);
            threads.handles.push(handle);
            threads.ended.push(Box::pin(async move {
                // Sent or dropped: either way the worker is at its end.
                let _dropped = end.await;
                worker
            }));
        }
        Ok(threads)
    }

    /// Completes when a worker ends.
    pub(super) async fn ended(&mut self) -> usize {
        match self.ended.next().await {
            Some(worker) => worker,
            None => std::future::pending().await,
        }
    }

    /// Returns once every worker runs with the configuration.
    pub(super) async fn configure(&self, config: &Arc<TrafficConfig>) {
        self.all(|_, done| Command::Configure { config: Arc::clone(config), done }).await;
    }

    /// Hands each worker its sockets, one after the other in turn; `Err` with the first reason why
    /// one could not use them.
    pub(super) async fn open(
        &self,
        binding: u64,
        listener: &Arc<Listener>,
        sockets: Vec<TcpListener>,
    ) -> Result<(), String> {
        let mut shares: Vec<Vec<TcpListener>> = Vec::new();
        shares.resize_with(self.len(), Vec::new);
        for (i, socket) in sockets.into_iter().enumerate() {
            if let Some(share) = shares.get_mut(i % self.len().max(1)) {
                share.push(socket);
            }
        }
        let mut shares = shares.into_iter();
        let answers = self.all(|_, done| Command::Open {
            binding,
            listener: Arc::clone(listener),
            sockets: shares.next().unwrap_or_default(),
            done,
        });
        answers.await.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    /// Has each worker serve by another listener what comes to the socket of a binding; `Err` with
    /// the first reason why one could not.
    pub(super) async fn replace(
        &self,
        old: u64,
        binding: u64,
        listener: &Arc<Listener>,
    ) -> Result<(), String> {
        let listener = || Arc::clone(listener);
        let answers =
            self.all(|_, done| Command::Replace { old, binding, listener: listener(), done });
        answers.await.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    }

    /// Returns once every worker has closed its socket; connections drain by themselves.
    pub(super) async fn close(&self, binding: u64) {
        self.all(|_, done| Command::Close { binding, done }).await;
    }

    /// A way to ask each worker something.
    pub(super) fn commands(&self) -> Vec<mpsc::Sender<Command>> {
        self.commands.clone()
    }

    /// Copies of the descriptors of all sockets.
    pub(super) async fn copy(&self) -> io::Result<Vec<Copied>> {
        let copies = self.all(|_, done| Command::Copy { done }).await;
        Ok(copies.into_iter().collect::<io::Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Returns once every worker leaves alone what waits in these sockets.
    pub(super) async fn leave(&self, bindings: BTreeSet<u64>) {
        let bindings = Arc::new(bindings);
        self.all(|_, done| Command::Leave { bindings: Arc::clone(&bindings), done }).await;
    }

    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    /// Waits for all workers to end and joins their threads.
    pub(super) async fn join(mut self) {
        while self.ended.next().await.is_some() {}
        let handles = std::mem::take(&mut self.handles);
        let join = tokio::task::spawn_blocking(move || {
            for handle in handles {
                if handle.join().is_err() {
                    tracing::error!("a proxy worker panicked");
                }
            }
        });
        // A join error here is the panic of the closure above, which has none.
        let _joined = join.await;
    }

    /// Sends a command to every worker at once and gathers the answers. A worker that is gone
    /// gives none; `ended` reports it.
    async fn all<T>(&self, mut make: impl FnMut(usize, oneshot::Sender<T>) -> Command) -> Vec<T> {
        let sent = self.commands.iter().enumerate().map(|(worker, sender)| {
            let (done, answer) = oneshot::channel();
            let command = make(worker, done);
            async move {
                sender.send(command).await.ok()?;
                answer.await.ok()
            }
        });
        join_all(sent.collect::<Vec<_>>()).await.into_iter().flatten().collect()
    }
}
