//! The built-in issuer: an authority on disk, and a certificate for each client that has proven who it
//! is, renewed long before its time is over.
//!
//! Owns the authority's key and which certificates are held. A certificate is held for as long as a
//! stream of its client is open. Keys are made here and go to their client alone.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use portolan_runtime::certificate::{CertificateError, Stamp, read_authorities};
use portolan_runtime::{Lifecycle, Metrics};
use prometheus_client::metrics::counter::Counter;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use tokio::sync::watch;

use crate::resource::secret::{encode_authorities, encode_certificate};
use crate::resource::{Encoded, ResourceType};

/// Name of the secret with a client's own certificate.
pub const OWN: &str = "portolan.dev/identity";
/// Name of the secret with the authorities that certificates of the trust domain end in.
pub const AUTHORITIES: &str = "portolan.dev/authorities";

/// Whether a resource is a client's own: not the same for two of them.
#[must_use]
pub fn is_own(kind: ResourceType, name: &str) -> bool {
    kind == ResourceType::Secret && matches!(name, OWN | AUTHORITIES)
}

/// The authority's certificates and its key, in its folder. The first certificate is the one that
/// issues; the others are trusted, too, so that one can follow another.
const CHAIN: &str = "ca.pem";
const KEY: &str = "ca.key";
/// How long an authority that is made here lasts.
const AUTHORITY_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
/// A certificate begins so long before it is issued: clocks differ.
const CLOCK_SKEW: Duration = Duration::from_mins(5);
/// A certificate is renewed when this part of its time is left, and up to so much of it before, so that
/// many are not renewed at once.
const LEFT: u32 = 3;
const SPREAD: u32 = 10;

/// What the issuer is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerConfig {
    /// The trust domain of the SPIFFE ids.
    pub trust_domain: String,
    /// Where its authority is: `ca.pem` and `ca.key`, made if there are none.
    pub folder: PathBuf,
    /// How long a certificate is good for.
    pub lifetime: Duration,
}

/// Issues certificates.
pub struct Issuer {
    config: IssuerConfig,
    authority: ArcSwap<Authority>,
    held: Mutex<HashMap<Arc<str>, Weak<Held>>>,
    changed: watch::Sender<u64>,
    /// Some of all could not be renewed when all had to be.
    unfinished: AtomicBool,
    issued: Counter,
    failures: Counter,
}

/// What certificates are issued by.
struct Authority {
    issuer: rcgen::Issuer<'static, KeyPair>,
    /// What follows an issued certificate in its chain: the issuing one, unless clients trust it itself.
    follows: String,
    /// The secret with all authorities.
    encoded: Encoded,
    seen: Stamp,
}

/// The certificate of a client.
pub struct Held {
    identity: Arc<str>,
    issued: ArcSwap<Issued>,
}

struct Issued {
    certificate: Encoded,
    authorities: Encoded,
    renew: SystemTime,
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer").field("config", &self.config).finish_non_exhaustive()
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is nobody's business.
        f.debug_tuple("Held").field(&self.identity).finish()
    }
}

impl Held {
    /// The secret of one of the two names.
    pub(crate) fn secret(&self, name: &str) -> Option<Encoded> {
        let issued = self.issued.load();
        match name {
            OWN => Some(issued.certificate.clone()),
            AUTHORITIES => Some(issued.authorities.clone()),
            _ => None,
        }
    }
}

impl Issuer {
    /// Reads the authority, or makes one where there is none.
    ///
    /// # Errors
    /// Files that cannot be read, written or used.
    pub fn open(config: IssuerConfig, metrics: &Metrics) -> Result<Arc<Self>, CertificateError> {
        let (chain, key) = (config.folder.join(CHAIN), config.folder.join(KEY));
        if !chain.exists() && !key.exists() {
            create(&config, &chain, &key)?;
            tracing::info!(chain = %chain.display(), "made an authority");
        }
        let authority = ArcSwap::from_pointee(Authority::read(&config.folder)?);
        let (issued, failures) = (Counter::default(), Counter::default());
        let name = "xds_identities_issued";
        metrics.register(name, "Certificates issued to clients", issued.clone());
        let name = "xds_identities_failed";
        metrics.register(
            name,
            "Certificates that could not be issued or renewed",
            failures.clone(),
        );
        let (held, changed) = (Mutex::default(), watch::Sender::new(0));
        let unfinished = AtomicBool::new(false);
        Ok(Arc::new(Self { config, authority, held, changed, unfinished, issued, failures }))
    }

