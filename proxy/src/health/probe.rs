//! One check of one endpoint: connect, ask, read what is needed of the answer.
//!
//! Owns what is asked and which answers mean "well"; each check has a connection of its own, so
//! that it also shows whether the endpoint takes new ones. Refuses to wait by itself (the caller
//! has the timeout) and to read more than a bounded head.

mod http1;
mod http2;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, uri::PathAndQuery};
use portolan_model::policy::Probe;
use portolan_model::traffic::{Cluster, UpstreamProtocol};
use tokio::net::TcpStream;

use super::threshold::Answer;
use crate::stream::Stream;
use crate::tls::{Above, Settings};

/// Most bytes read of an answer's head.
const MAX_HEAD: u32 = 16 << 10;
/// What health checks call themselves.
const USER_AGENT: &str = "portolan-health-check";
/// The status of a healthy answer.
const OK: u16 = 200;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("http/2: {0}")]
    Http2(#[from] h2::Error),
    #[error("closed before the answer's head was whole")]
    Closed,
    #[error("the answer's head is longer than {MAX_HEAD} bytes")]
    HeadTooLong,
    #[error("the answer is no HTTP/1")]
    NotHttp,
    #[error("the probe's path or host cannot be sent: {0}")]
    Unsendable(#[from] http::Error),
}

/// What an endpoint of a cluster is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    probe: Probe,
    host: Arc<str>,
    http2: bool,
}

impl Question {
    pub(super) fn new(cluster: &Cluster, probe: &Probe) -> Self {
        Self {
            probe: probe.clone(),
            host: Arc::clone(cluster.health_host.as_ref().unwrap_or(&cluster.name)),
            http2: cluster.upstream.protocol == UpstreamProtocol::Http2,
        }
    }

    /// Asks, within TLS if the cluster's endpoints are spoken to so.
    pub(super) async fn ask(&self, address: SocketAddr, tls: Option<&Settings>) -> Answer {
        let asked = async {
            let stream = TcpStream::connect(address).await?;
            let stream = match tls {
                None => Stream::Plain(stream),
                Some(tls) => tls.handshake(self.above(), stream, address.ip()).await?,
            };
            match &self.probe {
                Probe::Tcp => Ok(Answer::Passed),
                Probe::Http(path) => self.get(stream, path).await.map(by_status),
                Probe::Grpc => http2::check(stream, &self.host).await,
            }
        };
        asked.await.unwrap_or_else(|error: ProbeError| Answer::Unreachable(error.to_string()))
    }

    fn above(&self) -> Above {
        match &self.probe {
            Probe::Tcp => Above::Bytes,
            Probe::Http(_) if !self.http2 => Above::Http1,
            Probe::Http(_) | Probe::Grpc => Above::Http2,
        }
    }

    /// The status of the answer to a GET.
    async fn get(&self, stream: Stream, path: &str) -> Result<u16, ProbeError> {
        let path = PathAndQuery::try_from(path).map_err(http::Error::from)?;
        if self.http2 {
            http2::get(stream, &self.host, path).await
        } else {
            let host = HeaderValue::from_str(&self.host).map_err(http::Error::from)?;
            http1::get(stream, &host, &path).await
        }
    }
}

fn by_status(status: u16) -> Answer {
    if status == OK { Answer::Passed } else { Answer::Unhealthy(format!("answered {status}")) }
}

#[cfg(test)]
mod tests;
