//! One worker: a thread with its own runtime, sockets, clusters and counters.
//!
//! Owns the tasks of its listeners and, through them, every connection. Commands come from the
//! supervisor; nothing else comes in from outside the thread.

pub(crate) mod accept;
pub(crate) mod candidates;
pub(crate) mod cluster;
pub(crate) mod crew;
pub(crate) mod endpoint;
pub(crate) mod shared;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portolan_model::traffic::{Listener, ResourceName, TrafficConfig};
use portolan_runtime::Lifecycle;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::access::Log;
use crate::balance::describe::Description;
use crate::config::ProxyConfig;
use crate::decision::Decisions;
use crate::health::Board;
use crate::limit::Limiters;
use crate::metrics::WorkerMetrics;
use crate::tls::Terminators;
use crate::trace::Tracer;
use accept::Binding;
use crew::{Crew, Handed};
use shared::Shared;

/// Shortest time between two looks through the idle connections.
const MIN_SWEEP: Duration = Duration::from_secs(1);

/// What all workers share with whoever configures them.
#[derive(Clone)]
pub(crate) struct Common {
    pub(crate) health: Arc<Board>,
    pub(crate) limiters: Arc<Limiters>,
    pub(crate) terminators: Arc<Terminators>,
    pub(crate) decisions: Arc<Decisions>,
    pub(crate) tracer: Option<Tracer>,
}

/// What a worker thread starts with.
pub(crate) struct Seat {
    pub(crate) number: usize,
    pub(crate) config: Arc<ProxyConfig>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) common: Common,
    pub(crate) crew: Arc<Crew>,
    pub(crate) log: Option<Arc<Log>>,
    pub(crate) inbox: mpsc::Receiver<Handed>,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) stop: CancellationToken,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Sent at the very end; dropped when the thread panics.
    pub(crate) ended: oneshot::Sender<()>,
}

/// What the supervisor asks of a worker. Each is answered through `done`.
pub(crate) enum Command {
    /// Route by this configuration from now on.
    Configure { config: Arc<TrafficConfig>, done: oneshot::Sender<()> },
    /// Accept on these sockets.
    Open {
        binding: u64,
        listener: Arc<Listener>,
        sockets: Vec<TcpListener>,
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Serve what comes to the socket of the binding `old` by this listener from now on, as
    /// `binding`; what came before drains.
    Replace {
        old: u64,
        binding: u64,
        listener: Arc<Listener>,
        done: oneshot::Sender<Result<(), String>>,
    },
    /// Close the socket; its connections drain.
    Close { binding: u64, done: oneshot::Sender<()> },
    /// Say how each cluster is balanced.
    Describe { done: oneshot::Sender<BTreeMap<ResourceName, Description>> },
    /// Copies of the descriptors of all sockets, for another process.
    Copy { done: oneshot::Sender<io::Result<Vec<Copied>>> },
    /// The sockets of these live on elsewhere: what waits in them is not to be taken.
    Leave { bindings: Arc<BTreeSet<u64>>, done: oneshot::Sender<()> },
}

/// A copy of a worker's descriptor.
pub(crate) struct Copied {
    pub(crate) worker: usize,
    pub(crate) binding: u64,
    pub(crate) socket: OwnedFd,
}

/// The body of a worker thread.
pub(crate) fn run(seat: Seat) {
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    match built {
        Ok(runtime) => {
            let Seat { lifecycle, stop, commands, ended, inbox, .. } = seat;
            let Seat { number, config, metrics, common, crew, log, .. } = seat;
            let shared = Shared::new(number, config, metrics, common, crew, log);
            let shared = Rc::new(shared);
            let worker = Worker { shared, listeners: JoinSet::new(), open: HashMap::new() };
            runtime.block_on(worker.run(commands, inbox, &lifecycle, &stop));
            // What still runs (upstream connections, and everything on abort) ends with it.
            drop(runtime);
            // The supervisor may be gone; then nobody waits.
            let _gone = ended.send(());
        }
        Err(error) => tracing::error!(worker = seat.number, %error, "no runtime for a worker"),
    }
}

struct Worker {
    shared: Rc<Shared>,
    listeners: JoinSet<u64>,
    open: HashMap<u64, Open>,
}

/// A binding whose accept loop runs, or whose connections still do.
struct Open {
    close: CancellationToken,
    /// Cancelled by the accept loop when its socket is closed.
    closed: CancellationToken,
    binding: Rc<Binding>,
    /// `None` once they close: the accept loop alone holds them then.
    sockets: Option<Rc<[tokio::net::TcpListener]>>,
}

impl Open {
    /// Has the sockets closed, and the connections drain.
    fn close(&mut self) {
        self.sockets = None;
        self.close.cancel();
    }
}

impl Worker {
    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut inbox: mpsc::Receiver<Handed>,
        lifecycle: &Lifecycle,
        stop: &CancellationToken,
    ) {
        let period = (self.shared.config.pool_idle_timeout / 4).max(MIN_SWEEP);
        let mut sweep = tokio::time::interval_at(Instant::now() + period, period);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut draining = false;
        loop {
            if draining && self.listeners.is_empty() {
                inbox.close();
                // What is on its way here is still to be served.
                let Ok(handed) = inbox.try_recv() else { return };
                self.on_handed(handed);
            }
            tokio::select! {
                biased;
                () = lifecycle.aborted() => return,
                () = stop.cancelled() => return,
                () = lifecycle.draining(), if !draining => {
                    draining = true;
                    self.open.values_mut().for_each(Open::close);
                }
                Some(command) = commands.recv() => self.on_command(command, draining),
                Some(ended) = self.listeners.join_next(), if !self.listeners.is_empty() => {
                    self.on_ended(ended);
                }
                Some(handed) = inbox.recv() => self.on_handed(handed),
                _ = sweep.tick() => self.shared.sweep(),
            }
        }
    }

