//! A certificate on disk, read anew when its files change; the last good one stays in force.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use portolan_runtime::Lifecycle;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::sleep;

use crate::config::CertificateFiles;
use crate::error::DnsError;
use crate::metrics::DnsMetrics;

/// How often the files are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// The certificate in force.
#[derive(Debug)]
pub(crate) struct Certificate {
    files: CertificateFiles,
    /// What the files were when they were first read.
    first: Stamp,
    current: ArcSwap<CertifiedKey>,
}

/// When both files were last changed.
type Stamp = [Option<SystemTime>; 2];

impl Certificate {
    /// Reads it.
    ///
    /// # Errors
    /// Files that cannot be read, or that do not belong together.
    pub(crate) fn open(files: &CertificateFiles) -> Result<Arc<Self>, DnsError> {
        let first = stamp(files);
        let current = ArcSwap::from_pointee(read(files)?);
        Ok(Arc::new(Self { files: files.clone(), first, current }))
    }

    /// Follows the files until the process drains.
    pub(crate) async fn follow(&self, metrics: &DnsMetrics, lifecycle: &Lifecycle) {
        let mut seen = self.first;
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
                Ok(certificate) => {
                    self.current.store(Arc::new(certificate));
                    tracing::info!(chain = %self.files.chain.display(), "a new dns certificate");
                }
                // Half of a renewal, most likely: the other half changes the stamp again.
                Err(error) => {
                    metrics.certificate_errors.inc();
                    tracing::warn!(%error, "the dns certificate stays as it was");
                }
            }
        }
    }
}

fn stamp(files: &CertificateFiles) -> Stamp {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    [modified(&files.chain), modified(&files.key)]
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(files: &CertificateFiles) -> Result<CertifiedKey, DnsError> {
    let refuse = |path: &Path, reason: String| DnsError::File { path: path.to_owned(), reason };
    let chain = CertificateDer::pem_file_iter(&files.chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refuse(&files.chain, error.to_string()))?;
    if chain.is_empty() {
        return Err(refuse(&files.chain, "it holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| refuse(&files.key, error.to_string()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider)
        .map_err(|error| refuse(&files.key, error.to_string()))
}
