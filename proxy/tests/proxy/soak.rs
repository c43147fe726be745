//! Everything at once for a while: load of every kind, endpoints that come, go and fail, and
//! configurations that change. What is left at the end is what there was at the beginning.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use portolan_model::Balancer;
use portolan_model::policy::{Retries, RetryOn};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::kit::*;
use super::raw::*;

/// Descriptors open but for pipes, of which each worker keeps a few for long bodies.
fn descriptors() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").expect("Linux").flatten();
    let is_pipe = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("pipe:"))
    };
    entries.filter(|entry| !is_pipe(entry)).count()
}

/// Resident memory in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = text.split(' ').nth(1).expect("a number").parse().expect("a number");
    pages * 4096
}

/// Answers well, slowly, badly or not at all, by the number of the request.
async fn moody(request: Request<Incoming>, n: usize) -> Response<Body> {
    match n % 29 {
        3 => tokio::time::sleep(Duration::from_millis(30)).await,
        7 => return respond(503, full("not now")),
        11 => return respond(200, full(vec![7; 300_000])),
        13 => return respond(413, full("unread")),
        17 => {
            let (part, pause) = ("slow".into(), Duration::from_millis(10));
            return respond(200, paced(part, 3, pause, || {}));
        }
        _ => {}
    }
    match request.into_body().collect().await {
        Ok(body) => respond(200, full(body.to_bytes())),
        Err(_cut) => respond(400, empty()),
    }
}

/// Dies in one of several ways.
async fn dying(mut wire: Wire, n: usize) {
    match n % 5 {
        0 => wire.reset(),
        1 => drop(wire),
        2 => {
            wire.take(10).await;
            wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello").await;
        }
        3 => {
            wire.take(10).await;
            wire.send("garbage\r\n\r\n").await;
        }
        _ => {
            wire.take(10).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// One client that asks in many ways, and sometimes goes away in the middle.
async fn client(to: SocketAddr, seed: usize, stop: CancellationToken) -> usize {
    let mut done = 0;
    let mut n = seed;
    while !stop.is_cancelled() {
        let version = if n.is_multiple_of(2) { H1 } else { H2 };
        let Ok(stream) = tokio::net::TcpStream::connect(to).await else { continue };
        drop(stream);
        let mut connection = Client::connect(version, to).await;
        for _ in 0..20 {
            n += 7;
            let (method, body) = match n % 5 {
                0 => ("POST", full("hello")),
                1 => ("PUT", full(vec![7; 200_000])),
                2 => ("POST", chunks(vec![bytes::Bytes::from_static(b"part"); 20], &[("x", "1")])),
                _ => ("GET", empty()),
            };
            let sending = connection.try_send(request(version, method, "/", body));
            let wait = Duration::from_millis(if n.is_multiple_of(11) { 1 } else { 10_000 });
            match tokio::time::timeout(wait, sending).await {
                // It changed its mind.
                Err(_elapsed) => break,
                Ok(Err(_)) => break,
                Ok(Ok(response)) => {
                    done += 1;
                    if n.is_multiple_of(13) {
                        // Unread.
                        drop(response);
                        break;
                    }
                    let _cut = response.into_body().collect().await;
                }
            }
        }
    }
    done
}

async fn soak(length: Duration) {
    let base =
        Plan::http(&[]).tune(|cluster| cluster.limits.min_retries = 10).tune_route(|route| {
            route.timeout = Some(Duration::from_secs(2));
            route.retries = Some(Retries {
                attempts: 2,
                on: vec![RetryOn::ServerError, RetryOn::Reset],
                ..Retries::default()
            });
        });
    let workers = std::num::NonZeroUsize::new(2).expect("not zero");
    let proxy = start_with(base.clone(), |c| c.workers = workers).await;
    let fds = descriptors();
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for seed in 0..6 {
        clients.spawn(client(proxy.web(), seed, stop.clone()));
    }
    let started = Instant::now();
    let mut memory = None;
    let mut round = 0;
    let mut held: Vec<(Backend, Backend, RawBackend)> = Vec::new();
    while started.elapsed() < length {
        let good = Backend::start(H1, moody).await;
        let also = Backend::start(H1, moody).await;
        let bad = RawBackend::start(dying).await;
        let addresses = match round % 4 {
            0 => vec![good.address, also.address, bad.address],
            1 => vec![good.address, bad.address, down()],
            2 => vec![good.address, also.address],
            _ => vec![],
        };
        let balancer = match round % 3 {
            0 => Balancer::RoundRobin,
            1 => Balancer::LeastRequest,
            _ => Balancer::Maglev,
        };
        let plan = base.clone().tune(|cluster| {
            cluster.balancing = portolan_model::traffic::Balancing::of(balancer);
        });
        proxy.apply(plan.endpoints("web", &addresses)).await;
        if let Some((one, two, _dies)) = held.pop() {
            one.stop();
            two.stop();
        }
        held.push((good, also, bad));
        tokio::time::sleep(Duration::from_millis(150)).await;
        round += 1;
        // What grows at first is caches; it must not go on.
        if started.elapsed() > length / 3 && memory.is_none() {
            memory = Some(resident());
        }
    }
    stop.cancel();
    let mut done = 0;
    while let Some(ended) = soon("a client's end", clients.join_next()).await {
        done += ended.expect("no panic");
    }
    assert!(done > 100, "{done} requests are no load");
    until("nothing in flight", || proxy.metric("portolan_proxy_upstream_requests") == 0).await;
    assert_eq!(proxy.metric("portolan_proxy_panics_total"), 0);
    let grown = resident().saturating_sub(memory.unwrap_or(usize::MAX));
    assert!(grown < 64 << 20, "{grown} bytes more than after a third of the time");
    // The endpoints leave the set: with them goes what is kept to them.
    proxy.apply(base).await;
    drop(held);
    let all_closed = async {
        while descriptors() > fds {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), all_closed).await.is_err() {
        panic!("{} descriptors, {fds} at the start", descriptors());
    }
    proxy.finish().await;
}

/// Alone in its process: it counts descriptors, which other tests open too.
#[test]
fn ten_seconds_of_everything_leave_nothing_behind() {
    in_a_process_of_its_own("soak::ten_seconds_inside");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by ten_seconds_of_everything_leave_nothing_behind"]
async fn ten_seconds_inside() {
    soak(Duration::from_secs(8)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes ten minutes; run it alone"]
async fn ten_minutes_of_everything_leave_nothing_behind() {
    soak(Duration::from_mins(10)).await;
}

fn in_a_process_of_its_own(test: &str) {
    let this = std::env::current_exe().expect("this binary");
    let output = std::process::Command::new(this)
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .output()
        .expect("started");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("1 passed"), "{out}");
}
