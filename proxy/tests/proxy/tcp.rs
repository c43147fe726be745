//! TCP streams: every byte, both ends, and who is told when it fails.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::kit::*;

const BIG: usize = 10 * 1024 * 1024;

/// Answers only once the client has ended its half: first the length, then everything.
async fn echo_after_end() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(loopback(0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut all = Vec::new();
            // A stream that was cut is not answered; the tests see to who must see what.
            if stream.read_to_end(&mut all).await.is_ok() {
                let _cut = stream.write_all(&all).await;
            }
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn ten_megabytes_pass_both_ways_and_each_half_closes_by_itself() {
    let (backend, _tasks) = echo_after_end().await;
    let proxy = start(Plan::tcp(&[backend])).await;
    let sent: Vec<u8> = (0..BIG).map(|i| u8::try_from(i % 253).expect("small")).collect();
    let mut stream = TcpStream::connect(proxy.address("tcp")).await.expect("accepted");
    stream.write_all(&sent).await.expect("written");
    stream.shutdown().await.expect("half closed");
    let mut back = Vec::new();
    soon("the echo", stream.read_to_end(&mut back)).await.expect("read");
    assert!(back == sent, "{} bytes back", back.len());
    let bytes = u64::try_from(BIG).expect("small");
    for direction in ["in", "out"] {
        let line =
            format!("portolan_proxy_bytes_total{{listener=\"tcp\",direction=\"{direction}\"}}");
        assert_eq!(proxy.metric(&line), bytes, "{direction}");
    }
    drop(stream);
    proxy.finish().await;
}

/// How a connection that must not be served fails: on connecting already, or on reading.
async fn reset(to: SocketAddr) -> ErrorKind {
    let read = async { TcpStream::connect(to).await?.read(&mut [0; 8]).await };
    soon("the reset", read).await.expect_err("a reset").kind()
}

#[tokio::test]
async fn a_connection_nobody_takes_is_reset() {
    let down = down();
    for (endpoints, reason) in [(vec![], "no_endpoints"), (vec![down], "connect_failed")] {
        let proxy = start(Plan::tcp(&endpoints)).await;
        assert_eq!(reset(proxy.address("tcp")).await, ErrorKind::ConnectionReset);
        let counter = format!("portolan_proxy_local_answers_total{{reason=\"{reason}\"}}");
        assert_eq!(proxy.metric(&counter), 1);
        proxy.finish().await;
    }
}

#[tokio::test]
async fn the_next_endpoint_takes_what_the_first_refuses() {
    let down = down();
    let (backend, _tasks) = echo_after_end().await;
    let proxy = start(Plan::tcp(&[down, backend])).await;
    for _ in 0..4 {
        let mut stream = TcpStream::connect(proxy.address("tcp")).await.expect("accepted");
        stream.write_all(b"hi").await.expect("written");
        stream.shutdown().await.expect("half closed");
        let mut back = String::new();
        soon("the echo", stream.read_to_string(&mut back)).await.expect("read");
        assert_eq!(back, "hi");
    }
    proxy.finish().await;
}

#[tokio::test]
async fn a_stream_on_which_nothing_moves_is_reset() {
    let (backend, _tasks) = echo_after_end().await;
    let idle = Duration::from_millis(50);
    let proxy = start_with(Plan::tcp(&[backend]), |c| c.tcp_idle_timeout = idle).await;
    assert_eq!(reset(proxy.address("tcp")).await, ErrorKind::ConnectionReset);
    proxy.finish().await;
}

#[tokio::test]
async fn one_connection_over_the_bound_is_reset_and_counted() {
    let (backend, _tasks) = echo_after_end().await;
    let proxy = start_with(Plan::tcp(&[backend]), |c| c.max_connections = 1).await;
    let to = proxy.address("tcp");
    let mut first = TcpStream::connect(to).await.expect("accepted");
    until("the first connection", || {
        proxy.metric("portolan_proxy_connections{listener=\"tcp\"}") == 1
    })
    .await;
    assert_eq!(reset(to).await, ErrorKind::ConnectionReset);
    let refused = "portolan_proxy_connections_refused_total{listener=\"tcp\"}";
    assert_eq!(proxy.metric(refused), 1);
    first.shutdown().await.expect("half closed");
    soon("the end", first.read(&mut [0; 8])).await.expect("an end");
    drop(first);
    proxy.finish().await;
}

#[tokio::test]
async fn a_stream_past_its_age_is_reset_though_bytes_move() {
    let (backend, _tasks) = echo_after_end().await;
    let age = Duration::from_millis(60);
    let proxy = start_with(Plan::tcp(&[backend]), |c| c.tcp_max_age = Some(age)).await;
    let mut stream = TcpStream::connect(proxy.address("tcp")).await.expect("accepted");
    let mut tick = tokio::time::interval(age / 20);
    let sending = async {
        while stream.write_all(b"still here").await.is_ok() {
            tick.tick().await;
        }
    };
    soon("the reset", sending).await;
    assert_eq!(proxy.metric("portolan_proxy_tcp_ends_total{end=\"max_age\"}"), 1);
    assert_eq!(proxy.metric("portolan_proxy_local_answers_total{reason=\"max_age\"}"), 1);
    proxy.finish().await;
}

/// Resets each connection once a byte has come.
async fn resets_after_a_byte() -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind(loopback(0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            stream.read_exact(&mut [0]).await.expect("a byte");
            stream.set_zero_linger().expect("set");
        }
    });
    (address, tasks)
}

