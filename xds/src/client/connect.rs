//! The connection to the control plane: TLS and proof of identity. Files are read at each try, so
//! that what was renewed counts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portolan_runtime::causes::innermost;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

/// Longest time for a connection, TLS included.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

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

/// Connects.
pub(super) async fn connect(endpoint: &Endpoint, tls: &ClientTls) -> Result<Channel, Status> {
    let failed = |reason: String| Status::unavailable(format!("cannot connect: {reason}"));
    let mut endpoint = endpoint.clone();
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
    // That of the endpoint is of TCP alone; a peer may be silent in the TLS handshake as well.
    match tokio::time::timeout(TIMEOUT, endpoint.connect()).await {
        Ok(connected) => connected.map_err(|e| failed(innermost(&e))),
        Err(_) => Err(failed(format!("no connection within {} s", TIMEOUT.as_secs()))),
    }
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
