//! The whole way through the front door: the real binary on the example shop, asked by clients
//! that are not ours, before, during and after a change.

#![expect(
    clippy::disallowed_methods,
    reason = "a test's tasks end with its runtime; their handles are awaited where it matters"
)]

mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use domain::base::iana::{Rcode, Rtype};
use domain::resolv::stub::conf::Transport;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_backends::shop::Shop;
use portolan_proto::demo::v1::echo_client::EchoClient;
use portolan_proto::demo::v1::{CountRequest, SayRequest};
use portolan_runtime::Lifecycle;
use support::dns::ask;
use support::{PATIENCE, Process, replace};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// Requests per protocol when the endpoints that take part are looked at.
const ROUNDS: usize = 40;
/// Requests in flight while the manifests change.
const IN_FLIGHT: usize = 200;
/// How long each of them takes at the backend.
const SLOW_MS: u32 = 1_500;

type Names = BTreeSet<String>;

/// The shop's backends, a folder with their manifests, and Portolan running on it.
struct World {
    shop: Shop,
    folder: tempfile::TempDir,
    process: Process,
}

impl World {
    async fn start() -> Self {
        let shop = Shop::start_on_free_ports(Lifecycle::new()).expect("the backends start");
        let folder = tempfile::tempdir().expect("a folder");
        shop.write_manifests(folder.path()).expect("manifests");
        let mut process = Process::run(folder.path(), &["--tcp", "127.0.0.1:0=shop/db:5432"]);
        process.reach(1).await;
        Self { shop, folder, process }
    }

    /// Endpoints of a service that are to take part.
    fn ready(&self, service: &str) -> Names {
        let backends = self.shop.backends_of("shop", service);
        backends.filter(|b| b.ready).map(|b| b.endpoint.clone()).collect()
    }

    fn http(&mut self) -> SocketAddr {
        self.process.address("proxy http http")
    }

    async fn grpc(&mut self) -> EchoClient<Channel> {
        let address = self.http();
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .expect("a URI")
            .origin("http://greeter.shop:50051".parse().expect("a URI"))
            .connect()
            .await
            .expect("connected");
        EchoClient::new(channel)
    }
}

/// The clients for HTTP, both with the service's name in the request alone.
#[derive(Clone)]
enum Http {
    One(reqwest::Client),
    Two(hyper::client::conn::http2::SendRequest<Empty<Bytes>>),
}

impl Http {
    fn one() -> Self {
        Self::One(reqwest::Client::builder().http1_only().no_proxy().build().expect("a client"))
    }

    /// One HTTP/2 connection with prior knowledge.
    async fn two(at: SocketAddr) -> Self {
        let stream = TokioIo::new(TcpStream::connect(at).await.expect("connected"));
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
        let (sender, connection) = handshake.expect("HTTP/2");
        tokio::spawn(async move { connection.await.expect("the connection ends well") });
        Self::Two(sender)
    }

    /// The endpoint that answered a GET; anything but 200 is a failure.
    async fn get(&self, at: SocketAddr, host: &str, path: &str) -> String {
        let (status, headers, body) = match self {
            Self::One(client) => {
                let request = client.get(format!("http://{at}{path}")).header("host", host);
                let response = request.send().await.unwrap_or_else(|e| panic!("{path}: {e:?}"));
                let (status, headers) = (response.status(), response.headers().clone());
                (status, headers, response.bytes().await.expect("a body"))
            }
            Self::Two(sender) => {
                let uri = format!("http://{host}{path}");
                let request = hyper::Request::get(uri).body(Empty::new()).expect("valid");
                let response = sender.clone().send_request(request).await;
                let (head, body) =
                    response.unwrap_or_else(|e| panic!("{path}: {e:?}")).into_parts();
                let body = body.collect().await.expect("a body").to_bytes();
                (head.status, head.headers, body)
            }
        };
        assert_eq!(status, 200, "GET {host}{path}: {body:?}");
        headers["x-endpoint"].to_str().expect("text").to_owned()
    }
}

