//! Why a request went where it did: `portolan why` and `portolan get requests` on the real binary.

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Instant;

use portolan_backends::shop::Shop;
use portolan_runtime::Lifecycle;
use serde_json::Value;
use support::{PATIENCE, Process, output};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A service whose endpoints take no connection, one without endpoints, and a route with a name.
fn more(gone: [SocketAddr; 2]) -> String {
    let [one, other] = gone.map(|at| (at.ip(), at.port()));
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: lost, namespace: shop}}
spec: {{ports: [{{name: http, port: 80, appProtocol: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: lost-1, namespace: shop, labels: {{kubernetes.io/service-name: lost}}}}
addressType: IPv4
ports: [{{name: http, port: {}}}]
endpoints: [{{addresses: ["{}"], conditions: {{ready: true}}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: lost-2, namespace: shop, labels: {{kubernetes.io/service-name: lost}}}}
addressType: IPv4
ports: [{{name: http, port: {}}}]
endpoints: [{{addresses: ["{}"], conditions: {{ready: true}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: empty, namespace: shop}}
spec: {{ports: [{{name: http, port: 80, appProtocol: http}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: web}}]
  rules:
    - name: bag
      matches: [{{path: {{type: PathPrefix, value: /cart}}}}]
      backendRefs: [{{name: web, port: 80}}]
    - name: broken
      matches: [{{path: {{type: PathPrefix, value: /broken}}}}]
      backendRefs: [{{name: nobody, port: 80}}]
"#,
        one.1, one.0, other.1, other.0
    )
}

/// An address at which nobody listens: it was just given up.
fn nobody(ip: [u8; 4]) -> SocketAddr {
    let socket = TcpListener::bind(SocketAddr::from((ip, 0))).expect("a free port");
    socket.local_addr().expect("an address")
}

/// A running binary and what stays while it does.
struct World {
    _shop: Shop,
    _folder: tempfile::TempDir,
    process: Process,
    admin: String,
    gone: [SocketAddr; 2],
}

impl World {
    async fn start(settings: &[&str]) -> Self {
        let shop = Shop::start_on_free_ports(Lifecycle::new()).expect("the backends start");
        let folder = tempfile::tempdir().expect("a folder");
        shop.write_manifests(folder.path()).expect("manifests");
        let gone = [nobody([127, 88, 0, 1]), nobody([127, 88, 0, 2])];
        write(folder.path(), &more(gone));
        let set: Vec<&str> = settings.iter().flat_map(|one| ["--set", one]).collect();
        let mut process = Process::run(folder.path(), &set);
        process.reach(1).await;
        let admin = process.address("admin").to_string();
        Self { _shop: shop, _folder: folder, process, admin, gone }
    }

    /// Asks for a path of a host, with this request id if any: the status, and the id in the answer.
    async fn get(&mut self, host: &str, path: &str, id: Option<&str>) -> (u16, Option<String>) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let url = format!("http://{}{path}", self.process.address("proxy http http"));
        let mut request = client.get(url).header("host", host);
        if let Some(id) = id {
            request = request.header("x-request-id", id);
        }
        let answer = request.send().await.expect("an answer");
        let id = answer.headers().get("x-request-id").map(|id| id.to_str().expect("text").into());
        (answer.status().as_u16(), id)
    }

    /// What `portolan why` says, which may be there a moment after the answer.
    async fn why(&self, what: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = output(&["why", what, "--admin", &self.admin]);
            if said.status.success() {
                return String::from_utf8(said.stdout).expect("UTF-8");
            }
            let error = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(Instant::now() < deadline, "{error}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn record(&self, id: &str) -> Value {
        self.why(id).await;
        let said = output(&["why", id, "--admin", &self.admin, "-o", "json"]);
        serde_json::from_slice(&said.stdout).expect("JSON")
    }
}

fn write(folder: &Path, text: &str) {
    std::fs::write(folder.join("more.yaml"), text).expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_failed_is_explained_by_the_id_in_its_answer() {
    let mut world = World::start(&[]).await;

    let (status, id) = world.get("nobody.example", "/x?secret=1", None).await;
    assert_eq!(status, 404);
    let id = id.expect("an answer of the proxy's says the id");
    let said = world.why(&id).await;
    assert!(said.starts_with("GET nobody.example/x: 404, no_route\n"), "{said}");
    assert!(said.contains("\ngeneration  1\nroute       none\n"), "{said}");
    assert!(!said.contains("secret"), "the query may hold what is nobody's business: {said}");

    let (status, id) = world.get("empty.shop", "/", Some("mine-1")).await;
    assert_eq!((status, id.as_deref()), (503, Some("mine-1")));
    let said = world.why("mine-1").await;
    assert!(said.starts_with("GET empty.shop/: 503, no_endpoints\n"), "{said}");
    assert!(said.contains("\ncluster     shop/empty:80, "), "{said}");
    assert!(said.contains(" of 0 endpoints\n"), "{said}");
    // The beginning of the id is enough.
    assert_eq!(world.why("mine").await, said);

    let (status, _) = world.get("lost.shop", "/", Some("mine-2")).await;
    assert_eq!(status, 503);
    let record = world.record("mine-2").await;
    assert_eq!(record["reason"], "connect_failed");
    assert!(record["generation"].is_u64(), "{record}");
    let tries = record["tries"].as_array().expect("a list");
    assert_eq!(tries.len(), 2, "{record}");
    for gone in world.gone {
        let own = tries.iter().find(|one| one["endpoint"] == gone.to_string());
        let outcome = own.expect("each is tried")["outcome"].as_str().expect("text").to_owned();
        assert!(outcome.starts_with("no connection: "), "{outcome}");
    }
    let why: Vec<&Value> = record["candidates"].as_array().expect("a list").iter().collect();
    assert_eq!(why.len(), 2);
    for one in why {
        assert_eq!((&one["tried"], one["passedOver"].is_string()), (&true.into(), true), "{one}");
    }

    // A rule whose backend is not there fails as the route says, and is a failure all the same.
    let (status, id) = world.get("web.shop", "/broken?secret=1", Some("mine-3")).await;
    assert_eq!((status, id.as_deref()), (500, Some("mine-3")));
    let said = world.why("mine-3").await;
    assert!(said.starts_with("GET web.shop/broken: 500, direct_response\n"), "{said}");
    assert!(
        said.contains("\nroute       HTTPRoute shop/cart rule broken: virtual host "),
        "{said}"
    );
    assert!(!said.contains("secret"), "{said}");

    let hostile = "GET http://me:secret@web.shop/#secret HTTP/1.1\r\nhost: web.shop\r\n\
                   x-request-id: mine-4\r\nconnection: close\r\n\r\n";
    let to = world.process.address("proxy http http");
    let mut stream = tokio::net::TcpStream::connect(to).await.expect("it listens");
    stream.write_all(hostile.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");

    let last = output(&["why", "--last-failed", "--admin", &world.admin]);
    assert!(last.status.success());
    let last = String::from_utf8_lossy(&last.stdout).into_owned();
    assert!(last.contains("bad_request") || last.contains("mine-3"), "{last}");
    assert!(!last.contains("secret"), "{last}");

    // A success has none unless it is sampled, and an id that nobody knows is said to be none.
    let (status, id) = world.get("web.shop", "/cart", Some("good-1")).await;
    assert_eq!((status, id), (200, None));
    let said = output(&["why", "unknown-id", "--admin", &world.admin]);
    assert_eq!(said.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&said.stderr).contains("no record of \"unknown-id\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_succeeded_is_explained_when_it_is_sampled() {
    let mut world = World::start(&["proxy.decisions.sample=1", "proxy.decisions.good=3"]).await;
    assert_eq!(world.get("web.shop", "/cart/1", Some("good-1")).await.0, 200);
    let record = world.record("good-1").await;
    assert_eq!((&record["failed"], &record["status"]), (&false.into(), &200.into()));
    assert_eq!(record["route"]["name"], "HTTPRoute shop/cart rule bag");
    assert_eq!(record["route"]["path"], "/cart/*");
    assert_eq!((&record["cluster"], &record["endpoints"]), (&"shop/web:80".into(), &3.into()));
    let tries = record["tries"].as_array().expect("a list");
    assert_eq!((tries.len(), &tries[0]["outcome"]), (1, &"answered 200".into()), "{record}");
    assert!(tries[0]["connectMs"].is_f64(), "the first has a new connection: {record}");
    let candidates = record["candidates"].as_array().expect("a list");
    let tried = candidates.iter().filter(|one| one["tried"] == true).count();
    let could = candidates.iter().filter(|one| one["passedOver"].is_null()).count();
    assert_eq!((tried, could), (1, 3), "{record}");
    let times = &record["times"];
    let ordered = ["firstTryMs", "headMs", "totalMs"].map(|name| times[name].as_f64().expect(name));
    assert!(ordered.is_sorted(), "{times}");

    // What no rule takes is no longer the service's (the route stands in its place).
    assert_eq!(world.get("web.shop", "/elsewhere", Some("bad-1")).await.0, 404);
    for id in ["good-2", "good-3", "good-4"] {
        assert_eq!(world.get("web.shop", "/cart", Some(id)).await.0, 200);
        world.why(id).await;
    }
    let table = output(&["get", "requests", "--admin", &world.admin]);
    let table = String::from_utf8(table.stdout).expect("UTF-8");
    assert!(table.starts_with("TIME"), "{table}");
    let has = |id: &str| table.lines().any(|line| line.contains(id));
    let seen = ["good-1", "good-2", "good-3", "good-4", "bad-1"].map(has);
    assert_eq!(seen, [false, true, true, true, true], "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_are_kept_and_so_many_made_in_a_second() {
    let mut world = World::start(&["proxy.workers=1", "proxy.decisions.failed=5"]).await;
    for n in 0..400 {
        assert_eq!(world.get("nobody.example", "/", Some(&format!("r-{n}"))).await.0, 404);
    }
    let list = output(&["get", "requests", "-o", "json", "--admin", &world.admin]);
    let list: Value = serde_json::from_slice(&list.stdout).expect("JSON");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(5));
    let made = world.process.metric("portolan_proxy_decisions_total").await.expect("a metric");
    let dropped = "portolan_proxy_decisions_dropped_total";
    let dropped = world.process.metric(dropped).await.expect("a metric");
    assert_eq!(made + dropped, 400.0, "each that failed is recorded, or counted as not");

    // A process without a proxy says so.
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let mut args = vec!["control", "--manifests", path, "--admin", "127.0.0.1:0"];
    args.extend(["--xds-listen", "127.0.0.1:0"]);
    let mut control = Process::start(&args);
    let admin = control.address("admin").to_string();
    let said = output(&["why", "--last-failed", "--admin", &admin]);
    assert!(String::from_utf8_lossy(&said.stderr).contains("has no proxy"), "{said:?}");
}
