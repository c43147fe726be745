//! Whether a certificate is for whom it should be for.

use std::fmt;
use std::sync::Arc;

use portolan_model::traffic::NameMatch;
use portolan_runtime::certificate::alternative_names;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};

/// Most names of a certificate that stand in the reason for refusing it.
const SHOWN: usize = 4;

/// It is for somebody else.
#[derive(Debug)]
struct Stranger(String);

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Stranger {}

/// Whether one of a verified certificate's names is as one of these; if there are none, any is.
///
/// # Errors
/// Whom it is for instead.
pub(super) fn check(certificate: &CertificateDer<'_>, wanted: &[NameMatch]) -> Result<(), Error> {
    if wanted.is_empty() {
        return Ok(());
    }
    let names = alternative_names(certificate);
    if names.iter().any(|(kind, name)| wanted.iter().any(|wanted| wanted.fits(*kind, name))) {
        return Ok(());
    }
    let shown: Vec<&str> = names.iter().take(SHOWN).map(|(_, name)| &**name).collect();
    let shown = if shown.is_empty() { "nobody by name".to_owned() } else { shown.join(", ") };
    let reason = Stranger(format!("the certificate is for {}", shown.escape_default()));
    Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(reason)))))
}

/// Lets in clients whose certificates another verifier finds good and that are for whom they should
/// be for.
#[derive(Debug)]
pub(super) struct NamedClients {
    over: Arc<dyn ClientCertVerifier>,
    names: Vec<NameMatch>,
}

impl NamedClients {
    pub(super) fn over(
        over: Arc<dyn ClientCertVerifier>,
        names: &[NameMatch],
    ) -> Arc<dyn ClientCertVerifier> {
        if names.is_empty() { over } else { Arc::new(Self { over, names: names.to_vec() }) }
    }
}

impl ClientCertVerifier for NamedClients {
    fn offer_client_auth(&self) -> bool {
        self.over.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.over.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.over.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.over.verify_client_cert(end_entity, intermediates, now)?;
        check(end_entity, &self.names).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.over.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.over.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.over.supported_verify_schemes()
    }
}
