//! A certificate for scripted upstreams, made once for all tests, and the file that names it as an
//! authority.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;

/// The name the certificate is for, besides 127.0.0.1.
pub(crate) const NAME: &str = "dns.example";

struct Made {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
    file: NamedTempFile,
}

fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let names = vec![NAME.to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).expect("valid names");
        let mut file = NamedTempFile::new().expect("a file");
        file.write_all(made.cert.pem().as_bytes()).expect("written");
        let key = made.signing_key.serialize_der();
        Made { chain: vec![made.cert.der().clone()], key, file }
    })
}

/// The file to name as `certificate_authorities`.
pub(crate) fn authorities() -> PathBuf {
    made().file.path().to_owned()
}

/// The server's side of TLS, agreeing to this protocol.
pub(crate) fn acceptor(alpn: &[u8]) -> TlsAcceptor {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made().key.clone()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the suites of both versions")
        .with_no_client_auth()
        .with_single_cert(made().chain.clone(), key)
        .expect("a certificate and its key");
    config.alpn_protocols = vec![alpn.to_vec()];
    TlsAcceptor::from(Arc::new(config))
}
