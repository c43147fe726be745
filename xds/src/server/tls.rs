//! TLS of the server: certificate and trusted issuers from files, read anew when they change.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use portolan_model::traffic::NameKind;
use portolan_runtime::Lifecycle;
use portolan_runtime::certificate::{
    self, CertificateError, CertificateFiles, Pair, Stamp, read_authorities,
};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use tokio_rustls::TlsAcceptor;

/// Files of the server's TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's chain and key.
    pub certificate: CertificateFiles,
    /// Issuers of clients' certificates; without it clients are asked for none.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub client_required: bool,
}

/// The settings in force; cheap to clone.
#[derive(Clone)]
pub(super) struct ServerTls {
    files: Arc<TlsFiles>,
    current: Arc<ArcSwap<ServerConfig>>,
    first: Stamp,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl TlsFiles {
    fn stamp(&self) -> Stamp {
        let CertificateFiles { chain, key } = &self.certificate;
        Stamp::of([&**chain, &**key].into_iter().chain(self.client_ca.as_deref()))
    }
}

impl ServerTls {
    /// Reads the files.
    pub(super) fn open(files: &TlsFiles) -> Result<Self, CertificateError> {
        let first = files.stamp();
        let current = Arc::new(ArcSwap::from_pointee(read(files)?));
        Ok(Self { files: Arc::new(files.clone()), current, first })
    }

    /// Does the handshakes of new connections; those that are open stay as they are.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Follows the files until draining. What cannot be used leaves the last good ones in force.
    pub(super) async fn follow(&self, lifecycle: &Lifecycle) {
        let stamp = || self.files.stamp();
        certificate::follow(self.first.clone(), stamp, lifecycle, || match read(&self.files) {
            Ok(config) => {
                self.current.store(Arc::new(config));
                tracing::info!("a new certificate of the xDS server");
            }
            // Half of a renewal, most likely: the other half changes the stamp again.
            Err(error) => tracing::warn!(%error, "the xDS server's TLS stays as it was"),
        })
        .await;
    }
}

fn read(files: &TlsFiles) -> Result<ServerConfig, CertificateError> {
    let pair = Pair::read(&files.certificate)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let refuse = |path: &PathBuf, reason: String| CertificateError { path: path.clone(), reason };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(&files.certificate.chain, error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = certificate::authorities(&read_authorities(path)?)
                .map_err(|reason| refuse(path, reason))?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier =
                if files.client_required { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| refuse(path, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let certified = SingleCertAndKey::from(pair.certified);
    let mut config = builder.with_cert_resolver(Arc::new(certified));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The URIs that the first certificate of a verified chain is for (RFC 5280 §4.2.1.6).
pub(super) fn identities(chain: &[CertificateDer<'_>]) -> Vec<String> {
    let names = chain.first().map(certificate::alternative_names).unwrap_or_default();
    names.into_iter().filter(|(kind, _)| *kind == NameKind::Uri).map(|(_, name)| name).collect()
}
