//! What upstreams' certificates are checked against.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

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
    let mut roots = RootCertStore::empty();
    match &config.certificate_authorities {
        Some(path) => {
            let refuse = |reason: String| DnsError::File { path: path.clone(), reason };
            let found = CertificateDer::pem_file_iter(path).map_err(|e| refuse(e.to_string()))?;
            for certificate in found {
                let certificate = certificate.map_err(|e| refuse(e.to_string()))?;
                roots.add(certificate).map_err(|e| refuse(e.to_string()))?;
            }
            if roots.is_empty() {
                return Err(refuse("it holds no certificate".to_owned()));
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "a certificate authority of the system was not read");
            }
            let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(DnsError::NoAuthorities);
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of both versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Some(Arc::new(config)))
}
