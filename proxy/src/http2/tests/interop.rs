//! Against the `h2` crate, each side of which is one that others have tested.

use std::future::poll_fn;

use bytes::Bytes;
use http::{Method, Request as HttpRequest, Response};
use tokio::io::DuplexStream;
use tokio::task::spawn_local;

use super::super::*;
use super::selfmade::{drink, echo, head, local, open, pour, ready, serve_on};
use crate::message::Fields;

fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| u8::try_from(at * 13 % 239).expect("small")).collect()
}

async fn their_client(
    settings: &Settings,
    builder: &h2::client::Builder,
) -> h2::client::SendRequest<Bytes> {
    let (near, far) = tokio::io::duplex(64 << 10);
    serve_on(far, settings.clone(), std::future::pending(), echo);
    let (client, connection) = builder.handshake(near).await.expect("a handshake");
    spawn_local(async move {
        let _ = connection.await;
    });
    client.ready().await.expect("ready")
}

fn post() -> HttpRequest<()> {
    let request = HttpRequest::builder().method(Method::POST).uri("http://web.default/echo");
    request.header("x-some", "value").body(()).expect("a request")
}

async fn send_all(stream: &mut h2::SendStream<Bytes>, mut data: Bytes, most: usize) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len().min(most));
        let count = poll_fn(|cx| stream.poll_capacity(cx)).await.expect("open").expect("open");
        let piece = data.split_to(count.min(data.len()).min(most));
        stream.send_data(piece, false).expect("sent");
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-last", "yes".parse().expect("a value"));
    stream.send_trailers(trailers).expect("sent");
}

async fn receive_all(body: &mut h2::RecvStream) -> (Vec<u8>, http::HeaderMap) {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("data");
        body.flow_control().release_capacity(data.len()).expect("released");
        all.extend_from_slice(&data);
    }
    (all, body.trailers().await.expect("fine").expect("trailers"))
}

#[tokio::test]
async fn their_client_is_served_whatever_the_windows() {
    let cases = [
        (65_535, 1 << 20, 10 << 20, 1 << 20),
        (1000, 2000, 100_000, 300),
        (1 << 20, 1 << 20, 30_000, 1),
    ];
    for (window, stream_window, length, piece) in cases {
        local(async {
            let settings = Settings { stream_window, ..Settings::default() };
            let mut builder = h2::client::Builder::new();
            builder.initial_window_size(window);
            let mut client = their_client(&settings, &builder).await;
            let (response, mut stream) = client.send_request(post(), false).expect("sent");
            let data = pattern(length);
            let receive = async {
                let response = response.await.expect("a response");
                assert_eq!(response.headers()["x-path"], "/echo");
                receive_all(&mut response.into_body()).await
            };
            let send = send_all(&mut stream, data.clone(), piece);
            let ((), (all, trailers)) = tokio::join!(send, receive);
            assert!(all == data, "{window}");
            assert_eq!(trailers["x-total"], length.to_string().as_str());
            assert_eq!(trailers["x-last"], "yes");
        })
        .await;
    }
}

#[tokio::test]
async fn their_client_may_open_many_streams_one_after_another() {
    local(async {
        let settings = Settings { max_concurrent_streams: 10, ..Settings::default() };
        let client = their_client(&settings, &h2::client::Builder::new()).await;
        let mut tasks = Vec::new();
        for at in 0..200_usize {
            let client = client.clone();
            tasks.push(spawn_local(async move {
                let mut client = client.ready().await.expect("ready");
                let (response, mut stream) = client.send_request(post(), false).expect("sent");
                let data = pattern(at * 50);
                send_all(&mut stream, data.clone(), 1 << 16).await;
                let (all, _) =
                    receive_all(&mut response.await.expect("a response").into_body()).await;
                assert!(all == data);
            }));
        }
        for task in tasks {
            task.await.expect("no panic");
        }
    })
    .await;
}

/// Serves with `h2`: sends back what comes; resets `/reset`, goes away at `/away`.
async fn their_server(io: DuplexStream, window: u32) {
    let mut builder = h2::server::Builder::new();
    builder.initial_window_size(window).enable_connect_protocol();
    let mut connection = builder.handshake::<_, Bytes>(io).await.expect("a handshake");
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        match request.uri().path() {
            "/reset" => respond.send_reset(h2::Reason::REFUSED_STREAM),
            "/away" => {
                connection.graceful_shutdown();
                respond.send_response(Response::new(()), true).expect("sent");
            }
            _ => {
                spawn_local(async move {
                    let mut body = request.into_body();
                    let mut stream = respond.send_response(Response::new(()), false).expect("sent");
                    let (all, _) = receive_all(&mut body).await;
                    send_all(&mut stream, Bytes::from(all), 1 << 16).await;
                });
            }
        }
    }
}

fn our_client(settings: &Settings, window: u32) -> Client {
    let (near, far) = tokio::io::duplex(64 << 10);
    spawn_local(their_server(far, window));
    let (client, run) = client(near, settings);
    spawn_local(run);
    client
}

async fn exchange(client: &Client, data: Bytes, piece: usize) -> Vec<u8> {
    ready(client).await;
    let fields = Fields::default();
    let (mut send, mut recv) = client.open(&open(b"POST", b"/", &fields), false).expect("room");
    let write = async {
        for piece in data.chunks(piece) {
            pour(&mut send, data.slice_ref(piece)).await.expect("sent");
        }
        let mut trailers = Fields::default();
        trailers.push(b"x-one", b"1");
        send.send_trailers(&trailers);
    };
    let read = async {
        let (_, mut body) = head(&mut recv).await.expect("a head");
        drink(&mut body).await.expect("a body")
    };
    let ((), (all, trailers)) = tokio::join!(write, read);
    assert_eq!(trailers.expect("trailers").named(b"x-last"), Some(&b"yes"[..]));
    all
}

#[tokio::test]
async fn their_server_takes_bodies_whatever_the_windows() {
    let cases = [
        (65_535, 1 << 20, 10 << 20, 1 << 20),
        (1000, 2000, 100_000, 300),
        (1 << 20, 1 << 20, 20_000, 100),
    ];
    for (window, stream_window, length, piece) in cases {
        local(async {
            let settings = Settings { stream_window, ..Settings::default() };
            let client = our_client(&settings, window);
            let data = pattern(length);
            assert!(exchange(&client, data.clone(), piece).await == data, "{window}");
        })
        .await;
    }
}

#[tokio::test]
async fn their_server_refuses_and_goes_away() {
    local(async {
        let client = our_client(&Settings::default(), 65_535);
        let fields = Fields::default();
        ready(&client).await;
        let (_send, mut recv) = client.open(&open(b"GET", b"/reset", &fields), true).expect("room");
        assert_eq!(head(&mut recv).await.expect_err("refused"), StreamError::Refused);
        let data = pattern(1000);
        let (all, away) = tokio::join!(exchange(&client, data.clone(), 10), async {
            let (_send, mut recv) =
                client.open(&open(b"GET", b"/away", &fields), true).expect("room");
            head(&mut recv).await.map(|(head, _)| head.status)
        });
        assert!(all == data, "what was open ends well");
        assert_eq!(away, Ok(200));
        while client.is_usable() {
            tokio::task::yield_now().await;
        }
        assert_eq!(client.room(), 0);
    })
    .await;
}
