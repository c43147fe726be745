//! The control loop on a Kubernetes API at 1,000 to 150,000 endpoints: how long a start takes, what
//! memory it holds and needs at most while it lists anew, what a change costs and how soon it is
//! published; and what the DNS table of that cluster takes on top.
//!
//! `cargo bench --bench kubernetes [-- ENDPOINTS…]`. The API server is the scripted one of the
//! tests, in this process; the loop runs alone in a child process, so that its memory and time are
//! its own. A change carries the time it was made in a host name; the child says when it saw it.

#![allow(dead_code, clippy::allow_attributes, reason = "the server is the tests' own")]

#[path = "../tests/support"]
mod support {
    pub(crate) mod apiserver;
}

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portolan_control::kubernetes::Connect;
use portolan_control::report::{ControlMetrics, Reports};
use portolan_control::{Kubernetes, Pace};
use portolan_dns::{DnsConfig, Table};
use portolan_model::{Changes, Key, Service, ServiceEntry, ServiceKind, Snapshot};
use portolan_runtime::{Lifecycle, Metrics, Readiness, publish};
use serde_json::{Value, json};
use support::apiserver::{ApiServer, Call};
use tokio::net::TcpListener;

const SIZES: [usize; 4] = [1_000, 10_000, 50_000, 150_000];
/// As at the largest size Kubernetes is tested for: 10,000 services, 5,000 nodes.
const PER_SERVICE: usize = 15;
const PER_NODE: usize = 30;
/// Changes a second, and for how many seconds.
const RATE: u32 = 1_000;
const SECONDS: u32 = 10;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match args.first().map(String::as_str) {
        Some("--loop") => run_loop(PathBuf::from(&args[1])),
        _ => {
            let mut sizes: Vec<usize> = args.iter().filter_map(|a| a.parse().ok()).collect();
            if sizes.is_empty() {
                sizes = SIZES.to_vec();
            }
            println!(
                "| endpoints | lists | start to snapshot | of it the publish | resident | peak of \
                 a relist | CPU per change | delay p50 | delay p99 | delay max | generations | DNS table | all headless |"
            );
            println!("|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
            for size in sizes {
                for streaming in [true, false] {
                    measure(size, streaming);
                }
            }
        }
    }
}

// ---- the parent: server, changes, readings of the child

fn measure(endpoints: usize, streaming: bool) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let server = ApiServer::new().streaming_lists(streaming);
    server.load(cluster(endpoints));
    let serving = runtime.block_on(async {
        server.serve(TcpListener::bind("127.0.0.1:0").await.expect("a free port"))
    });
    let folder = tempfile::tempdir().expect("a folder");
    let kubeconfig = folder.path().join("kubeconfig");
    std::fs::write(&kubeconfig, serving.kubeconfig()).expect("written");

    let started = Instant::now();
    let mut child = Loop::start(&kubeconfig);
    let first = child.line("first ");
    let start = started.elapsed();
    std::thread::park_timeout(Duration::from_secs(2));
    let resident = child.memory("VmRSS:");

    // What was seen is forgotten and every watch breaks: all is listed anew.
    child.forget_peak();
    let listed = lists(&server);
    server.apply(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "other", "namespace": "ns-0" }, "spec": {},
    }));
    server.compact();
    server.cut_watches();
    let deadline = Instant::now() + Duration::from_secs(120);
    while lists(&server) < listed + 5 || !all_watched(&server) {
        assert!(Instant::now() < deadline, "no relist");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    std::thread::park_timeout(Duration::from_secs(2));
    let peak = child.memory("VmHWM:");

    let cpu = child.cpu();
    let services = endpoints.div_ceil(PER_SERVICE);
    let begun = Instant::now();
    for n in 0..RATE * SECONDS {
        let due = begun + Duration::from_secs(1) / RATE * n;
        while Instant::now() < due {
            std::thread::park_timeout(due - Instant::now());
        }
        let service = usize::try_from(n).expect("small") * 7919 % services;
        server.apply(slice(service, endpoints, Some(&format!("t-{}", micros()))));
    }
    std::thread::park_timeout(Duration::from_secs(1));
    let changed = child.cpu() - cpu;
    let delays = child.ask("delays", "delays ");
    let own = child.memory("VmRSS:");
    child.ask("dns", "table ");
    let dns = child.memory("VmRSS:") - own;
    child.ask("headless", "table ");
    let headless = child.memory("VmRSS:") - own;
    println!(
        "| {endpoints} | {} | {:.2} s | {first} ms | {:.0} MB | {:.0} MB ({:.2}x) | {:.0} µs | {delays} | {dns:.0} MB | {headless:.0} MB |",
        if streaming { "streamed" } else { "paged" },
        start.as_secs_f64(),
        resident,
        peak,
        peak / resident,
        changed.as_secs_f64() * 1e6 / f64::from(RATE * SECONDS),
    );
    drop(child);
    runtime.block_on(serving.stop());
}

