//! The certificates of listeners as resources, encoded anew when their files change. What cannot be
//! used is not put in force: the last good one stays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portolan_runtime::certificate::{
    CertificateError, CertificateFiles, Pair, Stamp, look_again, read_authorities, read_staple,
};
use portolan_runtime::{Lifecycle, Metrics};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::watch;

use crate::config::CertificateSpec;
use crate::resource::{Encoded, secret};

/// Secrets by name.
pub type SecretSet = Arc<BTreeMap<Arc<str>, Encoded>>;

/// The secrets and the files they come from.
#[derive(Debug)]
pub struct Secrets {
    sources: Vec<Source>,
    sender: watch::Sender<SecretSet>,
    failures: Counter,
}

/// One secret's files, and when they were changed as they were last read.
#[derive(Debug)]
struct Source {
    name: Arc<str>,
    files: Files,
    seen: Stamp,
}

#[derive(Debug)]
enum Files {
    /// A chain and its key, and what the issuer says of it.
    Pair(CertificateFiles, Option<PathBuf>),
    Authorities(PathBuf),
}

/// A certificate that cannot be used from the start.
#[derive(Debug, thiserror::Error)]
#[error("certificate {name:?}: {source}")]
pub struct SecretError {
    name: Arc<str>,
    #[source]
    source: CertificateError,
}

impl Secrets {
    /// Reads them all, and says where they are found from then on.
    ///
    /// # Errors
    /// Files that cannot be read, or that do not belong together.
    pub fn open(
        certificates: &[CertificateSpec],
        metrics: &Metrics,
    ) -> Result<(Self, watch::Receiver<SecretSet>), SecretError> {
        let failures = Counter::default();
        metrics.register(
            "xds_certificate_errors",
            "Changes of certificates of listeners that could not be used",
            failures.clone(),
        );
        let (mut sources, mut secrets) = (Vec::new(), BTreeMap::new());
        for (name, files) in certificates.iter().flat_map(files) {
            let seen = files.stamp();
            let encoded = files.encode(&name);
            let encoded = encoded.map_err(|source| SecretError { name: name.clone(), source })?;
            secrets.insert(name.clone(), encoded);
            sources.push(Source { name, files, seen });
        }
        let (sender, receiver) = watch::channel(Arc::new(secrets));
        Ok((Self { sources, sender, failures }, receiver))
    }

    /// Follows the files until the process drains.
    pub async fn follow(mut self, lifecycle: Lifecycle) {
        while look_again(&lifecycle).await {
            self.look();
        }
    }

    /// Reads what changed.
    fn look(&mut self) {
        let mut changed = Vec::new();
        for source in &mut self.sources {
            let now = source.files.stamp();
            if now == source.seen {
                continue;
            }
            source.seen = now;
            match source.files.encode(&source.name) {
                Ok(encoded) => changed.push((source.name.clone(), encoded)),
                // Half of a renewal, most likely: the other half changes the stamp again.
                Err(error) => {
                    self.failures.inc();
                    tracing::warn!(certificate = %source.name, %error, "it stays as it was");
                }
            }
        }
        self.sender.send_if_modified(|secrets| {
            changed.retain(|(name, new)| secrets.get(name) != Some(new));
            if changed.is_empty() {
                return false;
            }
            let secrets = Arc::make_mut(secrets);
            for (name, encoded) in changed {
                tracing::info!(certificate = %name, "a new certificate");
                secrets.insert(name, encoded);
            }
            true
        });
    }
}

/// The secrets that a certificate makes.
fn files(spec: &CertificateSpec) -> impl Iterator<Item = (Arc<str>, Files)> {
    let pair = (spec.name.clone(), Files::Pair(spec.files.clone(), spec.ocsp.clone()));
    let authorities = spec
        .trusted_ca
        .clone()
        .map(|path| (secret::authorities_name(&spec.name), Files::Authorities(path)));
    std::iter::once(pair).chain(authorities)
}

impl Files {
    fn stamp(&self) -> Stamp {
        match self {
            Self::Pair(files, ocsp) => {
                let pair = [&*files.chain, &*files.key];
                Stamp::of(pair.into_iter().chain(ocsp.as_deref()))
            }
            Self::Authorities(path) => Stamp::of([path as &Path]),
        }
    }

    fn encode(&self, name: &str) -> Result<Encoded, CertificateError> {
        match self {
            Self::Pair(files, ocsp) => {
                let pair = Pair::read(files)?;
                // What is wrong with it is no reason to go without a certificate that was renewed.
                let ocsp = ocsp.as_deref().and_then(|path| {
                    let read = read_staple(path, &pair.certified);
                    let warn = |error: &CertificateError| {
                        tracing::warn!(certificate = name, %error, "nothing is stapled to it");
                    };
                    read.inspect_err(warn).ok()
                });
                let (chain, key) = (&pair.chain_pem, &pair.key_pem);
                Ok(secret::encode_certificate(name, chain, key, ocsp.as_deref()))
            }
            Self::Authorities(path) => {
                Ok(secret::encode_authorities(name, &read_authorities(path)?))
            }
        }
    }
}
