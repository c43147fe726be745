//! Routes of a namespace on a Service of another (GEP-1426, "Namespace boundaries"): our proxy and Envoy
//! as clients in one namespace and in others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::backend::Backend;
use crate::cases::{Case, EMPTY};
use crate::kit::{Version, ask, manifests};
use crate::support::envoy::Envoy;
use crate::support::{PATIENCE, Process, free_address};

const MANIFESTS: &str = "
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: here, namespace: $NS}, spec: {parentRefs: [{group: '', kind: Service, name: v1}], rules: [{matches: [{path: {value: /here}}, {path: {value: /both}}], backendRefs: [{name: v1, port: 8080}]}]}}
";

/// A route of the other namespace, to a backend of the first.
fn there(backend: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: there, \
         namespace: case-0-other}}, spec: {{parentRefs: [{{group: '', kind: Service, name: v1, \
         namespace: case-0}}], rules: [{{matches: [{{path: {{value: /both}}}}], backendRefs: [{{name: \
         {backend}, namespace: case-0, port: 8080}}]}}]}}}}\n"
    )
}

/// A client's proxy.
enum Client {
    Portolan { _process: Process },
    Envoy { _process: Envoy },
}

impl Client {
    fn start(xds: SocketAddr, envoy: Option<&str>, namespace: Option<&str>, folder: &Path) -> Self {
        let xds = xds.to_string();
        if let Some(program) = envoy {
            let mut args = vec!["--server", &xds, "--node-id", "client"];
            args.extend(namespace.into_iter().flat_map(|name| ["--namespace", name]));
            let process = Envoy::start(program, &args, &folder.join("envoy.yaml"));
            return Self::Envoy { _process: process };
        }
        let mut args = vec!["proxy", "--xds", &xds, "--admin", "127.0.0.1:0", "--log", "error"];
        let setting = namespace.map(|name| format!("proxy.namespace={name}"));
        args.extend(setting.iter().flat_map(|setting| ["--set", setting]));
        Self::Portolan { _process: Process::start(&args) }
    }
}

/// Asks until it is answered so.
async fn until(at: SocketAddr, request: &str, expected: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let wrong = match tokio::net::TcpStream::connect(at).await {
            Ok(_) => match ask(at, request, Version::Http1).await.check(expected) {
                Ok(()) => return,
                Err(wrong) => wrong,
            },
            Err(error) => error.to_string(),
        };
        assert!(Instant::now() < deadline, "{request}: {wrong}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_of_a_namespace_on_a_service_of_another_are_for_its_own_clients() {
    let address = free_address();
    let mut backends = Vec::new();
    for name in ["v1", "v2", "v3"] {
        backends.push(Backend::start(name).await);
    }
    let folder = tempfile::tempdir().expect("a folder");
    let case = Case { name: "consumers", manifests: MANIFESTS, ..EMPTY };
    let nowhere = IpAddr::from(Ipv4Addr::LOCALHOST);
    let text = manifests(0, &case, nowhere, 1, &backends);
    std::fs::create_dir(folder.path().join("all")).expect("a folder");
    let path = folder.path().join("all");
    std::fs::write(path.join("all.yaml"), text).expect("written");
    std::fs::write(path.join("there.yaml"), there("v2")).expect("written");
    let http = format!("proxy.http={address}");
    let manifests = path.to_str().expect("UTF-8");
    let mut args = vec!["control", "--manifests", manifests, "--log", "warn", "--set", &http];
    args.extend(["--admin", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0"]);
    let mut control = Process::start(&args);
    control.reach(1).await;
    let xds = control.address("xds");
    let envoy = Envoy::find();
    for front in [None, envoy.as_deref()].into_iter().take(1 + usize::from(envoy.is_some())) {
        for namespace in [None, Some("case-0"), Some("elsewhere")] {
            let _client = Client::start(xds, front, namespace, folder.path());
            until(address, "GET v1.case-0:8080/both", "200 v1").await;
            until(address, "GET v1.case-0:8080/here", "200 v1").await;
        }
        let _client = Client::start(xds, front, Some("case-0-other"), folder.path());
        until(address, "GET v1.case-0:8080/both", "200 v2").await;
        // The routes of both namespaces are not merged.
        until(address, "GET v1.case-0:8080/here", "404").await;
        until(address, "GET v2.case-0:8080/here", "200 v2").await;
        // A change reaches clients there, and a route that is gone gives way to the Service's own.
        std::fs::write(path.join("there.yaml"), there("v3")).expect("written");
        until(address, "GET v1.case-0:8080/both", "200 v3").await;
        std::fs::remove_file(path.join("there.yaml")).expect("removed");
        until(address, "GET v1.case-0:8080/both", "200 v1").await;
        until(address, "GET v1.case-0:8080/here", "200 v1").await;
        std::fs::write(path.join("there.yaml"), there("v2")).expect("written");
        until(address, "GET v1.case-0:8080/both", "200 v2").await;
    }
}