/// Lists made so far, of either form.
fn lists(server: &ApiServer) -> usize {
    let first = |c: &Call| {
        !c.param("sendInitialEvents").is_empty()
            || (c.verb == "list" && c.param("continue").is_empty())
    };
    server.calls().iter().filter(|c| first(c)).count()
}

fn all_watched(server: &ApiServer) -> bool {
    ["Namespace", "Node", "Service", "ServiceImport", "EndpointSlice"]
        .iter()
        .all(|kind| server.open_watches(kind) > 0)
}

fn micros() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_micros()
}

fn cluster(endpoints: usize) -> Vec<Value> {
    let services = endpoints.div_ceil(PER_SERVICE);
    let nodes = endpoints.div_ceil(PER_NODE);
    let namespaces = (0..50).map(|n| {
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": format!("ns-{n}") } })
    });
    let nodes = (0..nodes).map(|n| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": format!("node-{n:04}"),
                "labels": { "topology.kubernetes.io/zone": format!("zone-{}", n % 3),
                            "kubernetes.io/hostname": format!("node-{n:04}") },
                "managedFields": [{ "manager": "kubelet", "operation": "Update" }],
            },
            "status": {
                "addresses": [
                    { "type": "InternalIP", "address": format!("172.16.{}.{}", n / 256, n % 256) },
                    { "type": "Hostname", "address": format!("node-{n:04}") } ],
                "capacity": { "cpu": "8", "memory": "32Gi", "pods": "110" },
            },
        })
    });
    let all_services = (0..services).map(service);
    let slices = (0..services).map(|n| slice(n, endpoints, None));
    namespaces.chain(nodes).chain(all_services).chain(slices).collect()
}

fn service(n: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": format!("svc-{n:05}"), "namespace": format!("ns-{}", n % 50),
            "labels": { "app": format!("svc-{n:05}") },
            "managedFields": [{ "manager": "kubectl", "operation": "Update",
                "fieldsV1": { "f:spec": { "f:ports": {}, "f:selector": {}, "f:type": {} } } }],
        },
        "spec": {
            "clusterIP": format!("10.{}.{}.{}", 96 + n / 65_536, n / 256 % 256, n % 256),
            "clusterIPs": [format!("10.{}.{}.{}", 96 + n / 65_536, n / 256 % 256, n % 256)],
            "internalTrafficPolicy": "Cluster", "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None", "type": "ClusterIP",
            "selector": { "app": format!("svc-{n:05}") },
            "ports": [
                { "name": "main", "port": 80, "protocol": "TCP", "targetPort": "main" },
                { "name": "metrics", "port": 9090, "protocol": "TCP", "targetPort": 9090 } ],
        },
        "status": { "loadBalancer": {} },
    })
}

/// The slice of a service; `stamp` is the host name of its first endpoint.
fn slice(n: usize, endpoints: usize, stamp: Option<&str>) -> Value {
    let first = n * PER_SERVICE;
    let count = PER_SERVICE.min(endpoints - first);
    let members: Vec<Value> = (first..first + count)
        .map(|e| {
            let mut member = json!({
                "addresses": [format!("100.{}.{}.{}", 64 + e / 65_536, e / 256 % 256, e % 256)],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": format!("node-{:04}", e / PER_NODE),
                "targetRef": { "kind": "Pod", "namespace": format!("ns-{}", n % 50),
                    "name": format!("svc-{n:05}-7f9c5d6b8-{e:05}"),
                    "uid": format!("00000000-0000-4000-9000-{e:012x}") },
                "zone": format!("zone-{}", e / PER_NODE % 3),
            });
            if let Some(stamp) = stamp.filter(|_| e == first) {
                member["hostname"] = stamp.into();
            }
            member
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("svc-{n:05}-abcde"), "namespace": format!("ns-{}", n % 50),
            "labels": { "app": format!("svc-{n:05}"),
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": format!("svc-{n:05}") },
            "managedFields": [{ "manager": "kube-controller-manager", "operation": "Update",
                "fieldsV1": { "f:endpoints": {}, "f:metadata": { "f:labels": {} } } }],
        },
        "addressType": "IPv4",
        "ports": [ { "name": "main", "port": 8080, "protocol": "TCP" },
                   { "name": "metrics", "port": 9090, "protocol": "TCP" } ],
        "endpoints": members,
    })
}

/// The child process.
struct Loop {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Loop {
    fn start(kubeconfig: &std::path::Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .arg("--loop")
            .arg(kubeconfig)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdin, stdout }
    }