/// Sends a line and returns the answer; the endpoint's name stands before the colon.
async fn tcp_line(at: SocketAddr, line: &str) -> String {
    let mut stream = TcpStream::connect(at).await.expect("connected");
    stream.write_all(format!("{line}\n").as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("half-closed");
    let mut answer = String::new();
    BufReader::new(&mut stream).read_line(&mut answer).await.expect("a line");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("the end");
    assert_eq!(rest, b"", "nothing follows");
    answer.trim_end().to_owned()
}

fn edit(folder: &Path, file: &str, change: impl Fn(&str) -> String) {
    let path = folder.join(file);
    let before = std::fs::read_to_string(&path).expect("readable");
    let after = change(&before);
    assert_ne!(before, after, "the edit of {file} changes something");
    replace(&path, &after);
}

/// Makes the endpoint of this pod not ready.
fn unready(text: &str, pod: &str) -> String {
    let end = text.find(&format!("name: {pod},")).expect("the pod stands in the manifest");
    let start = text[..end].rfind("ready: true").expect("it is ready");
    format!("{}ready: false{}", &text[..start], &text[start + "ready: true".len()..])
}

#[tokio::test(flavor = "multi_thread")]
async fn names_resolve_over_udp_and_tcp_alike() {
    let mut world = World::start().await;
    let dns = world.process.address("dns");
    let zone = "svc.cluster.local";
    let headless: Vec<String> = world
        .shop
        .backends_of("shop", "cache")
        .filter(|b| b.ready)
        .map(|b| format!("cache.shop.{zone} A {}", b.address.ip()))
        .collect();
    let srv: Vec<String> = world
        .shop
        .backends_of("shop", "cache")
        .filter(|b| b.ready)
        .map(|b| {
            let (port, name) = (b.address.port(), &b.endpoint);
            format!("_redis._tcp.cache.shop.{zone} SRV 0 50 {port} {name}.cache.shop.{zone}")
        })
        .collect();
    let one = |text: &str| vec![text.to_owned()];
    let (ok, nx) = (Rcode::NOERROR, Rcode::NXDOMAIN);
    let cases: Vec<(&str, Rtype, Rcode, Vec<String>)> = vec![
        ("web.shop", Rtype::A, ok, one("web.shop.svc.cluster.local A 10.96.0.80")),
        ("WEB.shop", Rtype::A, ok, one("WEB.shop.svc.cluster.local A 10.96.0.80")),
        ("web.shop", Rtype::AAAA, ok, Vec::new()),
        ("cache.shop", Rtype::A, ok, headless),
        ("_redis._tcp.cache.shop", Rtype::SRV, ok, srv),
        (
            "payments.shop",
            Rtype::CNAME,
            ok,
            one("payments.shop.svc.cluster.local CNAME payments.example.com."),
        ),
        ("nope.shop", Rtype::A, nx, Vec::new()),
        ("shop", Rtype::A, ok, Vec::new()),
    ];
    for transport in [Transport::UdpTcp, Transport::Tcp] {
        for (name, rtype, rcode, records) in &cases {
            let answer = ask(dns, transport, &format!("{name}.{zone}"), *rtype).await;
            let expected = records.iter().cloned().collect();
            assert_eq!((answer.rcode, answer.records), (*rcode, expected), "{name} {rtype}");
        }
        let version = ask(dns, transport, "dns-version.cluster.local", Rtype::TXT).await;
        assert_eq!(
            version.records,
            Names::from(["dns-version.cluster.local TXT \"1.1.0\"".into()])
        );
        let ptr = ask(dns, transport, "80.0.96.10.in-addr.arpa", Rtype::PTR).await;
        let expected = format!("80.0.96.10.in-addr.arpa PTR web.shop.{zone}.");
        assert_eq!(ptr.records, Names::from([expected]));
        let apex = ask(dns, transport, "cluster.local", Rtype::SOA).await;
        assert_eq!((apex.rcode, apex.records.len()), (ok, 1));
        let ns = ask(dns, transport, "cluster.local", Rtype::NS).await;
        assert_eq!(ns.records, Names::from(["cluster.local NS ns.dns.cluster.local.".into()]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ready_endpoint_and_no_other_takes_part() {
    let mut world = World::start().await;
    let (at, web) = (world.http(), world.ready("web"));
    assert_eq!(web.len(), 3, "the example has three ready and one that is not: {web:?}");
    for client in [Http::one(), Http::two(at).await] {
        let mut seen = Names::new();
        for _ in 0..ROUNDS {
            seen.insert(client.get(at, "web.shop", "/").await);
        }
        assert_eq!(seen, web);
    }

    let greeters = world.ready("greeter");
    let mut grpc = world.grpc().await;
    let mut seen = Names::new();
    for n in 0..ROUNDS {
        let text = format!("hello {n}");
        let request = SayRequest { text: text.clone(), ..SayRequest::default() };
        let reply = grpc.say(request).await.expect("unary").into_inner();
        assert_eq!(reply.text, text);
        seen.insert(reply.endpoint);
    }
    assert_eq!(seen, greeters);

    let count = CountRequest { text: "n".into(), count: 100, interval_ms: 0 };
    let mut replies = grpc.count(count).await.expect("server stream").into_inner();
    let mut received = 0;
    while let Some(reply) = replies.message().await.expect("trailers with status 0") {
        assert!(greeters.contains(&reply.endpoint));
        received += 1;
    }
    assert_eq!(received, 100);

    let says = (0..50).map(|n| SayRequest { text: n.to_string(), ..SayRequest::default() });
    let mut chat = grpc.chat(tokio_stream::iter(says)).await.expect("bidirectional").into_inner();
    for n in 0..50 {
        let reply = chat.message().await.expect("no error").expect("a reply for each");
        assert_eq!(reply.text, n.to_string());
    }
    assert!(chat.message().await.expect("trailers").is_none());

    let db = world.process.address("proxy tcp tcp-shop/db:5432");
    let mut seen = Names::new();
    for n in 0..ROUNDS {
        let answer = tcp_line(db, &format!("line {n}")).await;
        let (endpoint, text) = answer.split_once(": ").expect("endpoint: text");
        assert_eq!(text, format!("line {n}"));
        seen.insert(endpoint.to_owned());
    }
    assert_eq!(seen, world.ready("db"));
}

/// The endpoints of web that answer a number of requests, one after the other.
async fn endpoints_seen(at: SocketAddr) -> Names {
    let mut seen = Names::new();
    for client in [Http::one(), Http::two(at).await] {
        for _ in 0..ROUNDS {
            seen.insert(client.get(at, "web.shop", "/").await);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_under_load_fails_no_request_and_moves_names_and_traffic() {
    let mut world = World::start().await;
    let (at, dns) = (world.http(), world.process.address("dns"));
    let gone = "web-1".to_owned();
    assert!(world.ready("web").contains(&gone));

    // A third each over HTTP/1.1, HTTP/2 and gRPC, all of them waiting at a backend.
    let (one, two, grpc) = (Http::one(), Http::two(at).await, world.grpc().await);
    let requests = (0..IN_FLIGHT).map(|n| {
        let (one, two, mut grpc) = (one.clone(), two.clone(), grpc.clone());
        async move {
            let path = format!("/slow?ms={SLOW_MS}");
            match n % 3 {
                0 => one.get(at, "web.shop", &path).await,
                1 => two.get(at, "web.shop", &path).await,
                _ => {
                    let request = SayRequest { delay_ms: SLOW_MS, ..SayRequest::default() };
                    grpc.say(request).await.expect("the call succeeds").into_inner().endpoint
                }
            }
        }
    });
    let requests = tokio::spawn(join_all(requests));
    let waiting = "portolan_proxy_upstream_requests";
    let deadline = std::time::Instant::now() + PATIENCE;
    while world.process.metric(waiting).await != Some(200.0) {
        assert!(std::time::Instant::now() < deadline, "200 requests were never in flight at once");
        assert!(!requests.is_finished(), "requests ended before all were in flight");
    }

    edit(world.folder.path(), "web.yaml", |text| unready(text, "web-1"));
    edit(world.folder.path(), "cache.yaml", |text| unready(text, "cache-1"));
    world.process.reach(2).await;
    assert!(!requests.is_finished(), "the change was applied while requests were in flight");

    // Names and traffic have moved while the old requests still wait.
    let answer = ask(dns, Transport::UdpTcp, "cache.shop.svc.cluster.local", Rtype::A).await;
    assert_eq!(answer.records.len(), 1, "{:?}", answer.records);
    let mut expected = world.ready("web");
    expected.remove(&gone);
    // (Which of the others a request goes to depends on how many of the old ones each has.)
    let seen = endpoints_seen(at).await;
    assert!(seen.is_subset(&expected), "{seen:?}");
    assert!(!requests.is_finished(), "new requests were sent while old ones waited");

    let answered: Names = requests.await.expect("not one request failed").into_iter().collect();
    assert!(answered.contains(&gone), "the endpoint that left finished what it had: {answered:?}");
    assert_eq!(endpoints_seen(at).await, expected);
    let proxy = world.process.json("/debug/proxy").await;
    let snapshot = world.process.json("/debug/snapshot").await;
    assert_eq!(proxy["generation"], snapshot["generation"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_finishes_what_is_in_flight_and_a_second_signal_does_not_wait() {
    let mut world = World::start().await;
    let at = world.http();
    let slow = tokio::spawn(async move { Http::one().get(at, "web.shop", "/slow?ms=1000").await });
    while world.process.metric("portolan_proxy_upstream_requests").await != Some(1.0) {
        assert!(!slow.is_finished());
    }
    world.process.signal("TERM");
    assert!(world.ready("web").contains(&slow.await.expect("it is answered during the drain")));
    assert_eq!(world.process.wait(), Some(0));

    let mut world = World::start().await;
    let at = world.http();
    let cut = tokio::spawn(async move {
        let url = format!("http://{at}/slow?ms=10000");
        reqwest::Client::new().get(url).header("host", "web.shop").send().await
    });
    while world.process.metric("portolan_proxy_upstream_requests").await != Some(1.0) {
        assert!(!cut.is_finished());
    }
    world.process.signal("TERM");
    let deadline = std::time::Instant::now() + PATIENCE;
    while world.process.admin("/readyz").await.0 == 200 {
        assert!(std::time::Instant::now() < deadline);
    }
    world.process.signal("TERM");
    assert_eq!(world.process.wait(), Some(1), "an aborted drain is a failure");
    assert!(cut.await.expect("no panic").is_err(), "the request was cut off");
}