    /// The trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.config.trust_domain
    }

    /// The certificate of an identity, a SPIFFE id; the same for all of its streams.
    pub(crate) fn hold(&self, identity: &str) -> Option<Arc<Held>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = held.get(identity).and_then(Weak::upgrade) {
            return Some(known);
        }
        let issued = self.issue(identity)?;
        let identity: Arc<str> = identity.into();
        let new = Arc::new(Held { identity: identity.clone(), issued: ArcSwap::new(issued) });
        held.insert(identity, Arc::downgrade(&new));
        Some(new)
    }

    /// Told whenever certificates were renewed.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Renews what is due, and follows the authority's files, until draining.
    pub async fn run(self: Arc<Self>, lifecycle: Lifecycle) {
        let every =
            (self.config.lifetime / 60).clamp(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = lifecycle.draining() => return,
            }
            let all = self.follow() | self.unfinished.swap(false, Ordering::Relaxed);
            if self.renew(all) {
                self.changed.send_modify(|number| *number += 1);
            }
        }
    }

    /// Takes the authority anew if its files have changed; whether it did.
    fn follow(&self) -> bool {
        let stamp = stamp(&self.config.folder);
        if self.authority.load().seen == stamp {
            return false;
        }
        match Authority::read(&self.config.folder) {
            Ok(authority) => {
                self.authority.store(Arc::new(authority));
                tracing::info!("the authority's files have changed: all certificates are renewed");
                true
            }
            // Half of a change, most likely: the other half changes the stamp again.
            Err(error) => {
                self.failures.inc();
                tracing::warn!(%error, "the authority stays as it was");
                false
            }
        }
    }

    /// Renews what is due, or `all`; whether there was anything.
    fn renew(&self, all: bool) -> bool {
        let now = SystemTime::now();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|_, known| known.strong_count() > 0);
        let known: Vec<Arc<Held>> = held.values().filter_map(Weak::upgrade).collect();
        drop(held);
        let mut any = false;
        for held in known.iter().filter(|held| all || held.issued.load().renew <= now) {
            // One that cannot be renewed is good for a while: it is tried again.
            if let Some(issued) = self.issue(&held.identity) {
                held.issued.store(issued);
                any = true;
            } else if all {
                self.unfinished.store(true, Ordering::Relaxed);
            }
        }
        any
    }

    fn issue(&self, identity: &str) -> Option<Arc<Issued>> {
        let authority = self.authority.load();
        let made = authority.issue(identity, self.config.lifetime);
        match made {
            Ok((chain, key)) => {
                self.issued.inc();
                let lifetime = self.config.lifetime;
                let early = jitter(lifetime / SPREAD);
                Some(Arc::new(Issued {
                    certificate: encode_certificate(OWN, chain.as_bytes(), key.as_bytes(), None),
                    authorities: authority.encoded.clone(),
                    renew: SystemTime::now() + (lifetime - lifetime / LEFT).saturating_sub(early),
                }))
            }
            Err(error) => {
                self.failures.inc();
                tracing::error!(identity, %error, "no certificate can be issued");
                None
            }
        }
    }
}

impl Authority {
    fn read(folder: &Path) -> Result<Self, CertificateError> {
        let (chain, key) = (folder.join(CHAIN), folder.join(KEY));
        let seen = stamp(folder);
        let refuse = |path: &Path, reason: String| CertificateError { path: path.into(), reason };
        let pem = read_authorities(&chain)?;
        let text = String::from_utf8_lossy(&pem).into_owned();
        let secret = std::fs::read_to_string(&key).map_err(|e| refuse(&key, e.to_string()))?;
        // What was read is not said.
        let pair = KeyPair::from_pem(&secret)
            .map_err(|_| refuse(&key, "it holds no key that can sign".to_owned()))?;
        portolan_runtime::certificate::certified(&pem, secret.as_bytes())
            .map_err(|invalid| refuse(&chain, invalid.to_string()))?;
        let first = first_certificate(&text);
        let issuer = rcgen::Issuer::from_ca_cert_pem(&first, pair)
            .map_err(|error| refuse(&chain, error.to_string()))?;
        let follows = if is_self_issued(&first) { String::new() } else { first };
        Ok(Self { issuer, follows, encoded: encode_authorities(AUTHORITIES, &pem), seen })
    }

    /// A chain and its key, PEM (SPIFFE X.509-SVID).
    fn issue(&self, identity: &str, lifetime: Duration) -> Result<(String, String), rcgen::Error> {
        let now = SystemTime::now();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.try_into()?)];
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + lifetime).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((format!("{}{}", certificate.pem(), self.follows), key.serialize_pem()))
    }
}

fn stamp(folder: &Path) -> Stamp {
    let files = [folder.join(CHAIN), folder.join(KEY)];
    Stamp::of(files.iter().map(PathBuf::as_path))
}

/// The first of several certificates, PEM.
fn first_certificate(pem: &str) -> String {
    const END: &str = "-----END CERTIFICATE-----";
    let end = pem.find(END).map_or(pem.len(), |at| at + END.len());
    format!("{}\n", &pem[..end])
}

