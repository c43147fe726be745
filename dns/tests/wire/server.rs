//! A DNS server in this process, on a runtime of its own, with a publisher to feed it.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use portolan_dns::{DnsConfig, DnsError, DnsServer};
use portolan_model::{
    Endpoint, Key, Protocol, Service, ServiceEntry, ServiceKey, ServiceKind, ServicePort, Slice,
    Snapshot,
};
use portolan_runtime::publish::{Publisher, channel};
use portolan_runtime::{Gate, Lifecycle, Metrics, Readiness, Subscriber};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// Far more than loopback needs; a test that waits this long has failed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);

/// A server that is bound and does not serve yet.
pub(crate) struct Bound {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) lifecycle: Lifecycle,
    server: DnsServer,
    metrics: Metrics,
    gate: Gate,
    publisher: Publisher,
    subscriber: Subscriber,
    runtime: Runtime,
}

/// A server that serves. Dropping it drops its future in mid-flight.
pub(crate) struct Running {
    pub(crate) addresses: Vec<SocketAddr>,
    lifecycle: Lifecycle,
    metrics: Metrics,
    gate: Gate,
    pub(crate) publisher: Publisher,
    task: JoinHandle<Result<(), DnsError>>,
    runtime: Runtime,
}

/// Binds `addresses`, separated by commas.
pub(crate) fn bind(config: DnsConfig, addresses: &str) -> Bound {
    let addresses: Vec<SocketAddr> =
        addresses.split(',').map(|a| a.parse().expect("an address")).collect();
    // One thread, so that a test can hold it.
    let runtime =
        Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let metrics = Metrics::new();
    let lifecycle = Lifecycle::new();
    let gate = Readiness::new(lifecycle.clone(), &metrics).gate("dns");
    let server = DnsServer::bind(config, &addresses, &metrics).expect("bound");
    let (publisher, subscriber) = channel();
    let addresses = server.local_addresses();
    Bound { addresses, lifecycle, server, metrics, gate, publisher, subscriber, runtime }
}

pub(crate) fn start(config: DnsConfig, addresses: &str) -> Running {
    bind(config, addresses).run()
}

fn is_send<T: Future + Send>(future: T) -> T {
    future
}

impl Bound {
    pub(crate) fn run(self) -> Running {
        let serving =
            is_send(self.server.run(self.subscriber, self.gate.clone(), self.lifecycle.clone()));
        Running {
            addresses: self.addresses,
            lifecycle: self.lifecycle,
            metrics: self.metrics,
            gate: self.gate,
            publisher: self.publisher,
            task: self.runtime.spawn(serving),
            runtime: self.runtime,
        }
    }
}

impl Running {
    pub(crate) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Publishes these services and no others, and waits until they are served.
    pub(crate) fn publish(&self, entries: &[Arc<ServiceEntry>]) {
        let mut snapshot = Snapshot::default();
        let mut changed =
            BTreeSet::from([Key::Service(ServiceKey::parse("ns/web").expect("a key"))]);
        for entry in entries {
            snapshot.apply(entry.clone());
            changed.insert(Key::Service(entry.service.key.clone()));
        }
        let generation = self.publisher.publish(&snapshot, changed);
        self.wait(|running| running.gate.generation() >= Some(generation), "the gate");
    }

    pub(crate) fn metrics(&self) -> String {
        self.metrics.encode().expect("metrics encode")
    }

    /// Waits until the metrics say so.
    pub(crate) fn until(&self, condition: impl Fn(&str) -> bool) {
        self.wait(|running| condition(&running.metrics()), "the metrics");
    }

    fn wait(&self, condition: impl Fn(&Self) -> bool, what: &str) {
        let began = Instant::now();
        while !condition(self) {
            assert!(began.elapsed() < TIMEOUT, "waited for {what}:\n{}", self.metrics());
            std::thread::yield_now();
        }
    }

    /// Holds the runtime's only thread until the value is dropped; UDP workers run on.
    pub(crate) fn hold(&self) -> SyncSender<()> {
        let (release, held) = sync_channel::<()>(0);
        let (begin, begun) = sync_channel(0);
        let _detached = self.runtime.spawn(async move {
            begin.send(()).expect("the test waits for it");
            // An error means the test dropped its end: go on.
            let _released = held.recv();
        });
        begun.recv().expect("the task runs");
        release
    }

    /// Drains and returns what the server ended with.
    pub(crate) fn stop(self) -> Result<(), DnsError> {
        self.lifecycle.drain();
        let ended = self.runtime.block_on(async { tokio::time::timeout(TIMEOUT, self.task).await });
        ended.expect("it drains in time").expect("no panic")
    }
}

pub(crate) fn web(address: &str) -> Arc<ServiceEntry> {
    cluster_ip("ns/web", &[address])
}

pub(crate) fn cluster_ip(key: &str, addresses: &[&str]) -> Arc<ServiceEntry> {
    let port = ServicePort::new("http", Protocol::Tcp, 80);
    let addresses = addresses.iter().map(|a| a.parse().expect("an address")).collect();
    let key = ServiceKey::parse(key).expect("a key");
    let service = Service::new(key, ServiceKind::ClusterIp(addresses), vec![port]);
    Arc::new(ServiceEntry { service: Arc::new(service), slices: Vec::new() })
}

/// A headless service with as many endpoints.
pub(crate) fn headless(key: &str, endpoints: u16) -> Arc<ServiceEntry> {
    let key = ServiceKey::parse(key).expect("a key");
    let service = Service::new(key, ServiceKind::Headless, Vec::new());
    let address = |n: u16| {
        let [high, low] = n.to_be_bytes();
        Endpoint::at([10, 0, high, low].into())
    };
    let endpoints = (1..=endpoints).map(address).collect();
    let slice = Slice { name: "slice".into(), cluster: None, ports: Vec::new(), endpoints };
    Arc::new(ServiceEntry { service: Arc::new(service), slices: vec![Arc::new(slice)] })
}

pub(crate) fn query(name: &str, rtype: RecordType) -> Vec<u8> {
    let mut message = Message::new(0x4200, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), rtype));
    message.to_vec().expect("a query encodes")
}
