//! The way out: what is in flight finishes, nothing new begins, and abort waits for nobody.

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::kit::*;

#[tokio::test]
async fn a_request_in_flight_finishes_and_its_connection_closes() {
    for version in [H1, H2] {
        let (feed, backend) = fed_backend(H1).await;
        let proxy = start(Plan::http(&[backend.address])).await;
        let web = proxy.web();
        let mut client = Client::connect(version, web).await;
        feed.send("begun, ".into()).await.expect("room");
        let response = client.send(get(version, "/")).await;
        let mut body = response.into_body();
        let first = soon("a frame", body.frame()).await.expect("a frame").expect("sound");
        assert_eq!(first.into_data().expect("data"), "begun, ");

        proxy.lifecycle.drain();
        soon("the socket to close", async {
            while TcpStream::connect(web).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        feed.send("ended".into()).await.expect("room");
        drop(feed);
        let rest = soon("the rest", body.collect()).await.expect("a whole body");
        assert_eq!(rest.to_bytes(), "ended", "{version:?}");
        client.closed().await;
        proxy.ended().await;
    }
}

#[tokio::test]
async fn idle_connections_close_at_once() {
    for version in [H1, H2] {
        let backend = Backend::named(H1, "a").await;
        let proxy = start(Plan::http(&[backend.address])).await;
        let mut client = Client::connect(version, proxy.web()).await;
        assert_eq!(collect(client.send(get(version, "/")).await).await.text(), "a");
        let silent = TcpStream::connect(proxy.web()).await.expect("accepted");
        proxy.lifecycle.drain();
        client.closed().await;
        proxy.ended().await;
        drop(silent);
    }
}

#[tokio::test]
async fn a_tcp_stream_runs_until_it_ends() {
    let (listener, to) = {
        let listener = tokio::net::TcpListener::bind(loopback(0)).await.expect("a free port");
        let to = listener.local_addr().expect("bound");
        (listener, to)
    };
    let proxy = start(Plan::tcp(&[to])).await;
    let mut near = TcpStream::connect(proxy.address("tcp")).await.expect("accepted");
    let (mut far, _) = listener.accept().await.expect("connected");
    proxy.lifecycle.drain();
    let mut buffer = [0; 4];
    near.write_all(b"ping").await.expect("written");
    soon("ping", far.read_exact(&mut buffer)).await.expect("read");
    far.write_all(b"pong").await.expect("written");
    soon("pong", near.read_exact(&mut buffer)).await.expect("read");
    assert_eq!(&buffer, b"pong");
    drop(near);
    drop(far);
    proxy.ended().await;
}

#[tokio::test]
async fn abort_waits_for_nobody() {
    let (_feed, backend) = fed_backend(H1).await;
    let proxy = start(Plan::http(&[backend.address])).await;
    let mut client = Client::connect(H1, proxy.web()).await;
    let sending = client.try_send(get(H1, "/"));
    let aborting = async {
        until("the request", || backend.requests() == 1).await;
        proxy.lifecycle.abort();
        proxy.ended().await;
    };
    let (sent, ()) = tokio::join!(sending, aborting);
    if let Ok(response) = sent {
        assert!(response.into_body().collect().await.is_err(), "the body is cut off");
    }
}
