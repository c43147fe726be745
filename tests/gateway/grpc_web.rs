//! gRPC-Web (grpc/grpc, doc/PROTOCOL-WEB.md) to a server of gRPC: by hand, in both versions of HTTP, and
//! by the client of gRPC for the web.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portolan_backends::Identity;
use portolan_proto::demo::v1::{CountRequest, SayReply, SayRequest};
use portolan_runtime::Lifecycle;
use prost::Message;
use tokio::net::TcpStream;

use crate::cases::{Case, EMPTY};
use crate::kit::{Front, Version, World};
use crate::support::foreign;

const SAY: &str = "/portolan.demo.v1.Echo/Say";
const COUNT: &str = "/portolan.demo.v1.Echo/Count";

/// A service of gRPC, and nothing in front of it that knows what comes.
fn manifests(port: u16) -> &'static str {
    let text = format!(
        "---
{{apiVersion: v1, kind: Service, metadata: {{name: echo, namespace: $NS}}, spec: {{clusterIP: None, ports: [{{name: grpc, port: 50051, targetPort: {port}, appProtocol: grpc}}]}}}}
---
{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: echo-1, namespace: $NS, labels: {{kubernetes.io/service-name: echo}}}}, addressType: IPv4, ports: [{{name: grpc, port: {port}}}], endpoints: [{{addresses: [127.0.0.1]}}]}}
---
{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: $NS}}, spec: {{parentRefs: [{{name: gw}}], rules: [{{backendRefs: [{{name: echo, port: 50051}}]}}]}}}}
"
    );
    text.leak()
}

/// An Echo, and who serves it to browsers; both end with the test.
async fn world(front: Front, lifecycle: &Lifecycle) -> Option<World> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.set_nonblocking(true).expect("set");
    let port = listener.local_addr().expect("bound").port();
    let identity = Identity::new("echo", "echo-1");
    tokio::spawn(portolan_backends::grpc::serve(listener, identity, lifecycle.clone()));
    let case = Case { name: "grpc-web", manifests: manifests(port), ..EMPTY };
    World::start(front, &[case]).await
}

/// What came back: the head, the messages, and the trailers if they came as a message.
struct Reply {
    status: u16,
    head: HeaderMap,
    messages: Vec<Vec<u8>>,
    trailers: Option<String>,
}

/// Messages in their frames ("Message framing").
fn framed(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("short");
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

/// Reads the messages of a response's body.
fn read(mut body: &[u8]) -> (Vec<Vec<u8>>, Option<String>) {
    let (mut messages, mut trailers) = (Vec::new(), None);
    while let [flags, a, b, c, d, rest @ ..] = body {
        assert!(trailers.is_none(), "nothing comes after the trailers");
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let (message, rest) = rest.split_at(length);
        match flags {
            0x80 => trailers = Some(String::from_utf8(message.to_vec()).expect("text")),
            _ => messages.push(message.to_vec()),
        }
        body = rest;
    }
    assert_eq!(body, b"", "the body ends with a message");
    (messages, trailers)
}

/// Base 64 in which padding may stand anywhere between fours.
fn decoded(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|four| STANDARD.decode(four).expect("base 64")).collect()
}

