//! The HTTP backend.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Running, fetch, get, json};

#[tokio::test]
async fn every_path_says_who_answered_in_the_body_and_in_a_header() {
    let backend = Running::http();
    let response = get(backend.address, "/any/path?x=1").await;
    assert_eq!(response.headers()["x-endpoint"], "web-1");
    assert_eq!(response.headers()["content-type"], "application/json");
    let expected = serde_json::json!({
        "service": "web",
        "endpoint": "web-1",
        "address": backend.address.to_string(),
        "method": "GET",
        "path": "/any/path",
        "host": "web.shop",
    });
    assert_eq!(json(&response), expected);
}

#[tokio::test]
async fn a_status_is_answered_as_asked_and_none_but_final_ones() {
    let backend = Running::http();
    for (path, status) in [
        ("/status/200", 200),
        ("/status/204", 204),
        ("/status/404", 404),
        ("/status/503", 503),
        ("/status/599", 599),
        ("/status/100", 400),
        ("/status/1000", 400),
        ("/status/ok", 400),
    ] {
        let response = get(backend.address, path).await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()["x-endpoint"], "web-1", "{path}");
    }
}

#[tokio::test]
async fn slow_waits_as_long_as_asked_and_refuses_more_than_ten_seconds() {
    let backend = Running::http();
    let before = Instant::now();
    let response = get(backend.address, "/slow?ms=50").await;
    assert_eq!(json(&response)["endpoint"], "web-1");
    assert!(before.elapsed() >= Duration::from_millis(50));
    for path in ["/slow", "/slow?ms=10001", "/slow?ms=-1", "/slow?ms=x"] {
        assert_eq!(get(backend.address, path).await.status(), 400, "{path}");
    }
}

#[tokio::test]
async fn echo_returns_the_body_and_its_type() {
    let backend = Running::http();
    let body = Bytes::from(vec![7; 300_000]);
    let request = Request::post("/echo").header("content-type", "application/x-test");
    let request = request.body(Full::new(body.clone())).expect("a request");
    let response = fetch(backend.address, request).await;
    assert_eq!(response.headers()["content-type"], "application/x-test");
    assert_eq!(*response.body(), body);
}

#[tokio::test]
async fn echo_answers_the_beginning_of_a_body_before_its_end_was_sent() {
    let backend = Running::http();
    let mut stream = TcpStream::connect(backend.address).await.expect("a listener");
    let head = "POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    stream.write_all(b"5\r\nfirst\r\n").await.expect("sent");
    let mut answer = String::new();
    while !answer.contains("first") {
        read_more(&mut stream, &mut answer).await;
    }
    stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.expect("sent");
    while !answer.ends_with("0\r\n\r\n") {
        read_more(&mut stream, &mut answer).await;
    }
    assert!(answer.contains("last"), "{answer}");
}

#[tokio::test]
async fn draining_finishes_the_request_in_flight_and_accepts_nothing_new() {
    let backend = Running::http();
    let address = backend.address;
    let mut stream = TcpStream::connect(address).await.expect("a listener");
    let head = "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nfirst";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    while !answer.contains("first") {
        read_more(&mut stream, &mut answer).await;
    }
    backend.lifecycle.drain();
    // The listener closes as soon as its task has run.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.write_all(b"last").await.expect("sent");
    while !answer.ends_with("last") {
        read_more(&mut stream, &mut answer).await;
    }
    backend.ended().await;
}

async fn read_more(stream: &mut TcpStream, answer: &mut String) {
    let mut buffer = [0; 4096];
    let read = stream.read(&mut buffer).await.expect("readable");
    assert_ne!(read, 0, "closed after {answer:?}");
    answer.push_str(std::str::from_utf8(&buffer[..read]).expect("text"));
}
