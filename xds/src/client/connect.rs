//! A connection to the control plane, or to an agent on the machine: how it is made, TLS and proof of
//! identity, and what its end comes to. Files are read at each try, so that what was renewed counts.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use portolan_runtime::causes::innermost;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_util::either::Either;
use tokio_util::io::InspectReader;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};
use tonic::{Request, Status};
use tower::{Service as _, service_fn};

/// Longest time for a connection, TLS included.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// How long after its connection has ended the outcome of a call is waited for.
const GRACE: Duration = Duration::from_secs(1);

/// TLS of the client, used where the control plane's address begins with `https`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// Issuers that the control plane's certificate may be from, PEM.
    pub ca: Option<PathBuf>,
    /// Chain and key of the client's own certificate, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name the control plane's certificate has to be for; that of its address if unset.
    pub server_name: Option<String>,
}

/// A bearer token.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// Itself.
    Text(Arc<str>),
    /// The file it stands in, such as that of a service account.
    File(PathBuf),
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Token::Text"),
            Self::File(path) => f.debug_tuple("Token::File").field(path).finish(),
        }
    }
}

/// Where to connect to.
#[derive(Clone, Debug)]
pub(super) struct Target {
    endpoint: Endpoint,
    /// A socket in the file system that is connected to in place of the endpoint's host.
    socket: Option<PathBuf>,
}

/// The end of a connection.
#[derive(Debug)]
pub(super) struct Ended(CancellationToken);

impl Target {
    /// A URI, or `unix:` and a path.
    pub(super) fn new(address: &str) -> Result<Self, tonic::transport::Error> {
        let endpoint = Endpoint::from_shared(address.to_owned())?;
        let path =
            address.strip_prefix("unix:").map(|path| path.strip_prefix("//").unwrap_or(path));
        Ok(Self { endpoint, socket: path.map(PathBuf::from) })
    }

    /// The same for much that comes from far away: the connection is looked after, and has wide windows.
    pub(super) fn far(self) -> Self {
        let endpoint = self
            .endpoint
            .http2_keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 * 1024 * 1024)
            .initial_connection_window_size(4 * 1024 * 1024);
        Self { endpoint, ..self }
    }

    /// Makes one connection, and another never: a channel over it fails once it has ended.
    pub(super) async fn connect(&self, tls: &ClientTls) -> Result<(Channel, Ended), Status> {
        let failed = |reason: String| Status::unavailable(format!("cannot connect: {reason}"));
        let mut endpoint = self.endpoint.clone();
        if endpoint.uri().scheme_str() == Some("https") {
            let mut config = ClientTlsConfig::new();
            if let Some(ca) = &tls.ca {
                config = config.ca_certificate(Certificate::from_pem(read(ca)?));
            }
            if let Some((chain, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(read(chain)?, read(key)?));
            }
            if let Some(name) = &tls.server_name {
                config = config.domain_name(name.clone());
            }
            endpoint = endpoint.tls_config(config).map_err(|e| failed(innermost(&e)))?;
        }
        let ended = CancellationToken::new();
        let mut guard = Some(ended.clone().drop_guard());
        let socket = self.socket.clone();
        let dial = service_fn(move |uri| dial(uri, socket.clone(), guard.take()));
        // That of the socket is of TCP alone; a peer may be silent in the TLS handshake as well.
        match tokio::time::timeout(TIMEOUT, endpoint.connect_with_connector(dial)).await {
            Ok(Ok(channel)) => Ok((channel, Ended(ended))),
            Ok(Err(error)) => Err(failed(innermost(&error))),
            Err(_) => Err(failed(format!("no connection within {} s", TIMEOUT.as_secs()))),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.socket {
            Some(path) => write!(f, "unix:{}", path.display()),
            None => self.endpoint.uri().fmt(f),
        }
    }
}

