//! TLS with clients and with endpoints: settings made of what the configuration says and the secrets
//! that it names, and handshakes by them.

mod client;
mod hello;
mod names;
mod server;

use std::sync::Arc;
use std::time::SystemTime;

use portolan_model::traffic::{ResourceName, Secret, TlsVersions};
use portolan_runtime::certificate;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, OtherError, RootCertStore, SupportedProtocolVersion};

pub(crate) use client::{Above, Dialer, Settings};
pub(crate) use hello::hello;
pub(crate) use server::{Terminators, accept};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn versions(versions: TlsVersions) -> &'static [&'static SupportedProtocolVersion] {
    use rustls::version::{TLS12, TLS13};
    static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];
    match versions {
        TlsVersions::Both => &BOTH,
        TlsVersions::Tls12 => &BOTH[1..],
        TlsVersions::Tls13 => &BOTH[..1],
    }
}

/// The authorities of a secret, if it is there.
fn roots(name: &ResourceName, secret: Option<&Arc<Secret>>) -> Result<Arc<RootCertStore>, String> {
    let Some(Secret::Authorities(pem)) = secret.map(|secret| &**secret) else {
        return Err(format!("no authorities {name}"));
    };
    let roots = certificate::authorities(pem);
    roots.map(Arc::new).map_err(|reason| format!("{name}: {reason}"))
}

/// The certificate of a secret, if it is there.
fn certified(
    name: &ResourceName,
    secret: Option<&Arc<Secret>>,
) -> Result<Arc<CertifiedKey>, String> {
    let Some(Secret::Certificate { chain, key, .. }) = secret.map(|secret| &**secret) else {
        return Err(format!("no certificate {name}"));
    };
    let certified = certificate::certified(chain, key);
    certified.map(Arc::new).map_err(|invalid| format!("{name}: {invalid}"))
}

/// Refuses a session that goes on when the time of the certificate that it began with is over: nobody
/// looks at that again. When it will be, where there is a certificate.
fn check_time(peer: Option<&CertificateDer<'_>>) -> Result<Option<SystemTime>, String> {
    let Some(certificate) = peer else { return Ok(None) };
    match certificate::not_after(certificate) {
        Some(end) if end >= SystemTime::now() => Ok(Some(end)),
        _ => Err("the time of the certificate that the session began with is over".to_owned()),
    }
}

/// Why a handshake failed.
fn why(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        // Reasons of our own are put away in there.
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(own)))) => {
            own.to_string()
        }
        _ => error.to_string(),
    }
}
