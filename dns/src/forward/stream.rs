//! TCP and TLS to one upstream: connections kept for a while, one question at a time on each
//! (RFC 7766 §6.2.1, RFC 7858 §3.4).

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::{ExchangeError, Outgoing};
use crate::answer::Answer;

/// How long a connection is kept without a question (RFC 7766 §6.2.3: seconds, not minutes).
const IDLE: Duration = Duration::from_secs(8);

/// A connection of either kind.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Connections to one upstream that are not in use.
pub(super) struct Streams {
    dial: Dial,
    idle: Mutex<Vec<(Box<dyn Duplex>, Instant)>>,
    max_idle: usize,
}

/// How a connection is made.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) address: SocketAddr,
    pub(super) tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl std::fmt::Debug for Streams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Streams").field("address", &self.dial.address).finish_non_exhaustive()
    }
}

impl Dial {
    /// Over TLS when there is a name to expect, with these protocols offered (RFC 7301).
    pub(super) fn new(
        address: SocketAddr,
        tls: Option<(&Arc<rustls::ClientConfig>, ServerName<'static>)>,
        alpn: &[u8],
    ) -> Self {
        let tls = tls.map(|(config, name)| {
            let mut config = rustls::ClientConfig::clone(config);
            config.alpn_protocols = vec![alpn.to_vec()];
            (TlsConnector::from(Arc::new(config)), name)
        });
        Self { address, tls }
    }

    pub(super) async fn connect(&self) -> io::Result<Box<dyn Duplex>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await?)),
        }
    }
}

impl Streams {
    pub(super) fn new(dial: Dial, max_idle: usize) -> Self {
        Self { dial, idle: Mutex::default(), max_idle }
    }

    /// Asks and waits for the answer. A kept connection that turns out to be closed is no failure
    /// of the upstream: a new one is made.
    pub(super) async fn exchange(
        &self,
        query: &Outgoing,
        deadline: Instant,
    ) -> Result<Answer, ExchangeError> {
        let within = |result: Result<_, tokio::time::error::Elapsed>| match result {
            Ok(result) => result,
            Err(_elapsed) => Err(ExchangeError::Timeout),
        };
        while let Some(kept) = self.take() {
            match within(timeout_at(deadline, self.ask(kept, query)).await) {
                Err(ExchangeError::Io(_closed)) => {}
                other => return other,
            }
        }
        let fresh = async {
            let stream = self.dial.connect().await?;
            self.ask(stream, query).await
        };
        within(timeout_at(deadline, fresh).await)
    }

    async fn ask(
        &self,
        mut stream: Box<dyn Duplex>,
        query: &Outgoing,
    ) -> Result<Answer, ExchangeError> {
        let length = u16::try_from(query.bytes.len()).expect("a question is short");
        let message = [&length.to_be_bytes()[..], &query.bytes].concat();
        stream.write_all(&message).await?;
        stream.flush().await?;
        let length = stream.read_u16().await?;
        let mut response = vec![0; usize::from(length)];
        stream.read_exact(&mut response).await?;
        let answer = Answer::read(&query.bytes, query.question_end, &response)?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_idle {
            idle.push((stream, Instant::now() + IDLE));
        }
        drop(idle);
        Ok(answer)
    }

    fn take(&self) -> Option<Box<dyn Duplex>> {
        let now = Instant::now();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, until)| *until > now);
        idle.pop().map(|(stream, _)| stream)
    }
}