/// Whether a certificate says that it has issued itself.
fn is_self_issued(pem: &str) -> bool {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    CertificateDer::from_pem_slice(pem.as_bytes())
        .is_ok_and(|der| portolan_runtime::certificate::is_self_issued(&der))
}

/// Makes an authority, and writes it so that nobody else can read its key.
fn create(config: &IssuerConfig, chain: &Path, key: &Path) -> Result<(), CertificateError> {
    let refuse = |path: &Path, reason: String| CertificateError { path: path.into(), reason };
    let made = || -> Result<(String, String), rcgen::Error> {
        let domain = &config.trust_domain;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("Portolan {domain}"));
        params.subject_alt_names =
            vec![SanType::URI(format!("spiffe://{domain}").as_str().try_into()?)];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let now = SystemTime::now();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + AUTHORITY_LIFETIME).into();
        let pair = KeyPair::generate()?;
        Ok((params.self_signed(&pair)?.pem(), pair.serialize_pem()))
    };
    let (pem, secret) = made().map_err(|error| refuse(chain, error.to_string()))?;
    std::fs::create_dir_all(&config.folder).map_err(|e| refuse(&config.folder, e.to_string()))?;
    let write = |path: &Path, text: &str, mode: u32| -> io::Result<()> {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    // One without the other is no authority: the next start says so.
    write(key, &secret, 0o600).map_err(|error| refuse(key, error.to_string()))?;
    write(chain, &pem, 0o644).map_err(|error| refuse(chain, error.to_string()))
}

/// A time of at most this.
fn jitter(most: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let number = RandomState::new().hash_one(0);
    most.mul_f64(f64::from(u32::try_from(number >> 32).unwrap_or(0)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use portolan_runtime::certificate::alternative_names;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;

    fn open(folder: &Path) -> Result<Arc<Issuer>, CertificateError> {
        let config = IssuerConfig {
            trust_domain: "test".to_owned(),
            folder: folder.to_owned(),
            lifetime: Duration::from_secs(3600),
        };
        Issuer::open(config, &Metrics::new())
    }

    #[test]
    fn an_authority_is_made_once_and_its_key_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new");
        let one = open(&path).expect("made");
        let mode = std::fs::metadata(path.join(KEY)).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let text = std::fs::read_to_string(path.join(CHAIN)).expect("there");
        let two = open(&path).expect("read");
        assert_eq!(one.authority.load().encoded.version, two.authority.load().encoded.version);
        assert_eq!(std::fs::read_to_string(path.join(CHAIN)).expect("there"), text);
        // One of the two alone is no authority, and is not overwritten.
        std::fs::remove_file(path.join(CHAIN)).expect("removed");
        let error = open(&path).expect_err("half").to_string();
        assert!(error.contains(CHAIN), "{error}");
    }

    #[test]
    fn an_identity_has_one_certificate_which_is_for_it_and_is_renewed() {
        let folder = tempfile::tempdir().expect("a folder");
        let issuer = open(folder.path()).expect("made");
        let id = "spiffe://test/ns/shop/sa/web";
        let held = issuer.hold(id).expect("issued");
        assert!(Arc::ptr_eq(&held, &issuer.hold(id).expect("held")));
        let (pem, _key) =
            issuer.authority.load().issue(id, Duration::from_secs(60)).expect("issued");
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        let names: Vec<String> =
            alternative_names(&der).into_iter().map(|(_, name)| name).collect();
        assert_eq!(names, [id]);
        assert_eq!(pem.matches("BEGIN").count(), 1, "clients trust who has issued it");
        let version = || held.secret(OWN).expect("there").version;
        let before = version();
        assert!(!issuer.renew(false), "it is good for a while");
        assert_eq!(version(), before);
        assert!(issuer.renew(true));
        assert_ne!(version(), before);
        drop(held);
        assert!(!issuer.renew(true), "nobody holds it any more");
    }

    #[test]
    fn a_new_authority_is_taken_and_half_of_one_is_not() {
        let (folder, other) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let issuer = open(folder.path()).expect("made");
        open(other.path()).expect("made");
        assert!(!issuer.follow());
        let mut later = Duration::ZERO;
        let mut copy = |name: &str| {
            let to = folder.path().join(name);
            std::fs::copy(other.path().join(name), &to).expect("copied");
            // Two writes within a tick of the file system's clock look alike.
            later += Duration::from_secs(1);
            let file = std::fs::File::options().write(true).open(&to).expect("there");
            file.set_modified(SystemTime::now() + later).expect("set");
        };
        copy(CHAIN);
        assert!(!issuer.follow(), "chain and key do not belong together");
        copy(KEY);
        assert!(issuer.follow());
        assert!(!issuer.follow());
    }
}
