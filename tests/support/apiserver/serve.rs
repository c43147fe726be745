//! Owns the sockets: the server behind a listener, for clients in other processes.

use std::net::SocketAddr;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::ApiServer;

/// Connections open at a time; more wait to be accepted.
const CONNECTIONS: usize = 1024;

/// A server behind a listener. Dropping it breaks all connections off and soon frees the port.
#[derive(Debug)]
pub(crate) struct Serving {
    address: SocketAddr,
    tasks: JoinSet<()>,
}

impl Serving {
    pub(super) fn start(server: ApiServer, listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a listener is bound");
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(server, listener));
        Self { address, tasks }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The text of a kubeconfig file that leads here.
    pub(crate) fn kubeconfig(&self) -> String {
        serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{ "name": "fake", "cluster": { "server": self.url() } }],
            "users": [{ "name": "fake", "user": { "token": "fake" } }],
            "contexts": [{ "name": "fake", "context": { "cluster": "fake", "user": "fake" } }],
        })
        .to_string()
    }

    /// Breaks all connections off. The port is free when this returns.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn accept(server: ApiServer, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS => {
                // A peer that went away before it was accepted is no matter.
                if let Ok((stream, _)) = accepted {
                    connections.spawn(converse(server.clone(), stream));
                }
            }
        }
    }
}

async fn converse(server: ApiServer, stream: TcpStream) {
    // An event is a small write that must not wait for the next.
    stream.set_nodelay(true).expect("a connected socket");
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { server.handle(request).await }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    // How a connection ends is for its client to judge: scripted faults end it with an error.
    let _ended = connection.await;
}
