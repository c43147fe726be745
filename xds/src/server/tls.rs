//! TLS of the server: certificate and trusted issuers from files, read anew when they change.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use portolan_runtime::Lifecycle;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// Files of the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub chain: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Issuers of clients' certificates, PEM; without it clients are asked for none.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub client_required: bool,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct TlsError {
    path: PathBuf,
    reason: String,
}

/// The settings in force; cheap to clone.
#[derive(Clone)]
pub(super) struct ServerTls {
    files: Arc<TlsFiles>,
    current: Arc<ArcSwap<ServerConfig>>,
    first: Vec<Option<SystemTime>>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads the files.
    pub(super) fn open(files: &TlsFiles) -> Result<Self, TlsError> {
        let first = stamp(files);
        let current = Arc::new(ArcSwap::from_pointee(read(files)?));
        Ok(Self { files: Arc::new(files.clone()), current, first })
    }

    /// Does the handshakes of new connections; those that are open stay as they are.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Follows the files until draining. What cannot be used leaves the last good ones in force.
    pub(super) async fn follow(&self, lifecycle: &Lifecycle) {
        let mut seen = self.first.clone();
        loop {
            tokio::select! {
                () = sleep(EVERY) => {}
                () = lifecycle.draining() => return,
            }
            let now = stamp(&self.files);
            if now == seen {
                continue;
            }
            seen = now;
            match read(&self.files) {
                Ok(config) => {
                    self.current.store(Arc::new(config));
                    tracing::info!(chain = %self.files.chain.display(), "a new xDS certificate");
                }
                // Half of a renewal, most likely: the other half changes the stamp again.
                Err(error) => tracing::warn!(%error, "the xDS certificate stays as it was"),
            }
        }
    }
}

fn stamp(files: &TlsFiles) -> Vec<Option<SystemTime>> {
    let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    [Some(&files.chain), Some(&files.key), files.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(modified)
        .collect()
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let refuse = |path: &Path, reason: String| TlsError { path: path.to_owned(), reason };
    let chain = certificates(&files.chain)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| refuse(&files.key, error.to_string()))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(&files.chain, error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| refuse(path, error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            let verifier =
                if files.client_required { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| refuse(path, error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| refuse(&files.key, error.to_string()))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = |reason: String| TlsError { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refuse(error.to_string()))?;
    if certificates.is_empty() {
        return Err(refuse("it holds no certificate".to_owned()));
    }
    Ok(certificates)
}

/// The URIs that the first certificate of a verified chain is for (RFC 5280 §4.2.1.6).
pub(super) fn identities(chain: &[CertificateDer<'_>]) -> Vec<String> {
    let Some(leaf) = chain.first() else { return Vec::new() };
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return Vec::new() };
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return Vec::new() };
    let uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    uris.collect()
}
