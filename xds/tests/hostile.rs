//! Hostile clients against the server on a socket. Whatever one does, its stream ends with the
//! status it deserves or is ignored; a client beside it has each change in time; memory stays
//! bounded; and once it is gone nothing of it is left.

#![expect(
    clippy::disallowed_methods,
    reason = "a test's tasks end with its runtime; their handles are awaited where it matters"
)]

#[path = "hostile/raw.rs"]
mod raw;
#[path = "hostile/server.rs"]
mod server;
mod support;

use std::future::Future;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use portolan_proto::envoy::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use portolan_xds::ServerLimits;
use portolan_xds::resource::ResourceType::{Cluster, Endpoints};
use prost::Message;
use raw::{Connection, DELTA, SOTW, Stream, delta, framed, moment, refusal, sotw};
use server::{PATIENCE, Server, View, WellBehaved};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// Least number of changes that the well-behaved client gets meanwhile.
const CHANGES: usize = 10;
/// Between two of them.
const PACE: Duration = Duration::from_millis(25);

// gRPC status codes.
const INVALID_ARGUMENT: i32 = 3;
const RESOURCE_EXHAUSTED: i32 = 8;
const OUT_OF_RANGE: i32 = 11;
const INTERNAL: i32 = 13;

/// Panics of any thread: a task that panics takes only its stream with it.
static PANICS: AtomicUsize = AtomicUsize::new(0);
/// Memory is that of the process: one at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            before(info);
        }));
    });
}

/// A line of `/proc/self/status` in MiB.
fn mebibytes(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = text.lines().find_map(|l| l.strip_prefix(name)).expect("it is there");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// Runs an attack beside a well-behaved client. `growth` is by how many MiB memory may grow at
/// most meanwhile, the attacker's own (it is in this process) included.
async fn withstand<A: Future<Output = ()> + Send + 'static>(
    limits: ServerLimits,
    growth: u64,
    attack: impl FnOnce(View) -> A,
) -> Server {
    let _alone = ALONE.lock().await;
    count_panics();
    let panics = PANICS.load(Ordering::SeqCst);
    let mut server = Server::start(limits).await;
    let client = WellBehaved::start(server.address).await;
    // The peak is counted anew.
    std::fs::write("/proc/self/clear_refs", "5").expect("allowed for oneself");
    let before = mebibytes("VmRSS:");

    let attack = tokio::spawn(attack(server.view()));
    let mut changes = 0;
    while changes < CHANGES || !attack.is_finished() {
        let octet = server.change();
        client.has(octet).await;
        server.change_other(u32::from(octet), octet);
        changes += 1;
        sleep(PACE).await;
    }
    attack.await.expect("the attack went as planned");
    server.until_alone(&client).await;
    let grown = mebibytes("VmHWM:").saturating_sub(before);
    println!("{changes} changes; memory grew by {grown} MiB of {growth}");
    assert!(grown <= growth, "memory grew by {grown} MiB, {growth} were expected at most");
    assert_eq!(PANICS.load(Ordering::SeqCst), panics, "something panicked");
    server
}

/// Small limits, so that attacks need not be large.
fn limits() -> ServerLimits {
    ServerLimits {
        connections: 300,
        streams: 300,
        streams_per_sec: 100_000,
        names: 5_000,
        keepalive: Duration::from_secs(1),
        ..ServerLimits::default()
    }
}

/// A stream on a connection of its own, which is the attacker's as long as it is kept.
async fn open(view: &View, path: &str) -> (Connection, Stream) {
    let mut connection = Connection::open(view.address).await;
    let stream = connection.stream(path).await.expect("a stream");
    (connection, stream)
}

/// Requests on a stream, and the code it ends with. The server may end it while they are sent.
async fn ends_with(view: View, path: &str, requests: Vec<Bytes>, codes: &[i32]) {
    let (_connection, mut stream) = open(&view, path).await;
    for request in requests {
        if stream.send_bytes(request).await.is_err() {
            break;
        }
    }
    let code = stream.ends().await;
    assert!(codes.contains(&code), "ended with {code}");
}

