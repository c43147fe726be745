//! SDS: certificates with their keys, and authorities, as Envoy takes them.
//!
//! An encoded secret holds the private key: it goes to clients that ask for it by name, and into
//! no log.

use std::sync::Arc;

use portolan_proto::envoy::core::{DataSource, data_source::Specifier};
use portolan_proto::envoy::tls::secret::Type;
use portolan_proto::envoy::tls::{CertificateValidationContext, Secret, TlsCertificate};

use super::Encoded;

/// The secret with the authorities of a certificate: `<name>/ca`.
#[must_use]
pub fn authorities_name(certificate: &str) -> Arc<str> {
    format!("{certificate}/ca").into()
}

/// Encodes a chain and its key, both PEM, and what its issuer says of it (OCSP), DER.
#[must_use]
pub fn encode_certificate(name: &str, chain: &[u8], key: &[u8], ocsp: Option<&[u8]>) -> Encoded {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(chain)),
        private_key: Some(inline(key)),
        ocsp_staple: ocsp.map(inline),
        ..TlsCertificate::default()
    };
    encode(name, Type::TlsCertificate(certificate))
}

/// Encodes authorities, PEM.
#[must_use]
pub fn encode_authorities(name: &str, authorities: &[u8]) -> Encoded {
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(authorities)),
        ..CertificateValidationContext::default()
    };
    encode(name, Type::ValidationContext(context))
}

fn encode(name: &str, content: Type) -> Encoded {
    Encoded::new(name, &Secret { name: name.to_owned(), r#type: Some(content) })
}

fn inline(octets: &[u8]) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(octets.to_vec())), ..DataSource::default() }
}
