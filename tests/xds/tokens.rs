//! On a scripted API server: tokens of service accounts, and Events on what clients refuse.

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tonic::{Code, Status};

use crate::kit::{ADS, CDS, Talk, Variant, channel};
use crate::support::apiserver::{ApiServer, Fault, Serving};
use crate::support::{PATIENCE, Process};

fn service(namespace: &str, name: &str, octet: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "clusterIP": format!("10.96.0.{octet}"), "ports": [{ "port": 80 }] },
    })
}

/// A control plane on an API server with `shop/web` and `pay/api`.
async fn control(settings: &[&str]) -> (ApiServer, Serving, tempfile::TempDir, Process) {
    let server = ApiServer::new();
    server.load(vec![service("shop", "web", 1), service("pay", "api", 2)]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let serving = server.serve(listener);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, serving.kubeconfig()).expect("written");
    let kubeconfig = path.to_str().expect("UTF-8");
    let mut args = vec!["control", "--kubeconfig", kubeconfig, "--log", "error"];
    args.extend(["--admin", "127.0.0.1:0", "--xds-listen", "127.0.0.1:0"]);
    args.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let mut process = Process::start(&args);
    process.reach(1).await;
    (server, serving, folder, process)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_worth_what_the_api_server_says_of_it() {
    let (server, _serving, _folder, mut process) = control(&["xds.clients=identified"]).await;
    server.trust("web", "system:serviceaccount:shop:web");
    server.trust("person", "jane@example.com");
    let channel = channel(process.address("xds")).await;
    let clusters = async |token: Option<&str>| -> Result<Vec<String>, Status> {
        let mut talk = Talk::open(&channel, ADS, Variant::Sotw, "a", token).await?;
        let reply = talk.get(CDS, &[]).await?;
        Ok(reply.resources.into_keys().collect())
    };
    let seen = clusters(Some("web")).await.expect("a service account");
    assert_eq!(seen, ["shop/web:80"]);
    for token in [None, Some("person"), Some("nobody's"), Some("")] {
        let status = clusters(token).await.expect_err("no service account");
        assert_eq!(status.code(), Code::Unauthenticated, "{token:?}: {status}");
    }

    server.trust("later", "system:serviceaccount:pay:api");
    server.fail_when(|call| (call.kind == "TokenReview").then(Fault::unavailable));
    let status = clusters(Some("later")).await.expect_err("nobody can say");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().starts_with("the token cannot be looked at: "), "{status}");
    assert_eq!(clusters(Some("web")).await.expect("known"), ["shop/web:80"]);
    server.clear_faults();
    assert_eq!(clusters(Some("later")).await.expect("asked again"), ["pay/api:80"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_refuses_becomes_an_event_on_the_service_behind_it() {
    let (server, _serving, _folder, mut process) = control(&["control.events=on"]).await;
    let mut talk = Talk::ads(&channel(process.address("xds")).await, "envoy-1").await;
    talk.ask(CDS, &[]).await;
    let reply = talk.next().await.expect("clusters");
    talk.nack(&reply, "Error adding/updating cluster(s) shop/web:80: not today").await;
    let written = server.until(|server| !server.objects("Event").is_empty());
    tokio::time::timeout(PATIENCE, written).await.expect("an Event in time");
    let events = server.objects("Event");
    let event = &events[0];
    let about = ["kind", "namespace", "name"].map(|key| event["regarding"][key].as_str());
    assert_eq!(about, [Some("Service"), Some("shop"), Some("web")], "{event}");
    let note = event["note"].as_str().unwrap_or_default();
    assert!(note.contains("cds shop/web:80") && note.contains("not today"), "{event}");
}
