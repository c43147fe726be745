//! The DNS server: binds its sockets, applies snapshots, serves, drains.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::pin::pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portolan_model::Changes;
use portolan_runtime::bind::{self, BindError, Sharing};
use portolan_runtime::{Certificate, Gate, Lifecycle, Metrics, Subscriber, Update};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::admission::Admission;
use crate::config::DnsConfig;
use crate::context::Rules;
use crate::error::DnsError;
use crate::explain::Explainer;
use crate::forward::Forwarder;
use crate::front::{Front, Protocol};
use crate::hosts::Hosts;
use crate::metrics::{Counters, DnsMetrics, Labelled};
use crate::querylog::QueryLogger;
use crate::stream::{self, Framed, Streams};
use crate::table::Table;
use crate::udp::{self, Pool, Worker};

mod secure;

use secure::Secure;

/// How often port 0 is tried until UDP and TCP agree on one.
const PORT_TRIES: usize = 16;
/// Octets of a message that fit the smallest packet of IPv6 with its headers (RFC 8200 §5).
const PAYLOAD_SAFE: u16 = 1232;
/// Changed services up to which a table is made on the spot; more go to a blocking thread.
const INLINE_KEYS: usize = 256;

/// Bound sockets that do not serve yet.
#[derive(Debug)]
pub struct DnsServer {
    config: DnsConfig,
    front: Arc<Front>,
    listeners: Vec<Listener>,
    secure: Vec<Secure>,
    certificate: Option<Arc<Certificate>>,
    hosts: Option<Hosts>,
    metrics: Arc<DnsMetrics>,
}

/// The sockets of one address.
#[derive(Debug)]
struct Listener {
    address: SocketAddr,
    udp: Vec<(UdpSocket, Arc<Counters>)>,
    /// What the slow path counts the queries of UDP with.
    slow: Arc<Counters>,
    tcp: (TcpListener, Arc<Counters>),
}