fn many_names(count: usize, prefix: &str) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}{n}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_huge_name_ends_its_stream() {
    let huge = "x".repeat(1 << 20);
    let sotw = framed(&sotw(Endpoints, &[&huge], "").encode_to_vec());
    let delta = framed(&delta(Endpoints, &[&huge], "").encode_to_vec());
    let server = withstand(limits(), 64, |view| async move {
        ends_with(view.clone(), SOTW, vec![sotw], &[RESOURCE_EXHAUSTED]).await;
        ends_with(view, DELTA, vec![delta], &[RESOURCE_EXHAUSTED]).await;
    });
    assert_eq!(server.await.metric("xds_violations_total"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_names_in_one_request_end_its_stream() {
    let server = withstand(limits(), 192, |view| async move {
        let names = many_names(1_000_000, "n");
        let all = DiscoveryRequest {
            type_url: Endpoints.type_url().to_owned(),
            resource_names: names,
            ..DiscoveryRequest::default()
        };
        let request = framed(&all.encode_to_vec());
        drop(all);
        ends_with(view.clone(), SOTW, vec![request], &[RESOURCE_EXHAUSTED]).await;
        // Two octets each on the wire, and 24 once read.
        let mut empty = delta(Endpoints, &[], "").encode_to_vec();
        for _ in 0..5_000_000 {
            empty.extend_from_slice(&[3 << 3 | 2, 0]);
        }
        ends_with(view, DELTA, vec![framed(&empty)], &[RESOURCE_EXHAUSTED]).await;
    });
    assert_eq!(server.await.metric("xds_violations_total"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_names_in_many_requests_end_their_stream() {
    let server = withstand(limits(), 128, |view| async move {
        let some = |n: usize| {
            let names = many_names(1_000, &format!("{n}-"));
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            framed(&delta(Endpoints, &names, "").encode_to_vec())
        };
        ends_with(view, DELTA, (0..1_000).map(some).collect(), &[RESOURCE_EXHAUSTED]).await;
    });
    assert_eq!(server.await.metric("xds_violations_total"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_that_nobody_knows_are_ignored() {
    withstand(limits(), 64, |view| async move {
        let (_connection, mut stream) = open(&view, SOTW).await;
        let mut nonce = String::new();
        for round in 0..20 {
            // More at once than the server reads in time, and HTTP/2 itself ends the connection.
            for n in 0..500 {
                let unknown = DiscoveryRequest {
                    type_url: format!("type.googleapis.com/garbage.{round}.{n}"),
                    resource_names: many_names(3, "x"),
                    ..DiscoveryRequest::default()
                };
                stream.send(&unknown.encode_to_vec()).await.expect("the stream goes on");
            }
            let name = format!("shop/other-{round}:80");
            let known = sotw(Endpoints, &[&name], &nonce);
            stream.send(&known.encode_to_vec()).await.expect("the stream goes on");
            let response = stream.next_sotw().await;
            assert_eq!(response.resources.len(), 1);
            nonce = response.nonce;
        }
    })
    .await;
}

/// Subscribes to everything.
async fn want_everything(stream: &mut Stream) {
    let names: Vec<String> = (0..2_000).map(|n| format!("shop/other-{n}:80")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).chain(["shop/web:80"]).collect();
    for request in [sotw(Cluster, &[], ""), sotw(Endpoints, &names, "")] {
        stream.send(&request.encode_to_vec()).await.expect("sent");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_is_sent_no_more_than_fits() {
    withstand(limits(), 96, |view| async move {
        let mut readers = Vec::new();
        for _ in 0..20 {
            // It reads frames, and never says that there is room again.
            let (connection, mut stream) = open(&view, SOTW).await;
            want_everything(&mut stream).await;
            stream.answered().await;
            readers.push((connection, stream));
        }
        view.until("all are there", |view| view.metric("xds_streams") == 21).await;
        let sent = view.metric("xds_responses_total");
        sleep(Duration::from_secs(1)).await;
        // One of each type, besides those of the client that reads.
        let more = view.metric("xds_responses_total") - sent;
        assert!(more < 200, "{more} responses to who does not read");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_closes_its_tcp_window_is_given_up() {
    withstand(limits(), 96, |view| async move {
        let mut readers = Vec::new();
        for _ in 0..20 {
            let mut connection = Connection::open_narrow(view.address).await;
            let mut stream = connection.stream(SOTW).await.expect("a stream");
            want_everything(&mut stream).await;
            stream.answered().await;
            moment().await;
            connection.freeze();
            readers.push((connection, stream));
        }
        view.until("they are given up", |view| view.metric("xds_streams") == 1).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_refuses_for_ever_is_sent_each_version_once() {
    withstand(limits(), 64, |view| async move {
        let (_connection, mut stream) = open(&view, SOTW).await;
        let names = ["shop/web:80"];
        stream.send(&sotw(Endpoints, &names, "").encode_to_vec()).await.expect("sent");
        for n in 0..CHANGES {
            let nonce = stream.next_sotw().await.nonce;
            let mut nack = sotw(Endpoints, &names, &nonce);
            nack.error_detail = refusal(&format!("shop/web:80 is bad, {n} {}", "x".repeat(9_000)));
            stream.send(&nack.encode_to_vec()).await.expect("the stream goes on");
        }
        view.until("all are counted", |view| view.metric("xds_nacks_total") == 10).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_answers_is_sent_one_response() {
    withstand(limits(), 64, |view| async move {
        let (_connection, mut stream) = open(&view, SOTW).await;
        stream.send(&sotw(Endpoints, &["shop/web:80"], "").encode_to_vec()).await.expect("sent");
        assert_eq!(stream.next_sotw().await.resources.len(), 1);
        let silence = timeout(Duration::from_secs(1), stream.next()).await;
        assert!(silence.is_err(), "a second response without an answer to the first");
        let (_other, mut stream) = open(&view, DELTA).await;
        stream.send(&delta(Endpoints, &["shop/web:80"], "").encode_to_vec()).await.expect("sent");
        assert_eq!(stream.next_delta().await.resources.len(), 1);
        let silence = timeout(Duration::from_secs(1), stream.next()).await;
        assert!(silence.is_err(), "a second response without an answer to the first");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_request_ends_its_stream() {
    let server = withstand(limits(), 64, |view| async move {
        let cases: [(Bytes, &[i32]); 4] = [
            (framed(&[0xff; 100]), &[INVALID_ARGUMENT]),
            (framed(b"not protobuf at all"), &[INVALID_ARGUMENT]),
            // A flag that is neither compressed nor not.
            (Bytes::from_static(&[7, 0, 0, 0, 1, 0]), &[INTERNAL]),
            // Compressed, where no compression was agreed on.
            (Bytes::from_static(&[1, 0, 0, 0, 1, 0]), &[INTERNAL]),
        ];
        for (bytes, codes) in cases {
            for path in [SOTW, DELTA] {
                ends_with(view.clone(), path, vec![bytes.clone()], codes).await;
            }
        }
    })
    .await;
    assert_eq!(server.metric("xds_violations_total"), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_over_the_limit_ends_its_stream_before_it_is_read() {
    let small = ServerLimits { request_bytes: 64 * 1024, ..limits() };
    let server = withstand(small, 64, |view| async move {
        for length in [64 * 1024 + 1, u32::MAX] {
            let mut head = vec![0];
            head.extend_from_slice(&length.to_be_bytes());
            ends_with(view.clone(), SOTW, vec![head.into()], &[OUT_OF_RANGE]).await;
        }
    })
    .await;
    assert_eq!(server.metric("xds_violations_total"), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_has_a_limited_number_of_streams() {
    withstand(limits(), 96, |view| async move {
        let mut connection = Connection::open(view.address).await;
        let mut streams = Vec::new();
        for _ in 0..3_000 {
            // Past the limit, one waits until another one ends.
            let mut stream = connection.stream(SOTW).await.expect("the connection stays");
            let request = sotw(Endpoints, &["shop/web:80"], "").encode_to_vec();
            let sending = timeout(Duration::from_millis(500), stream.send(&request)).await;
            let Ok(sent) = sending else { break };
            sent.expect("sent");
            streams.push(stream);
        }
        assert!((100..=101).contains(&streams.len()), "{} streams are open", streams.len());
        view.until("all are there", |view| view.metric("xds_streams") >= 100).await;
        assert!(view.metric("xds_streams") <= 102);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_over_the_limit_are_refused() {
    let server = withstand(ServerLimits { streams: 50, ..limits() }, 96, |view| async move {
        let mut kept = Vec::new();
        let mut refused = 0;
        for n in 0..200 {
            let (connection, mut stream) = open(&view, SOTW).await;
            let request = sotw(Endpoints, &["shop/web:80"], "").encode_to_vec();
            if n < 49 {
                stream.send(&request).await.expect("sent");
                assert_eq!(stream.next_sotw().await.resources.len(), 1);
                kept.push((connection, stream));
            } else {
                assert_eq!(stream.ends().await, RESOURCE_EXHAUSTED);
                refused += 1;
            }
        }
        assert_eq!(refused, 151);
    })
    .await;
    assert_eq!(server.metric("xds_streams_refused_total"), 151);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_are_bounded_and_make_room_again() {
    let few = ServerLimits { connections: 20, ..limits() };
    let server = withstand(few, 64, |view| async move {
        let mut idle = Vec::new();
        for _ in 0..2_000 {
            idle.push(TcpStream::connect(view.address).await.expect("the system accepts"));
        }
        view.until("those over the limit are closed", |view| {
            view.metric("xds_connections_refused_total") >= 1_000
        })
        .await;
        // Those within it say nothing, or say it slowly, and are closed as well.
        for connection in &mut idle {
            // Besides the server's settings nothing comes.
            let mut all = Vec::new();
            let reading = timeout(PATIENCE, connection.read_to_end(&mut all)).await;
            // An end, or a reset.
            let _end = reading.expect("closed in time");
            assert!(all.len() < 100, "{} octets to who did nothing", all.len());
        }
        drop(WellBehaved::start_now(view.address).await);
    })
    .await;
    assert!(server.metric("xds_connections_unused_total") >= 19);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drip_of_bytes_holds_nothing_up() {
    withstand(limits(), 64, |view| async move {
        // HTTP/2 itself by the octet: given up.
        let mut slow = TcpStream::connect(view.address).await.expect("let in");
        let dripping = async {
            for octet in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".iter().cycle() {
                if slow.write_all(&[*octet]).await.is_err() {
                    return;
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        timeout(PATIENCE, dripping).await.expect("closed in time");
        // A request by the octet: as good as any.
        let mut dripping = Vec::new();
        for _ in 0..100 {
            let view = view.clone();
            dripping.push(tokio::spawn(async move {
                let (_connection, mut stream) = open(&view, SOTW).await;
                let request = sotw(Endpoints, &["shop/web:80"], "").encode_to_vec();
                for octet in framed(&request) {
                    stream.send_bytes(Bytes::copy_from_slice(&[octet])).await.expect("sent");
                    moment().await;
                }
                assert_eq!(stream.next_sotw().await.resources.len(), 1);
            }));
        }
        for drip in dripping {
            drip.await.expect("answered");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_reset_as_soon_as_opened_leave_nothing() {
    withstand(limits(), 64, |view| async move {
        let mut cut_off = 0;
        for _ in 0..20 {
            let mut connection = Connection::open(view.address).await;
            for _ in 0..1_000 {
                // The server may have had enough (RFC 9113 §10.5).
                let Ok(mut stream) = connection.stream(SOTW).await else {
                    cut_off += 1;
                    break;
                };
                stream.requests.send_reset(h2::Reason::CANCEL);
            }
        }
        println!("{cut_off} connections of 20 were cut off");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_opened_and_dropped_for_ever_leave_nothing() {
    withstand(limits(), 64, |view| async move {
        let request = DeltaDiscoveryRequest {
            type_url: Cluster.type_url().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        let request = request.encode_to_vec();
        let mut connection = Connection::open(view.address).await;
        for n in 0..200 {
            let mut stream = connection.stream(DELTA).await.expect("a stream");
            stream.send(&request).await.expect("sent");
            if n % 2 == 0 {
                assert!(stream.next_delta().await.resources.len() > 1_000);
            }
        }
        for _ in 0..60 {
            let (_connection, mut stream) = open(&view, SOTW).await;
            want_everything(&mut stream).await;
        }
    })
    .await;
}
