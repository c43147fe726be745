//! Authorities and what they issue, made anew by each test.

#![allow(dead_code, clippy::allow_attributes, reason = "each test target uses a part of it")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::support::foreign;

/// An authority.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    /// One of a name of its own: what it issues would look as if it had issued itself otherwise.
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("an authority") }
    }

    /// Its own certificate, PEM.
    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// What it says of a certificate of its own over OCSP (RFC 6960), DER: that it is good for a day, or
    /// revoked. `None` where there is no openssl.
    pub(crate) fn says(&self, of: &Issued, is_good: bool) -> Option<Vec<u8>> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let write = |name: &str, text: &str| std::fs::write(path(name), text).expect("written");
        write("ca.pem", &self.pem());
        write("ca.key", &self.issuer.key().serialize_pem());
        write("leaf.pem", &of.chain);
        let openssl = |args: &[&str]| {
            let mut openssl = foreign::program("openssl")?;
            let ran = openssl.current_dir(folder.path()).args(args).output().expect("it runs");
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            Some(String::from_utf8_lossy(&ran.stdout).into_owned())
        };
        let serial = openssl(&["x509", "-in", "leaf.pem", "-noout", "-serial"])?;
        let serial = serial.trim().trim_start_matches("serial=");
        let (state, since) = if is_good { ("V", "") } else { ("R", "250101000000Z") };
        write("index.txt", &format!("{state}\t491231235959Z\t{since}\t{serial}\tunknown\t/CN=x\n"));
        let args = "ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -issuer ca.pem -cert \
                    leaf.pem -respout said.der -ndays 1";
        openssl(&args.split_whitespace().collect::<Vec<_>>())?;
        Some(std::fs::read(path("said.der")).expect("written"))
    }

    /// A certificate for names: of a DNS name, or of a URI if it has a scheme.
    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |_| {})
    }

    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let mut params = CertificateParams::default();
        params.subject_alt_names = (names.iter())
            .map(|name| {
                let text = (*name).try_into().expect("ASCII");
                if name.contains("://") { SanType::URI(text) } else { SanType::DnsName(text) }
            })
            .collect();
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Issued { chain: certificate.pem(), key: key.serialize_pem() }
    }

    /// One whose time is over.
    pub(crate) fn issue_expired(&self, names: &[&str]) -> Issued {
        self.issue_with(names, |params| {
            params.not_before = (SystemTime::now() - Duration::from_secs(7200)).into();
            params.not_after = (SystemTime::now() - Duration::from_secs(3600)).into();
        })
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        roots
    }

    /// A client that trusts it, proves nothing, and offers these protocols.
    pub(crate) fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder().with_root_certificates(self.roots());
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = octets(alpn);
        Arc::new(config)
    }

    /// The same with a certificate.
    pub(crate) fn client_as(&self, own: &Issued, alpn: &[&str]) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder().with_root_certificates(self.roots());
        let config = builder.with_client_auth_cert(own.chain(), own.key());
        let mut config = config.expect("a pair");
        config.alpn_protocols = octets(alpn);
        Arc::new(config)
    }
}

impl Issued {
    fn chain(&self) -> Vec<CertificateDer<'static>> {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes());
        chain.collect::<Result<_, _>>().expect("PEM")
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("PEM")
    }

    /// A server with it that speaks these protocols; with authorities, to their clients alone.
    pub(crate) fn server(&self, clients: Option<&Authority>, alpn: &[&str]) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let verifier = WebPkiClientVerifier::builder(authority.roots().into());
                builder.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let config = builder.with_single_cert(self.chain(), self.key());
        let mut config = config.expect("a pair");
        config.alpn_protocols = octets(alpn);
        Arc::new(config)
    }
}

fn octets(alpn: &[&str]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.as_bytes().to_vec()).collect()
}
