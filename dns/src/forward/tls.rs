//! What upstreams' certificates are checked against.

use std::sync::Arc;

use portolan_runtime::certificate;
use rustls::ClientConfig;

use crate::config::{ForwardConfig, Proto, UpstreamSpec};
use crate::error::DnsError;

/// The client's side of TLS; `None` when no upstream speaks it.
///
/// # Errors
/// A file of authorities that cannot be read, or no authority at all.
pub(super) fn client(config: &ForwardConfig) -> Result<Option<Arc<ClientConfig>>, DnsError> {
    let speaks_tls = |spec: &UpstreamSpec| match spec {
        UpstreamSpec::Server { proto, .. } => {
            matches!(proto, Proto::Tls { .. } | Proto::Https { .. })
        }
        UpstreamSpec::File(_) => false,
    };
    if !config.rules.iter().flat_map(|rule| &rule.upstreams).any(speaks_tls) {
        return Ok(None);
    }
    let roots = match &config.certificate_authorities {
        Some(path) => {
            let refuse = |reason| DnsError::File { path: path.clone(), reason };
            let pem = certificate::read_authorities(path).map_err(|e| refuse(e.reason))?;
            certificate::authorities(&pem).map_err(refuse)?
        }
        None => certificate::system_authorities().map_err(|_none| DnsError::NoAuthorities)?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(Arc::new(config)))
}