impl Ended {
    /// What a call comes to; it fails with its connection, too. hyper may take a request from a channel
    /// whose connection ends at that moment, and never say anything of it.
    pub(super) async fn or<T>(
        &self,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let ended = async {
            self.0.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            biased;
            outcome = call => outcome,
            () = ended => Err(Status::unavailable("the connection has ended")),
        }
    }
}

/// A socket that lets go of the guard when it is closed.
async fn dial(
    uri: Uri,
    socket: Option<PathBuf>,
    guard: Option<DropGuard>,
) -> io::Result<TokioIo<impl AsyncRead + AsyncWrite + Send + Unpin + 'static>> {
    let guard = guard.ok_or_else(|| io::Error::other("the connection has ended"))?;
    let stream = match socket {
        Some(path) => Either::Left(UnixStream::connect(path).await?),
        None => {
            let mut connector = HttpConnector::new();
            connector.enforce_http(false);
            connector.set_nodelay(true);
            connector.set_connect_timeout(Some(TIMEOUT));
            let connected = connector.call(uri).await.map_err(io::Error::other)?;
            Either::Right(connected.into_inner())
        }
    };
    let held = InspectReader::new(stream, move |_: &[u8]| {
        let _held = &guard;
    });
    Ok(TokioIo::new(held))
}

/// What adds the token to requests.
pub(super) fn bearer(
    token: Option<&Token>,
) -> Result<impl FnMut(Request<()>) -> Result<Request<()>, Status> + Clone, Status> {
    let text = match token {
        None => None,
        Some(Token::Text(text)) => Some(text.to_string()),
        Some(Token::File(path)) => Some(String::from_utf8_lossy(&read(path)?).trim().to_owned()),
    };
    let value: Option<MetadataValue<Ascii>> = text
        .map(|text| format!("Bearer {text}").parse())
        .transpose()
        .map_err(|_| Status::unavailable("the token is no header value"))?;
    Ok(move |mut request: Request<()>| {
        if let Some(value) = &value {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Status> {
    std::fs::read(path).map_err(|e| Status::unavailable(format!("{}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use portolan_proto::envoy::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::{TcpListener, UnixListener};

    use super::*;

    /// What is accepted is closed once something was said: earlier, connecting itself may fail.
    async fn close_all<T: AsyncRead + Unpin, A>(
        came: &Cell<usize>,
        mut accept: impl AsyncFnMut() -> io::Result<(T, A)>,
    ) {
        while let Ok((mut stream, _)) = accept().await {
            came.set(came.get() + 1);
            stream.read_u8().await.expect("the preface");
        }
    }

    #[tokio::test]
    async fn a_call_that_nobody_answers_fails_with_its_connection() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("agent.sock");
        let agent = UnixListener::bind(&path).expect("a socket");
        let plane = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let plane_address = format!("http://{}", plane.local_addr().expect("bound"));
        let (of_agent, of_plane) = (Cell::new(0), Cell::new(0));
        let checked = async {
            fails(&format!("unix://{}", path.display()), &of_agent).await;
            fails(&plane_address, &of_plane).await;
        };
        tokio::select! {
            () = checked => {}
            () = close_all(&of_agent, async || agent.accept().await) => panic!("the agent ended"),
            () = close_all(&of_plane, async || plane.accept().await) => panic!("the plane ended"),
        }
    }

    async fn fails(address: &str, came: &Cell<usize>) {
        let target = Target::new(address).expect("an address");
        let (channel, ended) = target.connect(&ClientTls::default()).await.expect("accepted");
        let lost = ended.or(std::future::pending::<Result<(), Status>>()).await;
        assert_eq!(lost.expect_err("it ended").message(), "the connection has ended");
        // What is known of a call goes before.
        assert_eq!(ended.or(async { Ok(1) }).await.expect("known"), 1);
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        for _ in 0..3 {
            let requests = tokio_stream::pending();
            let refused = ended.or(client.stream_aggregated_resources(requests)).await;
            assert!(refused.is_err(), "{address}");
        }
        assert_eq!(came.get(), 1, "{address}: no other connection is made");
    }
}
