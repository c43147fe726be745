//! What people see of the proxy: metrics by cluster, route and endpoint, the access log, the page.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use portolan_model::traffic::{Abort, Fault};
use portolan_proxy::{AccessFormat, AccessLog, AccessTo};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kit::*;

/// A file for the access log, gone with this.
struct LogFile(PathBuf);

impl LogFile {
    fn new(name: &str) -> Self {
        let name = format!("portolan-{}-{name}.log", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn config(&self, format: AccessFormat, sample_per_million: u32) -> Option<AccessLog> {
        Some(AccessLog { to: AccessTo::File(self.0.clone()), format, sample_per_million })
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        // Not there if nothing was written.
        let _gone = std::fs::remove_file(&self.0);
    }
}

/// The lines of a file once there are so many.
async fn lines(path: &Path, count: usize) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.len() == count && text.ends_with('\n') {
            return lines;
        }
        assert!(Instant::now() < deadline, "not {count} lines: {text}");
        tokio::task::yield_now().await;
    }
}

/// Every metric line that holds this text.
fn metric_lines(proxy: &Running, text: &str) -> Vec<String> {
    let all = proxy.metrics.encode().expect("metrics");
    all.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

fn named(mut request: Request<Body>, fields: &[(&'static str, &str)]) -> Request<Body> {
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    request
}

#[tokio::test]
async fn requests_are_counted_by_cluster_route_and_endpoint() {
    let backend = Backend::start(H1, async |request: Request<_>, _| {
        let status = if request.uri().path() == "/fail" { 500 } else { 200 };
        respond(status, full("hello"))
    })
    .await;
    let proxy = start(Plan::http(&[backend.address])).await;
    for path in ["/", "/a", "/fail"] {
        fetch(H1, proxy.web(), request(H1, "POST", path, full("hey"))).await;
    }
    fetch(H1, proxy.web(), named(get(H1, "/"), &[("host", "stranger.example")])).await;
    // A client may have its answer before that is counted.
    let listener = "portolan_proxy_requests_total{listener=\"web\",class=\"4xx\"}";
    until("the last count", || proxy.metric(listener) == 1).await;
    let endpoint = format!("{{cluster=\"web\",endpoint=\"{}\"}}", backend.address);
    let route = "{listener=\"web\",virtual_host=\"web\",path=\"/*\",class=";
    let no_route = "{listener=\"web\",reason=\"no_route\"}";
    for (name, value) in [
        ("cluster_requests_total{cluster=\"web\"}".to_owned(), 3),
        ("cluster_responses_total{cluster=\"web\",class=\"2xx\"}".to_owned(), 2),
        ("cluster_responses_total{cluster=\"web\",class=\"5xx\"}".to_owned(), 1),
        ("cluster_bytes_total{cluster=\"web\",direction=\"in\"}".to_owned(), 9),
        ("cluster_bytes_total{cluster=\"web\",direction=\"out\"}".to_owned(), 15),
        ("cluster_request_seconds_count{cluster=\"web\"}".to_owned(), 3),
        ("cluster_head_seconds_count{cluster=\"web\"}".to_owned(), 3),
        ("cluster_connect_failures_total{cluster=\"web\"}".to_owned(), 0),
        ("cluster_active{cluster=\"web\",resource=\"requests\"}".to_owned(), 0),
        (format!("endpoint_requests_total{endpoint}"), 3),
        (format!("endpoint_failures_total{endpoint}"), 1),
        (format!("endpoint_active{endpoint}"), 0),
        (format!("route_requests_total{route}\"2xx\"}}"), 2),
        (format!("route_requests_total{route}\"5xx\"}}"), 1),
        (format!("listener_local_answers_total{no_route}"), 1),
    ] {
        assert_eq!(proxy.metric(&format!("portolan_proxy_{name}")), value, "{name}");
    }
    // Each client had its own connection to the proxy, and the proxy kept one to the endpoint.
    let idle = proxy.metric("portolan_proxy_cluster_idle_connections{cluster=\"web\"}");
    let held =
        proxy.metric("portolan_proxy_cluster_active{cluster=\"web\",resource=\"connections\"}");
    assert_eq!((idle, held), (1, 1));
    assert_eq!(metric_lines(&proxy, "stranger"), [""; 0], "nothing of a request is a label");
    assert_eq!(metric_lines(&proxy, "/fail"), [""; 0]);
    proxy.finish().await;
}

#[tokio::test]
async fn endpoints_of_a_cluster_with_too_many_are_counted_together() {
    let (a, b) = (Backend::named(H1, "a").await, Backend::named(H1, "b").await);
    let plan = Plan::http(&[a.address, b.address]);
    let proxy = start_with(plan, |config| config.endpoint_metrics = 1).await;
    for _ in 0..4 {
        fetch(H1, proxy.web(), get(H1, "/")).await;
    }
    let others = "portolan_proxy_endpoint_requests_total{cluster=\"web\",endpoint=\"other\"}";
    assert_eq!(proxy.metric(others), 4);
    assert_eq!(metric_lines(&proxy, &a.address.to_string()), [""; 0]);
    // One leaves: the other has counters of its own from then on.
    proxy.apply(Plan::http(&[b.address])).await;
    fetch(H1, proxy.web(), get(H1, "/")).await;
    let own = format!("{{cluster=\"web\",endpoint=\"{}\"}}", b.address);
    assert_eq!(proxy.metric(&format!("portolan_proxy_endpoint_requests_total{own}")), 1);
    proxy.finish().await;
}

#[tokio::test]
async fn grpc_statuses_and_retries_are_counted() {
    let backend = Backend::start(H2, async |_: Request<_>, _| {
        respond(200, chunks([], &[("grpc-status", "5")]))
    })
    .await;
    let dead = down();
    let proxy = start(Plan::http(&[dead, backend.address])).await;
    for _ in 0..2 {
        let call =
            named(request(H2, "POST", "/x", empty()), &[("content-type", "application/grpc")]);
        let response = fetch(H2, proxy.web(), call).await;
        assert_eq!(response.trailers.expect("trailers")["grpc-status"], "5");
    }
    let cluster = |name: &str| proxy.metric(&format!("portolan_proxy_cluster_{name}"));
    let statuses = "grpc_responses_total{cluster=\"web\",status=\"5\"}";
    until("the statuses", || cluster(statuses) == 2).await;
    assert_eq!(cluster("retries_total{cluster=\"web\",outcome=\"success\"}"), 1);
    assert_eq!(cluster("connect_failures_total{cluster=\"web\"}"), 1);
    proxy.finish().await;
}

#[tokio::test]
async fn the_access_log_has_a_record_for_each_request_whatever_its_headers_hold() {
    let file = LogFile::new("each");
    let backend = Backend::named(H1, "hello").await;
    let plan = Plan::http(&[backend.address]);
    let log = file.config(AccessFormat::Json, 1_000_000);
    let proxy = start_with(plan, |config| config.access_log = log).await;
    let fields =
        [("user-agent", "evil\" 200 \\"), ("x-forwarded-for", "1.1.1.1"), ("x-request-id", "mine")];
    fetch(H1, proxy.web(), named(request(H1, "POST", "/a?b=c", full("hey")), &fields)).await;
    fetch(H2, proxy.web(), get(H2, "/two")).await;
    fetch(H1, proxy.web(), named(get(H1, "/"), &[("host", "nobody")])).await;
    let mut stream = TcpStream::connect(proxy.web()).await.expect("accepted");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    let mut refused = String::new();
    soon("an answer", stream.read_to_string(&mut refused)).await.expect("read");
    proxy.finish().await;
    let records: Vec<Value> = (lines(&file.0, 4).await.iter())
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let endpoint = backend.address.to_string();
    let of = |at: usize, names: [&str; 6]| names.map(|name| records[at][name].clone());
    assert_eq!(
        of(0, ["method", "path", "protocol", "user_agent", "forwarded_for", "request_id"]),
        ["POST", "/a?b=c", "HTTP/1.1", "evil\" 200 \\", "1.1.1.1", "mine"].map(Value::from)
    );
    assert_eq!(
        of(0, ["listener", "authority", "status", "cluster", "endpoint", "reason"]),
        ["web".into(), "web.shop".into(), 200.into(), "web".into(), endpoint.into(), Value::Null]
    );
    assert_eq!(
        of(0, ["bytes_in", "bytes_out", "tries", "generation", "grpc_status", "nothing"]),
        [3.into(), 5.into(), 1.into(), 1.into(), Value::Null, Value::Null]
    );
    let took = records[0]["duration_ms"].as_f64().expect("a number");
    assert!(records[0]["head_ms"].as_f64().is_some_and(|head| head <= took), "{}", records[0]);
    assert_eq!(records[1]["protocol"], "HTTP/2");
    assert_eq!(records[1]["request_id"].as_str().map(str::len), Some(36), "{}", records[1]);
    assert_eq!(
        of(2, ["status", "reason", "authority", "cluster", "tries", "endpoint"]),
        [404.into(), "no_route".into(), "nobody".into(), Value::Null, 0.into(), Value::Null]
    );
    assert_eq!(
        (&records[3]["status"], &records[3]["reason"]),
        (&400.into(), &"bad_request".into())
    );
}

#[tokio::test]
async fn the_access_log_says_the_status_of_grpc_that_a_route_answered() {
    let file = LogFile::new("fault");
    let backend = Backend::named(H2, "hello").await;
    let fault = Fault { abort: Some((Abort::Grpc(10), 1_000_000)), ..Fault::default() };
    let plan = Plan::http2(&[backend.address]).tune_route(|r| r.fault = Some(Arc::new(fault)));
    let log = file.config(AccessFormat::Json, 1_000_000);
    let proxy = start_with(plan, |config| config.access_log = log).await;
    let call = named(request(H2, "POST", "/x", empty()), &[("content-type", "application/grpc")]);
    let answer = fetch(H2, proxy.web(), call).await;
    assert_eq!(answer.headers["grpc-status"], "10");
    proxy.finish().await;
    let record: Value = serde_json::from_str(&lines(&file.0, 1).await[0]).expect("JSON");
    let said = ["status", "grpc_status", "reason"].map(|name| record[name].clone());
    assert_eq!(said, [Value::from(200), Value::from(10), Value::from("fault")], "{record}");
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn successes_can_be_left_out_of_the_access_log_and_failures_are_not() {
    let file = LogFile::new("sampled");
    let backend = Backend::start(H1, async |_: Request<_>, n| {
        respond(if n % 5 == 4 { 503 } else { 200 }, full("x"))
    })
    .await;
    let log = file.config(AccessFormat::Text, 0);
    let plan = Plan::http(&[backend.address]);
    let proxy = start_with(plan, |config| config.access_log = log).await;
    let mut client = Client::connect(H1, proxy.web()).await;
    for _ in 0..10 {
        collect(client.send(get(H1, "/")).await).await;
    }
    drop(client);
    proxy.finish().await;
    let lines = lines(&file.0, 2).await;
    assert!(lines.iter().all(|line| line.contains("\"GET / HTTP/1.1\" 503 - - 0 1 ")), "{lines:?}");
}

#[tokio::test]
async fn streams_have_records_and_say_why_they_were_reset() {
    let file = LogFile::new("tcp");
    let backend = tokio::net::TcpListener::bind(loopback(0)).await.expect("a free port");
    let address = backend.local_addr().expect("bound");
    let log = file.config(AccessFormat::Json, 1_000_000);
    let proxy = start_with(Plan::tcp(&[address]), |config| config.access_log = log).await;
    let mut client = TcpStream::connect(proxy.address("tcp")).await.expect("accepted");
    client.write_all(b"hello").await.expect("written");
    client.shutdown().await.expect("half closed");
    let (mut server, _) = soon("a stream", backend.accept()).await.expect("accepted");
    server.write_all(b"hi").await.expect("written");
    drop(server.read_to_string(&mut String::new()).await);
    drop(server);
    let mut read = String::new();
    soon("the end", client.read_to_string(&mut read)).await.expect("whole");
    let first = lines(&file.0, 1).await;
    proxy.apply(Plan::tcp(&[])).await;
    let tcp = proxy.address("tcp");
    let read = async { TcpStream::connect(tcp).await?.read(&mut [0; 8]).await };
    assert!(soon("a reset", read).await.is_err());
    let both = lines(&file.0, 2).await;
    let local =
        "portolan_proxy_cluster_local_answers_total{cluster=\"web\",reason=\"no_endpoints\"}";
    assert_eq!(proxy.metric(local), 1);
    proxy.finish().await;
    let [done, reset]: [Value; 2] =
        [&first[0], &both[1]].map(|line| serde_json::from_str(line).expect("JSON"));
    assert_eq!((&done["bytes_in"], &done["bytes_out"]), (&5.into(), &2.into()));
    assert_eq!(
        (&done["protocol"], &done["endpoint"]),
        (&"TCP".into(), &address.to_string().into())
    );
    assert_eq!((&done["reason"], &done["status"]), (&Value::Null, &Value::Null));
    assert_eq!((&reset["reason"], &reset["cluster"]), (&"no_endpoints".into(), &"web".into()));
}

#[tokio::test]
async fn the_page_shows_how_a_cluster_is_balanced_and_what_is_in_flight() {
    let (gate, backend) = gated_backend(H1).await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let page = async || serde_json::to_value(proxy.state.details().await).expect("JSON");
    let before = page().await;
    assert_eq!(before["clusters"]["web"][0]["address"], backend.address.to_string());
    assert_eq!(before["balancing"]["web"]["inUseBy"], 0);
    assert_eq!(before["balancing"]["web"]["balancer"], "round_robin");

    let mut client = Client::connect(H1, proxy.web()).await;
    let held = async { collect(client.send(get(H1, "/")).await).await };
    let looked = async {
        until("the request", || backend.requests() == 1).await;
        let page = page().await;
        let endpoint = &page["clusters"]["web"][0];
        assert_eq!((&endpoint["weight"], &endpoint["priority"]), (&1.into(), &0.into()));
        assert_eq!((&endpoint["inFlight"], &endpoint["healthy"]), (&1.into(), &true.into()));
        let balancing = &page["balancing"]["web"];
        assert_eq!(balancing["priorities"][0]["percent"], 100, "{balancing}");
        assert_eq!(balancing["breaker"]["requests"]["used"], 1, "{balancing}");
        assert_eq!(balancing["breaker"]["requests"]["open"], false);
        assert_eq!(page["workers"]["asked"], 1);
        assert_eq!(page["workers"]["missing"], serde_json::json!([]));
        gate.send_replace(true);
    };
    tokio::join!(held, looked);
    proxy.finish().await;
}

#[tokio::test]
async fn a_response_that_is_cut_is_counted_as_cut() {
    let (feed, backend) = fed_backend(H1).await;
    let plan = Plan::http(&[backend.address]).route("/", Some(Duration::from_millis(200)));
    let proxy = start(plan).await;
    feed.send("part".into()).await.expect("room");
    let mut stream = TcpStream::connect(proxy.web()).await.expect("accepted");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: web.shop\r\n\r\n").await.expect("written");
    let mut read = Vec::new();
    // The end of it is a reset.
    let _reset = soon("the end", stream.read_to_end(&mut read)).await;
    assert!(read.starts_with(b"HTTP/1.1 200 "));
    until("the count", || {
        proxy.metric("portolan_proxy_responses_cut_total{listener=\"web\"}") == 1
    })
    .await;
    let local = "portolan_proxy_cluster_local_answers_total{cluster=\"web\",reason=\"timeout\"}";
    assert_eq!(proxy.metric(local), 1);
    let sent = "portolan_proxy_cluster_bytes_total{cluster=\"web\",direction=\"out\"}";
    assert_eq!(proxy.metric(sent), 4, "what was sent until then");
    proxy.finish().await;
}

#[tokio::test]
async fn http2_connections_that_are_closed_for_what_the_client_did_are_counted_by_cause() {
    let proxy = start(Plan::http(&[])).await;
    let mut stream = TcpStream::connect(proxy.web()).await.expect("accepted");
    // The preface, SETTINGS, then a PING on a stream, which there is not (RFC 9113 §6.7).
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    bytes.extend_from_slice(b"\0\0\x08\x06\0\0\0\0\x0112345678");
    stream.write_all(&bytes).await.expect("written");
    drop(soon("the end", stream.read_to_end(&mut Vec::new())).await);
    let counter = "portolan_proxy_http2_closes_total{listener=\"web\",cause=\"protocol\"}";
    until("the count", || proxy.metric(counter) == 1).await;
    proxy.finish().await;
}
