//! The guard against mass removal through the front door: a folder that is wiped under the real
//! binary, what `portolan guard` says of it, and what ends it.

mod support;

use std::path::Path;
use std::process::Output;
use std::time::Instant;

use domain::base::iana::{Rcode, Rtype};
use domain::resolv::stub::conf::Transport;
use serde_json::Value;
use support::dns::{Answer, ask};
use support::{PATIENCE, Process, output, replace};

/// Services of the folder.
const SERVICES: u8 = 30;

fn service(folder: &Path, name: &str, octet: u8) {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{clusterIP: 10.96.0.{octet}, ports: [{{port: 80}}]}}\n"
    );
    replace(&folder.join(format!("{name}.yaml")), &text);
}

/// A headless service with this port, and in a file of its own a slice with so many endpoints.
fn headless(folder: &Path, port: u16, endpoints: u8) {
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: big, namespace: shop}}\n\
         spec: {{clusterIP: None, ports: [{{port: {port}}}]}}\n"
    );
    replace(&folder.join("big.yaml"), &text);
    let addresses: String =
        (1..=endpoints).map(|n| format!("- addresses: [10.1.0.{n}]\n")).collect();
    let text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: big-1, namespace: shop, labels: {{kubernetes.io/service-name: big}}}}\n\
         addressType: IPv4\nports: [{{port: 8080}}]\nendpoints:\n{addresses}"
    );
    replace(&folder.join("slice.yaml"), &text);
}

async fn lookup(process: &mut Process, name: &str) -> Answer {
    let name = format!("{name}.shop.svc.cluster.local");
    ask(process.address("dns"), Transport::UdpTcp, &name, Rtype::A).await
}

/// Waits until the answer for a service is so many records.
async fn answers(process: &mut Process, name: &str, records: usize) {
    let deadline = Instant::now() + PATIENCE;
    while lookup(process, name).await.records.len() != records {
        assert!(Instant::now() < deadline, "{name} does not come to {records} records");
    }
}

