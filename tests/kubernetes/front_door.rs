//! The real binary on an API server behind a socket: names, endpoints, `portolan get`, and a start
//! while the server is away.

use std::path::Path;
use std::process::{Command, Stdio};

use domain::base::iana::{Rcode, Rtype};
use domain::resolv::stub::conf::Transport;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::support::apiserver::{ApiServer, Serving};
use crate::support::dns::ask;
use crate::support::{Process, portolan};
use crate::world::{populate, service, slice};

struct Cluster {
    server: ApiServer,
    serving: Serving,
    folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let server = ApiServer::new();
        populate(&server);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let serving = server.serve(listener);
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("kubeconfig"), serving.kubeconfig()).expect("written");
        Self { server, serving, folder }
    }

    fn run(&self) -> Process {
        run(self.folder.path())
    }
}

fn run(folder: &Path) -> Process {
    run_with(folder, &[])
}

fn run_with(folder: &Path, more: &[&str]) -> Process {
    let kubeconfig = folder.join("kubeconfig").display().to_string();
    let saved = format!("control.snapshot_file={}", folder.join("saved").display());
    let mut args = vec!["run", "--kubeconfig", &kubeconfig, "--set", &saved, "--log", "warn"];
    args.extend(["--admin", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0"]);
    args.extend(["--dns", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
    args.extend(more);
    Process::start(&args)
}

fn get(process: &mut Process, args: &[&str]) -> String {
    let admin = process.address("admin").to_string();
    let mut command = portolan();
    let output = command.arg("get").args(args).args(["--admin", &admin]).output();
    let output = output.expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "get {args:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_endpoints_follow_the_api_server() {
    let cluster = Cluster::start().await;
    let mut process = cluster.run();
    process.reach(1).await;
    let dns = process.address("dns");
    let names: &[(&str, Rcode, &[&str])] = &[
        ("web.shop.svc.cluster.local", Rcode::NOERROR, &["A 10.96.0.1"]),
        ("web.shop.svc.clusterset.local", Rcode::NOERROR, &["A 10.97.0.1"]),
        ("empty.svc.cluster.local", Rcode::NOERROR, &[]),
        ("nope.svc.cluster.local", Rcode::NXDOMAIN, &[]),
        ("api.shop.svc.clusterset.local", Rcode::NXDOMAIN, &[]),
    ];
    for (name, rcode, records) in names {
        let answer = ask(dns, Transport::UdpTcp, name, Rtype::A).await;
        let expected = records.iter().map(|r| format!("{name} {r}")).collect();
        assert_eq!((answer.rcode, answer.records), (*rcode, expected), "{name}");
    }
    let proxy = process.json("/debug/proxy").await;
    let of_web: Vec<&Value> =
        proxy["clusters"]["shop/web:80"].as_array().expect("endpoints").iter().collect();
    // They stand by locality.
    let mut addresses: Vec<&str> = of_web.iter().filter_map(|e| e["address"].as_str()).collect();
    addresses.sort_unstable();
    assert_eq!(addresses, ["10.0.1.1:8080", "10.0.1.2:8080", "10.0.2.4:8080"]);

    cluster.server.delete("EndpointSlice", "shop", "web-2");
    cluster.server.apply(service("late", 3, &[80]));
    process.reach(2).await;
    let late = || ask(dns, Transport::UdpTcp, "late.shop.svc.cluster.local", Rtype::A);
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while late().await.records.is_empty() {
        assert!(std::time::Instant::now() < deadline, "the new service has no name");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_gets_the_endpoints_of_its_node_or_zone_where_the_service_says_so() {
    let cluster = Cluster::start().await;
    let mut local = service("local", 20, &[80]);
    local["spec"]["internalTrafficPolicy"] = json!("Local");
    let mut near = service("near", 21, &[80]);
    near["spec"]["trafficDistribution"] = json!("PreferSameZone");
    // Endpoints run on node-0 (zone a), node-1 (zone b), node-2 (not known) in turn.
    let endpoints = [(1, true), (2, true), (3, true), (4, true)];
    for object in [local, near, slice("local", 20, &endpoints), slice("near", 21, &endpoints)] {
        cluster.server.apply(object);
    }
    let mut process = run_with(cluster.folder.path(), &["--set", "proxy.node_name=node-1"]);
    process.reach(1).await;
    let proxy = process.json("/debug/proxy").await;
    let addresses = |name: &str| -> Vec<String> {
        let endpoints = proxy["clusters"][name].as_array().expect("endpoints");
        endpoints.iter().filter_map(|e| e["address"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(addresses("shop/local:80"), ["10.0.20.1:8080", "10.0.20.4:8080"]);
    let near = proxy["clusters"]["shop/near:80"].as_array().expect("endpoints").iter();
    let used = near.filter(|e| e["priority"] == 0).filter_map(|e| e["address"].as_str());
    assert_eq!(used.collect::<Vec<_>>(), ["10.0.21.1:8080", "10.0.21.4:8080"]);
    assert_eq!(addresses("shop/near:80").len(), 4, "the others for when nothing near is left");
    assert_eq!(addresses("shop/web:80").len(), 3, "all of a service that says nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn get_shows_what_is_known_in_every_form_and_follows_changes() {
    let cluster = Cluster::start().await;
    let mut bad = slice("web", 9, &[(1, true)]);
    bad["endpoints"][0]["addresses"] = json!(["10.0.0.999"]);
    cluster.server.apply(bad);
    // Such slices are others', and no mistake.
    let mut names = slice("web", 8, &[]);
    names["addressType"] = json!("FQDN");
    cluster.server.apply(names);
    let mut process = cluster.run();
    process.reach(1).await;

    let table = get(&mut process, &["services"]);
    let expected = "\
NAMESPACE   NAME   TYPE                     CLUSTER-IP   PORTS            READY
shop        api    ClusterIP                10.96.0.2    80/TCP,443/TCP   1/1
shop        web    ClusterIP                10.96.0.1    80/TCP           3/4
shop        web    ClusterIP (clusterset)   10.97.0.1    80/TCP           0/0
";
    assert_eq!(table, expected);
    let table = get(&mut process, &["endpoints", "web", "-n", "shop"]);
    let expected = "\
NAMESPACE   SERVICE   ADDRESS    PORTS           STATE       ZONE   NODE
shop        web       10.0.1.1   p80:8080/TCP   ready       b      node-1
";
    let squeezed = |text: &str| -> Vec<Vec<String>> {
        text.lines().map(|l| l.split_whitespace().map(str::to_owned).collect()).collect()
    };
    assert_eq!(squeezed(&table)[..2], squeezed(expected)[..]);
    assert_eq!(table.lines().count(), 5, "{table}");
    assert!(get(&mut process, &["services", "-o", "wide"]).contains("POLICY"));
    assert!(get(&mut process, &["endpoints", "-o", "wide"]).contains("TARGET"));

    let list: Value =
        serde_json::from_str(&get(&mut process, &["services", "-o", "json"])).expect("JSON");
    assert_eq!((&list["kind"], list["items"].as_array().map(Vec::len)), (&json!("List"), Some(3)));
    let yaml = get(&mut process, &["services", "api", "-o", "yaml"]);
    let list: Value = serde_saphyr::from_str(&yaml).expect("YAML");
    assert_eq!(list["items"][0]["clusterIps"][0], "10.96.0.2");

    let rejected = get(&mut process, &["rejected"]);
    let line = rejected.lines().nth(1).expect("a row");
    assert_eq!(rejected.lines().count(), 2, "{rejected}");
    for part in ["rejected", "EndpointSlice shop/web-9", "addresses[0]", "is not an IP address"] {
        assert!(line.contains(part), "{rejected}");
    }

    let admin = process.address("admin").to_string();
    let mut watch = portolan();
    watch.args(["get", "endpoints", "web", "--watch", "-o", "json", "--admin", &admin]);
    let mut watch = Child::spawn(watch.stdout(Stdio::piped()));
    let first: Vec<Value> = (0..4).map(|_| watch.line()).collect();
    assert!(first.iter().all(|change| change["type"] == "ADDED"), "{first:?}");
    cluster.server.apply(slice("web", 2, &[(4, false), (5, true)]));
    let changes = [watch.line(), watch.line()];
    let told: Vec<(&str, &str, bool)> = changes
        .iter()
        .map(|c| {
            let row = &c["object"];
            let text = |v: &'static str, of: &'_ Value| of[v].as_str().map(str::to_owned);
            let (kind, address) = (text("type", c), text("address", row));
            (leak(kind), leak(address), row["ready"] == true)
        })
        .collect();
    let expected = [("MODIFIED", "10.0.2.4", false), ("ADDED", "10.0.2.5", true)];
    assert_eq!(told, expected);
}

/// Texts of a test live as long as the test.
fn leak(text: Option<String>) -> &'static str {
    text.unwrap_or_default().leak()
}

/// A process whose output is read line by line, killed when dropped.
struct Child {
    child: std::process::Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Child {
    fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let stdout = child.stdout.take().expect("piped");
        let lines = std::io::BufRead::lines(std::io::BufReader::new(stdout));
        Self { child, lines }
    }

    fn line(&mut self) -> Value {
        let line = self.lines.next().expect("another line").expect("readable");
        serde_json::from_str(&line).expect("JSON")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_while_the_api_server_is_away_serves_what_was_saved() {
    let cluster = Cluster::start().await;
    let mut process = cluster.run();
    process.reach(1).await;
    process.signal("TERM");
    assert_eq!(process.wait(), Some(0));
    let Cluster { server, serving, folder } = cluster;
    let address = serving.address();
    serving.stop().await;

    let mut process = run(folder.path());
    process.reach(1).await;
    let dns = process.address("dns");
    let answer = ask(dns, Transport::UdpTcp, "web.shop.svc.cluster.local", Rtype::A).await;
    assert_eq!(answer.records.len(), 1, "the copy is served");
    let (status, text) = process.admin("/readyz").await;
    assert!(status == 200 && text.starts_with("stale: "), "{status} {text}");
    assert_eq!(process.metric("portolan_snapshot_stale").await, Some(1.0));

    server.delete("Service", "shop", "web");
    let listener = TcpListener::bind(address).await.expect("the port is free again");
    let _serving = server.serve(listener);
    let deadline = std::time::Instant::now() + crate::support::PATIENCE;
    while process.metric("portolan_snapshot_stale").await != Some(0.0) {
        assert!(std::time::Instant::now() < deadline, "it is stale still");
    }
    process.reach(2).await;
    let answer = ask(dns, Transport::UdpTcp, "web.shop.svc.cluster.local", Rtype::A).await;
    assert_eq!(answer.rcode, Rcode::NXDOMAIN, "what is gone from the server goes");
}
