//! The plain API through the front door: the real binary, asked with `portolan call`.

mod support;

use serde_json::{Value, json};
use support::{Process, output, replace};

const ENDPOINTS: &str = "portolan.v1.Endpoints";

fn manifest(ready: &[(&str, bool)]) -> String {
    let endpoints: String = ready
        .iter()
        .map(|(address, ready)| {
            format!("- {{addresses: [{address}], conditions: {{ready: {ready}}}, zone: a}}\n")
        })
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.0.80, ports: [{{name: http, port: 80}}, {{name: https, port: 443}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{name: web-1, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
         ports: [{{name: http, port: 8080}}]\nendpoints:\n{endpoints}"
    )
}

/// What a call prints, and what it says is wrong.
fn call(at: &str, args: &[&str]) -> (Vec<String>, String) {
    let output = output(&[&["call", at], args].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (text(output.stdout).lines().map(str::to_owned).collect(), text(output.stderr))
}

/// A control plane on these manifests, and where it serves gRPC.
async fn started(folder: &std::path::Path) -> (Process, String) {
    let manifests = folder.to_str().expect("UTF-8");
    let mut control = Process::start(&[
        "control",
        "--manifests",
        manifests,
        "--log",
        "warn",
        "--admin",
        "127.0.0.1:0",
        "--xds-listen",
        "127.0.0.1:0",
    ]);
    control.reach(1).await;
    let at = control.address("xds").to_string();
    (control, at)
}

#[tokio::test(flavor = "multi_thread")]
async fn portolan_call_lists_and_calls_the_plain_api() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("web.yaml");
    std::fs::write(&path, manifest(&[("10.0.0.1", true), ("10.0.0.2", true)])).expect("written");
    let (_control, at) = started(folder.path()).await;

    let (lines, _) = call(&at, &[]);
    let expected = [
        "grpc.health.v1.Health/Check(grpc.health.v1.HealthCheckRequest) returns (grpc.health.v1.HealthCheckResponse)",
        "portolan.v1.Endpoints/Resolve(portolan.v1.ResolveRequest) returns (portolan.v1.ResolveResponse)",
        "portolan.v1.Endpoints/Watch(portolan.v1.WatchRequest) returns (stream portolan.v1.WatchResponse)",
    ];
    for line in expected {
        assert!(lines.iter().any(|l| l == line), "{line:?} in {lines:#?}");
    }
    assert!(!lines.iter().any(|l| l.contains("Echo")), "what is not served: {lines:#?}");

    let resolve = format!("{ENDPOINTS}/Resolve");
    for request in [
        r#"{"service": "web.shop:http"}"#,
        r#"{"namespace": "shop", "name": "web", "port": 80, "client": {"zone": "b"}}"#,
        r#"{"service": "shop/web", "portName": "http"}"#,
    ] {
        let (lines, error) = call(&at, &[&resolve, request]);
        assert_eq!(lines.len(), 1, "{request}: {error}");
        let answer: Value = serde_json::from_str(&lines[0]).expect("JSON");
        let endpoint = |ip: &str| {
            let address = json!({"ip": ip, "port": 8080});
            json!({"address": address, "readiness": "READY", "weight": 1, "zone": "a"})
        };
        let port = json!({
            "namespace": "shop", "service": "web", "number": 80, "name": "http", "protocol": "TCP",
        });
        let endpoints = [endpoint("10.0.0.1"), endpoint("10.0.0.2")];
        assert_eq!(answer, json!({"generation": "1", "port": port, "endpoints": endpoints}));
    }
    for (request, expected) in [
        (r#"{"service": "foo.shop"}"#, "NOT_FOUND (5): no service shop/foo in generation 1"),
        (
            r#"{"service": "web.shop:81"}"#,
            "NOT_FOUND (5): shop/web has no port 81; it has 80 (http), 443 (https)",
        ),
        (r#"{"name": "web"}"#, "INVALID_ARGUMENT (3): namespace: missing"),
    ] {
        let (lines, error) = call(&at, &[&resolve, request]);
        assert!(lines.is_empty() && error.contains(expected), "{request}: {error}");
    }
    let (lines, _) =
        call(&at, &["grpc.health.v1.Health/Check", r#"{"service": "portolan.v1.Endpoints"}"#]);
    assert_eq!(lines, [r#"{"status":"SERVING"}"#]);
}

#[tokio::test(flavor = "multi_thread")]
async fn portolan_call_follows_a_watch_to_the_drain() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("web.yaml");
    std::fs::write(&path, manifest(&[("10.0.0.1", true)])).expect("written");
    let (mut control, at) = started(folder.path()).await;
    let request = r#"{"service": "web.shop"}"#;
    let mut watch = Process::start(&["call", &at, &format!("{ENDPOINTS}/Watch"), request]);
    let mut response = |kind: &str| -> Value {
        let lines = watch.lines_until(kind);
        serde_json::from_str(lines.last().expect("a line")).expect("JSON")
    };
    assert_eq!(response("full")["full"]["endpoints"][0]["address"]["ip"], "10.0.0.1");
    replace(&path, &manifest(&[("10.0.0.1", false), ("10.0.0.2", true), ("10.0.0.3", true)]));
    let change = response("generation\":\"2");
    let full = &change["full"]["endpoints"];
    assert_eq!(full.as_array().expect("a set, smaller than the change").len(), 2, "{change}");
    replace(&path, &manifest(&[("10.0.0.2", true), ("10.0.0.3", true), ("10.0.0.4", true)]));
    let change = response("generation\":\"3");
    assert_eq!(change["delta"]["upserted"][0]["address"]["ip"], "10.0.0.4", "{change}");

    control.signal("TERM");
    assert_eq!(control.wait(), Some(0), "a watch does not hold up the drain");
    assert_eq!(watch.wait(), Some(1), "UNAVAILABLE");
}
