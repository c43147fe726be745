//! A canary that falls behind loses its weight, from the load reports of our proxy, or of an Envoy, to
//! what `portolan get` shows; through the front door.

#![expect(
    clippy::disallowed_methods,
    reason = "a test's tasks end with its runtime; their handles are awaited where it matters"
)]

mod support;

#[path = "foreign/backend.rs"]
#[expect(dead_code, reason = "the backends need a part of it")]
mod backend;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use backend::Backend;
use support::envoy::Envoy;
use support::{PATIENCE, Process, free_address, output, replace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Of so many requests at most the canary's share is looked at.
const SAMPLE: usize = 100;

struct World {
    process: Process,
    _envoy: Option<Envoy>,
    edge: SocketAddr,
    stable: Backend,
    canary: Backend,
    folder: tempfile::TempDir,
    route: String,
}

fn service(name: &str, backend: &Backend) -> String {
    let port = backend.address.port();
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: \
         {{clusterIP: None, ports: [{{port: 80, targetPort: {port}}}]}}}}\n---\n{{apiVersion: \
         discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: {name}-1, namespace: shop, labels: \
         {{kubernetes.io/service-name: {name}}}}}, addressType: IPv4, ports: [{{port: {port}}}], \
         endpoints: [{{addresses: [127.0.0.1]}}]}}\n"
    )
}

fn gateway(edge: SocketAddr) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: edge, \
         namespace: shop}}, spec: {{gatewayClassName: portolan, addresses: [{{value: {}}}], listeners: \
         [{{name: http, port: {}, protocol: HTTP}}]}}}}\n",
        edge.ip(),
        edge.port()
    )
}

const ROUTE: &str = "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: web
  namespace: shop
  annotations:
    portolan.dev/rollback: 'on'
    portolan.dev/rollback-latency-margin-percent: 'LATENCY'
    portolan.dev/rollback-min-requests: '20'
    portolan.dev/rollback-window: 5s
    portolan.dev/rollback-attempt: '1'
spec:
  parentRefs: [{name: edge}]
  rules:
  - backendRefs: [{name: web, port: 80, weight: 70}, {name: web-next, port: 80, weight: 30}]
";

impl World {
    /// `None` where an Envoy is asked for and there is none.
    async fn start(with_envoy: bool, latency: &str) -> Option<Self> {
        let route = ROUTE.replace("LATENCY", latency);
        let program = if with_envoy { Some(Envoy::find()?) } else { None };
        let (stable, canary) = (Backend::start("stable").await, Backend::start("canary").await);
        let edge = free_address();
        let folder = tempfile::tempdir().expect("a folder");
        let manifests = folder.path().join("manifests");
        std::fs::create_dir(&manifests).expect("made");
        let all = [service("web", &stable), service("web-next", &canary), gateway(edge)].concat();
        std::fs::write(manifests.join("shop.yaml"), all).expect("written");
        std::fs::write(manifests.join("route.yaml"), &route).expect("written");
        let mut more = vec!["--set", "xds.load_reports=on"];
        more.extend(["--set", "xds.load_report_interval_secs=1"]);
        if with_envoy {
            // The Gateway is for the Envoy alone.
            more.extend(["--set", "proxy.gateways=shop/nobody"]);
        }
        let mut process = Process::run(&manifests, &more);
        process.reach(1).await;
        let envoy = program.map(|program| {
            let xds = process.address("xds").to_string();
            let bootstrap = ["--server", &xds, "--load-reports", "--node-id", "edge"];
            let bootstrap = [&bootstrap[..], &["--gateway", "shop/edge"]].concat();
            Envoy::start(&program, &bootstrap, &folder.path().join("envoy.yaml"))
        });
        let world = Self { process, _envoy: envoy, edge, stable, canary, folder, route };
        let deadline = Instant::now() + PATIENCE;
        while world.ask().await != Some(200) {
            assert!(Instant::now() < deadline, "it serves");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Some(world)
    }

    /// Asks once; the status of the answer.
    async fn ask(&self) -> Option<u16> {
        let mut stream = TcpStream::connect(self.edge).await.ok()?;
        let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()
    }

    /// Asks so often, and how often the canary was asked.
    async fn share(&self, requests: usize) -> usize {
        let before = self.canary.requests();
        for _ in 0..requests {
            self.ask().await;
        }
        self.canary.requests() - before
    }

    /// Asks until the canary gets what it should.
    async fn until(&self, about: &str, fits: impl Fn(usize) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let share = self.share(SAMPLE).await;
            if fits(share) {
                return;
            }
            assert!(Instant::now() < deadline, "{about}: {share} of {SAMPLE}");
        }
    }

    fn get(&mut self, what: &str) -> String {
        let admin = self.process.address("admin").to_string();
        String::from_utf8(output(&["get", what, "--admin", &admin]).stdout).expect("UTF-8")
    }

    fn attempt(&self, number: &str) {
        let text = self.route.replace("attempt: '1'", &format!("attempt: '{number}'"));
        replace(&self.folder.path().join("manifests/route.yaml"), &text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_answers_worse_loses_its_weight_until_the_route_says_otherwise() {
    for with_envoy in [false, true] {
        let Some(mut world) = World::start(with_envoy, "10000").await else { return };
        // As good as its sibling it keeps its share, over more than a window.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(7) {
            let share = world.share(SAMPLE).await;
            assert!((5..70).contains(&share), "{share}");
        }
        world.canary.answer(500);
        world.until("it is worse", |share| share == 0).await;
        assert_eq!(world.share(SAMPLE).await, 0, "and stays so");
        let routes = world.get("routes");
        for text in ["shop/web-next:80: ", " ended well, 100.0 % of ", " at shop/web:80"] {
            assert!(routes.contains(text), "{with_envoy}: {routes}");
        }
        let rejected = world.get("rejected");
        assert!(rejected.contains("route.yaml") && rejected.contains("SuccessRate"), "{rejected}");
        // It is good again, which nobody can know; another attempt finds out.
        world.canary.answer(200);
        assert_eq!(world.share(SAMPLE).await, 0);
        world.attempt("2");
        world.until("another attempt", |share| share > 5).await;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(3) {
            let share = world.share(SAMPLE).await;
            assert!(share > 0, "what was before does not count");
        }
        assert!(!world.get("routes").contains("ended well"));
        assert!(world.stable.requests() > world.canary.requests());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_answers_later_loses_its_weight() {
    let mut world = World::start(false, "400").await.expect("ours");
    world.stable.take(Duration::from_millis(2));
    world.canary.take(Duration::from_millis(40));
    world.until("it is slower", |share| share == 0).await;
    let routes = world.get("routes");
    assert!(routes.contains("shop/web-next:80: ") && routes.contains(" ms over "), "{routes}");
    // What our proxy reports is shown, too.
    let load = world.get("load");
    assert!(load.contains("shop/web:80"), "{load}");
}
