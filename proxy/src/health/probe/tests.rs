//! Probes against scripted backends on real sockets.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use portolan_model::policy::Balancer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;

/// What a backend does with a connection once it has accepted it.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// It says nothing and reads nothing.
    Hang,
    /// It closes.
    Close,
    /// It reads a request and says this.
    Say(&'static [u8]),
    /// It says this a byte at a time, without end.
    Trickle(&'static [u8]),
    /// It sends a head that does not end.
    Flood,
    /// It serves HTTP/2: status, `grpc-status` in the trailers (or the head, without a message),
    /// message.
    Http2(u16, Option<&'static str>, Option<&'static [u8]>),
}

/// A test that does not finish within this has failed.
const LIMIT: Duration = Duration::from_secs(20);
/// How long an answer is waited for where none comes.
const PATIENCE: Duration = Duration::from_millis(200);

fn question(probe: &Probe, http2: bool) -> Question {
    let mut cluster = Cluster::new("shop/web:80".into(), Balancer::RoundRobin);
    cluster.health_host = Some("web.shop.svc".into());
    if http2 {
        cluster.upstream.protocol = UpstreamProtocol::Http2;
    }
    Question::new(&cluster, probe)
}

async fn act(listener: TcpListener, act: Act, seen: tokio::sync::mpsc::Sender<String>) {
    let accepted = listener.accept().await;
    drop(listener);
    let Ok((mut stream, _)) = accepted else { return };
    match act {
        Act::Close => {}
        Act::Hang => std::future::pending().await,
        Act::Http2(status, grpc_status, message) => {
            serve_http2(stream, status, grpc_status, message, seen).await;
        }
        Act::Say(_) | Act::Trickle(_) | Act::Flood => {
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap_or(0);
            let text = String::from_utf8_lossy(&request[..read]).into_owned();
            drop(seen.send(text).await);
            say(&mut stream, act).await;
        }
    }
}

async fn say(stream: &mut TcpStream, act: Act) {
    // The probe may hang up at any time: writing ends with it.
    match act {
        Act::Say(text) => drop(stream.write_all(text).await),
        Act::Trickle(text) => {
            for byte in text.iter().cycle() {
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        _ => {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\n").await);
            while stream.write_all(&[b'a'; 4096]).await.is_ok() {}
        }
    }
}

async fn serve_http2(
    stream: TcpStream,
    status: u16,
    grpc_status: Option<&'static str>,
    message: Option<&'static [u8]>,
    seen: tokio::sync::mpsc::Sender<String>,
) {
    let mut connection = h2::server::handshake(stream).await.expect("a preface");
    let Some(Ok((request, mut respond))) = connection.accept().await else { return };
    let (head, mut body) = request.into_parts();
    let answer = async {
        let mut sent = Vec::new();
        while let Some(Ok(data)) = body.data().await {
            sent.extend_from_slice(&data);
        }
        let kind = head.headers.get("content-type").map(|v| v.to_str().expect("text"));
        drop(seen.send(format!("{} {} {kind:?} {sent:?}", head.method, head.uri)).await);
        let mut response = Response::builder().status(status);
        let trailers = grpc_status.map(|code| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static(code),
            )])
        });
        let Some(message) = message else {
            response.headers_mut().expect("no error yet").extend(trailers.unwrap_or_default());
            drop(respond.send_response(response.body(()).expect("valid"), true));
            return;
        };
        let mut out =
            respond.send_response(response.body(()).expect("valid"), false).expect("open");
        let last = trailers.is_none();
        drop(out.send_data(Bytes::from_static(message), last));
        if let Some(trailers) = trailers {
            drop(out.send_trailers(trailers));
        }
    };
    tokio::join!(answer, async { while connection.accept().await.is_some() {} });
}

/// Asks a backend, and returns its answer and the request it saw.
async fn ask(question: &Question, script: Act) -> (Answer, Option<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (seen, mut saw) = tokio::sync::mpsc::channel(1);
    let mut backend = JoinSet::new();
    backend.spawn(act(listener, script, seen));
    let unending = matches!(script, Act::Hang | Act::Trickle(_));
    let patience = if unending { PATIENCE } else { LIMIT };
    let answer = timeout(patience, question.ask(address, None)).await;
    assert_eq!(answer.is_err(), unending, "{script:?}: {answer:?}");
    let answer = answer.unwrap_or_else(|_| Answer::Unreachable("nothing in time".to_owned()));
    backend.abort_all();
    (answer, saw.try_recv().ok())
}

async fn check(question: &Question, cases: &[(Act, Answer)]) {
    for (script, expected) in cases {
        let (answer, _) = ask(question, *script).await;
        match (&answer, expected) {
            // The words of the system may differ; that it is unreachable may not.
            (Answer::Unreachable(_), Answer::Unreachable(said)) if said.is_empty() => {}
            _ => assert_eq!(answer, *expected, "{script:?}"),
        }
    }
}

fn unhealthy(reason: &str) -> Answer {
    Answer::Unhealthy(reason.to_owned())
}

fn unreachable(reason: &str) -> Answer {
    Answer::Unreachable(reason.to_owned())
}

