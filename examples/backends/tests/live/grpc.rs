//! The gRPC backend, by the generated clients.

use portolan_proto::demo::v1::CountRequest;
use portolan_proto::demo::v1::echo_client::EchoClient;
use portolan_proto::demo::v1::echo_server::SERVICE_NAME;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::Running;

async fn channel(backend: &Running) -> Channel {
    let uri = format!("http://{}", backend.address);
    Endpoint::from_shared(uri).expect("a URI").connect().await.expect("a listener")
}

#[tokio::test]
async fn replies_are_counted_and_carry_the_endpoint() {
    let backend = Running::grpc();
    let mut client = EchoClient::new(channel(&backend).await);
    let request = CountRequest { text: "n".to_owned(), count: 1000, interval_ms: 0 };
    let mut replies = client.count(request).await.expect("a stream").into_inner();
    let mut number = 0;
    while let Some(reply) = replies.message().await.expect("a reply") {
        number += 1;
        assert_eq!(reply.text, format!("n {number}"));
        assert_eq!(reply.endpoint, "greeter-1");
        assert_eq!(reply.address, backend.address.to_string());
    }
    assert_eq!(number, 1000);
}

#[tokio::test]
async fn what_would_take_too_long_is_refused() {
    let backend = Running::grpc();
    let mut client = EchoClient::new(channel(&backend).await);
    for (count, interval_ms, reason) in [
        (10_001, 0, "count is 10001, at most 10000"),
        (1, 10_001, "interval_ms is 10001, at most 10000"),
    ] {
        let request = CountRequest { text: String::new(), count, interval_ms };
        let status = client.count(request).await.expect_err("too much");
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, reason));
    }
}

#[tokio::test]
async fn those_who_watch_its_health_hear_of_the_drain_and_their_stream_ends() {
    let backend = Running::grpc();
    let mut client = HealthClient::new(channel(&backend).await);
    for service in ["", SERVICE_NAME] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let response = client.check(request).await.expect("known").into_inner();
        assert_eq!(response.status().as_str_name(), "SERVING");
    }
    let request = HealthCheckRequest { service: SERVICE_NAME.to_owned() };
    let mut watch = client.watch(request).await.expect("a stream").into_inner();
    let mut seen = Vec::new();
    while let Some(response) = watch.message().await.expect("a status") {
        seen.push(response.status().as_str_name());
        backend.lifecycle.drain();
    }
    assert_eq!(seen, ["SERVING", "NOT_SERVING"]);
    drop(client);
    backend.ended().await;
}
