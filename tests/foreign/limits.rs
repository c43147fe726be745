//! Limits in number and in time, the PROXY header, and what endpoints are spoken to in.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portolan_proto::envoy::cluster::circuit_breakers::Thresholds;
use portolan_proto::envoy::cluster::{CircuitBreakers, Cluster};
use portolan_proto::envoy::core::transport_socket::ConfigType;
use portolan_proto::envoy::core::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as HttpOptions,
    ProxyProtocolConfig, TransportSocket,
};
use portolan_proto::envoy::http_connection_manager::HttpConnectionManager;
use portolan_proto::envoy::listener_proxy_protocol::ProxyProtocol;
use portolan_proto::envoy::protobuf::Duration as Time;
use portolan_proto::envoy::raw_buffer::RawBuffer;
use portolan_proto::envoy::route::{RetryPolicy, RouteAction};
use portolan_proto::envoy::upstream_http::HttpProtocolOptions;
use portolan_proto::envoy::upstream_http::http_protocol_options::explicit_http_config::ProtocolConfig;
use portolan_proto::envoy::upstream_http::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use portolan_proto::envoy::upstream_proxy_protocol::ProxyProtocolUpstreamTransport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::backend::{Backend, DELAY, Lines, addresses};
use crate::control_plane::resources::{
    action, all, any, assignment, eds_cluster, http_listener, listener_filter, manager, millis,
    number, route, static_cluster, table, tcp_listener, tcp_proxy,
};
use crate::control_plane::{CDS, LDS};
use crate::kit::{Line, ROUTES, WEB, World, all_to_web, counts, until};
use crate::support::free_address;

async fn world(
    cluster: &Cluster,
    backends: &[Backend],
    action: RouteAction,
    manager: &HttpConnectionManager,
) -> World {
    let mut world = World::start().await;
    let routes = table(ROUTES, vec![route("/", action)]);
    let endpoints = assignment(WEB, &addresses(backends));
    world.serve(cluster, &endpoints, &routes, manager).await;
    world.until("it serves", |answer| answer.status == 200).await;
    world
}

