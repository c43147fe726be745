//! Traces of the proxy: what reaches the endpoint and the collector, through the front door.

#![expect(
    clippy::disallowed_methods,
    reason = "a test's tasks end with its runtime; their handles are awaited where it matters"
)]

mod support;

#[path = "gateway/backend.rs"]
mod backend;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use backend::{Backend, FAIL};
use serde_json::Value;
use support::{PATIENCE, Process};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// An endpoint, a collector, and the binary between them.
struct World {
    process: Process,
    endpoint: Backend,
    collector: Backend,
    at: SocketAddr,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start(settings: &[&str]) -> Self {
        let (endpoint, collector) = (Backend::start("v1").await, Backend::start("c").await);
        let folder = tempfile::tempdir().expect("a folder");
        let port = endpoint.address.port();
        let text = format!(
            "---\n{{apiVersion: v1, kind: Service, metadata: {{name: web, namespace: shop, annotations: \
             {{portolan.dev/retry-status-codes: '503', \
             portolan.dev/retry-attempts: '2'}}}}, spec: {{clusterIP: None, ports: [{{port: 80, \
             targetPort: {port}, appProtocol: http}}]}}}}\n---\n{{apiVersion: discovery.k8s.io/v1, kind: \
             EndpointSlice, metadata: {{name: web-1, namespace: shop, labels: \
             {{kubernetes.io/service-name: web}}}}, addressType: IPv4, ports: [{{port: {port}}}], \
             endpoints: [{{addresses: [127.0.0.1]}}]}}\n"
        );
        std::fs::write(folder.path().join("shop.yaml"), text).expect("written");
        let collected = format!("proxy.tracing.endpoint=http://{}", collector.address);
        let mut args: Vec<&str> = vec!["--set", &collected];
        args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
        let mut process = Process::run(folder.path(), &args);
        process.reach(1).await;
        let at = process.address("proxy http http");
        Self { process, endpoint, collector, at, _folder: folder }
    }

    /// Asks for a path; what the endpoint got, by field.
    async fn ask(&self, path: &str, fields: &[(&str, &str)]) -> (u16, Value) {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        let mut request =
            client.get(format!("http://{}{path}", self.at)).header("host", "web.shop");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.expect("an answer");
        let got = self.endpoint.requests(path).pop().unwrap_or_default();
        (answer.status().as_u16(), got["headers"].clone())
    }

    /// All spans so far whose path this is, and those below them.
    fn spans(&self, path: &str) -> Vec<Value> {
        let bodies = self.collector.requests("/v1/traces");
        let bodies = bodies.iter().map(|request| {
            assert_eq!(request["headers"]["content-type"][0], "application/json");
            let body = request["body"].as_str().expect("text");
            serde_json::from_str::<Value>(body).expect("JSON")
        });
        let spans: Vec<Value> = bodies
            .flat_map(|body| {
                let of = &body["resourceSpans"][0];
                assert_eq!(attribute(&of["resource"], "service.name"), "portolan-proxy");
                of["scopeSpans"][0]["spans"].as_array().cloned().unwrap_or_default()
            })
            .collect();
        let roots: Vec<Value> =
            spans.iter().filter(|span| attribute(span, "url.path") == path).cloned().collect();
        let below = |span: &&Value| roots.iter().any(|root| root["spanId"] == span["parentSpanId"]);
        let below: Vec<Value> = spans.iter().filter(below).cloned().collect();
        [roots, below].concat()
    }