impl DnsServer {
    /// Binds UDP and TCP on the same port of each address, and what is encrypted where the config
    /// says. With port 0 the system picks one. Nothing is answered before [`Self::run`], but
    /// queries may queue in the sockets.
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
        let (hosts, records) = Hosts::open(&config)?;
        let table = Arc::new(ArcSwap::from_pointee(Table::with_hosts(&config, &records)?));
        let forwarder = Forwarder::new(&config, metrics)?.map(Arc::new);
        let certificate = config.certificate.as_ref().map(Certificate::open).transpose()?;
        let secure = Secure::bind_all(&config, certificate.as_ref())?;
        let listeners = addresses
            .iter()
            .map(|address| Listener::bind(*address, &config))
            .collect::<Result<Vec<_>, _>>()?;
        let mut sets: Vec<Labelled> = listeners.iter().flat_map(Listener::counters).collect();
        sets.extend(secure.iter().map(Secure::counters));
        let zones = table.load().zones().zone_names().to_vec();
        let registered = Arc::new(DnsMetrics::register(metrics, sets, &zones, forwarder.clone()));
        let front = Arc::new(Front {
            table,
            rules: Rules::new(&config),
            forwarder,
            metrics: registered.clone(),
            log: QueryLogger::new(config.query_log, config.query_log_sample),
        });
        Ok(Self { config, front, listeners, secure, certificate, hosts, metrics: registered })
    }

    /// Where it listens, on UDP and TCP alike, in the order of the addresses given.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.address).collect()
    }

    /// Where it listens for encrypted queries, and for which protocol: `tls`, `https` or `quic`.
    #[must_use]
    pub fn encrypted_addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        self.secure.iter().map(|secure| (secure.protocol().name(), secure.address())).collect()
    }

    /// A handle that says how answers come about, while the server runs.
    #[must_use]
    pub fn explainer(&self) -> Explainer {
        Explainer::new(self.front.clone())
    }

    /// Serves until the process drains: applies each update and reports it to `gate` once every
    /// answer comes from it. With the publisher gone it goes on serving the last snapshot.
    ///
    /// # Errors
    /// When threads cannot be started, or a part of the server ends unasked.
    pub async fn run(
        mut self,
        mut subscriber: Subscriber,
        gate: Gate,
        lifecycle: Lifecycle,
    ) -> Result<(), DnsError> {
        let (front, config) = (self.front.clone(), self.config.clone());
        let mut hosts = self.hosts.take();
        // The listeners outlive the drain's begin by the lameduck time.
        let serving = Lifecycle::new();
        let mut running = self.start(&serving)?;
        if let Some(forwarder) = &front.forwarder {
            forwarder.start();
        }
        let mut publishing = true;
        let mut draining = pin!(async {
            lifecycle.draining().await;
            tokio::select! {
                () = tokio::time::sleep(config.lameduck) => {}
                () = lifecycle.aborted() => {}
            }
        });
        let result = loop {
            tokio::select! {
                biased;
                () = &mut draining => break Ok(()),
                error = running.pool.unasked() => break Err(error),
                Some(ended) = running.tasks.join_next() => break Err(unasked(ended)),
                update = subscriber.next(), if publishing => match update {
                    Some(update) => apply(&front.table, update, &gate).await?,
                    None => publishing = false,
                },
                () = changed(&mut hosts) => {
                    if let Some(hosts) = &hosts {
                        take_hosts(&front.table, hosts, &config).await?;
                    }
                }
            }
        };
        serving.drain();
        let drained = tokio::select! {
            drained = running.drain() => drained,
            () = lifecycle.aborted() => Ok(()),
        };
        if let Some(forwarder) = &front.forwarder {
            forwarder.stop().await;
        }
        result.and(drained)
    }

    fn start(self, serving: &Lifecycle) -> Result<Running, DnsError> {
        let (slow, queue) = mpsc::channel(self.config.slow_queue.max(1));
        let mut tasks = JoinSet::new();
        let mut workers = Vec::new();
        let connections = self.config.tcp_max_connections;
        let admission = Arc::new(Admission::new(
            connections,
            self.config.client_max_connections,
            self.metrics.clone(),
        ));
        let streams = |protocol, counters| Streams {
            front: self.front.clone(),
            counters,
            admission: admission.clone(),
            idle_timeout: self.config.tcp_idle_timeout,
            max_pipelined: self.config.tcp_max_pipelined.max(1),
            protocol,
        };
        for listener in self.listeners {
            for (n, (socket, counters)) in listener.udp.into_iter().enumerate() {
                workers.push(Worker {
                    name: format!("dns-udp-{n}"),
                    socket: Arc::new(socket),
                    front: self.front.clone(),
                    counters,
                    slow_counters: listener.slow.clone(),
                    slow: slow.clone(),
                });
            }
            let (socket, counters) = listener.tcp;
            let framed = Framed { streams: streams(Protocol::Tcp, counters), tls: None };
            let serving = stream::accept(into_tokio(socket)?, Arc::new(framed), serving.clone());
            tasks.spawn(async move {
                serving.await;
                "dns tcp"
            });
        }
        for secure in self.secure {
            let shared = streams(secure.protocol(), secure.counters().counters);
            secure.start(shared, serving, &mut tasks)?;
        }
        if let Some(certificate) = self.certificate {
            let (metrics, serving) = (self.metrics.clone(), serving.clone());
            tasks.spawn(async move {
                certificate.follow("dns", &metrics.certificate_errors, &serving).await;
                "dns certificate"
            });
        }
        let (front, waiting) = (self.front.clone(), self.config.forward.max_inflight);
        tasks.spawn(async move {
            udp::serve_slow(queue, front, waiting).await;
            "dns slow path"
        });
        Ok(Running { pool: Pool::start(workers)?, tasks })
    }
}

fn into_tokio(listener: TcpListener) -> Result<tokio::net::TcpListener, DnsError> {
    let what = "a dns listener";
    tokio::net::TcpListener::from_std(listener).map_err(|source| DnsError::Setup { what, source })
}

