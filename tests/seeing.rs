//! What people see of a running process: the access log in both formats, metrics, the page with the
//! proxy's state, and `portolan get proxy`.

mod support;

use std::path::Path;
use std::time::Instant;

use portolan_backends::shop::Shop;
use portolan_runtime::Lifecycle;
use serde_json::Value;
use support::{PATIENCE, Process, output};

/// The lines of a file once there are so many.
async fn lines(path: &Path, count: usize) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.lines().count() == count {
            return text.lines().map(str::to_owned).collect();
        }
        assert!(Instant::now() < deadline, "not {count} lines: {text}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// The status of a GET with this host and user agent.
async fn get(process: &mut Process, host: &str, agent: &str) -> u16 {
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = format!("http://{}/x?y=z", process.address("proxy http http"));
    let request = client.get(url).header("host", host).header("user-agent", agent);
    request.send().await.expect("an answer").status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_seen_in_the_access_log_the_metrics_and_the_page() {
    let shop = Shop::start_on_free_ports(Lifecycle::new()).expect("the backends start");
    let folder = tempfile::tempdir().expect("a folder");
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests).expect("created");
    shop.write_manifests(&manifests).expect("manifests");
    for format in ["text", "json"] {
        let path = folder.path().join(format);
        let to = format!("proxy.access_log.to={}", path.display());
        // Records of several workers need not be in order.
        let set = [
            "--set",
            "proxy.workers=1",
            "--set",
            &to,
            "--set",
            &format!("proxy.access_log.format={format}"),
        ];
        let mut process = Process::run(&manifests, &set);
        process.reach(1).await;
        assert_eq!(get(&mut process, "web.shop", "a\" b").await, 200);
        assert_eq!(get(&mut process, "nobody.example", "c").await, 404);
        let seen = lines(&path, 2).await;
        if format == "text" {
            assert!(seen[0].contains("\"GET /x?y=z HTTP/1.1\" 200 - - 0 "), "{seen:?}");
            assert!(seen[0].contains(" \"a\\x22 b\" "), "{seen:?}");
            assert!(seen[1].contains("\" 404 - no_route "), "{seen:?}");
        } else {
            let seen: Vec<Value> =
                seen.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            assert_eq!(
                (&seen[0]["status"], &seen[0]["user_agent"]),
                (&200.into(), &"a\" b".into())
            );
            assert_eq!(
                (&seen[0]["cluster"], &seen[0]["generation"]),
                (&"shop/web:80".into(), &1.into())
            );
            assert_eq!((&seen[1]["reason"], &seen[1]["status"]), (&"no_route".into(), &404.into()));
        }
        // A rotation: the file is moved, and the process told.
        std::fs::rename(&path, folder.path().join("old")).expect("renamed");
        process.signal("HUP");
        assert_eq!(get(&mut process, "web.shop", "d").await, 200);
        assert_eq!(lines(&path, 1).await.len(), 1);

        let requests = "portolan_proxy_cluster_requests_total{cluster=\"shop/web:80\"}";
        assert_eq!(process.metric(requests).await, Some(2.0));
        assert_eq!(process.metric("portolan_proxy_access_log_dropped_total").await, Some(0.0));
        let (_, metrics) = process.admin("/metrics").await;
        assert!(!metrics.contains("nobody.example"), "nothing of a request is a label");

        let page = process.json("/debug/proxy").await;
        let endpoint = &page["clusters"]["shop/web:80"][0];
        for name in ["address", "weight", "priority", "healthy", "inFlight"] {
            assert!(!endpoint[name].is_null(), "{name} of {endpoint}");
        }
        assert_eq!(page["workers"]["missing"], serde_json::json!([]));
        let admin = process.address("admin").to_string();
        let table = output(&["get", "proxy", "web", "-n", "shop", "--admin", &admin]);
        let table = String::from_utf8(table.stdout).expect("UTF-8");
        assert!(table.starts_with("CLUSTER"), "{table}");
        let address = endpoint["address"].as_str().expect("text");
        assert!(table.contains("shop/web:80") && table.contains(address), "{table}");
        assert!(table.contains("healthy"), "{table}");
    }
}