#[tokio::test]
async fn a_reset_of_the_endpoint_reaches_the_client_and_has_a_name() {
    let (backend, _tasks) = resets_after_a_byte().await;
    let proxy = start(Plan::tcp(&[backend])).await;
    let mut stream = TcpStream::connect(proxy.address("tcp")).await.expect("accepted");
    stream.write_all(b"x").await.expect("written");
    let error = soon("the reset", stream.read(&mut [0; 8])).await.expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let counter = "portolan_proxy_tcp_ends_total{end=\"upstream_reset\"}";
    until("the end is counted", || proxy.metric(counter) == 1).await;
    proxy.finish().await;
}

#[tokio::test]
async fn an_endpoint_that_speaks_first_is_heard_at_once() {
    let listener = TcpListener::bind(loopback(0)).await.expect("a free port");
    let backend = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        stream.write_all(b"220 ready\r\n").await.expect("written");
        // Until the client has read it.
        assert_eq!(stream.read(&mut [0; 8]).await.expect("an end"), 0);
    });
    let proxy = start(Plan::tcp(&[backend])).await;
    let mut stream = TcpStream::connect(proxy.address("tcp")).await.expect("accepted");
    let mut greeting = [0; 11];
    soon("the greeting", stream.read_exact(&mut greeting)).await.expect("read");
    assert_eq!(&greeting, b"220 ready\r\n");
    drop(stream);
    proxy.finish().await;
    tasks.join_next().await.expect("one task").expect("no panic");
}

/// Sockets and pipes this process has open.
fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("readable").count()
}

#[tokio::test]
async fn a_thousand_streams_leave_no_descriptor_behind() {
    const STREAMS: usize = 1_000;
    let (backend, _tasks) = echo_after_end().await;
    let proxy = start(Plan::tcp(&[backend])).await;
    let to = proxy.address("tcp");
    let big = vec![7; 300 * 1024];
    let one = async |n: usize| {
        let mut stream = TcpStream::connect(to).await.expect("accepted");
        // Some are long enough to be spliced, some are cut short.
        let sent = if n.is_multiple_of(10) { &big[..] } else { b"x" };
        stream.write_all(sent).await.expect("written");
        if n.is_multiple_of(7) {
            stream.set_zero_linger().expect("set");
            return;
        }
        stream.shutdown().await.expect("half closed");
        let mut back = Vec::new();
        soon("the echo", stream.read_to_end(&mut back)).await.expect("read");
        assert_eq!(back.len(), sent.len());
    };
    one(1).await;
    let open = "portolan_proxy_connections{listener=\"tcp\"}";
    until("the first has ended", || proxy.metric(open) == 0).await;
    let before = descriptors();
    for n in 0..STREAMS {
        one(n).await;
    }
    until("all have ended", || proxy.metric(open) == 0).await;
    let after = descriptors();
    // Idle pipes are kept, two descriptors each; other tests come and go beside this one.
    assert!(after < before + STREAMS / 4, "{before} descriptors before, {after} after");
    proxy.finish().await;
}