#[tokio::test]
async fn a_tcp_probe_wants_a_connection_and_no_more() {
    let tcp = question(&Probe::Tcp, false);
    check(&tcp, &[(Act::Close, Answer::Passed)]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    for probe in [Probe::Tcp, Probe::Http("/".to_owned()), Probe::Grpc] {
        let answer = question(&probe, false).ask(address, None).await;
        assert!(matches!(answer, Answer::Unreachable(_)), "{probe:?}: {answer:?}");
    }
}

#[tokio::test]
async fn an_http_probe_wants_200() {
    let http = question(&Probe::Http("/healthz?full".to_owned()), false);
    let (answer, request) = ask(&http, Act::Say(b"HTTP/1.1 200 OK\r\n\r\n")).await;
    assert_eq!(answer, Answer::Passed);
    let request = request.expect("a request");
    assert!(
        request.starts_with("GET /healthz?full HTTP/1.1\r\nhost: web.shop.svc\r\n"),
        "{request}"
    );
    assert!(request.ends_with("\r\n\r\n"), "{request}");
    #[rustfmt::skip]
    let cases = [
        (Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\nonly the head counts"), Answer::Passed),
        (Act::Say(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"), Answer::Passed),
        (Act::Say(b"HTTP/1.1 204 No Content\r\n\r\n"), unhealthy("answered 204")),
        (Act::Say(b"HTTP/1.1 301 Moved\r\nlocation: /\r\n\r\n"), unhealthy("answered 301")),
        (Act::Say(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), unhealthy("answered 503")),
        (Act::Say(b"+PONG\r\n"), unreachable("the answer is no HTTP/1")),
        (Act::Say(b"HTTP/1.1 200 OK\r\n"), unreachable("closed before the answer's head was whole")),
        (Act::Close, unreachable("")),
        (Act::Flood, unreachable("the answer's head is longer than 16384 bytes")),
        (Act::Hang, unreachable("nothing in time")),
        (Act::Trickle(b"HTTP/1.1 200 OK\r\na: b\r\n"), unreachable("nothing in time")),
    ];
    check(&http, &cases).await;
    for path in ["/a b", "/\r\nx: y"] {
        let question = question(&Probe::Http(path.to_owned()), false);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let answer = question.ask(listener.local_addr().expect("bound"), None).await;
        assert!(
            matches!(&answer, Answer::Unreachable(r) if r.contains("cannot be sent")),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn an_http_probe_of_an_http2_cluster_speaks_http2() {
    let http = question(&Probe::Http("/healthz".to_owned()), true);
    let (answer, request) = ask(&http, Act::Http2(200, None, None)).await;
    assert_eq!(answer, Answer::Passed);
    assert_eq!(request.as_deref(), Some("GET http://web.shop.svc/healthz None []"));
    let cases = [
        (Act::Http2(200, None, Some(b"body")), Answer::Passed),
        (Act::Http2(503, None, None), unhealthy("answered 503")),
        (Act::Say(b"HTTP/1.1 200 OK\r\n\r\n"), unreachable("")),
        (Act::Close, unreachable("")),
        (Act::Hang, unreachable("nothing in time")),
    ];
    check(&http, &cases).await;
}

#[tokio::test]
async fn a_grpc_probe_wants_serving() {
    const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
    let grpc = question(&Probe::Grpc, true);
    let (answer, request) = ask(&grpc, Act::Http2(200, Some("0"), Some(SERVING))).await;
    assert_eq!(answer, Answer::Passed);
    let expected = "POST http://web.shop.svc/grpc.health.v1.Health/Check \
                    Some(\"application/grpc\") [0, 0, 0, 0, 0]";
    assert_eq!(request.as_deref(), Some(expected));
    #[rustfmt::skip]
    let cases = [
        (Act::Http2(200, Some("0"), Some(&[0, 0, 0, 0, 2, 8, 2])), unhealthy("NOT_SERVING")),
        (Act::Http2(200, Some("0"), Some(&[0, 0, 0, 0, 2, 8, 3])), unhealthy("SERVICE_UNKNOWN")),
        (Act::Http2(200, Some("0"), Some(&[0, 0, 0, 0, 0])), unhealthy("neither SERVING nor NOT_SERVING")),
        (Act::Http2(200, Some("0"), Some(b"nonsense")), unhealthy("the health service's answer is malformed")),
        (Act::Http2(200, Some("0"), None), unhealthy("the health service's answer is malformed")),
        (Act::Http2(200, Some("0"), Some(&[0; 2000])), unhealthy("the health service's answer is too long")),
        (Act::Http2(200, Some("12"), None), unhealthy("no health service (UNIMPLEMENTED)")),
        (Act::Http2(200, Some("14"), Some(SERVING)), unhealthy("grpc-status 14")),
        (Act::Http2(200, None, Some(SERVING)), unhealthy("an answer without a grpc-status")),
        (Act::Http2(503, None, None), unhealthy("answered 503")),
        (Act::Say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), unreachable("")),
        (Act::Close, unreachable("")),
        (Act::Hang, unreachable("nothing in time")),
    ];
    check(&grpc, &cases).await;
}

#[test]
fn the_host_is_the_cluster_when_none_is_named() {
    let cluster = Cluster::new("shop/web:80".into(), Balancer::RoundRobin);
    assert_eq!(&*Question::new(&cluster, &Probe::Grpc).host, "shop/web:80");
}