/// Calls a method; `size` is that of the pieces in which the body is sent.
async fn call(
    at: SocketAddr,
    version: Version,
    path: &str,
    kind: &str,
    body: Vec<u8>,
    size: usize,
) -> Reply {
    let stream = TokioIo::new(TcpStream::connect(at).await.expect("connected"));
    let pieces: Vec<_> = body.chunks(size).map(Bytes::copy_from_slice).collect();
    let frames =
        pieces.into_iter().map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
    let body = if size == usize::MAX {
        Full::new(Bytes::from(body)).boxed()
    } else {
        StreamBody::new(futures_util::stream::iter(frames)).boxed()
    };
    let request = Request::post(match version {
        Version::Http1 => path.to_owned(),
        Version::Http2 => format!("http://shop.test{path}"),
    });
    let request = request.header("content-type", kind).header("x-grpc-web", "1");
    let response = match version {
        Version::Http1 => {
            let request = request.header("host", "shop.test").body(body).expect("valid");
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(stream).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            sender.send_request(request).await
        }
        Version::Http2 => {
            let request = request.body(body).expect("valid");
            let shake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await;
            let (mut sender, connection) = shake.expect("HTTP/2");
            tokio::spawn(connection);
            sender.send_request(request).await
        }
    };
    let (head, body) = response.expect("an answer").into_parts();
    let collected = body.collect().await.expect("the whole of it");
    assert!(collected.trailers().is_none(), "browsers see no trailers");
    let body = collected.to_bytes();
    let text = head.headers["content-type"].to_str().expect("text").contains("-text");
    let (messages, trailers) = if text { read(&decoded(&body)) } else { read(&body) };
    Reply { status: head.status.as_u16(), head: head.headers, messages, trailers }
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_call_servers_of_grpc() {
    let lifecycle = Lifecycle::new();
    for front in [Front::Portolan, Front::Envoy] {
        let Some(mut world) = world(front, &lifecycle).await else { return };
        let at = world.at(0, false);
        for version in [Version::Http1, Version::Http2] {
            calls(at, version, world.is_envoy()).await;
        }
    }
}

async fn calls(at: SocketAddr, version: Version, is_envoy: bool) {
    let say = SayRequest { text: "ahoy".repeat(1000), ..SayRequest::default() };
    let message = framed(&say);
    let text = STANDARD.encode(&message).into_bytes();
    for (kind, body, size, answered) in [
        ("application/grpc-web+proto", &message, usize::MAX, "application/grpc-web+proto"),
        ("application/grpc-web", &message, 7, "application/grpc-web+proto"),
        ("application/grpc-web-text", &text, usize::MAX, "application/grpc-web-text+proto"),
        ("application/grpc-web-text+proto", &text, 1, "application/grpc-web-text+proto"),
    ] {
        let reply = call(at, version, SAY, kind, body.clone(), size).await;
        let what = format!("{version:?} {kind} in pieces of {size}");
        assert_eq!(reply.status, 200, "{what}");
        // Envoy goes by what is accepted alone, and nothing is said of that here.
        if !is_envoy {
            assert_eq!(reply.head["content-type"], answered, "{what}");
        }
        let [said] = &reply.messages[..] else {
            panic!("{what}: {} messages", reply.messages.len())
        };
        assert_eq!(SayReply::decode(&**said).expect("a reply").text, say.text, "{what}");
        let trailers = reply.trailers.expect("trailers");
        assert!(trailers.contains("grpc-status:0\r\n"), "{what}: {trailers:?}");
    }

    // A status, at once and after some messages.
    let failing = SayRequest { text: "no: 5 %".to_owned(), fail_with: 5, ..SayRequest::default() };
    let reply = call(at, version, SAY, "application/grpc-web", framed(&failing), usize::MAX).await;
    assert_eq!((reply.status, reply.messages.len()), (200, 0));
    let trailers = reply.trailers.unwrap_or_default();
    let stated = reply.head.get("grpc-status").map(|status| status.to_str().expect("text"));
    assert!(stated == Some("5") || trailers.contains("grpc-status:5\r\n"), "{stated:?} {trailers}");

    let count = CountRequest { text: "n".to_owned(), count: 50, interval_ms: 1 };
    let reply = call(at, version, COUNT, "application/grpc-web", framed(&count), usize::MAX).await;
    assert_eq!(reply.messages.len(), 50, "{version:?}");
    assert!(reply.trailers.expect("trailers").contains("grpc-status:0\r\n"));

    // What is no base 64 goes nowhere.
    let kind = "application/grpc-web-text";
    if !is_envoy {
        let reply = call(at, version, SAY, kind, b"AAA*".to_vec(), usize::MAX).await;
        assert_eq!(reply.head["grpc-status"], "3", "{version:?}");
        assert_eq!(reply.head["content-type"], "application/grpc-web-text+proto");
        assert_eq!(reply.head["x-portolan-reason"], "bad_request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_grpc_for_the_web_is_served() {
    if foreign::peer("node").is_none() {
        return;
    }
    let lifecycle = Lifecycle::new();
    let mut world = world(Front::Portolan, &lifecycle).await.expect("it is ours");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut node = std::process::Command::new("node");
    node.arg(root.join("tests/interop/node/grpc_web.js"))
        .arg(format!("http://{}", world.at(0, false)))
        .arg(root.join("proto"))
        .env("NODE_PATH", root.join("target/interop-node/node_modules"));
    let said =
        tokio::task::spawn_blocking(move || foreign::run(&mut node)).await.expect("no panic");
    print!("{}", String::from_utf8_lossy(&said));
}
