//! The shop: every endpoint of the example folder, running.

use std::collections::BTreeSet;
use std::path::Path;

use portolan_backends::Shop;
use portolan_backends::shop::{Backend, Kind, MANIFESTS};
use portolan_runtime::Lifecycle;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{PATIENCE, get, json, request, run};

async fn name_given_by(backend: &Backend) -> String {
    match backend.kind {
        Kind::Http => {
            let answer = json(&get(backend.address, "/").await);
            assert_eq!(answer["service"], *backend.service);
            answer["endpoint"].as_str().expect("a name").to_owned()
        }
        Kind::Grpc => {
            let (out, result) =
                run(request(backend.address, "portolan.demo.v1.Echo/Say", &[])).await;
            result.expect("no error");
            let reply: serde_json::Value = serde_json::from_str(&out).expect("JSON");
            reply["endpoint"].as_str().expect("a name").to_owned()
        }
        Kind::Tcp => {
            let mut stream = TcpStream::connect(backend.address).await.expect("a listener");
            stream.write_all(b"x\n").await.expect("sent");
            stream.shutdown().await.expect("half closed");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            answer.strip_suffix(": x\n").expect("a name before it").to_owned()
        }
    }
}

#[tokio::test]
async fn every_backend_answers_by_the_name_its_manifest_gives_it() {
    let shop = Shop::start(Lifecycle::new()).expect("open");
    for backend in shop.backends() {
        assert_eq!(name_given_by(backend).await, backend.endpoint, "{backend:?}");
    }
    let addresses: BTreeSet<_> = shop.backends().map(|backend| backend.address).collect();
    assert_eq!(addresses.len(), shop.backends().count());
}

#[tokio::test]
async fn the_services_have_the_endpoints_that_the_readme_tells_of() {
    let shop = Shop::start_on_free_ports(Lifecycle::new()).expect("open");
    for (namespace, service, ready, listed) in [
        ("shop", "web", 3, 4),
        ("shop", "greeter", 2, 2),
        ("shop", "db", 2, 2),
        ("shop", "cache", 2, 2),
        ("shop", "admin", 6, 6),
        ("shop", "orders", 2, 2),
        ("shop", "payments", 0, 0),
        ("staging", "web", 1, 1),
    ] {
        let backends: Vec<_> = shop.backends_of(namespace, service).collect();
        let found = (backends.iter().filter(|b| b.ready).count(), backends.len());
        assert_eq!(found, (ready, listed), "{namespace}/{service}");
    }
    assert_eq!(shop.backends().count(), 19);
}

#[tokio::test]
async fn a_second_shop_finds_ports_of_its_own_and_writes_them_into_its_manifests() {
    let first = Shop::start(Lifecycle::new()).expect("open");
    let second = Shop::start(Lifecycle::new()).expect("open");
    assert!(!second.is_canonical());
    let addresses = |shop: &Shop| shop.backends().map(|b| b.address).collect::<BTreeSet<_>>();
    assert!(addresses(&first).is_disjoint(&addresses(&second)));

    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("shop");
    second.write_manifests(&folder).expect("written");
    let web = second.backends_of("shop", "web").next().expect("web-1");
    let written = std::fs::read_to_string(folder.join("web.yaml")).expect("written");
    assert!(written.contains(&format!("    port: {}\n", web.address.port())), "{written}");
    assert!(written.contains("      port: 80\n"), "the service keeps its port");
    assert_eq!(name_given_by(web).await, "web-1");
}

#[tokio::test]
async fn the_folder_that_is_written_differs_from_the_examples_in_the_ports_of_slices_alone() {
    let shop = Shop::start_on_free_ports(Lifecycle::new()).expect("open");
    let dir = tempfile::tempdir().expect("a folder");
    shop.write_manifests(dir.path()).expect("written");
    let mut differing = 0;
    for (file, text) in MANIFESTS {
        let written = std::fs::read_to_string(dir.path().join(file)).expect(file);
        assert_eq!(written.lines().count(), text.lines().count(), "{file}");
        for (line, original) in written.lines().zip(text.lines()).filter(|(a, b)| a != b) {
            let port = line.trim().strip_prefix("port: ").and_then(|port| port.parse().ok());
            assert!(shop.backends().any(|b| Some(b.address.port()) == port), "{original} {line}");
            differing += 1;
        }
    }
    assert_eq!(differing, 10, "one per port of each slice");
}

#[test]
fn no_manifest_of_the_folder_is_left_out() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shop");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .expect("the folder")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("a name"))
        .filter(|name| name != "README.md")
        .collect();
    assert_eq!(files, MANIFESTS.iter().map(|(file, _)| (*file).to_owned()).collect());
}

#[tokio::test]
async fn an_endpoint_that_is_stopped_answers_no_more_and_the_others_do() {
    let mut shop = Shop::start_on_free_ports(Lifecycle::new()).expect("open");
    let admin: Vec<Backend> = shop.backends_of("shop", "admin").cloned().collect();
    let mut open = TcpStream::connect(admin[0].address).await.expect("a listener");
    open.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    assert_ne!(open.read(&mut [0; 4096]).await.expect("an answer"), 0);
    assert_eq!(shop.stop("admin-1"), 2);
    assert_eq!(shop.stop("admin-1"), 0);
    assert!(matches!(open.read(&mut [0; 4096]).await, Ok(0) | Err(_)), "still connected");
    for backend in admin {
        if backend.endpoint == "admin-1" {
            while TcpStream::connect(backend.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        } else {
            assert_eq!(name_given_by(&backend).await, backend.endpoint);
        }
    }
}

#[tokio::test]
async fn the_shop_closes_when_the_process_drains() {
    let lifecycle = Lifecycle::new();
    let shop = Shop::start_on_free_ports(lifecycle.clone()).expect("open");
    lifecycle.drain();
    tokio::time::timeout(PATIENCE, shop.run()).await.expect("in time").expect("no error");
}