/// Waits until so many services are held, and returns them.
async fn held(process: &mut Process, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = process.json("/debug/guard").await;
        let rows = page.as_array().expect("a list");
        if rows.len() == count {
            return rows.clone();
        }
        assert!(Instant::now() < deadline, "not {count} are held: {page}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

fn command(process: &mut Process, args: &[&str]) -> Output {
    let admin = process.address("admin").to_string();
    output(&[args, &["--admin", &admin]].concat())
}

/// What a command prints that is to succeed.
fn said(process: &mut Process, args: &[&str]) -> String {
    let output = command(process, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn refusal(process: &mut Process, args: &[&str]) -> (Option<i32>, String) {
    let output = command(process, args);
    (output.status.code(), String::from_utf8(output.stderr).expect("UTF-8"))
}

/// Waits for the generation that a release names.
async fn reach(process: &mut Process, said: &str) {
    let line = said.lines().find_map(|line| line.strip_prefix("generation "));
    process.reach(line.and_then(|n| n.parse().ok()).expect("a generation")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_folder_takes_no_name_away_until_it_is_released() {
    let folder = tempfile::tempdir().expect("a folder");
    for n in 0..SERVICES {
        service(folder.path(), &format!("s{n}"), n + 1);
    }
    let mut process = Process::run(folder.path(), &[]);
    process.reach(1).await;
    for n in 0..SERVICES {
        std::fs::remove_file(folder.path().join(format!("s{n}.yaml"))).expect("removed");
    }
    let rows = held(&mut process, SERVICES.into()).await;
    assert!(rows.iter().all(|row| row["gone"] == true && row["why"] == "source"), "{rows:?}");
    let list = said(&mut process, &["guard"]);
    let text = "shop/s3   ";
    assert!(list.lines().any(|line| line.starts_with(text) && line.contains("gone")), "{list}");
    let rejected = said(&mut process, &["get", "rejected", "-o", "json"]);
    let text = "services gone at once; held back until 2";
    assert!(rejected.contains(text) && rejected.contains("release --all"), "{rejected}");
    let holds = "portolan_control_guard_holds{reason=\"source\"}";
    assert_eq!(process.metric(holds).await, Some(SERVICES.into()));

    // All else goes on, and what was there still answers.
    service(folder.path(), "new", 100);
    answers(&mut process, "new", 1).await;
    for n in 0..SERVICES {
        assert_eq!(lookup(&mut process, &format!("s{n}")).await.records.len(), 1, "s{n}");
    }
    // What comes back is as it comes back.
    service(folder.path(), "s3", 103);
    let left = held(&mut process, usize::from(SERVICES) - 1).await;
    assert!(left.iter().all(|row| row["service"] != "shop/s3"), "{left:?}");
    answers(&mut process, "s3", 1).await;
    let record = "s3.shop.svc.cluster.local A 10.96.0.103";
    let deadline = Instant::now() + PATIENCE;
    while !lookup(&mut process, "s3").await.records.contains(record) {
        assert!(Instant::now() < deadline, "s3 has not its new address");
    }

    let released = said(&mut process, &["guard", "release", "shop/s4"]);
    assert!(released.starts_with("shop/s4 released\ngeneration "), "{released}");
    reach(&mut process, &released).await;
    assert_eq!(lookup(&mut process, "s4").await.rcode, Rcode::NXDOMAIN);
    assert_eq!(lookup(&mut process, "s5").await.rcode, Rcode::NOERROR);
    let (code, text) = refusal(&mut process, &["guard", "release", "shop/s4"]);
    assert!(code == Some(1) && text.contains("shop/s4 is not held back"), "{text}");
    let (code, text) = refusal(&mut process, &["guard", "release", "Shop"]);
    assert!(code == Some(2) && text.contains("is not NAMESPACE/NAME"), "{text}");
    let (code, text) = refusal(&mut process, &["guard", "release"]);
    assert!(code == Some(2) && text.contains("--all"), "{text}");

    let released = said(&mut process, &["guard", "release", "--all"]);
    assert_eq!(released.lines().count(), usize::from(SERVICES) - 2 + 1, "{released}");
    reach(&mut process, &released).await;
    for (name, code) in [("s5", Rcode::NXDOMAIN), ("s3", Rcode::NOERROR), ("new", Rcode::NOERROR)] {
        assert_eq!(lookup(&mut process, name).await.rcode, code, "{name}");
    }
    assert_eq!(said(&mut process, &["guard"]), "");
    assert!(!said(&mut process, &["get", "rejected", "-o", "json"]).contains("held"));
    assert_eq!(process.metric(holds).await, Some(0.0));
    let so_far = "portolan_control_guard_held_total{reason=\"source\"}";
    assert_eq!(process.metric(so_far).await, Some(SERVICES.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_loses_all_its_endpoints_keeps_them_until_one_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    headless(folder.path(), 80, 25);
    let mut process = Process::run(folder.path(), &["--set", "control.guard_hold_secs=0"]);
    process.reach(1).await;
    answers(&mut process, "big", 25).await;
    std::fs::remove_file(folder.path().join("slice.yaml")).expect("removed");
    let rows = held(&mut process, 1).await;
    assert_eq!((rows[0]["endpoints"].as_u64(), &rows[0]["leftSecs"]), (Some(25), &Value::Null));
    let rejected = said(&mut process, &["get", "rejected"]);
    let text = "Service shop/big   -       all 25 endpoints gone at once; held back until released \
                (portolan guard release shop/big)";
    assert!(rejected.contains(text), "{rejected}");
    assert_eq!(lookup(&mut process, "big").await.records.len(), 25);

    // Its own settings are not held.
    headless(folder.path(), 81, 0);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let services = said(&mut process, &["get", "services"]);
        if services.contains("81/TCP") && services.contains("25/25") {
            break;
        }
        assert!(Instant::now() < deadline, "the port is not the new one: {services}");
    }
    held(&mut process, 1).await;
    headless(folder.path(), 81, 1);
    held(&mut process, 0).await;
    answers(&mut process, "big", 1).await;
}
