//! The DNS server: binds its sockets, applies snapshots, serves, drains.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::pin::pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portolan_model::Changes;
use portolan_runtime::bind::{self, BindError, Sharing};
use portolan_runtime::{Gate, Lifecycle, Metrics, Subscriber, Update};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::config::DnsConfig;
use crate::error::DnsError;
use crate::fast::Transport;
use crate::metrics::{Counters, DnsMetrics, Labelled, Labels};
use crate::table::Table;
use crate::tcp::{self, Tcp};
use crate::udp::{self, Pool, Worker};

/// How often port 0 is tried until UDP and TCP agree on one.
const PORT_TRIES: usize = 16;
/// Changed services up to which a table is made on the spot; more go to a blocking thread.
const INLINE_KEYS: usize = 256;

/// Bound sockets that do not serve yet.
#[derive(Debug)]
pub struct DnsServer {
    config: DnsConfig,
    table: Arc<ArcSwap<Table>>,
    listeners: Vec<Listener>,
    metrics: Arc<DnsMetrics>,
}

/// The sockets of one address.
#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    udp: Vec<(UdpSocket, Arc<Counters>)>,
    tcp: (TcpListener, Arc<Counters>),
}

impl DnsServer {
    /// Binds UDP and TCP on the same port of each address. With port 0 the system picks one.
    /// Nothing is answered before [`Self::run`], but queries may queue in the sockets.
    ///
    /// # Errors
    /// A socket that cannot be had, or a config that cannot be served.
    pub fn bind(
        config: DnsConfig,
        addresses: &[SocketAddr],
        metrics: &Metrics,
    ) -> Result<Self, DnsError> {
        if addresses.is_empty() {
            return Err(DnsError::NoAddress);
        }
        let table = Arc::new(ArcSwap::from_pointee(Table::new(&config)?));
        let workers = config.workers.max(1);
        let listeners = addresses
            .iter()
            .map(|address| Listener::bind(*address, workers))
            .collect::<Result<Vec<_>, _>>()?;
        let sets = listeners.iter().flat_map(Listener::counters).collect();
        let metrics = Arc::new(DnsMetrics::register(metrics, sets));
        Ok(Self { config, table, listeners, metrics })
    }

    /// Where it listens, on UDP and TCP alike, in the order of the addresses given.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.address).collect()
    }

    /// Serves until the process drains: applies each update and reports it to `gate` once every
    /// answer comes from it. With the publisher gone it goes on serving the last snapshot.
    ///
    /// # Errors
    /// When threads cannot be started, or a part of the server ends unasked.
    pub async fn run(
        self,
        mut subscriber: Subscriber,
        gate: Gate,
        lifecycle: Lifecycle,
    ) -> Result<(), DnsError> {
        let table = self.table.clone();
        let mut running = self.start(&lifecycle)?;
        let mut publishing = true;
        let mut draining = pin!(lifecycle.draining());
        loop {
            tokio::select! {
                biased;
                () = &mut draining => break,
                error = running.pool.unasked() => return Err(error),
                Some(ended) = running.tasks.join_next() => return Err(unasked(ended)),
                update = subscriber.next(), if publishing => match update {
                    Some(update) => apply(&table, update, &gate).await?,
                    None => publishing = false,
                },
            }
        }
        tokio::select! {
            result = running.drain() => result,
            () = lifecycle.aborted() => Ok(()),
        }
    }

    fn start(self, lifecycle: &Lifecycle) -> Result<Running, DnsError> {
        let (slow, queue) = mpsc::channel(self.config.slow_queue.max(1));
        let mut tasks = JoinSet::new();
        let mut workers = Vec::new();
        let permits = Arc::new(Semaphore::new(self.config.tcp_max_connections));
        for listener in self.listeners {
            for (n, (socket, counters)) in listener.udp.into_iter().enumerate() {
                workers.push(Worker {
                    name: format!("dns-udp-{n}"),
                    socket: Arc::new(socket),
                    table: self.table.clone(),
                    counters,
                    slow: slow.clone(),
                });
            }
            let (socket, counters) = listener.tcp;
            let shared = Arc::new(Tcp {
                table: self.table.clone(),
                counters,
                metrics: self.metrics.clone(),
                permits: permits.clone(),
                idle_timeout: self.config.tcp_idle_timeout,
            });
            let what = "the dns tcp listener";
            let socket = tokio::net::TcpListener::from_std(socket)
                .map_err(|source| DnsError::Setup { what, source })?;
            let serving = tcp::serve(socket, shared, lifecycle.clone());
            tasks.spawn(async move {
                serving.await;
                "dns tcp"
            });
        }
        let table = self.table;
        tasks.spawn(async move {
            udp::serve_slow(queue, table).await;
            "dns slow path"
        });
        Ok(Running { pool: Pool::start(workers)?, tasks })
    }
}