/// Waits until the hosts file has changed; for ever without one.
async fn changed(hosts: &mut Option<Hosts>) {
    match hosts {
        Some(hosts) => hosts.changed().await,
        None => std::future::pending().await,
    }
}

/// Serves the records of the hosts file as it is now; a file that cannot be used changes nothing.
async fn take_hosts(
    table: &ArcSwap<Table>,
    hosts: &Hosts,
    config: &DnsConfig,
) -> Result<(), DnsError> {
    let next = hosts.read(config).and_then(|records| Table::with_hosts(config, &records));
    let empty = match next {
        Ok(empty) => empty,
        Err(error) => {
            tracing::warn!(%error, "static records stay as they were");
            return Ok(());
        }
    };
    let current = table.load_full();
    let make = move || match current.snapshot() {
        Some(snapshot) => empty.apply(snapshot, &Changes::Everything),
        None => empty,
    };
    table.store(Arc::new(tokio::task::spawn_blocking(make).await?));
    tracing::info!("the hosts file has changed");
    Ok(())
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
    fn bind(address: SocketAddr, config: &DnsConfig) -> Result<Self, DnsError> {
        let workers = config.workers.max(1);
        let fits_all_paths = config.udp_limit() <= PAYLOAD_SAFE;
        let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            tries -= 1;
            let first = udp_socket(address, fits_all_paths)?;
            let local = local_address(&first, address)?;
            // TCP alone is exclusive: it also keeps two servers off one shared UDP port.
            match bind::tcp(local, "dns tcp", Sharing::Exclusive) {
                Ok(tcp) => return Self::complete(local, first, tcp, workers, fits_all_paths),
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
        fits_all_paths: bool,
    ) -> Result<Self, DnsError> {
        let own = || Arc::new(Counters::of_one_thread());
        let mut udp = vec![(first, own())];
        for _ in 1..workers {
            udp.push((udp_socket(address, fits_all_paths)?, own()));
        }
        let shared = || Arc::new(Counters::shared());
        Ok(Self { address, udp, slow: shared(), tcp: (tcp, shared()) })
    }

    fn counters(&self) -> Vec<Labelled> {
        let labelled = |protocol: Protocol, counters: &Arc<Counters>| Labelled {
            server: server_name(protocol, self.address),
            protocol,
            ipv6: self.address.is_ipv6(),
            counters: counters.clone(),
        };
        let udp = self.udp.iter().map(|(_, counters)| counters).chain([&self.slow]);
        let mut all: Vec<Labelled> = udp.map(|c| labelled(Protocol::Udp, c)).collect();
        all.push(labelled(Protocol::Tcp, &self.tcp.1));
        all
    }
}

/// A listener as CoreDNS names it.
fn server_name(protocol: Protocol, address: SocketAddr) -> Arc<str> {
    let scheme = protocol.scheme();
    if address.ip().is_unspecified() {
        return format!("{scheme}://:{}", address.port()).into();
    }
    format!("{scheme}://{address}").into()
}

fn udp_socket(address: SocketAddr, fits_all_paths: bool) -> Result<UdpSocket, DnsError> {
    let socket = bind::udp(address, "dns udp", Sharing::Shared)?;
    if fits_all_paths {
        let what = "path discovery on a dns udp socket";
        udp::forbid_fragments(&socket, address.is_ipv6())
            .map_err(|source| DnsError::Setup { what, source })?;
    }
    if address.ip().is_unspecified() {
        // Any address of ours may be asked; a socket with one address answers from it anyway.
        let what = "packet info on a dns udp socket";
        udp::request_local_address(&socket, address.is_ipv6())
            .map_err(|source| DnsError::Setup { what, source })?;
    }
    Ok(socket)
}

fn local_address(socket: &UdpSocket, address: SocketAddr) -> Result<SocketAddr, BindError> {
    let purpose = "dns udp".to_owned();
    socket.local_addr().map_err(|source| BindError { purpose, address, source })
}
