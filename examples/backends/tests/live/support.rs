//! A backend on a free port, and the little that tests need to talk to it.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use portolan_backends::call::{CallError, CallRequest, call};
use portolan_backends::{Identity, grpc, http, tcp};
use portolan_runtime::Lifecycle;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Longer than anything a test waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A backend; dropping it cuts it off.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) lifecycle: Lifecycle,
    task: JoinSet<Result<(), io::Error>>,
}

impl Running {
    fn start<F>(serve: impl FnOnce(TcpListener, Lifecycle) -> F) -> Self
    where
        F: Future<Output = Result<(), io::Error>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let lifecycle = Lifecycle::new();
        let mut task = JoinSet::new();
        task.spawn(serve(listener, lifecycle.clone()));
        Self { address, lifecycle, task }
    }

    pub(crate) fn http() -> Self {
        Self::start(|listener, life| http::serve(listener, Identity::new("web", "web-1"), life))
    }

    pub(crate) fn grpc() -> Self {
        let identity = Identity::new("greeter", "greeter-1");
        Self::start(|listener, life| grpc::serve(listener, identity, life))
    }

    pub(crate) fn tcp() -> Self {
        Self::start(|listener, life| tcp::serve(listener, Identity::new("db", "db-1"), life))
    }

    /// Waits for the end that draining or aborting brings.
    pub(crate) async fn ended(mut self) {
        let ended = tokio::time::timeout(PATIENCE, self.task.join_next()).await;
        ended.expect("in time").expect("one task").expect("no panic").expect("no error");
    }
}

/// Sends one request on a connection of its own and reads the whole answer.
pub(crate) async fn fetch(address: SocketAddr, request: Request<Full<Bytes>>) -> Response<Bytes> {
    let stream = TcpStream::connect(address).await.expect("a listener");
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
    let answer = async {
        let response = sender.send_request(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        Response::from_parts(parts, body)
    };
    tokio::select! {
        response = answer => response,
        ended = connection => panic!("the connection ended first: {ended:?}"),
    }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Response<Bytes> {
    let request = Request::get(path).header("host", "web.shop").body(Full::default());
    fetch(address, request.expect("a request")).await
}

pub(crate) fn json(response: &Response<Bytes>) -> serde_json::Value {
    serde_json::from_slice(response.body()).expect("JSON")
}

/// A call of this method with these messages and a generous deadline.
pub(crate) fn request(address: SocketAddr, method: &str, messages: &[&str]) -> CallRequest {
    CallRequest {
        target: address.to_string(),
        authority: None,
        method: Some(method.to_owned()),
        messages: messages.iter().map(|&m| m.to_owned()).collect(),
        deadline: PATIENCE,
        metadata: Vec::new(),
    }
}

/// What a call wrote, and how it ended.
pub(crate) async fn run(request: CallRequest) -> (String, Result<(), CallError>) {
    let mut out = Vec::new();
    let result = call(request, &mut out).await;
    (String::from_utf8(out).expect("text"), result)
}
