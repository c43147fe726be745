//! A certificate on disk: chain and key that belong together, read anew when their files change;
//! the last good pair stays in force.

mod names;
mod staple;

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::time::sleep;

pub use names::{alternative_names, is_self_issued, not_after};
pub use staple::{InvalidStaple, MAX_STAPLE, Staple};

use crate::Lifecycle;

/// How often files are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Largest file read, in octets: a bundle of every public authority takes a quarter.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

const NO_CERTIFICATE: &str = "it holds no certificate";

/// Files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub chain: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {reason}", path.display())]
pub struct CertificateError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Why a chain and a key cannot be used. Nothing of what was read is said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPair {
    /// The chain holds no certificate.
    #[error("the chain holds no certificate")]
    NoChain,
    /// The chain is not PEM.
    #[error("the chain is not PEM")]
    Chain,
    /// The key is no key in PEM.
    #[error("the key is no PEM key")]
    Key,
    /// They do not belong together, or the key is of no use.
    #[error("{0}")]
    Apart(String),
}

/// A chain and its key, as they stand in the files and as TLS uses them.
pub struct Pair {
    /// The chain's file.
    pub chain_pem: Vec<u8>,
    /// The key's file.
    pub key_pem: Vec<u8>,
    /// Both, checked to belong together.
    pub certified: CertifiedKey,
}

/// The certificate in force.
#[derive(Debug)]
pub struct Certificate {
    files: CertificateFiles,
    /// What the files were when they were first read.
    first: Stamp,
    current: ArcSwap<CertifiedKey>,
}

/// When files were last changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Vec<Option<SystemTime>>);

impl Stamp {
    /// When these were.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let modified = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
        Self(paths.into_iter().map(modified).collect())
    }
}

impl CertificateFiles {
    /// When both were last changed.
    #[must_use]
    pub fn stamp(&self) -> Stamp {
        Stamp::of([&*self.chain, &*self.key])
    }
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is nobody's business.
        f.debug_struct("Pair").field("chain", &self.certified.cert.len()).finish_non_exhaustive()
    }
}

impl Pair {
    /// Reads and checks the files.
    ///
    /// # Errors
    /// Files that cannot be read, or that do not belong together.
    pub fn read(files: &CertificateFiles) -> Result<Self, CertificateError> {
        let (chain_pem, key_pem) = (read(&files.chain)?, read(&files.key)?);
        let certified = certified(&chain_pem, &key_pem).map_err(|invalid| match invalid {
            InvalidPair::NoChain => refuse(&files.chain, NO_CERTIFICATE.to_owned()),
            InvalidPair::Chain => refuse(&files.chain, "it is not PEM".to_owned()),
            InvalidPair::Key => refuse(&files.key, "it holds no private key".to_owned()),
            InvalidPair::Apart(reason) => refuse(&files.key, reason),
        })?;
        Ok(Self { chain_pem, key_pem, certified })
    }
}

/// A chain and its key, both PEM, as TLS uses them.
///
/// # Errors
/// Which of them cannot be used, and why.
pub fn certified(chain: &[u8], key: &[u8]) -> Result<CertifiedKey, InvalidPair> {
    // What PEM's errors say may be a line of it.
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|_| InvalidPair::Chain)?;
    if chain.is_empty() {
        return Err(InvalidPair::NoChain);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| InvalidPair::Key)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let pair = CertifiedKey::from_der(chain, key, &provider);
    pair.map_err(|error| InvalidPair::Apart(error.to_string()))
}

/// Authorities, PEM, as TLS uses them; never none.
///
/// # Errors
/// What is no certificate, or that there is none.
pub fn authorities(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("holds no certificate".to_owned()) } else { Ok(roots) }
}

/// The authorities that the system trusts; never none.
///
/// # Errors
/// That there is none.
pub fn system_authorities() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a certificate authority of the system was not read");
    }
    let mut roots = RootCertStore::empty();
    let (_added, _ignored) = roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        Err("the system has no certificate authorities".to_owned())
    } else {
        Ok(roots)
    }
}

/// Reads a file with what the issuer of a certificate says of it (OCSP), DER; its octets.
///
/// # Errors
/// When it cannot be read, or is no answer about this certificate.
pub fn read_staple(path: &Path, certified: &CertifiedKey) -> Result<Vec<u8>, CertificateError> {
    let octets = read(path)?;
    let certificate =
        certified.cert.first().ok_or_else(|| refuse(path, NO_CERTIFICATE.to_owned()))?;
    Staple::read(&octets, certificate).map_err(|invalid| refuse(path, invalid.to_string()))?;
    Ok(octets)
}

/// Reads a file of authorities; its octets.
///
/// # Errors
/// When it cannot be read, or holds no certificate.
pub fn read_authorities(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let pem = read(path)?;
    certificates(path, &pem)?;
    Ok(pem)
}

/// Completes once it is time to look at files again; `false` once the process drains.
pub async fn look_again(lifecycle: &Lifecycle) -> bool {
    tokio::select! {
        () = sleep(EVERY) => true,
        () = lifecycle.draining() => false,
    }
}

/// Calls `reread` whenever files have changed, from when they were as `first` says until the process
/// drains.
pub async fn follow(
    first: Stamp,
    stamp: impl Fn() -> Stamp,
    lifecycle: &Lifecycle,
    mut reread: impl FnMut(),
) {
    let mut seen = first;
    while look_again(lifecycle).await {
        let now = stamp();
        if now != seen {
            seen = now;
            reread();
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let mut octets = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| refuse(path, error.to_string()))?;
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut octets)
        .map_err(|error| refuse(path, error.to_string()))?;
    if u64::try_from(octets.len()).is_ok_and(|length| length <= MAX_FILE_BYTES) {
        Ok(octets)
    } else {
        Err(refuse(path, format!("it is larger than {MAX_FILE_BYTES} octets")))
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| refuse(path, error.to_string()))?;
    if chain.is_empty() {
        return Err(refuse(path, NO_CERTIFICATE.to_owned()));
    }
    Ok(chain)
}

fn refuse(path: &Path, reason: String) -> CertificateError {
    CertificateError { path: path.to_owned(), reason }
}

impl Certificate {
    /// Reads it.
    ///
    /// # Errors
    /// Files that cannot be read, or that do not belong together.
    pub fn open(files: &CertificateFiles) -> Result<Arc<Self>, CertificateError> {
        let first = files.stamp();
        let current = ArcSwap::from_pointee(Pair::read(files)?.certified);
        Ok(Arc::new(Self { files: files.clone(), first, current }))
    }

    /// Follows the files until the process drains. `purpose` is what the certificate is for, in
    /// the log; `failures` counts changes that could not be used.
    pub async fn follow(&self, purpose: &'static str, failures: &Counter, lifecycle: &Lifecycle) {
        let stamp = || self.files.stamp();
        follow(self.first.clone(), stamp, lifecycle, || match Pair::read(&self.files) {
            Ok(pair) => {
                self.current.store(Arc::new(pair.certified));
                tracing::info!(purpose, chain = %self.files.chain.display(), "a new certificate");
            }
            // Half of a renewal, most likely: the other half changes the stamp again.
            Err(error) => {
                failures.inc();
                tracing::warn!(purpose, %error, "the certificate stays as it was");
            }
        })
        .await;
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}