fn breakers(thresholds: Thresholds) -> Option<CircuitBreakers> {
    Some(CircuitBreakers { thresholds: vec![thresholds], ..CircuitBreakers::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_the_breaker_allows_are_503_and_say_so() {
    let backends = Backend::several(1).await;
    let limit = Thresholds { max_requests: number(2), ..Thresholds::default() };
    let cluster = Cluster { circuit_breakers: breakers(limit), ..eds_cluster(WEB) };
    let mut world = world(&cluster, &backends, action(WEB), &manager(ROUTES)).await;
    for _ in 0..2 {
        let seen = world.over_limit(&backends[0], 6, 4).await;
        assert_eq!(seen, counts(&[("503 circuit_open", 4), ("a", 2)]));
        // It closes by itself.
        assert_eq!(world.count(5, &[]).await, counts(&[("a", 5)]));
    }
    let name = "portolan_proxy_local_answers_total{reason=\"circuit_open\"}";
    assert_eq!(world.metric(name).await, 8.0);
    // Without the limit all are let in.
    let version = world.plane.set(CDS, all([&eds_cluster(WEB)]));
    world.plane.acked(CDS, &version).await;
    until("the limit is gone", async || {
        let seen = world.slow(6, Duration::from_millis(500)).await;
        if seen == counts(&[("a", 6)]) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_the_breaker_allows_are_closed() {
    let lines = Lines::start("t").await;
    let world = World::start().await;
    let tcp = free_address();
    let mut cluster = static_cluster("db", &[lines.address]);
    cluster.circuit_breakers =
        breakers(Thresholds { max_connections: number(1), ..Thresholds::default() });
    world.plane.set(CDS, all([&cluster]));
    world.plane.set(LDS, all([&tcp_listener("db", tcp, &tcp_proxy("db"))]));
    let open = async || Line::open(tcp, b"").await.map_err(|e| e.to_string());
    let mut first = until("the first is let in", open).await;
    for _ in 0..3 {
        assert!(Line::open(tcp, b"").await.is_err(), "a second one");
    }
    assert_eq!(first.echo("still").await.expect("untouched"), "still");
    drop(first);
    until("the next is let in", open).await;
}

/// Envoy lets requests wait for a connection, up to `max_pending_requests`.
#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_for_one_of_the_connections_there_may_be() {
    let backends = Backend::several(1).await;
    let limit = Thresholds {
        max_connections: number(1),
        max_pending_requests: number(2),
        ..Thresholds::default()
    };
    let cluster = Cluster { circuit_breakers: breakers(limit), ..eds_cluster(WEB) };
    let world = world(&cluster, &backends, action(WEB), &manager(ROUTES)).await;
    assert_eq!(world.count_at_once(3, &[]).await, counts(&[("a", 3)]));
    let seen = world.over_limit(&backends[0], 6, 3).await;
    assert_eq!(seen, counts(&[("503 circuit_open", 3), ("a", 3)]));
}

/// Envoy passes on the answer that it may not ask for again.
#[tokio::test(flavor = "multi_thread")]
async fn retries_are_limited_by_the_breaker() {
    let backends = Backend::several(2).await;
    let limit = Thresholds { max_retries: number(0), ..Thresholds::default() };
    let cluster = Cluster { circuit_breakers: breakers(limit), ..eds_cluster(WEB) };
    let policy = RetryPolicy { retry_on: "5xx".to_owned(), ..RetryPolicy::default() };
    let retried = RouteAction { retry_policy: Some(policy), ..action(WEB) };
    let mut world = world(&cluster, &backends, retried, &manager(ROUTES)).await;
    backends[0].answer(503);
    let seen = world.count(20, &[]).await;
    assert!(seen.contains_key("503 a"), "{seen:?}");
    let over = world.metric("portolan_proxy_retries_over_budget_total").await;
    assert!(over > 0.0, "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_ended_with_the_reason() {
    let timed = |time: Option<Time>| RouteAction { timeout: time, ..action(WEB) };
    let tried = |retries: u32, on: &str| RouteAction {
        retry_policy: Some(RetryPolicy {
            retry_on: on.to_owned(),
            num_retries: number(retries),
            per_try_timeout: millis(300),
            ..RetryPolicy::default()
        }),
        ..timed(millis(5000))
    };
    let idle = RouteAction { idle_timeout: millis(300), ..timed(millis(0)) };
    let mut of_manager = manager(ROUTES);
    of_manager.stream_idle_timeout = millis(300);
    let plain = manager(ROUTES);
    // What is asked for, how long the endpoint takes, what the client gets.
    let cases = [
        (timed(millis(300)), &plain, 3000, (504, "timeout")),
        (timed(millis(0)), &plain, 1000, (200, "")),
        (timed(millis(3000)), &plain, 500, (200, "")),
        (tried(1, "5xx"), &plain, 3000, (504, "try_timeout")),
        (idle, &plain, 3000, (504, "stream_idle")),
        (timed(millis(0)), &of_manager, 3000, (504, "stream_idle")),
    ];
    for (i, (action, manager, takes, expected)) in cases.into_iter().enumerate() {
        let backends = Backend::several(1).await;
        let world = world(&eds_cluster(WEB), &backends, action, manager).await;
        let (started, takes) = (Instant::now(), takes.to_string());
        let answer = world.ask("/", &[(DELAY, &takes)]).await;
        assert_eq!((answer.status, &*answer.reason), expected, "case {i}: {answer:?}");
        let took = started.elapsed();
        assert!(expected.0 == 200 || took < Duration::from_millis(2500), "case {i}: {took:?}");
        world.until("it serves again", |answer| answer.status == 200).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_that_takes_too_long_is_made_elsewhere() {
    let backends = Backend::several(2).await;
    let policy = RetryPolicy {
        retry_on: "gateway-error".to_owned(),
        num_retries: number(2),
        per_try_timeout: millis(1000),
        ..RetryPolicy::default()
    };
    let retried = RouteAction { retry_policy: Some(policy), ..action(WEB) };
    let world = world(&eds_cluster(WEB), &backends, retried, &manager(ROUTES)).await;
    backends[0].hold();
    assert_eq!(world.count(6, &[]).await, counts(&[("b", 6)]));
}

async fn raw_http(at: SocketAddr, first: &[u8]) -> String {
    let Ok(mut stream) = TcpStream::connect(at).await else { return "refused".to_owned() };
    let request = b"GET / HTTP/1.1\r\nhost: shop\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    // A peer that resets has said what it thinks.
    let _sent = stream.write_all(&[first, request].concat()).await;
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    let _ended = read.expect("an end");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_header_says_who_the_client_is() {
    let (backends, lines) = (Backend::several(1).await, Lines::start("t").await);
    let mut world = World::start().await;
    world.web(&backends).await;
    let (http, optional, tcp) = (free_address(), free_address(), free_address());
    let filter = |optional: bool| {
        let config = ProxyProtocol {
            allow_requests_without_proxy_protocol: optional,
            ..ProxyProtocol::default()
        };
        listener_filter("envoy.filters.listener.proxy_protocol", &config)
    };
    let mut listeners = [
        http_listener("strict", http, &manager(ROUTES)),
        http_listener("lax", optional, &manager(ROUTES)),
        tcp_listener("db", tcp, &tcp_proxy("db")),
        http_listener("main", world.http, &manager(ROUTES)),
    ];
    listeners[0].listener_filters = vec![filter(false)];
    listeners[1].listener_filters = vec![filter(true)];
    listeners[2].listener_filters = vec![filter(false)];
    world.plane.set(CDS, all([&eds_cluster(WEB), &static_cluster("db", &[lines.address])]));
    world.plane.set(LDS, all(&listeners));
    let text = b"PROXY TCP4 203.0.113.7 198.51.100.1 4711 80\r\n";
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    binary.extend([203, 0, 113, 9, 198, 51, 100, 1, 0x12, 0x67, 0, 80]);
    let cases: [(SocketAddr, &[u8], &str); 6] = [
        (http, text, "x-got-forwarded: 203.0.113.7\r\n"),
        (http, &binary, "x-got-forwarded: 203.0.113.9\r\n"),
        (http, b"", ""),
        (http, b"PROXY TCP4 nonsense\r\n", ""),
        (optional, text, "x-got-forwarded: 203.0.113.7\r\n"),
        (optional, b"", "x-got-forwarded: 127.0.0.1\r\n"),
    ];
    for (at, first, expected) in cases {
        until("the header counts", async || {
            let answer = raw_http(at, first).await;
            let fine = if expected.is_empty() {
                !answer.contains("200 OK") && answer != "refused"
            } else {
                answer.contains("200 OK") && answer.contains(expected)
            };
            if fine { Ok(()) } else { Err(format!("{first:?}: {answer:?}")) }
        })
        .await;
    }
    let mut line = Line::open(tcp, text).await.expect("let in");
    assert_eq!(line.endpoint, "t");
    assert_eq!(line.echo("no header here").await.expect("echoed"), "no header here");
    assert!(Line::open(tcp, b"hello there, no header at all\n").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
#[expect(deprecated, reason = "control planes go on sending what the API has deprecated")]
async fn endpoints_are_spoken_to_in_the_version_that_is_asked_for() {
    const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let explicit = |config: ProtocolConfig| {
        let explicit = ExplicitHttpConfig { protocol_config: Some(config) };
        let options = HttpProtocolOptions {
            upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
            ..HttpProtocolOptions::default()
        };
        let mut cluster = eds_cluster(WEB);
        cluster.typed_extension_protocol_options.insert(OPTIONS.to_owned(), any(&options));
        cluster
    };
    let mut old = eds_cluster(WEB);
    old.http2_protocol_options = Some(Http2ProtocolOptions::default());
    let one = ProtocolConfig::HttpProtocolOptions(Http1ProtocolOptions::default());
    let two = ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default());
    let cases = [(explicit(one), "HTTP/1.1"), (explicit(two), "HTTP/2.0"), (old, "HTTP/2.0")];
    for (cluster, expected) in cases {
        let backends = Backend::several(1).await;
        let mut world = World::start().await;
        let endpoints = assignment(WEB, &addresses(&backends));
        world.serve(&cluster, &endpoints, &all_to_web(), &manager(ROUTES)).await;
        for answer in [world.get("/").await, world.get_http2("/").await] {
            assert_eq!((answer.status, &*answer.version), (200, expected), "{answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_end_when_they_are_to() {
    let (backends, lines) = (Backend::several(1).await, Lines::start("t").await);
    let mut world = World::start().await;
    world.web(&backends).await;
    let [by_count, by_idle, by_age, tcp_idle, tcp_age] = [(); 5].map(|()| free_address());
    let with = |options: HttpOptions| HttpConnectionManager {
        common_http_protocol_options: Some(options),
        ..manager(ROUTES)
    };
    let counted = HttpOptions { max_requests_per_connection: number(2), ..HttpOptions::default() };
    let idle = HttpOptions { idle_timeout: millis(500), ..HttpOptions::default() };
    let aged = HttpOptions { max_connection_duration: millis(800), ..HttpOptions::default() };
    let mut idle_tcp = tcp_proxy("db");
    idle_tcp.idle_timeout = millis(500);
    let mut aged_tcp = tcp_proxy("db");
    aged_tcp.max_downstream_connection_duration = millis(800);
    let listeners = [
        http_listener("main", world.http, &manager(ROUTES)),
        http_listener("count", by_count, &with(counted)),
        http_listener("idle", by_idle, &with(idle)),
        http_listener("age", by_age, &with(aged)),
        tcp_listener("tcp-idle", tcp_idle, &idle_tcp),
        tcp_listener("tcp-age", tcp_age, &aged_tcp),
    ];
    world.plane.set(CDS, all([&eds_cluster(WEB), &static_cluster("db", &[lines.address])]));
    world.plane.set(LDS, all(&listeners));
    for listener in [by_count, by_idle, by_age, tcp_idle, tcp_age] {
        until("it listens", async || {
            TcpStream::connect(listener).await.map(drop).map_err(|e| e.to_string())
        })
        .await;
    }
    // Requests on one connection until it ends, with pauses in between; and the time it took.
    let requests = async |at: SocketAddr, pause_ms: u64| {
        let mut stream = TcpStream::connect(at).await.expect("it listens");
        let started = Instant::now();
        let mut answered = 0;
        let mut buffer = [0; 4096];
        while answered < 50 {
            let request = b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n";
            if stream.write_all(request).await.is_err() {
                break;
            }
            match tokio::time::timeout(Duration::from_secs(5), stream.read(&mut buffer)).await {
                Ok(Ok(read)) if read > 0 => answered += 1,
                _ => break,
            }
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
        (answered, started.elapsed())
    };
    assert_eq!(requests(by_count, 0).await.0, 2);
    assert_eq!(requests(by_idle, 1500).await.0, 1, "idle for too long");
    assert!(requests(by_idle, 0).await.0 >= 50, "never idle");
    let (answered, took) = requests(by_age, 100).await;
    assert!(
        (2..=15).contains(&answered) && took < Duration::from_secs(3),
        "{answered} in {took:?}"
    );

    let mut line = Line::open(tcp_idle, b"").await.expect("let in");
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1200) {
        line.echo("moving").await.expect("not idle");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(line.echo("too late").await.is_err(), "idle for too long");
    let mut line = Line::open(tcp_age, b"").await.expect("let in");
    let started = Instant::now();
    while line.echo("moving").await.is_ok() {
        assert!(started.elapsed() < Duration::from_secs(5), "it lives for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() > Duration::from_millis(600), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_told_who_the_client_is_by_a_proxy_header() {
    let sink = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let world = World::start().await;
    let tcp = free_address();
    for (version, expected) in
        [(0, &b"PROXY TCP4 127.0.0.1 127.0.0.1 "[..]), (1, b"\r\n\r\n\0\r\nQUIT\n\x21\x11")]
    {
        let config = ProxyProtocolConfig { version, ..ProxyProtocolConfig::default() };
        let raw = TransportSocket {
            name: "envoy.transport_sockets.raw_buffer".to_owned(),
            config_type: Some(ConfigType::TypedConfig(any(&RawBuffer {}))),
        };
        let transport = ProxyProtocolUpstreamTransport {
            config: Some(config),
            transport_socket: Some(raw),
            ..ProxyProtocolUpstreamTransport::default()
        };
        let name = format!("db-{version}");
        let mut cluster = static_cluster(&name, &[sink.local_addr().expect("bound")]);
        cluster.transport_socket = Some(TransportSocket {
            name: "envoy.transport_sockets.upstream_proxy_protocol".to_owned(),
            config_type: Some(ConfigType::TypedConfig(any(&transport))),
        });
        world.plane.set(CDS, all([&cluster]));
        let listener = tcp_listener(&name, tcp, &tcp_proxy(&name));
        world.plane.set(LDS, all([&listener]));
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            assert!(Instant::now() < deadline, "no header of version {version}");
            let Ok(mut client) = TcpStream::connect(tcp).await else {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            };
            let _sent = client.write_all(b"hello").await;
            let accepted = tokio::time::timeout(Duration::from_secs(2), sink.accept()).await;
            let Ok(Ok((mut stream, _))) = accepted else { continue };
            let mut head = vec![0; expected.len()];
            if stream.read_exact(&mut head).await.is_ok() && head == expected {
                break;
            }
        }
    }
}
