//! One row: a process with the server, which publishes, reads its own memory and time, and asks the
//! clients' process when they had what was published.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use portolan_model::Snapshot;
use portolan_runtime::bind::{self, Sharing};
use portolan_runtime::{Lifecycle, Metrics, Publisher, Readiness, publish};
use portolan_xds::{ServerConfig, ServerLimits, XdsServer};

use super::grpc::Variant;
use super::reading::{cpu, forget_peak, kilobytes, micros, percentiles};
use super::world;

/// Changes of each kind.
const CHANGES: u16 = 300;
/// Pause after each publish that concerns nobody: nothing tells when it is through.
const PACE: Duration = Duration::from_millis(5);
/// Until memory that was given back is.
const QUIET: Duration = Duration::from_secs(3);
/// How long the idle server is watched: every connection is probed once in the meantime.
const IDLE: Duration = Duration::from_secs(20);
/// Longest wait for the clients.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn print_streams_head() {
    println!(
        "| variant | streams | first full state of all | memory per stream | CPU idle | change for \
         all: p50 | p99 | max | CPU | for 1,000: p50 | p99 | max | CPU | for nobody: CPU |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
}

pub(crate) fn print_envoys_head() {
    println!("| variant | clients | first full state of all | CPU | peak memory | memory after |");
    println!("|---|---:|---:|---:|---:|---:|");
}

/// The row of clients subscribed to a few services each.
pub(crate) fn streams(variant: Variant, count: usize) {
    let mut row = Row::start();
    let before = kilobytes("VmRSS:");
    let began = micros();
    let clients = Clients::start(&row, variant, count, "grpc");
    let full = since(began, clients.line("full "));
    park_timeout(QUIET);
    let memory = (kilobytes("VmRSS:") - before) / f64::from(u32::try_from(count).expect("small"));
    let (at, busy) = (Instant::now(), cpu());
    park_timeout(IDLE);
    let idle = (cpu() - busy).as_secs_f64() / at.elapsed().as_secs_f64();
    let all = row.hot(0, &clients);
    let some = row.hot(1, &clients);
    let cold = row.cold();
    let name = variant.name();
    let idle = idle * 100.0;
    println!(
        "| {name} | {count} | {full:.0} ms | {memory:.1} KiB | {idle:.2} % | {all} | {some} | {cold:.0} µs |"
    );
}

/// The row of clients that want everything.
pub(crate) fn envoys(variant: Variant, count: usize) {
    let row = Row::start();
    let before = kilobytes("VmRSS:");
    forget_peak();
    let (began, busy) = (micros(), cpu());
    let clients = Clients::start(&row, variant, count, "envoy");
    let full = since(began, clients.line("full "));
    let took = (cpu() - busy).as_secs_f64() * 1e3;
    park_timeout(QUIET);
    let mib = |name: &str| (kilobytes(name) - before) / 1024.0;
    let (peak, after, name) = (mib("VmHWM:"), mib("VmRSS:"), variant.name());
    println!("| {name} | {count} | {full:.0} ms | {took:.0} ms | {peak:.1} MiB | {after:.1} MiB |");
}

/// Milliseconds.
fn since(began: u64, at: u64) -> f64 {
    Duration::from_micros(at.saturating_sub(began)).as_secs_f64() * 1e3
}

/// The server, and what it serves.
struct Row {
    snapshot: Snapshot,
    publisher: Publisher,
    address: SocketAddr,
    /// What the whole of it took to make is not counted as a client's.
    _runtime: tokio::runtime::Runtime,
}

impl Row {
    fn start() -> Self {
        let snapshot = world::snapshot();
        let (publisher, subscriber) = publish::channel();
        let (lifecycle, metrics) = (Lifecycle::new(), Metrics::new());
        let gate = Readiness::new(lifecycle.clone(), &metrics).gate("xds");
        let limits = ServerLimits { streams_per_sec: 1_000_000, ..ServerLimits::default() };
        let config = ServerConfig { limits, ..ServerConfig::default() };
        let server = XdsServer::new(world::resources(), config, &metrics).expect("no TLS");
        let clients = server.clients();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = bind::tcp(any, "xds", Sharing::Exclusive).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.spawn(server.run(listener, subscriber, gate, lifecycle));
        let generation = publisher.publish(&snapshot, BTreeSet::new());
        while clients.announced() < generation {
            park_timeout(Duration::from_millis(10));
        }
        park_timeout(QUIET);
        Self { snapshot, publisher, address, _runtime: runtime }
    }

    fn publish(&mut self, number: u32, stamp: Ipv4Addr) {
        self.snapshot.apply(world::entry(number, Some(stamp)));
        self.publisher.publish(&self.snapshot, BTreeSet::from([world::touched(number)]));
    }

    /// Changes of a service that clients are subscribed to, each once the one before has arrived.
    fn hot(&mut self, hot: usize, clients: &Clients) -> String {
        let busy = cpu();
        let mut delays = Vec::new();
        for n in 0..CHANGES {
            let began = micros();
            self.publish(world::HOT[hot], world::stamp(hot, n));
            delays.push(since(began, clients.line("stamp ")));
        }
        let each = (cpu() - busy).as_secs_f64() * 1e6 / f64::from(CHANGES);
        let [p50, p99, max] = percentiles(delays);
        format!("{p50:.1} ms | {p99:.1} ms | {max:.1} ms | {each:.0} µs")
    }

    /// Microseconds of a change that concerns nobody.
    fn cold(&mut self) -> f64 {
        park_timeout(Duration::from_secs(1));
        let busy = cpu();
        for n in 0..CHANGES {
            self.publish(world::COLD + u32::from(n), world::stamp(0, n));
            park_timeout(PACE);
        }
        (cpu() - busy).as_secs_f64() * 1e6 / f64::from(CHANGES)
    }
}

/// The clients' process.
struct Clients {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Clients {
    fn start(row: &Row, variant: Variant, count: usize, kind: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--clients", &row.address.to_string(), variant.name()])
            .args([&count.to_string(), kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The time in the next line, which begins so.
    fn line(&self, prefix: &str) -> u64 {
        let line = self.lines.recv_timeout(PATIENCE).expect("the clients get there");
        let rest = line.strip_prefix(prefix).unwrap_or_else(|| panic!("{line:?}, not {prefix:?}"));
        rest.parse().expect("a time")
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
