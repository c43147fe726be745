//! Requests per second of our client against our server, both in one thread, over a socket; and a
//! server to point other programs at. Run by hand, in release mode.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

use super::super::*;
use super::selfmade::{drink, head, open, ready};
use crate::message::{Fields, ResponseHead};

const BODY: Bytes = Bytes::from_static(&[b'x'; 1024]);

async fn answer(request: Request) {
    let Request { mut body, mut respond, .. } = request;
    let mut trailers = Fields::default();
    trailers.push(b"grpc-status", b"0");
    let mut response = ResponseHead::new(200);
    response.fields.push(b"content-type", b"application/grpc");
    response.fields.push(b"date", b"Mon, 21 Oct 2013 20:13:22 GMT");
    while let Some(Ok(data)) = poll_fn(|cx| body.poll_data(cx)).await {
        body.release(data.len());
    }
    respond.send_head(&response, false);
    respond.send_data(BODY, false);
    respond.send_trailers(&trailers);
}

async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
    let (far, _) = listener.accept().await.expect("accepts");
    near.set_nodelay(true).expect("a socket");
    far.set_nodelay(true).expect("a socket");
    (near, far)
}

async fn one(client: &Client, fields: &Fields, post: bool) {
    ready(client).await;
    let request = open(b"POST", b"/portolan.Echo/Say", fields);
    let (mut send, mut recv) = client.open(&request, !post).expect("room");
    if post {
        send.send_data(Bytes::from_static(&[b'q'; 100]), true);
    }
    let (_, mut body) = head(&mut recv).await.expect("a head");
    assert_eq!(drink(&mut body).await.expect("a body").0.len(), BODY.len());
}

/// Time this thread had a core, in nanoseconds: what counts on a machine that others use too.
fn core_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    stat.split(' ').next().and_then(|first| first.parse().ok()).expect("a number")
}

async fn measure(streams: usize, post: bool) {
    let begin = core_time();
    let (near, far) = connected().await;
    spawn_local(async move {
        let on_request = |request| {
            spawn_local(answer(request));
        };
        let closing = std::future::pending();
        serve(far, Bytes::new(), &Settings::default(), closing, on_request).await.expect("fine");
    });
    let (client, run) = client(near, &Settings::default());
    let run = spawn_local(run);
    let end = Instant::now() + Duration::from_secs(3);
    let tasks: Vec<_> = (0..streams)
        .map(|at| {
            let client = client.clone();
            spawn_local(async move {
                let mut fields = Fields::default();
                fields.push(b"content-type", b"application/grpc");
                fields.push(b"te", b"trailers");
                fields.push(b"user-agent", b"grpc-go/1.60");
                fields.push(b"x-request-id", format!("{at:032}").as_bytes());
                let mut count = 0_u32;
                while Instant::now() < end {
                    one(&client, &fields, post).await;
                    count += 1;
                }
                count
            })
        })
        .collect();
    let mut total = 0;
    for task in tasks {
        total += task.await.expect("no panic");
    }
    drop(client);
    run.await.expect("no panic");
    let rate = u64::from(total) * 1_000_000_000 / (core_time() - begin);
    println!("{streams} streams, body {post}: {rate} requests per core-second");
}

#[tokio::test]
#[ignore = "a measurement, by hand and in release mode"]
async fn requests_per_second() {
    for (streams, post) in [(1, false), (32, false), (128, false), (128, true)] {
        tokio::task::LocalSet::new().run_until(measure(streams, post)).await;
    }
}

#[tokio::test]
#[ignore = "serves 127.0.0.1:18080 until it is killed, for h2spec and other programs"]
async fn serves_on_a_port() {
    let listener = TcpListener::bind("127.0.0.1:18080").await.expect("a port");
    let serve_all = async {
        loop {
            let (io, _) = listener.accept().await.expect("accepts");
            spawn_local(async move {
                let on_request = |request| {
                    spawn_local(answer(request));
                };
                let settings = Settings::default();
                let closing = std::future::pending();
                let end = serve(io, Bytes::new(), &settings, closing, on_request).await;
                println!("{end:?}");
            });
        }
    };
    tokio::task::LocalSet::new().run_until(serve_all).await;
}