/// A server that serves.
struct Running {
    pool: Pool,
    tasks: JoinSet<&'static str>,
}

impl Running {
    /// Answers what was received: UDP workers first, whose end closes the slow path's queue.
    async fn drain(mut self) -> Result<(), DnsError> {
        let result = self.pool.drain().await;
        while let Some(ended) = self.tasks.join_next().await {
            ended?;
        }
        result
    }
}

fn unasked(ended: Result<&'static str, tokio::task::JoinError>) -> DnsError {
    match ended {
        Ok(task) => DnsError::Unasked { task },
        Err(panic) => DnsError::Panic(panic),
    }
}

/// Makes the next table and puts it in place of the last.
async fn apply(table: &ArcSwap<Table>, update: Update, gate: &Gate) -> Result<(), DnsError> {
    let current = table.load_full();
    let generation = update.snapshot.generation();
    let small = match &update.changes {
        Changes::Nothing => true,
        Changes::Keys(keys) => keys.len() <= INLINE_KEYS,
        Changes::Everything => false,
    };
    let make = move || current.apply(&update.snapshot, &update.changes);
    // A table of a whole cluster takes a while: not on the async workers.
    let next = if small { make() } else { tokio::task::spawn_blocking(make).await? };
    table.store(Arc::new(next));
    gate.applied(generation);
    tracing::debug!(%generation, "dns serves a new generation");
    Ok(())
}

impl Listener {
    fn bind(address: SocketAddr, workers: usize) -> Result<Self, DnsError> {
        let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            let first = udp_socket(address)?;
            let local = local_address(&first, address)?;
            // TCP alone is exclusive: it also keeps two servers off one shared UDP port.
            match bind::tcp(local, "dns tcp", Sharing::Exclusive) {
                Ok(tcp) => return Self::complete(local, first, tcp, workers),
                Err(error) if tries == 0 => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "the port is taken on tcp, trying another"),
            }
        }
    }

    fn complete(
        address: SocketAddr,
        first: UdpSocket,
        tcp: TcpListener,
        workers: usize,
    ) -> Result<Self, DnsError> {
        let mut udp = vec![(first, Arc::default())];
        for _ in 1..workers {
            udp.push((udp_socket(address)?, Arc::default()));
        }
        Ok(Self { address, udp, tcp: (tcp, Arc::default()) })
    }

    fn counters(&self) -> impl Iterator<Item = Labelled> {
        let ipv6 = self.address.is_ipv6();
        let labelled = move |transport, counters: &Arc<Counters>| Labelled {
            labels: Labels { transport, ipv6 },
            counters: counters.clone(),
        };
        let udp = self.udp.iter().map(move |(_, counters)| labelled(Transport::Udp, counters));
        udp.chain([labelled(Transport::Tcp, &self.tcp.1)])
    }
}

fn udp_socket(address: SocketAddr) -> Result<UdpSocket, DnsError> {
    let socket = bind::udp(address, "dns udp", Sharing::Shared)?;
    let what = "packet info on a dns udp socket";
    udp::request_local_address(&socket, address.is_ipv6())
        .map_err(|source| DnsError::Setup { what, source })?;
    Ok(socket)
}

fn local_address(socket: &UdpSocket, address: SocketAddr) -> Result<SocketAddr, BindError> {
    let purpose = "dns udp".to_owned();
    socket.local_addr().map_err(|source| BindError { purpose, address, source })
}