    async fn until(&self, path: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let spans = self.spans(path);
            if spans.len() >= count {
                return spans;
            }
            assert!(Instant::now() < deadline, "{path}: {spans:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The value of an attribute, as text.
fn attribute(of: &Value, key: &str) -> String {
    let all = of["attributes"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|one| one["key"] == key);
    let value = found.map(|one| one["value"].clone()).unwrap_or_default();
    let text = value.get("stringValue").or_else(|| value.get("intValue"));
    text.and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_on_through_the_proxy_to_the_endpoint_and_the_collector() {
    let world = World::start(&["proxy.tracing.sample=0"]).await;
    let given = format!("00-{TRACE}-{SPAN}-01");
    let (status, got) = world
        .ask("/w3c", &[("traceparent", &given), ("tracestate", "a=1"), ("user-agent", "me")])
        .await;
    assert_eq!((status, &got["tracestate"][0]), (200, &"a=1".into()));
    let spans = world.until("/w3c", 2).await;
    let [server, client] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((&server["traceId"], &server["parentSpanId"]), (&TRACE.into(), &SPAN.into()));
    assert_eq!((&server["kind"], &client["kind"]), (&2.into(), &3.into()));
    let passed = format!("00-{TRACE}-{}-01", client["spanId"].as_str().expect("an id"));
    assert_eq!(got["traceparent"][0], passed.as_str(), "the endpoint's parent is our client span");
    for (key, expected) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("server.address", "web.shop"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "me"),
        ("portolan.generation", "1"),
        ("error.type", ""),
    ] {
        assert_eq!(attribute(server, key), expected, "{key}: {server}");
    }
    assert_eq!(attribute(client, "portolan.cluster"), "shop/web:80");
    let port = world.endpoint.address.port().to_string();
    assert_eq!(attribute(client, "server.port"), port);
    let nanos = |span: &Value, name: &str| -> u128 {
        span[name].as_str().and_then(|text| text.parse().ok()).expect("a time")
    };
    for span in [server, client] {
        assert!(nanos(span, "startTimeUnixNano") < nanos(span, "endTimeUnixNano"), "{span}");
    }
    assert!(nanos(server, "startTimeUnixNano") <= nanos(client, "startTimeUnixNano"));

    // B3 in either form goes on in its own form.
    let b3 = format!("{TRACE}-{SPAN}-1");
    let (_, got) = world.ask("/b3", &[("b3", &b3)]).await;
    let spans = world.until("/b3", 2).await;
    let (server, client) = (&spans[0]["spanId"], &spans[1]["spanId"]);
    let text = |id: &Value| id.as_str().expect("an id").to_owned();
    let passed = format!("{TRACE}-{}-1-{}", text(client), text(server));
    assert_eq!(got["b3"][0], passed.as_str());
    let several = [("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0")];
    let (_, got) = world.ask("/several", &several).await;
    assert_eq!((&got["x-b3-traceid"][0], &got["x-b3-sampled"][0]), (&TRACE.into(), &"0".into()));
    assert_ne!(got["x-b3-spanid"][0], SPAN);

    // Who is not asked for spans has none; the context goes on all the same.
    let (_, got) = world.ask("/unsampled", &[("traceparent", &given.replace("-01", "-00"))]).await;
    assert!(got["traceparent"][0].as_str().is_some_and(|text| text.ends_with("-00")), "{got}");
    let (_, got) = world.ask("/fresh", &[]).await;
    assert!(got["traceparent"][0].as_str().is_some_and(|text| text.ends_with("-00")), "{got}");
    world.ask("/last", &[("traceparent", &given)]).await;
    world.until("/last", 2).await;
    for path in ["/several", "/unsampled", "/fresh"] {
        assert_eq!(world.spans(path).len(), 0, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_why_and_what_waits_is_sent_at_the_end() {
    let mut world = World::start(&["proxy.tracing.sample=1"]).await;
    let (status, _) = world.ask("/again", &[(FAIL, "1x503"), ("x-request-id", "one")]).await;
    assert_eq!(status, 200);
    let spans = world.until("/again", 2).await;
    assert_eq!(attribute(&spans[1], "http.request.resend_count"), "1");
    assert_eq!(spans[1]["status"], Value::Null, "it came to a good end");

    let (status, _) = world.ask("/bad", &[(FAIL, "9x500"), ("x-request-id", "two")]).await;
    assert_eq!(status, 500);
    let spans = world.until("/bad", 2).await;
    assert_eq!((&spans[0]["status"]["code"], &spans[1]["status"]["code"]), (&2.into(), &2.into()));

    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let request = client.get(format!("http://{}/nowhere", world.at)).header("host", "nobody.test");
    assert_eq!(request.send().await.expect("an answer").status(), 404);
    // Asked to end at once: nothing is lost.
    world.process.signal("TERM");
    assert_eq!(world.process.wait(), Some(0));
    let spans = world.spans("/nowhere");
    let [server] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(attribute(server, "error.type"), "no_route");
    assert_eq!(server["status"], Value::Null, "the client's fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_waits_for_a_collector_that_is_away() {
    let gone = support::free_address();
    let setting = format!("proxy.tracing.endpoint=http://{gone}");
    let mut world = World::start(&["proxy.tracing.sample=1", &setting]).await;
    for _ in 0..50 {
        assert_eq!(world.ask("/x", &[]).await.0, 200);
    }
    let deadline = Instant::now() + PATIENCE;
    while world.process.metric("portolan_traces_failed_total").await.is_none_or(|n| n < 100.0) {
        assert!(Instant::now() < deadline, "they are counted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