    /// The rest of the next line, which begins so.
    fn line(&mut self, prefix: &str) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("readable");
        let rest = line.trim_end().strip_prefix(prefix);
        rest.unwrap_or_else(|| panic!("{line:?} does not begin with {prefix:?}")).to_owned()
    }

    fn ask(&mut self, question: &str, prefix: &str) -> String {
        writeln!(self.stdin, "{question}").expect("it reads");
        self.line(prefix)
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    /// In megabytes.
    fn memory(&self, name: &str) -> f64 {
        let text = std::fs::read_to_string(self.proc("status")).expect("readable");
        let line = text.lines().find_map(|l| l.strip_prefix(name)).expect("it is there");
        let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes / 1024.0
    }

    fn forget_peak(&self) {
        std::fs::write(self.proc("clear_refs"), "5").expect("allowed for a child");
    }

    /// Time on a processor so far, in user and system mode.
    fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(self.proc("stat")).expect("readable");
        let fields: Vec<&str> =
            text.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks = |n: usize| -> u64 { fields[n].parse().expect("a number") };
        // Ticks of 10 ms, as on every Linux of today.
        Duration::from_millis(10 * (ticks(11) + ticks(12)))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

// ---- the child: the loop, and what it published when

fn run_loop(kubeconfig: PathBuf) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let (lifecycle, metrics) = (Lifecycle::new(), Metrics::new());
        let gate = Readiness::new(lifecycle.clone(), &metrics).gate("control");
        let (publisher, mut snapshots) = publish::channel();
        let connect = Connect { kubeconfig: Some(kubeconfig), context: None };
        let client = connect.client().await.expect("a client");
        let control = ControlMetrics::new(&metrics);
        let control = Kubernetes::new(client, Pace::default(), Reports::default(), control);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(control.run(publisher, gate, lifecycle));

        let first = snapshots.next().await.expect("published");
        let text = metrics.encode().expect("metrics");
        let name = "portolan_control_publish_seconds_sum ";
        let took = text.lines().find_map(|l| l.strip_prefix(name)).expect("it is there");
        let took: f64 = took.parse().expect("a number");
        println!("first {:.2}", took * 1000.0);
        drop(first);

        let mut seen = Seen::default();
        let (mut newest, mut table) = (Snapshot::default(), None);
        let (sender, mut questions) = tokio::sync::mpsc::channel(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lines().map_while(Result::ok) {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        loop {
            tokio::select! {
                update = snapshots.next() => {
                    let update = update.expect("the loop runs");
                    seen.on_update(&update.snapshot, &update.changes);
                    newest = Snapshot::clone(&update.snapshot);
                }
                question = questions.recv() => match question {
                    Some(question) if question == "delays" => println!("delays {}", seen.show()),
                    Some(question) => {
                        // The one before it goes first.
                        drop(table.take());
                        table = Some(dns_table(&newest, question == "headless"));
                        println!("table {}", table.as_ref().map_or(0, Table::len));
                    }
                    None => return,
                }
            }
        }
    });
}

/// The DNS table of a snapshot; with `headless`, as if all its services were, so that every endpoint
/// has names.
fn dns_table(snapshot: &Snapshot, headless: bool) -> Table {
    let mut snapshot = snapshot.clone();
    if headless {
        let entries: Vec<ServiceEntry> =
            snapshot.services().map(|(_, e)| ServiceEntry::clone(e)).collect();
        for mut entry in entries {
            let mut service = Service::clone(&entry.service);
            service.kind = ServiceKind::Headless;
            entry.service = service.into();
            snapshot.apply(entry.into());
        }
    }
    let empty = Table::new(&DnsConfig::default()).expect("the default config");
    empty.apply(&snapshot, &Changes::Everything)
}

/// Delays from the making of a change to its publish.
#[derive(Default)]
struct Seen {
    delays: Vec<u128>,
    generations: usize,
}

impl Seen {
    fn on_update(&mut self, snapshot: &Snapshot, changes: &Changes) {
        let Changes::Keys(keys) = changes else { return };
        let now = micros();
        self.generations += 1;
        for key in keys {
            let Key::Service(key) = key else { continue };
            let endpoints =
                snapshot.lookup(key).into_iter().flat_map(|e| &e.slices).flat_map(|s| &s.endpoints);
            let stamps = endpoints.filter_map(|e| e.hostname.as_deref()?.strip_prefix("t-"));
            self.delays.extend(stamps.filter_map(|s| Some(now - s.parse::<u128>().ok()?)));
        }
    }

    fn show(&mut self) -> String {
        self.delays.sort_unstable();
        let at = |percent: usize| {
            let n = (self.delays.len().saturating_sub(1)) * percent / 100;
            self.delays.get(n).copied().unwrap_or(0) / 1000
        };
        format!("{} ms | {} ms | {} ms | {}", at(50), at(99), at(100), self.generations)
    }
}
