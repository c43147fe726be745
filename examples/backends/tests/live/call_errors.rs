//! The gRPC client: what goes wrong, and what it says then.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_backends::call::{CallError, CallRequest};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::support::{Running, request, run};

const SAY: &str = "portolan.demo.v1.Echo/Say";

#[tokio::test]
async fn mistakes_in_what_was_typed_are_named() {
    let backend = Running::grpc();
    for (method, messages, expected) in [
        ("Echo.Say", &[][..], "method \"Echo.Say\" is not of the form package.Service/Method"),
        (
            "portolan.demo.v1.Ecko/Say",
            &[],
            "unknown service \"portolan.demo.v1.Ecko\"; the server has grpc.health.v1.Health, \
             grpc.reflection.v1.ServerReflection, portolan.demo.v1.Echo",
        ),
        (
            "portolan.demo.v1.Echo/Sey",
            &[],
            "unknown method \"Sey\" of portolan.demo.v1.Echo; it has Say, Count, Chat",
        ),
        (
            SAY,
            &[r#"{"delayMs": "soon"}"#],
            "message 1, field delayMs: invalid digit found in string at line 1 column 18",
        ),
        (
            SAY,
            &[r#"{"txt": "ahoy"}"#],
            "message 1: unrecognized field name 'txt' at line 1 column 6; \
             portolan.demo.v1.SayRequest has text, delayMs, failWith",
        ),
        (
            SAY,
            &[r#"{"text": "#],
            "message 1, field text: EOF while parsing a value at line 1 column 9",
        ),
        (SAY, &["{} {}"], "message 1: trailing characters at line 1 column 4"),
        (SAY, &["{}", "{}"], "portolan.demo.v1.Echo.Say takes one message, 2 were given"),
        (
            "portolan.demo.v1.Echo/Chat",
            &["{}", "[]"],
            "message 2: invalid type: sequence, expected a map at line 1 column 0",
        ),
    ] {
        let (out, result) = run(request(backend.address, method, messages)).await;
        let error = result.expect_err(method);
        assert_eq!(error.to_string(), expected);
        assert_eq!((out.as_str(), error.code()), ("", None));
    }
}

#[tokio::test]
async fn a_status_of_the_server_is_handed_on_with_its_number_and_words() {
    let backend = Running::grpc();
    let failing = request(backend.address, SAY, &[r#"{"text": "no ship", "failWith": 5}"#]);
    let (_, result) = run(failing).await;
    let error = result.expect_err("a status");
    assert_eq!((error.code(), error.code_name()), (Some(5), Some("NOT_FOUND")));
    assert_eq!(error.status_message(), Some("no ship"));
    assert_eq!(error.to_string(), "the server answered NOT_FOUND (5): no ship");
}

#[tokio::test]
async fn replies_before_a_status_are_printed() {
    let backend = Running::grpc();
    let messages = [r#"{"text": "a"}"#, r#"{"failWith": 14}"#, r#"{"text": "b"}"#];
    let (out, result) =
        run(request(backend.address, "portolan.demo.v1.Echo/Chat", &messages)).await;
    assert_eq!(out.lines().count(), 1, "{out}");
    assert_eq!(result.expect_err("a status").code_name(), Some("UNAVAILABLE"));
}

#[tokio::test]
async fn the_deadline_ends_a_call_wherever_it_is() {
    let backend = Running::grpc();
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let silent = silent.local_addr().map(|address| (silent, address)).expect("bound");
    for (address, method, message) in [
        (backend.address, SAY, r#"{"delayMs": 9000}"#),
        (backend.address, "portolan.demo.v1.Echo/Count", r#"{"count": 2, "intervalMs": 9000}"#),
        (silent.1, SAY, "{}"),
    ] {
        let before = Instant::now();
        let deadline = Duration::from_millis(300);
        let call = CallRequest { deadline, ..request(address, method, &[message]) };
        let (_, result) = run(call).await;
        let error = result.expect_err("too slow");
        assert!(matches!(error, CallError::Deadline { .. }), "{error:?}");
        assert_eq!(error.to_string(), "deadline exceeded after 300ms");
        assert_eq!((error.code(), error.code_name()), (Some(4), Some("DEADLINE_EXCEEDED")));
        assert!(before.elapsed() < Duration::from_secs(8));
    }
}

#[tokio::test]
async fn targets_that_are_none_or_do_not_answer_are_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let closed = free.local_addr().expect("bound").to_string();
    drop(free);
    for (target, expected) in [
        ("localhost", "target \"localhost\": a port is missing: host:port".to_owned()),
        ("a b:1", "target \"a b:1\": invalid uri character".to_owned()),
        (&closed, format!("cannot connect to {closed}: ")),
    ] {
        let any = request(SocketAddr::from(([127, 0, 0, 1], 1)), SAY, &[]);
        let (_, result) = run(CallRequest { target: target.to_owned(), ..any }).await;
        let error = result.expect_err(target);
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert_eq!(error.code(), None);
    }
}

/// Answers every stream with these response headers alone, made from the request.
async fn serve_headers(
    listener: TcpListener,
    answer: impl Fn(&Request<hyper::body::Incoming>) -> (&'static str, String) + Clone,
) {
    let (stream, _) = listener.accept().await.expect("a client");
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let (status, message) = answer(&request);
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", status)
            .header("grpc-message", message)
            .body(Empty::<Bytes>::new())
            .expect("a response");
        async { Ok::<_, Infallible>(response) }
    });
    let connection = http2::Builder::new(TokioExecutor::new());
    // The client hangs up when it has its answer.
    let _ended = connection.serve_connection(TokioIo::new(stream), service).await;
}

#[tokio::test]
async fn authority_metadata_and_deadline_reach_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let mut server = JoinSet::new();
    server.spawn(serve_headers(listener, |request| {
        let header = |name: &str| {
            let value = request.headers().get(name).and_then(|value| value.to_str().ok());
            value.unwrap_or_default().to_owned()
        };
        let authority = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        let has_timeout = !header("grpc-timeout").is_empty();
        ("9", format!("{authority} {} {has_timeout}", header("x-crew")))
    }));
    let call = CallRequest {
        authority: Some("greeter.shop".to_owned()),
        metadata: vec![("X-Crew".to_owned(), "blue".to_owned())],
        ..request(address, SAY, &[])
    };
    let (_, result) = run(call).await;
    let error = result.expect_err("a status");
    assert_eq!(error.status_message(), Some("greeter.shop blue true"));
    assert_eq!(error.code_name(), Some("FAILED_PRECONDITION"));
}

#[tokio::test]
async fn a_server_without_reflection_is_said_to_have_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let mut server = JoinSet::new();
    server.spawn(serve_headers(listener, |_| ("12", String::new())));
    let (_, result) = run(request(address, SAY, &[])).await;
    let error = result.expect_err("no reflection");
    assert!(matches!(error, CallError::NoReflection), "{error:?}");
}

#[tokio::test]
async fn a_server_that_dies_while_it_works_is_no_status_of_its_own() {
    let backend = Running::grpc();
    let call = run(request(backend.address, SAY, &[r#"{"delayMs": 9000}"#]));
    let lifecycle = backend.lifecycle.clone();
    let (result, ()) = tokio::join!(call, async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        lifecycle.abort();
    });
    let error = result.1.expect_err("cut off");
    assert!(matches!(error, CallError::Broken { .. }), "{error:?}");
    assert_eq!(error.code(), None);
}
