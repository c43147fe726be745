//! The gRPC client against the gRPC backend: what works.

use portolan_backends::call::CallRequest;

use crate::support::{Running, request, run};

const ECHO: &str = "portolan.demo.v1.Echo";

#[tokio::test]
async fn each_kind_of_method_gets_its_messages_and_prints_its_replies() {
    let backend = Running::grpc();
    let line = |text: &str| {
        let address = backend.address;
        format!("{{\"text\":\"{text}\",\"endpoint\":\"greeter-1\",\"address\":\"{address}\"}}\n")
    };
    for (method, messages, texts) in [
        ("Say", &[r#"{"text": "ahoy"}"#][..], &["ahoy"][..]),
        ("Count", &[r#"{"text": "n", "count": 3, "interval_ms": 1}"#], &["n 1", "n 2", "n 3"]),
        ("Count", &[r#"{"text": "n"}"#], &[]),
        ("Chat", &[r#"{"text": "a"}"#, r#"{"text": "b"}"#], &["a", "b"]),
        ("Chat", &[], &[]),
    ] {
        let method = format!("{ECHO}/{method}");
        let (out, result) = run(request(backend.address, &method, messages)).await;
        result.expect("no error");
        assert_eq!(out, texts.iter().map(|text| line(text)).collect::<String>(), "{method}");
    }
}

#[tokio::test]
async fn a_method_that_takes_one_message_is_sent_an_empty_one_when_none_is_given() {
    let backend = Running::grpc();
    let (out, result) = run(request(backend.address, &format!("{ECHO}/Say"), &[])).await;
    result.expect("no error");
    assert!(out.starts_with(r#"{"endpoint":"greeter-1""#), "{out}");
}

#[tokio::test]
async fn without_a_method_every_service_and_method_is_listed() {
    let backend = Running::grpc();
    let list = CallRequest { method: None, ..request(backend.address, "", &[]) };
    let (out, result) = run(list).await;
    result.expect("no error");
    let health = "grpc.health.v1.Health";
    let reflection = "grpc.reflection.v1.ServerReflection";
    let (ask, reply) = ("grpc.health.v1.HealthCheckRequest", "grpc.health.v1.HealthCheckResponse");
    let expected = [
        format!("{health}/Check({ask}) returns ({reply})"),
        format!("{health}/Watch({ask}) returns (stream {reply})"),
        format!(
            "{reflection}/ServerReflectionInfo(stream {reflection}Request) \
             returns (stream {reflection}Response)"
        ),
        format!("{ECHO}/Say(portolan.demo.v1.SayRequest) returns (portolan.demo.v1.SayReply)"),
        format!(
            "{ECHO}/Count(portolan.demo.v1.CountRequest) returns (stream portolan.demo.v1.SayReply)"
        ),
        format!(
            "{ECHO}/Chat(stream portolan.demo.v1.SayRequest) \
             returns (stream portolan.demo.v1.SayReply)"
        ),
    ];
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn any_server_with_reflection_can_be_called_and_enums_are_words() {
    let backend = Running::grpc();
    let check = request(backend.address, "grpc.health.v1.Health/Check", &[]);
    let (out, result) = run(check).await;
    result.expect("no error");
    assert_eq!(out, "{\"status\":\"SERVING\"}\n");
}