    fn on_command(&mut self, command: Command, draining: bool) {
        match command {
            Command::Configure { config, done } => {
                self.shared.configure(config);
                // Nobody waits once the supervisor is gone; the same below.
                let _gone = done.send(());
            }
            Command::Describe { done } => {
                let _gone = done.send(self.shared.describe());
            }
            Command::Open { done, .. } if draining => {
                let _gone = done.send(Err("draining".to_owned()));
            }
            Command::Open { binding, listener, sockets, done } => {
                let _gone = done.send(self.open(binding, listener, sockets));
            }
            Command::Copy { done } => {
                let _gone = done.send(self.copy());
            }
            Command::Leave { bindings, done } => {
                let left = self.open.iter().filter(|(number, _)| bindings.contains(number));
                left.for_each(|(_, open)| open.binding.hand_over());
                let _gone = done.send(());
            }
            Command::Replace { done, .. } if draining => {
                let _gone = done.send(Err("draining".to_owned()));
            }
            Command::Replace { old, binding, listener, done } => {
                let _gone = done.send(self.replace(old, binding, listener));
            }
            Command::Close { binding, done } => {
                let Some(open) = self.open.get_mut(&binding) else { return };
                open.close();
                let closed = open.closed.clone();
                self.listeners.spawn_local(async move {
                    closed.cancelled().await;
                    let _gone = done.send(());
                    // Not a binding: numbers start at 1.
                    0
                });
            }
        }
    }

    fn open(
        &mut self,
        binding: u64,
        listener: Arc<Listener>,
        sockets: Vec<TcpListener>,
    ) -> Result<(), String> {
        let sockets = sockets.into_iter().map(tokio::net::TcpListener::from_std);
        let sockets = sockets.collect::<io::Result<Rc<[_]>>>().map_err(|e| e.to_string())?;
        self.begin(binding, listener, sockets);
        Ok(())
    }

    fn replace(&mut self, old: u64, binding: u64, listener: Arc<Listener>) -> Result<(), String> {
        let found = self.open.get_mut(&old).and_then(|open| Some((open.sockets.take()?, open)));
        let Some((sockets, open)) = found else {
            return Err(format!("binding {old} is not open"));
        };
        open.binding.hand_over();
        open.close();
        self.begin(binding, listener, sockets);
        Ok(())
    }

    fn copy(&self) -> io::Result<Vec<Copied>> {
        let mut copies = Vec::new();
        for (binding, open) in &self.open {
            for socket in open.sockets.iter().flat_map(|sockets| sockets.iter()) {
                let socket = socket.as_fd().try_clone_to_owned()?;
                copies.push(Copied { worker: self.shared.number, binding: *binding, socket });
            }
        }
        Ok(copies)
    }

    fn begin(
        &mut self,
        binding: u64,
        listener: Arc<Listener>,
        sockets: Rc<[tokio::net::TcpListener]>,
    ) {
        let close = CancellationToken::new();
        let closed = CancellationToken::new();
        let number = binding;
        let binding = Binding::new(&self.shared, number, listener, close.clone());
        let running = Rc::clone(&binding).run(Rc::clone(&sockets), closed.clone());
        self.open.insert(number, Open { close, closed, binding, sockets: Some(sockets) });
        self.listeners.spawn_local(async move {
            running.await;
            number
        });
    }

    /// Serves a connection that another worker accepted.
    fn on_handed(&mut self, handed: Handed) {
        let Handed { binding: number, listener, stream, peer, counted } = handed;
        // The descriptor is gone only with its runtime.
        let Ok(stream) = TcpStream::from_std(stream) else { return };
        if let Some(open) = self.open.get(&number) {
            return open.binding.admit(stream, peer, counted);
        }
        // Its listener is closed here already: it is served as one that came at the last moment.
        let close = CancellationToken::new();
        close.cancel();
        let binding = Binding::new(&self.shared, number, listener, close);
        binding.admit(stream, peer, counted);
        self.listeners.spawn_local(async move {
            binding.end_late().await;
            // Not a binding: numbers start at 1.
            0
        });
    }

    fn on_ended(&mut self, ended: Result<u64, tokio::task::JoinError>) {
        match ended {
            Ok(binding) => {
                self.open.remove(&binding);
            }
            Err(error) => {
                self.shared.metrics.panics.add(1);
                tracing::error!(%error, "an accept loop panicked");
            }
        }
    }
}
