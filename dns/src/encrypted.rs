//! Encrypted DNS: TLS as its listeners speak it, and the listeners over HTTPS and QUIC.

pub(crate) mod https;
pub(crate) mod quic;

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ResolvesServerCert;

/// The server's side of TLS with one protocol to agree on (RFC 7301).
pub(crate) fn server_config(
    certificate: Arc<dyn ResolvesServerCert>,
    alpn: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("the provider has suites for both versions")
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}
