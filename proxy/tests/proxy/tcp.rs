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
            stream.read_to_end(&mut all).await.expect("read");
            stream.write_all(&all).await.expect("written");
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
